"""What arrives from threads that are waited for together, in the order in which it comes."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from plait._core import WaitReason, check_entry, current_thread, lend_slot, lot_wait, lot_wake_one
from plait._futures import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core import Parker, Slots

T = TypeVar("T")


class Arrivals(Waiting):
    """Things put by any thread, taken in that order by any thread.

    Putter: 1. appends  2. looks for a waiter, under the lot's lock. Taker: 1. queues in the lot, under its lock  2. tries.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        """Append. Never waits."""
        self._items.append(item)
        lot_wake_one(id(self))

    def take(self, me: Parker, deadline: float | None = None) -> Any:
        """The first; parks until there is one. A cancel point. `TimeoutError` if the instant `deadline` comes first."""
        if me.scope is not None:
            check_entry(me)
        taken: list[Any] = []

        def attempt() -> bool:
            with suppress(IndexError):
                taken.append(self._items.popleft())
            return bool(taken)

        if not attempt():
            self.waiter = me
            try:
                if not lot_wait(me, id(self), attempt, WaitReason.FUTURE, deadline):
                    raise TimeoutError
            finally:
                self.waiter = None
        return taken[0]


def lending(wait: Callable[[Parker], T], lend: Callable[[Parker], Slots | None], deadline: float | None = None) -> T:
    """`wait(me)`, on the calling thread, which lends its slot meanwhile; until the instant `deadline`."""
    me = current_thread()
    slots = lend(me)
    try:
        return wait(me)
    finally:
        if slots is not None:
            slots.take_back(me, deadline)


def offer(me: Parker) -> Slots | None:
    """Let the calls that `me` is about to wait for use its slot: they need not be below it."""
    return lend_slot(me, None)
