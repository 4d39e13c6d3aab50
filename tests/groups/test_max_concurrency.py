"""max_concurrency: never more than so many children are started and unfinished."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest
from support import handler_during, is_parked, platform_thread, run_anywhere, run_in_vthread, until, wait_parked

from plait import Cancelled, GroupClosed, GroupFailed, Limiter, ThreadGroup, shield
from plait._core import WaitReason, current_thread, observe_parks, runtime, unobserve_parks
from plait._core._atomics import Counter

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    """A failure of these tests."""


def fail(error):
    raise error


class Gauge:
    """How many are at work, and how many were at most."""

    def __init__(self):
        self.working = Counter()
        self.most = 0
        self.ran = Counter()

    def work(self):
        self.most = max(self.most, self.working.add(1))
        time.sleep(0)
        time.sleep(0.0005)
        self.most = max(self.most, self.working.value())
        self.working.add(-1)
        self.ran.add(1)


@WHERE
@pytest.mark.parametrize("limit", [1, 3, 16])
def test_never_more_than_the_limit_at_work(where, limit):
    """At most max_concurrency children are at work at any instant (I3)."""

    def body():
        gauge = Gauge()
        with ThreadGroup(max_concurrency=limit) as group:
            for _ in range(60):
                group.spawn(gauge.work)
        assert gauge.ran.value() == 60
        assert gauge.most <= limit
        assert group.available == limit

    run_anywhere(where, body)


def test_several_spawners_share_the_limit():
    """The limit holds for spawners on virtual and platform threads together."""
    gauge = Gauge()

    def spawn_many(group):
        for _ in range(20):
            group.spawn(gauge.work)

    with ThreadGroup() as spawners, ThreadGroup(max_concurrency=2) as group:
        with platform_thread(spawn_many, group) as outcome:
            others = [spawners.spawn(spawn_many, group) for _ in range(3)]
            spawn_many(group)
            until(lambda: outcome and all(other.done() for other in others))
    assert gauge.ran.value() == 100
    assert gauge.most <= 2


@WHERE
def test_spawn_into_a_full_group_waits_for_a_slot(where):
    """A caller outside blocks in spawn until a child has ended."""

    def body():
        gate = threading.Event()
        me = current_thread()

        def open_gate():
            until(lambda: is_parked(me, WaitReason.SLOT))
            order.append("opened")
            gate.set()

        order = []
        with ThreadGroup() as other, ThreadGroup(max_concurrency=1) as group:
            group.spawn(gate.wait)
            other.spawn(open_gate)
            group.spawn(order.append, "spawned")
        assert order == ["opened", "spawned"]

    run_anywhere(where, body)


@WHERE
def test_waiting_for_a_slot_is_a_cancel_point(where):
    """A body that waits for a slot is interrupted when its group is cancelled, and nothing starts."""

    def body():
        ran = []
        me = current_thread()

        def fail_when_parked():
            until(lambda: is_parked(me, WaitReason.SLOT))
            raise ValueError("child")

        with pytest.raises(ExceptionGroup), ThreadGroup(max_concurrency=1) as group:
            group.spawn(fail_when_parked)
            try:
                group.spawn(ran.append, 1)
            except Cancelled as cancelled:
                ran.append(cancelled.source)
                raise
        assert ran == [group]
        assert group.available == 1

    run_anywhere(where, body)


def test_outsider_waiting_for_a_slot_of_a_group_that_fails():
    """An outsider who waits for a slot when the group fails gets GroupFailed, and the slot is not lost."""
    error = ValueError()
    outsider = []

    def spawn_from_outside(group):
        outsider.append(current_thread())
        with pytest.raises(GroupFailed) as caught:
            group.spawn(ran.append, 1)
        assert caught.value.__cause__ is error

    def fail_when_waited_for():
        until(lambda: outsider and is_parked(outsider[0], WaitReason.SLOT))
        raise error

    ran = []
    with ThreadGroup() as other, pytest.raises(ExceptionGroup), ThreadGroup(max_concurrency=1) as group:
        group.spawn(fail_when_waited_for)
        spawner = other.spawn(spawn_from_outside, group)
        try:
            time.sleep(3600)
        finally:
            until(spawner.done)  # holds the block open
    assert ran == []
    assert group.available == 1


SHUTTERS = {
    "cancelled": lambda outer, group: group.cancel(),
    "failed": lambda outer, group: fail(Oops()),
    "cancelled around": lambda outer, group: outer.cancel(),
    "ended": lambda outer, group: None,
}


@pytest.mark.parametrize("how", SHUTTERS)
@pytest.mark.parametrize("who", ["platform", "virtual"])
def test_outsider_does_not_wait_for_a_slot_of_a_group_that_is_shut(who, how):
    """Who waits elsewhere to spawn into a group is told at once that nothing can be spawned there any more."""
    limiter = Limiter(1)
    told = []

    def spawn_from_outside(group):
        try:
            group.spawn(ran.append, 1)
        except (GroupClosed, GroupFailed) as error:
            told.append(type(error))

    ran = []
    with limiter, ThreadGroup() as others:  # no slot comes free
        with suppress(ExceptionGroup), ThreadGroup() as outer, ThreadGroup(max_concurrency=limiter) as group:
            if who == "virtual":
                others.spawn(spawn_from_outside, group)
            else:
                outsider = threading.Thread(target=spawn_from_outside, args=(group,))
                outsider.start()
            until(lambda: limiter.waiting)
            SHUTTERS[how](outer, group)
        until(lambda: told)
        assert told == [GroupClosed] or (told == [GroupFailed] and how != "ended")
        if who == "platform":
            outsider.join()
        assert limiter.waiting == 0
    assert limiter.available == 1
    assert not ran


def test_outsider_that_is_cancelled_as_well_is_not_told_of_the_group():
    """Who waits for a slot of a group beside its own, and is cancelled with both, gets its Cancelled: no failure."""
    limiter = Limiter(1)

    def serve_and_cancel(thread, reason):
        if reason is WaitReason.SLOT:
            unobserve_parks(serve_and_cancel)
            limiter.release()
            outer.cancel()

    limiter.acquire()
    with ThreadGroup() as outer:
        with ThreadGroup() as others, ThreadGroup(max_concurrency=limiter) as group:
            observe_parks(serve_and_cancel)
            outsider = others.spawn(group.spawn, print)
            threading.Event().wait()
    assert outsider.cancelled()
    assert limiter.available == 1


def test_shielded_member_does_not_wait_for_a_slot_of_a_group_that_is_shut():
    """A shield hides the cancel, but nothing can be spawned all the same."""
    limiter = Limiter(1)
    told = []

    def spawn_shielded(group):
        with shield(timeout=3600):
            try:
                group.spawn(print)
            except Cancelled:
                told.append(limiter.available)
                raise

    with limiter, ThreadGroup() as outer:
        with ThreadGroup(max_concurrency=limiter) as group:
            wait_parked(group.spawn_daemon(spawn_shielded, group), WaitReason.SLOT)
            group.cancel()
        assert told == [0]
        outer.cancel()


def test_outsider_and_group_that_share_a_limit_do_not_wait_for_each_other():
    """The slot is held by who waits for the outsider; the group that it wants to spawn into is cancelled."""
    limiter = Limiter(1)
    is_told = threading.Event()

    def spawn_from_outside(group):
        with pytest.raises((GroupFailed, GroupClosed)):
            group.spawn(print)
        is_told.set()

    with ThreadGroup() as top, ThreadGroup(max_concurrency=limiter) as first:
        holder = wait_parked(first.spawn(is_told.wait))
        with ThreadGroup(max_concurrency=limiter) as second:
            wait_parked(top.spawn(spawn_from_outside, second), WaitReason.SLOT)
            second.cancel()
        assert holder.result()


def test_slot_that_comes_with_the_cancel_is_not_lost():
    """Whether the outsider gets the slot or the word that the group is cancelled: the slot is free afterwards."""

    def spawn_from_outside(group):
        with suppress(GroupFailed, GroupClosed):
            group.spawn(print, end="")

    def release(limiter, now):
        now.wait()
        limiter.release()

    for _ in range(50):
        limiter, now = Limiter(1), threading.Event()
        limiter.acquire()
        # Around the blocks: in a cancelled body nobody would wait for the end of the thread.
        with platform_thread(release, limiter, now):
            with ThreadGroup() as others, ThreadGroup(max_concurrency=limiter) as group:
                others.spawn(spawn_from_outside, group)
                until(lambda: limiter.waiting)
                now.set()
                group.cancel()
        assert limiter.available == 1


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_member_spawning_into_its_own_full_group_never_deadlocks(limit):
    """A member hands its slot to the child it spawns: recursion into a full group ends, within the limit."""
    working = Counter()
    most = []
    ran = []

    def walk(group, depth):
        most.append(working.add(1))
        ran.append(depth)
        if depth:
            for _ in range(2):
                working.add(-1)
                group.spawn(walk, group, depth - 1)
                most.append(working.add(1))
        working.add(-1)

    with ThreadGroup(max_concurrency=limit) as group:
        group.spawn(walk, group, 6)
    assert len(ran) == 2**7 - 1
    assert max(most) <= limit
    assert group.available == limit


def test_recursion_at_limit_one_goes_depth_by_depth():
    """With a limit of one, a chain of 300 members, each spawned by the last, comes to its end."""
    ran = []

    def chain(depth):
        ran.append(depth)
        if depth:
            ThreadGroup.current.spawn(chain, depth - 1)

    with ThreadGroup(max_concurrency=1) as group:
        group.spawn(chain, 300)
    assert len(ran) == 301


def test_slot_comes_back_from_a_child_that_failed_or_was_cancelled():
    """A slot is given back however the child ends, started or not."""
    with ThreadGroup(max_concurrency=2) as group:
        for _ in range(5):
            future = group.spawn(time.sleep, 3600)
            future.cancel()
        wait_parked(group.spawn(time.sleep, 3600)).cancel()
    assert group.available == 2
    with pytest.raises(ExceptionGroup), ThreadGroup(max_concurrency=2) as group:
        group.spawn([].pop)
    assert group.available == 2


def test_cancelling_a_waiting_spawner_alone():
    """A spawner that is cancelled while it waits takes no slot with it."""
    gate = threading.Event()
    ran = []
    with ThreadGroup() as other, ThreadGroup(max_concurrency=1) as group:
        group.spawn(gate.wait)
        first = wait_parked(other.spawn(group.spawn, ran.append, 1), WaitReason.SLOT)
        second = wait_parked(other.spawn(group.spawn, ran.append, 2), WaitReason.SLOT)
        first.cancel()
        until(first.done)
        gate.set()
        until(second.done)
    assert ran == [2]
    assert first.cancelled()
    assert group.available == 1


def test_spawners_waiting_get_slots_in_order():
    """Nobody overtakes who has waited longer for a slot."""
    gate = threading.Event()
    ran = []

    def body():
        with ThreadGroup() as other, ThreadGroup(max_concurrency=1) as group:
            group.spawn(gate.wait)
            waiting = [wait_parked(other.spawn(group.spawn, ran.append, n), WaitReason.SLOT) for n in range(8)]
            gate.set()
            until(lambda: all(spawner.done() for spawner in waiting))

    run_in_vthread(body)
    assert ran == list(range(8))


@WHERE
@pytest.mark.parametrize("work", [int, lambda: time.sleep(0)], ids=["return", "yield"])
def test_full_group_takes_many_spawns_at_a_time(work, where):
    """A spawner that finds its group full goes on when there is room for many, not for each one."""
    if len(runtime.carriers) > 1:
        pytest.skip("other carriers free slots at moments of their own")
    waits = []

    def body():
        with ThreadGroup(max_concurrency=100) as group:
            for _ in range(5000):
                group.spawn(work)

    def observe(thread, reason):
        if reason is WaitReason.SLOT:
            waits.append(thread)

    observe_parks(observe)
    try:
        run_anywhere(where, body)
    finally:
        unobserve_parks(observe)
    assert 1 <= len(waits) <= 500


def test_slot_comes_back_from_a_spawn_that_fails():
    """A spawn asks the function for its name, which may be code of others."""

    class Nameless:
        def __call__(self):
            pass

        def __getattr__(self, name):
            raise Oops

    with ThreadGroup(max_concurrency=1) as group:
        for _ in range(2):
            with pytest.raises(Oops):
                group.spawn(Nameless())
        assert group.available == 1
        assert len(group) == 0


def test_handler_that_spawns_once_the_slot_was_given():
    """A handler in the middle of a spawn, which has its slot already, may spawn into the same group, and wait for that."""
    gate = threading.Event()
    with ThreadGroup(max_concurrency=1) as group:

        def handle():
            gate.set()
            until(lambda: not group.statistics().waiting)
            assert group.spawn(int).result() == 0

        with handler_during(WaitReason.SLOT, handle):
            group.spawn(gate.wait)
            assert group.spawn(int).result() == 0
    assert group.available == 1
