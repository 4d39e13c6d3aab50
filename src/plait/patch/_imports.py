"""The import of a module that is not there yet: no cancel point, and not torn apart within the grace.

A module that is cancelled half-way is dropped by the import system, and what it had done so far is done again by the next
import. Scopes that the module opens itself while it loads are as ever.

CPython finds `_find_and_load` by its name, and takes the frames of `importlib` out of tracebacks by what they are called;
so what stands there must have no frame. What is imported already is not seen here.

From 3.15 on a name may be imported lazily. While it becomes a module CPython holds its import lock, which belongs to the
kernel thread: the next thread of the carrier to come to the same name would own it, too, and be told of a circular import.
So who loads a module while the lock is held reads files by itself, as on a kernel thread, and gives way to nobody
(`_native/turns.c`); he may be taken for the holder for a moment, which does no harm. What else the module waits for while
it loads may still come to that, and so may a `__import__` or a module's `__getattr__` that waits: docs/leaves.md says so.
"""

from __future__ import annotations

import importlib  # noqa: F401 - whose function is a leaf
import sys
from _imp import lock_held
from typing import TYPE_CHECKING

from plait._native import around, cooperative
from plait.patch._patience import patient
from plait.patch._registry import ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait._core import Parker


_NAME = "importlib._bootstrap._find_and_load"  # where CPython looks it up
_find_and_load = beneath(_NAME)


def _begin() -> tuple[Parker, bool]:
    me: Parker = cooperative()
    before = me.loads_locked
    me.loads_locked = before or lock_held()
    return me, before


def _end(before: tuple[Parker, bool]) -> None:
    me, was_locked = before
    me.loads_locked = was_locked


def leaves() -> Sequence[ClassPatch]:
    """What this file changes."""
    load = patient(_find_and_load, hears_own_scopes=True)
    if sys.version_info >= (3, 15):  # before, the lock is held for moments
        load = around(load, _begin, _end)
    return [ClassPatch(_NAME, load)]
