"""The exceptions and warnings of plait, by whose fault they are."""

from __future__ import annotations

from typing import Any

__all__ = (
    "Cancelled",
    "CancelledSwallowed",
    "ChannelClosed",
    "DeadlockError",
    "GroupClosed",
    "GroupFailed",
    "HeldWhileParked",
    "InternalError",
    "PoisonedError",
    "RebindAfterSpawn",
    "TimeoutDoesNotReachChild",
    "YieldInsideScope",
)


class Cancelled(BaseException):
    """Raised at a cancel point of a thread whose scope was cancelled.

    A `BaseException`, so that `except Exception` lets it pass. Let it pass too, after your clean-up: the scope that was
    cancelled absorbs it. Whoever swallows it gets it again at the next operation that would park.

    In an exception group, as `except*` and `asyncio.TaskGroup` raise it, it is what it is bare. A group of nothing else is
    absorbed; of one that holds failures, too, these go on, as `split` gives them: with the group's traceback and notes.

    Attributes:
        reason: Why, as given to `cancel()`, or what happened ("deadline passed", "'fetch-3' failed: ValueError").
        source: The scope or group that was cancelled, or the future.
        thread: The name of the thread that has cancelled it; None if it was the clock.
        site: Where that thread was, as `file:line`; None if it was in no function of Python.

    Example:
        >>> import time
        >>> from plait import Cancelled, ThreadGroup
        >>> with ThreadGroup(name="readers") as group:
        ...     group.cancel("enough")
        ...     try:
        ...         time.sleep(3600)
        ...     except Cancelled as cancelled:
        ...         print(cancelled.reason, cancelled.source, cancelled.thread)
        ...         raise
        enough <ThreadGroup 'readers'> MainThread
    """

    # Read from the arguments, which BaseException stores by itself: no `__init__` has to run where thousands are raised.

    @property
    def reason(self) -> object:
        """Why."""
        return self._argument(0)

    @property
    def source(self) -> object:
        """What was cancelled."""
        return self._argument(1)

    @property
    def thread(self) -> str | None:
        """Who has cancelled it."""
        name: str | None = self._argument(2)
        return name

    @property
    def site(self) -> str | None:
        """Where."""
        site: str | None = self._argument(3)
        return site

    def _argument(self, place: int) -> Any:
        return self.args[place] if place < len(self.args) else None

    def __str__(self) -> str:
        """All of it in one line."""
        what = "cancelled" if self.reason is None else f"cancelled: {self.reason}"
        if self.source is None:
            return what
        who = "" if self.thread is None else f", on {self.thread!r}"
        return f"{what} (by {self.source!r}{who}{'' if self.site is None else f' at {self.site}'})"


class GroupFailed(RuntimeError):  # noqa: N818 - the condition is the name, as in GroupClosed
    """A thread outside tried to spawn into a group that has failed or was cancelled; the first failure is the cause."""


class GroupClosed(RuntimeError):  # noqa: N818 - see GroupFailed
    """Somebody tried to spawn into a group whose block has ended."""


class ChannelClosed(RuntimeError):  # noqa: N818 - see GroupFailed
    """Somebody tried to send into a closed channel, or to receive from one that is closed and has nothing left.

    Attributes:
        channel: Which. After `select` it tells which of them is closed.
    """

    def __init__(self, message: str, channel: object) -> None:
        super().__init__(message)
        self.channel = channel


class DeadlockError(RuntimeError):
    """Waiting for this `Mutex` or `RWLock` could never end: who holds it is you, waits for you, or has ended.

    Raised at once, on the thread whose wait would close the circle; the others go on when it lets go of what it holds.
    The message says who waits for what, where, and where that was taken.
    """


class PoisonedError(RuntimeError):
    """An exception has left a block that held this `Mutex`, which was made with `poison=True`; it is the cause.

    The value may be half changed. See `Mutex.repair` and `Mutex.clear_poison`.
    """


class InternalError(RuntimeError):
    """plait has broken one of its own rules. Please report it."""


def not_copied(thing: object) -> TypeError:
    """The error for who copies or pickles `thing`: a copy would have its state, and nobody who waits for it."""
    return TypeError(
        f"{thing!r} cannot be copied or pickled: threads are handed the object itself, and other processes cannot have it"
    )


class CancelledSwallowed(RuntimeWarning):
    """A `Cancelled` was delivered and somebody kept it from reaching its scope."""


class TimeoutDoesNotReachChild(RuntimeWarning):
    """Something was spawned inside a time limit, but into a group outside it: the limit does not hold for it."""


class YieldInsideScope(RuntimeWarning):
    """A generator is suspended inside a group or a scope, which is thereby open in whoever runs the generator."""


class RebindAfterSpawn(RuntimeWarning):
    """A variable that a spawned function shares with its spawner had another value when the function began.

    In development mode (`python -X dev`) alone.
    """


class HeldWhileParked(RuntimeWarning):
    """A thread held a `Mutex` or an `RWLock` for over a second, and waited for something else meanwhile.

    A platform thread is seen to wait where plait parks it: inside a group or a scope, and for what is plait's own.
    """
