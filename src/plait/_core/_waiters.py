"""Waiter: a wait of a Condition, in the place of the lock that CPython's waiter puts on the Condition's list.

Whoever notifies takes it for a lock and releases it: by that it hears who waits, and ends the wait. So such a wait needs
neither a lock nor a place in the parking lot, and nothing of it is left where it has ended.
"""

from __future__ import annotations

from plait._core._cancel import check_park
from plait._core._parking import INTERRUPTED, TIMED_OUT, Parker, WaitReason, park
from plait._errors import Cancelled
from plait._native._native import Notice, WaitWord, now

_CONDITION = WaitReason.CONDITION


class Waiter(Notice):
    """One thread, and whether it was notified."""

    __slots__ = ("_me",)

    def __init__(self, me: Parker) -> None:
        self._me = me

    def release(self) -> None:
        """What `Condition.notify` calls, under the Condition's lock. Any thread."""
        if not Notice.give(self):
            raise RuntimeError("release unlocked lock")
        self._me.unpark(Notice.epoch(self))

    def wait(self, timeout: float | None) -> bool | BaseException:
        """Park until notified, or for so many seconds: whether it was notified; or what is to be raised.

        It is not raised here, since the caller has a lock to take first, and since each compiled function that an
        exception leaves adds a line to its traceback, which costs as much as the wait.
        """
        me = self._me
        try:
            deadline = None if timeout is None else now() + timeout
            while not Notice.is_given(self):
                Notice.await_in(self, WaitWord.epoch(me) + 1)
                epoch = WaitWord.arm(me)
                if Notice.is_given(self):
                    me.withdraw()
                    break
                outcome = park(me, epoch, _CONDITION, deadline, False)
                if outcome == TIMED_OUT:
                    return Notice.is_given(self)
                if outcome == INTERRUPTED:
                    told = check_park(me)
                    if isinstance(told, Cancelled):
                        return told
        except BaseException as error:  # noqa: BLE001 - see above. A signal handler's, or of who was warned
            return error
        return True
