"""Arguments that a function has no place for, refused in words: what was called, what it takes, and how that is written.

CPython's own words name the function alone, and for a compiled class that is `__init__` whatever the class. So classes
and functions take such arguments, and refuse them:

    @exact
    def __init__(self, limit: int = MISSING, *misplaced: Never, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused("Limiter", misplaced, unknown, "it takes the number of its slots alone, as in Limiter(8)")

A type checker takes no value for `Never`, and `exact` hides them from `help()` and `inspect.signature`. They cost a dict a
call. What is called at every turn takes only the one that is most likely by mistake, by its name (the `timeout` of a queue,
for a channel), or leaves all to CPython's words.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from plait._reprs import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")


class _Missing:
    def __repr__(self) -> str:
        return "<required>"


MISSING: Any = _Missing()  # in place of an argument that is not given


def exact(fn: F) -> F:
    """Show `fn` without the arguments that it takes in order to refuse them, those of the type `Never`."""
    signature = inspect.signature(fn)
    shown = [parameter for parameter in signature.parameters.values() if parameter.annotation != "Never"]
    fn.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return fn


def refused(name: str, misplaced: tuple[object, ...], unknown: Mapping[str, object], advice: str) -> TypeError:
    """The error for a call of `name` with arguments that it has no place for; `advice` says what it takes."""
    if unknown:
        return TypeError(f"{name} has no option {next(iter(unknown))!r}: {advice}")
    return TypeError(f"{name} has no place for {shortened(misplaced[0])}: {advice}")
