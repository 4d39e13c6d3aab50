"""Waiters: a wait in the place of the lock that a Condition's list is made of."""

from __future__ import annotations

import pytest
from support import run_anywhere, until, wait_parked

from plait import Cancelled, ThreadGroup
from plait._core import Waiter, current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@WHERE
def test_notified_before_it_waits(where):
    """It does not park then; like a lock it can be released once."""

    def body():
        waiter = Waiter(current_thread())
        assert waiter.wait(0.001) is False
        waiter.release()
        with pytest.raises(RuntimeError):
            waiter.release()
        return waiter.wait(None)

    assert run_anywhere(where, body) is True


def test_notified_while_it_waits():
    """Whoever releases it ends the wait."""
    made = []

    def body():
        made.append(Waiter(current_thread()))
        return made[0].wait(None)

    with ThreadGroup() as group:
        child = group.spawn(body)
        wait_parked(child)
        made[0].release()
        assert child.result() is True


def test_cancel_is_given_and_not_raised():
    """The caller has a lock to take first."""
    given = []

    def body():
        given.append(Waiter(current_thread()).wait(None))
        raise given[0]

    with ThreadGroup() as group:
        child = group.spawn(body)
        wait_parked(child)
        group.cancel()
    until(child.cancelled)
    assert type(given[0]) is Cancelled
