"""Start: a spawn that waits until its thread says that it is ready.

Child:  1. stores the value                     2. wakes, through the lot  [fence]
Caller: 1. queues in the lot, under its lock    2. looks for the value, or for the child's end
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from plait._core import Flag, WaitReason, check_entry, current_thread, lend_slot, lot_wait, lot_wake_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._futures import Future

V = TypeVar("V")


class Started(Generic[V]):
    """What the started function calls to say that it is ready, with a value for who waits. Once; any thread."""

    def __init__(self) -> None:
        self._first = Flag()
        self._first.set()
        self._values: list[V] = []  # appended to once

    def __call__(self, value: V = None) -> None:  # type: ignore[assignment]
        """Let `start` return `value`. Never waits. Raises `RuntimeError` the second time."""
        if not self._first.take():
            raise RuntimeError(f"started() was called before, with {self._values!r}: a thread starts once")
        self._values.append(value)
        lot_wake_one(id(self))

    def wait(self, child: Future[Any]) -> V:
        """The value, once `child` has given it."""
        child.add_done_callback(lambda _: lot_wake_one(id(self)))
        me = current_thread()
        slots = lend_slot(me, child.group.slots)
        try:
            lot_wait(me, id(self), lambda: bool(self._values) or child.done(), WaitReason.START)
        except BaseException:
            child.cancel()
            raise
        finally:
            if slots is not None:
                slots.take_back(me)
        if self._values:
            return self._values[0]
        if me.scope is not None:
            check_entry(me)  # what has failed may have cancelled the caller, too
        child.result()
        raise RuntimeError(f"{child!r} has ended without calling started(): nobody knows whether it was ready")


def start(
    spawn: Callable[..., Future[Any]], fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`spawn` the function with a `Started` before its arguments; the value that it is called with."""
    started: Started[Any] = Started()
    return started.wait(spawn(fn, started, *args, **kwargs))
