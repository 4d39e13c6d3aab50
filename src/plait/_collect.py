"""Collections of work: many calls, whose results come as if one function had made them all.

They hide that they are concurrent, so what they raise is the first failure itself, not a group of failures: turning a
loop into `pmap` keeps `except ConnectionError` working. A note on it says which call it was; its `__cause__` is the
group of all that failed.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections import deque
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from functools import partial
from math import inf
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar

from plait._arguments import exact, refused
from plait._core import (
    GRACE,
    Flag,
    VirtualThread,
    WaitReason,
    check_entry,
    check_first,
    check_seconds,
    current_thread,
    excuse,
    grace_of,
    lend_slot,
    lot_wait,
    lot_wake_one,
    now,
    refuge,
    refuse_coroutine,
    runtime,
    sleep,
    without_cancelled,
)
from plait._default import default_group, lasting_group_around
from plait._errors import Cancelled, GroupClosed, GroupFailed
from plait._failures import note_failures
from plait._futures import Future, Waiting, drop_callback, lend_slot_among, limits_of, verify_coming
from plait._groups import ThreadGroup
from plait._native import cooperative, current
from plait._reprs import shortened
from plait._scopes import move_on_after, shield
from plait._spawning import add_child, name_of, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping
    from types import TracebackType

    from plait._core import Parker, Slots

S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound="concurrent.futures.Future[Any]")

_LIMIT = 64  # calls of pmap at a time, unless told otherwise


class _Arrivals(Waiting):
    """Things put by any thread, taken in that order by any thread.

    Putter: 1. appends  2. looks for a waiter, under the lot's lock. Taker: 1. queues in the lot, under its lock  2. tries.
    """

    def __init__(self) -> None:
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        """Append. Never waits."""
        self._items.append(item)
        lot_wake_one(id(self))

    def take(self, me: Parker, deadline: float | None = None) -> Any:
        """The first; parks until there is one. A cancel point. `TimeoutError` if the instant `deadline` comes first."""
        if me.scope is not None:
            check_entry(me)
        taken: list[Any] = []

        def attempt() -> bool:
            with suppress(IndexError):
                taken.append(self._items.popleft())
            return bool(taken)

        if not attempt():
            self.waiter = me
            try:
                if not lot_wait(me, id(self), attempt, WaitReason.FUTURE, deadline):
                    raise TimeoutError
            finally:
                self.waiter = None
        return taken[0]


def _lending(wait: Callable[[Parker], T], lend: Callable[[Parker], Slots | None], deadline: float | None = None) -> T:
    """`wait(me)`, on the calling thread, which lends its slot meanwhile; until the instant `deadline`."""
    me = current_thread()
    slots = lend(me)
    try:
        return wait(me)
    finally:
        if slots is not None:
            slots.take_back(me, deadline)


def _offer(me: Parker) -> Slots | None:
    """Let the calls that `me` is about to wait for use its slot: they need not be below it."""
    return lend_slot(me, None)


class _Calls:
    """A block of calls, which raises the first failure among them, as it is."""

    def __init__(self, name: str) -> None:
        self.group = ThreadGroup(name=name, grace=grace_of(current_thread().scope))
        self._count = 0
        self._process = os.getpid()  # where they are

    def spawn(self, what: object, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Call `fn(*args)`; should it fail, its error says which call it was, and of `what`."""
        place = self._count
        self._count += 1

        def call() -> T:
            try:
                return fn(*args)
            except Cancelled:
                raise
            except BaseException as error:
                with suppress(Exception):  # whatever the item makes of repr(), and the error of notes
                    error.add_note(f"raised by call {place} of {self.group.name}: {shortened(what)}")
                raise

        call.__qualname__ = name_of(fn)  # the thread is called so
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        # Whatever time limits the caller is in: it sees to the end of the calls.
        return add_child(self.group, me, call, (), {})

    def __enter__(self) -> Self:
        """Begin."""
        self.group.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Wait for all calls."""
        try:
            is_over = self.group.__exit__(kind, error, traceback)
        except BaseExceptionGroup as failures:
            first = self.group.exception
            assert first is not None
            if first is not failures:  # what it came from itself is not lost
                failures.__cause__ = first.__cause__
                if failures.__cause__ is None and not first.__suppress_context__:
                    failures.__context__ = first.__context__
            raise first from failures
        if error is None:
            self.verify_here()  # a signal handler may have forked meanwhile
        return is_over

    def verify_here(self) -> None:
        """Refuse to go on in a child process, forked meanwhile: `RuntimeError`."""
        if self._process != os.getpid():
            raise begun_elsewhere(self.group.name)


def begun_elsewhere(what: str) -> RuntimeError:
    """The error for who goes on in a forked child with `what`, which was begun before the fork."""
    return RuntimeError(
        f"this {what} was begun in the process that has forked this one, where its calls are: begin another one here"
    )


class _Host:
    """Calls whose block is held open by a thread of its own: an iterator must not hold a scope while it is suspended.

    The thread is a daemon of the group that the iterator is begun in, so a cancel there reaches the calls. (A signal handler
    may begin one while its thread waits for a group to end: then it is the next group around, as for what comes after the
    block, for a daemon would not keep that group open. A cancel of it comes to who uses the iterator.) It must not if
    the iterator is begun in a shield, or in clean-up: then it is one of the default group, and who uses the iterator ends
    it when cancelled. If that has come already, the thread knows by itself when the shield, or the grace, is over.

    In a child process that is forked meanwhile there is neither the thread nor the calls: nothing is ended there, and who
    asks for more is told so.
    """

    def __init__(self, name: str) -> None:
        self.calls = _Calls(name)
        self.failure: BaseException | None = None  # what the block has raised
        opened = _Arrivals()
        me = current_thread()
        group = lasting_group_around()
        until = refuge(me, group.scope)
        if until is not None:
            until = until if group.is_shut() else inf
            group = default_group()
        self._thread = add_child(group, me, self._hold, (opened, until), {}, is_daemon=True)
        self._thread.add_done_callback(opened.put)  # cancelled before it could begin
        try:
            first = opened.take(me)
        except BaseException:
            self._thread.cancel()
            raise
        if first is not self:
            refuse(group, me)

    def _hold(self, opened: _Arrivals, until: float | None) -> None:
        limit = nullcontext() if until is None else move_on_after(max(0.0, until - now()))
        try:
            with limit, self.calls:
                opened.put(self)
                while True:
                    sleep(3600)
        except Cancelled:
            raise
        except BaseException as failure:  # noqa: BLE001 - raised where the iterator is used
            self.failure = failure

    def close(self) -> None:
        """Cancel the calls at work, and wait for their end, as far as the calling thread may wait."""
        if self._thread.done() or not runtime.is_started:  # at the end of the process nothing can be waited for
            return
        if not self._thread.is_here():
            return
        self._thread.cancel()
        if _is_amid():
            return
        with shield(timeout=grace_of(self.calls.group.scope) + GRACE):
            _lending(self._thread.wait_done, _offer)

    def tell(self, error: BaseException) -> None:
        """The iterator is left by `error`: a failure that it has not raised is not lost with it. After `close`."""
        failure = self.failure
        if failure is None or failure is error:
            return
        if isinstance(error, GeneratorExit) or without_cancelled(error) is None:
            excuse(current_thread(), error)
            raise failure
        note_failures(error, self.calls.group, [failure])


@exact
def gather(*fns: Callable[[], T], **unknown: Never) -> list[T]:
    """Call all of `fns` concurrently; their results, in the order of `fns`. A cancel point.

    The first that fails cancels the others, and is raised when they have ended; their clean-up may take as long as the
    `grace` of the group around says. Raises `TypeError` if one of `fns` cannot be called; then none is.

    Example:
        >>> from functools import partial
        >>> from plait import gather
        >>> gather(partial(pow, 2, 3), partial(pow, 3, 2))
        [8, 9]
    """
    _check_functions("gather", fns, unknown)
    with _Calls("gather") as calls:
        futures = [calls.spawn(fn, fn) for fn in fns]
    return [future.result() for future in futures]


def _check_functions(caller: str, fns: tuple[object, ...], unknown: Mapping[str, object]) -> None:
    if unknown:
        raise refused(
            caller,
            (),
            unknown,
            f"it takes functions alone, as in {caller}(f, partial(g, x)). A limit on how many are at work is pmap's, a time "
            f"limit goes around it, `with timeout(5):`",
        )
    if len(fns) == 1 and isinstance(fns[0], Iterable) and not isinstance(fns[0], (str, bytes)) and not callable(fns[0]):
        raise TypeError(
            f"{caller} needs functions to call without arguments, each by itself, not {shortened(fns[0])}: write "
            f"{caller}(*fns), not {caller}(fns)"
        )
    for fn in fns:
        if not callable(fn):
            raise TypeError(
                f"{caller} needs functions to call without arguments, not {fn!r}: write {caller}(partial(fn, x)), not "
                f"{caller}(fn(x))"
            )


@exact
def race(*fns: Callable[[], T], **unknown: Never) -> T:
    """Call all of `fns` concurrently; the outcome of the first that returns or raises. A cancel point.

    The others are cancelled, and have ended when this returns, as with `gather`; what they still return or raise is
    dropped. Raises `ValueError` without any function to call, and `TypeError` if one of `fns` cannot be called; then none
    is.

    Example:
        >>> import time
        >>> from plait import race
        >>> race(lambda: time.sleep(3600), lambda: "quick")
        'quick'
    """
    _check_functions("race", fns, unknown)
    if not fns:
        raise ValueError("race needs at least one function to call")
    won = Flag()
    won.set()
    winner: list[T] = []

    def runner(fn: Callable[[], T]) -> Callable[[], None]:
        def run() -> None:
            try:
                result = fn()
                if type(result) is CoroutineType:
                    refuse_coroutine(result, run.__qualname__)
            except BaseException as error:
                if isinstance(without_cancelled(error), Exception) and not won.take():
                    return
                raise
            if won.take():
                winner.append(result)
                calls.group.cancel("the race is over")

        run.__qualname__ = name_of(fn)  # the thread is called so
        return run

    with _Calls("race") as calls:
        for fn in fns:
            calls.spawn(fn, runner(fn))
    if not winner:
        raise concurrent.futures.CancelledError("the race was cancelled before any of its calls had returned")
    return winner[0]


@exact
def as_completed(
    futures: Iterable[F], timeout: float | None = None, *misplaced: Never, **unknown: Never
) -> Iterator[F]:
    """The futures, each once, in the order in which they end. Waits for the next when asked for it: a cancel point.

    Any futures of `concurrent.futures`. Raises `TimeoutError` when `timeout` seconds have passed since the first was
    asked for, `TypeError` at once if something else than a future is among them, `RuntimeError` when the thread whose own
    future is among them asks for the first, and to who goes on in a child process, forked meanwhile.

    Example:
        >>> import threading
        >>> from plait import ThreadGroup, as_completed
        >>> gate = threading.Event()
        >>> with ThreadGroup() as group:
        ...     late, early = group.spawn(gate.wait), group.spawn(pow, 2, 3)
        ...     for future in as_completed([late, early]):
        ...         gate.set()
        ...         print(future.result())
        8
        True
    """
    if unknown or (misplaced and not _is_future(futures)):
        raise refused(
            "as_completed", misplaced, unknown, "it takes futures and a timeout, as in as_completed(futures, timeout=5)"
        )
    if _is_future(futures):
        if _is_future(timeout):
            raise TypeError(
                f"as_completed takes its futures together, not {futures!r} by itself: write as_completed([first, second]), "
                f"not as_completed(first, second)"
            )
        raise TypeError(f"as_completed needs several futures, not {futures!r} alone: write as_completed([future])")
    span = None if timeout is None else check_seconds(timeout, "timeout")
    waiting: dict[F, None] = {}
    for future in futures:
        if not _is_future(future):
            raise TypeError(f"as_completed needs futures, as spawn() and submit() give them, not {future!r}")
        if hasattr(type(future), "_asyncio_future_blocking"):  # as asyncio tells its own
            raise TypeError(
                f"as_completed needs futures that threads can wait for, not one of asyncio: {future!r}. For those there is "
                f"asyncio.as_completed()"
            )
        waiting[future] = None
    return _arriving(waiting, span)


def _is_future(thing: object) -> bool:
    return callable(getattr(thing, "add_done_callback", None))


def _arriving(waiting: dict[F, None], span: float | None) -> Iterator[F]:
    deadline = None if span is None else now() + span
    me = current_thread()
    for future in waiting:
        if isinstance(future, Future):
            verify_coming(future, me)
    process = os.getpid()
    arrivals = _Arrivals()
    arrived = arrivals.put  # the one object that stands with all futures
    lend = partial(lend_slot_among, limits_of(waiting), deadline=deadline)
    try:
        for future in waiting:
            future.add_done_callback(arrived)
        for count in range(len(waiting), 0, -1):
            if process != os.getpid():
                raise begun_elsewhere("as_completed")
            try:
                yield _lending(lambda me: arrivals.take(me, deadline), lend, deadline)
            except TimeoutError:
                raise TimeoutError(f"{count} of {len(waiting)} futures are not done after {span} seconds") from None
    finally:
        for future in waiting:
            _forget(future, arrived)


def _is_amid() -> bool:
    """Whether an iterator is dropped where nothing can wait: by the garbage collector, in the middle of whatever."""
    return cooperative() is None and (isinstance(current(), VirtualThread) or runtime.is_carrier())


def _forget(future: concurrent.futures.Future[Any], callback: Callable[[Any], object]) -> None:
    """Take `callback` off again. Never waits: where it would have to, the callback stays, and does no harm."""
    if _is_amid():
        return
    if isinstance(future, Future):
        drop_callback(future, callback)
        return
    condition, callbacks = getattr(future, "_condition", None), getattr(future, "_done_callbacks", None)
    if condition is not None and isinstance(callbacks, list) and condition.acquire(False):
        try:
            with suppress(ValueError):
                callbacks.remove(callback)
        finally:
            condition.release()


@exact
def pmap(
    fn: Callable[[S], T],
    iterable: Iterable[S],
    *misplaced: Never,
    limit: int | None = None,
    ordered: bool = True,
    **unknown: Never,
) -> Generator[T, None, None]:
    """As `map`, with up to `limit` calls at a time (None: 64), each on a virtual thread. An iterator.

    Lazy: an item is taken from `iterable`, on the consumer's thread, when there is room for its call; a result that
    nobody has asked for yet occupies its room. So an endless iterable is fine; one that waits for the results of earlier
    items is not, unless `limit` is 1, since there is no look at results before there are `limit` calls. `ordered=False` gives results as they
    come. A call that fails cancels the others, as with `gather`; its error is raised by the iterator.

    Each step is a cancel point. An iterator that is not wanted any more is closed with `close()`, or by dropping it
    (as a `for` loop does that is left early): the calls at work are cancelled, and have ended when it is closed. If one has
    failed by then, `close()` raises its error (and Python reports it, to `sys.unraisablehook`, if nobody has called that).
    In a child process, forked meanwhile, that leaves the calls alone, which are the parent's; a step raises `RuntimeError`
    there.

    Raises:
        TypeError, ValueError: `fn` cannot be called, `iterable` is none, or `limit` is no number from 1 up.

    Example:
        >>> from itertools import count
        >>> from plait import pmap
        >>> squares = pmap(lambda n: n * n, count(), limit=3)
        >>> [next(squares) for _ in range(5)]
        [0, 1, 4, 9, 16]
        >>> squares.close()
    """
    if misplaced or unknown:
        raise refused(
            "pmap",
            misplaced,
            unknown,
            "it takes a function, one iterable and, by name, limit and ordered, as in pmap(fn, items, limit=8); for two "
            "iterables write pmap(lambda pair: fn(*pair), zip(xs, ys))",
        )
    if not callable(fn):
        raise TypeError(f"pmap needs something to call, not {fn!r}: write pmap(fn, items), not pmap(fn(x), items)")
    if limit is None:
        limit = _LIMIT
    elif isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit must be a whole number or None, not {limit!r}")
    elif limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}: with none nothing could ever run")
    return _mapped(fn, iter(iterable), limit, ordered=ordered)


def _mapped(fn: Callable[[S], T], items: Iterator[S], limit: int, *, ordered: bool) -> Generator[T, None, None]:
    host = _Host("pmap")
    arrivals = _Arrivals()
    in_order: deque[Future[T]] = deque()
    at_work = 0
    is_exhausted = False
    refusal: Exception | None = None
    try:
        while True:
            host.calls.verify_here()
            while at_work < limit and not is_exhausted and host.calls.group.exception is None:
                try:
                    item = next(items)
                except StopIteration:
                    is_exhausted = True
                    break
                try:
                    future = host.calls.spawn(item, fn, item)
                except (GroupFailed, GroupClosed) as error:
                    # A call has failed just now: its future says so below. Or the group around is over or cancelled.
                    refusal, is_exhausted = error, True
                    break
                at_work += 1
                if ordered:
                    in_order.append(future)
                else:
                    future.add_done_callback(arrivals.put)
            if not at_work:
                if refusal is not None:
                    check_first(current_thread())
                    raise refusal
                return
            if ordered:
                future = in_order.popleft()
                _lending(future.wait_done, _offer)
            else:
                future = _lending(arrivals.take, _offer)
            at_work -= 1
            if host.calls.group.exception is not None:
                host.close()
                if host.failure is not None:
                    raise host.failure
            yield future.result()
    except BaseException as error:
        host.close()
        host.tell(error)
        raise
    finally:
        host.close()
