"""shield, deadline, reschedule, checkpoint, cancelled, current_deadline: scopes, and what a thread may ask about them."""

from __future__ import annotations

import queue
import threading
import time
from math import inf

import pytest
from support import run_anywhere, run_in_vthread, until, wait_parked

from plait import (
    Cancelled,
    ThreadGroup,
    cancelled,
    checkpoint,
    current_deadline,
    deadline,
    move_on_after,
    shield,
    timeout,
)
from plait._core import current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def sleep_forever():
    time.sleep(3600)


# ---- shields


@WHERE
def test_shield_hides_a_cancel_until_it_ends(where):
    """What is inside goes on to the end; the cancel comes at the next cancel point after it."""

    def body():
        trace = []
        with ThreadGroup() as group:
            group.cancel()
            with shield(timeout=3600):
                trace.append(cancelled())
                time.sleep(0.001)
                with ThreadGroup() as inner:
                    inner.spawn(time.sleep, 0.001)
                trace.append("done")
            trace.append(cancelled())
            try:
                time.sleep(0)
            except Cancelled:
                trace.append("noticed")
                raise
        assert trace == [False, "done", True, "noticed"]

    run_anywhere(where, body)


@WHERE
def test_shield_ends_with_its_time(where):
    """When the shield's time has passed, a wait inside is interrupted."""

    def body():
        trace = []
        with ThreadGroup() as group:
            group.cancel()
            try:
                with shield(timeout=0.01):
                    sleep_forever()
            except Cancelled:
                trace.append("cut off")
                raise
        assert trace == ["cut off"]

    run_anywhere(where, body)


def test_shield_that_was_parked_in_before_the_cancel():
    """A cancel that comes while a thread waits inside a shield is noticed when the shield's time has passed."""
    trace = []

    def work():
        with shield(timeout=0.03):
            trace.append("in")
            sleep_forever()
        trace.append("never")

    with ThreadGroup() as group:
        future = group.spawn(work)
        wait_parked(future)
        group.cancel()
    assert trace == ["in"]
    assert future.cancelled()


def test_shield_without_a_cancel_changes_nothing():
    """Its time may pass: without a cancel the block goes on, and waits on without burning its carrier."""

    def work():
        with shield(timeout=0.001):
            before = time.thread_time()
            time.sleep(0.05)
            return time.thread_time() - before

    assert run_in_vthread(work) < 0.03


def test_scopes_inside_a_shield_work():
    """A time limit inside a shield ends its own block."""

    is_cancelled = threading.Event()

    def work():
        with shield(timeout=3600):
            is_cancelled.wait()
            with move_on_after(0.005) as scope:
                sleep_forever()
        return scope.cancelled_caught

    with ThreadGroup() as group:
        future = group.spawn(work)
        wait_parked(future)
        group.cancel()
        is_cancelled.set()
    assert future.result() is True


def test_outer_shield_holds_when_the_inner_has_passed():
    """Of nested shields each hides for its own time."""
    trace = []
    is_cancelled = threading.Event()

    def work():
        with shield(timeout=3600), shield(timeout=0):
            is_cancelled.wait()
            trace.append("hidden by the outer one")

    with ThreadGroup() as group:
        wait_parked(group.spawn(work))
        group.cancel()
        is_cancelled.set()
    assert trace == ["hidden by the outer one"]


def test_outer_shield_bounds_a_wait_when_the_inner_has_passed():
    """After the inner one, the outer one says when to look again."""

    def work():
        with shield(timeout=0.01), shield(timeout=0):
            sleep_forever()

    with ThreadGroup() as group:
        future = group.spawn(work)
        wait_parked(future)
        group.cancel()
    assert future.cancelled()


def test_shield_in_clean_up_ends_with_the_grace():
    """A shield asked for during clean-up lasts no longer than the clean-up may."""
    trace = []

    def work():
        try:
            sleep_forever()
        finally:
            try:
                with shield(timeout=3600):
                    sleep_forever()
            except Cancelled:
                trace.append("cut off")
                raise

    with ThreadGroup(grace=0.02) as group:
        wait_parked(group.spawn(work))
        group.cancel()
    assert trace == ["cut off"]


def test_completed_work_in_a_shield_is_kept():
    """The end of a shield is no cancel point: what the block has got is not lost."""
    items = queue.Queue()

    def work():
        with shield(timeout=3600):
            got = items.get()
        return got

    with ThreadGroup() as group:
        future = group.spawn(work)
        wait_parked(future)
        group.cancel()
        items.put("item")
    assert future.result() == "item"


def test_shield_misuse():
    """Wrong times, and a shield used twice, are refused in words."""
    with pytest.raises(TypeError, match="timeout must be a number of seconds, not None"):
        shield(timeout=None)
    with pytest.raises(ValueError, match="timeout must be 0 or more seconds, not -1"):
        shield(timeout=-1)
    for misplaced in ((), (5,)):
        with pytest.raises(TypeError) as caught:
            shield(*misplaced)
        assert str(caught.value) == "a shield needs its limit by name, in seconds: write shield(timeout=5)"
    once = shield(timeout=1)
    with once:
        pass
    with pytest.raises(RuntimeError) as caught, once:
        pass
    assert str(caught.value) == "shield(timeout=1) was entered before: a shield is used once, make a new one"


# ---- deadlines


@WHERE
def test_deadline(where):
    """A block is cut short when the instant has come, wherever it stands, and at once if it is past."""

    def body():
        with pytest.raises(TimeoutError, match="not done before the deadline"), deadline(time.monotonic() + 0.01):
            sleep_forever()
        with pytest.raises(TimeoutError), deadline(time.monotonic() - 1):
            time.sleep(0)
        for never in (inf, 10**400):
            with deadline(never):
                time.sleep(0)
        with pytest.raises(TimeoutError), deadline(-(10**400)):
            time.sleep(0)

    run_anywhere(where, body)


@pytest.mark.parametrize("at", [None, "soon", True, float("nan")])
def test_deadline_wants_an_instant(at):
    """What is no number is refused in words."""
    with pytest.raises(TypeError, match=r"deadline needs an instant of time\.monotonic\(\), a number, not"):
        deadline(at)


@WHERE
def test_reschedule(where):
    """A limit is moved nearer, farther, and away, from inside its block."""

    def body():
        with move_on_after(60) as scope:
            assert scope.reschedule(3600)
            assert 3500 < current_deadline() - time.monotonic() <= 3600
            assert scope.reschedule(None)
            assert current_deadline() == inf
            assert scope.reschedule(0.005)
            sleep_forever()
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError, match=r"within 0\.002 seconds"), timeout(3600) as limit:
            limit.reschedule(0.002)
            sleep_forever()

    run_anywhere(where, body)


def test_reschedule_comes_too_late():
    """Once the block is cut short it stays so."""
    with move_on_after(0) as scope:
        assert scope.reschedule(10) is False
        time.sleep(0)
    assert scope.cancelled_caught


def test_reschedule_elsewhere_is_refused():
    """Before and after the block, and on another thread, there is nothing to move."""
    scope = move_on_after(10)

    def refuse():
        text = r"move_on_after\(10\) can be rescheduled inside its block alone, by the thread that entered it"
        with pytest.raises(RuntimeError, match=text):
            scope.reschedule(1)

    refuse()
    with scope, ThreadGroup() as group:
        group.spawn(refuse)
    refuse()


# ---- asking


@WHERE
def test_checkpoint(where):
    """It raises in a cancelled scope, however often the exception is swallowed, and else lets others run."""

    def body():
        checkpoint()
        with ThreadGroup() as group:
            group.cancel()
            assert cancelled()
            with pytest.raises(Cancelled):
                checkpoint()

    run_anywhere(where, body)


def test_checkpoint_lets_others_run():
    """Computations that check take turns with each other on their carrier."""
    trace = []
    gate = threading.Event()

    def compute(name):
        gate.wait()
        for _ in range(3):
            trace.append(name)
            checkpoint()

    def body():
        with ThreadGroup() as group:
            first, second = group.spawn(compute, "a"), group.spawn(compute, "b")
            wait_parked(first)
            wait_parked(second)
            gate.set()
        return first.carrier is second.carrier

    if run_in_vthread(body):
        assert sorted(trace[:2]) == sorted(trace[2:4]) == ["a", "b"]


@WHERE
def test_current_deadline(where):
    """The earliest of all scopes around, those of the group and the spawner included."""

    def body():
        assert current_deadline() == inf
        with timeout(100):
            outer = current_deadline()
            assert 99 < outer - time.monotonic() <= 100
            with move_on_after(200):
                assert current_deadline() == outer
            with ThreadGroup(timeout=50) as group:
                inner = current_deadline()
                assert 49 < inner - time.monotonic() <= 50
                assert group.spawn(current_deadline).result() == inner
                with shield(timeout=75):
                    assert 74 < current_deadline() - time.monotonic() <= 75
                    assert group.spawn(current_deadline).result() == inner
                group.cancel()
                assert current_deadline() == -inf
                with shield(timeout=75):
                    assert 74 < current_deadline() - time.monotonic() <= 75

    run_anywhere(where, body)


def test_cancelled_asks_for_the_calling_thread_alone():
    """A cancelled child says so, its parent does not."""
    seen = []
    is_ready = threading.Event()

    def work():
        is_ready.set()
        while not cancelled():
            current_thread().yield_now()
        seen.append(cancelled())

    with ThreadGroup() as group:
        future = group.spawn(work)
        is_ready.wait()
        future.cancel()
        until(lambda: seen)
        assert not cancelled()
    assert seen == [True]


@WHERE
@pytest.mark.parametrize("spawner", ["body", "child"])
def test_spawn_from_a_shielded_group_into_a_cancelled_one_outside(where, spawner):
    """A group in a shield whose body or child is told, by such a spawn, of the cancel outside: no failure of anybody."""
    ended = []

    def spawn_out(outer):
        try:
            outer.spawn(int)
        except Cancelled as error:
            ended.append(error.source)
            raise

    def body():
        with ThreadGroup() as outer:
            outer.cancel()
            with shield(timeout=3600), ThreadGroup() as inner:
                if spawner == "body":
                    sleeper = inner.spawn(sleep_forever)
                    spawn_out(outer)
                else:
                    sleeper = inner.spawn(spawn_out, outer)
            ended.append("quiet")
        assert sleeper.cancelled()
        assert inner.exception is None
        assert ended == ([outer] if spawner == "body" else [outer, "quiet"])

    run_anywhere(where, body)


@pytest.mark.parametrize("wait", ["lock", "cleanup"])
def test_end_of_a_shield_ends_the_patience_inside(wait):
    """What waits with much grace, for a cancel inside a shield, hears when the shield ends of one outside with less."""
    lock = threading.Lock()
    lock.acquire()

    def work():
        with shield(timeout=0.05), ThreadGroup(grace=3600) as inner:
            inner.cancel()
            if wait == "lock":
                lock.acquire()
            try:
                sleep_forever()
            finally:
                sleep_forever()

    with ThreadGroup(grace=0) as outer:
        child = outer.spawn(work)
        wait_parked(child)
        outer.cancel()
    assert child.cancelled()
