"""`multiprocessing`'s locks and semaphores: owned by the virtual thread, shared with processes, lost to no cancel."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import nullcontext

import pytest
from patch.helpers import described, is_parked, on_virtual, wait_parked, wait_until

import plait
from plait import ThreadGroup, _native
from plait._core import WaitReason
from plait.patch import _semaphores

CONTEXT = multiprocessing.get_context("fork")
KINDS = {"lock": CONTEXT.Lock, "rlock": CONTEXT.RLock, "semaphore": CONTEXT.Semaphore}


@pytest.fixture(autouse=True)
def leaves_no_record():
    """No thread waits for a semaphore after the test, nor does a kernel thread do so for one."""
    yield
    wait_until(lambda: not _semaphores._contended)


def _value(lock):
    return lock._semlock._get_value()


@pytest.fixture
def other_process():
    """Calls in a forked process, one after the other: `other_process(fn, *args)`, with its result."""
    near, far = CONTEXT.Pipe()

    def serve():
        near.close()
        while True:
            try:
                fn, args = calls[far.recv()]
            except EOFError:
                os._exit(0)
            far.send(fn(*args))

    calls = {}
    pids = []

    def begin(**named):
        calls.update(named)
        pid = os.fork()
        if not pid:
            try:
                serve()
            finally:
                os._exit(1)
        pids.append(pid)

        def call(name):
            near.send(name)
            return near.recv()

        return call

    yield begin
    far.close()
    near.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_at_a_time(kind):
    """Threads of both kinds take turns, on every carrier."""
    lock, inside, most = KINDS[kind](), [], []

    def work():
        for _ in range(20):
            with lock:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    platform = [threading.Thread(target=work) for _ in range(2)]
    with ThreadGroup() as group:
        for thread in platform:
            thread.start()
        for _ in range(10):
            group.spawn(work)
    for thread in platform:
        thread.join()
    assert most == [1] * 12 * 20
    assert _value(lock) == 1


def test_rlock_is_owned_by_the_virtual_thread():
    """Its owner may take it again, another virtual thread of the same carrier may not, nor give it back."""
    lock = CONTEXT.RLock()
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with lock, lock:
            assert lock._semlock._is_mine()
            assert lock._semlock._count() == 2
            is_held.set()
            is_over.wait()
            assert lock._semlock._is_mine()
        assert not lock._semlock._is_mine()

    def try_it():
        assert not lock._semlock._is_mine()
        return lock.acquire(False), lock.acquire(True, 0.02), described(lock.release)

    with ThreadGroup() as group:
        holder = group.spawn(hold)
        is_held.wait()
        refused = ("raised", "AssertionError", "attempt to release recursive lock not owned by thread")
        assert {group.spawn(try_it).result() for _ in range(8)} == {(False, False, refused)}
        assert try_it() == (False, False, refused)
        is_over.set()
    holder.result()
    wait_until(lambda: not _semaphores._contended)
    assert lock.acquire(False)
    assert lock._semlock._is_mine()
    assert on_virtual(lock.acquire, False) is False
    lock.release()
    assert _value(lock) == 1


def test_refusals_and_timeouts():
    """Times that are over, arguments that are wrong, and one release too many are as ever."""
    calls = [
        lambda lock: lock.acquire(False),
        lambda lock: lock.acquire(True, 0),
        lambda lock: lock.acquire(True, -1),
        lambda lock: lock.acquire(timeout=0.01),
        lambda lock: lock.acquire(block=True, timeout=0.01),
        lambda lock: lock.acquire(True, "x"),
        lambda lock: (lock.release(), lock.release()),
    ]
    for call in calls:
        locks = CONTEXT.Lock(), CONTEXT.Lock()
        for lock in locks:
            lock.acquire()
        assert on_virtual(described, call, locks[0]) == described(call, locks[1])
        assert _value(locks[0]) == _value(locks[1])


class Index:
    """Something that is only like an int."""

    def __index__(self):
        return 0

    def __repr__(self):
        return "index"


class Number:
    """Something that is only like a float."""

    def __float__(self):
        return 0.0

    def __repr__(self):
        return "number"


@pytest.mark.parametrize("timeout", [Index(), Number(), "0", b"0", float("nan"), -1], ids=repr)
@pytest.mark.parametrize("value", [0, 1])
def test_odd_timeouts(timeout, value):
    """They are taken or refused as on any thread, and what is taken is told."""
    ours, theirs = CONTEXT.Semaphore(value), CONTEXT.Semaphore(value)
    assert on_virtual(described, ours.acquire, True, timeout) == described(theirs.acquire, True, timeout)
    assert ours.get_value() == theirs.get_value()


def test_cancelled_waiters_take_nothing():
    """What is released after all waiters were cancelled is there for others, whoever was waiting on their behalf."""
    semaphore = CONTEXT.Semaphore(0)
    with ThreadGroup() as group:
        waiters = [group.spawn(semaphore.acquire) for _ in range(20)]
        wait_parked(*waiters)
        for waiter in waiters:
            waiter.cancel()
    assert all(waiter.cancelled() for waiter in waiters)
    semaphore.release()
    wait_until(lambda: not _semaphores._contended)
    assert _value(semaphore) == 1


def test_release_that_meets_a_cancel():
    """Of a waiter that is cancelled and a release at the same time, nothing is lost and nothing is made up."""
    semaphore = CONTEXT.Semaphore(0)
    taken = []

    def take():
        semaphore.acquire()
        taken.append(1)

    for number in range(60):
        with ThreadGroup() as group:
            waiters = [group.spawn(take) for _ in range(2)]
            wait_parked(*waiters)
            steps = [semaphore.release, waiters[number % 2].cancel]
            for step in steps if number % 4 < 2 else reversed(steps):
                step()
            wait_until(waiters[number % 2].done)
            wait_until(lambda: taken or _value(semaphore))
            for waiter in waiters:
                waiter.cancel()
        wait_until(lambda: not _semaphores._contended)
        assert len(taken) + _value(semaphore) == 1
        if not taken:
            assert semaphore.acquire(False)
        taken.clear()


def test_release_in_another_process(other_process):
    """Who waits here hears of what is released there, each once; the pool has no part in it."""
    semaphore = CONTEXT.Semaphore(0)
    call = other_process(release=(semaphore.release, ()), value=(_value, (semaphore,)))
    with ThreadGroup() as group:
        waiters = [group.spawn(semaphore.acquire) for _ in range(200)]
        wait_parked(*waiters)
        assert plait.offload_statistics().workers - plait.offload_statistics().idle <= 4
        for count in (1, 2, 3):
            call("release")
            wait_until(lambda count=count: sum(waiter.done() for waiter in waiters) == count)
        waiting = [waiter for waiter in waiters if not waiter.done()]
        waiting[0].cancel()
        wait_until(waiting[0].done)
        for _ in waiting[1:]:
            call("release")
    assert sum(waiter.cancelled() for waiter in waiters) == 1
    assert all(waiter.cancelled() or waiter.result() for waiter in waiters)
    assert call("value") == 0


def test_lock_held_by_another_process(other_process):
    """A lock that another process holds is waited for, and that one waits for ours."""
    lock = CONTEXT.Lock()
    call = other_process(acquire=(lock.acquire, (True, 20)), release=(lock.release, ()))
    assert call("acquire")
    with ThreadGroup() as group:
        waiters = [group.spawn(lambda: lock.acquire() and lock.release()) for _ in range(10)]
        wait_parked(*waiters)
        call("release")
    with lock, ThreadGroup() as group:
        theirs = group.spawn(call, "acquire")
        wait_parked(theirs)
        lock.release()
        assert theirs.result()
        call("release")
        lock.acquire()


def test_waiting_for_a_lock_is_patient():
    """A cancelled thread gets its lock if that comes within the grace, and no longer waits after it."""
    lock = CONTEXT.Lock()
    for kept in (False, True):
        lock.acquire()
        with ThreadGroup(grace=0.1 if kept else 5) as group:
            got = []
            waiter = group.spawn(lambda got=got: got.append(lock.acquire()))
            wait_parked(waiter)
            waiter.cancel()
            if not kept:
                wait_parked(waiter)
                lock.release()
        assert got == ([] if kept else [True])
        assert waiter.cancelled() is kept
        lock.release()


def test_getters_of_a_queue_are_interrupted_at_once():
    """A getter holds a lock while it waits for an item, and the others wait for that lock: not patiently."""
    numbers = CONTEXT.SimpleQueue()
    with ThreadGroup() as group:
        first = group.spawn(numbers.get)
        wait_until(lambda: is_parked(first) and first.waits_for is WaitReason.READABLE)
        others = [group.spawn(numbers.get) for _ in range(5)]
        wait_until(lambda: all(is_parked(other) and other.waits_for is WaitReason.SEMAPHORE for other in others))
        for other in others[1:]:
            other.cancel()
        wait_until(lambda: all(other.done() for other in others[1:]), 2)
        numbers.put(1)
        numbers.put(2)
        assert {first.result(), others[0].result()} == {1, 2}
    numbers.close()


def test_condition():
    """Waiters of both kinds are notified; one that is cancelled gets the lock back first, though it is held long."""
    condition = CONTEXT.Condition()
    log = []

    def wait():
        with condition:
            try:
                log.append(condition.wait())
            finally:
                log.append(condition._lock._semlock._is_mine())

    platform = threading.Thread(target=wait)
    platform.start()
    with ThreadGroup(grace=0.05) as group:
        waiters = [group.spawn(wait) for _ in range(3)]
        wait_until(lambda: condition._sleeping_count._semlock._get_value() == 4)
        with condition:
            waiters[0].cancel()
            wait_until(lambda: is_parked(waiters[0]) and waiters[0].waits_for is WaitReason.SEMAPHORE)
            time.sleep(0.1)  # longer than the grace
            assert not waiters[0].done()
        wait_until(waiters[0].done)
        assert log == [True]
        with condition:
            condition.notify_all()
        platform.join()
    assert log == [True] * 7
    assert waiters[0].cancelled()
    assert on_virtual(_timed, condition) is False


def _timed(condition):
    with condition:
        return condition.wait(0.01)


def test_signal_handler_during_a_wait():
    """On the main thread, with a scope open, handlers run, and may raise out of a wait that then has taken nothing."""
    semaphore = CONTEXT.Semaphore(0)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    former = signal.signal(signal.SIGALRM, stop)
    try:
        with plait.move_on_after(60):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Stop):
                semaphore.acquire()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    semaphore.release()
    wait_until(lambda: not _semaphores._contended)
    assert _value(semaphore) == 1


@pytest.fixture
def slow_taker(monkeypatch):
    """Whoever takes semaphores for others keeps each for a while: (it has one, it may go on)."""
    has_one, may_go_on = threading.Event(), threading.Event()
    take = _semaphores.sem_await_for

    def take_slowly(*args):
        has_got = take(*args)
        if has_got:
            has_one.set()
            may_go_on.wait()
        return has_got

    monkeypatch.setattr(_semaphores, "sem_await_for", take_slowly)
    yield has_one, may_go_on
    may_go_on.set()


def _sees_what_is_left(condition, timeout, log):
    """Wait for a condition; then how often its semaphore can be taken, as who has notified finds it then."""
    try:
        with condition:
            log.append(condition.wait(timeout))
    finally:
        log.append(_value(condition._wait_semaphore))


def _wait_asked(semaphore, waiter):
    """Return as soon as a waiter has asked whoever takes the semaphore for it to be counted out, or is over."""

    def has_left():
        contended = _semaphores._contended.get(semaphore.handle)
        return waiter.done() or (contended is not None and contended.asked.value() > 0)

    wait_until(has_left)


@pytest.mark.parametrize("timeout", [None, 0.05], ids=["cancelled", "late"])
def test_notification_that_comes_as_the_waiter_gives_up(slow_taker, timeout):
    """It is in nobody's hands when the waiter says that it is over: its wait is complete."""
    condition, log = CONTEXT.Condition(), []
    has_one, may_go_on = slow_taker
    semaphore = condition._wait_semaphore._semlock
    with ThreadGroup() as group:
        while (
            not has_one.is_set()
        ):  # on a busy machine its time may be over before the notification comes: once more, then
            log.clear()
            waiter = group.spawn(_sees_what_is_left, condition, timeout, log)
            wait_until(lambda waiter=waiter: waiter.done() or is_parked(waiter))
            _native.sem_post(semaphore.handle)  # as another process does, which does not wake our waiters
            wait_until(lambda waiter=waiter: waiter.done() or has_one.is_set())
            if waiter.done():
                assert semaphore.acquire(False)
        if timeout is None:
            waiter.cancel()
        _wait_asked(semaphore, waiter)
        assert not waiter.done()
        may_go_on.set()
    assert log == [True, 0]
    assert not semaphore.acquire(False)


def test_notification_that_comes_as_two_give_up(slow_taker):
    """One of them has it, and the other has nothing."""
    condition, log = CONTEXT.Condition(), []
    has_one, may_go_on = slow_taker
    semaphore = condition._wait_semaphore._semlock
    with ThreadGroup() as group:
        waiters = [group.spawn(_sees_what_is_left, condition, None, log) for _ in range(3)]
        wait_until(lambda: _value(condition._sleeping_count) == 3)
        wait_parked(*waiters)
        _native.sem_post(semaphore.handle)
        has_one.wait()
        for waiter in waiters[:2]:
            waiter.cancel()
            _wait_asked(semaphore, waiter)
        wait_until(lambda: _semaphores._contended[semaphore.handle].asked.value() == 2)
        may_go_on.set()
        wait_until(lambda: log.count(0) == 2)
        assert sorted(log) == [0, 0, True]
        assert not waiters[2].done()
        semaphore.release()
    assert sorted(log) == [0, 0, 0, True, True]


@pytest.mark.parametrize("how", ["late", "cancelled"])
def test_condition_whose_waiters_give_up(other_process, how):
    """Beside those who come too late, or are cancelled, each notification finds the condition as it left it."""
    condition = CONTEXT.Condition()

    def notify():
        for _ in range(300):
            with condition:
                condition.notify()
        return "fine"

    call = other_process(notify=(notify, ()))
    is_over = threading.Event()

    def wait(number):
        while not is_over.is_set():
            with plait.move_on_after(0.001 * number) if how == "cancelled" else nullcontext(), condition:
                condition.wait(None if how == "cancelled" else 0.001 * number)

    with ThreadGroup() as group:
        for number in range(1, 6):
            group.spawn(wait, number)
        assert call("notify") == "fine"
        assert notify() == "fine"
        is_over.set()
        with condition:
            condition.notify_all()
    wait_until(lambda: not _semaphores._contended)
    assert _value(condition._wait_semaphore) == 0


def test_condition_is_not_late():
    """Who waits for a condition with a time limit does not wait for longer on account of whoever takes it for others."""
    condition = CONTEXT.Condition()

    def wait():
        with condition:
            begun = time.monotonic()
            assert not condition.wait(0.002)
            return time.monotonic() - begun

    with ThreadGroup() as group:
        assert min(group.spawn(wait).result() for _ in range(20)) < _semaphores._SLICE
