"""cancel_at_park: code is cancelled at the k-th place where anything in it waits."""

from __future__ import annotations

import queue
import re
import subprocess
import sys
import threading
import time

import pytest
from support import run_anywhere, run_in_vthread, until

from plait import Cancelled, ThreadGroup, _native, checkpoint, move_on_after, shield, timeout
from plait._core import _parking, current_thread, observe_parks, runtime, unobserve_parks
from plait.testing import cancel_at_park, every_park

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def nap():
    time.sleep(0.0001)


# ---- counting


@WHERE
@pytest.mark.parametrize("k", [1, 2, 3])
def test_body_is_cancelled_at_its_kth_park(where, k):
    """The k-th wait of the body raises Cancelled, which ends the block quietly; those before it have gone well."""

    def body():
        done = []
        with cancel_at_park(k) as scope:
            for number in range(1, 6):
                nap()
                done.append(number)
        assert done == list(range(1, k))
        assert (scope.parks, scope.was_reached, scope.cancelled_caught) == (k, True, True)

    run_anywhere(where, body)


@WHERE
def test_number_that_is_not_reached(where):
    """A block that parks less often ends as if nothing had been there."""

    def body():
        with cancel_at_park(4) as scope:
            for _ in range(3):
                nap()
        assert (scope.parks, scope.was_reached, scope.cancelled_caught) == (3, False, False)
        nap()  # outside it nothing is counted
        assert scope.parks == 3

    run_anywhere(where, body)


def test_what_does_not_wait_does_not_count():
    """Free locks, full queues, sleep(0) and checkpoints are no parks."""

    def body():
        lock = threading.Lock()
        items = queue.SimpleQueue()
        with cancel_at_park(1) as scope:
            with lock:
                items.put(1)
            items.get()
            time.sleep(0)
            checkpoint()
        assert (scope.parks, scope.was_reached) == (0, False)

    run_in_vthread(body)


def test_threads_below_are_counted():
    """Parks in groups below it count, however deep; a cancel there reaches everybody under the scope."""
    outcomes = []

    def leaf(scope):
        until(lambda: scope.parks == 2)
        try:
            time.sleep(3600)
        except Cancelled as cancel:
            outcomes.append(cancel)
            raise

    def branch(scope):
        with ThreadGroup() as group:
            group.spawn(leaf, scope)

    def body():
        with cancel_at_park(3) as scope, ThreadGroup() as group:
            group.spawn(branch, scope)
        return scope

    scope = run_in_vthread(body)
    assert scope.cancelled_caught
    assert scope.parks == 3
    (cancel,) = outcomes
    assert cancel.source is scope
    assert re.fullmatch(r"park number 3 \(SLEEP\) of '.*leaf-\d+'", cancel.reason)


def test_platform_thread_below_is_counted():
    """A group opened on a platform thread is under the scope of that thread."""

    def body():
        with cancel_at_park(2) as scope:
            nap()
            with ThreadGroup() as group:
                group.spawn(int)
                time.sleep(3600)
        return scope

    scope = run_anywhere("platform", body)
    assert scope.cancelled_caught


def test_threads_elsewhere_are_not_counted():
    """Neighbours, and threads of groups around the scope, park uncounted and are not cancelled."""

    def body():
        with ThreadGroup() as around:
            with cancel_at_park(1) as scope:
                spawned = around.spawn(nap)
                until(spawned.done)
            assert scope.parks == 0
        return spawned.cancelled()

    assert run_in_vthread(body) is False


def test_end_of_a_group_counts():
    """Waiting for children is a park; the cancel goes past it to the children."""

    def body():
        gate = threading.Event()
        with cancel_at_park(1) as scope, ThreadGroup() as group:
            child = group.spawn(gate.wait)
        return scope, child

    scope, child = run_in_vthread(body)
    assert scope.was_reached
    assert child.cancelled()


def test_wait_for_a_slot_counts():
    """So is a spawn into a full group, by the body and by a member."""

    def reached(k):
        with cancel_at_park(k) as scope, ThreadGroup(max_concurrency=1) as group:
            group.spawn(nap)
            group.spawn(group.spawn, int)
        return scope.was_reached

    def body():
        k = 1
        while reached(k):
            k += 1
        return k - 1

    assert run_in_vthread(body) >= 3


def test_two_scopes_count_by_themselves():
    """Scopes nest: each counts what is under it, and the outer one's cancel passes the inner one."""

    def body():
        with cancel_at_park(2) as outer:
            nap()
            with cancel_at_park(2) as inner:
                nap()
        assert (outer.parks, outer.cancelled_caught) == (2, True)
        assert (inner.parks, inner.was_reached, inner.cancelled_caught) == (1, False, False)

    run_in_vthread(body)


@pytest.mark.slow
def test_one_thread_alone_reaches_the_number():
    """With many threads parking at a time every park is counted, and one alone is the k-th."""

    def child():
        for _ in range(20):
            nap()

    for k in (1, 50, 500, 5000):
        with cancel_at_park(k) as scope, ThreadGroup() as group:
            for _ in range(100):
                group.spawn(child)
        assert scope.was_reached is (k < 5000)
        assert scope.parks >= min(k, 2000)
        if k == 5000:
            assert scope.parks in (2000, 2001)  # the body's, at the end of the group


# ---- delivery


@WHERE
@pytest.mark.parametrize("kind", ["lock", "rlock"])
def test_lock_is_waited_for_within_the_grace(where, kind):
    """A wait for a lock gets the lock, if that comes within the grace; the cancel comes at the next cancel point."""
    lock = threading.Lock() if kind == "lock" else threading.RLock()
    held = threading.Event()
    scopes = []

    def holder():
        with lock:
            held.set()
            until(lambda: scopes and scopes[0].was_reached)

    def body():
        with ThreadGroup() as group:
            group.spawn(holder)
            held.wait()
            with cancel_at_park(1) as scope:
                scopes.append(scope)
                with lock:
                    pass
                time.sleep(3600)
        return scope

    assert run_anywhere(where, body).cancelled_caught


@WHERE
def test_lock_is_given_up_when_there_is_no_grace(where):
    """With a grace of 0 the very wait for the lock is cancelled."""
    lock = threading.Lock()

    def body():
        with lock, cancel_at_park(1, grace=0) as scope:
            lock.acquire()
        return scope

    scope = run_anywhere(where, body)
    assert scope.cancelled_caught
    assert scope.parks == 1


def test_shielded_park():
    """A park under a shield counts, and goes on; the cancel comes after the shield."""

    def body():
        done = []
        with cancel_at_park(1) as scope:
            with shield(timeout=60):
                nap()
                done.append("shielded")
            nap()
            done.append("not")
        return done, scope

    done, scope = run_in_vthread(body)
    assert done == ["shielded"]
    assert scope.cancelled_caught


def test_clean_up_may_park():
    """Clean-up after the cancel parks within the grace, and is counted."""

    def body():
        with cancel_at_park(1) as scope:
            try:
                nap()
            finally:
                nap()
                done.append(time.monotonic())
        return scope

    done = []
    scope = run_in_vthread(body)
    assert done
    assert scope.parks >= 2
    assert scope.cancelled_caught


def test_cancel_from_outside_leaves_the_block():
    """A cancel of a scope around it is not its own."""

    def body():
        with move_on_after(0.001) as around:
            with cancel_at_park(2) as scope:
                time.sleep(3600)
        return around.cancelled_caught, scope.was_reached, scope.cancelled_caught

    assert run_in_vthread(body) == (True, False, False)


def test_end_is_a_cancel_point_of_the_scopes_around():
    """A cancel that has come meanwhile is noticed at the end of the block."""
    with ThreadGroup() as group:
        with pytest.raises(Cancelled):
            with cancel_at_park(1):
                group.cancel()


def test_other_errors_leave_as_they_are():
    """What the block raises is raised."""
    with pytest.raises(KeyError):
        with cancel_at_park(1):
            raise KeyError


def test_numbers_repeat():
    """The k-th park is the same on each run: same thread, same reason, after the same steps."""

    def sweep():
        seen = []
        for attempt in every_park():
            steps = []
            lock = threading.Lock()
            barrier = threading.Barrier(4)

            def worker(name):
                for step in range(10):
                    with lock:
                        time.sleep(0)
                        steps.append((name, step))
                barrier.wait()
                steps.append(name)

            with attempt, ThreadGroup() as group:
                for name in range(4):
                    group.spawn(worker, name)
            reason = attempt.cancel_reason if attempt.was_reached else "none"
            seen.append((reason.partition("-")[0], attempt.parks, steps))
        return seen

    def body():
        if len(runtime.carriers) > 1:
            pytest.skip("the order of threads on several carriers is nobody's")
        first = sweep()
        assert len(first) > 10
        for number in range(1, 20):
            with ThreadGroup() as others:  # whatever has run before
                for _ in range(number):
                    others.spawn(nap)
            assert sweep() == first

    run_in_vthread(body)


# ---- sweeps


@WHERE
def test_every_park(where):
    """The sweep ends with the first attempt that is not cut short."""

    def body():
        done = []
        for attempt in every_park():
            with attempt as scope:
                assert scope is attempt
                nap()
                nap()
            done.append(attempt.cancelled_caught)
        assert done == [True, True, False]

    run_anywhere(where, body)


def test_sweep_hands_on_its_grace():
    """`grace` is that of each attempt."""
    assert [
        attempt.grace for attempt in every_park(grace=0.5) if not attempt.__enter__().__exit__(None, None, None)
    ] == [0.5]


def test_sweep_whose_block_is_not_entered():
    """A sweep that would never end says so."""
    with pytest.raises(RuntimeError) as caught:
        for _ in every_park():
            pass
    assert str(caught.value) == (
        "cancel_at_park(1) was given for a block, and that was not entered: write "
        "`for attempt in every_park():` and in it `with attempt:` around the code"
    )


# ---- misuse, and what is left behind


@pytest.mark.parametrize(
    ("k", "kind", "sentence"),
    [
        ("1", TypeError, "cancel_at_park needs the number of a park, a whole number, not '1'"),
        (True, TypeError, "cancel_at_park needs the number of a park, a whole number, not True"),
        (1.0, TypeError, "cancel_at_park needs the number of a park, a whole number, not 1.0"),
        (0, ValueError, "cancel_at_park counts parks from 1 up, and there is none with the number 0"),
    ],
)
def test_wrong_number(k, kind, sentence):
    """The number of the park is a whole number from 1 up."""
    with pytest.raises(kind) as caught:
        cancel_at_park(k)
    assert str(caught.value) == sentence


def test_wrong_grace():
    """The grace is a number of seconds."""
    with pytest.raises(ValueError, match="grace must be 0 or more seconds, not -1"):
        cancel_at_park(1, grace=-1)


def test_used_twice():
    """A scope is used once."""
    with cancel_at_park(1) as scope:
        pass
    with pytest.raises(RuntimeError) as caught:
        scope.__enter__()
    assert str(caught.value) == "cancel_at_park(1) was entered before: it is used once, make a new one"


def test_nobody_watches_afterwards():
    """Scopes that have ended are told nothing any more, those that a generator has left open included."""

    def suspended():
        with cancel_at_park(1) as scope:
            yield scope

    def body():
        with pytest.raises(ExceptionGroup, match="1 failed"), ThreadGroup():
            generator = suspended()
            next(generator)
        with pytest.raises(RuntimeError, match="is not open|must be closed"):
            generator.close()

    run_in_vthread(body)
    with cancel_at_park(1):
        assert len(_parking._observers) == 1
    assert _parking._observers == []


@WHERE
def test_scope_that_is_left_open_inside(where):
    """The block ends it, raises, and is over: it is nobody's scope any more, and counts nothing."""

    def suspended():
        with timeout(3600):
            yield

    def body():
        before = current_thread().scope
        generator = suspended()
        with pytest.raises(RuntimeError, match=r"cancel_at_park\(1\) must end after .* timeout\(3600\) was left open"):
            with cancel_at_park(1):
                next(generator)
        assert current_thread().scope is before
        assert _parking._observers == []
        with pytest.raises(RuntimeError):
            generator.close()

    run_anywhere(where, body)


def test_handler_that_keeps_it_from_beginning(monkeypatch):
    """It counts nothing then, nor does anybody look whether it does."""

    def handle():
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(_native, "check_signals", handle)
    with pytest.raises(KeyboardInterrupt):
        cancel_at_park(1).__enter__()
    assert current_thread().scope is None
    with cancel_at_park(1) as scope:
        nap()
    assert scope.cancelled_caught


@WHERE
@pytest.mark.parametrize("kind", ["sleep", "lock"])
def test_observer_that_is_interrupted(where, kind):
    """A signal handler may raise while a park is announced: that wait is over, and later ones are as ever."""

    lock = threading.Lock()
    lock.acquire()

    def wait():
        nap() if kind == "sleep" else lock.acquire(timeout=0.0001)

    def interrupted(thread, reason):
        raise KeyboardInterrupt

    def body():
        with ThreadGroup():
            observe_parks(interrupted)
            try:
                with pytest.raises(KeyboardInterrupt):
                    wait()
            finally:
                unobserve_parks(interrupted)
            wait()
            wait()

    run_anywhere(where, body)


def test_import_plait_leaves_it_out():
    """`import plait` does not import plait.testing."""
    code = "import plait, sys; assert 'plait.testing' not in sys.modules; import plait.testing"
    subprocess.run([sys.executable, "-c", code], check=True)
