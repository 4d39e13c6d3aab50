"""Managers of `multiprocessing`: each call through a proxy gets its own answer, whatever became of the call before."""

import pytest
from patch.helpers import run_python

WHERE = pytest.mark.parametrize("where", ["plait.spawn(body).result()", "body()"])

BEGIN = """
    import multiprocessing, threading, time, warnings, plait
    from plait._core import current_thread
    warnings.simplefilter("ignore", DeprecationWarning)
    context = multiprocessing.get_context("fork")

    def parked_in(group, call, *args):
        "Cancel `group` as soon as this thread is parked in `call(*args)`."
        me = current_thread()
        def cancel():
            while not (me.waits_for and me.is_waiting()):
                time.sleep(0.001)
            group.cancel()
        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            return call(*args)
        finally:
            canceller.join()
"""


@WHERE
def test_call_that_is_cancelled_keeps_its_answer_to_itself(where):
    """The answer that nobody has waited for is not the next call's."""
    code = f"""{BEGIN}
    def body():
        with context.Manager() as manager:
            numbers, event = manager.dict(a=1), manager.Event()
            assert numbers["a"] == 1
            for _ in range(3):
                with plait.ThreadGroup() as group:
                    parked_in(group, event.wait)
                assert not event.is_set()
                event.set()
                assert [numbers["a"], numbers.get("b"), len(numbers), event.is_set()] == [1, None, 1, True]
                event.clear()
    {where}
    print("done")
    """
    assert run_python(code) == "done\n"


@WHERE
def test_lock_of_a_manager_is_kept_by_calls_that_have_not_begun_to_ask(where):
    """Its owner is the connection: a cancel before the question leaves that alone, as does a failure in the manager."""
    code = f"""{BEGIN}
    def body():
        with context.Manager() as manager:
            numbers, lock = manager.dict(), manager.RLock()
            with plait.ThreadGroup() as group, lock:
                group.cancel()
                numbers["a"] = 1
            with lock:
                try:
                    numbers["a"]
                except KeyError:
                    pass
            assert dict(numbers) == {{}}
    {where}
    print("done")
    """
    assert run_python(code) == "done\n"


@WHERE
def test_start_of_a_manager_is_no_cancel_point(where):
    """It is there, and can be called, and shut down."""
    code = f"""{BEGIN}
    from multiprocessing.managers import SyncManager
    def body():
        manager = SyncManager(ctx=context)
        with plait.ThreadGroup() as group:
            group.cancel()
            manager.start()
            steps.append("started")
            plait.checkpoint()
            steps.append("not cancelled")
        with manager:
            assert dict(manager.dict(a=1)) == {{"a": 1}}
    steps = []
    {where}
    print(steps)
    """
    assert run_python(code) == "['started']\n"


@WHERE
def test_manager_that_does_not_start(where):
    """Given up when the grace is over, it leaves no process behind for which its parent would wait at the end."""
    code = f"""{BEGIN}
    from multiprocessing.managers import SyncManager
    def body():
        manager = SyncManager(ctx=context)
        with plait.ThreadGroup(grace=0.05) as group:
            group.cancel()
            manager.start(time.sleep, (3600,))
        manager._process.join()
        print(manager._process.exitcode)
    {where}
    """
    assert run_python(code) == "-9\n"
