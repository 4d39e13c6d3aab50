"""Cancellation as the victim sees it: what a cancel point does to who is cancelled, and what clean-up is granted.

Delivery. `Cancelled` is raised for the outermost cancelled scope (`_tree.py`), and the first delivery happens at any
cancel point, even one that would not block. The thread then cleans up: as long as that exception is alive (a weak
reference tells) it may park, until the scope's grace, counted from the delivery, is over. If the exception has died
without reaching its scope, somebody swallowed it: it is raised again at the next operation that would park, and reported
once; to who swallows it in a loop it comes ever more slowly. Who keeps the exception that it has swallowed looks like
clean-up until the grace is over; then no exception is being handled, and it is reported, too. The grace of a scope is
granted once: no loop of swallowing has it again.

Who must not leave things half done is *patient*: it hears of a cancel when the grace is over, as if it cleaned up.

A scope that is cancelled again may be given less time, by an instant when all of this is over (`cut_off`). Canceller: stores
it [lock], then wakes each thread that is parked under the scope, once. Thread: arms, then looks until when it may park.
"""

from __future__ import annotations

import warnings
import weakref
from sys import exc_info
from typing import TYPE_CHECKING, Any, TypeVar

from plait._core._misuse import check_openers
from plait._core._tree import Delivery, exceptions_in, grace_of, horizon, is_hurried, is_under, pending, pending_now
from plait._errors import Cancelled, CancelledSwallowed
from plait._native._native import cooperative, now, weak_reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core._tree import Scope, Victim

R = TypeVar("R")

# Pauses of who swallows it in a loop: a share of the time since it began to, within these limits (seconds)
_PAUSE, _LONGEST_PAUSE, _SHARE = 5e-5, 1.0, 1 / 1024


class _Excused(weakref.ref["Cancelled"]):
    """Of a `Cancelled` that something else was raised in place of: who handles that one has not swallowed it."""

    __slots__ = ()


def check_entry(me: Victim) -> Scope | None:
    """A cancel point begins: raise `Cancelled` if `me` is cancelled and has not been told yet. Calling thread only.

    Gives the scope for which it has been told, if it has.
    """
    scope = pending_now(me.scope)
    if scope is not None and not me.is_deaf and not (me.patient_since and _is_patient(me)):
        told = me.delivery
        if told is None:
            raise deliver(me, scope)
        if told.scope is not scope:
            _widen(me, scope)
    return scope


def check_park(me: Victim) -> float | Cancelled | None:
    """`me` is about to park: the instant until which it may (None: any), or what is to be raised instead.

    Calling thread only. Not raised here: each compiled function that an exception leaves adds a line to its traceback,
    which costs as much as the rest, and tells the user nothing.
    """
    scope = pending(me.scope)
    if scope is None or me.is_deaf:
        return horizon(me.scope)
    if me.patient_since and _is_patient(me):
        return sooner(patience(me, me.patient_since), me)
    told = me.delivery
    if told is None:
        return deliver(me, scope)
    if told.scope is not scope:
        _widen(me, scope)
    if scope.cut_off and scope.cut_off < told.until:
        told.until = scope.cut_off
    if told.alive() is not None:
        if now() < told.until and not is_hurried(me.scope):
            return sooner(told.until, me)
        # If it has left all handlers it has kept the exception: this is no clean-up any more. But callbacks have none, and
        # C, where something is closed patiently, goes on with an exception in hand.
        is_swallowed = exc_info()[1] is None and told.alive is not _always and not me.patient_since
    else:
        is_swallowed = True
    if is_swallowed and not told.is_reported and type(told.alive) is not _Excused:
        told.is_swallowed = told.is_due = True
        complain(me)
    # Who swallows it again and again gets it ever more slowly: a loop with an end comes to it soon, one without burns no
    # CPU (ADR 14). The same for clean-up beyond its grace, which may be a loop.
    moment = now()
    if moment < told.quiet_until:
        return told.quiet_until
    if not told.told_again_at:
        told.told_again_at = moment
    told.quiet_until = moment + min(max(_PAUSE, (moment - told.told_again_at) * _SHARE), _LONGEST_PAUSE)
    return deliver(me, scope)


def check_first(me: Victim) -> None:
    """Before `me` is told of something that a cancel may have done to others: if it is cancelled itself, that comes first.

    Raises what a cancel point that parks would. Calling thread only.
    """
    if me.scope is not None:
        check_entry(me)
        if isinstance(cancelled := check_park(me), Cancelled):  # in clean-up, whose grace is over
            raise cancelled


def sooner(instant: float | None, me: Victim) -> float | None:
    """`instant`, or the end of a shield before that: what it hides may have less grace."""
    end = horizon(me.scope)
    if instant is None or end is None:
        return end if instant is None else instant
    return min(instant, end)


def patience(me: Victim, since: float) -> float | None:
    """Until when a wait of `me` for mutual exclusion, begun at `since`, may last; None: `me` is not cancelled.

    The grace is counted from the cancel or from the start of the wait, the later: critical sections are short, and a
    pool must get its connection back.
    """
    scope = pending(me.scope)
    if scope is None or me.is_deaf:
        return None
    assert scope.cancelled_at is not None
    if is_hurried(me.scope):
        return since
    until = max(scope.cancelled_at, since) + grace_of(scope)
    return min(until, scope.cut_off) if scope.cut_off else until


def _is_patient(me: Victim) -> bool:
    """Whether `me`, which is cancelled, still has the time to end what must not be left half done."""
    if me.patient_for is not None:
        scope = pending(me.scope)
        if scope is not me.patient_for and is_under(scope, me.patient_for):
            return False
    until = patience(me, me.patient_since)
    return until is None or now() < until


def check_patient(me: Victim, since: float) -> float | None:
    """As `check_park` for mutual exclusion: raise only when its patience is over."""
    until = patience(me, since)
    if until is None or now() < until:
        return sooner(until, me)
    raise deliver(me, pending(me.scope))  # type: ignore[arg-type]


def patiently(me: Victim, call: Callable[..., R], *args: Any) -> R:
    """`call(*args)`, whose waits a cancel does not end before the grace is over: for what must not be left half done."""
    before = be_patient(me, None)
    try:
        return call(*args)
    finally:
        me.patient_since, me.patient_for = before


def be_patient(me: Victim, scope: Scope | None) -> tuple[float, Scope | None]:
    """Have `me` do something that must not be left half done: by cancels below `scope`, if that is given, it may be.

    Gives what its fields for that were.
    """
    before = me.patient_since, me.patient_for
    if not me.patient_since or me.patient_for is not scope:
        me.patient_since = now()
        me.patient_for = scope
    return before


def refuge(me: Victim, outer: Scope) -> float | None:
    """Until which instant `me` goes on though `outer`, around it, is cancelled, or may be; None: it does not.

    In a shield inside `outer`, or in clean-up for it. Calling thread only.
    """
    told = me.delivery
    if told is not None and told.alive() is not None and pending(outer) is not None:
        return told.until
    scope = me.scope
    while scope is not None and scope is not outer:
        if scope.is_shield and now() < scope.shelter:
            return scope.shelter
        scope = scope.parent
    return None


def deliver(me: Victim, scope: Scope) -> Cancelled:
    """The `Cancelled` to raise on `me` for `scope`, outside the rules of cancel points."""
    error = Cancelled(*scope.cause)
    told = me.delivery
    if told is None:
        me.delivery = told = Delivery.__new__(Delivery)  # its __init__ would cost as much as all this
        told.scope = scope
        told.until = _end_of_grace(me, scope)
        told.is_swallowed = told.is_reported = told.is_due = False
        told.quiet_until = 0.0
        told.told_again_at = 0.0
        told.former = None
    else:
        told.former = told.alive
    told.alive = weak_reference(error)
    if me.scope is not me:
        told.is_due = True
        complain(me)
    return error


def begin_clean_up(me: Victim) -> None:
    """If `me` is cancelled, it is as if it were being told: what follows may park until the grace is over."""
    scope = pending(me.scope)
    if scope is not None and me.delivery is not None:
        me.delivery.alive = _always
    elif scope is not None:
        me.delivery = told = Delivery.__new__(Delivery)
        told.scope = scope
        told.until = _end_of_grace(me, scope)
        told.is_swallowed = told.is_reported = told.is_due = False
        told.quiet_until = 0.0
        told.told_again_at = 0.0
        told.former = None
        told.alive = _always


def _always() -> bool:
    """In place of a weak reference: there is no exception that could die."""
    return True


def retract(me: Victim) -> None:
    """What `deliver` has just given is not raised after all: the wait that it would have ended was complete."""
    told = me.delivery
    assert told is not None
    if told.former is None:
        me.delivery = None
    else:
        told.alive = told.former


def excuse(me: Victim, error: BaseException | None) -> None:
    """What is raised now takes the place of `error`: if `me`, the caller, was told that last, or a part of it, it is excused.

    Until it is told again: if it swallows that, it is accused.
    """
    told = me.delivery
    last = None if told is None else told.alive()
    if isinstance(last, Cancelled) and error is not None and any(one is last for one in exceptions_in(error)):
        told.alive = _Excused(last)  # type: ignore[union-attr]


def complain(me: Victim) -> None:
    """Issue the warnings that are due, unless a wait is announced: they run code of others, which may wait itself."""
    told = me.delivery
    if told is None or not told.is_due or cooperative() is None:
        return
    told.is_due = False
    check_openers(me)
    if told.is_swallowed and not told.is_reported:
        told.is_reported = True
        warnings.warn(
            f"{me!r} was cancelled ({told.scope.cancel_reason}), and the Cancelled that it got was swallowed; it gets "
            f"another at each operation that would park. Let Cancelled pass: catch Exception, or raise it again after "
            f"clean-up",
            CancelledSwallowed,
            stacklevel=1,  # the core is compiled and has no frames: the first is that of the function which waits
        )


def _widen(me: Victim, scope: Scope) -> None:
    """An outer scope was cancelled while the thread unwinds for an inner one: the same exception goes on to it."""
    told = me.delivery
    assert told is not None
    told.scope = scope
    told.until = _end_of_grace(me, scope)


def _end_of_grace(me: Victim, scope: Scope) -> float:
    """Until when clean-up for `scope`, which begins now, may park: no longer than the clean-up that it is part of."""
    until = now() + grace_of(scope)
    if scope.cut_off:
        until = min(until, scope.cut_off)
    end = me.scope.grace_end  # type: ignore[union-attr]
    return min(until, end) if end else until
