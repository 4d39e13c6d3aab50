"""Time limits around a block: `timeout` raises, `move_on_after` does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from plait._core import DeadlineScope, check_entry, check_seconds

if TYPE_CHECKING:
    from types import TracebackType


class _TimeLimit(DeadlineScope):
    """A scope that its deadline cancels. Used once, by the thread that enters it."""

    __slots__ = ("_seconds", "cancelled_caught")

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = check_seconds(seconds, type(self).__name__)
        self.cancelled_caught = False  # whether the deadline has cut the block short

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._seconds:g})"

    def __enter__(self) -> Self:
        """The clock starts."""
        if self.owner is not None:
            raise RuntimeError(f"{self!r} was entered before: a time limit is used once, make a new one")
        self.enter(self._seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """The clock stops."""
        owner = self.owner
        is_mine = self.absorbs(error)
        self.leave()
        if is_mine:
            self.cancelled_caught = True
            return self._conclude(error)
        if error is None and owner is not None and owner.scope is not None:
            check_entry(owner)
        return False

    def _conclude(self, error: BaseException | None) -> bool:
        """The block was cut short; True ends it quietly."""
        raise NotImplementedError


class timeout(_TimeLimit):  # noqa: N801 - read as a word: with timeout(5)
    """A block that may take so many seconds; cut short at a cancel point, it raises `TimeoutError`.

    Any thread. Its clock starts on entry. Scopes nest: the one whose time is up turns the cancellation into its own
    `TimeoutError`, others let it pass. What the block waited for has not happened: nothing is lost.

    Raises:
        TimeoutError: the time was up before the block had ended.
        TypeError, ValueError: `seconds` is not a number, or is negative.

    Example:
        >>> import time
        >>> from plait import timeout
        >>> try:
        ...     with timeout(0.01):
        ...         time.sleep(60)
        ... except TimeoutError:
        ...     print("too slow")
        too slow
    """

    __slots__ = ()

    def _conclude(self, error: BaseException | None) -> bool:
        raise TimeoutError(f"not done within {self._seconds:g} seconds") from None


class move_on_after(_TimeLimit):  # noqa: N801 - read as words: with move_on_after(5)
    """A block that may take so many seconds; cut short at a cancel point, it ends quietly.

    As `timeout`, but without an error; `cancelled_caught` says afterwards whether the block was cut short.

    Example:
        >>> import time
        >>> from plait import move_on_after
        >>> with move_on_after(0.01) as scope:
        ...     time.sleep(60)
        >>> scope.cancelled_caught
        True
    """

    __slots__ = ()

    def _conclude(self, error: BaseException | None) -> bool:
        return True
