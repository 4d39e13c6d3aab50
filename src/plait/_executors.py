"""`VirtualThreadPoolExecutor`: an executor that runs each call on a virtual thread of its own.

State, all of it under the executor's condition: the calls that wait for one of those at work to end, and how many are at
work, on which threads. Whoever ends a call begins the next one, before it counts itself out; so the process, which waits
for the threads, waits for the calls that are queued as well. If a thread cannot be started, for want of memory say, its call
has failed, and the next one is begun in its place.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import BrokenExecutor, Executor, Future
from itertools import count
from typing import TYPE_CHECKING, Any, Never, NoReturn, ParamSpec, TypeVar

from plait._arguments import exact, refused
from plait._errors import not_copied
from plait._limits import check_limit
from plait._native import copied_context, current
from plait._threads import container

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

P = ParamSpec("P")
T = TypeVar("T")

_serials = count()


class _Call:
    """One call that was submitted."""

    __slots__ = ("args", "context", "fn", "future", "kwargs")

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.future: Future[Any] = Future()
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context: Context = copied_context()

    def run(self) -> None:
        try:
            result = self.fn(*self.args, **self.kwargs)
        except BaseException as error:  # noqa: BLE001 - the future's
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """There is no thread for it."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class VirtualThreadPoolExecutor(Executor):
    """An executor that runs each call on a virtual thread of its own: for whatever takes an `Executor`.

    `asyncio`'s `run_in_executor`, `ThreadGroup.options(on=...)`, and code written for `ThreadPoolExecutor`, whose arguments
    it takes. Calls belong to no group, as those of any executor; the futures are those of `concurrent.futures`, so a call
    that has begun cannot be cancelled. Each starts with a copy of the context variables of who submits it. The process
    waits for all calls before it ends. Any thread, virtual or platform, may use it.

    Args:
        max_workers: How many calls may be at work at a time; others are queued. None: no limit.
        thread_name_prefix: Each thread's name is this, with a number.
        initializer: Called with `initargs` on each virtual thread before its call. If it raises, the executor is broken:
            that call and all that are queued or submitted later fail with `BrokenExecutor`.

    Raises:
        TypeError, ValueError: `max_workers` is no whole number from 1 up, or `initializer` cannot be called.

    Example:
        >>> from plait import VirtualThreadPoolExecutor
        >>> with VirtualThreadPoolExecutor(max_workers=100) as executor:
        ...     list(executor.map(pow, [2, 3], [10, 2]))
        [1024, 9]
    """

    @exact
    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *misplaced: Never,
        **unknown: Never,
    ) -> None:
        if misplaced or unknown:
            raise refused(
                "VirtualThreadPoolExecutor",
                misplaced,
                unknown,
                "it takes max_workers, thread_name_prefix, initializer and initargs, as ThreadPoolExecutor does",
            )
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be something to call, or None, not {initializer!r}")
        self._limit = None if max_workers is None else check_limit(max_workers, "max_workers")
        self._prefix = thread_name_prefix or f"VirtualThreadPoolExecutor-{next(_serials)}"
        self._initializer = initializer
        self._initargs = initargs
        self._names = count()
        self._idle = threading.Condition(threading.Lock())  # notified when nothing is at work; guards what follows
        self._queue: deque[_Call] = deque()
        self._at_work = 0
        self._own: set[Any] = set()  # the virtual threads on which calls are at work
        self._is_shut_down = False
        self._is_broken = False

    def __repr__(self) -> str:
        return f"<VirtualThreadPoolExecutor {self._prefix!r}, {self._at_work} at work, {len(self._queue)} queued>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` when there is room; its future. Any thread; never waits, no cancel point.

        Raises:
            RuntimeError: the executor is shut down, or the process is ending.
            BrokenExecutor: the initializer has failed.
        """
        call = _Call(fn, args, kwargs)
        with self._idle:
            self._check_open()
            if self._limit is not None and self._at_work >= self._limit:
                self._queue.append(call)
                return call.future
            self._at_work += 1
        try:
            self._begin(call)
        except BaseException:
            self._end()
            raise
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """Take no more calls, and, if told to `wait`, wait until all are done. A cancel point then.

        `cancel_futures` cancels those that are queued. Any thread, any number of times; the end of a `with` block waits.

        Raises:
            RuntimeError: told to wait by one of its own calls, which would wait for itself. It is shut down all the same.
        """
        with self._idle:
            self._is_shut_down = True
            dropped = list(self._queue) if cancel_futures else []
            if cancel_futures:
                self._queue.clear()
        for call in dropped:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        if wait:
            with self._idle:
                if current() in self._own:
                    raise RuntimeError(
                        f"cannot wait for the end of {self!r} in one of its own calls: shutdown(wait=False)"
                    )
                self._idle.wait_for(lambda: not self._at_work)

    def _check_open(self) -> None:
        if self._is_broken:
            raise BrokenExecutor(f"the initializer of {self!r} has failed: no call can run here any more")
        if self._is_shut_down:
            raise RuntimeError(f"cannot schedule new futures after shutdown: {self!r}")

    def _begin(self, call: _Call) -> None:
        name = f"{self._prefix}_{next(self._names)}"
        container(is_daemon=False).start(self._work, (call,), name, call.context)

    def _work(self, call: _Call) -> None:
        """What each virtual thread does."""
        me = current()
        try:
            with self._idle:
                self._own.add(me)
            if call.future.set_running_or_notify_cancel() and self._is_ready(call):
                call.run()
        finally:  # a callback of the future may raise SystemExit, say
            self._end(me)

    def _is_ready(self, call: _Call) -> bool:
        """Whether the initializer has succeeded here; if not, the executor is broken."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException as error:  # noqa: BLE001 - becomes the cause of what everybody gets
            with self._idle:
                self._is_broken = True
                dropped = [*self._queue]
                self._queue.clear()
            call.future.set_exception(_broken(self, error))
            for other in dropped:
                if other.future.set_running_or_notify_cancel():
                    other.future.set_exception(_broken(self, error))
            return False
        return True

    def _end(self, me: Any = None) -> None:
        """A call is over, that of the thread `me`, or one that never began: begin the next."""
        following = self._next(me)
        while following is not None:
            try:
                self._begin(following)
                return
            except BaseException as error:  # noqa: BLE001 - the future's
                self._fail(following, error)
            following = self._next()

    def _next(self, me: Any = None) -> _Call | None:
        """The queued call that takes the place of one that is over; None if there is none, and one less is at work."""
        with self._idle:
            self._own.discard(me)
            if self._queue:
                return self._queue.popleft()
            self._at_work -= 1
            if not self._at_work:
                self._idle.notify_all()
            return None

    def _fail(self, call: _Call, error: BaseException) -> None:
        """A call cannot be begun. What a callback of its future may raise ends this thread, after the next call is begun."""
        try:
            call.fail(error)
        except BaseException:
            self._end()
            raise


def _broken(executor: VirtualThreadPoolExecutor, cause: BaseException) -> BrokenExecutor:
    error = BrokenExecutor(f"the initializer of {executor!r} has failed: no call can run here any more")
    error.__cause__ = cause
    return error
