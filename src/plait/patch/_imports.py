"""The import of a module that is not there yet: no cancel point, and not torn apart within the grace.

A module that is cancelled half-way is dropped by the import system, and what it had done so far is done again by the next
import. Scopes that the module opens itself while it loads are as ever.

CPython finds `_find_and_load` by its name, and takes the frames of `importlib` out of tracebacks by what they are called;
so what stands there must have no frame. What is imported already is not seen here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from plait.patch._patience import patient
from plait.patch._registry import ClassPatch

if TYPE_CHECKING:
    from collections.abc import Sequence


def leaves() -> Sequence[ClassPatch]:
    """What this file changes."""
    system: Any = importlib._bootstrap  # noqa: SLF001 - where CPython looks it up
    loading = patient(system._find_and_load, hears_own_scopes=True)  # noqa: SLF001 - see above
    return [ClassPatch("importlib._bootstrap._find_and_load", system, "_find_and_load", loading)]
