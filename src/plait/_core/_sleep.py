"""Sleeping: a park that only a timer ends. What `time.sleep` becomes; here because the core compiles it."""

from __future__ import annotations

from plait import _originals
from plait._core._cancel import check_entry, check_park
from plait._core._number import time_number
from plait._core._parking import INTERRUPTED, Parker, WaitReason, park
from plait._core._vthread import VirtualThread
from plait._errors import Cancelled
from plait._native._native import WaitWord, cooperative, now, raising

_SLEEP = WaitReason.SLEEP


def sleep(seconds: float, /) -> None:
    """Park for so many seconds; 0 lets others run. A cancel point."""
    told = _sleep(seconds)
    if told is not None:
        raise told


def slept(seconds: float, /) -> None:
    """As `sleep`, for the leaf. `sleep(0)`, which is how programs yield, has no more below it than it needs."""
    if type(seconds) is int and seconds == 0 and _let_others_run():
        return None
    told = _sleep(seconds)
    if told is not None:
        return raising(told)  # type: ignore[no-any-return]
    return None


def _let_others_run() -> bool:
    """`sleep(0)` on a virtual thread; False on any other, which waits for no time."""
    me = cooperative()
    if not isinstance(me, VirtualThread):
        return False
    thread = me
    if thread.scope is not None:
        check_entry(thread)
    VirtualThread.yield_now(thread)
    return True


def _sleep(seconds: float) -> Cancelled | None:
    """Park for so many seconds; what is to be raised after it. Not raised here: see `check_park`."""
    if type(seconds) is not int and type(seconds) is not float:
        number = time_number(seconds)
        if number is None:
            _originals.sleep(seconds)  # refuses it
            return None
        seconds = number
    if not seconds and _let_others_run():
        return None
    me: Parker = cooperative()
    span = seconds
    if not 0 <= span <= 9e9:  # more than this CPython may refuse, and says so itself
        _originals.sleep(seconds)  # refuses it
        return None
    if me.scope is not None:
        check_entry(me)
    until = now() + span
    while True:
        outcome = park(me, WaitWord.arm(me), _SLEEP, until, False)
        if outcome == INTERRUPTED:
            told = check_park(me)
            if isinstance(told, Cancelled):
                return told
        if now() >= until:
            return None
