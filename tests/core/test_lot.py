"""The parking lot: waiting for objects in memory, keyed by their address."""

from __future__ import annotations

import pytest
from support import platform_thread, run_anywhere, until, wait_parked

from plait import Cancelled, ThreadGroup
from plait._core import WaitReason, _lot, current_thread, lot_wait, lot_wake_one, now
from plait._native import lot_count, lot_is_busy


class Tokens:
    """A primitive that is not ours: a number of tokens."""

    def __init__(self, free=0):
        self.free = [None] * free

    def take(self):
        try:
            self.free.pop()
        except IndexError:
            return False
        return True

    def give(self):
        self.free.append(None)
        if lot_is_busy(id(self)):
            lot_wake_one(id(self))

    def wait(self, seconds=None, *, patient=False):
        deadline = None if seconds is None else now() + seconds
        return lot_wait(current_thread(), id(self), self.take, WaitReason.LOCK, deadline, patient=patient)


WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@WHERE
def test_attempt_that_succeeds_at_once(where):
    """Nobody parks for what is free."""
    tokens = Tokens(1)
    assert run_anywhere(where, tokens.wait)
    assert tokens.free == []


@WHERE
def test_deadline(where):
    """False when the instant comes first, with nothing taken and nobody left behind."""
    tokens = Tokens()
    assert run_anywhere(where, tokens.wait, 0.003) is False
    assert run_anywhere(where, tokens.wait, 0) is False
    assert _lot._queues == {}
    assert lot_count() == 0


def test_woken_in_order_of_arrival():
    """One wake a token, the longest waiter first."""
    tokens = Tokens()
    order = []
    with ThreadGroup() as group:
        waiters = [wait_parked(group.spawn(lambda n=n: tokens.wait() and order.append(n))) for n in range(5)]
        for number in range(5):
            tokens.give()
            until(waiters[number].done)
    assert order == [0, 1, 2, 3, 4]


def test_keys_do_not_mix():
    """A wake for one object leaves the waiters of another alone."""
    one, other = Tokens(), Tokens()
    with ThreadGroup() as group:
        first, second = wait_parked(group.spawn(one.wait)), wait_parked(group.spawn(other.wait))
        other.give()
        until(second.done)
        assert not first.done()
        one.give()


def test_counts_of_waiters_do_not_mix():
    """Who waits is counted for its key, until it waits no more; another key is told apart, but for one in a thousand."""
    tokens = Tokens()
    others = [Tokens() for _ in range(100)]
    with ThreadGroup() as group:
        waiter = wait_parked(group.spawn(tokens.wait))
        assert lot_is_busy(id(tokens))
        assert sum(lot_is_busy(id(other)) for other in others) < 10
        tokens.give()
        until(waiter.done)
        assert not lot_is_busy(id(tokens))


def test_wake_of_a_waiter_that_leaves_goes_to_the_next():
    """A wake is never lost: who is cancelled or timed out at that moment is passed over."""
    for _ in range(100):
        tokens = Tokens()
        with ThreadGroup() as group:
            first = wait_parked(group.spawn(tokens.wait))
            second = wait_parked(group.spawn(tokens.wait))
            first.cancel()
            tokens.give()
            until(lambda: first.done() and (second.done() or not first.cancelled()))
            tokens.give()
    assert _lot._queues == {}


def test_wake_without_waiters():
    """Waking nobody is harmless."""
    lot_wake_one(12345)


def test_patient_wait_on_a_thread_without_scopes():
    """A platform thread outside all scopes waits as well."""
    tokens = Tokens()
    with platform_thread(lambda: tokens.wait(patient=True)) as outcome:
        until(lambda: _lot._queues)
        tokens.give()
    assert outcome == [(None, True)]


def test_patient_wait_outlasts_a_cancel_within_the_grace():
    """A patient wait that is cancelled goes on, and ends with its token or with the grace."""
    tokens = Tokens()
    with ThreadGroup() as group:
        waiter = wait_parked(group.spawn(lambda: tokens.wait(patient=True)))
        waiter.cancel()
        wait_parked(waiter)
        tokens.give()
        assert waiter.result() is True
    trace = []

    def wait():
        try:
            tokens.wait(patient=True)
        except Cancelled:
            trace.append("interrupted")
            raise

    with ThreadGroup() as group:
        waiter = wait_parked(group.spawn(wait))
        waiter.cancel_scope("reason", "source", 0.01)
    assert trace == ["interrupted"]


def test_many_threads_and_few_tokens():
    """Tokens that go from hand to hand among threads of both kinds are never lost nor doubled."""
    tokens = Tokens(3)
    done = []

    def work():
        for _ in range(50):
            assert tokens.wait()
            tokens.give()
        done.append(1)

    with ThreadGroup() as group, platform_thread(work), platform_thread(work):
        for _ in range(20):
            group.spawn(work)
    assert len(done) == 22
    assert len(tokens.free) == 3
