"""Mutex: a lock that owns its value."""

from __future__ import annotations

import re
import sys
import threading
import time

import pytest
from support import collect, is_parked, platform_thread, run_anywhere, run_in_vthread, run_program, until, wait_parked

from plait import Cancelled, DeadlockError, HeldWhileParked, Mutex, PoisonedError, ThreadGroup, _holding, move_on_after
from plait._core import WaitReason, current_thread
from plait._originals import sleep as sleep_natively

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Threads here wait with locks in hand, however slow the machine is."""
    monkeypatch.setattr(_holding, "LONG", 3600)


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
                with pytest.raises(
                    DeadlockError,
                    match=r"thread '.*'> holds Mutex-\d+ \(made at .*test_mutex.py:\d+\) already, since .*test_mutex.py:\d+, and "
                    r"would wait for itself: a mutex is not reentrant",
                ):
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
        lambda: mutex.repair(abs),
        lambda: mutex.lock().__enter__(),
        lambda: mutex.guard().__enter__(),
    ):
        with pytest.raises(ValueError, match=r"Mutex-\d+ .* is empty: into_inner\(\) has taken its value away"):
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
    """What try_lock gave is spent with its block: it is no way in afterwards, nor once more inside."""
    mutex = Mutex(1)
    holding = mutex.try_lock()
    with holding, pytest.raises(RuntimeError, match="is for one block"):
        holding.__enter__()
    with mutex.lock():
        with (
            pytest.raises(
                RuntimeError,
                match=r"what was taken of Mutex-\d+ .* is for one block, and that has been entered: try again for another",
            ),
            holding,
        ):
            raise AssertionError("a second holder")
        assert mutex.try_lock() is None


@WHERE
def test_dropped_try_lock_gives_it_back(where):
    """What try_lock gave and nobody entered is given back when it is dropped, wherever that happens."""

    def body():
        holds = current_thread().holds
        mutex = Mutex(1)
        assert mutex.try_lock() is not None
        assert not mutex.is_locked
        cycle = [mutex.try_lock()]
        cycle.append(cycle)
        assert mutex.is_locked
        del cycle
        collect(lambda: not mutex.is_locked)
        assert current_thread().holds == holds
        with mutex.try_lock():
            assert mutex.try_lock() is None
        return mutex

    mutex = run_anywhere(where, body)
    kept = [mutex.try_lock()]
    run_in_vthread(kept.clear)
    with mutex.lock(0):
        pass


def test_dropped_try_lock_wakes_who_waits():
    """The next in line gets what is given back so."""
    mutex = Mutex(1)
    kept = [mutex.try_lock()]
    with ThreadGroup() as group:
        waiter = wait_parked(group.spawn(mutex.replace, 2), WaitReason.MUTEX)
        kept.clear()
        assert waiter.result() == 1


def test_try_lock_is_for_its_own_thread():
    """Another thread cannot enter what try_lock gave, and is told who took it, and where; the right one still can."""
    mutex = Mutex(1)
    holding = mutex.try_lock()
    with pytest.raises(
        RuntimeError,
        match=r"cannot enter a block of Mutex-\d+ .* that <platform thread 'MainThread'> took "
        r"at .*test_mutex.py:\d+: take it on the thread that uses it",
    ):
        run_in_vthread(holding.__enter__)
    with holding as value:
        assert value == 1
    assert not mutex.is_locked


def test_block_left_on_another_thread():
    """A generator that is closed elsewhere leaves its block there: the lock is let go, and an error says what was wrong."""
    mutex = Mutex(1)

    def steps():
        with mutex.lock() as value:
            yield value

    generator = steps()
    assert next(generator) == 1
    with pytest.raises(
        RuntimeError,
        match=r"has left a block of Mutex-\d+ .* that <platform thread 'MainThread'> had entered at "
        r".*test_mutex.py:\d+; the lock is free now, but who enters a block must leave it",
    ):
        run_in_vthread(generator.close)
    assert not mutex.is_locked


def test_block_left_without_being_entered():
    """Leaving what was not entered, or once too often, changes nothing."""
    mutex = Mutex(1)
    block = mutex.lock()
    with block:
        pass
    with (
        mutex.lock(),
        pytest.raises(
            RuntimeError,
            match=r"^a block of Mutex-\d+ \(made at .*test_mutex.py:\d+\) is left that was not entered, or has been left "
            r"already: write `with`, which does both in turn$",
        ),
    ):
        block.__exit__(None, None, None)
    assert not mutex.is_locked


@WHERE
def test_dropped_block_lets_go(where):
    """A block that was entered and is dropped without being left lets go, and a ResourceWarning says so."""

    def body():
        holds = current_thread().holds
        mutex = Mutex(1)
        message = (
            r"a block of Mutex-\d+ .* that <.*> had entered at .*test_mutex.py:\d+ was dropped without being left, so the lock "
            r"is free now: enter it by `with`"
        )
        for take in (mutex.lock, mutex.try_lock):
            with pytest.warns(ResourceWarning, match=message):
                take().__enter__()
            assert not mutex.is_locked
        with pytest.warns(ResourceWarning, match=message):
            guard = mutex.guard().__enter__()
        assert not mutex.is_locked
        with pytest.raises(RuntimeError, match="is over"):
            guard.value = 2
        assert current_thread().holds == holds

    run_anywhere(where, body)


def test_block_used_by_several_threads():
    """What lock() gave may be entered again and again, by any thread in its turn."""
    mutex = Mutex(0)
    block = mutex.lock()

    def work():
        for _ in range(50):
            with block:
                value = mutex._value
                time.sleep(0)
                mutex._value = value + 1

    with ThreadGroup() as group, platform_thread(work):
        for _ in range(4):
            group.spawn(work)
    assert mutex.into_inner() == 250


@WHERE
def test_guard(where):
    """A guard reads and sets the value, as long as its block lasts."""

    def body():
        mutex = Mutex(1)
        block = mutex.guard(timeout=1)
        with block as guard:
            guard.value += 1
            assert mutex.try_lock() is None
            assert re.fullmatch(r"<guard of Mutex-\d+ \(made at .*\)>", repr(guard))
        assert repr(guard).endswith(", over>")
        message = (
            r"this guard of Mutex-\d+ .* is over, for its block has been left: use it inside the block, and write "
            r"`with mutex.guard\(\) as guard:` again for another"
        )
        with pytest.raises(RuntimeError, match=message):
            guard.value  # noqa: B018
        with block as another:
            assert another.value == 2
            with pytest.raises(RuntimeError, match=message):
                guard.value = 3
        assert mutex.into_inner() == 2

    run_anywhere(where, body)


def test_guard_with_a_timeout():
    """As lock: TimeoutError, and a wrong timeout is refused."""
    mutex = Mutex(1)
    with mutex.lock(), pytest.raises(TimeoutError, match="was not free within"):
        run_in_vthread(mutex.guard(0.001).__enter__)
    with pytest.raises(ValueError, match="timeout must be"):
        mutex.guard(-1)


def leave_with(error, mutex, how):
    def fail(value):
        raise error

    with pytest.raises(type(error)) as raised:
        if how == "lock":
            with mutex.lock():
                raise error
        elif how == "guard":
            with mutex.guard():
                raise error
        elif how == "try_lock":
            with mutex.try_lock():
                raise error
        else:
            mutex.update(fail)
    assert raised.value is error


@pytest.mark.parametrize("how", ["lock", "guard", "try_lock", "update"])
@pytest.mark.parametrize("error", [ZeroDivisionError("half done"), SystemExit(3)])
def test_poison(how, error):
    """With poison=True, an exception that leaves a block keeps everybody out, with the first one as the cause."""
    mutex = Mutex([1], poison=True)
    assert not mutex.is_poisoned
    leave_with(error, mutex, how)
    assert mutex.is_poisoned
    assert not mutex.is_locked
    assert re.fullmatch(r"<Mutex-\d+ \(made at .*\) poisoned, free>", repr(mutex))
    for use in (
        mutex.lock().__enter__,
        mutex.guard().__enter__,
        mutex.try_lock,
        mutex.into_inner,
        lambda: mutex.update(list),
        lambda: mutex.replace([]),
    ):
        with pytest.raises(
            PoisonedError,
            match=rf"Mutex-\d+ .* is poisoned: {type(error).__name__} has left a block that held it, so the value may be "
            r"half changed. Set it right with repair\(\), or take it as it is with clear_poison\(\)",
        ) as raised:
            use()
        assert raised.value.__cause__ is error
        assert not mutex.is_locked
    mutex.clear_poison()
    assert not mutex.is_poisoned
    assert mutex.into_inner() == [1]


def test_poison_is_opt_in():
    """Without it, an exception changes nothing; and with it, a block that could not be entered does not either."""
    mutex = Mutex(1)
    leave_with(ValueError(), mutex, "lock")
    assert not mutex.is_poisoned
    mutex = Mutex(1, poison=True)
    with mutex.lock():
        for wait in (mutex.lock().__enter__, lambda: run_in_vthread(mutex.lock(0).__enter__)):
            with pytest.raises((DeadlockError, TimeoutError)):
                wait()
    assert not mutex.is_poisoned


def test_cancelled_poisons():
    """Cancelled poisons as well; it is named as the cause, but is not kept alive, for its thread could clean up as long."""
    mutex = Mutex(1, poison=True)
    with move_on_after(3600) as scope, mutex.lock():
        scope.reschedule(0)
        time.sleep(3600)
    assert scope.cancelled_caught
    with pytest.raises(PoisonedError, match="Cancelled has left a block") as raised:
        mutex.replace(2)
    cause = raised.value.__cause__
    assert isinstance(cause, Cancelled)
    assert cause.__traceback__ is None
    assert cause.source is scope


def test_first_poison_counts():
    """What happens during a repair does not hide what happened first."""
    mutex = Mutex(0, poison=True)
    leave_with(ValueError("first"), mutex, "lock")
    with pytest.raises(ZeroDivisionError):
        mutex.repair(lambda value: 1 // value)
    with pytest.raises(PoisonedError) as raised:
        mutex.lock().__enter__()
    assert str(raised.value.__cause__) == "first"


def test_repair():
    """repair() sets a poisoned value right before anybody else sees it; one that fails poisons what was not."""
    mutex = Mutex([1, 2], poison=True)
    leave_with(ValueError(), mutex, "update")
    with ThreadGroup() as group:

        def mend(value):
            waiter = group.spawn(mutex.replace, "next")
            wait_parked(waiter, WaitReason.MUTEX)
            assert mutex.is_poisoned
            return [*value, 3], waiter

        value, waiter = mutex.repair(mend)
        assert value == [1, 2, 3]
        assert waiter.result() == (value, waiter)
    with pytest.raises(TypeError):
        mutex.repair(abs)
    assert mutex.is_poisoned
    with pytest.raises(TypeError):
        Mutex("").repair(abs)


@WHERE
def test_held_while_parked(where, monkeypatch):
    """Who held it for long and waited for something else meanwhile is told on release, with place and advice."""
    monkeypatch.setattr(_holding, "LONG", 0.0005)
    mutex = Mutex(1)

    def body():
        with move_on_after(3600):  # a platform thread parks under a scope alone
            line = sys._getframe().f_lineno + 1
            with pytest.warns(HeldWhileParked) as told, mutex.lock():
                time.sleep(0.002)
            # As an error it comes when the mutex is free.
            with pytest.raises(HeldWhileParked):
                mutex.update(lambda value: time.sleep(0.002))
            assert not mutex.is_locked
        assert re.fullmatch(
            rf".*thread '.*'> held Mutex-\d+ \(made at .*test_mutex.py:\d+\) for 0\.\d seconds, from .*test_mutex.py:{line} "
            r"on, and waited for something else meanwhile, while nobody could use it. Wait outside the block: take the value, "
            r"let go, do the waiting, then lock again",
            str(told[0].message),
        )
        assert (told[0].filename, told[0].lineno) == (__file__, line)

    run_anywhere(where, body)


def test_held_for_long_without_waiting(monkeypatch):
    """Who only computes, or has waited before it got the lock, is not told; nor who waits for a short time."""
    mutex = Mutex(1)
    run_in_vthread(mutex.update, lambda value: time.sleep(0.001))
    monkeypatch.setattr(_holding, "LONG", 0.0005)

    def compute(value):
        sleep_natively(0.002)

    with ThreadGroup() as group:
        with mutex.lock():
            waiter = wait_parked(group.spawn(mutex.update, compute), WaitReason.MUTEX)
            sleep_natively(0.002)
        waiter.result()


@pytest.mark.stress
def test_interrupt_storm_loses_no_lock():
    """Signal handlers that raise at any moment, in the main thread, leave every mutex free and nobody waiting."""
    out, _ = run_program(
        """
        import signal, threading, time, plait
        class Alarm(Exception): pass
        def ring(*args): raise Alarm
        signal.signal(signal.SIGALRM, ring)
        mutex, lock = plait.Mutex(0), plait.RWLock(0)
        over = threading.Event()
        def compete():
            while not over.is_set():
                mutex.update(lambda v: v + 1)
                with lock.write():
                    time.sleep(0)
                with lock.read():
                    time.sleep(0)
        with plait.ThreadGroup() as group:
            for _ in range(3):
                group.spawn(compete)
            rings = 0
            limit = time.monotonic() + 30
            while rings < 1500 and time.monotonic() < limit:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0003)
                    while True:
                        with mutex.lock():
                            pass
                        with lock.read():
                            pass
                        with lock.write():
                            pass
                        mutex.update(lambda v: v + 1)
                except Alarm:
                    rings += 1
            over.set()
        print(rings, mutex.is_locked, lock.is_locked, lock._waiting_readers, lock._waiting_writers)
        """,
        seconds=50,
    )
    assert out == "1500 False False {} {}\n"


def test_repr_names_the_owner():
    """Whether it is held, and by whom."""
    mutex = Mutex("secret")
    assert re.fullmatch(r"<Mutex-\d+ \(made at .*test_mutex.py:\d+\) free>", repr(mutex))
    assert not mutex.is_locked
    with mutex.lock():
        assert "MainThread" in repr(mutex)
        assert "secret" not in repr(mutex)
        assert mutex.is_locked

    def body():
        with mutex.lock():
            return repr(mutex)

    assert "virtual thread" in run_in_vthread(body) or "Future of" in run_in_vthread(body)


def test_name_says_where_it_was_made():
    """Also of one that is made with its type spelled out."""
    line = sys._getframe().f_lineno + 1
    made = [Mutex(1), Mutex[int](1)]
    names = [re.fullmatch(r"<Mutex-(\d+) \(made at (.*)\) free>", repr(mutex)).groups() for mutex in made]
    assert [place for _, place in names] == [f"{__file__}:{line}"] * 2
    assert int(names[0][0]) < int(names[1][0])


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), ("1", TypeError), (float("nan"), ValueError)])
def test_wrong_timeout(wrong, error):
    """A timeout must be a number of seconds from 0 up."""
    with pytest.raises(error, match="timeout must be"):
        Mutex(0).lock(wrong)


@pytest.mark.parametrize("caller", ["update", "repair"])
def test_change_to_something_that_is_no_function(caller):
    """A new value in place of the function is refused in words, and nothing has happened."""
    mutex = Mutex(0, poison=True)
    with pytest.raises(TypeError) as caught:
        getattr(mutex, caller)(4)
    assert (
        str(caught.value)
        == f"{caller} needs a function from the old value to the new one, not 4: see replace() for that"
    )
    assert (mutex.is_poisoned, mutex.is_locked, mutex.into_inner()) == (False, False, 0)


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
