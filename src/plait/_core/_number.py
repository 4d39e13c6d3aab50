"""Numbers that callers give: how many, and how long. What is only like an int, such as numpy's, is one; a bool is none."""

from __future__ import annotations

import sys
from math import inf
from operator import index


def whole_number(thing: object) -> int | None:
    """`thing` as an int, where `operator.index` makes one of it; None if it is none."""
    if type(thing) is int:
        return thing
    if isinstance(thing, bool):
        return None
    try:
        return index(thing)  # type: ignore[arg-type]
    except TypeError:
        return None


def real_number(thing: object) -> float | None:
    """`thing` as `time.sleep` takes a number: a float, or what `whole_number` knows; None if it is none."""
    return thing if isinstance(thing, float) else whole_number(thing)


def time_number(thing: object) -> float | None:
    """What CPython's own functions take `thing` for where they take a time; None if they refuse its kind, in their own words.

    Raises what `thing` raises when it is made a number.
    """
    if isinstance(thing, (int, float)):
        return thing
    if hasattr(type(thing), "__index__"):
        return index(thing)  # type: ignore[arg-type]
    if sys.version_info >= (3, 15) and hasattr(type(thing), "__float__"):
        return float(thing)  # type: ignore[arg-type]
    return None


def check_seconds(seconds: object, what: str, *, may_be_past: bool = False) -> float:
    """`seconds` as a span of time; a clear error if it is none. If it `may_be_past`, less than none is none."""
    span = real_number(seconds)
    if span is None:
        advice = ""
        if hasattr(type(seconds), "__float__") and not isinstance(seconds, bool):
            advice = ", which is neither a float nor like an int: hand over float(...) of it, as for time.sleep"
        raise TypeError(f"{what} must be a number of seconds, not {seconds!r}{advice}")
    if may_be_past and span < 0:
        return 0.0
    if not span >= 0:
        raise ValueError(f"{what} must be 0 or more seconds, not {seconds!r}")
    try:
        return float(span)
    except OverflowError:
        return inf  # nobody lives to see the difference
