"""The hash of builtin functions: what it was before they became leaves, so that a key of a dictionary is found again.

CPython makes it of the pointer that a leaf replaces, in the method table. It is put in place before all leaves.
"""

from __future__ import annotations

from types import BuiltinFunctionType
from typing import TYPE_CHECKING

from plait._native import hashes_replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch


class _Hash:
    """The slot behind `BuiltinFunctionType.__hash__`."""

    name = "types.BuiltinFunctionType.__hash__"
    parks = None  # it never waits

    def __init__(self) -> None:
        self.is_in_place = False

    def put(self) -> None:
        """See `Patch`."""
        hashes_replace(BuiltinFunctionType.__dict__["__hash__"], True)
        self.is_in_place = True

    def take(self) -> None:
        """See `Patch`."""
        hashes_replace(BuiltinFunctionType.__dict__["__hash__"], False)
        self.is_in_place = False


def leaves() -> Sequence[Patch]:
    """What this file changes."""
    return [_Hash()]
