"""`threading.Condition.wait`, of which Queue, Event, Semaphore and Barrier are made: keeps what a cancelled waiter was told.

It is built on locks and parks by itself. But a waiter that an exception gets out of its wait stays on the condition's
list until it has the condition's lock again, and who notifies meanwhile may choose it: CPython's code then lets the
exception go on, and the notification is lost, though an item is in the queue and others wait for it. Exceptions are
rare in a wait of CPython's; here each cancel is one.

    Waiter:   1. under the condition's lock: puts a lock of its own on the list; gives the condition's back
              2. waits for its own   3. notified or cancelled: takes the condition's lock
              4. not on the list any more: it was notified, and the wait has completed; else leaves the list
    Notifier: under the condition's lock: takes the first off the list, and releases its lock
"""

from __future__ import annotations

import threading
from _thread import LockType
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._core import Counter, Parker, WaitReason, check_entry, lot_wait, now, retract
from plait._errors import Cancelled
from plait._native import cooperative
from plait._originals import allocate_lock, lock_acquire
from plait.patch._registry import ClassPatch

if TYPE_CHECKING:
    from collections.abc import Sequence

_wait = threading.Condition.wait
_parks = Counter()  # in `wait`


def wait(self: Any, timeout: float | None = None) -> bool:
    """Wait until notified or until a timeout occurs; the lock must be held. See `threading.Condition.wait`."""
    me: Parker | None = cooperative()
    if me is None or (timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX):
        return _wait(self, timeout)  # does not park, or refuses
    if not self._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    if me.scope is not None:
        check_entry(me)
    waiter = allocate_lock()
    lock_acquire(waiter)
    attempt = partial(lock_acquire, waiter, False)
    self._waiters.append(waiter)
    try:
        state = _give_back(self)
    except BaseException:
        _leave(self, waiter)
        raise
    before = me.park_count
    try:
        deadline = None if timeout is None else now() + timeout
        is_notified = lot_wait(me, id(waiter), attempt, WaitReason.CONDITION, deadline)
    except BaseException as error:
        _parks.add(me.park_count - before)
        _take_back(me, self, state)
        if _leave(self, waiter) or not isinstance(error, Cancelled):
            raise
        retract(me)  # the cancel comes at the next cancel point
        return True
    _parks.add(me.park_count - before)
    _take_back(me, self, state)
    if not is_notified:
        _leave(self, waiter)
    return is_notified


def _give_back(condition: Any) -> Any:
    """Release the condition's lock, of whatever class it is; what is needed to take it again.

    A plain lock in one step of C: CPython's function for it lets a signal handler run when the lock is free already, and
    `with` then releases what is not held, so that a RuntimeError hides the handler's exception.
    """
    lock = condition._lock  # noqa: SLF001 - Condition's own
    if type(lock) is LockType and type(condition) is threading.Condition:
        lock.release()
        return None
    return condition._release_save()  # noqa: SLF001


def _take_back(me: Parker, condition: Any, state: Any) -> None:
    """Take the condition's lock again, of whatever class it is: the caller counts on it (docs/adr/0004)."""
    me.is_deaf = True
    try:
        condition._acquire_restore(state)  # noqa: SLF001 - Condition's own
    finally:
        me.is_deaf = False


def _leave(condition: Any, waiter: Any) -> bool:
    """Take `waiter` off the list; False if whoever notified it has done so."""
    try:
        condition._waiters.remove(waiter)  # noqa: SLF001 - so that notify() finds us there
    except ValueError:
        return False
    return True


def leaves() -> Sequence[ClassPatch]:
    """What this file makes cooperative."""
    return [ClassPatch("threading.Condition.wait", threading.Condition, "wait", wait, _parks)]
