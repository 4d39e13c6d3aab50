"""Mutex: a lock that owns the value it protects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from plait._core import (
    Flag,
    WaitReason,
    check_entry,
    check_seconds,
    current_thread,
    lot_wait,
    lot_wake_one,
    now,
)
from plait._errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from plait._core import Parker

T = TypeVar("T")


class Mutex(Generic[T]):
    """A value, and the only way to it: hold the lock.

    Shared by virtual and platform threads alike. Not reentrant: a thread that locks twice gets `DeadlockError` at once.
    Barging: a thread at work may get it before one that has waited longer.

    Example:
        >>> from plait import Mutex, ThreadGroup
        >>> def add(totals, key):
        ...     with totals.lock() as value:
        ...         value[key] = value.get(key, 0) + 1
        >>> totals = Mutex({})
        >>> with ThreadGroup() as group:
        ...     for word in ["a", "b", "a"]:
        ...         future = group.spawn(add, totals, word)
        >>> sorted(totals.into_inner().items())
        [('a', 2), ('b', 1)]
    """

    __slots__ = ("__weakref__", "_free", "_is_empty", "_owner", "_value")

    def __init__(self, value: T) -> None:
        self._value = value
        self._is_empty = False  # into_inner has taken the value away. Under the lock
        self._owner: Parker | None = None  # who holds it. Written by the holder
        self._free = Flag()  # raised while nobody holds it: taking it is locking it
        self._free.set()

    def __repr__(self) -> str:
        return f"<Mutex {'free' if self._owner is None else f'held by {self._owner!r}'}>"

    def lock(self, timeout: float | None = None) -> Holding[T]:
        """A context manager that holds the lock and gives the value. Entering is a cancel point.

        Raises (on entry):
            TimeoutError: it was not free within `timeout` seconds.
            DeadlockError: the calling thread holds it already.
            ValueError: `into_inner` has taken the value away.
        """
        return Holding(self, None if timeout is None else check_seconds(timeout, "timeout"))

    def try_lock(self) -> Holding[T] | None:
        """As `lock`, already held, if it is free now; else None. Never waits. Leave its block to release it."""
        if not self._free.take():
            return None
        self._owner = current_thread()
        return Holding(self, None, is_held=True)

    def update(self, fn: Callable[[T], T]) -> T:
        """Replace the value by `fn(value)`, holding the lock meanwhile; the new value. A cancel point."""
        self._acquire(None)
        try:
            self._value = fn(self._take_value())
            return self._value
        finally:
            self._release()

    def replace(self, value: T) -> T:
        """Put `value` in; the old one. A cancel point."""
        self._acquire(None)
        try:
            old = self._take_value()
            self._value = value
            return old
        finally:
            self._release()

    def into_inner(self) -> T:
        """Take the value out; the mutex is empty from then on. A cancel point."""
        self._acquire(None)
        try:
            value = self._take_value()
            self._is_empty = True
            del self._value
            return value
        finally:
            self._release()

    def _acquire(self, timeout: float | None) -> None:
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        if not self._free.take():
            if self._owner is me:
                raise DeadlockError(
                    f"{me!r} holds {self!r} already, and would wait for itself: a mutex is not reentrant"
                )
            deadline = None if timeout is None else now() + timeout
            if not lot_wait(me, id(self), self._free.take, WaitReason.MUTEX, deadline):
                raise TimeoutError(f"{self!r} was not free within {timeout} seconds")
        self._owner = me

    def _release(self) -> None:
        self._owner = None
        self._free.set()
        lot_wake_one(id(self))

    def _take_value(self) -> T:
        if self._is_empty:
            raise ValueError(f"{self!r} is empty: into_inner() has taken its value away")
        return self._value


class Holding(Generic[T]):
    """The block in which a mutex is held; gives its value. Made by `Mutex.lock` and `Mutex.try_lock`."""

    __slots__ = ("_is_held", "_mutex", "_timeout")  # _is_held: by try_lock, for the one block to come

    def __init__(self, mutex: Mutex[T], timeout: float | None, *, is_held: bool = False) -> None:
        self._mutex = mutex
        self._timeout = timeout
        self._is_held = is_held

    def __enter__(self) -> T:
        """Hold it."""
        mutex = self._mutex
        if self._is_held:
            self._is_held = False
        else:
            mutex._acquire(self._timeout)  # noqa: SLF001 - two halves of one class
        try:
            return mutex._take_value()  # noqa: SLF001
        except BaseException:
            mutex._release()  # noqa: SLF001
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let it go."""
        self._mutex._release()  # noqa: SLF001
