"""Future: what spawn returns, and the virtual thread itself seen from outside.

A `concurrent.futures.Future`, so `wait`, `as_completed` and `asyncio.wrap_future` work on it; made without a condition
or a lock, which come into being when somebody asks for them.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from plait._core import (
    CANCELLED,
    FAILED,
    SUCCEEDED,
    TIMED_OUT,
    Lock,
    WaitReason,
    call_contained,
    call_deaf,
    check_seconds,
    end_inside,
    left_open,
    lend_slot,
    now,
    real_number,
    unpark_all,
)
from plait._core._cancel import check_entry, check_first
from plait._core._parking import Parker, park
from plait._core._runtime import current_thread
from plait._core._vthread import VirtualThread
from plait._native import make_room_on_demand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plait._core import Scope, Slots

T = TypeVar("T")

_lock = Lock()  # "future watchers": guards the lists of every _Watchers, for moments
_log = logging.getLogger("concurrent.futures")
_CALLBACK_FAILED = "exception calling callback for %r"
_OWN_FUTURE = "for an outcome that you set, make a concurrent.futures.Future"

# What `concurrent.futures` calls our states.
_NAMES = {SUCCEEDED: "FINISHED", FAILED: "FINISHED", CANCELLED: "CANCELLED_AND_NOTIFIED"}


class Waiting:
    """What stands with futures for a thread that waits for them: a method of it is called when one is done."""

    waiter: Parker | None = None  # the thread, while it waits. Its own


class _Watchers:
    """Who wants to know when a future is done. Made when the first one asks.

    The functions of `concurrent.futures` count on a state that does not change while they hold the future's condition.
    A call settles without it; so once there is a condition, they are shown `is_told` instead, which changes under it.
    """

    __slots__ = ("callbacks", "condition", "is_told", "parked", "waiters")

    def __init__(self) -> None:
        self.parked: dict[Parker, int] = {}  # threads in result(), with the epoch of their wait. Under _lock
        self.callbacks: list[Callable[[Any], object]] | None = None  # made for the first. Under _lock
        self.condition: threading.Condition | None = None  # for concurrent.futures. Written under _lock
        self.is_told = False  # concurrent.futures may see the end. Under `condition`, while there is none under _lock
        self.waiters: list[Any] | None = None  # of concurrent.futures. Made with `condition`, and under it

    def make_condition(self, future: VirtualThread) -> None:
        """Give it a condition, unless it has one."""
        condition = threading.Condition()
        waiters: list[Any] = []  # not under the lock, here and below: the collector may run where it is made
        with _lock:
            if self.condition is None:
                self.waiters = waiters
                self.condition = condition
                # Settled before this look: whether it goes on to notify or not, nobody need wait. After it: it will.
                self.is_told = future.is_settled()

    def waiting(self) -> list[Parker]:
        """The threads that wait for the future now, as far as they are known. Any thread."""
        with _lock:
            threads = list(self.parked)
            others: list[object] = [call.__self__ for call in self.callbacks or () if type(call) is MethodType]
        others += [waiter.event for waiter in tuple(self.waiters or ())]
        # By their types: objects of users are not asked for anything here.
        waiters = [other.waiter for other in others if issubclass(type(other), Waiting)]  # type: ignore[attr-defined]
        return threads + [waiter for waiter in waiters if waiter is not None]

    def notify(self, future: VirtualThread) -> None:
        """Tell everybody."""
        nobody: dict[Parker, int] = {}
        with _lock:
            parked, self.parked = self.parked, nobody
            callbacks, self.callbacks = self.callbacks, None
            condition = self.condition
        if condition is not None:
            call_contained(call_deaf, self._tell, condition, future)
        unpark_all(parked.items())
        for callback in callbacks or ():
            _call_back(callback, future)

    def _tell(self, condition: threading.Condition, future: VirtualThread) -> None:
        """Tell those who wait in the functions of `concurrent.futures`."""
        with condition:
            waiters = None if self.is_told else self.waiters
            self.is_told = True
            for waiter in waiters or ():
                if future.status == SUCCEEDED:
                    waiter.add_result(future)
                elif future.status == FAILED:
                    waiter.add_exception(future)
                else:
                    waiter.add_cancelled(future)
            condition.notify_all()


class _LendingEvent(threading.Event, Waiting):
    """What a thread waits for in `concurrent.futures.wait`: it lends its slot meanwhile, as in `result`."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: set[Slots] = set()  # of the futures. Complete before anybody waits

    def wait(self, timeout: float | None = None) -> bool:
        seconds = None if timeout is None else real_number(timeout)
        if self.is_set() or (seconds is None and timeout is not None):
            return super().wait(timeout)  # does not wait, or refuses
        self.waiter = me = current_thread()
        deadline = None if seconds is None else now() + seconds
        slots = lend_slot_among(self.limits, me, deadline)
        try:
            return super().wait(timeout)
        finally:
            self.waiter = None
            if slots is not None:
                slots.take_back(me, deadline)


class _Waiters:
    """The list of those who wait for a future, as `concurrent.futures` uses it: under the conditions of all its futures."""

    __slots__ = ("_future", "_waiters")

    def __init__(self, waiters: list[Any], future: Future[Any]) -> None:
        self._waiters = waiters
        self._future = future

    def append(self, waiter: Any) -> None:
        """`waiter`, who begins to wait, is made just now; nobody else has seen its event."""
        verify_coming(self._future, current_thread())
        if not isinstance(waiter.event, _LendingEvent):
            waiter.event = _LendingEvent()
        limit = self._future.group.slots
        if limit is not None:
            waiter.event.limits.add(limit)
        self._waiters.append(waiter)

    def remove(self, waiter: Any) -> None:
        """It waits no more."""
        self._waiters.remove(waiter)


def _call_back(callback: Callable[[Any], object], future: VirtualThread) -> None:
    """Call it on the thread that has ended, which nothing that it raises, or leaves open, concerns."""
    outer = future.scope
    try:
        callback(future)
        if future.scope is not outer:
            raise left_open(repr(callback), future.scope)
    except BaseException as error:  # noqa: BLE001 - reported
        failure = error if future.scope is outer else end_inside(future, outer, error)  # type: ignore[arg-type]
        call_contained(_report, future, failure)


def _report(future: VirtualThread, failure: BaseException) -> None:
    _log.error(_CALLBACK_FAILED, future, exc_info=failure)


class Future(VirtualThread, concurrent.futures.Future[T]):
    """The outcome of a spawned call, at hand or to come; everything of `concurrent.futures.Future`.

    Made by `spawn` alone. Any thread, virtual or platform, may use it. After its group's block has ended nothing here
    waits.

    Example:
        >>> from plait import ThreadGroup
        >>> with ThreadGroup() as group:
        ...     future = group.spawn(pow, 2, 10)
        >>> future.result()
        1024
    """

    __slots__ = ()

    def __init__(self) -> None:
        """Not called by `spawn`."""
        raise TypeError(
            "plait's futures are made by spawn(): one that you resolve yourself is concurrent.futures.Future()"
        )

    # The parts of concurrent.futures.Future that its own functions reach for.

    def _watch(self) -> _Watchers:
        watchers = self.watchers
        if watchers is None:
            made = _Watchers()
            with _lock:
                if self.watchers is None:
                    self.watchers = made
                watchers = self.watchers
        assert isinstance(watchers, _Watchers)
        return watchers

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        watchers = self._watch()
        if watchers.condition is None:
            watchers.make_condition(self)
        assert watchers.condition is not None
        return watchers.condition

    @property
    def _waiters(self) -> _Waiters:  # type: ignore[override]
        watchers = self._watch()
        if watchers.waiters is None:
            watchers.make_condition(self)
        assert watchers.waiters is not None
        return _Waiters(watchers.waiters, self)

    @property
    def _state(self) -> str:  # type: ignore[override]
        watchers = self.watchers
        has_condition = isinstance(watchers, _Watchers) and watchers.condition is not None
        if watchers.is_told if has_condition else self.is_settled():  # type: ignore[union-attr]
            return _NAMES[self.status]
        return "RUNNING" if self.carrier is not None else "PENDING"

    @property
    def _exception(self) -> BaseException | None:  # type: ignore[override]
        return self._error

    # What people use.

    def __repr__(self) -> str:
        return f"<Future of {self.name!r} {self._state.lower().replace('_and_notified', '')}>"

    def done(self) -> bool:
        """Whether the outcome is at hand. Never waits."""
        return bool(self.is_settled())

    def running(self) -> bool:
        """Whether the call has begun and not ended. Never waits."""
        return self.carrier is not None and not self.is_settled()

    def cancelled(self) -> bool:
        """Whether the call was cancelled, and is over. Never waits."""
        return self.status == CANCELLED and bool(self.is_settled())

    def cancel(self) -> bool:
        """Cancel this call alone; no error for its group. False if it is over and was not cancelled.

        True means asked: the call gets `Cancelled` at its next cancel point, or never starts. Any thread; never waits.
        """
        if self.is_settled():
            return self.status == CANCELLED
        self.cancel_scope("its future was cancelled", self)
        return True

    def result(self, timeout: float | None = None) -> T:
        """The call's result; parks until it is there. A cancel point.

        Raises what the call raised, as it is; `concurrent.futures.CancelledError` if the call was cancelled (never
        `Cancelled`, which means that you are); `TimeoutError` after `timeout` seconds.
        """
        self._await(timeout)
        if self.status == SUCCEEDED:
            return self._result  # type: ignore[no-any-return]
        if self.status == CANCELLED:
            self._refuse()
        try:
            raise self._error  # type: ignore[misc]
        finally:
            self = None  # type: ignore[assignment]  # noqa: PLW0642 - the traceback must not hold the future

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None; parks until it is known. A cancel point. Raises as `result` does otherwise."""
        self._await(timeout)
        if self.status == CANCELLED:
            self._refuse()
        return self._error

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn(future)` when the outcome is at hand: on the finishing thread, or at once if it is already.

        An exception of `fn` is logged. Called at once, it may be cancelled or interrupted (`Cancelled`,
        `KeyboardInterrupt`) as any part of the calling thread. Any thread; never waits.
        """
        watchers = self._watch()
        callbacks: list[Callable[[Any], object]] = [] if watchers.callbacks is None else watchers.callbacks
        with _lock:
            is_settled = self.is_settled()
            if not is_settled:
                if watchers.callbacks is None:
                    watchers.callbacks = callbacks
                watchers.callbacks.append(fn)
        if is_settled:
            try:
                fn(self)
            except Exception:  # noqa: BLE001 - reported
                _log.exception(_CALLBACK_FAILED, self)

    def set_result(self, result: T) -> NoReturn:
        """Not for users: the call sets it."""
        raise RuntimeError(f"the outcome of {self!r} is set by the call that it stands for: {_OWN_FUTURE}")

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """Not for users: the call sets it."""
        raise RuntimeError(f"the outcome of {self!r} is set by the call that it stands for: {_OWN_FUTURE}")

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Not for users: carriers start it."""
        raise RuntimeError(f"{self!r} is started by plait: {_OWN_FUTURE}")

    def _refuse(self) -> NoReturn:
        """The call was cancelled: say so, unless the same cancel is for the calling thread, which comes first."""
        check_first(current_thread())
        scope: Scope | None = self
        while scope is not None and scope.cancelled_at is None:
            scope = scope.parent
        reason = "" if scope is None else f" ({scope.cancel_reason})"
        raise concurrent.futures.CancelledError(f"{self!r} was cancelled{reason}")

    def _await(self, timeout: float | None) -> None:
        """Park until settled."""
        deadline = None
        if timeout is not None:
            deadline = now() + check_seconds(timeout, "timeout", may_be_past=True)  # as for concurrent.futures
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        if self.is_settled():
            return
        if me is self:
            verify_coming(self, me)
        slots = lend_slot(me, self.group.slots, deadline)
        try:
            is_done = self.wait_done(me, deadline)
        finally:
            if slots is not None:
                slots.take_back(me, deadline)
        if not is_done:
            verify_coming(self, me)
            raise TimeoutError(f"{self!r} was not done after {timeout} seconds")

    def wait_done(self, me: Parker, deadline: float | None = None) -> bool:
        """Park until it is done; False when the instant `deadline` comes first, or if it never will be done here.

        `me`, the caller, lends no slot.
        """
        while True:
            if not self.is_here():
                return bool(self.is_settled())
            epoch = me.arm()
            if not watch(self, me, epoch):
                me.withdraw()
                return True
            try:
                outcome = park(me, epoch, WaitReason.FUTURE, deadline)
            finally:
                unwatch(self, me)
            if self.is_settled():
                return True
            if outcome == TIMED_OUT:
                return False


make_room_on_demand(Future)


def verify_coming(future: Future[Any], me: Parker) -> None:
    """Refuse to have `me`, the caller, wait for what never ends while it does: `RuntimeError`.

    That is its own call, and one of the process that has forked this one.
    """
    if future.is_settled():
        return
    if future is me:
        raise RuntimeError(f"{future!r} cannot wait for its own outcome")
    if not future.is_here():
        raise RuntimeError(
            f"{future!r} belongs to the process that has forked this one, and here it never ends: wait for it there, or spawn "
            f"another one here"
        )


def drop_callback(future: Future[Any], fn: Callable[[Any], object]) -> None:
    """Do not call `fn`, which was added as a callback, when `future` is done. Any thread; never waits."""
    watchers = future._watch()  # noqa: SLF001 - part of Future, for whoever leaves a wait half-way
    with _lock:
        callbacks = watchers.callbacks or []
        for place, callback in enumerate(callbacks):
            if callback is fn:  # not `remove`, which asks the callbacks of others whether they are equal to it
                del callbacks[place]
                return


def limits_of(futures: Iterable[object]) -> set[Slots]:
    """The slots that `futures`, of whatever kind, have: what `lend_slot_among` takes."""
    return {future.group.slots for future in futures if isinstance(future, Future) and future.group.slots is not None}


def lend_slot_among(limits: set[Slots], me: Parker, deadline: float | None = None) -> Slots | None:
    """`me` is about to wait for the first of several futures, which have `limits`: as `lend_slot`."""
    for slots in limits:
        if slots.is_held_by(me):
            return lend_slot(me, slots, deadline)
    return lend_slot(me, None)


def watch(future: Future[Any], me: Parker, epoch: int) -> bool:
    """Have wait `epoch` of `me` ended when `future` is done; False if it is done. Owner of the wait only."""
    watchers = future._watch()  # noqa: SLF001 - part of Future, for threads that wait for other things, too
    with _lock:
        if future.is_settled():
            return False
        watchers.parked[me] = epoch
        return True


def unwatch(future: Future[Any], me: Parker) -> None:
    """The wait that `watch` was told of is over. Its owner's."""
    watchers = future._watch()  # noqa: SLF001
    with _lock:
        watchers.parked.pop(me, None)
