"""asyncio's running loop: one a virtual thread, though CPython keeps it by the kernel thread. Where a loop copies the
outcome of another future into one of its own is no cancel point.

Whoever has a loop running is marked when the loop starts; the switch then takes loop and current task off the kernel
thread when that thread leaves it, and puts them back when it returns. Threads without a loop pay nothing.

A loop does that in a callback (`asyncio.wrap_future`), and asks plait's futures there, for whom it is a cancel point. A
`Cancelled` would get no further than the loop's report of what callbacks raise: the outcome would be lost, and the thread
accused of having swallowed it. So the thread hears of no cancel there; it does when the loop next waits.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from plait import _native
from plait._core import VirtualThread, call_deaf
from plait._native import current, mark_loop, original
from plait.patch._late import late_leaves
from plait.patch._registry import IDENTITY, ClassPatch, Leaf, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch

_NAME = "asyncio running loop"
_COPY = "asyncio.futures._copy_future_state"

_set_loop: Any = None  # asyncio's, taken when it is there
_get_loop: Any = None
_swap_task: Any = None


def set_running_loop(loop: Any, /) -> None:
    """`_asyncio._set_running_loop`."""
    _set_loop(loop)
    if isinstance(current(), VirtualThread):
        mark_loop(loop is not None)


def _leave() -> Any:
    """Take loop and task off the kernel thread; what they were."""
    loop = _get_loop()
    task = None
    if loop is not None and _swap_task is not None:
        task = _swap_task(loop, None)
    _set_loop(None)
    return loop, task


def _enter(state: Any) -> None:
    """Put them back."""
    loop, task = state
    _set_loop(loop)
    if task is not None:
        _swap_task(loop, task)


def _leaves(module: Any) -> list[Leaf]:
    global _set_loop, _get_loop, _swap_task  # noqa: PLW0603 - taken once
    _set_loop = original(module._set_running_loop)  # noqa: SLF001
    _get_loop = original(module._get_running_loop)  # noqa: SLF001
    # Up to 3.13 the current task is kept by loop, not by thread: there is nothing to take off.
    _swap_task = module._swap_current_task if sys.version_info >= (3, 14) else None  # noqa: SLF001
    _native.set_loop_hooks(_leave, _enter)
    return [Leaf(_NAME, module._set_running_loop, set_running_loop, when=IDENTITY)]  # noqa: SLF001


def _leaves_of_futures(_: Any) -> list[ClassPatch]:
    return [ClassPatch(_COPY, partial(call_deaf, beneath(_COPY)))]


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    return [
        *late_leaves("_asyncio", (_NAME,), _leaves),
        *late_leaves("asyncio.futures", (_COPY,), _leaves_of_futures),
    ]
