"""Faults put in on purpose: a cancel at the k-th park.

    Parking thread: 1. arms its wait  2. counts the park, if it is under the scope; whoever counts the k-th cancels the
                    scope  3. looks at its scopes, and raises or suspends (`_core/_parking.py`)
The count is one atomic, so one thread alone reaches k, and its own step 3 comes after its cancel. The others under the
scope are woken as by any cancel.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Never, Self, overload

from plait._arguments import MISSING, exact, refused
from plait._core import (
    GRACE,
    CancelScope,
    Counter,
    Flag,
    Parker,
    VirtualThread,
    WaitReason,
    check_entry,
    check_seconds,
    close_scope,
    is_under,
    observe_parks,
    open_scope,
    unobserve_parks,
    whole_number,
)
from plait._scopes import raise_rest, what_leaves

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class cancel_at_park(CancelScope):  # noqa: N801 - read as words: with cancel_at_park(3)
    """A block that is cancelled at the k-th time that anything in it parks; cut short so, it ends quietly.

    Parks are counted of the thread that runs the block and of all threads in groups opened under it, virtual or
    platform, whatever they wait for, the ends of groups and clean-up included. An operation that need not wait does not
    count, nor does one that only lets others run (`checkpoint`, `sleep(0)`); one that is woken for nothing and waits on
    counts again. The k-th park raises `Cancelled`, or goes
    on if cancels do not reach it: under a shield, for a lock within the grace, at the end of a group.

    Used with every k in turn (`every_park`), it tries out each place where code can be cancelled. It is the same place
    on each run, if the block runs on a virtual thread, there is one carrier, and what the code does depends on nothing
    from outside: no clock, no kernel thread, no descriptor that becomes ready by itself.

    Any thread; used once. Its end is a cancel point of the scopes around it.

    Args:
        k: Which park, from 1 up.
        grace: Seconds that clean-up in a cancelled thread may take before its waits are interrupted again.

    Attributes:
        parks: How often anything has parked so far.
        was_reached: Whether the k-th park came. Before the end of a sweep it always does.
        cancelled_caught: Whether the block was cut short.

    Raises:
        RuntimeError: the block has ended before a scope inside it, which is ended, too.
        TypeError, ValueError: `k` is not a whole number from 1 up, or `grace` not a number of seconds.

    Example:
        >>> import time
        >>> from plait import ThreadGroup
        >>> from plait.testing import cancel_at_park
        >>> done = []
        >>> with cancel_at_park(2) as scope:
        ...     time.sleep(0.001)
        ...     done.append("one")
        ...     time.sleep(0.001)
        ...     done.append("two")
        >>> done, scope.parks, scope.cancelled_caught
        (['one'], 2, True)
    """

    __slots__ = ("_counter", "_is_counting", "_k", "cancelled_caught", "was_reached")

    @overload
    def __init__(self, k: int, /, *, grace: float = GRACE) -> None: ...

    @overload
    def __init__(self, *, k: int, grace: float = GRACE) -> None: ...

    @exact
    def __init__(self, k: int = MISSING, *misplaced: Never, grace: float = GRACE, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused(
                "cancel_at_park",
                misplaced,
                unknown,
                "it takes the number of a park and, by name, grace, as in cancel_at_park(3, grace=1)",
            )
        if k is MISSING:
            raise TypeError("cancel_at_park needs the number of a park: write cancel_at_park(1), or see every_park()")
        number = whole_number(k)
        if number is None:
            raise TypeError(f"cancel_at_park needs the number of a park, a whole number, not {k!r}")
        if number < 1:
            raise ValueError(f"cancel_at_park counts parks from 1 up, and there is none with the number {number}")
        super().__init__(check_seconds(grace, "grace"))
        self._k = number
        self._counter = Counter()
        self._is_counting = Flag()  # it observes parks. Taken by whoever ends that
        self.was_reached = False  # written by the thread that reaches k
        self.cancelled_caught = False  # written by the owner

    def __repr__(self) -> str:
        return f"cancel_at_park({self._k})"

    @property
    def parks(self) -> int:
        """How often anything in the block has parked so far. Any thread."""
        return self._counter.value()

    def __enter__(self) -> Self:
        """Counting begins."""
        if self.owner is not None:
            raise RuntimeError(f"{self!r} was entered before: it is used once, make a new one")
        me = open_scope(self)
        if isinstance(me, VirtualThread):
            assert me.carrier is not None
            me.carrier.restart_turns()
        observe_parks(self._parks)
        self._is_counting.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Counting ends."""
        owner = self.owner
        try:
            left_by = what_leaves(self, error)
            rest = self.rest_of(left_by)
            is_mine = rest is not left_by
            close_scope(self, is_mine)
        finally:
            self._count_no_more()
        if is_mine:
            self.cancelled_caught = True
            if rest is not None:
                raise_rest(rest)
        elif left_by is not error:
            raise left_by  # type: ignore[misc]
        elif error is None and owner is not None and owner.scope is not None:
            check_entry(owner)
        return is_mine

    def close(self, is_absorbed: bool = False) -> None:  # noqa: FBT001, FBT002 - as `CancelScope.close`
        """Be no scope any more, and count no more."""
        super().close(is_absorbed)
        self._count_no_more()

    def _count_no_more(self) -> None:
        if self._is_counting.take():
            unobserve_parks(self._parks)

    def _parks(self, thread: Parker, reason: WaitReason) -> None:
        """`thread` is about to park."""
        if is_under(thread.scope, self) and self._counter.add(1) == self._k:
            self.was_reached = True
            self.cancel_scope(f"park number {self._k} ({reason.name}) of {thread.name!r}", self)


def every_park(*, grace: float = GRACE) -> Iterator[cancel_at_park]:
    """`cancel_at_park(1)`, `cancel_at_park(2)` and so on, each for a block around the same code, until that has ended.

    Args:
        grace: As for `cancel_at_park`.

    Raises:
        RuntimeError: the block was not entered.

    Example:
        >>> import threading
        >>> from plait import ThreadGroup
        >>> from plait.testing import every_park
        >>> slots = threading.Semaphore(1)
        >>> def work():
        ...     with slots:
        ...         threading.Event().wait(0.001)
        >>> for attempt in every_park():
        ...     with attempt, ThreadGroup() as group:
        ...         futures = [group.spawn(work) for _ in range(3)]
        ...     assert slots.acquire(blocking=False)  # whatever was cancelled, it is free again
        ...     slots.release()
    """
    for number in count(1):
        scope = cancel_at_park(number, grace=grace)
        yield scope
        if scope.owner is None:
            raise RuntimeError(
                f"{scope!r} was given for a block, and that was not entered: write "
                f"`for attempt in every_park():` and in it `with attempt:` around the code"
            )
        if not scope.was_reached:
            return
