"""Development mode: a variable shared with the spawner that changes between spawn and start is pointed out.

`spawn(lambda: fetch(url))` in a loop reads `url` when the thread begins, not when it is spawned. In a function such a
variable is one of the closure, and each of those is compared. In a script's own code, outside of functions, it is a global
one like all others there, such as flags and counters that are meant to change; so of these only the variables of `for`
loops are compared, those of the code that spawns, where the function reads them.
"""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any

from plait._errors import RebindAfterSpawn
from plait._reprs import shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType

is_development = sys.flags.dev_mode

_EMPTY = object()


def watch_variables(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, or in its place a function that first compares the variables which `fn` shares with its surroundings."""
    if not isinstance(fn, FunctionType):
        return fn
    before = _values(fn, looped := _looped_globals(fn))
    if not before:
        return fn

    def run(*args: Any, **kwargs: Any) -> Any:
        now = _values(fn, looped)
        for name, value in before.items():
            if value is not _EMPTY and now[name] is not value:
                warnings.warn_explicit(
                    f"{fn.__qualname__!r} was spawned when {name!r} was {shortened(value)}, and begins when it is "
                    f"{shortened(now[name])}: hand the value over, as in spawn(fn, {name})",
                    RebindAfterSpawn,
                    fn.__code__.co_filename,
                    fn.__code__.co_firstlineno,
                    module=fn.__module__,
                )
        return fn(*args, **kwargs)

    run.__qualname__ = fn.__qualname__
    return run


def _values(fn: FunctionType, looped: Sequence[str]) -> dict[str, object]:
    """The variables that `fn` shares with its surroundings, those of its closure and `looped`, and their values now."""
    found = {name: fn.__globals__.get(name, _EMPTY) for name in looped}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        found[name] = _contents(cell)
    return found


def _looped_globals(fn: FunctionType) -> Sequence[str]:
    """The global variables that `fn` reads, and that a `for` of the code which spawns it, outside of functions, sets."""
    frame = sys._getframe()  # noqa: SLF001 - the spawner's is asked for its code alone
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "plait":
        frame = frame.f_back
    if frame.f_globals is not fn.__globals__:
        return ()
    return tuple(_loop_variables(frame.f_code) & _globals_read(fn.__code__))


@lru_cache(maxsize=64)
def _loop_variables(code: CodeType) -> frozenset[str]:
    """The global variables that `for` sets in `code`: those that are stored first after a step of an iterator."""
    import dis  # in development mode alone

    found = set()
    expected = 0
    for step in dis.get_instructions(code):
        if step.opname == "FOR_ITER":
            expected = 1
        elif expected and step.opname == "UNPACK_SEQUENCE":
            expected += (step.arg or 0) - 1
        elif expected and step.opname == "UNPACK_EX":
            expected += (step.arg or 0) % 256 + (step.arg or 0) // 256  # before the starred one, and after it
        elif expected and step.opname.startswith("STORE_"):
            expected -= 1
            if step.opname in {"STORE_NAME", "STORE_GLOBAL"}:
                found.add(step.argval)
    return frozenset(found)


@lru_cache(maxsize=256)
def _globals_read(code: CodeType) -> frozenset[str]:
    import dis

    return frozenset(step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")


def _contents(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return _EMPTY
