"""Mutex: a lock that owns the value it protects.

Taker:     1. takes `_free`     2. stores its hold
Releaser:  1. clears the hold   2. raises `_free`    [fence]    3. if `_waiting` counts any, wakes the first
Waiter:    1. counts itself in `_waiting`            [fence]    2. registers its wait (`_deadlock`)
           3. waits in the lot: queues, and tries `_free` once more before it parks

Either the waiter's last try finds it free, or the releaser sees the waiter counted; then it finds it queued, or the
waiter has its last try still to come (`_core._lot`). A woken waiter competes with whoever is at work: barging, which
keeps a busy mutex busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, Never, TypeVar, overload

from plait._arguments import MISSING, exact, refused
from plait._core import (
    Counter,
    Flag,
    Parker,
    WaitReason,
    caller_code,
    caller_offset,
    check_entry,
    check_seconds,
    current_thread,
    exceptions_in,
    lend_slot,
    lot_wait,
    lot_wake_one,
    now,
    without_cancelled,
)
from plait._deadlock import Wait, begin_wait, end_wait, is_orphan, orphaned
from plait._errors import Cancelled, DeadlockError, PoisonedError
from plait._holding import Block, Shared, Taken, called, check_change, end_hold, new_hold, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from plait._core import Slots
    from plait._holding import Hold

T = TypeVar("T")


class Mutex(Shared[T]):
    """A value, and the only way to it: hold the lock.

    Shared by virtual and platform threads alike. Barging: a thread at work may get it before one that has waited
    longer. Not reentrant. A wait that could never end raises `DeadlockError` at once: the thread holds it already, or
    would close a circle of threads that wait for each other's `Mutex` and `RWLock`, timeouts or not. A thread that has
    held it for over a second and waited for something else meanwhile is told so (`HeldWhileParked`); not so a platform
    thread outside all groups and scopes, whose waits are not plait's.

    Args:
        value: What it protects.
        poison: Whether an exception that leaves a block which holds the mutex, `Cancelled` included, poisons it: the
            value may be half changed then, and every use raises `PoisonedError` until `repair` or `clear_poison`.

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

    __slots__ = ("_free", "_held", "_poison", "_poisons", "_waiting")

    _took: ClassVar[tuple[str, str]] = ("took", "took")
    _waits: ClassVar[tuple[str, str]] = ("for", "for")
    _block: ClassVar[str] = "`with {}.lock() as value:`"

    @overload
    def __init__(self, value: T, /, *, poison: bool = False) -> None: ...

    @overload
    def __init__(self, *, value: T, poison: bool = False) -> None: ...

    @exact
    def __init__(self, value: T = MISSING, *misplaced: Never, poison: bool = False, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused(
                "Mutex", misplaced, unknown, "it takes a value and, by name, poison, as in Mutex(value, poison=True)"
            )
        super().__init__(value)
        self._poisons = poison  # written once
        self._poison: BaseException | None = None  # the first that left a block. Set under the lock, cleared by anybody
        self._held: Hold | None = None  # who holds it. Written by the holder
        self._free = Flag()  # raised while nobody holds it: taking it is locking it
        self._free.set()
        self._waiting = Counter()  # threads that wait for it

    def __repr__(self) -> str:
        hold = self._held
        state = "free" if hold is None else f"held by {called(hold[0])}"
        return f"<{self._name} {'poisoned, ' if self.is_poisoned else ''}{state}>"

    @property
    def is_locked(self) -> bool:
        """Whether some thread holds it now. Any thread; never waits."""
        return self._held is not None

    @property
    def is_poisoned(self) -> bool:
        """Whether an exception has left a block that held it, and nobody has seen to it. Any thread; never waits."""
        return self._poison is not None

    def lock(self, timeout: float | None = None) -> Block[T]:
        """A context manager that holds the lock and gives the value. Entering is a cancel point.

        Raises (on entry):
            TimeoutError: it was not free within `timeout` seconds.
            DeadlockError: the wait could never end.
            PoisonedError: it is poisoned.
            ValueError: `into_inner` has taken the value away.
        """
        return Block(self, True, None if timeout is None else check_seconds(timeout, "timeout"))

    def guard(self, timeout: float | None = None) -> Guarding[T]:
        """As `lock`, but gives a guard, whose `value` can be read and set: for values that cannot be changed in place.

        Example:
            >>> from plait import Mutex
            >>> count = Mutex(1)
            >>> with count.guard() as guard:
            ...     guard.value += 1
            >>> count.into_inner()
            2
        """
        return Guarding(self, self.lock(timeout))

    def try_lock(self) -> Taken[T] | None:
        """As `lock`, already held, if it is free now; else None. Never waits, and is no cancel point.

        What it gives is for one block, on this thread; if it is dropped without that, the mutex is free again. Raises
        `PoisonedError` as `lock`.
        """
        taken = Taken(self, True)
        if not self._free.take():
            return None
        self._held = hold = new_hold(current_thread(), True)
        if self._poison is not None:
            error = self._poisoned_by(self._poison)
            end_hold(self, hold, None)
            raise error
        return taken.keep(hold)

    def update(self, fn: Callable[[T], T]) -> T:
        """Replace the value by `fn(value)`, holding the lock meanwhile; the new value. A cancel point.

        Raises what entering `lock()` raises, and what `fn` raises: then the value stays. `TypeError` if `fn` cannot be
        called.
        """
        check_change("update", fn)
        with self.lock() as value:
            self._value = changed = fn(value)
        return changed

    def replace(self, value: T) -> T:
        """Put `value` in; the old one. A cancel point. Raises what entering `lock()` raises."""
        with self.lock() as old:
            self._value = value
        return old

    def into_inner(self) -> T:
        """Take the value out; the mutex is empty from then on. A cancel point. Raises what entering `lock()` raises."""
        with self.lock() as value:
            self._is_empty = True
            del self._value
        return value

    def repair(self, fn: Callable[[T], T]) -> T:
        """As `update`, but of a poisoned mutex, too, which is poisoned no more if `fn` returns. A cancel point.

        Nobody else sees the value before it is set right.

        Example:
            >>> from plait import Mutex
            >>> pair = Mutex([1, 1], poison=True)
            >>> with pair.lock() as value:
            ...     value[0] += 1
            ...     raise OSError("before the other half was done")
            Traceback (most recent call last):
            OSError: before the other half was done
            >>> pair.is_poisoned
            True
            >>> pair.repair(lambda value: [min(value)] * 2)
            [1, 1]
        """
        check_change("repair", fn)
        hold = self._acquire(True, None)
        failure: BaseException | None = None
        try:
            value = super()._take_value()
            try:
                self._value = changed = fn(value)
            except BaseException as error:
                failure = error
                raise
            self._poison = None
            return changed
        finally:
            end_hold(self, hold, failure)

    def clear_poison(self) -> None:
        """Take the value for whole as it is. Any thread; never waits.

        To look at it before others do, and to set it right, use `repair`.
        """
        self._poison = None

    def _take_value(self) -> T:
        if self._poison is None and not self._is_empty:  # for speed: super() costs as much as the rest
            return self._value
        error = self._poison
        if error is not None:
            raise self._poisoned_by(error)
        return super()._take_value()

    def _poisoned_by(self, error: BaseException) -> PoisonedError:
        poisoned = PoisonedError(
            f"{self._name} is poisoned: {type(error).__name__} has left a block that held it, so the value may be half "
            f"changed. Set it right with repair(), or take it as it is with clear_poison()"
        )
        poisoned.__cause__ = error
        return poisoned

    def _acquire(self, is_writer: bool, timeout: float | None) -> Hold:  # noqa: FBT001
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        slots: Slots | None = None
        deadline: float | None = None
        if not self._free.take():
            deadline = None if timeout is None else now() + timeout
            slots = self._wait(me, deadline, timeout)
        self._held = hold = new_hold(me, True)
        if slots is not None:
            slots.take_back(me, deadline)  # once it is seen to hold the lock: others may wait for both
            self._held = hold = (
                me,
                hold[1],
                hold[2],
                now(),
                me.epoch(),
                True,
            )  # it is not held for long because of that
        return hold

    def _wait(self, me: Parker, deadline: float | None, timeout: float | None) -> Slots | None:
        """Wait for the lock until `deadline`, and take it; the slots of which `me` has lent one meanwhile."""
        hold = self._held
        if hold is not None and hold[0] is me:
            raise DeadlockError(
                f"{called(me)} holds {self._name} already, since {place(hold[1], hold[2])}, and would wait for itself: "
                f"a mutex is not reentrant"
            )
        wait = Wait(me, self, True, caller_code(), caller_offset())
        orphan: list[Hold] = []  # the hold of a thread that never lets go: as good as the lock for an end of the wait

        def attempt() -> bool:
            if self._free.take():
                return True
            held = self._held
            if held is not None and is_orphan(held):
                orphan.append(held)
            return bool(orphan)

        slots: Slots | None = None
        has_lock = False
        is_over = True
        self._waiting.add(1)
        try:
            begin_wait(wait)
            slots = lend_slot(me, None)
            is_over = lot_wait(me, id(self), attempt, WaitReason.MUTEX, deadline)
            has_lock = is_over and not orphan
        finally:
            end_wait(wait)
            self._waiting.add(-1)
            if slots is not None and not has_lock:
                slots.take_back(me, deadline)
        if orphan:
            lot_wake_one(id(self))  # the next to be told
            raise orphaned(wait, orphan[0])
        if not is_over:
            raise TimeoutError(f"{self!r} was not free within {timeout} seconds")
        return slots

    def _release(self, hold: Hold, error: BaseException | None) -> None:
        if error is not None and self._poisons and self._poison is None:
            self._poison = _lasting(error)
        assert self._held is hold
        self._held = None
        self._free.set()
        if self._waiting.value():
            lot_wake_one(id(self))

    def _queue(self, wait: Wait) -> bool:
        return False

    def _withdraw(self, wait: Wait) -> bool:
        return True

    def _forget(self, wait: Wait) -> None:
        pass

    def _holders(self) -> Iterable[Hold]:
        hold = self._held
        return () if hold is None else (hold,)

    def _blockers(self, wait: Wait) -> Iterable[Hold]:
        hold = self._held
        return () if hold is None or hold[0] is wait.thread else (hold,)

    def _disturb(self) -> None:
        lot_wake_one(id(self))


class Guard(Generic[T]):
    """The value of a held mutex, to be read and set. Given by the block of `Mutex.guard`."""

    __slots__ = ("_hold", "_mutex")

    def __init__(self, mutex: Mutex[T]) -> None:
        self._mutex = mutex
        self._hold = mutex._held  # what it is good for. Written once  # noqa: SLF001 - parts of one class

    def __repr__(self) -> str:
        return f"<guard of {self._mutex._name}{', over' if self._is_over() else ''}>"  # noqa: SLF001

    @property
    def value(self) -> T:
        """The value. Raises `RuntimeError` once the block has been left."""
        self._verify_held()
        return self._mutex._value  # noqa: SLF001

    @value.setter
    def value(self, value: T) -> None:
        self._verify_held()
        self._mutex._value = value  # noqa: SLF001

    def _is_over(self) -> bool:
        return self._mutex._held is not self._hold  # noqa: SLF001

    def _verify_held(self) -> None:
        if self._is_over():
            raise RuntimeError(
                f"this guard of {self._mutex._name} is over, for its block has been left: "  # noqa: SLF001
                f"use it inside the block, and write `with mutex.guard() as guard:` again for another"
            )


def _lasting(error: BaseException) -> BaseException:
    """`error`, to be kept as the cause of poison, with nothing of a `Cancelled` that was delivered but a copy.

    While that is alive, its thread counts as cleaning up.
    """
    rest = without_cancelled(error)
    if rest is not None:
        return rest
    args = exceptions_in(error)[0].args
    return Cancelled(*args[:2])


class Guarding(Generic[T]):
    """The block in which a mutex is held; gives a guard. Made by `Mutex.guard`."""

    __slots__ = ("_block", "_mutex")

    def __init__(self, mutex: Mutex[T], block: Block[T]) -> None:
        self._mutex = mutex
        self._block = block

    def __enter__(self) -> Guard[T]:
        """Hold it."""
        self._block.__enter__()
        return Guard(self._mutex)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let it go."""
        self._block.__exit__(kind, error, traceback)
