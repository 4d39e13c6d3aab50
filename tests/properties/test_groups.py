"""What a group guarantees, I1 to I9, for random programs; I10 is in test_interrupts.py.

Each test draws programs that are rich in what its guarantee is about. To see the tests fail, plait was broken on purpose:

    I1   the join does not wait; a thread leaves its group before its callbacks are called
    I2   a thread that was cancelled before its start runs; one that never ran has succeeded; its arguments are kept
    I3   `Slots.try_take` takes what is not free; `take_back` takes it, or returns without
    I4   `check_park` never raises; a cancel wakes nobody; a grace never ends
    I5   `park` raises the cancel of a wait that was WOKEN
    I6   a group keeps its first failure alone, or one twice, or one that was ignored; the hook is not called; a group whose
         time is up in clean-up ends quietly
    I7   `launch` does not ask whether the group is cancelled; insiders get GroupFailed; outsiders get Cancelled
    I8   a thread leaves its group before it settles (not seen on one carrier, where nobody can look in between)
    I9   a child gets what its spawner had at its first spawn, or nothing
    I10  children get the KeyboardInterrupt, too; the block wraps it in a group; a join that it strikes ends, or drops it
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import weakref

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties.guarantees import check
from properties.strategies import examples, programs
from properties.trees import Block, Finally, Forever, Program, Token, run
from support import run_anywhere, until, wait_parked

from plait import Limiter, ThreadGroup
from plait._core import current_thread, runtime
from plait._originals import allocate_lock, lock_acquire, lock_release
from plait.lowlevel import park, unpark

pytestmark = [
    pytest.mark.filterwarnings("ignore::plait.CancelledSwallowed", "ignore::plait.TimeoutDoesNotReachChild"),
    pytest.mark.slow,
]

LIMITED = (1, 1, 2, 3, "shared", "shared")
LENIENT = 60_000  # milliseconds of grace: nobody runs out of it


@examples(120)
@given(programs())
def test_all_together(program):
    """Whatever a program does, all guarantees hold."""
    check(run(program))


@examples(100)
@given(programs({"block": 12, "await": 1, "nap": 8, "forever": 1, "cancel block": 0}))
def test_no_child_outlives_its_block(program):
    """I1."""
    check(run(program), "I1")


@examples(80)
@given(programs({"cancel block": 3, "cancel thread": 6, "spawn": 40}, policies=("cancel", "collect")))
def test_accepted_spawns_run_or_are_cancelled(program):
    """I2: and then their arguments are released."""
    check(run(program), "I2")


@contextlib.contextmanager
def stalled_carriers():
    """No carrier starts anything for the length of the block."""
    count = len(runtime.carriers)
    begun, gate = [], allocate_lock()
    lock_acquire(gate)

    def stall():
        begun.append(current_thread())
        lock_acquire(gate)  # the original, which keeps the carrier
        lock_release(gate)

    with ThreadGroup() as group:
        for _ in range(count):
            group.spawn(stall)
        until(lambda: len(begun) == count, "a carrier for each")
        try:
            yield
        finally:
            lock_release(gate)


@examples(80)
@given(
    st.sampled_from(("main", "platform")),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7)), max_size=12),
    st.data(),
)
def test_cancelled_before_the_start(where, spawns, data):
    """I2: what was cancelled before any carrier came to it never runs; everything else does."""
    cancelled_groups = data.draw(st.sets(st.integers(1, 3), max_size=2))
    ran, refs = set(), []

    def body():
        with ThreadGroup() as outer, ThreadGroup(max_concurrency=20) as middle, ThreadGroup() as inner:
            groups = [outer, middle, inner, outer]
            with stalled_carriers():
                futures = []
                for n, (which, fate) in enumerate(spawns):
                    token = Token()
                    refs.append(weakref.ref(token))
                    how = groups[which].spawn_daemon if fate == 6 else groups[which].spawn
                    futures.append(how(lambda n, token: ran.add(n), n, token))
                    del token
                doomed = set()
                for n, (which, fate) in enumerate(spawns):
                    if fate in (0, 1, 2):
                        futures[n].cancel()
                        doomed.add(n)
                for which in cancelled_groups:
                    groups[which].cancel()
                lowest = min((which % 3 for which in cancelled_groups), default=3)
                doomed |= {n for n, (which, _) in enumerate(spawns) if which % 3 >= lowest}
        return futures, doomed

    futures, doomed = run_anywhere(where, body)
    assert ran.isdisjoint(doomed)
    assert ran >= {n for n in set(range(len(spawns))) - doomed if spawns[n][1] != 6}
    assert all(futures[n].cancelled() for n in doomed)
    if any(ref() is not None for ref in refs):
        gc.collect()
    assert not any(ref() is not None for ref in refs)


@examples(50)
@given(programs({"spawn": 40, "await": 6, "cancel block": 0}, LIMITED, ("cancel", "collect"), LENIENT))
def test_never_more_at_work_than_the_limit(program):
    """I3: at work is who has begun, and waits neither for others nor for a slot; every slot comes back."""
    check(run(program), "I3")


@examples(60)
@given(programs({"forever": 9, "finally": 6, "bare": 4, "limit": 6, "get": 4, "hold": 3}))
def test_nothing_cancelled_parks_for_ever(program):
    """I4: what waits for ever ends soon after its cancel, whatever it does about it; shields and clean-up are bounded."""
    check(run(program), "I4")


class Wait:
    """Something to wait for, and how a platform thread ends that wait."""

    def __init__(self, kind):
        self.who = None
        self.is_used_up = kind in ("queue", "simple_queue", "semaphore", "limiter")  # by who has waited
        getattr(self, kind)()

    def queue(self):
        line = queue.Queue()
        self.wait, self.end, self.is_left = line.get, lambda: line.put(None), lambda: line.qsize() == 1

    def simple_queue(self):
        line = queue.SimpleQueue()
        self.wait, self.end, self.is_left = line.get, lambda: line.put(None), lambda: line.qsize() == 1

    def event(self):
        event = threading.Event()
        self.wait, self.end = event.wait, event.set

    def semaphore(self):
        semaphore = threading.Semaphore(0)
        self.wait, self.end = semaphore.acquire, semaphore.release
        self.is_left = lambda: semaphore.acquire(blocking=False)

    def limiter(self):
        limiter = Limiter(1)
        limiter.acquire()
        self.wait, self.end, self.is_left = limiter.acquire, limiter.release, limiter.try_acquire

    def permit(self):
        self.wait, self.end = park, lambda: unpark(self.who)

    def condition(self):
        condition = threading.Condition()

        def wait():
            with condition:
                condition.wait()

        def end():
            with condition:
                condition.notify()

        self.wait, self.end = wait, end


KINDS = ("queue", "simple_queue", "event", "semaphore", "limiter", "permit", "condition")


@examples(80)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(("end", "cancel", "end cancel", "cancel end"))), max_size=8
    )
)
def test_who_comes_first_to_a_wait(waits):
    """I5: a wait that was ended before it was cancelled returns; one that was cancelled before did not happen."""
    returned = []

    def victim(n, wait):
        wait.who = current_thread()
        wait.wait()
        returned.append(n)

    with ThreadGroup() as group:
        pairs = [(Wait(kind), order.split()) for kind, order in waits]
        victims = [wait_parked(group.spawn(victim, n, wait)) for n, (wait, _) in enumerate(pairs)]
        with stalled_carriers():
            for (wait, order), victim in zip(pairs, victims, strict=True):
                for what in order:
                    wait.end() if what == "end" else victim.cancel()
    for n, ((wait, order), victim) in enumerate(zip(pairs, victims, strict=True)):
        assert victim.cancelled() is (n not in returned)
        if order[0] == "end":
            assert n in returned
        elif order == ["cancel"]:
            assert victim.cancelled()
        elif wait.is_used_up:  # the end may have come in time all the same, before the thread ran
            assert wait.is_left() is victim.cancelled()


@examples(120)
@given(programs({"put": 16, "get": 16, "hold": 4, "cancel thread": 6, "fail": 0, "crash": 0}))
def test_completed_waits_are_not_cancelled(program):
    """I5: each item that is put is got once, or stays; whoever is cancelled holds nothing."""
    check(run(program), "I5")


LATE_IN_CLEAN_UP = Program(Block((Finally((Forever(),), (Block((Forever(),), timeout=1),)),), grace=LENIENT))
LOUD = ("cancel", "collect", "collect", "ignore", "ignore", "restart", "broken")


@examples(150)
@given(
    programs(
        {"fail": 6, "crash": 2, "try": 4, "await": 12, "finally": 4, "forever": 1, "cancel block": 0}, policies=LOUD
    )
)
@example(LATE_IN_CLEAN_UP)
def test_every_exception_leaves_where_it_should(program):
    """I6: through its future, and once through its group, or the hook; and no cancellation does."""
    check(run(program), "I6")


@examples(100)
@given(programs({"cancel block": 6, "spawn": 50, "fail": 4, "outside": 6, "forever": 0}))
def test_nothing_starts_in_a_group_that_has_failed(program):
    """I7: Cancelled for those inside, GroupFailed for others, GroupClosed after the end."""
    check(run(program), "I7")


@examples(60)
@given(programs({"spawn": 40, "forever": 1, "cancel block": 0}, asks_at_once=True))
def test_no_outcome_is_waited_for_after_the_block(program):
    """I8: not by who has left the block, at once; not by the main thread."""
    check(run(program), "I8")


@examples(60)
@given(programs({"set": 16, "spawn": 40, "forever": 1}))
def test_context_is_a_copy_of_the_spawners(program):
    """I9."""
    check(run(program), "I9")
