"""Start: a spawn that waits until its thread says that it is ready.

Child:  1. stores the value                     2. wakes, through the lot  [fence]
Caller: 1. queues in the lot, under its lock    2. looks for the value, or for the child's end
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from plait._core import Flag, WaitReason, check_entry, current_thread, lend_slot, lot_wait, lot_wake_one
from plait._spawning import spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from plait._futures import Future
    from plait._groups import ThreadGroup

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
        raise RuntimeError(
            f"{child!r} has ended without calling started(): nobody knows whether it was ready. Its function gets "
            f"`started` as its first argument, and calls it when others may go on"
        )


def start(
    group: ThreadGroup,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str | None = None,
    context: Context | None = None,
) -> Any:
    """As `ThreadGroup.start`: a time limit of the caller does concern the child, until that has started."""
    started: Started[Any] = Started()
    return started.wait(spawn(group, fn, (started, *args), kwargs, label, context, is_reached=True))
