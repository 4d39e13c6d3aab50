"""`Thread.join`: a worker of the pool does the waiting, since C ends a thread without a call that could be replaced.

Up to 3.12 the wait is a method of `threading.Thread`, which takes any exception for the thread's end: it has to run
where none can reach it. From 3.13 on it is a method of the thread's handle.
"""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING, Any

from plait._core import Parker, runtime
from plait._native import cooperative, original
from plait.patch._registry import ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Sequence

_handle: Any = getattr(_thread, "_ThreadHandle", None)
_join_handle: Any = None if _handle is None else original(method(_handle, "join"))
_wait: Any = getattr(threading.Thread, "_wait_for_tstate_lock", None)


def join_handle(handle: Any, timeout: float | None = None) -> None:
    """`_thread._ThreadHandle.join`."""
    runtime.offload.call(cooperative(), _join_handle, handle, timeout)


def wait_for_tstate_lock(thread: threading.Thread, block: bool = True, timeout: float = -1) -> None:  # noqa: FBT001, FBT002 - CPython's
    """`threading.Thread._wait_for_tstate_lock`."""
    me: Parker | None = cooperative()
    if me is None or not block or timeout == 0:
        _wait(thread, block, timeout)
    else:
        runtime.offload.call(me, _wait, thread, block, timeout)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    if _handle is not None:
        return [Leaf("_thread._ThreadHandle.join", method(_handle, "join"), join_handle)]
    name = "_wait_for_tstate_lock"
    return [ClassPatch(f"threading.Thread.{name}", threading.Thread, name, wait_for_tstate_lock)]
