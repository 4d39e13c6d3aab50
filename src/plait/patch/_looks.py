"""Waits of the standard library that are written in Python: cancel points, even where they need not wait.

They park by themselves, in the locks and conditions that they are made of. But those are looked at only if they wait,
and taking a lock is not interrupted at once; so a thread whose queue is never empty would not hear of a cancel. Each
looks at the scopes of its thread first (design §3.2, rule 1), and then does what it has always done.

`Queue.put` is left out: pools give a connection back with it, in a `finally`, and a thread that has not yet been told of
its cancel would lose the connection there. So are the futures of `concurrent.futures`: the outcome of one that is done is
at hand. Both are interrupted while they wait, as before.
"""

from __future__ import annotations

import queue  # noqa: F401 - whose methods are leaves
import threading  # noqa: F401 - likewise
from functools import wraps
from typing import TYPE_CHECKING, Any

from plait._core import Parker, check_entry
from plait._native import cooperative
from plait.patch._registry import ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# `with semaphore:` has a name of its own for the same function.
_WAITS = (
    "threading.Condition.wait_for",
    "threading.Semaphore.acquire",
    "threading.Semaphore.__enter__",
    "threading.Barrier.wait",
    "queue.Queue.join",
)


def _look() -> None:
    me: Parker | None = cooperative()
    if me is not None and me.scope is not None:
        check_entry(me)


def _looking(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def wait(*args: Any, **kwargs: Any) -> Any:
        _look()
        return original(*args, **kwargs)

    return wait


_replacements = {name: _looking(beneath(name)) for name in _WAITS}
_get = beneath("queue.Queue.get")


def queue_get(self: Any, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - CPython's
    """Remove and return an item from the queue. See `queue.Queue.get`; without `block` it is no wait."""
    if block:
        _look()
    return _get(self, block, timeout)


def leaves() -> Sequence[ClassPatch]:
    """What this file makes cooperative."""
    return [
        ClassPatch("queue.Queue.get", queue_get),
        *(ClassPatch(name, replacement) for name, replacement in _replacements.items()),
    ]
