"""RWLock: a value that many may read at a time, or one may change.

State, all of it under `_lock`: the hold of the writer, the holds of the readers, and who waits, in order of arrival.
What is free is never waited for: whoever lets go, or gives up waiting, hands the lock on in the same step.

    who may enter                           nobody waits to write, and no writer is inside
    a writer enters                         nobody is inside
    the last reader leaves                  the first writer that waits enters
    a writer leaves                         all readers that wait by then enter; if none, the first writer that waits
    the last writer that waits gives up     if readers are inside: all readers that wait enter

So writers are preferred: one that waits keeps new readers out. And neither side starves: a reader waits for one writer
at most before it is let in with all others, a writer for the writers before it and the readers let in between.

    Waiter:   1. arms      2. under the graph's lock and `_lock`: enters after all, or queues; walks (`_deadlock`)
              3. parks     4. under `_lock`: was it let in? If not, from 1 again, in its old place
    Granter:  under `_lock`: takes waiters off the queue, stores their holds, marks them as granted; then wakes each
What was granted is the truth, the wake only says that it is time to look: so nothing is lost when the wake loses
against a cancel or a timeout. Who was granted the lock and leaves with an exception hands it on; a wait that was WOKEN
by the grant is not turned into a cancellation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Never, TypeVar, overload

from plait._arguments import MISSING, exact, refused
from plait._core import (
    TIMED_OUT,
    Lock,
    Parker,
    WaitReason,
    check_entry,
    check_seconds,
    current_thread,
    lend_slot,
    now,
    park,
)
from plait._deadlock import Wait, begin_wait, end_wait
from plait._errors import DeadlockError
from plait._holding import Block, Shared, Taken, called, check_change, end_hold, new_hold, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plait._core import Slots
    from plait._holding import Hold

T = TypeVar("T")


class RWLock(Shared[T]):
    """A value that many threads may read at a time, or one may change: hold the lock for the one or the other.

    Shared by virtual and platform threads alike. A thread that waits to write keeps new readers out; when it has
    written, the readers that wait by then are let in before the next writer, so neither side starves. Not reentrant: a
    thread that holds it, in whichever way, and asks for it again gets `DeadlockError` at once; so does one whose wait would
    close a circle of threads that wait for each other's `Mutex` and `RWLock`, timeouts or not. That a reader changes
    nothing is up to you. A thread that has held it for over a second and waited for something else meanwhile is told so
    (`HeldWhileParked`); not so a platform thread outside all groups and scopes, whose waits are not plait's.

    Example:
        >>> from plait import RWLock, ThreadGroup
        >>> prices = RWLock({"tea": 3})
        >>> def look_up(name):
        ...     with prices.read() as table:
        ...         return table.get(name)
        >>> with prices.write() as table:
        ...     table["coffee"] = 4
        >>> with ThreadGroup() as group:
        ...     found = [group.spawn(look_up, name) for name in ("tea", "coffee")]
        >>> [future.result() for future in found]
        [3, 4]
    """

    __slots__ = ("_lock", "_reading", "_waiting_readers", "_waiting_writers", "_writing")

    _took: ClassVar[tuple[str, str]] = ("took for reading", "took for writing")
    _waits: ClassVar[tuple[str, str]] = ("to read", "to write")
    _block: ClassVar[str] = "`with {0}.read() as value:` or `with {0}.write() as value:`"

    @overload
    def __init__(self, value: T, /) -> None: ...

    @overload
    def __init__(self, *, value: T) -> None: ...

    @exact
    def __init__(self, value: T = MISSING, *misplaced: Never, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused("RWLock", misplaced, unknown, "it takes a value alone, as in RWLock(value)")
        super().__init__(value)
        self._lock = Lock()  # "readers and writers": guards what follows
        self._writing: Hold | None = None
        self._reading: dict[Parker, Hold] = {}
        self._waiting_readers: dict[Wait, None] = {}  # in order of arrival
        self._waiting_writers: dict[Wait, None] = {}

    def __repr__(self) -> str:
        with self._lock:
            writing = self._writing
            readers = len(self._reading)
        if writing is not None:
            state = f"written by {called(writing[0])}"
        else:
            state = f"read by {readers} thread{'' if readers == 1 else 's'}" if readers else "free"
        return f"<{self._name} {state}>"

    @property
    def readers(self) -> int:
        """How many threads read it now. Any thread; never waits."""
        return len(self._reading)

    @property
    def is_locked(self) -> bool:
        """Whether some thread reads or writes it now. Any thread; never waits."""
        return self._writing is not None or bool(self._reading)

    def read(self, timeout: float | None = None) -> Block[T]:
        """A context manager that holds the lock for reading and gives the value. Entering is a cancel point.

        Raises (on entry):
            TimeoutError: it could not be read within `timeout` seconds.
            DeadlockError: the wait could never end.
            ValueError: `into_inner` has taken the value away.
            RuntimeError: what this call gave is entered already: each thread makes a call of its own.
        """
        return Reading(self, False, None if timeout is None else check_seconds(timeout, "timeout"))

    def write(self, timeout: float | None = None) -> Block[T]:
        """A context manager that holds the lock for writing and gives the value. Entering is a cancel point.

        Raises (on entry):
            TimeoutError: it was not free within `timeout` seconds.
            DeadlockError: the wait could never end.
            ValueError: `into_inner` has taken the value away.
        """
        return Block(self, True, None if timeout is None else check_seconds(timeout, "timeout"))

    def try_read(self) -> Taken[T] | None:
        """As `read`, already held, if that needs no waiting now; else None. Never waits, and is no cancel point.

        What it gives is for one block, on this thread; if it is dropped without that, the lock is let go.
        """
        return self._try(False)

    def try_write(self) -> Taken[T] | None:
        """As `write`, already held, if it is free now; else None. Never waits, and is no cancel point.

        What it gives is for one block, on this thread; if it is dropped without that, the lock is let go.
        """
        return self._try(True)

    def update(self, fn: Callable[[T], T]) -> T:
        """Replace the value by `fn(value)`, holding the lock for writing; the new value. A cancel point.

        Raises what entering `write()` raises, and what `fn` raises: then the value stays. `TypeError` if `fn` cannot be
        called.
        """
        check_change("update", fn)
        with self.write() as value:
            self._value = changed = fn(value)
        return changed

    def replace(self, value: T) -> T:
        """Put `value` in; the old one. A cancel point. Raises what entering `write()` raises."""
        with self.write() as old:
            self._value = value
        return old

    def into_inner(self) -> T:
        """Take the value out; nothing is left from then on. A cancel point. Raises what entering `write()` raises."""
        with self.write() as value:
            self._is_empty = True
            del self._value
        return value

    def _try(self, is_writer: bool) -> Taken[T] | None:  # noqa: FBT001 - compiled functions take no keyword-only ones
        taken = Taken(self, is_writer)
        me = current_thread()
        hold = new_hold(me, is_writer)
        with self._lock:
            is_in = self._hold_of(me) is None and self._admit(hold)
        if not is_in:
            me.holds -= 1
            return None
        return taken.keep(hold)

    def _acquire(self, is_writer: bool, timeout: float | None) -> Hold:  # noqa: FBT001
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        hold = new_hold(me, is_writer)
        with self._lock:
            mine = self._hold_of(me)
            is_in = mine is None and self._admit(hold)
        if is_in:
            return hold
        me.holds -= 1
        if mine is not None:
            raise DeadlockError(
                f"{called(me)} {'writes' if mine[5] else 'reads'} {self._name} already, since "
                f"{place(mine[1], mine[2])}, and would wait for itself to {'write' if is_writer else 'read'} it: an RWLock is not reentrant, and cannot be upgraded"
            )
        wait = Wait(me, self, is_writer, hold[1], hold[2])
        self._wait(wait, timeout)
        # The hold that was granted has waited; a fresh one counts from here.
        hold = new_hold(me, is_writer)
        with self._lock:
            if is_writer:
                self._writing = hold
            else:
                self._reading[me] = hold
        return hold

    def _wait(self, wait: Wait, timeout: float | None) -> None:
        me = wait.thread
        deadline = None if timeout is None else now() + timeout
        reason = WaitReason.WRITE_LOCK if wait.is_writer else WaitReason.READ_LOCK
        slots: Slots | None = None
        try:
            while True:
                epoch = me.arm()
                with self._lock:
                    wait.epoch = epoch
                try:
                    is_in = begin_wait(wait)
                except BaseException:
                    me.withdraw()
                    raise
                if is_in:
                    me.withdraw()
                    return
                if slots is None:
                    slots = lend_slot(me, None)
                outcome = park(me, epoch, reason, deadline)
                if wait.is_granted:
                    return
                if outcome == TIMED_OUT:
                    raise TimeoutError(
                        f"{self!r} could not be {'written' if wait.is_writer else 'read'} within {timeout} seconds"
                    )
        except BaseException:
            if not self._withdraw(wait):  # it was granted, and this thread does not want it any more
                self._release(self._granted(wait), None)
            raise
        finally:
            end_wait(wait)
            if slots is not None:
                slots.take_back(me, deadline)

    def _queue(self, wait: Wait) -> bool:
        with self._lock:
            queue = self._waiting_writers if wait.is_writer else self._waiting_readers
            if wait.is_granted:
                return True
            if wait not in queue:
                if self._admit(self._provisional(wait)):
                    wait.is_granted = True
                    return True
                queue[wait] = None
            return False

    def _withdraw(self, wait: Wait) -> bool:
        with self._lock:
            if wait.is_granted:
                return False
            (self._waiting_writers if wait.is_writer else self._waiting_readers).pop(wait, None)
            granted = self._hand_on(False)
        self._wake(granted)
        return True

    def _forget(self, wait: Wait) -> None:
        with self._lock:
            (self._waiting_writers if wait.is_writer else self._waiting_readers).pop(wait, None)

    def _granted(self, wait: Wait) -> Hold:
        """The hold that `wait` was granted."""
        with self._lock:
            hold = self._hold_of(wait.thread)
        assert hold is not None
        return hold

    def _release(self, hold: Hold, error: BaseException | None) -> None:
        with self._lock:
            if hold[5]:
                assert self._writing is hold
                self._writing = None
            else:
                assert self._reading[hold[0]] is hold
                del self._reading[hold[0]]
            granted = self._hand_on(hold[5])
        self._wake(granted)

    def _wake(self, granted: Iterable[tuple[Parker, int]]) -> None:
        for thread, epoch in granted:
            thread.unpark(epoch)

    # ---- under _lock

    def _hold_of(self, thread: Parker) -> Hold | None:
        if self._writing is not None and self._writing[0] is thread:
            return self._writing
        return self._reading.get(thread)

    def _admit(self, hold: Hold) -> bool:
        """Let the thread of `hold` in, if nobody is in the way."""
        if self._writing is not None:
            return False
        if hold[5]:
            if self._reading:
                return False
            self._writing = hold
        else:
            if self._waiting_writers:
                return False
            self._reading[hold[0]] = hold
        return True

    def _hand_on(self, has_written: bool) -> list[tuple[Parker, int]]:  # noqa: FBT001
        """Somebody has left, or has given up: let in whoever is next; whom to wake."""
        granted: list[tuple[Parker, int]] = []
        if self._writing is not None:
            return granted
        if self._waiting_readers and (has_written or not self._waiting_writers):
            waits = list(self._waiting_readers)
            self._waiting_readers.clear()
            for wait in waits:
                self._reading[wait.thread] = self._provisional(wait)
        elif self._waiting_writers and not self._reading:
            wait = next(iter(self._waiting_writers))
            del self._waiting_writers[wait]
            self._writing = self._provisional(wait)
            waits = [wait]
        else:
            return granted
        for wait in waits:
            wait.is_granted = True
            granted.append((wait.thread, wait.epoch))
        return granted

    def _provisional(self, wait: Wait) -> Hold:
        """The hold of a thread that has still to wake, and to make its own."""
        return (wait.thread, wait.code, wait.offset, now(), 0, wait.is_writer)

    # ---- what _deadlock asks, under its lock

    def _holders(self) -> Iterable[Hold]:
        with self._lock:
            return [self._writing] if self._writing is not None else list(self._reading.values())

    def _blockers(self, wait: Wait) -> Iterable[Hold]:
        with self._lock:
            if wait not in (self._waiting_writers if wait.is_writer else self._waiting_readers):
                return []
            return [self._writing] if self._writing is not None else list(self._reading.values())

    def _disturb(self) -> None:
        with self._lock:
            waiting = [(wait.thread, wait.epoch) for wait in (*self._waiting_writers, *self._waiting_readers)]
        self._wake(waiting)


class Reading(Block[T]):
    """The block in which an RWLock is read. Made by `RWLock.read`."""

    __slots__ = ()

    def __enter__(self) -> T:
        """Hold it."""
        shared = self._shared
        assert isinstance(shared, RWLock)
        hold = shared._acquire(False, self._timeout)  # noqa: SLF001 - two halves of one class
        # Other than with writers, two threads can be here at a time.
        with shared._lock:  # noqa: SLF001
            other = self._hold
            if other is None:
                self._hold = hold
        if other is not None:
            end_hold(shared, hold, None)
            raise RuntimeError(
                f"{called(current_thread())} cannot enter a block of {shared._name} that {called(other[0])} has entered "  # noqa: SLF001
                f"at {place(other[1], other[2])}: call read() for each"
            )
        return self._show(hold)
