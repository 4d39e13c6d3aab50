"""decimal: a thread that inherits its spawner's arithmetic gets a copy of it, so that no change flows back.

`decimal.getcontext()` gives an object that is changed in place, and keeps it in a context variable. A copy of a context
has the same object: `getcontext().prec = 3` in a child would be the parent's precision, too.
"""

from __future__ import annotations

from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._native import set_copied_variables
from plait.patch._late import late_leaves

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import ContextVar

    from plait.patch._registry import Patch

_copied: list[ContextVar[Any]] = []  # whose values a spawn copies. Under the install lock


class _Inheritance:
    """A patch: what a spawn does with the variable."""

    parks = None  # it never waits

    def __init__(self, name: str, variable: ContextVar[Any]) -> None:
        self.name = name
        self._variable = variable

    def put(self) -> None:
        """See `Patch`."""
        if not self.is_in_place:
            _copied.append(self._variable)
            set_copied_variables(tuple(_copied))

    def take(self) -> None:
        """See `Patch`."""
        if self.is_in_place:
            _copied.remove(self._variable)
            set_copied_variables(tuple(_copied))

    @property
    def is_in_place(self) -> bool:
        """See `Patch`."""
        return self._variable in _copied


def _inheritance(name: str, module: Any) -> Sequence[Patch]:
    context = Context()
    context.run(module.getcontext)
    return [_Inheritance(name, variable) for variable in context if variable.name == "decimal_context"]


def leaves() -> Sequence[Patch]:
    """What this file changes: of `_decimal`, and of the module in Python, which `decimal` is where that cannot be imported."""
    return [
        leaf
        for module in ("decimal", "_pydecimal")
        for name in [f"{module}.getcontext"]
        for leaf in late_leaves(module, [name], partial(_inheritance, name))
    ]
