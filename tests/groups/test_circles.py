"""Threads with slots that wait for each other: whoever is waited for can have the slot of who waits. None of these hangs."""

from __future__ import annotations

import concurrent.futures
import logging
import math
import random
import threading
import time

import pytest
from support import until, wait_parked

from plait import Limiter, Mutex, RWLock, ThreadGroup, as_completed, pmap, race, select, shield, timeout
from plait._core import Counter, WaitReason


class Gauge:
    """How many members of a group are at work, and how many were at most."""

    def __init__(self, limit):
        self.limit = limit
        self.working = Counter()
        self.most = 0

    def __enter__(self):
        self.most = max(self.most, self.working.add(1))

    def __exit__(self, *error):
        self.working.add(-1)


WAYS = {
    "result": lambda future: future.result(),
    "exception": lambda future: future.exception(),
    "as_completed": lambda future: list(as_completed([future])),
    "select": lambda future: select(future),
    "futures.wait": lambda future: concurrent.futures.wait([future]),
    "futures.as_completed": lambda future: list(concurrent.futures.as_completed([future])),
}


@pytest.mark.parametrize("is_asked_first", [False, True])
@pytest.mark.parametrize("way", list(WAYS))
def test_member_that_waits_for_a_member_of_another_limit(way, is_asked_first):
    """Who wants to spawn into the group of one that waits for it gets that one's slot, whoever is there first."""
    go = threading.Event()
    order = []

    def spawner():
        go.wait()
        a.spawn(order.append, "spawned")

    def waiter():
        if is_asked_first:
            go.set()
            wait_parked(asking, WaitReason.SLOT)
        WAYS[way](asking)
        order.append("waiter")

    with ThreadGroup(max_concurrency=1) as a, ThreadGroup(max_concurrency=1) as b:
        asking = b.spawn(spawner)
        waiting = a.spawn(waiter)
        if not is_asked_first:
            wait_parked(waiting)
            go.set()
    assert sorted(order) == ["spawned", "waiter"]
    assert a.available == b.available == 1


def test_member_that_waits_for_the_start_of_another():
    """The same where it waits for `start`."""
    order = []

    def starter():
        b.start(asking)
        order.append("started")

    def asking(started):
        a.spawn(order.append, "spawned").result()
        started()

    with ThreadGroup(max_concurrency=1) as a, ThreadGroup(max_concurrency=1) as b:
        a.spawn(starter).result()
    assert order == ["spawned", "started"]


@pytest.mark.parametrize("through", ["result", "group", "pmap", "race"])
def test_member_that_waits_through_others(through):
    """The one between them has no slot; the circle may be closed by its wait, long after the two have begun theirs."""
    go = threading.Event()
    order = []

    def spawner():
        a.spawn(order.append, "spawned")

    def between():
        go.wait()
        if through == "result":
            asking.result()
        elif through == "group":
            with ThreadGroup() as inner:
                inner.spawn(asking.result)
        elif through == "pmap":
            list(pmap(lambda future: future.result(), [asking]))
        else:
            race(asking.result, asking.result)

    with (
        ThreadGroup() as others,
        ThreadGroup(max_concurrency=1) as a,
        ThreadGroup(max_concurrency=1) as b,
    ):
        middle = others.spawn(between)
        member = a.spawn(middle.result)
        wait_parked(member)
        asking = wait_parked(b.spawn(spawner), WaitReason.SLOT)
        assert not order
        go.set()
    assert order == ["spawned"]
    assert member.done()


@pytest.mark.parametrize("limits", [(1, 1), (2, 1), (1, 3), (4, 2)])
def test_members_that_spawn_into_each_others_groups(limits):
    """Both groups are full of threads that want to spawn into the other: a crawler that feeds its parser and is fed."""
    gauges = [Gauge(limit) for limit in limits]
    ran = Counter()

    def work(which, depth):
        for _ in range(2 if depth else 0):
            with gauges[which]:
                pass
            groups[1 - which].spawn(work, 1 - which, depth - 1)
        with gauges[which]:
            ran.add(1)

    with (
        ThreadGroup(max_concurrency=limits[0]) as one,
        ThreadGroup(max_concurrency=limits[1]) as two,
    ):
        groups = one, two
        for _ in range(4):
            one.spawn(work, 0, 6)
        until(lambda: ran.value() == 4 * (2**7 - 1))
    for gauge, group in zip(gauges, groups, strict=True):
        assert gauge.most <= gauge.limit
        assert group.available == gauge.limit


def test_ring_of_three():
    """A child of each group spawns into the next one, which is full."""
    ready = threading.Barrier(3)
    ran = []

    def work(number):
        ready.wait()
        groups[(number + 1) % 3].spawn(ran.append, number)

    with (
        ThreadGroup(max_concurrency=1) as one,
        ThreadGroup(max_concurrency=Limiter(1)) as two,
        ThreadGroup(max_concurrency=1) as three,
    ):
        groups = one, two, three
        for number, group in enumerate(groups):
            group.spawn(work, number)
        until(lambda: len(ran) == 3)
    assert sorted(ran) == [0, 1, 2]


LOCKS = {
    "mutex": (Mutex, lambda lock: lock.lock(), lambda lock: lock.lock()),
    "written, then read": (RWLock, lambda lock: lock.write(), lambda lock: lock.read()),
    "read, then written": (RWLock, lambda lock: lock.read(), lambda lock: lock.write()),
}


@pytest.mark.parametrize("who", ["body", "member", "other"])
@pytest.mark.parametrize("kind", list(LOCKS))
def test_spawning_with_a_lock_that_the_children_want(kind, who):
    """Who holds the lock for which a child waits gets that child's slot, to spawn and to go on."""
    make, held, wanted = LOCKS[kind]
    lock = make([])
    gauge = Gauge(2)

    def child(number):
        with gauge:
            pass
        with wanted(lock) as value, gauge:
            value.append(number)

    def spawner():
        with held(lock):
            for number in range(10):
                group.spawn(child, number)

    with ThreadGroup() as others, ThreadGroup(max_concurrency=2) as group:
        if who == "body":
            spawner()
        else:
            (group if who == "member" else others).spawn(spawner).result()
    assert sorted(lock.into_inner()) == list(range(10))
    assert gauge.most <= 2
    assert group.available == 2


def test_locks_and_results_in_one_circle():
    """A child waits for a thread that waits for a lock whose holder wants to spawn beside the child."""
    lock = Mutex(None)
    order = []

    def hold():
        with lock.lock():
            order.append("held")
            until(lambda: waiting.waits_for is WaitReason.FUTURE)
            group.spawn(order.append, "spawned").result()

    def want():
        until(lambda: lock.is_locked)
        with lock.lock():
            order.append("wanted")

    with ThreadGroup() as others, ThreadGroup(max_concurrency=1) as group:
        wanting = others.spawn(want)
        waiting = group.spawn(wanting.result)
        others.spawn(hold)
    assert order == ["held", "spawned", "wanted"]


def test_who_waits_for_nobody_that_needs_it_keeps_its_slot():
    """The lookout searches, and finds that the one is not waited for by the other."""
    gate = threading.Event()

    def hold():
        with lock.lock():
            gate.wait()

    def want():
        with lock.lock():
            pass

    lock = Mutex(None)
    with ThreadGroup() as others, ThreadGroup(max_concurrency=2) as group:
        holding = others.spawn(hold)
        until(lambda: lock.is_locked)
        wait_parked(group.spawn(holding.result), WaitReason.FUTURE)
        wait_parked(group.spawn(want), WaitReason.MUTEX)
        outsider = wait_parked(others.spawn(group.spawn, int), WaitReason.SLOT)
        assert group.try_spawn(int) is None
        assert group.available == 0
        gate.set()
        assert outsider.result().result() == 0
    assert group.available == 2


def test_cancelled_while_its_slot_is_passed_on():
    """The holder is cancelled while another uses its slot: it has one again before it goes on, and none is missing."""
    go, gate = threading.Event(), threading.Event()

    def spawner():
        go.wait()
        a.spawn(gate.wait)
        gate.wait()

    with ThreadGroup(max_concurrency=1) as a, ThreadGroup(max_concurrency=1) as b:
        asking = b.spawn(spawner)
        waiting = wait_parked(a.spawn(asking.result), WaitReason.FUTURE)
        go.set()
        until(lambda: len(a) == 2)
        waiting.cancel()
        wait_parked(waiting, WaitReason.SLOT)
        gate.set()
    assert waiting.cancelled()
    assert a.available == b.available == 1


@pytest.mark.slow
def test_random_programs_of_limited_groups():
    """Whatever threads of limited groups spawn, and whatever results they wait for, all of it ends within the limits."""
    for seed in range(60):
        random_program(random.Random(seed))


def random_program(rng):
    limits = [rng.randint(1, 3) for _ in range(3)]
    gauges = [Gauge(limit) for limit in limits]
    lock = Mutex(None)
    spawned, ended = Counter(), Counter()

    def work(number, seed, depth):
        mine = random.Random(seed)
        futures = []
        for _ in range(mine.randint(1, 4)):
            with gauges[number]:
                pass
            step = mine.random()
            into = mine.randrange(3)
            if depth and step < 0.55 and spawned.value() < 400:
                spawned.add(1)
                futures.append(groups[into].spawn(work, into, mine.random(), depth - 1))
            elif futures and step < 0.7:
                futures.pop().result()
            elif futures and step < 0.8:
                next(as_completed(futures))
            elif depth and step < 0.9:
                with ThreadGroup() as inner:
                    inner.spawn(groups[into].spawn, int)
            else:
                with lock.lock():
                    pass
        with gauges[number]:
            ended.add(1)

    with (
        ThreadGroup(max_concurrency=Limiter(limits[0])) as one,
        ThreadGroup(max_concurrency=limits[1]) as two,
        ThreadGroup(max_concurrency=limits[2]) as three,
    ):
        groups = one, two, three
        for _ in range(6):
            into = rng.randrange(3)
            spawned.add(1)
            groups[into].spawn(work, into, rng.random(), 4)
        until(lambda: spawned.value() == ended.value())
    for gauge, group in zip(gauges, groups, strict=True):
        assert gauge.most <= gauge.limit
        assert group.available == gauge.limit


# ---- limits of time, order, and what runs in the middle of a wait


def wait_a_moment(way, future):
    """Wait for `future` for as long as the way allows; it is not done by then."""
    if way == "result":
        with pytest.raises(TimeoutError):
            future.result(timeout=0.05)
    elif way == "futures.wait":
        assert concurrent.futures.wait([future], timeout=0.05).not_done
    elif way == "as_completed":
        with pytest.raises(TimeoutError):
            list(as_completed([future], timeout=0.05))
    elif way == "select":
        assert select(future, after=0.05) is None
    else:
        with pytest.raises(TimeoutError), timeout(0.05):
            future.result()


@pytest.mark.parametrize("way", ["result", "futures.wait", "as_completed", "select", "timeout"])
def test_limited_wait_for_a_sibling_is_kept(way):
    """Who waits for a while only has its slot when that is over, though others would have liked to have it for long."""
    stop, never = threading.Event(), threading.Event()

    def parent(sibling):
        wait_a_moment(way, sibling)
        assert group.available == 0
        stop.set()
        never.set()

    with ThreadGroup() as others, ThreadGroup(max_concurrency=2) as group:
        sibling = group.spawn(never.wait)
        group.spawn(parent, sibling)
        outsider = wait_parked(others.spawn(group.spawn, stop.wait), WaitReason.SLOT)
        outsider.result()
    assert group.available == 2


@pytest.mark.parametrize("way", ["result", "futures.wait", "as_completed", "select", "timeout"])
def test_end_of_a_wait_whose_slot_is_used(way):
    """At the end of its time it goes on, though one of those that it waits for has used its slot: the limit gives way."""
    stop = threading.Event()

    def use_slot():
        user = group.spawn(stop.wait, 3)  # within the grace
        stop.wait()
        return user.result()

    def member():
        user = others.spawn(use_slot)
        wait_a_moment(way, user)
        stop.set()
        assert user.result()

    with ThreadGroup() as others, ThreadGroup(max_concurrency=1) as group:
        group.spawn(member)
    assert group.available == 1


@pytest.mark.parametrize("way", ["timeout", "group"])
def test_slot_that_does_not_come_back_in_time(way):
    """The wait was over in time, but its slot is used for longer than the block around it has: it goes on at its end."""
    stop = threading.Event()

    def member():
        user = others.spawn(group.spawn, stop.wait, 3).result  # done at once, and with it this wait
        with pytest.raises(TimeoutError), timeout(0.1) if way == "timeout" else ThreadGroup(timeout=0.1):
            used = user()
            stop.wait(3)
        stop.set()
        assert used.result()

    with ThreadGroup() as others, ThreadGroup(max_concurrency=1) as group:
        group.spawn(member)
    assert group.available == 1


def test_waits_one_after_the_other_use_one_slot_more_at_most():
    """Who goes on with a slot that there is not has none to offer: the limit is exceeded once, not at each further wait."""
    gauge = Gauge(1)
    stop = threading.Event()
    waiting = Counter()

    def use_slot():
        with gauge:
            stop.wait()

    def spawn_many():
        for _ in range(10):
            waiting.add(1)
            group.spawn(use_slot)

    def member():
        feeder = others.spawn(spawn_many)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                feeder.result(timeout=0.01)
        assert waiting.value() == 2  # one has a slot, and the next waits
        stop.set()
        feeder.result()

    with ThreadGroup() as others, ThreadGroup(max_concurrency=1) as group:
        group.spawn(member)
    assert gauge.most == 1
    assert group.available == 1


@pytest.mark.parametrize("way", ["timeout", "rescheduled", "result"])
def test_limit_without_an_end_is_none(way):
    """A wait that may last for ever lends its slot, however that is written."""
    gate = threading.Event()

    def member(sibling):
        if way == "timeout":
            with timeout(math.inf):
                assert sibling.result()
        elif way == "rescheduled":
            with timeout(3600) as limit:
                limit.reschedule(None)
                assert sibling.result()
        else:
            assert sibling.result(timeout=math.inf)

    with ThreadGroup(max_concurrency=2) as group:
        sibling = group.spawn(gate.wait)
        wait_parked(group.spawn(member, sibling), WaitReason.FUTURE)
        group.spawn(gate.set)


def test_callback_of_a_group_with_a_limit_of_time_lends():
    """That limit is not one of the callback's own wait."""
    gate, go = threading.Event(), threading.Event()
    with ThreadGroup(max_concurrency=2, timeout=3600) as group:
        sibling = group.spawn(gate.wait)
        other = group.spawn(go.wait)
        other.add_done_callback(lambda other: sibling.result())
        go.set()
        wait_parked(other, WaitReason.FUTURE)
        group.spawn(gate.set)


@pytest.mark.parametrize("what", ["argument", "thread-local"])
def test_finalizer_that_spawns_into_its_own_full_group(what):
    """What a thread lets go of at its end may spawn: the slot goes to the child, as from any member."""
    local = threading.local()
    spawned = []

    class Spawner:
        def __del__(self):
            spawned.append(group.spawn(int))

    def keep(spawner):
        local.spawner = spawner

    with ThreadGroup(max_concurrency=1) as group:
        if what == "argument":
            group.spawn(lambda spawner: None, Spawner())
        else:
            group.spawn(lambda: keep(Spawner()))
        until(lambda: spawned)
    assert spawned[0].result() == 0
    assert group.available == 1


@pytest.mark.parametrize("kind", list(LOCKS))
def test_limited_wait_for_a_lock_is_kept(kind):
    """At the end of its time it goes on, though the holder of the lock has used its slot: the limit gives way."""
    make, held, _ = LOCKS[kind]
    lock = make(None)
    gate, go = threading.Event(), threading.Event()

    def member():
        go.set()
        with pytest.raises(TimeoutError):
            (lock.lock if make is Mutex else lock.write)(timeout=0.2).__enter__()
        gate.set()

    with ThreadGroup(max_concurrency=1) as group:
        with held(lock):
            group.spawn(member)
            go.wait()
            group.spawn(gate.wait)
            gate.wait()
    assert group.available == 1


def test_who_waits_for_its_slot_is_not_kept_out():
    """Two that hand their slots on and on do not come before one that has waited for long."""
    went_on = threading.Event()

    def dispatch():
        while not went_on.is_set():
            group.spawn(int)

    def first():
        group.spawn(dispatch)
        went_on.set()

    with ThreadGroup(max_concurrency=1) as group:
        group.spawn(first)
    assert went_on.is_set()
    assert group.available == 1


def test_member_whose_spawn_fails_has_its_slot():
    """It is neither lost nor doubled when the new child cannot be made."""

    class Nameless:
        def __call__(self):
            raise AssertionError

        def __getattr__(self, name):
            raise RuntimeError("no such thing")

    def member():
        with pytest.raises(RuntimeError, match="no such thing"):
            group.spawn(Nameless())
        assert group.available == 0

    with ThreadGroup(max_concurrency=1) as group:
        group.spawn(member)
    assert group.available == 1


def test_report_in_the_middle_of_a_wait(monkeypatch, caplog):
    """What is called while the slot is on offer, a handler of the report say, may wait itself: the slot is given once."""
    monkeypatch.setattr("plait._joining._REPORT_AFTER", 0.01)
    caplog.set_level(logging.ERROR, "plait")
    gate = threading.Event()
    seen = []

    def stubborn():
        with shield(timeout=3600):
            gate.wait()

    class Slow(logging.Handler):
        def emit(self, record):
            seen.append(helper.result())
            gate.set()

    def member():
        with pytest.raises(ExceptionGroup), ThreadGroup() as inner:
            wait_parked(inner.spawn(stubborn))
            raise ValueError

    handler = Slow()
    logging.getLogger("plait").addHandler(handler)
    try:
        with ThreadGroup() as others:
            helper = others.spawn(time.sleep, 0.1)
            with ThreadGroup(max_concurrency=1) as group:
                group.spawn(member)
    finally:
        logging.getLogger("plait").removeHandler(handler)
    assert seen == [None]
    assert group.available == 1


def test_pmap_keeps_the_slot_from_strangers():
    """What the limit protects is in use while the calls of a pmap run, and while they end."""
    gauge = Gauge(1)

    def member():
        with gauge:
            assert sum(pmap(lambda number: time.sleep(0.001) or number, range(5), limit=2)) == 10

    with ThreadGroup(max_concurrency=1) as group:
        for _ in range(5):
            group.spawn(member)
    assert gauge.most == 1
