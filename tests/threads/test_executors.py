"""VirtualThreadPoolExecutor: an executor, one virtual thread a call."""

import asyncio
import concurrent.futures
import contextvars
import os
import threading
import time

import pytest
from patch.helpers import run_python, wait_parked, wait_until
from support import run_anywhere

import plait
from plait import ThreadGroup, VirtualThreadPoolExecutor, _native
from plait._core import VirtualThread

EVERYWHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@EVERYWHERE
def test_calls_and_their_outcomes(where):
    """Results, failures, `map`, `wait` and `as_completed` are those of any executor."""

    def body():
        with VirtualThreadPoolExecutor() as executor:
            good = executor.submit(pow, 2, exp=10)
            bad = executor.submit(int, "x")
            assert good.result() == 1024
            assert isinstance(bad.exception(), ValueError)
            assert type(good) is concurrent.futures.Future
            assert list(executor.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
            futures = [executor.submit(time.sleep, 0.001) for _ in range(10)]
            assert set(concurrent.futures.as_completed(futures)) == set(futures)
            gate = threading.Event()
            with pytest.raises(TimeoutError):
                list(executor.map(lambda _: gate.wait(), [0], timeout=0.001))
            gate.set()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(int)

    run_anywhere(where, body)


def test_each_call_has_a_virtual_thread_of_its_own():
    """Hundreds at a time need no kernel thread more, and are named after the executor."""
    gate, seen = threading.Event(), []
    before = len(os.listdir("/proc/self/task"))
    with VirtualThreadPoolExecutor(thread_name_prefix="fetch") as executor:

        def work():
            seen.append((_native.current(), threading.current_thread().name, threading.get_ident()))
            gate.wait()

        try:
            for _ in range(500):
                executor.submit(work)
            wait_until(lambda: len(seen) == 500)
            # An idle worker of the tests before may have ended.
            assert len(os.listdir("/proc/self/task")) <= before
            assert repr(executor) == "<VirtualThreadPoolExecutor 'fetch', 500 at work, 0 queued>"
        finally:
            gate.set()
    assert all(isinstance(thread, VirtualThread) for thread, _, _ in seen)
    assert {name for _, name, _ in seen} == {f"fetch_{n}" for n in range(500)}
    assert len({ident for _, _, ident in seen}) == 500


def test_no_more_than_max_workers_at_a_time():
    """Calls beyond the limit are queued, in order, and `submit` does not wait."""
    at_work, most, order = set(), [], []

    def work(number):
        at_work.add(number)
        most.append(len(at_work))
        time.sleep(0.001)
        order.append(number)
        at_work.discard(number)

    with VirtualThreadPoolExecutor(max_workers=3) as executor:
        futures = [executor.submit(work, number) for number in range(30)]
    assert max(most) == 3
    assert all(future.done() for future in futures)
    assert sorted(order) == list(range(30))


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3"])
def test_a_limit_that_is_none(limit):
    """`max_workers` is a whole number from 1 up."""
    with pytest.raises((TypeError, ValueError), match="max_workers must be"):
        VirtualThreadPoolExecutor(limit)


def test_an_initializer_that_cannot_be_called():
    """It is refused at once."""
    with pytest.raises(TypeError, match="initializer must be something to call"):
        VirtualThreadPoolExecutor(initializer=5)


def test_cancel_of_a_queued_call():
    """A call that waits for its turn can be cancelled, one that has begun cannot."""
    gate, ran = threading.Event(), []
    with VirtualThreadPoolExecutor(1) as executor:
        first = executor.submit(gate.wait)
        second = executor.submit(ran.append, 2)
        third = executor.submit(ran.append, 3)
        wait_until(first.running)
        assert not first.cancel()
        assert second.cancel()
        gate.set()
    assert ran == [3]
    assert second.cancelled()
    assert third.done()


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown(wait):
    """With `cancel_futures` what is queued is cancelled; without `wait` nobody waits for what is at work."""
    gate = threading.Event()
    executor = VirtualThreadPoolExecutor(1)
    first, second = executor.submit(gate.wait), executor.submit(int)
    wait_until(first.running)
    if wait:
        with ThreadGroup() as group:
            closer = group.spawn(executor.shutdown, cancel_futures=True)
            wait_parked(closer)
            assert second.cancelled()
            assert not first.done()
            gate.set()
    else:
        executor.shutdown(wait=False, cancel_futures=True)
        assert not first.done()
        assert second.cancelled()
        gate.set()
    assert first.result() is True
    assert concurrent.futures.wait([first, second], timeout=5).not_done == set()
    executor.shutdown()


def test_shutdown_runs_what_is_queued():
    """Without `cancel_futures` all that was submitted runs."""
    executor = VirtualThreadPoolExecutor(1)
    futures = [executor.submit(time.sleep, 0.001) for _ in range(5)]
    executor.shutdown()
    assert [future.result() for future in futures] == [None] * 5


def test_shutdown_by_a_call_of_its_own():
    """It cannot wait for itself, and is told so; one that does not wait is as ever, and so is one of another executor."""
    executor, other, gate = VirtualThreadPoolExecutor(1), VirtualThreadPoolExecutor(), threading.Event()

    def shut_down():
        gate.wait()
        other.shutdown()
        executor.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="cannot wait for the end of <VirtualThreadPoolExecutor"):
            executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(int)

    first, second = executor.submit(shut_down), executor.submit(shut_down)
    gate.set()
    assert first.result() is second.result() is None
    executor.shutdown()


def test_failure_interrupts_who_waits_in_shutdown():
    """The wait is a cancel point; the call goes on."""
    gate = threading.Event()
    executor = VirtualThreadPoolExecutor()
    future = executor.submit(gate.wait)
    with plait.move_on_after(0.01) as scope, executor:
        pass
    assert scope.cancelled_caught
    assert not future.done()
    gate.set()
    assert future.result() is True
    executor.shutdown()


def test_shutdown_after_a_callback_has_raised_what_ends_a_thread():
    """A callback that raises SystemExit ends its call all the same: the next begins, and nobody waits for it."""
    code = """
        import sys, threading, plait
        gate = threading.Event()
        sys.unraisablehook = plait.excepthook = lambda *args: None
        executor = plait.VirtualThreadPoolExecutor(1)
        calls = [executor.submit(gate.wait) for _ in range(3)]
        for call in calls:
            call.add_done_callback(lambda _: sys.exit(1))
        gate.set()
        print([call.result() for call in calls])
        executor.shutdown()
    """
    assert run_python(code) == "[True, True, True]\n"


@pytest.mark.parametrize("callback", ["print", "sys.exit"])
def test_queued_call_whose_thread_cannot_be_started(callback):
    """It has failed, unless it was cancelled before; those behind it have their turn, and the shutdown comes to its end."""
    code = f"""
        import sys, threading, plait
        from plait import _executors
        class Broken:
            def start(self, *args):
                raise MemoryError("no thread")
        gate = threading.Event()
        sys.unraisablehook = plait.excepthook = lambda *args: None
        executor = plait.VirtualThreadPoolExecutor(1)
        first, *queued = [executor.submit(fn) for fn in (gate.wait, int, int, int, int)]
        queued[0].cancel()
        queued[1].add_done_callback(lambda _: {callback}(""))
        make, broken = _executors.container, [Broken()] * 3
        _executors.container = lambda is_daemon: broken.pop() if broken else make(is_daemon=is_daemon)
        gate.set()
        assert [first.result(10), queued[3].result(10)] == [True, 0]
        executor.shutdown()
        print(queued[0].cancelled(), repr(queued[1].exception()), repr(queued[2].exception()), executor)
    """
    out = run_python(code).strip()
    assert out.startswith("True MemoryError('no thread') MemoryError('no thread') <VirtualThreadPoolExecutor")
    assert out.endswith("0 at work, 0 queued>")


def test_initializer():
    """It runs on each thread before its call, with its arguments; if it fails, the executor is broken."""
    local = threading.local()

    def prepare(value):
        if value is None:
            raise OSError("no connection")
        local.value = value

    with VirtualThreadPoolExecutor(initializer=prepare, initargs=(7,)) as executor:
        assert list(executor.map(lambda _: local.value, range(3))) == [7] * 3
    with VirtualThreadPoolExecutor(1, initializer=prepare, initargs=(None,)) as executor:
        futures = []
        try:
            futures += [executor.submit(int) for _ in range(3)]
        except concurrent.futures.BrokenExecutor:
            pass
        for future in futures:
            with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
                future.result()
            assert isinstance(caught.value.__cause__, OSError)
        wait_until(lambda: executor._is_broken)
        with pytest.raises(concurrent.futures.BrokenExecutor, match="the initializer of .* has failed"):
            executor.submit(int)


def test_context_of_who_submits():
    """Each call starts with a copy of the submitter's context variables, queued ones as well."""
    variable = contextvars.ContextVar("variable")

    def change(value):
        before = variable.get()
        variable.set(value)
        return before

    with VirtualThreadPoolExecutor(1) as executor:
        futures = []
        for number in range(4):
            variable.set(number)
            futures.append(executor.submit(change, "changed"))
        assert [future.result() for future in futures] == [0, 1, 2, 3]
    assert variable.get() == 3


def test_asyncio_runs_its_calls_there():
    """`run_in_executor` of a loop takes it, and so does `set_default_executor` where that may be (to_thread)."""

    async def main():
        loop = asyncio.get_running_loop()
        with VirtualThreadPoolExecutor() as executor:
            calls = [loop.run_in_executor(executor, time.sleep, 0.01) for _ in range(100)]
            await asyncio.gather(*calls)
            return await loop.run_in_executor(executor, _native.current)

    assert isinstance(asyncio.run(main()), VirtualThread)


def test_a_group_runs_its_calls_there():
    """`options(on=...)` takes it."""
    with VirtualThreadPoolExecutor() as executor, ThreadGroup() as group:
        future = group.options(on=executor).spawn(pow, 2, 3)
    assert future.result() == 8


def test_exit_waits_for_calls():
    """The process ends when all calls are done, queued ones included, though nobody has shut the executor down."""
    code = """
        import time
        from plait import VirtualThreadPoolExecutor
        executor = VirtualThreadPoolExecutor(1)
        for number in range(3):
            executor.submit(lambda number=number: (time.sleep(0.01), print(number)))
        print("main")
    """
    assert run_python(code) == "main\n0\n1\n2\n"
