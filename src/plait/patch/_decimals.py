"""decimal: a thread that inherits its spawner's arithmetic gets a copy of it, so that no change flows back.

`decimal.getcontext()` gives an object that is changed in place, and keeps it in a context variable. A copy of a context
has the same object: `getcontext().prec = 3` in a child would be the parent's precision, too.
"""

from __future__ import annotations

import sys
from contextvars import Context
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from plait._native import set_copied_variable
from plait.patch._late import late_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import ContextVar

    from plait.patch._registry import Patch

_NAME = "decimal.getcontext"


class _Inheritance:
    """A patch: what a spawn does with the variable."""

    name = _NAME
    parks = None  # it never waits

    def __init__(self, variable: ContextVar[Any]) -> None:
        self._variable = variable
        self._is_in_place = False

    def put(self) -> None:
        """See `Patch`."""
        set_copied_variable(self._variable)
        self._is_in_place = True

    def take(self) -> None:
        """See `Patch`."""
        set_copied_variable(None)
        self._is_in_place = False

    @property
    def is_in_place(self) -> bool:
        """See `Patch`."""
        return self._is_in_place


def _inheritance(module: Any) -> Sequence[Patch]:
    context = Context()
    context.run(module.getcontext)
    return [_Inheritance(variable) for variable in context if variable.name == "decimal_context"]


def leaves() -> Sequence[Patch]:
    """What this file changes."""
    # Where there is no `_decimal`, `decimal` becomes another name of the module that is written in Python.
    has_c = "_decimal" in sys.builtin_module_names or PathFinder.find_spec("_decimal") is not None
    return late_leaves("decimal" if has_c else "_pydecimal", [_NAME], _inheritance)
