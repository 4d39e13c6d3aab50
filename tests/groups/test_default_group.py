"""The default group: threads spawned outside any block."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from support import finish, handler_during, interrupt, platform_thread, program, run_program, until

import plait
from plait import ThreadGroup, _default, _native
from plait._core import WaitReason
from plait._default import default_group


def test_spawn_outside_any_group_gives_a_future():
    """spawn() works without a group, on any platform thread."""
    assert plait.spawn(pow, 2, 3).result() == 8
    with platform_thread(lambda: plait.spawn(pow, 2, 4).result()) as outcome:
        pass
    assert outcome == [(None, 16)]


def test_failure_goes_to_the_excepthook(monkeypatch):
    """A failure is given to plait.excepthook, on the thread that failed, and is in the future; nobody is cancelled."""
    seen = []
    monkeypatch.setattr(plait, "excepthook", lambda future, error: seen.append((future, error)))
    error = ValueError("mine")

    def fail():
        raise error

    future = plait.spawn(fail)
    assert future.exception(20) is error
    assert seen == [(future, error)]
    assert plait.spawn(int).result() == 0
    assert default_group().exception is None


def test_excepthook_writes_the_traceback(capfd):
    """By default the failure's traceback, with the thread's name, goes to stderr."""

    def divide():
        return 1 / 0

    until(plait.spawn(divide).done)
    err = capfd.readouterr().err
    assert "ZeroDivisionError: division by zero" in err
    assert "divide" in err.splitlines()[0]
    assert "belongs to no group" in err


def test_cancelled_thread_is_no_failure(capfd):
    """A cancelled thread is not reported."""
    future = plait.spawn(time.sleep, 3600)
    future.cancel()
    until(future.done)
    assert future.cancelled()
    assert capfd.readouterr().err == ""


def test_spawn_inside_a_group_belongs_to_it():
    """spawn() with a group open spawns into it."""
    with ThreadGroup() as group:
        future = plait.spawn(int)
        assert future.group is group


def test_default_group_has_no_block():
    """It cannot be entered, and is there before and after."""
    with pytest.raises(RuntimeError) as caught:
        default_group().__enter__()
    assert str(caught.value) == "<ThreadGroup 'default'> was entered before: a group is used once, make a new one"
    assert default_group().name == "default"


def test_joined_at_exit():
    """The process waits for threads spawned at top level, and for those that they spawn."""
    out, err = run_program("""
        import time, plait
        def work(depth):
            time.sleep(0.05)
            print("worked", depth)
            if depth:
                plait.spawn(work, depth - 1)
        plait.spawn(work, 2)
        print("main is over")
    """)
    assert out.split("\n")[:-1] == ["main is over", "worked 2", "worked 1", "worked 0"]
    assert err == ""


def test_spawn_when_the_process_is_ending():
    """Who spawns after the join is told that it is too late for that, and what would still do."""
    late = """
        import atexit, plait
        def late():
            try:
                plait.spawn(int)
            except RuntimeError as error:
                print(error)
        atexit.register(late)
    """
    assert run_program(late) == (
        (
            "the default group cannot begin any more, for the process is ending and would not wait for it: open a block, "
            "`with ThreadGroup() as group:`\n"
        ),
        "",
    )
    before = f"{late}    plait.spawn(int)\n"
    after = f"""
        import plait
        plait.spawn(int)
        {late.replace("import atexit, plait", "import atexit")}
    """
    for code in (before, after):  # the handler was registered before or after the first spawn: it is all the same
        assert run_program(code) == (
            (
                "<ThreadGroup 'default'> has ended: nothing can be spawned into it any more. The process is ending, and "
                "would not wait for it: open a block, `with ThreadGroup() as group:`\n"
            ),
            "",
        )


def test_failure_at_top_level_cancels_nobody():
    """One failure: the others go on, its traceback is printed, and the process ends as usual."""
    out, err = run_program("""
        import time, plait
        def fail():
            raise ValueError("at top level")
        def work():
            time.sleep(0.1)
            print("worked")
        plait.spawn(work)
        plait.spawn(fail)
    """)
    assert out == "worked\n"
    assert "ValueError: at top level" in err


def test_excepthook_can_be_replaced():
    """Whatever is assigned to plait.excepthook is called."""
    out, err = run_program("""
        import plait
        plait.excepthook = lambda future, error: print("hook", type(error).__name__, future.running())
        plait.spawn(lambda: 1 / 0)
    """)
    assert out == "hook ZeroDivisionError True\n"
    assert err == ""


@pytest.mark.parametrize("failure", ["RuntimeError('hook')", "SystemExit(3)", "KeyboardInterrupt()"])
def test_excepthook_that_fails_harms_nobody(failure):
    """A hook that raises is reported with what it was called for; the carrier and the other threads go on."""
    out, err = run_program(f"""
        import plait
        def hook(future, error):
            raise {failure}
        plait.excepthook = hook
        def fail():
            raise ValueError("first")
        future = plait.spawn(fail)
        print(repr(future.exception(20)))
        print(plait.spawn(int).result(20))
    """)
    assert out == "ValueError('first')\n0\n"
    assert "ValueError: first" in err


def test_excepthook_without_stderr():
    """A process without stderr loses the report, not the carrier."""
    out, _ = run_program("""
        import plait, sys
        sys.stderr = None
        future = plait.spawn(lambda: 1 / 0)
        print(repr(future.exception(20)))
        print(plait.spawn(int).result(20))
    """)
    assert out == "ZeroDivisionError('division by zero')\n0\n"


def test_reports_that_fail_harm_nobody():
    """Where stderr and the log cannot be written to either, what they raise is for sys.unraisablehook."""
    out, _ = run_program("""
        import logging, plait, sys, threading, time
        class Broken:
            def write(self, text):
                raise BrokenPipeError("nobody reads")
            def flush(self):
                pass
        class BrokenHandler(logging.Handler):
            def emit(self, record):
                raise BaseException("no log")
        class Unnoted(Exception):
            def add_note(self, note):
                raise SystemExit(3)
        def fail():
            raise Unnoted
        logging.getLogger().addHandler(BrokenHandler())
        lost = []
        sys.unraisablehook = lambda report: lost.append(repr(report.exc_value))
        sys.stderr = Broken()
        def hook(future, error):
            raise RuntimeError("hook")
        failed = []
        for plait.excepthook in [plait.excepthook, hook]:
            failed.append(plait.spawn(fail))
            print(repr(failed[-1].exception(20)))
        gate = threading.Event()
        future = plait.spawn(gate.wait)
        future.add_done_callback(lambda future: 1 / 0)
        gate.set()
        print(future.result(20), plait.spawn(int).result(20))
        while len(lost) < 3:
            time.sleep(0.001)
        print(sorted(lost))
    """)
    assert out.splitlines() == [
        "Unnoted()",
        "Unnoted()",
        "True 0",
        """["BaseException('no log')", "BrokenPipeError('nobody reads')", "BrokenPipeError('nobody reads')"]""",
    ]


def test_hook_that_waits_for_a_report_that_fails():
    """sys.unraisablehook may wait, though the thread is cancelled: what it is given is nowhere else."""
    out, _ = run_program("""
        import plait, sys, time
        lost = []
        def hook(report):
            time.sleep(0.001)
            lost.append(repr(report.exc_value))
        class Broken:
            def write(self, text):
                raise BrokenPipeError("nobody reads")
            def flush(self):
                pass
        sys.unraisablehook, sys.stderr = hook, Broken()
        def fail():
            plait._core.current_thread().cancel()
            1 / 0
        print(repr(plait.spawn(fail).exception(20)))
        while not lost:
            time.sleep(0.001)
        print(lost)
    """)
    assert out.splitlines() == ["ZeroDivisionError('division by zero')", """["BrokenPipeError('nobody reads')"]"""]


@pytest.mark.parametrize("failure", ["SystemExit(3)", "KeyboardInterrupt()", "plait.Cancelled()", "BaseException()"])
def test_done_callback_that_raises_a_base_exception_harms_nobody(failure):
    """Whatever a done-callback raises, the carrier and the group go on."""
    out, _ = run_program(f"""
        import plait, threading
        gate = threading.Event()
        def bad(future):
            raise {failure}
        try:
            with plait.ThreadGroup() as group:
                future = group.spawn(gate.wait)
                future.add_done_callback(bad)
                gate.set()
        except BaseException as error:
            print("left with", type(error).__name__)
        with plait.ThreadGroup() as group:
            print(group.spawn(int).result(20))
    """)
    assert out.endswith("0\n")


def test_interrupt_at_exit_cancels():
    """Ctrl-C while the process waits for its last threads cancels them; their clean-up runs."""
    with program("""
        import os, time, plait
        from plait._core import WaitReason, current_thread
        main = current_thread()
        def work():
            os.write(1, b"ready\\n")
            try:
                time.sleep(3600)
            finally:
                time.sleep(0.01)
                print("cleaned up", flush=True)
        future = plait.spawn(work)
        future.add_done_callback(lambda f: print("cancelled", f.cancelled(), flush=True))
        def when_joining():
            while not (main.waits_for is WaitReason.GROUP and main.is_waiting()):
                time.sleep(0.001)
            os.write(1, b"joining\\n")
        plait.spawn(when_joining)
    """) as process:
        seen = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        assert seen == {"ready", "joining"}
        interrupt(process)
        out, _ = finish(process)
    assert out == "cleaned up\ncancelled True\n"


def test_exit_from_a_handler_at_exit_cancels():
    """The same for a handler that raises something else: SystemExit, say, when a service is told to end."""
    with program("""
        import os, signal, sys, time, plait
        from plait._core import WaitReason, current_thread
        main = current_thread()
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))
        def work():
            os.write(1, b"ready\\n")
            try:
                time.sleep(3600)
            finally:
                time.sleep(0.01)
                print("cleaned up", flush=True)
        plait.spawn(work)
        def when_joining():
            while not (main.waits_for is WaitReason.GROUP and main.is_waiting()):
                time.sleep(0.001)
            os.write(1, b"joining\\n")
        plait.spawn(when_joining)
    """) as process:
        assert {process.stdout.readline().strip(), process.stdout.readline().strip()} == {"ready", "joining"}
        interrupt(process, signal.SIGTERM)
        out, _ = finish(process)
    assert out == "cleaned up\n"


def test_default_group_cannot_be_cancelled():
    """Whoever is in no block finds the default group where it looks for its own, and is told so."""
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.spawn(run_in_vthread_of_no_group)
    [error] = caught.value.exceptions
    assert str(error) == (
        "the default group cannot be cancelled: whatever is spawned outside of blocks is in it, and it is used until the "
        "process ends. Open a block, `with ThreadGroup() as group:`, and cancel that; or cancel single futures"
    )
    assert default_group().spawn(int).result() == 0


def run_in_vthread_of_no_group():
    default_group().spawn(lambda: ThreadGroup.current.cancel()).result()


def test_second_interrupt_at_exit_leaves():
    """A second Ctrl-C during that wait leaves, whatever is still running."""
    with program("""
        import os, time, plait
        from plait._core import WaitReason, current_thread
        main = current_thread()
        def work():
            try:
                time.sleep(3600)
            finally:
                print("cleaning", flush=True)
                time.sleep(4)  # well within the grace
        def when_joining():
            while not (main.waits_for is WaitReason.GROUP and main.is_waiting()):
                time.sleep(0.001)
            os.write(1, b"joining\\n")
        plait.spawn(work)
        plait.spawn(when_joining)
    """) as process:
        assert process.stdout.readline() == "joining\n"
        interrupt(process)
        assert process.stdout.readline() == "cleaning\n"
        interrupt(process)
        finish(process)


def test_interrupt_in_the_main_thread_then_exit_still_joins():
    """An error that ends the main thread does not cut off what was spawned at top level."""
    out, err = run_program(
        """
        import time, plait
        def work():
            time.sleep(0.05)
            print("worked")
        plait.spawn(work)
        raise ValueError("main")
        """,
        status=1,
    )
    assert out == "worked\n"
    assert "ValueError: main" in err


def test_strict_groups():
    """With strict groups, spawning without one is an error that says what to do; blocks and collections are not."""
    plait.configure(strict_groups=True)
    try:
        for attempt in (lambda: plait.spawn(int), lambda: ThreadGroup.current, lambda: ThreadGroup.current.spawn(int)):
            with pytest.raises(RuntimeError) as caught:
                attempt()
            assert str(caught.value) == (
                "there is no group here to spawn into, and plait.configure(strict_groups=True) has ruled out the default "
                "group: open a block, `with ThreadGroup() as group:`, or hand a group to this function"
            )
        with ThreadGroup() as group:
            assert plait.spawn(int).group is group
            assert group.spawn(lambda: plait.spawn(int)).result().result() == 0
        assert list(plait.pmap(int, ["1"])) == [1]
        assert plait.gather(int) == [0]
    finally:
        plait.configure(strict_groups=False)
    assert plait.spawn(int).result() == 0


def test_wrong_strict_groups():
    """strict_groups is true or false."""
    with pytest.raises(TypeError, match="strict_groups must be True or False, not 1"):
        plait.configure(strict_groups=1)


def test_offload_while_the_process_ends():
    """A thread that outlives the main module can still hand calls to workers, though none can be started any more."""
    out, _ = run_program("""
        import threading, plait
        gate = threading.Event()
        def work():
            gate.wait()
            print(plait.offload(sum, [1, 2, 3]), flush=True)
        plait.spawn(work)
        threading._register_atexit(gate.set)
    """)
    assert out == "6\n"


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_spawn_in_a_handler_once_the_children_are_done(where):
    """A handler that runs as a block ends, whose children are done, spawns into the next group around."""
    gate = threading.Event()
    groups = []

    def handle():
        gate.set()
        until(lambda: not group.inside.count())
        groups.extend([ThreadGroup.current, plait.spawn(int).group])

    def end_a_block():
        nonlocal group
        with handler_during(WaitReason.GROUP, handle), ThreadGroup() as group:
            group.spawn(gate.wait)

    group = outer = default_group()
    if where == "inside":
        with ThreadGroup() as outer:
            end_a_block()
    else:
        end_a_block()
    assert groups == [outer, outer]


def test_spawn_in_a_handler_as_the_last_child_ends(monkeypatch):
    """The group closes after a handler has found it open, and before it spawns: as if it had been closed before."""
    gate = threading.Event()
    look = _default.current_group
    futures = []

    def look_and_wait():
        found = look()
        if found is group:
            gate.set()
            until(lambda: not group.inside.count())
        return found

    def handle():
        monkeypatch.setattr(_default, "current_group", look_and_wait)
        futures.append(plait.spawn(int))

    with handler_during(WaitReason.GROUP, handle), ThreadGroup() as group:
        group.spawn(gate.wait)
    assert futures[0].group is default_group()


@pytest.mark.parametrize("where", ["inside", "outside"])
@pytest.mark.parametrize("kind", ["group", "gather"])
def test_spawn_in_a_handler_as_a_block_is_entered(monkeypatch, where, kind):
    """A handler that runs before the block has begun spawns into the next group around."""
    futures = []

    def handle():
        monkeypatch.undo()
        futures.append(plait.spawn(int))

    def enter_a_block():
        monkeypatch.setattr(_native, "check_signals", handle)
        if kind == "gather":
            assert plait.gather(int) == [0]
        else:
            with ThreadGroup():
                pass

    outer = default_group()
    if where == "inside":
        with ThreadGroup() as outer:
            enter_a_block()
    else:
        enter_a_block()
    assert futures[0].group is outer
