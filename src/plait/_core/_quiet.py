"""The first look of every cancel point: whether anything was ever said of a scope, or of one above it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait._core._tree import Scope


def is_quiet(scope: Scope | None) -> bool:
    """Whether none from `scope` upwards is notable. Compiled, it is the function in the .pxd, which counts no references."""
    while scope is not None:
        if scope.is_notable:
            return False
        scope = scope.parent
    return True
