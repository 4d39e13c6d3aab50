"""The import of a module that is not there yet: no cancel point, and not torn apart within the grace.

A module that is cancelled half-way is dropped by the import system, and what it had done so far is done again by the next
import. Scopes that the module opens itself while it loads are as ever.

CPython finds `_find_and_load` by its name, and takes the frames of `importlib` out of tracebacks by what they are called;
so what stands there must have no frame. What is imported already is not seen here.
"""

from __future__ import annotations

import importlib  # noqa: F401 - whose function is a leaf
from typing import TYPE_CHECKING

from plait.patch._patience import patient
from plait.patch._registry import ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence


_NAME = "importlib._bootstrap._find_and_load"  # where CPython looks it up
_find_and_load = beneath(_NAME)


def leaves() -> Sequence[ClassPatch]:
    """What this file changes."""
    return [ClassPatch(_NAME, patient(_find_and_load, hears_own_scopes=True))]
