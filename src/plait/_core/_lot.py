"""The parking lot: threads that wait for an object in memory, keyed by its address.

For primitives that are not ours and have no room for a queue: `_thread.lock`, RLock, SimpleQueue. After WebKit's
ParkingLot. The primitive itself stays the truth; the lot only knows who would like to be told.

    Waiter:  1. counts itself in (`lot_enter`)    2. arms, and queues under the key   [fence]
             3. tries the primitive once more: success ends the wait                  4. parks
    Waker:   1. frees the primitive                                                   [fence]
             2. reads that count; if anybody waits, takes the first open wait of the key and claims it
Either the waiter's step 3 sees the primitive free, or the waker's step 2 sees the waiter counted. The counts are kept by a
hash of the key (`_native/here.h`), so that who frees what nobody waits for is not held up by those who wait elsewhere.
Barging: a running thread may get the primitive before the woken one, which then queues again. A wake that reaches a
waiter who got what it wanted by itself is passed on to the next.

Step 2 of the waker is the leaves'. Once they are taken out nobody does it (`set_told`), and whoever is in the lot tries
by itself after each pause. Either a waiter's step 2 sees that, or it is queued before, and is woken to see it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from plait._core._cancel import check_patient, retract
from plait._core._parking import INTERRUPTED, TIMED_OUT, WOKEN, Parker, WaitReason, is_complete, park, park_shielded
from plait._errors import Cancelled
from plait._native import lot_enter, lot_leave, lot_reset
from plait._native._native import Lock, WaitWord, now

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE = 0.01  # seconds between the attempts of who is not told

_lock = Lock()  # guards what follows
_is_told = True  # whether who frees what others wait for says so
# Waiters in order of arrival, with the epoch of their wait; a single one, which is the rule, without a queue.
_queues: dict[int, OrderedDict[Parker, int] | tuple[Parker, int]] = {}


def wait(
    me: Parker,
    key: int,
    attempt: Callable[[], bool],
    reason: WaitReason,
    deadline: float | None = None,
    patient: bool = False,  # noqa: FBT001, FBT002 - compiled functions take no keyword-only arguments
) -> bool:
    """Park under `key` until `attempt()` succeeds; False if the instant `deadline` comes first. A cancel point.

    `patient` waits, for mutual exclusion, are interrupted only once the grace is over.
    """
    since = now() if patient else 0.0
    lot_enter(key)
    try:
        while True:
            epoch = WaitWord.arm(me)
            limit = deadline if _enqueue(key, me, epoch) else _next_attempt(deadline)
            try:
                if attempt():
                    if me.withdraw() == WOKEN:
                        wake_one(key)
                    return True
                if patient:
                    outcome = _park_patiently(me, epoch, reason, limit, since)
                else:
                    outcome = park(me, epoch, reason, limit)
            except Cancelled:
                # A completed wait is never turned into a cancellation, and this one may be complete: whoever freed the
                # primitive before the cancel saw nobody else to wake.
                if not attempt():
                    raise
                retract(me)
                return True
            except BaseException:
                # A signal handler's. This wait may have got a wake, which is for somebody else then. Whether it has cannot be
                # told: the handler may have waited, too, and that has changed the word.
                wake_one(key)
                raise
            finally:
                _dequeue(key, me)
            if attempt():
                return True
            if outcome == TIMED_OUT and limit is deadline:
                return False
    finally:
        lot_leave(key)


def wait_shielded(me: Parker, key: int, attempt: Callable[[], bool], reason: WaitReason) -> None:
    """Park under `key` until `attempt()` succeeds, whatever the scopes of `me` say: for who must not go on without it."""
    lot_enter(key)
    try:
        while True:
            epoch = WaitWord.arm(me, True)
            limit = None if _enqueue(key, me, epoch) else _next_attempt(None)
            try:
                if attempt():
                    if me.withdraw() == WOKEN:
                        wake_one(key)
                    return
                park_shielded(me, epoch, reason, limit)
            except BaseException:  # as in `wait`
                wake_one(key)
                raise
            finally:
                _dequeue(key, me)
            if attempt():
                return
    finally:
        lot_leave(key)


def _park_patiently(me: Parker, epoch: int, reason: WaitReason, deadline: float | None, since: float) -> int:
    limit = deadline
    if me.scope is not None:
        try:
            grace = check_patient(me, since)
        except BaseException as error:
            if not is_complete(me, error):
                raise
            return WOKEN
        if grace is not None and (limit is None or grace < limit):
            limit = grace
    outcome = park_shielded(me, epoch, reason, limit)
    if outcome == WOKEN or (outcome == TIMED_OUT and limit is deadline):
        return outcome
    me.hear_handlers()
    check_patient(me, since)
    return INTERRUPTED


def wake_one(key: int) -> None:
    """End the wait of the first thread parked under `key`. Any thread."""
    while True:
        _lock.acquire()
        try:
            queue = _queues.get(key)
            if queue is None:
                return
            if type(queue) is tuple:
                who, epoch = queue
                del _queues[key]
            else:
                who, epoch = queue.popitem(last=False)  # type: ignore[union-attr]
                if not queue:
                    del _queues[key]
        finally:
            _lock.release()
        if Parker.unpark(who, epoch):
            return


def wake_all(key: int) -> None:
    """End the waits of all threads that are parked under `key`: what they wait for is there for each. Any thread."""
    with _lock:
        queue = _queues.pop(key, None)
    if queue is None:
        return
    for who, epoch in [queue] if type(queue) is tuple else list(queue.items()):  # type: ignore[union-attr]
        Parker.unpark(who, epoch)


def set_told(is_told: bool) -> None:  # noqa: FBT001 - compiled
    """Whether those who free what others wait for say so from now on, by `wake_one`. Any thread."""
    global _is_told  # noqa: PLW0603 - of the process, as the leaves are
    with _lock:
        _is_told = is_told
        keys = [] if is_told else list(_queues)
    for key in keys:
        wake_all(key)


def _enqueue(key: int, me: Parker, epoch: int) -> bool:
    """Queue a wait; whether it will be told."""
    _lock.acquire()
    try:
        queue = _queues.get(key)
        if queue is None:
            _queues[key] = (me, epoch)
            return _is_told
        if type(queue) is tuple:
            queue = _queues[key] = OrderedDict([queue])
        queue[me] = epoch  # type: ignore[index]
        return _is_told
    finally:
        _lock.release()


def _next_attempt(deadline: float | None) -> float:
    """When to try again by oneself: soon, or at the instant `deadline` itself."""
    instant = now() + _PAUSE
    return instant if deadline is None or instant < deadline else deadline


def _dequeue(key: int, me: Parker) -> None:
    _lock.acquire()
    try:
        queue = _queues.get(key)
        if type(queue) is tuple:
            if queue[0] is me:
                del _queues[key]
        elif queue is not None and queue.pop(me, None) is not None and not queue:  # type: ignore[union-attr]
            del _queues[key]
    finally:
        _lock.release()


def reset() -> None:
    """Forget everybody: in a child process after fork."""
    _queues.clear()
    lot_reset()
