"""`time.sleep`: parks on a timer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from plait import _originals
from plait._core import Parker, VirtualThread, WaitReason, check_entry, now, park
from plait._native import cooperative
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOREVER = 1e9  # seconds; more than this CPython may refuse, and says so itself


def sleep(seconds: float, /) -> None:
    """Park for so many seconds; 0 lets others run. A cancel point."""
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= _FOREVER:
        if hasattr(type(seconds), "__index__") and not isinstance(seconds, (int, float)):
            sleep(type(seconds).__index__(seconds))
            return
        _originals.sleep(seconds)  # refuses it
        return
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if seconds == 0 and isinstance(me, VirtualThread):
        me.yield_now()
        return
    until = now() + seconds
    while True:
        park(me, me.arm(), WaitReason.SLEEP, until)
        if now() >= until:
            return


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [Leaf("time.sleep", time.sleep, sleep)]
