"""`time.sleep`: parks on a timer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from plait._core import sleep
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [Leaf("time.sleep", time.sleep, sleep)]
