"""`_thread.lock`: parks in the parking lot, keyed by the lock's address. So do all that `threading` builds on it.

Waiting for a lock is patient (design §3.2, rule 4), with two exceptions, both told by the caller's code, on the slow path
alone. `Condition.wait` waits on a lock of its own that nobody holds for mutual exclusion, and is interrupted at once.
Then it takes the Condition's lock again, and that is not interrupted at all: its caller releases the lock, held or not,
so it would release it for whoever holds it (docs/adr/0004). The first is asked for only by a `Condition.wait` that was
taken from its class before it was replaced there (`_conditions.py`).
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._core import Parker, WaitReason, check_entry, lot_wait, lot_wait_shielded, lot_wake_one, now, time_number
from plait._native import cooperative
from plait._originals import Lock, lock_acquire, take_lock
from plait.patch._registry import ClassPatch, Leaf, beneath, method

if TYPE_CHECKING:
    from collections.abc import Sequence

TOO_LONG = 2**63 / 1e9  # seconds, of which C cannot count the nanoseconds: it refuses them

_condition_wait = getattr(beneath("threading.Condition.wait"), "__code__", None)
_condition_restore = threading.Condition._acquire_restore.__code__  # type: ignore[attr-defined]  # noqa: SLF001 - see above


def acquire(lock: Any, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - CPython's
    """`lock.acquire`."""
    seconds = time_number(timeout)
    if seconds is None or not blocking or (seconds != -1 and not 0 <= seconds <= threading.TIMEOUT_MAX):
        return lock_acquire(lock, blocking, timeout if seconds is None else seconds)  # does not wait, or refuses
    if take_lock(lock):
        return True
    me: Parker = cooperative()
    deadline = None if seconds == -1 else now() + seconds
    attempt = partial(take_lock, lock)
    caller = _caller()
    if caller is _condition_wait:
        if me.scope is not None:
            check_entry(me)
        return lot_wait(me, id(lock), attempt, WaitReason.CONDITION, deadline)
    if caller is _condition_restore:
        restore(me, lock)
        return True
    return lot_wait(me, id(lock), attempt, WaitReason.LOCK, deadline, patient=True)


def _caller() -> object:
    """The code of the Python function that waits: it decides whether the wait is patient."""
    try:
        return sys._getframe(_OWN_FRAMES).f_code  # noqa: SLF001 - the only way to know
    except ValueError:
        return None  # a lock's own method was spawned: there is no Python function


def _count_own_frames() -> int:
    """How many frames of this file stand on top of the caller's: none if it is compiled."""
    return 2 if sys._getframe().f_code.co_name == "_count_own_frames" else 0  # noqa: SLF001


_OWN_FRAMES = _count_own_frames()


def enter(lock: Any) -> bool:
    """`with lock:`."""
    if take_lock(lock):
        return True
    me: Parker = cooperative()
    return lot_wait(me, id(lock), partial(take_lock, lock), WaitReason.LOCK, patient=True)


def restore(me: Parker, lock: Any) -> None:
    """Take the lock of a Condition again: not interrupted at all."""
    if not take_lock(lock):
        lot_wait_shielded(me, id(lock), partial(take_lock, lock), WaitReason.LOCK)


def wake(lock: Any) -> None:
    """A lock was released."""
    lot_wake_one(id(lock))


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    take = method(Lock, "acquire")
    return [
        Leaf("_thread.lock.acquire", method(Lock, "acquire"), acquire, attempt=take),
        Leaf("_thread.lock.acquire_lock", method(Lock, "acquire_lock"), acquire, attempt=take),
        Leaf("_thread.lock.__enter__", method(Lock, "__enter__"), enter, attempt=take),
        Leaf("_thread.lock.release", method(Lock, "release"), None, wake),
        Leaf("_thread.lock.release_lock", method(Lock, "release_lock"), None, wake),
        Leaf("_thread.lock.__exit__", method(Lock, "__exit__"), None, wake),
    ]
