"""Limiter: so many at a time, in a block, in one group, or in several groups together."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Never, Self, overload

from plait._arguments import MISSING, exact, refused
from plait._core import Slots, check_entry, check_seconds, current_thread, now, whole_number

if TYPE_CHECKING:
    from types import TracebackType


class Limiter(Slots):
    """A number of slots: whoever has one may work, the others wait for their turn.

    Groups share it: `ThreadGroup(max_concurrency=limiter)` takes a slot for each child. Or use it as a block. Those who
    wait are served in the order in which they came, except that a child which waits for other threads of its group lends
    its slot meanwhile, and gets one back before all others. Any thread, virtual or platform.

    A slot is not tied to the thread that took it: `release` may come from another. A child of a group with this limiter
    has a slot already; a second one for itself it had better not ask for.

    Args:
        limit: How many slots there are.

    Raises:
        TypeError, ValueError: `limit` is no whole number from 1 up.

    Example:
        >>> from plait import Limiter, ThreadGroup
        >>> connections = Limiter(2)
        >>> with ThreadGroup(max_concurrency=connections) as fast, ThreadGroup(max_concurrency=connections) as slow:
        ...     futures = [group.spawn(lambda: connections.available) for group in (fast, slow) for _ in range(3)]
        >>> max(future.result() for future in futures) < 2, connections.available
        (True, 2)
    """

    @overload
    def __init__(self, limit: int, /) -> None: ...

    @overload
    def __init__(self, *, limit: int) -> None: ...

    @exact
    def __init__(self, limit: int = MISSING, *misplaced: Never, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused("Limiter", misplaced, unknown, "it takes the number of its slots alone, as in Limiter(8)")
        if limit is MISSING:
            raise TypeError("Limiter needs the number of its slots: write Limiter(8) for eight at a time")
        super().__init__(check_limit(limit, "limit"))

    def __repr__(self) -> str:
        return f"<Limiter {self.available} of {self.limit} free, {self.waiting} waiting>"

    @property
    def limit(self) -> int:
        """How many slots there are. It can be set, by any thread: what is taken stays taken; never waits."""
        return self.get_limit()

    @limit.setter
    def limit(self, limit: int) -> None:
        self.resize(check_limit(limit, "limit"))

    @property
    def available(self) -> int:
        """How many slots are free now."""
        return self.count_free()

    @property
    def waiting(self) -> int:
        """How many threads wait for one now."""
        return self.count_waiting()

    def acquire(self, timeout: float | None = None) -> bool:
        """Take a slot, waiting for one if there is none; False after `timeout` seconds without. A cancel point.

        Who is cancelled has none. Raises `TypeError` or `ValueError` if `timeout` is no number of seconds.
        """
        me = current_thread()
        deadline = None if timeout is None else now() + check_seconds(timeout, "timeout")
        if me.scope is not None:
            check_entry(me)
        return self.take(me, deadline)

    def try_acquire(self) -> bool:
        """Take a slot if one is free now. Never waits, no cancel point."""
        return self.try_take()

    def release(self) -> None:
        """Give a slot back: to the thread that waits first, if there is one. Never waits, no cancel point.

        Raises `RuntimeError` if none is taken.
        """
        if not self.give():
            raise RuntimeError(f"{self!r} has no slot to release: each release gives back what one acquire has taken")

    def __enter__(self) -> Self:
        """Take a slot. A cancel point."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back."""
        self.release()


def slots_for(max_concurrency: int | Limiter | None) -> Slots | None:
    """The slots that the children of a group take."""
    if max_concurrency is None or isinstance(max_concurrency, Limiter):
        return max_concurrency
    return Slots(check_limit(max_concurrency, "max_concurrency", " a Limiter,"))


def check_limit(limit: object, what: str, others: str = "") -> int:
    """`limit`, if it is a number of threads that may work at a time."""
    number = whole_number(limit)
    if number is None:
        raise TypeError(f"{what} must be a whole number{',' + others + ' or None' if others else ''}, not {limit!r}")
    if number < 1:
        raise ValueError(f"{what} must be at least 1, not {number}: with none nothing could ever run")
    if number > sys.maxsize:
        raise ValueError(f"{what} must be at most {sys.maxsize}, not {number}")
    return number
