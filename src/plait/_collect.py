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
from contextlib import suppress
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Never, TypeVar

from plait._arguments import exact, refused
from plait._arrivals import Arrivals, lending, offer
from plait._calls import Calls, Host, begun_elsewhere, is_amid
from plait._core import (
    Flag,
    check_first,
    check_seconds,
    current_thread,
    now,
    refuse_coroutine,
    whole_number,
    without_cancelled,
)
from plait._errors import GroupClosed, GroupFailed
from plait._futures import Future, drop_callback, lend_slot_among, limits_of, verify_coming
from plait._reprs import shortened
from plait._spawning import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping


S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound="concurrent.futures.Future[Any]")

_LIMIT = 64  # calls of pmap at a time, unless told otherwise


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
    futures: list[Future[T]] = []
    with Calls("gather") as calls:
        futures.extend(calls.spawn(fn, fn) for fn in fns)
    if len(futures) < len(fns):
        raise concurrent.futures.CancelledError("the gather was cancelled before all of its calls had been spawned")
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
    dropped, but for what is no `Exception`: the `SystemExit` of one that has lost is raised in place of the result. Raises `ValueError` without any function to call, and `TypeError` if one of `fns` cannot be called; then none
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

    with Calls("race") as calls:
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
    arrivals = Arrivals()
    arrived = arrivals.put  # the one object that stands with all futures
    lend = partial(lend_slot_among, limits_of(waiting), deadline=deadline)
    try:
        for future in waiting:
            future.add_done_callback(arrived)
        for count in range(len(waiting), 0, -1):
            if process != os.getpid():
                raise begun_elsewhere("as_completed")
            try:
                yield lending(lambda me: arrivals.take(me, deadline), lend, deadline)
            except TimeoutError:
                raise TimeoutError(f"{count} of {len(waiting)} futures are not done after {span} seconds") from None
    finally:
        for future in waiting:
            _forget(future, arrived)


def _forget(future: concurrent.futures.Future[Any], callback: Callable[[Any], object]) -> None:
    """Take `callback` off again. Never waits: where it would have to, the callback stays, and does no harm."""
    if is_amid():
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
    number = _LIMIT if limit is None else whole_number(limit)
    if number is None:
        raise TypeError(f"limit must be a whole number or None, not {limit!r}")
    if number < 1:
        raise ValueError(f"limit must be at least 1, not {number}: with none nothing could ever run")
    return _mapped(fn, iter(iterable), number, ordered=ordered)


def _mapped(fn: Callable[[S], T], items: Iterator[S], limit: int, *, ordered: bool) -> Generator[T, None, None]:
    host = Host("pmap")
    arrivals = Arrivals()
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
                host.close()
                return
            if ordered:
                future = in_order.popleft()
                lending(future.wait_done, offer)
            else:
                future = lending(arrivals.take, offer)
            at_work -= 1
            if host.calls.group.exception is not None:
                host.close()
            yield future.result()
    except BaseException as error:
        host.close(error)
        raise
