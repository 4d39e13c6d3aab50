"""`time.sleep` parks on a timer; `os.sched_yield` lets other virtual threads run, too."""

from __future__ import annotations

import posix
import time
from typing import TYPE_CHECKING

from plait import _originals
from plait._core import VirtualThread, check_entry, sleep, slept
from plait._native import builtin, cooperative
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait._core import Parker


def sched_yield() -> None:
    """`os.sched_yield`. A cancel point: it is called in loops."""
    me: Parker = cooperative()
    if isinstance(me, VirtualThread):
        sleep(0)
        return
    check_entry(me)
    _originals.sched_yield()


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [
        Leaf("time.sleep", builtin(time, "sleep"), slept),
        Leaf("os.sched_yield", builtin(posix, "sched_yield"), sched_yield),
    ]
