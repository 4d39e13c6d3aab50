"""RWLock: many readers or one writer."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress

import pytest
from support import collect, is_parked, platform_thread, run_anywhere, run_in_vthread, run_program, until, wait_parked

from plait import Cancelled, DeadlockError, HeldWhileParked, RWLock, ThreadGroup, _holding, move_on_after
from plait._core import WaitReason, current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])
READS, WRITES = WaitReason.READ_LOCK, WaitReason.WRITE_LOCK


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Threads here wait with locks in hand, however slow the machine is."""
    monkeypatch.setattr(_holding, "LONG", 3600)


class Held:
    """A thread of `group` that holds `lock` in the block that `enter` makes, until it is let go."""

    def __init__(self, group, enter, log=None, name=None):
        self.gate = threading.Event()
        self.future = group.spawn(self.hold, enter, log, name)

    def hold(self, enter, log, name):
        with enter():
            if log is not None:
                log.append(name)
            self.gate.wait()

    def inside(self):
        wait_parked(self.future, WaitReason.CONDITION)
        return self

    def waiting(self, reason):
        wait_parked(self.future, reason)
        return self

    def let_go(self):
        self.gate.set()


@WHERE
def test_read_and_write_give_the_value(where):
    """The value is reached through the lock alone, and comes out in the end."""

    def body():
        holds = current_thread().holds
        lock = RWLock({})
        with lock.write() as value:
            value["a"] = 1
        with lock.read() as value:
            assert value == {"a": 1}
        assert lock.update(lambda v: {**v, "b": 2}) == {"a": 1, "b": 2}
        assert lock.replace("new") == {"a": 1, "b": 2}
        with lock.try_read() as value:
            assert value == "new"
        with lock.try_write() as value:
            assert value == "new"
        assert not lock.is_locked
        assert lock.into_inner() == "new"
        assert current_thread().holds == holds

    run_anywhere(where, body)


def test_readers_share_and_a_writer_excludes():
    """Readers are inside together; nobody is while one writes; all of it can be seen from outside."""
    lock = RWLock(0)
    with ThreadGroup() as group:
        one, two = Held(group, lock.read).inside(), Held(group, lock.read).inside()
        assert (lock.readers, lock.is_locked) == (2, True)
        assert re.fullmatch(r"<RWLock-\d+ \(made at .*test_rwlock.py:\d+\) read by 2 threads>", repr(lock))
        assert lock.try_write() is None
        with lock.read():
            assert lock.readers == 3
        one.let_go()
        until(lambda: lock.readers == 1)
        assert repr(lock).endswith(" read by 1 thread>")
        two.let_go()
        until(lambda: not lock.is_locked)
        assert repr(lock).endswith(" free>")
        writer = Held(group, lock.write).inside()
        assert (lock.readers, lock.is_locked) == (0, True)
        assert re.search(r"written by <virtual thread 'Held.hold-\d+'>>$", repr(lock))
        assert lock.try_read() is lock.try_write() is None
        writer.let_go()


def test_waiting_writer_keeps_new_readers_out():
    """Writers are preferred: a reader that comes after a writer waits behind it, and try_read gives None."""
    lock = RWLock(0)
    log = []
    with ThreadGroup() as group:
        first = Held(group, lock.read).inside()
        writer = Held(group, lock.write, log, "writer").waiting(WRITES)
        reader = Held(group, lock.read, log, "reader").waiting(READS)
        assert lock.try_read() is None
        first.let_go()
        writer.inside()
        assert log == ["writer"]
        writer.let_go()
        reader.inside()
        reader.let_go()
    assert log == ["writer", "reader"]


def test_neither_side_starves():
    """After a writer all readers that wait by then are let in, and after them the next writer, in order of arrival."""
    lock = RWLock(0)
    log = []
    with ThreadGroup() as group:
        held = [Held(group, lock.write, log, 0).inside()]
        for name, (enter, reason) in enumerate(
            [(lock.write, WRITES), (lock.read, READS), (lock.write, WRITES), (lock.read, READS)], 1
        ):
            held.append(Held(group, enter, log, name).waiting(reason))
        held[0].let_go()
        held[2].inside()
        held[4].inside()
        assert sorted(log) == [0, 2, 4]
        late = Held(group, lock.read, log, "late").waiting(READS)
        held[2].let_go()
        held[4].let_go()
        held[1].inside().let_go()
        late.inside().let_go()
        held[3].inside().let_go()
    assert log[3:] == [1, "late", 3]


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_writer_that_gives_up_lets_readers_in(how):
    """A waiting writer that is cancelled, or whose time is over, no longer keeps readers out: those that wait enter."""
    lock = RWLock(0)
    with ThreadGroup() as group:
        first = Held(group, lock.read).inside()

        def write():
            with pytest.raises(Cancelled if how == "cancelled" else TimeoutError) as raised:
                lock.write(3600 if how == "cancelled" else 0.05).__enter__()
            assert how == "cancelled" or "could not be written within 0.05 seconds" in str(raised.value)
            if how == "cancelled":
                raise raised.value

        writer = group.spawn(write)
        until(lambda: is_parked(writer, WRITES) or writer.done())
        readers = [Held(group, lock.read) for _ in range(3)]
        if how == "cancelled":
            for reader in readers:
                reader.waiting(READS)
            writer.cancel()
        for reader in readers:
            reader.inside()
        assert lock.readers == 4
        until(writer.done)
        for held in (first, *readers):
            held.let_go()


def test_one_of_two_writers_gives_up():
    """As long as another writer waits, readers stay behind it."""
    lock = RWLock(0)
    with ThreadGroup() as group:
        first = Held(group, lock.read).inside()
        leaver = Held(group, lock.write).waiting(WRITES)
        stayer = Held(group, lock.write).waiting(WRITES)
        reader = Held(group, lock.read).waiting(READS)
        leaver.future.cancel()
        until(leaver.future.done)
        assert is_parked(reader.future, READS)
        assert lock.try_read() is None
        first.let_go()
        stayer.inside().let_go()
        reader.inside().let_go()


@WHERE
@pytest.mark.parametrize("seconds", [0, 0.005])
def test_timeouts(where, seconds):
    """read(timeout) and write(timeout) raise TimeoutError, and hold nothing then."""
    lock = RWLock(0)

    def body():
        with pytest.raises(TimeoutError, match=rf"<RWLock-\d+ .*> could not be read within {float(seconds)} seconds"):
            lock.read(seconds).__enter__()
        with pytest.raises(TimeoutError, match=f"could not be written within {float(seconds)} seconds"):
            lock.write(seconds).__enter__()

    with ThreadGroup() as group:
        writer = Held(group, lock.write).inside()
        run_anywhere(where, body)
        writer.let_go()
    assert lock.into_inner() == 0


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), ("1", TypeError), (float("nan"), ValueError)])
def test_wrong_timeout(wrong, error):
    """A timeout must be a number of seconds from 0 up."""
    for ask in (RWLock(0).read, RWLock(0).write):
        with pytest.raises(error, match="timeout must be"):
            ask(wrong)


@WHERE
@pytest.mark.parametrize("inner", ["read", "write"])
@pytest.mark.parametrize("outer", ["read", "write"])
def test_not_reentrant(where, outer, inner):
    """Who holds it and asks again gets DeadlockError at once, also for an upgrade; it goes on holding it."""

    def body():
        holds = current_thread().holds
        lock = RWLock(0)
        with getattr(lock, outer)():
            for ask in [lock.read(5).__enter__] if inner == "read" else [lock.write().__enter__, lock.into_inner]:
                with pytest.raises(
                    DeadlockError,
                    match=rf"thread '.*'> {outer}s RWLock-\d+ \(made at .*test_rwlock.py:\d+\) already, since .*test_rwlock.py:\d+, and "
                    rf"would wait for itself to {inner} it: an RWLock is not reentrant, and cannot be upgraded",
                ):
                    ask()
            assert lock.try_read() is lock.try_write() is None
            assert lock.readers == (outer == "read")
        assert not lock.is_locked
        assert current_thread().holds == holds

    run_anywhere(where, body)


def test_empty_after_into_inner():
    """Once the value is taken out, there is nothing to hold; the lock stays free."""
    lock = RWLock(1)
    assert lock.into_inner() == 1
    for use in (
        lock.into_inner,
        lambda: lock.replace(2),
        lambda: lock.update(abs),
        lock.read().__enter__,
        lock.write().__enter__,
        lambda: lock.try_read().__enter__(),
        lambda: lock.try_write().__enter__(),
    ):
        with pytest.raises(ValueError, match=r"RWLock-\d+ .* is empty: into_inner\(\) has taken its value away"):
            use()
        assert not lock.is_locked


def test_failure_inside_lets_go():
    """However its block is left, the lock is free, and the value is as it was left."""
    lock = RWLock(1)
    for block in (lock.read(), lock.write()):
        with pytest.raises(ZeroDivisionError), block:
            1 / 0  # noqa: B018
        with move_on_after(0.002), block:
            time.sleep(3600)
    with pytest.raises(ZeroDivisionError):
        lock.update(lambda v: v / 0)
    assert lock.into_inner() == 1


def test_dropped_try_gives_it_back():
    """What try_read and try_write gave and nobody entered is given back when it is dropped, and wakes who waits."""
    holds = current_thread().holds
    lock = RWLock(1)
    with ThreadGroup() as group:
        for take in (lock.try_read, lock.try_write):
            kept = [take()]
            assert lock.is_locked
            waiter = wait_parked(group.spawn(lock.replace, 1), WRITES)
            kept.clear()
            assert waiter.result() == 1
            cycle = [take()]
            cycle.append(cycle)
            del cycle
            collect(lambda: not lock.is_locked)
    assert current_thread().holds == holds


def test_what_try_read_gave():
    """It is for one block, on its own thread."""
    lock = RWLock(1)
    block = lock.try_read()
    with pytest.raises(
        RuntimeError, match=r"cannot enter a block of RWLock-\d+ .* that .* took .*: take it on the thread that"
    ):
        run_in_vthread(block.__enter__)
    with block:
        pass
    with pytest.raises(RuntimeError, match="is for one block, and that has been entered: try again for another"):
        block.__enter__()
    assert not lock.is_locked


def test_block_of_read_is_for_one_thread_at_a_time():
    """Two readers cannot be in the block of one call; one after the other can."""
    lock = RWLock(1)
    block = lock.read()
    with (
        block,
        pytest.raises(
            RuntimeError,
            match=r"<virtual thread .*> cannot enter a block of RWLock-\d+ .* that <platform thread 'MainThread'> has entered "
            r"at .*test_rwlock.py:\d+: call read\(\) for each",
        ),
    ):
        run_in_vthread(block.__enter__)
    assert not lock.is_locked
    assert run_in_vthread(block.__enter__) == 1
    with pytest.raises(RuntimeError, match="has left a block of RWLock"):
        block.__exit__(None, None, None)
    assert not lock.is_locked


@WHERE
@pytest.mark.parametrize("how", ["read", "write"])
def test_waiting_is_interrupted_at_once(where, how):
    """Waiting is an ordinary cancel point, also if the lock is free; it takes nothing."""
    lock = RWLock(0)

    def body():
        with move_on_after(0) as scope, getattr(lock, how)():
            raise AssertionError("entered")
        assert scope.cancelled_caught
        with platform_thread(hold):
            until(lambda: lock.is_locked)
            with move_on_after(0.01) as scope, getattr(lock, how)():
                raise AssertionError("entered")
            gate.set()
        assert scope.cancelled_caught

    def hold():
        with lock.write():
            gate.wait()

    gate = threading.Event()
    run_anywhere(where, body)
    assert lock.into_inner() == 0


@pytest.mark.parametrize("how", ["read", "write"])
def test_held_while_parked(how, monkeypatch):
    """Readers, too, are told that they held it for long and waited for something else meanwhile."""
    monkeypatch.setattr(_holding, "LONG", 0.0005)
    lock = RWLock(1)

    def body():
        with (
            pytest.warns(HeldWhileParked, match=r"held RWLock-\d+ .* for 0\.\d seconds, from .*test_rwlock"),
            getattr(lock, how)(),
        ):
            time.sleep(0.002)

    run_in_vthread(body)


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_grant_and_end_of_the_wait_race(end):
    """A waiter that is let in while it is cancelled, or while its time runs out, either has it or hands it on."""

    def read():
        with lock.read() as value:
            return value

    def write():
        with suppress(TimeoutError), lock.write(None if end == "cancel" else 0.0001 * (turn % 8)):
            pass

    for turn in range(60):
        lock = RWLock(0)
        with ThreadGroup() as group:
            holder = Held(group, lock.read).inside()
            first = group.spawn(write)
            until(lambda: is_parked(first, WRITES) or first.done())
            second = group.spawn(lock.replace, 2)
            reader = group.spawn(read)
            wait_parked(second, WRITES)
            if end == "cancel":
                first.cancel()
            holder.let_go()
            assert second.result(20) == 0
            assert reader.result(20) in (0, 2)
        assert not lock.is_locked


@pytest.mark.stress
@pytest.mark.parametrize("carriers", [1, 4])
def test_exclusion_under_random_cancels(carriers):
    """Writers are alone and readers see no half of a change, whoever is cancelled or out of time at whatever moment."""
    out, _ = run_program(
        """
        import random, sys, threading, time, plait
        sys.setswitchinterval(1e-5)
        lock = plait.RWLock([0, 0])
        mutex = plait.Mutex([0, 0])
        inside, wrong = {"read": 0, "write": 0}, []
        def change(pair, random):
            pair[0] += 1
            if random.random() < 0.5:
                time.sleep(0)
            pair[1] += 1
        def work(seed, rounds):
            rng = random.Random(seed)
            for _ in range(rounds):
                with plait.move_on_after(rng.choice([0, 0.0002, 0.001, 1])):
                    try:
                        kind = rng.randrange(4)
                        timeout = rng.choice([None, None, 0.0005])
                        if kind == 0:
                            with lock.write(timeout) as pair, plait.shield(timeout=10):
                                change(pair, rng)
                        elif kind == 1:
                            with mutex.lock(timeout) as pair, plait.shield(timeout=10):
                                change(pair, rng)
                        else:
                            with lock.read(timeout) as pair:
                                seen = list(pair)
                                if rng.random() < 0.5:
                                    time.sleep(0)
                                if seen != pair or seen[0] != seen[1]:
                                    wrong.append(seen)
                    except TimeoutError:
                        pass
        threads = [threading.Thread(target=work, args=(n, 1000)) for n in range(3)]
        for thread in threads: thread.start()
        for round in range(30):
            with plait.ThreadGroup() as group:
                futures = [group.spawn(work, 100 * round + n, 10) for n in range(12)]
                for n in range(0, 12, 3):
                    time.sleep(0)
                    futures[n].cancel()
        for thread in threads: thread.join()
        a, b = lock.into_inner(), mutex.into_inner()
        print(wrong, a[0] == a[1] > 0, b[0] == b[1] > 0, lock.is_locked, lock._waiting_readers, lock._waiting_writers)
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "[] True True False {} {}\n"


def test_change_to_something_that_is_no_function():
    """A new value in place of the function is refused in words."""
    with pytest.raises(TypeError) as caught:
        RWLock(0).update(4)
    assert (
        str(caught.value) == "update needs a function from the old value to the new one, not 4: see replace() for that"
    )
