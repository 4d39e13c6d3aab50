"""`queue.SimpleQueue`: parks in the parking lot. (`queue.Queue` and its kin are built on locks, and follow by themselves.)"""

from __future__ import annotations

import _queue
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any

from plait._core import Parker, WaitReason, check_entry, lot_wait, lot_wake_one, now, time_number
from plait._native import cooperative
from plait._originals import queue_get
from plait.patch._registry import ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Sequence

_Empty = _queue.Empty


def get(queue: Any, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - CPython's
    """`SimpleQueue.get`."""
    if timeout is not None and block:
        seconds = time_number(timeout)
        if seconds is None:
            return queue_get(queue, block, timeout)  # refuses, in its own words
        timeout = seconds
    if not block or (timeout is not None and not 0 < timeout <= TIMEOUT_MAX):
        return queue_get(queue, block, timeout)  # does not wait, or refuses
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    try:
        return queue_get(queue, False)
    except _Empty:
        pass
    taken: list[Any] = []

    def attempt() -> bool:
        try:
            taken.append(queue_get(queue, False))
        except _Empty:
            return False
        return True

    if not lot_wait(me, id(queue), attempt, WaitReason.QUEUE, None if timeout is None else now() + timeout):
        raise _Empty
    return taken[0]


def wake(queue: Any) -> None:
    """Something was put into a queue."""
    lot_wake_one(id(queue))


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    queue = _queue.SimpleQueue
    return [
        Leaf("queue.SimpleQueue.get", method(queue, "get"), get),
        Leaf("queue.SimpleQueue.put", method(queue, "put"), None, wake),
        Leaf("queue.SimpleQueue.put_nowait", method(queue, "put_nowait"), None, wake),
    ]
