"""Limiter: so many at a time, in blocks, in a group, in several groups together."""

from __future__ import annotations

import threading

import pytest
from support import handler_during, is_parked, run_anywhere, until, wait_parked

from plait import Cancelled, GroupClosed, Limiter, ThreadGroup, move_on_after, offload, shield, timeout
from plait._core import WaitReason, current_thread, runtime
from plait._originals import monotonic

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def test_slot_from_a_platform_thread_to_another_needs_no_carrier():
    """Platform threads hand a slot on while virtual threads keep the carriers busy."""
    limiter = Limiter(1)
    taken = []

    def work():
        busy.append(1)
        end = monotonic() + 60
        while not taken and monotonic() < end:
            pass

    def take():
        with limiter:
            taken.append(1)

    busy = []
    limiter.acquire()
    taker = threading.Thread(target=take)
    taker.start()
    until(lambda: limiter.waiting)
    with ThreadGroup() as group:
        group.spawn(work)
        until(lambda: busy)
        began = monotonic()
        limiter.release()
        taker.join()
        assert monotonic() - began < 30
    assert taken


@WHERE
def test_block(where):
    """A block has a slot; what is free and who waits can be seen."""

    def body():
        limiter = Limiter(2)
        assert (limiter.limit, limiter.available, limiter.waiting) == (2, 2, 0)
        with limiter as entered, limiter:
            assert entered is limiter
            assert limiter.available == 0
            assert not limiter.try_acquire()
            with ThreadGroup() as group:
                waiting = wait_parked(group.spawn(limiter.acquire), WaitReason.SLOT)
                assert limiter.waiting == 1
                assert repr(limiter) == "<Limiter 0 of 2 free, 1 waiting>"
                limiter.release()
                assert waiting.result() is True
        assert limiter.available == 2

    run_anywhere(where, body)


@WHERE
def test_acquire_with_a_timeout(where):
    """acquire(timeout) is False without a slot, and takes none."""

    def body():
        limiter = Limiter(1)
        assert limiter.acquire(timeout=0)
        assert not limiter.acquire(timeout=0)
        assert not limiter.acquire(timeout=0.001)
        limiter.release()
        assert limiter.available == 1

    run_anywhere(where, body)


@WHERE
def test_acquire_is_a_cancel_point(where):
    """Who is cancelled while it waits has no slot, and neither has who is cancelled before."""

    def body():
        limiter = Limiter(1)
        limiter.acquire()
        with pytest.raises(TimeoutError), timeout(0.001):
            limiter.acquire()
        assert limiter.waiting == 0
        limiter.release()
        with move_on_after(3600) as scope:
            scope.cancel_scope("enough", None)
            try:
                limiter.acquire()
            except Cancelled:
                assert limiter.available == 1
                raise
        assert scope.cancelled_caught

    run_anywhere(where, body)


def test_shared_by_groups():
    """Groups with one limiter have never more children at work together than it has slots."""
    limiter = Limiter(2)
    gate = threading.Event()
    with ThreadGroup(max_concurrency=limiter) as one, ThreadGroup(max_concurrency=limiter) as two:
        assert one.limit == two.limit == 2
        one.spawn(gate.wait)
        two.spawn(gate.wait)
        assert one.available == two.available == 0
        assert one.try_spawn(int) is None
        with ThreadGroup() as others:
            waiting = [wait_parked(others.spawn(group.spawn, int), WaitReason.SLOT) for group in (one, two)]
            assert one.statistics().waiting == 2
            gate.set()
            assert [future.result().result() for future in waiting] == [0, 0]
    assert limiter.available == 2


@pytest.mark.parametrize("limit", [1, 2])
def test_members_of_groups_that_share_a_limiter(limit):
    """Children that open groups with the limiter they are held by neither deadlock nor exceed it."""
    limiter = Limiter(limit)
    working = []
    most = []

    def leaf():
        working.append(1)
        most.append(len(working))
        until(lambda: True)
        working.pop()

    def branch(depth):
        with ThreadGroup(max_concurrency=limiter) as group:
            for _ in range(2):
                group.spawn(branch if depth else leaf, *([depth - 1] if depth else []))

    with ThreadGroup(max_concurrency=limiter) as group:
        for _ in range(3):
            group.spawn(branch, 3)
    assert max(most) <= limit
    assert len(most) == 3 * 2**4
    assert limiter.available == limit
    assert limiter.waiting == 0


def test_limit_is_changed_meanwhile():
    """A higher limit serves those who wait at once; a lower one holds as slots come back."""
    limiter = Limiter(1)
    gate = threading.Event()
    with ThreadGroup() as others, ThreadGroup(max_concurrency=limiter) as group:
        group.spawn(gate.wait)
        waiting = [wait_parked(others.spawn(group.spawn, gate.wait), WaitReason.SLOT) for _ in range(3)]
        limiter.limit = 3
        until(lambda: sum(future.done() for future in waiting) == 2)
        assert (limiter.limit, limiter.available, limiter.waiting) == (3, 0, 1)
        limiter.limit = 1
        assert limiter.available == 0
        gate.set()
        for future in waiting:
            future.result()
    assert limiter.available == 1


def test_spawning_into_a_closed_group_that_shares_the_limiter():
    """A member keeps its one slot when another group of the limiter refuses its spawn, and nobody waits to be refused."""
    limiter = Limiter(1)
    with ThreadGroup(max_concurrency=limiter) as closed:
        pass

    def spawn_late():
        for _ in range(3):
            with pytest.raises(GroupClosed):
                closed.spawn(int)
        assert limiter.available == 0

    with ThreadGroup(max_concurrency=limiter) as group:
        group.spawn(spawn_late)
    assert limiter.available == 1
    with limiter, pytest.raises(GroupClosed):
        closed.spawn(int)
    assert limiter.available == 1


def test_spawner_whose_group_closes_while_it_waits():
    """An outsider that waits for a slot until the group has closed gives the slot back."""
    limiter = Limiter(1)
    with ThreadGroup(on_error="collect") as outsiders, pytest.raises(GroupClosed):
        limiter.acquire()
        with ThreadGroup(max_concurrency=limiter) as closing:
            spawner = wait_parked(outsiders.spawn(pytest.raises, GroupClosed, closing.spawn, int), WaitReason.SLOT)
        limiter.release()
        raise spawner.result().value
    assert limiter.available == 1


def test_woken_for_nothing_keeps_its_place():
    """Who waits in a shield, and is woken by a cancel that this hides, is served before those who came later."""
    limiter = Limiter(1)
    order = []

    def take(name):
        with shield(timeout=3600), limiter:
            order.append(name)

    with ThreadGroup() as others, ThreadGroup() as group:
        limiter.acquire()
        first = wait_parked(group.spawn(take, "first"), WaitReason.SLOT)
        wait_parked(others.spawn(take, "second"), WaitReason.SLOT)
        parks = first.park_count
        group.cancel()
        until(lambda: first.park_count > parks and is_parked(first, WaitReason.SLOT))
        limiter.release()
    assert order == ["first", "second"]
    assert limiter.available == 1


def test_passed_over_while_it_is_awake_gets_its_place_back():
    """Whose wait cannot be claimed just now is passed over, and goes back to its place among those that were, too."""
    limiter = Limiter(1)
    order = []
    busy = []
    is_released = False

    def take(name):
        with shield(timeout=3600), limiter:
            order.append(name)
            until(lambda: name != 3 or limiter.waiting == 4)

    def keep_a_carrier():
        busy.append(1)
        while not is_released:
            pass

    with ThreadGroup() as others, ThreadGroup() as group:
        limiter.acquire()
        for name in range(3):
            wait_parked(group.spawn(take, name), WaitReason.SLOT)
        for name in range(3, 5):
            wait_parked(others.spawn(take, name), WaitReason.SLOT)
        for _ in runtime.carriers:
            others.spawn(keep_a_carrier)
        until(lambda: len(busy) == len(runtime.carriers))
        group.cancel()
        limiter.release()
        assert limiter.waiting == 1
        is_released = True
    assert order == [3, 0, 1, 2, 4]
    assert limiter.available == 1


HANDLERS = {
    "waits": lambda limiter: offload(int),
    "wants one, too": lambda limiter: limiter.__enter__().__exit__(None, None, None),
}


@pytest.mark.parametrize("handler", HANDLERS)
def test_handler_after_the_slot_was_given(handler):
    """A slot that is given to the main thread, just before a signal handler waits in the middle of its wait, is not lost."""
    limiter = Limiter(1)
    limiter.acquire()

    def handle():
        limiter.release()
        assert limiter.waiting == 0
        HANDLERS[handler](limiter)

    with handler_during(WaitReason.SLOT, handle):
        assert limiter.acquire(timeout=5)
    limiter.release()
    assert limiter.available == 1


def test_release_without_acquire():
    """A slot that was not taken cannot be given back."""
    limiter = Limiter(1)
    with pytest.raises(RuntimeError) as caught:
        limiter.release()
    assert str(caught.value) == (
        "<Limiter 1 of 1 free, 0 waiting> has no slot to release: each release gives back what one acquire has taken"
    )
    assert limiter.available == 1


@pytest.mark.parametrize(
    ("limit", "kind", "sentence"),
    [
        (0, ValueError, "limit must be at least 1, not 0: with none nothing could ever run"),
        (-3, ValueError, "limit must be at least 1, not -3: with none nothing could ever run"),
        (None, TypeError, "limit must be a whole number, not None"),
        (True, TypeError, "limit must be a whole number, not True"),
        (2.0, TypeError, "limit must be a whole number, not 2.0"),
    ],
)
def test_wrong_limit(limit, kind, sentence):
    """A limit is a whole number from 1 up, when it is made and when it is changed."""
    with pytest.raises(kind) as caught:
        Limiter(limit)
    assert str(caught.value) == sentence
    limiter = Limiter(5)
    with pytest.raises(kind) as caught:
        limiter.limit = limit
    assert str(caught.value) == sentence
    assert limiter.limit == 5


def test_wrong_timeout():
    """A timeout is a number of seconds."""
    with pytest.raises(TypeError, match="timeout must be a number of seconds, not 'x'"):
        Limiter(1).acquire(timeout="x")


def test_slots_are_never_lost_under_cancels():
    """Takers that are cancelled at the moment a slot is given leave as many as there were."""
    limiter = Limiter(2)

    def take():
        with limiter:
            current_thread().yield_now()

    with ThreadGroup() as group:
        for _ in range(300):
            futures = [group.spawn(take) for _ in range(5)]
            futures[-1].cancel()
            futures[2].cancel()
            for future in futures:
                until(future.done)
    assert (limiter.available, limiter.waiting) == (2, 0)
