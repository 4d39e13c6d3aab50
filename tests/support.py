"""What the tests share: waiting for states instead of for time, and running programs of their own."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager

from plait import ThreadGroup, _native
from plait._core import VirtualThread, current_thread
from plait._originals import monotonic, sleep

PATIENCE = 20.0  # seconds after which a state that does not come is a failure
NO_GIL = not getattr(sys, "_is_gil_enabled", lambda: True)()


def until(predicate, what="the state waited for"):
    """Wait until `predicate()` is true, from a platform or a virtual thread. No cancel point, and no luck involved."""
    limit = monotonic() + PATIENCE
    me = _native.current()
    while not (found := predicate()):
        if monotonic() > limit:
            raise AssertionError(f"{what} has not come about within {PATIENCE} seconds")
        if isinstance(me, VirtualThread):
            me.yield_now()
        else:
            sleep(0.0002)
    return found


def is_parked(thread, reason=None):
    """Whether `thread`, a future or a platform thread's record, has announced a wait, for `reason` if one is given."""
    waits_for = thread.waits_for
    return waits_for is not None and (reason is None or waits_for is reason) and thread.is_waiting()


def wait_parked(thread, reason=None):
    """Wait until `thread` is parked; the thread."""
    until(lambda: is_parked(thread, reason), f"{thread!r} parked for {reason}")
    return thread


def run_in_vthread(fn, /, *args, **kwargs):
    """What `fn(*args, **kwargs)` returns on a virtual thread; what it raises, as it is."""
    with ThreadGroup() as group:
        future = group.spawn(_outcome, fn, args, kwargs)
    error, result = future.result()
    if error is not None:
        raise error
    return result


def _outcome(fn, args, kwargs):
    try:
        return None, fn(*args, **kwargs)
    except BaseException as error:
        return error, None


def run_anywhere(where, fn, /, *args):
    """`fn(*args)` on a thread of the kind `where`: "main", "platform" or "virtual"."""
    if where == "main":
        return fn(*args)
    if where == "virtual":
        return run_in_vthread(fn, *args)
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(_outcome(fn, args, {})))
    thread.start()
    thread.join()
    error, result = outcome[0]
    if error is not None:
        raise error
    return result


@contextmanager
def platform_thread(fn, /, *args):
    """`fn(*args)` on a platform thread for the length of the block, which gets a list for its outcome."""
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(_outcome(fn, args, {})))
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@contextmanager
def handler_during(reason, handle, times=1):
    """Inside the block, `handle()` is called by a signal handler in the middle of waits of the main thread for `reason`."""
    main = current_thread()
    calls = []

    def on_signal(number, frame):
        if len(calls) < times:
            calls.append(number)
            handle()

    def strike():
        # Again and again: CPython notices one that comes just before the thread blocks only when it wakes.
        if is_parked(main, reason):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        return len(calls) == times

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        with platform_thread(until, strike, "the handler was called") as outcome:
            yield
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert outcome[0][0] is None, outcome


@contextmanager
def handler_everywhere(handle):
    """Inside the block, `handle()` is called at each function of Python that the calling thread calls or leaves.

    As a signal handler, or a finalizer that the collector runs, might be.
    """

    def hook(frame, event, arg):
        sys.setprofile(None)
        try:
            handle()
        finally:
            sys.setprofile(hook)

    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)


def me():
    """The calling thread as the core sees it."""
    return current_thread()


@contextmanager
def program(code, **env):
    """A program that uses plait, running for the length of the block at most; its process, with pipes."""
    full = {**os.environ, "PYTHONUNBUFFERED": "1", **{name: str(value) for name, value in env.items()}}
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=full,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def interrupt(process, number=signal.SIGINT):
    """Send a signal to a program whose main thread is blocked in the kernel.

    CPython notices a signal that comes just before a thread blocks only when it wakes, so this waits until the main
    thread has slept through two looks. Who waits for the GIL does not: it wakes every 5 ms.
    """
    status = f"/proc/{process.pid}/task/{process.pid}/status"

    def look():
        with open(status) as file:
            return [line for line in file if line.startswith(("State", "voluntary_ctxt"))]

    def is_blocked():
        before = look()
        sleep(0.02)
        return before == look() and before[0].split()[1] == "S"

    until(is_blocked, "the main thread of the program blocked")
    process.send_signal(number)


def run_program(code, *, status=0, seconds=20, **env):
    """Run a program that uses plait to its end: (stdout, stderr). Its status must be `status`."""
    with program(code, **env) as process:
        out, err = finish(process, seconds)
    assert process.returncode == status, f"status {process.returncode}\n{out}\n{err}"
    return out, err


def finish(process, seconds=20):
    """Wait for a program's end; one that hangs is asked for its stacks, and fails the test."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        raise AssertionError(f"the program hangs\n{out}\n{err}") from None


def collect(is_gone):
    """Wait until `is_gone()`, collecting garbage meanwhile."""

    def attempt():
        gc.collect()
        return is_gone()

    until(attempt, "garbage collected")


def descriptors():
    """The open descriptors of this process, with what they lead to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that lists them
            continue
    return found
