"""Development mode: a variable shared with the spawner that changes between spawn and start is pointed out.

`spawn(lambda: fetch(url))` in a loop reads `url` when the thread begins, not when it is spawned.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from plait._errors import RebindAfterSpawn
from plait._reprs import shortened

if TYPE_CHECKING:
    from collections.abc import Callable

is_development = sys.flags.dev_mode

_EMPTY = object()


def watch_variables(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, or in its place a function that first compares the variables which `fn` shares with its surroundings."""
    cells = getattr(fn, "__closure__", None)
    if not cells:
        return fn
    names = fn.__code__.co_freevars
    before = [_contents(cell) for cell in cells]

    def run(*args: Any, **kwargs: Any) -> Any:
        for name, cell, value in zip(names, cells, before, strict=True):
            if value is not _EMPTY and _contents(cell) is not value:
                warnings.warn_explicit(
                    f"{fn.__qualname__!r} was spawned when {name!r} was {shortened(value)}, and begins when it is "
                    f"{shortened(_contents(cell))}: hand the value over, as in spawn(fn, {name})",
                    RebindAfterSpawn,
                    fn.__code__.co_filename,
                    fn.__code__.co_firstlineno,
                    module=fn.__module__,
                )
        return fn(*args, **kwargs)

    run.__qualname__ = fn.__qualname__
    return run


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return _EMPTY
