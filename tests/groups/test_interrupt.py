"""Ctrl-C in the main thread: it cancels the group that is open there and leaves as KeyboardInterrupt."""

from __future__ import annotations

import re
import signal
import socket

import pytest
from support import finish, handler_during, interrupt, is_parked, program, run_program, until

from plait import Limiter, ThreadGroup, offload
from plait._core import WaitReason, current_thread

BODIES = {
    "join": "pass",
    "sleep": "time.sleep(3600)",
    "result": "futures[0].result()",
    "lock": "lock.acquire()",
    "event": "threading.Event().wait()",
    "queue": "queue.Queue().get()",
    "pipe": "os.read(reader, 1)",
    "socket": "ours.recv(1)",
    "select": "select.select([reader], [], [])",
    "slot": "full.spawn(int)",
    "send": "plait.Channel(0).send(1)",
    "recv": "plait.Channel(0).recv()",
    "choose": "plait.select(plait.Channel(0), futures[0])",
    "choose-descriptor": "plait.select(plait.Channel(0), reader)",
    "computing": "[None for _ in iter(int, 1)]",
}


@pytest.mark.parametrize("body", BODIES)
def test_interrupt_in_the_body_cancels_the_children(body):
    """Wherever the body waits, Ctrl-C cancels the children, which clean up, and KeyboardInterrupt leaves the block."""
    with program(f"""
        import os, queue, select, socket, sys, threading, time, plait
        from plait._core import current_thread
        reader, writer = os.pipe()
        ours, theirs = socket.socketpair()
        lock = threading.Lock()
        lock.acquire()
        main = current_thread()
        full = plait.ThreadGroup(max_concurrency=1)

        def work(n):
            try:
                time.sleep(3600)
            finally:
                time.sleep(0.01)
                os.write(1, b"cleaned up %d\\n" % n)

        def tell():
            while {body != "computing"} and (main.waits_for is None or not main.is_waiting()):
                time.sleep(0.001)
            print("ready", flush=True)

        try:
            with plait.ThreadGroup() as group, full:
                futures = [group.spawn(work, n) for n in range(3)]
                full.spawn(time.sleep, 3600)
                while any(future.waits_for is None for future in futures):
                    time.sleep(0.001)
                group.spawn(tell)
                {BODIES[body]}
        except KeyboardInterrupt as error:
            print("left with", type(error).__name__, all(future.cancelled() for future in futures), flush=True)
            raise
    """) as process:
        assert process.stdout.readline() == "ready\n"
        if body == "computing":
            process.send_signal(signal.SIGINT)
        else:
            interrupt(process)
        out, err = finish(process)
    assert sorted(out.splitlines()) == [
        "cleaned up 0",
        "cleaned up 1",
        "cleaned up 2",
        "left with KeyboardInterrupt True",
    ]
    assert process.returncode == -signal.SIGINT, err


def test_interrupt_that_comes_with_the_wake():
    """A Ctrl-C that arrives together with what the main thread waits for is raised, and nothing hangs."""
    out, _ = run_program("""
        import os, signal, threading, time, plait
        from plait._core import current_thread
        caught = 0
        for _ in range(5):
            gate = threading.Event()
            main = current_thread()
            def give():
                while not (main.waits_for and main.is_waiting()):
                    time.sleep(0)
            try:
                with plait.ThreadGroup() as group:
                    future = group.spawn(give)
                    future.add_done_callback(lambda f: os.kill(os.getpid(), signal.SIGINT))
                    future.result()
            except KeyboardInterrupt:
                caught += 1
        with plait.ThreadGroup() as group:
            print(caught, group.spawn(int).result())
    """)
    assert out == "5 0\n"


def test_interrupt_is_raised_in_the_main_thread_alone():
    """KeyboardInterrupt is raised in the main thread alone (I10): a virtual thread gets Cancelled."""
    with program("""
        import sys, time, plait
        def work():
            print("ready", flush=True)
            try:
                while True:
                    time.sleep(0)
            except BaseException as error:
                print(type(error).__name__, flush=True)
                raise
        with plait.ThreadGroup() as group:
            group.spawn(work)
    """) as process:
        assert process.stdout.readline() == "ready\n"
        interrupt(process)
        out, _ = finish(process)
    assert out == "Cancelled\n"
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("where", ["shield", "cleanup"])
def test_second_interrupt_has_no_patience(where):
    """A second Ctrl-C ends shields and every grace, and says who is waited for."""
    with program(f"""
        import time, plait
        def work():
            try:
                if {where == "cleanup"}:
                    time.sleep(3600)
            finally:
                with plait.shield(timeout=3600):
                    while True:
                        try:
                            print("patient\\n", end="", flush=True)  # in one piece, beside another
                            time.sleep(3600)
                        except plait.Cancelled:
                            print("hurried", flush=True)
                            raise
        with plait.ThreadGroup(name="mine", grace=3600) as group:
            child = group.options(name="stubborn").spawn(work)
            while child.waits_for is None:
                time.sleep(0.001)
            print("ready", flush=True)
    """) as process:
        seen = {process.stdout.readline().strip() for _ in range(1 if where == "cleanup" else 2)}
        interrupt(process)
        if where == "cleanup":
            assert process.stdout.readline() == "patient\n"
        interrupt(process)
        out, err = finish(process)
    assert seen == ({"ready"} if where == "cleanup" else {"ready", "patient"})
    assert out == "hurried\n"
    assert process.returncode == -signal.SIGINT
    assert "<ThreadGroup 'mine'> was cancelled (KeyboardInterrupt), and has waited" in err
    assert "'stubborn', spawned at " in err
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_third_interrupt_leaves_a_join_that_hangs():
    """A child that comes to no cancel point holds the block until Ctrl-C has come three times."""
    with program("""
        import os, time, plait
        is_over = []
        def work():
            print("at work", flush=True)
            while not is_over:
                pass
        try:
            with plait.ThreadGroup() as group:
                group.spawn(work)
        except KeyboardInterrupt:
            print("left", flush=True)
            os._exit(0)
    """) as process:
        assert process.stdout.readline() == "at work\n"
        for _ in range(2):
            interrupt(process)
        line = process.stderr.readline()
        assert "was cancelled (KeyboardInterrupt), and has waited" in line
        interrupt(process)
        out, err = finish(process)
    assert out == "left\n"
    assert process.returncode == 0, err


@pytest.mark.parametrize("inner", ["with plait.ThreadGroup() as group: group.spawn(work)", "plait.gather(work)"])
def test_third_interrupt_leaves_all_blocks(inner):
    """The count goes on in the blocks around: the third Ctrl-C leaves them all, whatever it has come in."""
    with program(f"""
        import os, time, plait
        is_over = []
        def work():
            print("at work", flush=True)
            while not is_over:
                pass
        try:
            with plait.ThreadGroup() as outer:
                outer.spawn(work)
                with plait.timeout(3600), plait.ThreadGroup() as middle:
                    middle.spawn(work)
                    {inner}
        except KeyboardInterrupt:
            print("left", flush=True)
            os._exit(0)
    """) as process:
        assert process.stdout.readline() == "at work\n"
        for _ in range(2):
            interrupt(process)
        line = process.stderr.readline()
        # On another carrier the first child may be at work before the body has come to its end.
        assert re.search(r"was cancelled \((the body failed: )?KeyboardInterrupt\), and has waited", line)
        interrupt(process)
        out, err = finish(process)
    assert out.endswith("left\n")
    assert process.returncode == 0, err


def test_second_interrupt_hurries_the_blocks_around():
    """Who has no patience with the children of an inner block has none with those of the blocks around."""
    with program("""
        import os, time, plait
        def work():
            try:
                time.sleep(3600)
            finally:
                print("cleans up", flush=True)
                time.sleep(3600)
        def outer_work():
            try:
                time.sleep(3600)
            finally:
                with plait.shield(timeout=3600):
                    time.sleep(3600)
        try:
            with plait.ThreadGroup(grace=3600) as outer:
                other = outer.spawn(outer_work)
                with plait.ThreadGroup() as inner:
                    child = inner.spawn(work)
                    while child.waits_for is None or other.waits_for is None:
                        time.sleep(0.001)
                    print("ready", flush=True)
        except KeyboardInterrupt:
            print("left", other.cancelled(), flush=True)
    """) as process:
        assert process.stdout.readline() == "ready\n"
        interrupt(process)
        assert process.stdout.readline() == "cleans up\n"
        interrupt(process)
        out, err = finish(process)
    assert out == "left True\n", err
    assert process.returncode == 0, err


PATIENT = """
        import os, signal, sys, time, plait
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(3))
        def work(number):
            if number:
                with plait.shield(timeout=3600):
                    print("patient\\n", end="", flush=True)  # in one piece, beside another
                    time.sleep(3600)
            return 1
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("around", ["plait.ThreadGroup()", "plait.timeout(3600)"])
def test_second_interrupt_has_no_patience_with_a_pmap(around, number):
    """Who is in a step of an iterator is in no block of it: the second says for whom it waits all the same, and hurries them."""
    with program(f"""{PATIENT}
        try:
            with {around}:
                list(plait.pmap(work, [1, 2]))
        except BaseException as error:
            print(type(error).__name__, flush=True)
    """) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["patient\n"] * 2
        for _ in range(2):
            interrupt(process, number)
        out, err = finish(process)
    kind = "KeyboardInterrupt" if number == signal.SIGINT else "SystemExit"
    assert out == f"{kind}\n", err
    assert f"<ThreadGroup 'pmap'> was cancelled ({kind}), and has waited" in err
    assert " for 2 threads to end." in err
    assert "work-1', spawned at " in err


def test_third_interrupt_leaves_a_pmap():
    """Calls that come to no cancel point hold an iterator until Ctrl-C has come three times."""
    with program("""
        import os, time, plait
        is_over = []
        def work(_):
            print("at work", flush=True)
            while not is_over:
                pass
        try:
            list(plait.pmap(work, [1]))
        except KeyboardInterrupt:
            print("left", flush=True)
            os._exit(0)
    """) as process:
        assert process.stdout.readline() == "at work\n"
        for _ in range(2):
            interrupt(process)
        assert "<ThreadGroup 'pmap'> was cancelled (KeyboardInterrupt), and has waited" in process.stderr.readline()
        interrupt(process)
        out, err = finish(process)
    assert out == "left\n", err
    assert process.returncode == 0, err


@pytest.mark.parametrize(
    "program_of_two",
    [
        "with plait.ThreadGroup() as group: group.spawn(work, 1) and list(plait.pmap(work, [2]))",
        "list(plait.pmap(work, plait.pmap(work, [0, 1])))",
        "list(plait.pmap(work, (number for number in (1, 2) if number == 1 or plait.gather(lambda: work(1)))))",
    ],
)
def test_count_of_interrupts_goes_on_around_a_pmap(program_of_two):
    """The count goes with the exception, out of iterators and into them: two of them hurry all."""
    with program(f"""{PATIENT}
        try:
            {program_of_two}
        except KeyboardInterrupt:
            print("left", flush=True)
    """) as process:
        assert [process.stdout.readline() for _ in range(2)] == ["patient\n"] * 2
        for _ in range(2):
            interrupt(process)
        out, err = finish(process)
    assert out == "left\n", err
    assert process.returncode == 0, err


def test_interrupt_while_a_pmap_is_closed():
    """It waits for the calls, and leaves `close` then."""
    with program(f"""{PATIENT}
        begun = []
        results = plait.pmap(lambda number: begun.append(number) or work(number), [0, 1])
        next(results)
        while len(begun) < 2:
            time.sleep(0.001)
        try:
            with plait.ThreadGroup(grace=3600):
                print("closes", flush=True)
                results.close()
        except KeyboardInterrupt as error:
            print("left", error.__context__.__class__.__name__, flush=True)
    """) as process:
        assert {process.stdout.readline() for _ in range(2)} == {"patient\n", "closes\n"}
        for _ in range(2):
            interrupt(process)
        out, err = finish(process)
    assert out == "left GeneratorExit\n", err
    assert "was cancelled (its iterator was closed), and has waited" in err


def test_interrupt_that_was_handled_does_not_count():
    """A Ctrl-C that left an inner block and was caught is not counted with the next one."""
    with program("""
        import os, time, plait
        def work():
            try:
                time.sleep(3600)
            finally:
                print("cleans up", flush=True)
                time.sleep(0.01)
        with plait.ThreadGroup() as outer:
            child = outer.spawn(work)
            try:
                with plait.ThreadGroup() as inner:
                    while inner.spawn(lambda: child.waits_for is None).result():
                        pass
                    print("ready", flush=True)
                    inner.spawn(work)
                    time.sleep(3600)
            except KeyboardInterrupt:
                pass
            raise KeyboardInterrupt
    """) as process:
        assert process.stdout.readline() == "ready\n"
        interrupt(process)
        out, err = finish(process)
    assert out == "cleans up\n" * 2
    assert process.returncode == -signal.SIGINT, err


def test_interrupt_in_the_body_is_the_first():
    """One that came in the body counts: the next, during the join, is the second."""
    with program("""
        import time, plait
        def work():
            with plait.shield(timeout=3600):
                print("patient", flush=True)
                time.sleep(3600)
        with plait.ThreadGroup() as group:
            group.spawn(work)
            time.sleep(3600)
    """) as process:
        assert process.stdout.readline() == "patient\n"
        interrupt(process)
        interrupt(process)
        _, err = finish(process)
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_handled_interrupt_in_the_body_goes_on():
    """A KeyboardInterrupt that the body handles does not concern the group."""
    with program("""
        import time, plait
        with plait.ThreadGroup() as group:
            child = group.spawn(time.sleep, 0.2)
            try:
                print("ready", flush=True)
                time.sleep(3600)
            except KeyboardInterrupt:
                print("handled", flush=True)
        print(child.cancelled())
    """) as process:
        assert process.stdout.readline() == "ready\n"
        interrupt(process)
        out, _ = finish(process)
    assert out == "handled\nFalse\n"
    assert process.returncode == 0


def test_signal_handlers_run_in_the_main_thread_while_it_joins():
    """Other signals' handlers run in the main thread while it waits at the end of a block, which goes on."""
    with program("""
        import signal, threading, time, plait
        gate = threading.Event()
        def handler(number, frame):
            print("handled in", threading.current_thread().name, flush=True)
            gate.set()
        signal.signal(signal.SIGUSR1, handler)
        def work():
            print("ready", flush=True)
            gate.wait()
            return 1
        with plait.ThreadGroup() as group:
            future = group.spawn(work)
        print(future.result())
    """) as process:
        assert process.stdout.readline() == "ready\n"
        interrupt(process, signal.SIGUSR1)
        out, _ = finish(process)
    assert out == "handled in MainThread\n1\n"


# `strike(call)`: call it with a Ctrl-C that has come and not been raised yet. Nothing here is Python code, so the first
# that is, at the latest the wait, raises it.
STRIKE = """
        import _thread, functools, operator, os, queue, signal, threading, time, plait
        from plait._core import current_thread, runtime

        def both(first, second):
            return functools.partial(any, map(operator.methodcaller("__call__"), [first, second]))

        def strike(call):
            try:
                both(_thread.interrupt_main, call)()
            except KeyboardInterrupt:
                return True
            return False

        def parked(thread):
            while thread.waits_for is None or not thread.is_waiting():
                time.sleep(0)
            return thread
"""


def test_interrupt_between_the_spawn_and_the_wake():
    """A Ctrl-C that comes after a child was queued and before its carrier was woken: it is woken."""
    out, _ = run_program(
        f"""{STRIKE}
        [idler] = [carrier.idler for carrier in runtime.carriers]
        wake = idler._wake
        times = 0
        while times < 3:
            idler._wake = both(_thread.interrupt_main, wake)
            try:
                with plait.ThreadGroup() as group:
                    group.spawn(int)
            except KeyboardInterrupt:
                times += 1
            finally:
                idler._wake = wake
            assert not len(group)
        print("ended")
    """,
        PLAIT_CARRIERS=1,
    )
    assert out == "ended\n"


WAKES = {
    "lock": ("lock.acquire(); lock.release()", "lock.acquire()", "lock.release"),
    "rlock": ("with rlock: pass", "rlock.acquire()", "rlock.release"),
    "simple-queue": ("line.get()", "pass", "functools.partial(line.put, 1)"),
}


@pytest.mark.parametrize("kind", ["virtual", "platform"])
@pytest.mark.parametrize("name", WAKES)
def test_interrupt_between_a_release_and_the_wake(name, kind):
    """A Ctrl-C that comes while the main thread gives something back: whoever waits for it is told."""
    wait, before, give = WAKES[name]
    out, _ = run_program(f"""{STRIKE}
        lock, rlock, line = threading.Lock(), threading.RLock(), queue.SimpleQueue()
        who = []

        def waiter():
            who.append(current_thread())
            {wait}

        def on_platform():
            with plait.ThreadGroup():
                waiter()

        with plait.ThreadGroup(grace=3600):
            {before}
            if {kind == "virtual"}:
                join = plait.spawn(waiter).result
            else:
                thread = threading.Thread(target=on_platform)
                thread.start()
                join = thread.join
            while not who:
                time.sleep(0)
            parked(who[0])
            print(strike({give}))
            join()
    """)
    assert out == "True\n"


def test_interrupt_just_before_a_wait():
    """A Ctrl-C that comes just before the main thread blocks is raised, and its waits can be cancelled as before."""
    out, _ = run_program(f"""{STRIKE}
        try:
            with plait.ThreadGroup() as group:
                print(strike(functools.partial(time.sleep, 3600)))
                main = current_thread()
                def fail():
                    parked(main)
                    raise ValueError
                group.spawn(fail)
                time.sleep(3600)
        except ExceptionGroup as error:
            print(error.exceptions)
    """)
    assert out == "True\n(ValueError(),)\n"


def test_interrupt_at_the_end_of_the_block():
    """A Ctrl-C that comes as the block ends cancels the children, and they end before it leaves."""
    out, _ = run_program(f"""{STRIKE}
        group = plait.ThreadGroup().__enter__()
        child = parked(group.spawn(time.sleep, 3600))
        print(strike(functools.partial(group.__exit__, None, None, None)), child.cancelled(), current_thread().scope)
    """)
    assert out == "True True None\n"


def test_interrupt_as_gather_opens_its_block():
    """A Ctrl-C that comes just as `gather` has opened its block: the block is left, with its children."""
    out, _ = run_program(f"""{STRIKE}
        runtime.on_start.append(_thread.interrupt_main)  # in the midst of opening it
        try:
            plait.gather(functools.partial(time.sleep, 3600))
        except KeyboardInterrupt:
            print(current_thread().scope)
    """)
    assert out == "None\n"


@pytest.mark.parametrize("body", ["pass", "os.read(reader, 1)", "gate.wait()"], ids=["join", "pipe", "event"])
@pytest.mark.parametrize("wait", ["done.result()", "waiting.result()", "os.read(other, 1)"])
def test_signal_handler_that_waits(body, wait):
    """A handler may wait in the middle of a wait of the main thread, which goes on after it."""
    with program(f"""
        import os, signal, threading, plait
        reader, writer = os.pipe()
        other, feed = os.pipe()
        os.write(feed, b"x")
        gate, late = threading.Event(), threading.Event()
        def handler(signum, frame):
            plait.spawn(late.set)
            {wait}
            print("handled", flush=True)
            plait.spawn(finish)
        def finish():
            os.write(writer, b"x")
            gate.set()
        signal.signal(signal.SIGUSR1, handler)
        with plait.ThreadGroup() as group:
            done, waiting = group.spawn(int), group.spawn(late.wait)
            done.result()
            group.spawn(gate.wait)
            print("ready", flush=True)
            {body}
        print("over")
    """) as process:
        assert process.stdout.readline() == "ready\n"
        interrupt(process, signal.SIGUSR1)
        out, err = finish(process)
    assert out == "handled\nover\n", err


def wait_for_a_worker():
    main = current_thread()
    assert offload(lambda: until(lambda: is_parked(main, WaitReason.OFFLOAD))) is True


def wait_for_a_slot():
    limiter = Limiter(1)
    limiter.acquire()
    assert not limiter.acquire(timeout=0.001)


def wait_for_a_descriptor():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"y")
        assert ours.recv(1) == b"y"


@pytest.mark.parametrize("wait", [wait_for_a_worker, wait_for_a_slot, wait_for_a_descriptor])
def test_handler_that_waits_while_the_descriptor_of_the_outer_wait_is_ready(wait):
    """What the main thread waits for does not end the wait of a signal handler in the middle of that."""
    main = current_thread()
    ours, theirs = socket.socketpair()

    def handle():
        theirs.send(b"x")
        before = main.park_count
        wait()
        assert main.park_count - before < 3

    with ours, theirs, ThreadGroup(), handler_during(WaitReason.READABLE, handle):
        assert ours.recv(1) == b"x"
