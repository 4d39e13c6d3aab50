"""`Thread.join` from virtual threads: told of the end, with no kernel thread kept while the other runs on."""

import _thread
import threading
import time

import pytest
from patch.helpers import described, is_parked, on_virtual, run_python, wait_parked, wait_until
from support import run_anywhere

import plait
from plait import ThreadGroup, move_on_after, offload
from plait.patch import _threads

MANY = 200


def _running(is_over, count=1):
    threads = [threading.Thread(target=is_over.wait, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_many_joins_leave_the_pool_alone():
    """Two hundred joins of threads that run on take no worker; cancelled ones leave none behind, and the rest come out."""
    is_over = threading.Event()
    threads = _running(is_over, MANY)
    try:
        with ThreadGroup() as group:
            joins = [group.spawn(thread.join) for thread in threads]
            wait_parked(*joins)
            before = plait.offload_statistics()
            assert before.workers - before.idle <= 4
            assert before.queued == 0
            assert group.spawn(offload, int, "7").result() == 7
            for join in joins[::2]:
                join.cancel()
            wait_until(lambda: all(join.done() for join in joins[::2]))
            assert plait.offload_statistics().abandoned == before.abandoned
            assert all(map(is_parked, joins[1::2]))
            is_over.set()
        assert all(join.cancelled() for join in joins[::2])
        assert [join.result() for join in joins[1::2]] == [None] * (MANY // 2)
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def test_many_join_one():
    """All who join a thread come out when it ends, those on platform threads too, and find it ended."""
    is_over = threading.Event()
    (thread,) = _running(is_over)
    alive = []

    def join():
        thread.join()
        alive.append(thread.is_alive())

    platform = threading.Thread(target=join)
    platform.start()
    with ThreadGroup() as group:
        wait_parked(*[group.spawn(join) for _ in range(20)])
        is_over.set()
    platform.join()
    assert alive == [False] * 21


def test_join_waits_for_the_very_end():
    """What ends with the thread, such as its locals, has ended when the join returns."""
    local = threading.local()
    is_over, may_end, has_ended = threading.Event(), threading.Event(), []

    class Last:
        def __del__(self):
            may_end.wait()
            has_ended.append(True)

    def run():
        local.last = Last()
        is_over.wait()

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join()
        return has_ended, thread.is_alive()

    with ThreadGroup() as group:
        waiter = group.spawn(join)
        wait_parked(waiter)
        is_over.set()
        wait_until(lambda: thread not in threading.enumerate())
        assert not waiter.done()
        may_end.set()
    assert waiter.result() == ([True], False)


def test_join_with_timeout():
    """It returns when the time is over, and the thread is alive; a time that is over at once does not wait."""
    is_over = threading.Event()
    (thread,) = _running(is_over)

    def join(timeout):
        started = time.monotonic()
        thread.join(timeout)
        return thread.is_alive(), time.monotonic() - started

    try:
        for timeout in (0.05, 0, -1):
            is_alive, seconds = on_virtual(join, timeout)
            assert is_alive
            assert max(timeout, 0) <= seconds < 5
    finally:
        is_over.set()
    assert on_virtual(join, 20)[0] is False
    assert on_virtual(join, None)[0] is False


def test_refusals():
    """What `join` refuses it refuses in the same words."""
    unstarted = threading.Thread(target=int)
    for join in (unstarted.join, lambda: threading.current_thread().join(), lambda: unstarted.join("x")):
        assert on_virtual(described, join)[0] == "raised"
    assert on_virtual(described, unstarted.join) == described(unstarted.join)


@pytest.mark.parametrize("timeout", ["x", 1e20, 2**63, float("inf"), float("nan")])
def test_odd_timeouts_of_a_join(timeout):
    """What CPython cannot count is refused in its words, whether the thread has ended or not."""
    is_over = threading.Event()
    here, there = _running(is_over, 2)  # up to 3.12 a join that is refused takes the thread for one that has ended
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    for mine, other in ((here, there), (ended, ended)):
        if timeout == timeout or mine is ended:  # and one that lasts not-a-number seconds lasts for ever
            assert on_virtual(described, other.join, timeout) == described(mine.join, timeout)
    is_over.set()
    here.join()
    there.join()


def test_thread_that_does_not_say_that_it_ends(monkeypatch):
    """An exception thrown in from outside may keep a thread from saying so: who joins finds out by itself."""
    monkeypatch.setattr(_threads, "_LOOK", 0.02)
    is_over = threading.Event()

    class Silent(threading.Thread):
        def _delete(self):
            _threads._delete(self)

    thread = Silent(target=is_over.wait)
    thread.start()
    with ThreadGroup() as group:
        waiter = group.spawn(thread.join)
        wait_parked(waiter)
        is_over.set()
    assert waiter.result() is None
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(_thread, "_ThreadHandle"), reason="threads have no handles before 3.13")
def test_handle_of_a_thread_that_threading_does_not_know():
    """A handle without a `threading.Thread` is waited for as well, by one kernel thread for all."""
    is_over = threading.Lock()
    is_over.acquire()
    handle = _thread.start_joinable_thread(is_over.acquire)
    with ThreadGroup() as group:
        joins = [group.spawn(handle.join) for _ in range(10)]
        wait_parked(*joins)
        joins[0].cancel()
        wait_until(joins[0].done)
        is_over.release()
    assert [join.done() for join in joins] == [True] * 10
    assert handle.is_done()


def test_thread_from_before():
    """A thread that was started before plait says that it ends, too."""
    code = """
        import threading, time
        is_over = threading.Event()
        thread = threading.Thread(target=is_over.wait)
        thread.start()
        join = thread.join
        import plait
        from plait.patch import _threads
        _threads._LOOK = 3600
        with plait.ThreadGroup() as group:
            waiter = group.spawn(join)
            while not (waiter.waits_for and waiter.is_waiting()):
                time.sleep(0.001)
            is_over.set()
        print(thread.is_alive())
    """
    assert run_python(code) == "False\n"


@pytest.mark.parametrize("where", ["main", "virtual"])
def test_start_is_no_cancel_point(where):
    """Who starts a thread has started it, cancelled or not: `start` waits for a moment, and not to be torn apart."""
    begun = threading.Event()

    def body():
        with move_on_after(0) as scope:
            thread = threading.Thread(target=begun.set)
            thread.start()
            thread.name = "as good as any"
            time.sleep(60)
        assert scope.cancelled_caught
        return thread

    thread = run_anywhere(where, body)
    thread.join()
    assert begun.is_set()
    assert thread.name == "as good as any"
