"""Scopes around a block: time limits and shields; and what a thread may ask about its scopes."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Never, NoReturn, Self, overload

from plait._arguments import MISSING, exact, refused
from plait._core import (
    CancelScope,
    DeadlineScope,
    VirtualThread,
    check_first,
    check_seconds,
    close_scope,
    current_thread,
    end_inside,
    is_under,
    now,
    open_scope,
    pending,
    pending_now,
    real_number,
)

if TYPE_CHECKING:
    from types import TracebackType

    from plait._core import Scope


class _TimeLimit(DeadlineScope):
    """A scope that its deadline cancels. Used once, by the thread that enters it."""

    __slots__ = ("cancelled_caught",)

    def __init__(self) -> None:
        super().__init__()
        self.is_time_limit = True
        self.cancelled_caught = False  # whether the deadline has cut the block short

    def __enter__(self) -> Self:
        """The clock starts."""
        if self.owner is not None:
            raise RuntimeError(f"{self!r} was entered before: a time limit is used once, make a new one")
        self.enter(self._limit())
        return self

    def _stop(self, error: BaseException | None) -> bool:
        """The clock stops: whether the block was cut short. No cancel point: what it has waited for would be lost."""
        left_by = what_leaves(self, error)
        rest = self.rest_of(left_by)
        is_mine = rest is not left_by
        self.leave(is_mine)
        if is_mine:
            self.cancelled_caught = True
            if rest is not None:
                raise_rest(rest)
        elif left_by is not error:
            raise left_by  # type: ignore[misc]
        return is_mine

    def reschedule(self, seconds: float | None) -> bool:
        """Let the block have `seconds` from now instead (None: any time); False if it is cut short already.

        For the thread that entered the block, inside it; never waits. Raises `RuntimeError` elsewhere.
        """
        span = inf if seconds is None else check_seconds(seconds, "reschedule")
        me = current_thread()
        if self.owner is not me or not is_under(me.scope, self):
            raise RuntimeError(f"{self!r} can be rescheduled inside its block alone, by the thread that entered it")
        return self.set_deadline(now() + span)

    def _limit(self) -> float:
        """The instant until which the block that begins may last."""
        raise NotImplementedError


class _Span(_TimeLimit):
    """A time limit of so many seconds, counted from entry."""

    __slots__ = ("_seconds",)

    @overload
    def __init__(self, seconds: float, /) -> None: ...

    @overload
    def __init__(self, *, seconds: float) -> None: ...

    @exact
    def __init__(self, seconds: float = MISSING, *misplaced: Never, **unknown: Never) -> None:
        name = type(self).__name__
        if misplaced or unknown:
            raise refused(name, misplaced, unknown, f"it takes its limit alone, in seconds, as in {name}(5)")
        if seconds is MISSING:
            raise TypeError(f"{name} needs its limit, in seconds: write {name}(5)")
        super().__init__()
        self._seconds = check_seconds(seconds, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._seconds:g})"

    def reschedule(self, seconds: float | None) -> bool:
        """As for any time limit."""
        is_moved = super().reschedule(seconds)
        if is_moved:
            self._seconds = inf if seconds is None else check_seconds(seconds, "reschedule")
        return is_moved

    def _limit(self) -> float:
        return now() + self._seconds


class timeout(_Span):  # noqa: N801 - read as a word: with timeout(5)
    """A block that may take so many seconds; cut short at a cancel point, it raises `TimeoutError`.

    Any thread. Its clock starts on entry. Scopes nest: the one whose time is up turns the cancellation into its own
    `TimeoutError`, others let it pass. What the block waited for has not happened: nothing is lost. Clean-up may take as
    long as the `grace` of the group around says, five seconds where there is none.

    Raises:
        TimeoutError: the time was up before the block had ended.
        RuntimeError: the block has ended before a scope inside it, which is ended, too.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The clock stops. No cancel point."""
        if self._stop(error):
            raise TimeoutError(f"not done within {self._seconds:g} seconds") from None


class deadline(_TimeLimit):  # noqa: N801 - read as a word: with deadline(at)
    """A block that may last until an instant of `time.monotonic()`; cut short at a cancel point it raises `TimeoutError`.

    As `timeout`, for a limit that several blocks, or several attempts, share.

    Raises:
        TimeoutError: the instant came before the block had ended.
        RuntimeError: as for `timeout`.
        TypeError: `at` is not a number.

    Example:
        >>> import time
        >>> from plait import deadline
        >>> at = time.monotonic() + 0.01
        >>> attempts = 0
        >>> try:
        ...     while True:
        ...         with deadline(at):
        ...             attempts += 1
        ...             time.sleep(0.004)
        ... except TimeoutError:
        ...     print(attempts > 0)
        True
    """

    __slots__ = ("_at",)

    @overload
    def __init__(self, at: float, /) -> None: ...

    @overload
    def __init__(self, *, at: float) -> None: ...

    @exact
    def __init__(self, at: float = MISSING, *misplaced: Never, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused(
                "deadline",
                misplaced,
                unknown,
                "it takes an instant of time.monotonic() alone, as in deadline(time.monotonic() + 5)",
            )
        if at is MISSING:
            raise TypeError("deadline needs an instant of time.monotonic(): write deadline(time.monotonic() + 5)")
        super().__init__()
        instant = real_number(at)
        if instant is None or instant != instant:  # noqa: PLR0124 - NaN
            raise TypeError(f"deadline needs an instant of time.monotonic(), a number, not {at!r}")
        try:
            self._at = float(instant)
        except OverflowError:
            self._at = inf if instant > 0 else -inf

    def __repr__(self) -> str:
        return f"deadline({self._at:g})"

    def _limit(self) -> float:
        return self._at

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The clock stops. No cancel point."""
        if self._stop(error):
            raise TimeoutError("not done before the deadline") from None


class move_on_after(_Span):  # noqa: N801 - read as words: with move_on_after(5)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """The clock stops. No cancel point."""
        return self._stop(error)


class shield(CancelScope):  # noqa: N801 - read as a word: with shield(timeout=5)
    """A block that cancels from outside do not reach, for so many seconds at most.

    For the step that must not be torn apart: a commit, a hand-over. Scopes and groups opened inside are shielded with it
    and can be cancelled by themselves. When the seconds have passed, or the block has ended, a cancel that has come
    meanwhile is noticed at the next cancel point; the end of the block is none. In clean-up a shield lasts no longer
    than the clean-up may.

    Any thread; used once.

    Raises:
        TypeError, ValueError: `timeout` is not a number, or is negative.

    Example:
        >>> import time
        >>> from plait import ThreadGroup, shield
        >>> log = []
        >>> with ThreadGroup() as group:
        ...     group.cancel()
        ...     with shield(timeout=5):
        ...         time.sleep(0.001)
        ...         log.append("committed")
        ...     time.sleep(3600)
        >>> log
        ['committed']
    """

    __slots__ = ("_seconds",)

    @exact
    def __init__(self, *misplaced: Never, timeout: float = MISSING, **unknown: Never) -> None:
        if unknown:
            raise refused("shield", misplaced, unknown, "it takes its limit, in seconds, as in shield(timeout=5)")
        if misplaced or timeout is MISSING:
            raise TypeError("a shield needs its limit by name, in seconds: write shield(timeout=5)")
        super().__init__()
        self._seconds = check_seconds(timeout, "timeout")

    def __repr__(self) -> str:
        return f"shield(timeout={self._seconds:g})"

    def __enter__(self) -> Self:
        """The clock starts."""
        if self.owner is not None:
            raise RuntimeError(f"{self!r} was entered before: a shield is used once, make a new one")
        open_scope(self, now() + self._seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cancels show again."""
        left_by = what_leaves(self, error)
        close_scope(self)
        if left_by is not error:
            raise left_by  # type: ignore[misc]


def what_leaves(scope: CancelScope, error: BaseException | None) -> BaseException | None:
    """What leaves the block of `scope`, which ends by `error`, when the scopes that are left open inside have ended, too."""
    me = current_thread()
    if me.scope is scope or me is not scope.owner or not is_under(me.scope, scope):
        return error
    return end_inside(me, scope, error or _left_open(scope, me.scope))


def raise_rest(rest: BaseException) -> NoReturn:
    """Raise what a scope has left of the error of its block: with the context that it has, which is not that error."""
    context = rest.__context__
    try:
        raise rest
    finally:
        rest.__context__ = context


def _left_open(scope: CancelScope, inner: Scope | None) -> BaseException:
    """What to raise where `inner` has been left open in `scope`; or what a signal handler raises meanwhile."""
    try:
        return RuntimeError(
            f"the block of {scope!r} must end after the scopes inside it, which end with it now: {inner!r} was left open. "
            f"Leave a scope before each yield, or close the generator that is suspended inside"
        )
    except BaseException as failure:  # noqa: BLE001 - repr() lets handlers run
        return failure


def checkpoint() -> None:
    """A cancel point that waits for nothing: lets others run, and raises `Cancelled` if the calling thread is cancelled.

    For long computations. Any thread; on a platform thread it only looks.

    Example:
        >>> from plait import checkpoint
        >>> for n in range(3):
        ...     checkpoint()
    """
    me = current_thread()
    check_first(me)
    if isinstance(me, VirtualThread):
        me.yield_now()


def cancelled() -> bool:
    """Whether the calling thread is cancelled, by any of its scopes that no shield hides. Never waits, never raises.

    Example:
        >>> from plait import cancelled
        >>> cancelled()
        False
    """
    return pending_now(current_thread().scope) is not None


def current_deadline() -> float:
    """The instant of `time.monotonic()` when a scope of the calling thread will be cut short; `inf` if none will.

    That is the earliest of all scopes that it is in, its group's and its spawner's included; where a shield hides some
    of them, no earlier than the shield's end. In a scope that is cancelled already: `-inf`. Never waits.

    Example:
        >>> import time
        >>> from plait import current_deadline, timeout
        >>> with timeout(10):
        ...     9 < current_deadline() - time.monotonic() <= 10
        True
    """
    scope: Scope | None = current_thread().scope
    if pending(scope) is not None:
        return -inf
    earliest, hidden_until = inf, -inf
    while scope is not None:
        if scope.deadline:
            earliest = min(earliest, max(scope.deadline, hidden_until))
        if scope.cancelled_at is not None:
            earliest = min(earliest, hidden_until)
        if scope.is_shield:
            hidden_until = max(hidden_until, scope.shelter)
        scope = scope.parent
    return earliest
