"""RLock: owned by the virtual thread, never by the kernel thread that it shares with others."""

import logging
import threading
import time

import pytest
from patch.helpers import PlatformCall, described, on_virtual, run_python, wait_parked

from plait import InternalError, ThreadGroup
from plait.patch import _rlocks
from plait.patch._rlocks import check_layout

_made_at_import = threading.RLock()


@pytest.mark.parametrize("kind", ["new", "old", "handler", "python"])
def test_two_virtual_threads_never_both_own_one(kind):
    """While one virtual thread owns an RLock no other of the same carrier gets it, made before install or after."""
    lock = {
        "new": threading.RLock,
        "old": lambda: _made_at_import,
        "handler": lambda: logging.StreamHandler().lock,
        "python": threading._PyRLock,
    }[kind]()
    is_over = threading.Event()

    def hold():
        with lock:
            is_over.wait()
            return lock._is_owned()

    def body(group):
        assert lock.acquire()
        holder = group.spawn(hold)
        others = [group.spawn(lock.acquire, blocking=False) for _ in range(4)]
        others += [group.spawn(lock.acquire, timeout=0.01) for _ in range(4)]
        others += [group.spawn(lock._is_owned) for _ in range(4)]
        assert [other.result() for other in others] == [False] * 12
        assert lock._is_owned()
        lock.release()
        assert not lock._is_owned()
        wait_parked(holder)
        assert not lock.acquire(blocking=False)
        is_over.set()
        assert holder.result() is True
        assert lock.acquire(blocking=False)
        lock.release()

    with ThreadGroup() as group:
        group.spawn(body, group)


def test_reentrant():
    """The owner may take it again, and others get it only after as many releases."""
    lock = threading.RLock()

    def body():
        for depth in range(1, 4):
            assert lock.acquire() is True
            if hasattr(lock, "_recursion_count"):
                assert lock._recursion_count() == depth
        assert lock.acquire(timeout=1)
        assert lock.acquire(blocking=False)
        for _ in range(5):
            assert not PlatformCall(lock.acquire, False).result()
            lock.release()
        call = PlatformCall(_take_and_release, lock)
        assert call.result()

    on_virtual(body)


def _take_and_release(lock):
    got = lock.acquire(timeout=10)
    lock.release()
    return got


def test_saved_and_restored():
    """What a Condition does with it: all of the owner's times are given back, and taken again, beside others of its own."""
    lock = threading.RLock()

    def body(group):
        with lock, lock:
            state = lock._release_save()
            assert not lock._is_owned()
            assert described(lock._release_save) == refused
            assert group.spawn(_take_and_release, lock).result()
            lock._acquire_restore(state)
            assert not PlatformCall(lock.acquire, False).result()
        assert not lock._is_owned()
        assert described(lock.__exit__, None, None, None)[1] == "RuntimeError"
        return PlatformCall(_take_and_release, lock).result()

    refused = described(lock._release_save)
    assert refused[1] == "RuntimeError"
    with ThreadGroup() as group:
        assert group.spawn(body, group).result()


def test_waiters_of_each_kind_are_woken_by_each_release():
    """Whoever waits for an RLock is woken, however it is given back."""
    lock = threading.RLock()
    order = []

    def give_back_by(release):
        with lock:
            others = [group.spawn(_take_and_release, lock), PlatformCall(_take_and_release, lock)]
            wait_parked(others[0])
            order.append(lock._release_save() if release == "save" else lock.release())
            assert all(other.result() for other in others)
            lock.acquire()

    with ThreadGroup() as group:
        for release in ("save", "release"):
            group.spawn(give_back_by, release).result()
    assert len(order) == 2


def test_release_by_another():
    """Who does not own it cannot release it: another virtual thread, a platform thread, anybody when it is free."""
    lock = threading.RLock()
    expected = described(lock.release)
    assert expected[1] == "RuntimeError"
    assert on_virtual(described, lock.release) == expected

    def body(group):
        with lock:
            assert group.spawn(described, lock.release).result() == expected
            assert PlatformCall(described, lock.release).result() == expected
            assert lock._is_owned()

    with ThreadGroup() as group:
        group.spawn(body, group)
    with lock:
        assert on_virtual(described, lock.release) == expected
        assert lock._is_owned()


def test_platform_thread_keeps_virtual_threads_out():
    """A virtual thread waits for an RLock of a platform thread, and the other way round."""
    lock = threading.RLock()
    with ThreadGroup() as group:
        with lock, lock:
            taker = group.spawn(_take_and_release, lock)
            wait_parked(taker)
            assert group.spawn(lock.acquire, blocking=False).result() is False
        assert taker.result() is True
        is_over = threading.Event()

        def hold():
            with lock, lock:
                is_over.wait()

        wait_parked(group.spawn(hold))
        assert not lock.acquire(timeout=0.01)
        call = PlatformCall(_take_and_release, lock)
        assert not call.is_over
        is_over.set()
        assert call.result() is True


def test_platform_thread_without_a_scope_wakes_a_virtual_one():
    """A release on a plain platform thread, by `release` or the end of a block, wakes those who are parked."""
    lock = threading.RLock()
    event = threading.Event()

    def hold():
        lock.acquire()
        lock.acquire()
        event.wait()
        lock.release()
        with lock:
            pass
        lock.release()

    call = PlatformCall(hold)
    with ThreadGroup() as group:
        while lock.acquire(blocking=False):
            lock.release()
        takers = [group.spawn(_take_and_release, lock) for _ in range(5)]
        wait_parked(*takers)
        event.set()
    call.result()
    assert all(taker.result() for taker in takers)


@pytest.mark.parametrize("notifier", ["virtual", "platform"])
def test_condition_restores_the_depth(notifier):
    """A Condition gives a recursively held RLock up for its wait, and takes it back as deep as it was."""
    lock = threading.RLock()
    condition = threading.Condition(lock)

    def wait():
        with lock, lock, condition:
            assert condition.wait(20)
            assert lock._is_owned()
            if hasattr(lock, "_recursion_count"):
                assert lock._recursion_count() == 3
            assert not PlatformCall(lock.acquire, False).result()
        assert not lock._is_owned()
        return PlatformCall(_take_and_release, lock).result()

    def notify():
        with condition, lock:
            condition.notify()

    with ThreadGroup() as group:
        waiter = group.spawn(wait)
        wait_parked(waiter)
        {"virtual": group.spawn, "platform": PlatformCall}[notifier](notify).result()
    assert waiter.result() is True


def test_condition_of_a_body_restores_the_depth():
    """The same for a body on a platform thread, which may be interrupted meanwhile."""
    lock = threading.RLock()
    condition = threading.Condition(lock)

    def notify():
        with condition:
            condition.notify()

    with ThreadGroup() as group, lock, condition:
        group.spawn(notify)
        assert condition.wait(20)
        assert lock._is_owned()
        if hasattr(lock, "_recursion_count"):
            assert lock._recursion_count() == 2
        assert group.spawn(lock.acquire, blocking=False).result() is False
    assert not lock._is_owned()


def test_cancelled_condition_wait_holds_the_lock_again():
    """Whoever is cancelled in `Condition.wait` owns the RLock as deep as before until its blocks end."""
    condition = threading.Condition()
    seen = []

    def wait():
        with condition, condition:
            try:
                condition.wait()
            finally:
                seen.append(condition._is_owned())
        seen.append(condition._is_owned())

    with ThreadGroup() as group:
        waiter = group.spawn(wait)
        wait_parked(waiter)
        with condition:
            waiter.cancel()
    assert waiter.cancelled()
    assert seen == [True]
    assert condition.acquire(blocking=False)
    condition.release()


def test_counts_under_contention():
    """No count is lost among many threads of both kinds that nest."""
    lock = threading.RLock()
    total = 0

    def count():
        nonlocal total
        for _ in range(100):
            with lock:
                with lock:
                    seen = total
                    time.sleep(0)
                total = seen + 1

    calls = [PlatformCall(count) for _ in range(2)]
    with ThreadGroup() as group:
        for _ in range(10):
            group.spawn(count)
    for call in calls:
        call.result()
    assert total == 1200


def test_lock_of_logging_made_before_install():
    """Records of many virtual threads go one at a time through a handler that existed before plait ran."""
    code = """
        import io, logging, time

        class Slow(io.StringIO):
            inside = 0
            def write(self, text):
                self.inside += 1
                assert self.inside == 1, "two threads in one handler"
                time.sleep(0.001)
                self.inside -= 1
                return super().write(text)

        stream = Slow()
        logging.basicConfig(stream=stream, level=logging.INFO, format="%(threadName)s %(message)s")
        logging.raiseExceptions = True

        import plait
        with plait.ThreadGroup() as group:
            for number in range(50):
                group.spawn(logging.info, "number %d", number)
        lines = stream.getvalue().splitlines()
        assert sorted(int(line.split()[-1]) for line in lines) == list(range(50)), lines
        assert len({line.split()[0] for line in lines}) == 50, lines
        print("done")
    """
    assert run_python(code, PLAIT_CARRIERS="1") == "done\n"


def test_layout_that_is_unknown(monkeypatch):
    """Where an RLock is not what plait takes it for, in use or after it, plait refuses to run, and says on what account."""
    check_layout()
    for name, says in (("rlock_read", (0, 0)), ("rlock_owner", 1)):
        with monkeypatch.context() as patched:
            patched.setattr(_rlocks, name, lambda lock, says=says: says)
            with pytest.raises(InternalError) as caught:
                check_layout()
        assert str(caught.value) == (
            "the RLock of this interpreter is laid out in an unknown way: plait cannot run on it"
        )
