"""`_thread.RLock`: owned by the virtual thread, not by the kernel thread that it shares with others.

The inner lock of an RLock is CPython's and stays the truth; what changes is the identity that is written into it. A
virtual thread takes it with the original `acquire`, as if it were its carrier, and writes its own identity (an odd
number, so never a kernel thread's) over the carrier's; before the last release it writes the carrier's back. Each is one
step in C, since a finalizer may run on this kernel thread between any two of Python's. Platform threads run the
originals. Up to 3.13 a virtual thread that finds the lock free, or its own, does all of it in C (words.c), and is not seen
here.

Who owns a lock does not depend on whether a thread may park just now: a finalizer that runs on a virtual thread in an
awkward moment must be able to re-enter what the thread holds. So these leaves are of the identity kind; where nothing
may park they wait for real.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._core import Parker, VirtualThread, WaitReason, lot_wait, lot_wait_shielded, lot_wake_one, now, time_number
from plait._errors import InternalError
from plait._native import (
    cooperative,
    current,
    kernel_ident,
    lot_is_busy,
    rlock_give,
    rlock_owner,
    rlock_quick,
    rlock_read,
    rlock_take,
    rlock_write,
)
from plait._originals import (
    RLock,
    rlock_acquire,
    rlock_acquire_restore,
    rlock_is_owned,
    rlock_recursion_count,
    rlock_release,
    rlock_release_save,
)
from plait.patch._registry import IDENTITY, ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LONGEST = threading.TIMEOUT_MAX


def acquire(lock: Any, blocking: bool = True, timeout: float = -1) -> bool:  # noqa: FBT001, FBT002 - CPython's
    """`RLock.acquire`."""
    seconds = time_number(timeout)
    if seconds is None:
        return rlock_acquire(lock, blocking, timeout)  # refuses, in its own words
    timeout = seconds
    me: Parker = current()
    if not isinstance(me, VirtualThread):
        if not blocking or (timeout != -1 and not 0 <= timeout <= _LONGEST) or cooperative() is None:
            return rlock_acquire(lock, blocking, timeout)
        return rlock_acquire(lock, False) or _wait(me, lock, partial(rlock_acquire, lock, False), timeout)
    ident = me.ident
    owner, count = rlock_read(lock)
    if owner == ident:
        if timeout != -1:
            rlock_acquire(RLock(), blocking, timeout)  # refuses what the lock would; it is free, so there is no wait
        rlock_write(lock, ident, count + 1)
        return True
    if not blocking or (timeout != -1 and not 0 <= timeout <= _LONGEST) or cooperative() is None:
        return rlock_take(rlock_acquire, lock, ident, blocking, timeout)
    attempt = partial(rlock_take, rlock_acquire, lock, ident, False, -1)
    return attempt() or _wait(me, lock, attempt, timeout)


def _wait(me: Parker, lock: Any, attempt: Any, timeout: float) -> bool:
    deadline = None if timeout == -1 else now() + timeout
    return lot_wait(me, id(lock), attempt, WaitReason.LOCK, deadline, patient=True)


def release(lock: Any) -> None:
    """`RLock.release`."""
    me = current()
    if not isinstance(me, VirtualThread):
        rlock_release(lock)
    else:
        owner, count = rlock_read(lock)
        if owner == me.ident and count > 1:
            rlock_write(lock, owner, count - 1)
            return
        if owner == me.ident:
            rlock_give(rlock_release, lock)
        else:
            rlock_release(lock)  # refuses: it is not the caller's
    if lot_is_busy(id(lock)):
        lot_wake_one(id(lock))


def leave(lock: Any, *exc_info: object) -> None:
    """`RLock.__exit__`."""
    release(lock)


def release_save(lock: Any) -> Any:
    """`RLock._release_save`: what a Condition does before it waits."""
    me = current()
    if not isinstance(me, VirtualThread) or rlock_owner(lock) != me.ident:
        state = rlock_release_save(lock)
    else:
        ident, count = rlock_read(lock)
        rlock_give(rlock_release_save, lock)
        state = (count, ident)
    if lot_is_busy(id(lock)):
        lot_wake_one(id(lock))
    return state


def acquire_restore(lock: Any, state: Any) -> None:
    """`RLock._acquire_restore`: what a Condition does after it has waited. Not interrupted: see `_locks.py`."""
    me = current()
    if not isinstance(me, VirtualThread):
        if cooperative() is None:
            rlock_acquire_restore(lock, state)
            return
        ident, attempt = state[1], partial(rlock_acquire, lock, False)
    elif cooperative() is None:
        acquire(lock)
        rlock_write(lock, me.ident, state[0])
        return
    else:
        ident, attempt = me.ident, partial(rlock_take, rlock_acquire, lock, me.ident, False, -1)
    if not attempt():
        lot_wait_shielded(me, id(lock), attempt, WaitReason.LOCK)
    rlock_write(lock, ident, state[0])


def is_owned(lock: Any) -> bool:
    """`RLock._is_owned`."""
    me = current()
    if not isinstance(me, VirtualThread):
        return rlock_is_owned(lock)
    owner: int = rlock_owner(lock)
    return owner == me.ident


def recursion_count(lock: Any) -> int:
    """`RLock._recursion_count`."""
    me = current()
    if not isinstance(me, VirtualThread):
        return rlock_recursion_count(lock)
    owner, count = rlock_read(lock)
    return int(count) if owner == me.ident else 0


def wake(lock: Any) -> None:
    """An RLock was released on a platform thread; only the last release frees it."""
    if not rlock_owner(lock):
        lot_wake_one(id(lock))


def check_layout() -> None:
    """Look whether an RLock is what words.c takes it for."""
    lock = RLock()
    for times in (1, 2, 3):
        rlock_acquire(lock)
        if rlock_read(lock) != (kernel_ident(), times):
            raise InternalError("the RLock of this interpreter is laid out in an unknown way: plait cannot run on it")
    for _ in range(3):
        rlock_release(lock)
    if rlock_owner(lock):
        raise InternalError("the RLock of this interpreter is laid out in an unknown way: plait cannot run on it")


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    check_layout()
    table: dict[str, tuple[Callable[..., Any], Callable[[Any], None] | None]] = {
        "acquire": (acquire, None),
        "__enter__": (acquire, None),
        "release": (release, wake),
        "__exit__": (leave, wake),
        "_release_save": (release_save, wake),
        "_acquire_restore": (acquire_restore, None),
        "_is_owned": (is_owned, None),
        "_recursion_count": (recursion_count, None),
    }
    return [
        Leaf(f"_thread.RLock.{name}", target, rlock_quick(name, replacement), after, IDENTITY)
        for name, (replacement, after) in table.items()
        if (target := method(RLock, name)) is not None
    ]
