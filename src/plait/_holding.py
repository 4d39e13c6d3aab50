"""What `Mutex` and `RWLock` have in common: the value, the name, the block in which it is held, and the hold.

A *hold* says who holds a lock, in which way, where it was taken and when. It is made by the thread that takes the
lock, and stored whole, in one step, so others may read it at any time; whoever lets go clears it before the lock is
free. What a block holds is known by the block, too: a generator that is finished on another thread leaves its block
there. Such a block lets go, and then complains. So does one that is dropped without being left. From 3.14 on that
happens without anybody's fault: a signal handler may raise when `__enter__` has returned and `with` does not yet see
to `__exit__`.

Told on release (`HeldWhileParked`): a thread that has held one for long and parked meanwhile. The epoch of its wait
word counts its waits, so a hold that finds the epoch where it was has not waited, and nothing else need be recorded.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

from plait._arguments import MISSING
from plait._core import Counter, Parker, VirtualThread, caller_code, caller_offset, current_thread, line_at, now
from plait._errors import HeldWhileParked, not_copied

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, TracebackType

    from plait._deadlock import Wait

    # The thread; where it took the lock: code and place in it; when, and the epoch of its wait word then; whether it
    # may write. A plain tuple, since each lock makes one.
    Hold = tuple[Parker, "CodeType | None", int, float, int, bool]

T = TypeVar("T")

LONG = 1.0  # seconds that one may hold a lock and park without being told

_numbers = Counter()


def new_hold(me: Parker, is_writer: bool) -> Hold:  # noqa: FBT001 - compiled functions take no keyword-only arguments
    """The hold of the calling thread, which has just taken a lock, in the line of Python that runs."""
    me.holds += 1
    return (me, caller_code(), caller_offset(), now(), me.epoch(), is_writer)


def place(code: CodeType | None, offset: int) -> str:
    """A place in code as `file:line`."""
    return "no line of Python" if code is None else f"{code.co_filename}:{line_at(code, offset)}"


def called(thread: Parker) -> str:
    """What messages call a thread: not by the state of its future, which is none of theirs."""
    return VirtualThread.__repr__(thread) if isinstance(thread, VirtualThread) else repr(thread)


class Shared(Generic[T]):
    """A value, and the only way to it: hold its lock."""

    __slots__ = ("__weakref__", "_code", "_is_empty", "_number", "_offset", "_value")

    # How a hold and a wait are put into words, by whether they are for writing.
    _took: ClassVar[tuple[str, str]]
    _waits: ClassVar[tuple[str, str]]
    _block: ClassVar[str]  # what is written after `with`, with its name as {}

    def __init__(self, value: T) -> None:
        if value is MISSING:
            kind = type(self).__name__
            raise TypeError(
                f"{kind} needs the value that it protects: write {kind}(value), or {kind}(None) if there is none"
            )
        self._value = value  # under the lock
        self._is_empty = False  # into_inner has taken the value away. Under the lock
        self._number = _numbers.add(1)
        self._code = caller_code()  # where it was made. These three are written once
        self._offset = caller_offset()
        if self._code is _alias_call:
            frame = sys._getframe().f_back  # noqa: SLF001 - who wrote `Mutex[int](0)`
            if frame is not None:
                self._code, self._offset = frame.f_code, frame.f_lasti

    if not TYPE_CHECKING:  # there it is an error already

        def __enter__(self) -> NoReturn:
            """Not for users: a block says in which way it holds the lock."""
            kind = type(self).__name__
            raise TypeError(f"{self._name} is no context manager: write {self._block.format(kind.lower())}")

        def __exit__(self, *exc_info: object) -> None:
            """Not for users: there is no block."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    @property
    def _name(self) -> str:
        """What messages call it."""
        return f"{type(self).__name__}-{self._number} (made at {place(self._code, self._offset)})"

    def _take_value(self) -> T:
        """The value, for who holds the lock."""
        if self._is_empty:
            raise ValueError(f"{self._name} is empty: into_inner() has taken its value away")
        return self._value

    def _acquire(self, is_writer: bool, timeout: float | None) -> Hold:  # noqa: FBT001
        """Take the lock; a cancel point."""
        raise NotImplementedError

    def _release(self, hold: Hold, error: BaseException | None) -> None:
        """Free what `hold` holds; `error` is leaving its block. Any thread; does not park."""
        raise NotImplementedError

    def _queue(self, wait: Wait) -> bool:
        """Have `wait` served in its turn; True if it was served at once. Under the wait-for graph's lock."""
        raise NotImplementedError

    def _withdraw(self, wait: Wait) -> bool:
        """`wait` is over; False if it was served before."""
        raise NotImplementedError

    def _forget(self, wait: Wait) -> None:
        """In a forked child: the thread of `wait` is not there."""
        raise NotImplementedError

    def _holders(self) -> Iterable[Hold]:
        """Who holds it now."""
        raise NotImplementedError

    def _blockers(self, wait: Wait) -> Iterable[Hold]:
        """What `wait` really waits for now, all of it: nothing if it was served, or has not been queued."""
        raise NotImplementedError

    def _disturb(self) -> None:
        """Have everybody who waits look again. Any thread; does not park."""
        raise NotImplementedError


# What stands between `Mutex[int](0)` and its caller.
_alias_call = getattr(type(Shared[Any]).__call__, "__code__", None)


class Block(Generic[T]):
    """The block in which a lock is held; gives its value."""

    __slots__ = ("_hold", "_is_writer", "_shared", "_timeout")

    def __init__(self, shared: Shared[T], is_writer: bool, timeout: float | None) -> None:  # noqa: FBT001
        self._shared = shared
        self._is_writer = is_writer
        self._timeout = timeout
        self._hold: Hold | None = None  # from entry to exit. Written by who holds the lock

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    def __enter__(self) -> T:
        """Hold it."""
        shared = self._shared
        hold = shared._acquire(self._is_writer, self._timeout)  # noqa: SLF001 - two halves of one class
        self._hold = hold
        return self._show(hold)

    def _show(self, hold: Hold) -> T:
        """The value; with an exception instead, it is not held any more."""
        shared = self._shared
        try:
            return shared._take_value()  # noqa: SLF001
        except BaseException:
            self._hold = None
            end_hold(shared, hold, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let it go."""
        hold = self._hold
        shared = self._shared
        if hold is None:
            raise RuntimeError(
                f"a block of {shared._name} is left that was not entered, or has been left already: "  # noqa: SLF001
                f"write `with`, which does both in turn"
            )
        self._hold = None
        if not end_hold(shared, hold, error):
            raise RuntimeError(
                f"{called(current_thread())} has left a block of {shared._name} that {called(hold[0])} had "  # noqa: SLF001
                f"entered at {place(hold[1], hold[2])}; the lock is free now, but who enters a block must leave it"
            )

    def __del__(self) -> None:
        if self._hold is None:
            return
        hold = self._give_back()
        if hold is not None:
            warnings.warn(
                f"a block of {self._shared._name} that {called(hold[0])} had entered at "  # noqa: SLF001
                f"{place(hold[1], hold[2])} was dropped without being left, so the lock is free now: enter it by `with`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )

    def _give_back(self) -> Hold | None:
        """Nobody will leave this block any more: let go, if it is held; of what."""
        hold = self._hold
        if hold is None:
            return None
        self._hold = None
        if hold[0] is current_thread():
            hold[0].holds -= 1
        self._shared._release(hold, None)  # noqa: SLF001
        return hold


class Taken(Block[T]):
    """A lock that is held already, for the one block to come; given back when it is dropped without that."""

    __slots__ = ("_is_entered",)

    def __init__(self, shared: Shared[T], is_writer: bool) -> None:  # noqa: FBT001
        super().__init__(shared, is_writer, None)
        self._is_entered = False  # written by the thread that has taken the lock

    def keep(self, hold: Hold) -> Taken[T]:
        """It is `hold` that is held; itself."""
        self._hold = hold
        return self

    def __enter__(self) -> T:
        """Enter the one block."""
        hold = self._hold
        shared = self._shared
        me = current_thread()
        if hold is None or self._is_entered:
            raise RuntimeError(
                f"what was taken of {shared._name} is for one block, and that has been entered: "  # noqa: SLF001
                f"try again for another"
            )
        if hold[0] is not me:
            raise RuntimeError(
                f"{called(me)} cannot enter a block of {shared._name} that {called(hold[0])} took "  # noqa: SLF001
                f"at {place(hold[1], hold[2])}: take it on the thread that uses it"
            )
        self._is_entered = True
        return self._show(hold)

    def __del__(self) -> None:
        if self._is_entered:
            super().__del__()
        else:
            self._give_back()


def check_change(caller: str, fn: object) -> None:
    """Refuse what cannot make a new value of the old one, before the lock is taken."""
    if not callable(fn):
        raise TypeError(
            f"{caller} needs a function from the old value to the new one, not {fn!r}: see replace() for that"
        )


def end_hold(shared: Shared[Any], hold: Hold, error: BaseException | None) -> bool:
    """Let go of `hold`; tell the thread if it has held it for too long. False if it is another thread's."""
    shared._release(hold, error)  # noqa: SLF001
    me = current_thread()
    if hold[0] is not me:
        return False
    me.holds -= 1
    if me.epoch() != hold[4]:
        seconds = now() - hold[3]
        if seconds > LONG:
            warnings.warn(
                f"{called(me)} held {shared._name} for {seconds:.1f} seconds, from {place(hold[1], hold[2])} on, "  # noqa: SLF001
                f"and waited for something else meanwhile, while nobody could use it. Wait outside the block: take the "
                f"value, let go, do the waiting, then lock again",
                HeldWhileParked,
                stacklevel=1,  # compiled, so the first frame is that of the block
            )
    return True
