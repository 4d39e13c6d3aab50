"""Mutex: a lock that owns its value."""

from __future__ import annotations

import threading
import time

import pytest
from support import is_parked, platform_thread, run_anywhere, run_in_vthread, until, wait_parked

from plait import DeadlockError, Mutex, ThreadGroup, move_on_after
from plait._core import WaitReason, current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@WHERE
def test_lock_gives_the_value(where):
    """The value is reached through the lock alone, and comes out in the end."""

    def body():
        mutex = Mutex({})
        with mutex.lock() as value:
            value["a"] = 1
        assert mutex.update(lambda v: {**v, "b": 2}) == {"a": 1, "b": 2}
        assert mutex.replace("new") == {"a": 1, "b": 2}
        with mutex.try_lock() as value:
            assert value == "new"
        assert mutex.into_inner() == "new"

    run_anywhere(where, body)


def test_mutual_exclusion():
    """Only one holds it at a time, whatever kind of thread, and however long it parks meanwhile."""
    mutex = Mutex([])
    inside = []

    def work():
        for _ in range(20):
            with mutex.lock() as value:
                inside.append(1)
                assert len(inside) == 1
                time.sleep(0)
                value.append(1)
                inside.pop()

    with ThreadGroup() as group, platform_thread(work) as one, platform_thread(work) as two:
        for _ in range(10):
            group.spawn(work)
        until(lambda: one and two)
    assert one == two == [(None, None)]
    assert len(mutex.into_inner()) == 240


@WHERE
def test_lock_with_a_timeout(where):
    """lock(timeout) raises TimeoutError, and holds nothing then."""
    mutex = Mutex(0)

    def body():
        for seconds in (0, 0.005):
            with (
                pytest.raises(TimeoutError, match=f"was not free within {float(seconds)} seconds"),
                mutex.lock(seconds),
            ):
                raise AssertionError("locked")

    with ThreadGroup() as group:
        gate = threading.Event()

        def hold():
            with mutex.lock():
                gate.wait()

        wait_parked(group.spawn(hold))
        run_anywhere(where, body)
        assert mutex.try_lock() is None
        gate.set()
    assert mutex.into_inner() == 0


def test_waiter_gets_it_when_it_is_released():
    """A platform thread that waits is woken by a virtual thread, and the other way round."""
    mutex = Mutex(0)
    gate = threading.Event()
    me = current_thread()
    with ThreadGroup() as group:

        def hold():
            with mutex.lock():
                gate.wait()

        def open_gate():
            until(lambda: is_parked(me, WaitReason.MUTEX))
            gate.set()

        wait_parked(group.spawn(hold))
        group.spawn(open_gate)
        with mutex.lock():
            waiter = wait_parked(group.spawn(mutex.update, lambda v: v + 1), WaitReason.MUTEX)
        assert waiter.result() == 1


@WHERE
def test_relocking_is_a_deadlock_error(where):
    """A thread that locks twice gets DeadlockError at once, naming itself and the mutex; the lock stays held."""

    def body():
        mutex = Mutex(0)
        with mutex.lock():
            for again in (
                mutex.lock().__enter__,
                mutex.into_inner,
                lambda: mutex.replace(1),
                lambda: mutex.update(abs),
            ):
                with pytest.raises(DeadlockError, match=r"holds <Mutex held by .*> already.*not reentrant"):
                    again()
            assert mutex.try_lock() is None
        assert mutex.into_inner() == 0

    run_anywhere(where, body)


def test_empty_after_into_inner():
    """Once the value is taken out, there is nothing to lock; the mutex stays free."""
    mutex = Mutex(1)
    assert mutex.into_inner() == 1
    for use in (
        mutex.into_inner,
        lambda: mutex.replace(2),
        lambda: mutex.update(abs),
        lambda: mutex.lock().__enter__(),
    ):
        with pytest.raises(ValueError, match="is empty"):
            use()
    with pytest.raises(ValueError, match="is empty"), mutex.try_lock():
        raise AssertionError("locked")


def test_failure_inside_lets_go():
    """However its block is left, the mutex is free, and the value is as it was left."""
    mutex = Mutex(1)
    with pytest.raises(ZeroDivisionError), mutex.lock():
        1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError):
        mutex.update(lambda v: v / 0)
    with move_on_after(0.005), mutex.lock():
        time.sleep(3600)
    assert mutex.into_inner() == 1


def test_try_lock_holds_for_one_block():
    """What try_lock gave is spent with its block: it is no way in afterwards."""
    mutex = Mutex(1)
    holding = mutex.try_lock()
    with holding:
        pass
    with mutex.lock():
        with pytest.raises((RuntimeError, TimeoutError)), holding:
            raise AssertionError("a second holder")
        assert mutex.try_lock() is None


def test_repr_names_the_owner():
    """Whether it is held, and by whom."""
    mutex = Mutex("secret")
    assert repr(mutex) == "<Mutex free>"
    with mutex.lock():
        assert "MainThread" in repr(mutex)
        assert "secret" not in repr(mutex)

    def body():
        with mutex.lock():
            return repr(mutex)

    assert "virtual thread" in run_in_vthread(body) or "Future of" in run_in_vthread(body)


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), ("1", TypeError), (float("nan"), ValueError)])
def test_wrong_timeout(wrong, error):
    """A timeout must be a number of seconds from 0 up."""
    with pytest.raises(error, match="timeout must be"):
        Mutex(0).lock(wrong)


def test_cancelled_waiter_does_not_swallow_the_wake():
    """A waiter that is cancelled while the mutex is released leaves it to the next."""
    for _ in range(50):
        mutex = Mutex(0)
        holding = mutex.lock()
        holding.__enter__()
        with ThreadGroup() as group:
            first = wait_parked(group.spawn(mutex.replace, 1), WaitReason.MUTEX)
            second = wait_parked(group.spawn(mutex.replace, 2), WaitReason.MUTEX)
            first.cancel()
            holding.__exit__(None, None, None)
            second.result(20)
        assert mutex.into_inner() in (1, 2)
