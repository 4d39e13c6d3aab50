"""Park and unpark: how a thread, virtual or platform, waits, and how exactly one other ends its wait.

    me.arm()            a new epoch: from here on the wait can be ended       RUNNING -> WAITING
    (publish (me, epoch) to whoever shall end it; look once more at the condition)
    park(me, epoch, reason, deadline)                                         suspends
    who.claim(epoch, WOKEN) then who.resume()                                 WAITING -> WOKEN        # waker
    the carrier's timers                                                      WAITING -> TIMED_OUT    # timer
    who.nudge()                                                               WAITING -> INTERRUPTED  # canceller
    me.disarm(), in park                                                  any     -> RUNNING      # the owner

Exactly one claim wins, and the winner must call `resume()`, once. A thread resumes on its own carrier alone, so a claim
that comes before it has left is harmless: it finds itself in the run queue. Therefore an armed wait is never just
forgotten: `withdraw()` ends it from within, and if somebody has won already it consumes the resume that is on its way.

`park` may return early (INTERRUPTED, for a scope that the thread has left since). Every caller loops over its own
condition. A wait that was WOKEN is never turned into a cancellation: the caller gets its value, and the cancel comes at
the next point.

Tests may watch: each park, shielded or not, is announced to the observers first, on the parking thread, with its wait
armed, before it looks at its scopes. So what an observer cancels is delivered at this very park.

Rejected: a permit in the word. With epochs the wait is armed before it is published, so no wake can come too early to
be seen, and a late one cannot disturb the next wait. `lowlevel.park` and `unpark`, which have a permit, are built on
top of it.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from plait._core._atomics import Lock
from plait._core._cancel import check_park, complain, retract
from plait._core._tree import Victim
from plait._errors import Cancelled
from plait._native import outcomes
from plait._native._native import Counter, WaitWord, switch_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plait._core._continuation import Stack
    from plait._core._timers import Target, Timer

WAITING: int = outcomes["WAITING"]
SHIELDED: int = outcomes["SHIELDED"]
WOKEN: int = outcomes["WOKEN"]
TIMED_OUT: int = outcomes["TIMED_OUT"]
INTERRUPTED: int = outcomes["INTERRUPTED"]
# For every wait: compiled, a name that others import costs a look-up each time.
_WAITING, _SHIELDED, _WOKEN, _TIMED_OUT, _INTERRUPTED = WAITING, SHIELDED, WOKEN, TIMED_OUT, INTERRUPTED

_watched = Counter()  # how many observers there are: all that a park looks at while there is none
_observers_lock = Lock()
_observers: list[Callable[[Parker, WaitReason], None]] = []  # replaced, never changed. Under _observers_lock


class WaitReason(enum.Enum):
    """What a parked thread waits for; one member for each kind of wait, never reused."""

    SLEEP = "sleep"
    LOCK = "lock"
    CONDITION = "condition"
    QUEUE = "simple queue"
    FUTURE = "future"
    GROUP = "children of the group"
    SLOT = "a free slot of the group"
    MUTEX = "mutex"
    READ_LOCK = "lock for reading"
    WRITE_LOCK = "lock for writing"
    READABLE = "readable descriptor"
    WRITABLE = "writable descriptor"
    START = "word that a thread has started"
    SNAPSHOT = "stacks of other threads"
    OFFLOAD = "offloaded call"
    PROCESS = "end of a process"
    THREAD = "end of a platform thread"
    SEMAPHORE = "semaphore of several processes"
    SIGNAL = "signal"
    PERMIT = "permit"
    CHANNEL_SEND = "room in a channel"
    CHANNEL_RECV = "a value from a channel"
    SELECT = "one of several"
    FILE = "a turn at a buffered file"


class Parker(Victim):
    """A thread as the core sees it: something that waits. Subclassed for virtual and for platform threads."""

    __slots__ = ("has_lent", "has_permit", "holds", "permit_wait", "slot_waiter", "waits_for")

    waits_for: WaitReason | None  # what it waits for while parked; for dumps. Written by the owner
    has_lent: bool  # others may use its slot, while it waits (`_slots`). Its own
    slot_waiter: Any  # of its wait for a slot, if it is in one; a signal handler may be in the middle of that. Its own
    has_permit: bool  # the one that `lowlevel.unpark` gives. This and the next: under a lock there
    permit_wait: int  # the epoch of its wait for one; 0: it does not wait for one
    holds: int  # how many of plait's own locks it holds; rather too many than too few. The owner's alone

    def __init__(self, *misplaced: object) -> None:
        """Not called by those who make threads."""
        raise TypeError(
            f"a {type(self).__name__} is made by spawn(), not by its class: current_thread() gives the calling thread, "
            f"plait.Thread is a threading.Thread that is virtual"
        )

    @property
    def name(self) -> str:
        """For messages and dumps. Any thread."""
        raise NotImplementedError

    def leave(self, epoch: int, limit: float | None) -> Stack | None:
        """Begin to wait until wait `epoch` is claimed, or until the instant `limit`. Owner only.

        A virtual thread names the stack to switch to, or None if it is its own turn already; any other waits here, and
        gives None. That `park` switches itself keeps a frame less on every parked stack.
        """
        try:
            self.wait_natively(epoch, limit)
        except BaseException:  # a signal handler's: the wait is over, however it stood
            WaitWord.disarm(self)
            raise
        return None

    def wait_natively(self, epoch: int, limit: float | None) -> None:
        """What `leave` is for threads that are not ours to switch: block the kernel thread. Owner only."""
        raise NotImplementedError

    def drop_timer(self) -> None:
        """The wait with a limit is over before it. Owner only. A native wait has set none."""

    def absorb(self) -> None:
        """Consume the resume of a claim that has happened, without waiting for anything else. Owner only.

        A ring that is on its way does no harm.
        """

    def resume(self) -> None:
        """Let the thread go on. A virtual thread is queued, any other rings."""
        self.ring()

    def ring(self) -> None:
        """What `resume` is for threads that are not ours to switch: end their native wait. Any thread."""
        raise NotImplementedError

    def add_timer(self, when: float, target: Target, epoch: int) -> Timer | tuple[Timer, Timer]:
        """Have `target.expire(epoch)` called at the instant `when`; what to retire it by. Owner only."""
        raise NotImplementedError

    def retire_timer(self, timer: Any) -> None:
        """A timer added here is over before its time. Owner only."""
        raise NotImplementedError

    def withdraw(self) -> int:
        """End an armed wait without suspending; WAITING, or the outcome that somebody had brought about. Owner only."""
        outcome = WaitWord.disarm(self)
        if outcome in (_WAITING, _SHIELDED):
            return _WAITING
        self.absorb()
        return outcome

    def resume_spawner(self) -> None:
        """As `resume`, for a thread that goes on to spawn more: those that it has spawned go first. Any thread."""
        self.resume()

    def hear_handlers(self) -> None:
        """Raise what a signal handler has raised for this thread while it was suspended. Owner only."""

    def unpark(self, epoch: int) -> bool:
        """End wait `epoch`; False if it was over. Any thread."""
        if WaitWord.claim(self, epoch, _WOKEN):
            self.resume()
            return True
        return False


def park(
    me: Parker,
    epoch: int,
    reason: WaitReason,
    deadline: float | None = None,
    is_raising: bool = True,  # noqa: FBT001, FBT002 - compiled functions take no keyword-only arguments
) -> int:
    """Suspend the armed calling thread; WOKEN, TIMED_OUT or INTERRUPTED (look again).

    Raises `Cancelled` if the thread is cancelled and the wait was not WOKEN first. Whatever happens, the wait is over.

    Unless `is_raising`, a cancel that comes while it is suspended is not raised here: the caller gets INTERRUPTED, and
    calls `check_park` by itself. Each function that an exception leaves costs as much as the wait.
    """
    limit = deadline
    if Counter.value(_watched):
        _tell_observers(me, reason)
    if me.scope is not None:
        try:
            grace = check_park(me)
        except BaseException as error:  # a warning's, or a signal handler's
            if not is_complete(me, error):
                raise
            return _WOKEN
        if isinstance(grace, float):
            if limit is None or grace < limit:
                limit = grace
        elif grace is not None:
            if not is_complete(me, grace):
                raise grace
            return _WOKEN
    me.waits_for = reason
    me.park_count += 1
    stack = me.leave(epoch, limit)
    if stack is not None:
        switch_to(stack)
    outcome: int = WaitWord.disarm(me)
    me.waits_for = None
    if limit is not None and outcome != _TIMED_OUT:
        me.drop_timer()
    if outcome == _WOKEN or (outcome == _TIMED_OUT and limit is deadline):
        return outcome
    # A signal handler has raised; or cancelled, or its grace is over, or a nudge for a scope that it has left.
    me.hear_handlers()
    if is_raising:
        grace = check_park(me)
        if isinstance(grace, Cancelled):
            raise grace
    return _INTERRUPTED


def is_complete(me: Parker, error: BaseException) -> bool:
    """The look at its scopes has raised `error` on the armed calling thread: end the wait; whether it was WOKEN first.

    Then the error is not to be raised.
    """
    if me.withdraw() != _WOKEN:
        complain(me)
        return False
    if isinstance(error, Cancelled):
        retract(me)
    return True


def unpark_all(waiters: Iterable[tuple[Parker, int]]) -> None:
    """End each of these waits that is still open. Any thread."""
    for who, epoch in waiters:
        Parker.unpark(who, epoch)


def resume(who: Parker) -> None:
    """`who.resume()`, for modules whose variables have no types when they are compiled."""
    who.resume()


def park_shielded(me: Parker, epoch: int, reason: WaitReason, limit: float | None = None) -> int:
    """Suspend the armed calling thread whatever its scopes say; the outcome."""
    if Counter.value(_watched):
        _tell_observers(me, reason)
    me.waits_for = reason
    me.park_count += 1
    stack = me.leave(epoch, limit)
    if stack is not None:
        switch_to(stack)
    outcome: int = WaitWord.disarm(me)
    me.waits_for = None
    if limit is not None and outcome != _TIMED_OUT:
        me.drop_timer()
    return outcome


def observe_parks(observer: Callable[[Parker, WaitReason], None]) -> None:
    """Have `observer(thread, reason)` called for each park of any thread, on that thread. It must not park. Any thread.

    The caller's own parks are seen from now on, and those of threads that it starts from now on.
    """
    global _observers  # noqa: PLW0603 - copied on write
    with _observers_lock:
        _observers = [*_observers, observer]
    _watched.add(1)


def unobserve_parks(observer: Callable[[Parker, WaitReason], None]) -> None:
    """Call `observer` no more. It may still be at work on another thread. Any thread."""
    global _observers  # noqa: PLW0603 - as above
    with _observers_lock:
        _observers = [other for other in _observers if other != observer]
    _watched.add(-1)


def _tell_observers(me: Parker, reason: WaitReason) -> None:
    with _observers_lock:
        observers = _observers
    try:
        for observer in observers:
            observer(me, reason)
    except BaseException:  # a signal handler's: the wait is over, however it stood
        me.withdraw()
        raise
