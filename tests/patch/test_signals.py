"""`signal.sigwait`, `sigwaitinfo`, `sigtimedwait` and `pause`, in programs that block signals before they start threads."""

import platform
import signal

import pytest
from patch.helpers import described, on_virtual, run_python
from support import NO_GIL

PRELUDE = """
import os, signal, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
import plait
from plait import ThreadGroup

def parked(*threads):
    while not all(thread.waits_for and thread.is_waiting() for thread in threads):
        time.sleep(0.001)

def send(number):
    os.kill(os.getpid(), number)
"""


def run(code):
    return run_python(PRELUDE + _dedent(code)).split()


def _dedent(code):
    lines = code.splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


def test_each_signal_has_one_taker():
    """Signals sent to the process are taken once each, by those who wait for them."""
    out = run(
        """
        with ThreadGroup() as group:
            waits = {
                "sigwait": group.spawn(signal.sigwait, {signal.SIGUSR1}),
                "sigwaitinfo": group.spawn(signal.sigwaitinfo, [signal.SIGUSR2]),
            }
            parked(*waits.values())
            late = group.spawn(signal.sigtimedwait, {signal.SIGUSR1, signal.SIGUSR2}, 0.02)
            assert late.result() is None
            send(signal.SIGUSR2)
            info = waits["sigwaitinfo"].result()
            assert not waits["sigwait"].done()
            send(signal.SIGUSR1)
            print(waits["sigwait"].result().name, info.si_signo == signal.SIGUSR2, info.si_pid == os.getpid())
            timed = group.spawn(signal.sigtimedwait, {signal.SIGUSR1}, 60)
            parked(timed)
            send(signal.SIGUSR1)
            print(timed.result().si_signo == signal.SIGUSR1)
            send(signal.SIGUSR1)
            print(group.spawn(signal.sigwait, {signal.SIGUSR1}).result().name)
        print(signal.sigpending())
        """
    )
    assert out == ["SIGUSR1", "True", "True", "True", "SIGUSR1", "set()"]


def test_cancelled_wait_leaves_the_signal():
    """A signal that comes after the cancel is still pending; so is one that a cancelled thread meets on entry."""
    out = run(
        """
        def cancelled():
            group.cancel()
            signal.sigwait({signal.SIGUSR1})
        with ThreadGroup() as group:
            waits = [group.spawn(signal.sigwait, {signal.SIGUSR1}) for _ in range(5)]
            parked(*waits)
            for wait in waits:
                wait.cancel()
        send(signal.SIGUSR1)
        with ThreadGroup() as group:
            late = group.spawn(cancelled)
        print(late.cancelled(), signal.SIGUSR1 in signal.sigpending())
        """
    )
    assert out == ["True", "True"]


def test_body_on_the_main_thread():
    """In a group's body a wait for a signal takes it, is interrupted by a failure, and lets handlers run."""
    out = run(
        """
        def hit(*_):
            print("handled")
        signal.signal(signal.SIGALRM, hit)
        with ThreadGroup() as group:
            timer = group.spawn(lambda: (time.sleep(0.02), send(signal.SIGALRM), time.sleep(0.05), send(signal.SIGUSR1)))
            print(signal.sigwait({signal.SIGUSR1}).name)
        try:
            with ThreadGroup() as group:
                group.spawn(lambda: (time.sleep(0.02), 1 / 0))
                signal.sigwaitinfo({signal.SIGUSR1})
        except* ZeroDivisionError:
            print("interrupted")
        """
    )
    assert out == ["handled", "SIGUSR1", "interrupted"]


def test_pause_on_the_main_thread():
    """In a group's body `pause` returns when a handler has run, raises what that raises, and leaves the wake-up as it was."""
    out = run(
        """
        import socket
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        handled = []
        def hit(*_):
            handled.append(1)
            if len(handled) > 1:
                raise ValueError
        signal.signal(signal.SIGALRM, hit)
        for wakeup in (-1, near.fileno()):
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
            handled.clear()
            with ThreadGroup() as group:
                group.spawn(lambda: (time.sleep(0.05), send(signal.SIGALRM)))
                signal.pause()
                print(len(handled))
            try:
                with ThreadGroup() as group:
                    group.spawn(lambda: (time.sleep(0.05), send(signal.SIGALRM)))
                    signal.pause()
            except* ValueError:
                print("raised")
            assert signal.set_wakeup_fd(-1) == wakeup
        print(far.recv(10) == bytes([signal.SIGALRM] * 2))
        """
    )
    assert out == ["1", "raised"] * 2 + ["True"]


def test_pause_that_is_disturbed():
    """A wait of the main thread may end early; `pause` goes on then, until there was a signal."""
    out = run(
        """
        from plait._core import current_thread
        signal.signal(signal.SIGALRM, lambda *_: print("handled"))
        me = current_thread()
        def disturb():
            parked(me)
            parks = me.park_count
            me.nudge()
            while me.park_count == parks:
                time.sleep(0.001)
            print("parked")
            send(signal.SIGALRM)
        with ThreadGroup() as group:
            group.spawn(disturb)
            signal.pause()
            print("over")
        """
    )
    assert out == ["parked", "handled", "over"]


def test_pause_on_a_virtual_thread():
    """It waits until a signal is handled on the kernel thread that pauses for all of them."""
    out = run(
        """
        signal.signal(signal.SIGUSR2, lambda *_: None)
        with ThreadGroup() as group:
            before = set(os.listdir("/proc/self/task"))
            waits = [group.spawn(signal.pause) for _ in range(5)]
            parked(*waits)
            waits[0].cancel()
            while not waits[0].done() or len(new := set(os.listdir("/proc/self/task")) - before) != 1:
                time.sleep(0.001)
            print(waits[0].cancelled(), sum(wait.done() for wait in waits))
            for wait in waits:
                wait.cancel()
        """
    )
    assert out == ["True", "1"]


@pytest.mark.skipif(NO_GIL, reason="only the GIL keeps the thread that pauses for all from running")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls have other numbers here")
def test_pause_after_a_signal():
    """A signal that came before the call does not end it, though the thread that pauses for all has not run since."""
    out = run(
        """
        import ctypes, sys
        libc = ctypes.PyDLL(None)  # keeps the GIL
        PAUSE = b"34"
        signal.signal(signal.SIGUSR2, lambda *_: None)
        sys.setswitchinterval(100)
        def threads():
            return set(os.listdir("/proc/self/task"))
        def call_of(thread):  # the system call that it is in
            fd = libc.open(f"/proc/self/task/{thread}/syscall".encode(), os.O_RDONLY)
            text = ctypes.create_string_buffer(200)
            libc.read(fd, text, 199)
            libc.close(fd)
            return text.value.split()[0]
        def late(thread):
            libc.tgkill(os.getpid(), int(thread), signal.SIGUSR2)
            while call_of(thread) in (PAUSE, b"running"):
                pass
            signal.pause()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        with ThreadGroup() as group:
            before = threads()
            early = group.spawn(signal.pause)
            parked(early)
            while not (new := threads() - before):
                time.sleep(0.001)
            (thread,) = new
            while call_of(thread) != PAUSE:
                time.sleep(0.001)
            second = group.spawn(late, thread)
            early.result()
            while not second.done() and not (second.park_count > 1 and second.waits_for):
                time.sleep(0.001)
            print(second.done())
            second.cancel()
        """
    )
    assert out == ["False"]


def test_refusals():
    """Signals that do not exist, and times that have passed, are refused in the same words."""
    calls = [
        lambda: signal.sigwait({0}),
        lambda: signal.sigwait({999}),
        lambda: signal.sigwait(5),
        lambda: signal.sigwait(["x"]),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, -1),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, "x"),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, 0),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, 1e30),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, float("inf")),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, float("nan")),
        lambda: signal.sigwaitinfo(),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, 1e20),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, 2**63),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, float("inf")),
        lambda: signal.sigtimedwait({signal.SIGRTMIN}, float("nan")),
    ]
    for call in calls:
        assert on_virtual(described, call) == described(call)
