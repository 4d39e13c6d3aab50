"""A child that waits for other threads lets others use its slot meanwhile."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest
from support import until, wait_parked

from plait import Channel, ThreadGroup, as_completed, pmap, select
from plait._core import WaitReason


def test_slot_is_lent_while_a_sibling_is_awaited():
    """Who waits for the result of a sibling makes room for another."""
    gate = threading.Event()
    order = []

    def sibling():
        gate.wait()
        order.append("sibling")

    def member(future):
        future.result()
        order.append("member")

    with ThreadGroup(max_concurrency=2) as group:
        slow = group.spawn(sibling)
        waiting = group.spawn(member, slow)
        wait_parked(waiting, WaitReason.FUTURE)
        until(lambda: group.available == 1)
        group.spawn(order.append, "third").result()
        gate.set()
    assert order == ["third", "sibling", "member"]
    assert group.available == 2


@pytest.mark.parametrize("is_foreign_first", [False, True])
@pytest.mark.parametrize(
    "way", [concurrent.futures.wait, lambda futures: list(concurrent.futures.as_completed(futures))]
)
def test_functions_of_concurrent_futures_lend_as_result_does(way, is_foreign_first):
    """Who waits by them for a sibling, or for a thread that wants to spawn into the same full group, makes room."""
    foreign = concurrent.futures.Future()
    foreign.set_result(None)

    def member():
        with ThreadGroup() as inner:
            below = inner.spawn(lambda: group.spawn(abs, -1).result())
            way([foreign, below] if is_foreign_first else [below])
        sibling = group.spawn(abs, -2)
        way([sibling, foreign])
        return below.result() + sibling.result()

    with ThreadGroup(max_concurrency=1, timeout=60) as group:
        outcome = group.spawn(member)
    assert outcome.result() == 3
    assert group.available == 1


def test_member_goes_on_only_with_a_slot():
    """Who has lent its slot waits for one, before all others, when its own wait is over."""
    daemon_gate, gate = threading.Event(), threading.Event()
    order = []

    def member():
        daemon.result()
        order.append("member")

    with ThreadGroup() as others, ThreadGroup(max_concurrency=1) as group:
        daemon = group.spawn_daemon(daemon_gate.wait)
        waiting = wait_parked(group.spawn(member), WaitReason.FUTURE)
        group.spawn(gate.wait)
        late = wait_parked(others.spawn(group.spawn, order.append, "outsider"), WaitReason.SLOT)
        daemon_gate.set()
        wait_parked(waiting, WaitReason.SLOT)
        assert not order
        gate.set()
        late.result()
    assert order == ["member", "outsider"]
    assert group.available == 1


def test_recursion_at_one():
    """At max_concurrency=1 a recursion that awaits its own children runs through, and one alone is at work at a time."""
    working = []

    def count(depth):
        working.append(depth)
        assert len(working) == 1
        working.pop()
        if depth == 0:
            return 1
        futures = [group.spawn(count, depth - 1) for _ in range(2)]
        return sum(future.result() for future in futures)

    with ThreadGroup(max_concurrency=1) as group:
        assert group.spawn(count, 6).result() == 64
    assert group.available == 1


def test_descendant_spawns_into_the_full_group_of_its_ancestor():
    """A thread below a child that waits for it can have the child's slot: they would wait for each other."""
    order = []

    def grandchild():
        group.spawn(order.append, "spawned").result()
        order.append("grandchild")

    def member():
        with ThreadGroup() as own:
            own.spawn(grandchild)
        order.append("member")

    with ThreadGroup(max_concurrency=1) as group:
        group.spawn(member)
    assert order == ["spawned", "grandchild", "member"]
    assert group.available == 1


def test_descendant_that_asks_before_its_ancestor_waits():
    """The same if it has asked for a slot before the child begins to wait, and if the child awaits its future alone."""
    order = []
    members = []

    def grandchild():
        group.spawn(order.append, "spawned")

    def member(how):
        with ThreadGroup() as own:
            asking = wait_parked(own.spawn(grandchild), WaitReason.SLOT)
            if how == "result":
                asking.result()
                order.append("awaited")
        order.append("member")

    for how in ("join", "result"):
        order.clear()
        with ThreadGroup(max_concurrency=1) as group:
            members.append(group.spawn(member, how))
        assert order == ["spawned", *(["awaited"] if how == "result" else []), "member"]
        assert group.available == 1


def test_an_offered_slot_is_for_those_below_alone():
    """Nobody else gets the slot of a child that waits for a group of its own: its resources are in use."""
    gate = threading.Event()

    def member():
        with ThreadGroup() as own:
            own.spawn(gate.wait)

    with ThreadGroup() as others, ThreadGroup(max_concurrency=1) as group:
        wait_parked(group.spawn(member), WaitReason.GROUP)
        assert group.try_spawn(int) is None
        outsider = wait_parked(others.spawn(group.spawn, int), WaitReason.SLOT)
        gate.set()
        assert outsider.result().result() == 0
    assert group.available == 1


def test_cancel_while_lent():
    """A group that is cancelled while slots are lent ends, and no slot is missing."""
    for _ in range(50):
        with ThreadGroup(max_concurrency=2) as group:
            gate = threading.Event()
            slow = group.spawn(gate.wait)
            wait_parked(group.spawn(slow.result), WaitReason.FUTURE)
            group.spawn(gate.wait)
            group.cancel()
        assert group.available == 2


def test_future_cancelled_while_its_slot_is_lent():
    """A child cancelled alone, while its slot is in use, is over once it has one again."""
    gate, other = threading.Event(), threading.Event()
    with ThreadGroup(max_concurrency=2) as group:
        slow = group.spawn(gate.wait)
        waiting = wait_parked(group.spawn(slow.result), WaitReason.FUTURE)
        third = group.spawn(other.wait)
        waiting.cancel()
        wait_parked(waiting, WaitReason.SLOT)
        other.set()
        until(waiting.done)
        assert waiting.cancelled()
        assert third.result()
        gate.set()
    assert group.available == 2


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_as_completed_by_a_member(limit):
    """A child that takes results as they come lends its slot while it waits for the next."""

    def member():
        return sorted(future.result() for future in as_completed([group.spawn(pow, n, 2) for n in range(5)]))

    with ThreadGroup(max_concurrency=limit) as group:
        assert group.spawn(member).result() == [0, 1, 4, 9, 16]
    assert group.available == limit


@pytest.mark.parametrize("ordered", [True, False])
def test_pmap_by_a_member(ordered):
    """The calls of a pmap may spawn into the full group of the child that takes their results."""

    def call(number):
        return group.spawn(pow, number, 2).result()

    def member():
        return sorted(pmap(call, range(5), limit=2, ordered=ordered))

    with ThreadGroup(max_concurrency=1) as group:
        assert group.spawn(member).result() == [0, 1, 4, 9, 16]
    assert group.available == 1


def test_select_by_a_member():
    """A child that waits for the future of a sibling among other things lends its slot, and goes on with one."""
    never = Channel(0)
    gate = threading.Event()
    order = []

    def member():
        chosen = select(never, daemon)
        order.append("member")
        return chosen.source

    with ThreadGroup(max_concurrency=1) as group:
        daemon = group.spawn_daemon(gate.wait)
        waiting = wait_parked(group.spawn(member), WaitReason.SELECT)
        group.spawn(order.append, "other").result()
        gate.set()
        assert waiting.result() is daemon
    assert order == ["other", "member"]
    assert group.available == 1
