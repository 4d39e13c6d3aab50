"""`threading.Condition.wait`, of which Queue, Semaphore and Barrier are made, and `threading.Event.wait`.

Both are written anew, by the same steps, for two reasons. CPython's wait loses what a cancelled waiter was told: it stays
on the condition's list until it has the condition's lock again, and who notifies meanwhile may choose it; the exception
goes on, and the notification is lost, though an item is in the queue and others wait for it. Exceptions are rare in a
wait of CPython's; here each cancel is one. And thousands of threads may be parked here: each frame less counts.

    Waiter:   0. knows how long it waits: a limit that is refused is refused before step 1
              1. under the condition's lock: puts a Waiter on the list, where CPython's puts a lock; gives the lock back
              2. parks until that is released   3. notified or cancelled: takes the condition's lock
              4. notified by now: the wait has completed; else leaves the list
    Notifier: under the condition's lock: takes the first off the list, and releases it

An Event's waiter that was notified has nothing more to do with the lock, and does not take it: all who wait are let go
at once, while the lock is held.
"""
# ruff: noqa: SLF001 - what a Condition and an Event are made of is private to them

from __future__ import annotations

import threading
from math import ldexp
from typing import TYPE_CHECKING, Any

from plait._core import Counter, call_deaf, time_number
from plait._core._cancel import check_entry, retract
from plait._core._waiters import Waiter
from plait._errors import Cancelled
from plait._native import cooperative, raising, rlock_owner, rlock_write
from plait._originals import Lock, RLock, take_lock
from plait.patch._locks import enter, restore
from plait.patch._registry import ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait._core._parking import Parker

_wait = beneath("threading.Condition.wait")
_event_wait = beneath("threading.Event.wait")
_parks = Counter()  # in `wait`
_event_parks = Counter()


def wait(self: Any, timeout: float | None = None) -> bool:
    """Wait until notified or until a timeout occurs; the lock must be held. See `threading.Condition.wait`."""
    me: Parker | None = cooperative()
    if me is None:
        return _wait(self, timeout)  # type: ignore[no-any-return]
    is_plain = _is_plain(self)
    if not (self._lock.locked() if is_plain else self._is_owned()):
        raise RuntimeError("cannot wait on un-acquired lock")
    seconds = None if timeout is None else _span(timeout)
    if seconds == 0:
        return _wait(self, timeout)  # type: ignore[no-any-return]  # does not park, or refuses
    if me.scope is not None:
        check_entry(me)
    waiter = Waiter(me)
    self._waiters.append(waiter)
    state = None
    try:
        # A plain lock in one step of C: CPython's function for it lets a signal handler run when the lock is free
        # already, and `with` then releases what is not held, so that a RuntimeError hides the handler's exception.
        if is_plain:
            self._lock.release()
        else:
            state = self._release_save()
    except BaseException:
        _leave(self, waiter)
        raise
    before = me.park_count
    is_notified: Any = waiter.wait(seconds)
    _parks.add(me.park_count - before)
    if is_plain:
        if not take_lock(self._lock):
            restore(me, self._lock)
    else:
        _take_back(self, state)
    if is_notified is True:
        return True
    if waiter.is_given():
        return _is_complete(me, is_notified)
    _leave(self, waiter)
    if is_notified is False:
        return False
    return raising(is_notified)  # type: ignore[no-any-return]


def event_wait(self: Any, timeout: float | None = None) -> bool:
    """Block until the event is set, or until `timeout` seconds have passed. See `threading.Event.wait`."""
    me: Parker | None = cooperative()
    if me is not None and me.scope is not None:
        check_entry(me)
    condition = self._cond
    seconds = timeout if timeout is None or type(timeout) is float or type(timeout) is int else 0
    if me is None or not _is_plain(condition) or (seconds is not None and not 0 < seconds <= threading.TIMEOUT_MAX):
        return bool(_event_wait(self, timeout))  # `wait` sees to what is another kind of number, or none
    lock = condition._lock
    waiter = _announce(self, condition, lock, me)
    if waiter is None:
        return True
    before = me.park_count
    is_notified: Any = waiter.wait(seconds)
    _event_parks.add(me.park_count - before)
    if is_notified is True:
        return True
    if not take_lock(lock):
        restore(me, lock)
    if not waiter.is_given():
        _leave(condition, waiter)
    lock.release()
    if waiter.is_given():
        return _is_complete(me, is_notified)
    if is_notified is False:
        return False
    return raising(is_notified)  # type: ignore[no-any-return]


def _span(timeout: Any) -> float:
    """How many seconds to park; 0 where CPython's own function does not wait either, or refuses in its own words.

    A number of C's, and asked for before anything is listed or given up: nothing of the caller's runs after that, or fails.
    """
    seconds: Any = timeout
    if type(timeout) is not float and type(timeout) is not int:
        seconds = time_number(timeout) if timeout > 0 else 0  # compared as CPython does it, whose words a TypeError has
        if seconds is None:
            return 0
    return ldexp(seconds, 0) if 0 < seconds <= threading.TIMEOUT_MAX else 0


def _announce(event: Any, condition: Any, lock: Any, me: Parker) -> Waiter | None:
    """Put a waiter of `me` on the list of an event, which has this condition over this lock; None if that is set."""
    if not take_lock(lock):
        enter(lock)
    try:
        if event._flag:
            return None
        waiter = Waiter(me)
        condition._waiters.append(waiter)
        return waiter
    finally:
        lock.release()


def _is_plain(condition: Any) -> bool:
    """Whether this is a Condition of CPython's own over a plain lock: its methods are known, and need not be called."""
    cls: type = type(condition)
    return cls is threading.Condition and type(condition._lock) is Lock


def _take_back(condition: Any, state: Any) -> None:
    """Take the condition's lock again, of whatever class it is: the caller counts on it (docs/adr/0004)."""
    call_deaf(condition._acquire_restore, state)
    lock = condition._lock
    if type(lock) is RLock and rlock_owner(lock) != threading.get_ident():
        # The leaves were taken out meanwhile, and this thread is known by another identity.
        rlock_write(lock, threading.get_ident(), state[0])


def _is_complete(me: Parker, error: Any) -> bool:
    """It was notified before it had the lock again: the wait has completed, and a cancel comes at the next cancel point."""
    if isinstance(error, Cancelled):
        retract(me)
    elif isinstance(error, BaseException):
        raise error
    return True


def _leave(condition: Any, waiter: Waiter) -> None:
    """Take `waiter`, which was not notified, off the list."""
    try:
        condition._waiters.remove(waiter)
    except ValueError:
        pass  # the list was cleared, in a child process


def leaves() -> Sequence[ClassPatch]:
    """What this file makes cooperative."""
    return [
        ClassPatch("threading.Condition.wait", wait, _parks),
        ClassPatch("threading.Event.wait", event_wait, _event_parks),
    ]
