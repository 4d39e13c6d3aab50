"""Fork in a program that uses plait leaves a child that works."""

from __future__ import annotations

import textwrap

import pytest
from support import run_program

pytestmark = pytest.mark.stress

PRELUDE = """
import os, queue, sys, threading, time, warnings, plait
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads

def work_again():
    \"\"\"In the child: groups, waits, cancellation, locks and pipes all work.\"\"\"
    lock = threading.Lock()
    reader, writer = os.pipe()
    def locked(n):
        with lock:
            time.sleep(0.0005)
            return n
    with plait.ThreadGroup(max_concurrency=3) as group:
        read = group.spawn(os.read, reader, 5)
        futures = [group.spawn(locked, n) for n in range(10)]
        os.write(writer, b"hello")
    assert read.result() == b"hello"
    assert [future.result() for future in futures] == list(range(10))
    with plait.move_on_after(0.01) as scope:
        time.sleep(60)
    assert scope.cancelled_caught
    try:
        with plait.ThreadGroup() as group:
            sibling = group.spawn(time.sleep, 60)
            time.sleep(0.001)
            group.spawn(lambda: 1 / 0)
    except ExceptionGroup as error:
        assert sibling.cancelled()
    else:
        raise AssertionError("no failure")

def fork():
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work_again()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)

def wait(pid):
    limit = time.monotonic() + 15
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            os.kill(pid, 6)
            os.waitpid(pid, 0)
            return "hangs"
        time.sleep(0.001)

def park_all(group):
    gate = threading.Event()
    reader, writer = os.pipe()
    waits = [(time.sleep, 3600), (gate.wait,), (queue.SimpleQueue().get,), (os.read, reader, 1)]
    futures = [group.spawn(*wait) for wait in waits * 5]
    while not all(future.waits_for and future.is_waiting() for future in futures):
        time.sleep(0.001)
    return futures
"""


def run(code, **env):
    out, err = run_program(textwrap.dedent(PRELUDE) + textwrap.dedent(code), seconds=50, **env)
    return out.split(), err


CARRIERS = pytest.mark.parametrize("carriers", [1, 4])


@CARRIERS
def test_fork_before_anything_runs(carriers):
    """A fork before the first spawn is nothing special."""
    assert run("print(wait(fork()))", PLAIT_CARRIERS=carriers)[0] == ["0"]


@CARRIERS
def test_fork_on_the_main_thread(carriers):
    """Forked while threads are parked in another thread's group; the parent's threads go on."""
    out, _ = run(
        """
        ready = threading.Event()
        def body():
            with plait.ThreadGroup() as group:
                futures = park_all(group)
                ready.set()
                time.sleep(3600)
        with plait.ThreadGroup() as group:
            child = group.spawn(body)
            ready.wait()
            group.cancel()
        thread_ready = threading.Event()
        go = threading.Event()
        def other():
            with plait.ThreadGroup() as group:
                park_all(group)
                thread_ready.set()
                go.wait()
                group.cancel()
        thread = threading.Thread(target=other)
        thread.start()
        thread_ready.wait()
        for _ in range(5):
            print(wait(fork()))
        go.set()
        thread.join()
        work_again()
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"] * 5


@CARRIERS
def test_fork_inside_a_groups_body(carriers):
    """Forked inside a group's body on the main thread, with children parked in it."""
    out, _ = run(
        """
        with plait.ThreadGroup() as group:
            futures = park_all(group)
            for _ in range(3):
                print(wait(fork()))
            print(any(future.done() for future in futures))
            group.cancel()
        work_again()
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"] * 3 + ["False"]


@CARRIERS
def test_group_that_was_open_at_the_fork_can_be_used(carriers):
    """In the child the group whose body has forked is empty, with all its slots, and ends as a group does."""
    out, _ = run(
        """
        with plait.ThreadGroup(max_concurrency=1) as group:
            parked = group.spawn(time.sleep, 3600)
            while not parked.waits_for:
                time.sleep(0.001)
            pid = os.fork()
            if not pid:
                try:
                    with plait.move_on_after(5) as scope:
                        assert len(group) == 0
                        assert group.available == 1
                        assert group.spawn(int).result() == 0
                    os._exit(7 if scope.cancelled_caught else 0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            print(wait(pid))
            group.cancel()
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"]


@CARRIERS
def test_fork_inside_a_virtual_thread(carriers):
    """Forked inside a virtual thread, with others parked and runnable on its carrier."""
    out, _ = run(
        """
        def forker():
            with plait.ThreadGroup() as inner:
                inner.spawn(time.sleep, 3600)
                time.sleep(0.001)
                codes = [wait(fork()) for _ in range(3)]
                inner.cancel()
            return codes
        with plait.ThreadGroup() as group:
            futures = park_all(group)
            spinner_stops = []
            def spin():
                while not spinner_stops:
                    time.sleep(0)
            group.spawn(spin)
            print(*group.spawn(forker).result())
            spinner_stops.append(1)
            group.cancel()
        work_again()
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"] * 3


@CARRIERS
def test_nothing_of_the_parents_threads_runs_in_the_child(carriers):
    """The parent's parked threads do not exist in the child: no clean-up of theirs runs there."""
    words, err = run(
        """
        import gc
        def park():
            try:
                time.sleep(3600)
            finally:
                os.write(2, b"clean-up in %d\\n" % os.getpid())
        def forker():
            with plait.ThreadGroup() as mine:
                other = mine.spawn(park)
                while not other.waits_for:
                    time.sleep(0.001)
                pid = os.fork()
                if not pid:
                    del other
                    work_again()
                    gc.collect()
                    os._exit(0)
                status = wait(pid)
                mine.cancel()
            return pid, status
        with plait.ThreadGroup() as group:
            parked = [group.spawn(park) for _ in range(3)]
            print(*group.spawn(forker).result(), *forker())
            group.cancel()
        """,
        PLAIT_CARRIERS=carriers,
    )
    pids, codes = words[::2], words[1::2]
    assert codes == ["0", "0"]
    assert not [line for line in err.splitlines() if line.rpartition(" ")[2] in pids], err


@CARRIERS
def test_end_of_the_thread_that_has_forked_wakes_nobody_of_the_parent(carriers):
    """Who waits for its outcome, or for the end of its group, does so in the parent alone."""
    words, err = run(
        """
        def fork():
            while [other and other.waits_for and other.waits_for.name for other in (asker, owner)] != ["FUTURE", "GROUP"]:
                time.sleep(0.001)
            pid = os.fork()
            if not pid:
                def leave():
                    for _ in range(200):  # the others on this carrier, if there were any, would run
                        time.sleep(0)
                    os._exit(0)
                plait.spawn(leave)
            return pid
        def own():
            global forker
            with plait.ThreadGroup(timeout=3600) as group:
                forker = group.spawn(fork)
            os.write(2, b"owner in %d\\n" % os.getpid())
        def ask():
            while not forker:
                time.sleep(0.001)
            pid = forker.result()
            os.write(2, b"asker in %d\\n" % os.getpid())
            return pid, wait(pid)
        asker = owner = forker = None
        with plait.ThreadGroup() as group:
            asker, owner = group.spawn(ask), group.spawn(own)
        print(os.getpid(), *asker.result())
        """,
        PLAIT_CARRIERS=carriers,
    )
    parent, _, code = words
    assert code == "0"
    assert {line.rpartition(" ")[2] for line in err.splitlines()} == {parent}, err


@CARRIERS
@pytest.mark.parametrize("whom", ["parked", "group"])
def test_cancel_in_the_child_wakes_nobody_of_the_parent(carriers, whom):
    """A future or a group of the parent's that is cancelled in the child: its threads are not there, and stay parked."""
    words, err = run(
        f"""
        def park():
            try:
                time.sleep(3600)
            finally:
                os.write(2, b"clean-up in %d\\n" % os.getpid())
        def fork():
            while parked is None or not parked.waits_for:
                time.sleep(0.001)
            pid = os.fork()
            if pid:
                return pid, wait(pid)
            {whom}.cancel()
            for _ in range(200):
                time.sleep(0)
            os._exit(0)
        parked = None
        forker = plait.spawn(fork)
        with plait.ThreadGroup() as group:
            parked = group.spawn(park)
            print(os.getpid(), *forker.result())
            group.cancel()
        """,
        PLAIT_CARRIERS=carriers,
    )
    parent, _, code = words
    assert code == "0"
    assert {line.rpartition(" ")[2] for line in err.splitlines()} == {parent}, err


@CARRIERS
def test_group_of_the_parents_in_the_child(carriers):
    """It holds the thread that has forked, and has the slots that nobody there has: it can be spawned into."""
    out, _ = run(
        """
        def fork():
            while not parked.waits_for:
                time.sleep(0.001)
            pid = os.fork()
            if pid:
                return wait(pid)
            assert (len(group), group.available) == (0, 1), (len(group), group.available)
            assert group.spawn(int).result() == 0
            try:
                group.spawn(lambda: 1 / 0)
                time.sleep(3600)
            except plait.Cancelled as told:
                os._exit("ZeroDivisionError" not in told.reason)
        with plait.ThreadGroup(max_concurrency=2) as group:
            parked = group.spawn(time.sleep, 3600)
            forker = group.spawn(fork)
            print(forker.result())
            group.cancel()
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"]


@CARRIERS
@pytest.mark.parametrize(
    ("block", "wait", "end"),
    [
        ("plait.ThreadGroup() as block", "block.spawn(time.sleep, 3600)", "block.cancel()"),
        ("plait.ThreadGroup() as block", "block.spawn(time.sleep, 3600)", "pid and block.cancel()"),
        ("plait.move_on_after(3600) as block", "threading.Event().wait()", "block.reschedule(0.02)"),
        ("plait.move_on_after(3600) as block", "os.read(os.pipe()[0], 1)", "block.reschedule(0.02)"),
    ],
)
def test_fork_by_a_signal_handler(carriers, block, wait, end):
    """The wait of the main thread, in whose middle a handler has forked, goes on in the child, and ends there."""
    out, err = run(
        f"""
        import signal
        def fork(*args):
            global is_struck, pid
            if not is_struck:
                is_struck = True
                pid = os.fork()
                {end}
        def strike():
            while not is_struck:
                if is_inside and me.waits_for:
                    signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.001)
        signal.signal(signal.SIGUSR1, fork)
        main, me = threading.main_thread().ident, plait._core.current_thread()
        is_struck = is_inside = False
        threading.Thread(target=strike).start()
        with {block}:
            is_inside = True
            {wait}
        if not pid:
            work_again()
            os._exit(0)
        print(wait(pid))
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"], err


@CARRIERS
def test_ring_of_a_platform_thread_is_heard_in_its_own_process(carriers):
    """A thread that waits for descriptors is woken through one more; in the child that is another than in the parent."""
    out, _ = run(
        """
        import select
        me = plait._core.current_thread()
        reader, writer = os.pipe()
        def write():
            while not me.waits_for:
                time.sleep(0.001)
            os.write(writer, b"now there is a bell")
        with plait.ThreadGroup() as group:
            group.spawn(write)
            os.read(reader, 1)
        pid = os.fork()
        if not pid:
            os.eventfd_write(me._wakeup, 1)
            os._exit(0)
        print(wait(pid), select.select([me._wakeup], [], [], 0)[0])
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0", "[]"]


@CARRIERS
def test_threads_of_the_default_group_do_not_hold_the_child(carriers):
    """A child that ends as usual does not wait for the parent's threads of the default group."""
    out, _ = run(
        """
        future = plait.spawn(time.sleep, 3600)
        while not future.waits_for:
            time.sleep(0.001)
        pid = os.fork()
        if not pid:
            print(plait.spawn(int).result(), flush=True)
            sys.exit(0)
        print(wait(pid))
        future.cancel()
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0", "0"]


@CARRIERS
def test_multiprocessing_fork(carriers):
    """multiprocessing's fork start method, from the main thread and from a virtual one."""
    out, _ = run(
        """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        def start():
            process = context.Process(target=work_again)
            process.start()
            limit = time.monotonic() + 15
            while process.exitcode is None and time.monotonic() < limit:
                time.sleep(0.002)
            if process.exitcode is None:
                process.kill()
            code = process.exitcode
            process.join()
            return code
        with plait.ThreadGroup() as group:
            futures = park_all(group)
            print(start())
            print(group.spawn(start).result())
            group.cancel()
        plait.spawn(int).result()
        print(start())
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"] * 3


@CARRIERS
def test_forks_while_everything_moves(carriers):
    """Forked again and again while carriers, timers, locks and the pool are at work, the child always works."""
    out, _ = run(
        """
        stop = []
        def churn():
            while not stop:
                with plait.ThreadGroup() as group:
                    for _ in range(5):
                        future = group.spawn(time.sleep, 0)
                        future.add_done_callback(lambda f: None)
                    future.result()
                with plait.move_on_after(0.0005):
                    time.sleep(1)
        group = plait.ThreadGroup()
        def run():
            with group:
                for _ in range(4):
                    group.spawn(churn)
        thread = threading.Thread(target=run)
        thread.start()
        codes = [wait(fork()) for _ in range(40)]
        stop.append(1)
        thread.join()
        print(*codes)
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == ["0"] * 40
