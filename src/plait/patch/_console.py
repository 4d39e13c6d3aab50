"""`input()` at a terminal, where CPython waits for the line in C: with readline, if that is imported, and under a lock.

On a virtual thread the prompt is written and the line read through `sys.stdout` and `sys.stdin`, as `input()` does it when
they are no terminals. So the thread parks, and a cancel reaches it; what edits the line is the terminal then, and not
readline, with its history. Elsewhere `input()` is built on those files already.
"""

from __future__ import annotations

import builtins
import sys
from typing import TYPE_CHECKING, Any

from plait._native import builtin, original
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence

_input = original(builtin(builtins, "input"))


def _is_terminal() -> bool:
    """Whether CPython would read from the terminal itself."""
    try:
        return (sys.stdin.fileno(), sys.stdout.fileno()) == (0, 1) and sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, OSError, ValueError):  # None, or files of another kind
        return False


def input_(*args: Any) -> str:
    """`input`."""
    if len(args) > 1 or sys.stderr is None or not _is_terminal():
        return _input(*args)  # type: ignore[no-any-return]
    sys.audit("builtins.input", *(args or ("",)))
    sys.stderr.flush()
    sys.stdout.write(str(*args))
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    line = line.removesuffix("\n")
    sys.audit("builtins.input/result", line)
    return line


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [Leaf("input", builtin(builtins, "input"), input_)]
