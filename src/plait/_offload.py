"""offload: calls that cannot be made to park, run elsewhere while the caller parks: on plait's pool, or on any executor.

Leaving. A caller that is cancelled while it waits
    1. takes the call back, if it has not begun: then it never runs, and nothing else happens;
    2. calls `on_cancel`, which ends the call from outside, if it can;
    3. waits for the call until the grace is over: as clean-up, while the `Cancelled` just raised is alive;
    4. if the call still runs, abandons it, and says so.
The outcome of a call that ends in step 2 or 3 is dropped: its caller is cancelled. The outcome of one that has ended
before the cancel won the wait is the caller's, and the cancel comes at the next point.

How caller and call meet is in `_core/_offload.py`. A call on an executor is a job there, too, one that begins
elsewhere, and that the callback of its future finishes. The job does not know the future, which keeps its callbacks.
"""

from __future__ import annotations

import concurrent.futures
import logging
import sys
import traceback
from dataclasses import dataclass
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeVar, TypeVarTuple

from plait._arguments import exact, refused
from plait._core import (
    GRACE,
    OffloadJob,
    VirtualThread,
    check_entry,
    current_thread,
    now,
    refuse_coroutine,
    runtime,
    without_cancelled,
)
from plait._errors import Cancelled
from plait._native import caller_code, caller_offset, copied_context, line_at
from plait._scopes import shield

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core import Offload, Parker

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_log = logging.getLogger("plait")


@exact
def offload(  # noqa: D417 - what it refuses is no argument of its own
    fn: Callable[[*Ts], T],
    /,
    *args: *Ts,
    on_cancel: Callable[[], object] | None = None,
    executor: concurrent.futures.Executor | None = None,
    **unknown: Never,
) -> T:
    """Call `fn(*args)` on a platform thread beside those that run virtual threads, and park until it is done; its result.

    For calls that block where plait cannot make them wait cooperatively: a C library that waits inside itself, a driver
    without a hook, a long computation in C. Without `offload` such a call holds up all virtual threads of its carrier.
    It sees a copy of the caller's context variables. The pool that runs it has up to 128 threads; more calls queue, and
    those that run must not wait for what one in the queue would do: give such calls an `executor` with threads enough.
    What plait's own functions leave to threads, such as the resolution of names, has others, and does not queue behind.

    A cancel point. If the caller is cancelled, a call that waits for a thread never runs. One that runs cannot be
    stopped by force: `on_cancel()` is called, on the cancelled thread, to end it from outside (close, kill, the
    `interrupt` of a sqlite3 connection; what that raises is logged), then the call has until the scope's grace is over.
    If it ends by then its outcome is dropped. If not it is *abandoned*, which the logger "plait" is told as a warning:
    it runs on until it ends by itself, and counts in `offload_statistics()`. `KeyboardInterrupt`, in the main thread,
    does the same, but waits only if there is an `on_cancel`.

    Any thread. With no scope around it, a platform thread cannot be cancelled.

    Args:
        fn: What to call.
        *args: Its arguments.
        on_cancel: Ends the call early; called at most once, without arguments, and only while the call may be running.
        executor: Run it there instead: any `concurrent.futures.Executor`. What it needs applies: a process pool needs
            arguments that can be pickled. Context variables reach the threads of a `ThreadPoolExecutor` alone.

    Raises:
        Cancelled: the caller was cancelled.
        TypeError: `fn` or `on_cancel` cannot be called, or `executor` is none.
        Everything that the call raises, as it is.

    Example:
        >>> import hashlib
        >>> from plait import offload
        >>> offload(hashlib.pbkdf2_hmac, "sha256", b"password", b"salt", 1000).hex()[:8]
        '632c2812'
    """
    if unknown:
        raise refused(
            "offload",
            (),
            unknown,
            "its own are on_cancel and executor. One of the function goes with that, as in offload(partial(fn, x, "
            "base=8)); a time limit goes around it, `with timeout(5):`",
        )
    if not callable(fn):
        raise TypeError(f"offload needs something to call, not {fn!r}: write offload(fn, x), not offload(fn(x))")
    if on_cancel is not None and not callable(on_cancel):
        raise TypeError(
            f"on_cancel must be something to call without arguments, or None, not {on_cancel!r}: write "
            f"on_cancel=connection.interrupt, not on_cancel=connection.interrupt()"
        )
    if executor is not None:
        return call_on(executor, fn, args, {}, on_cancel)
    me = current_thread()
    if me.scope is not None:
        check_entry(me)
    result: T = _await(me, _Pooled(me, fn, args), on_cancel)
    if type(result) is CoroutineType:
        refuse_coroutine(result, getattr(fn, "__qualname__", repr(fn)))
    return result


def call_on(
    executor: concurrent.futures.Executor,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    on_cancel: Callable[[], object] | None = None,
) -> T:
    """`fn(*args, **kwargs)` on `executor`, while the calling thread parks, under the rules of `offload`."""
    check_executor(executor, "executor")
    me = current_thread()
    if me.scope is not None:
        check_entry(me)
    return _await(me, _Submitted(me, executor, fn, args, kwargs), on_cancel)  # type: ignore[no-any-return]


def check_executor(executor: object, what: str) -> None:
    """Refuse what is no executor."""
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"{what} must be a concurrent.futures.Executor, something with a method submit(fn, ...), not {executor!r}"
        )


@dataclass(frozen=True)
class OffloadStatistics:
    """What `offload` and plait's own blocking calls are doing now.

    Attributes:
        workers: Threads that make such calls, those at abandoned ones not counted; up to 128 for either kind.
        idle: Those among them that wait for a call.
        queued: Calls that wait for a thread.
        abandoned: Calls that still run though nobody waits for them any more, on executors, too.
        abandoned_total: Calls of this process that have ever come to that.
    """

    workers: int
    idle: int
    queued: int
    abandoned: int
    abandoned_total: int


def offload_statistics() -> OffloadStatistics:
    """How many threads and calls there are beside the virtual threads, and how many were abandoned. Never waits.

    Example:
        >>> from plait import offload_statistics
        >>> offload_statistics().abandoned
        0
    """
    pools = runtime.offload, runtime.offload_for_programs
    return OffloadStatistics(*map(sum, zip(*(pool.counts() for pool in pools), strict=True)))


class _Call(Protocol):
    """A call that has been asked for, as its caller sees it."""

    def wait(self, me: Parker, deadline: float | None = None) -> bool:
        """Park until it has ended; False if the instant `deadline` comes first. A cancel point."""

    def outcome(self) -> Any:
        """What it has returned; raises what it has raised. Once."""

    def retract(self) -> bool:
        """Keep it from running, if it has not begun; whether it will not run any more."""

    def leave(self) -> bool:
        """Wait for it no more, and drop its outcome; whether it is abandoned, that is, runs on. Once."""

    def describe(self) -> str:
        """How long it has run, and where it is: the end of a sentence."""


def _await(me: Parker, call: _Call, on_cancel: Callable[[], object] | None) -> Any:
    """Wait for `call`, and leave it in good order; what it has returned."""
    try:
        call.wait(me)
    except BaseException as error:
        if call.retract():
            raise
        is_cancel = isinstance(error, Cancelled)
        # Other than a cancel this is a signal handler's: whoever presses Ctrl-C waits only for what has been told to end.
        deadline = None if is_cancel else now() + (GRACE if on_cancel is not None else 0.0)
        try:
            if on_cancel is not None:
                _call_back(on_cancel)
            call.wait(me, deadline)
        except BaseException as late:
            # The grace is over, or somebody is impatient. The latest Cancelled is the one that counts as alive.
            _leave(me, call)
            if not is_cancel and without_cancelled(late) is None:
                raise error from late
            raise late from None
        _leave(me, call)
        raise
    return call.outcome()


def _call_back(on_cancel: Callable[[], object]) -> None:
    try:
        on_cancel()
    except Exception:  # noqa: BLE001 - the caller is cancelled, and goes on with that
        _log.exception("on_cancel %r has failed: the call that it should have ended goes on", on_cancel)


def _leave(me: Parker, call: _Call) -> None:
    """Go, and say so if the call is abandoned."""
    if call.leave():
        code = caller_code()
        if code is not None:
            site = f"at {code.co_filename}:{line_at(code, caller_offset())}"
        elif isinstance(me, VirtualThread):
            site = f"spawned at {me.spawn_site}"
        else:
            site = "from no line of Python"
        _log.warning("abandoned a call that was offloaded by %r, %s: %s", me.name, site, call.describe())


class _Pooled:
    """A call on plait's own pool."""

    __slots__ = ("_job", "_name", "_pool")

    def __init__(self, me: Parker, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._name = _name_of(fn)
        self._pool: Offload = runtime.offload_for_programs
        self._job = OffloadJob(me, copied_context().run, (fn, *args))
        self._pool.submit(self._job)

    def wait(self, me: Parker, deadline: float | None = None) -> bool:
        return self._pool.wait(me, self._job, deadline)

    def outcome(self) -> Any:
        return self._job.outcome()

    def retract(self) -> bool:
        return self._pool.retract(self._job)

    def leave(self) -> bool:
        return self._pool.leave(self._job)

    def describe(self) -> str:
        job = self._job
        assert job.began is not None
        text = f"{self._name} has run for {now() - job.began:.1f} seconds, and has a thread of its own until it ends"
        if getattr(sys, "_is_gil_enabled", lambda: True)():  # else the thread may run on while its frames are read
            frame = sys._current_frames().get(job.worker)  # noqa: SLF001 - the only way
            if frame is not None:
                text += "; that is here:\n" + "".join(traceback.format_stack(frame)).rstrip()
        return text


class _Submitted:
    """A call on an executor."""

    __slots__ = ("_executor", "_future", "_job", "_name", "_pool")

    def __init__(
        self,
        me: Parker,
        executor: concurrent.futures.Executor,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._name = _name_of(fn)
        self._executor = repr(executor)
        self._pool: Offload = runtime.offload_for_programs
        if _keeps_context(executor):
            fn, args = copied_context().run, (fn, *args)
        try:
            if me.scope is None:
                future = executor.submit(fn, *args, **kwargs)
            else:
                # A cancel halfway would leave a call that nobody knows of: executors start threads here, and wait for
                # them.
                with shield(timeout=GRACE):
                    future = executor.submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if type(error) is RuntimeError and "after shutdown" in str(error):
                error.add_note(
                    "the thread that waits for a call submits it, once it runs: open an executor that a group's threads use "
                    "outside the group's block, so that it outlives them"
                )
            raise
        if not callable(getattr(future, "add_done_callback", None)):
            raise TypeError(f"{executor!r} is no executor: its submit() has given {future!r}, which is no future")
        self._future = future
        pool, job = self._pool, OffloadJob(me, fn, ())
        job.begin_elsewhere()
        self._job = job
        future.add_done_callback(lambda _: pool.finish(job))

    def wait(self, me: Parker, deadline: float | None = None) -> bool:
        return self._pool.wait(me, self._job, deadline)

    def outcome(self) -> Any:
        future = self._future
        del self._future
        try:
            return future.result()
        finally:
            del future  # a traceback holds this frame, and the future holds the error

    def retract(self) -> bool:
        self._future.cancel()
        return self._future.done()

    def leave(self) -> bool:
        return self._pool.leave(self._job)

    def describe(self) -> str:
        assert self._job.began is not None
        seconds = now() - self._job.began
        return f"{self._name} was submitted to {self._executor} {seconds:.1f} seconds ago, and runs on there"


def _keeps_context(executor: concurrent.futures.Executor) -> bool:
    """Whether `executor` calls in this interpreter, so that context variables can reach there."""
    elsewhere = getattr(concurrent.futures, "InterpreterPoolExecutor", ())  # a ThreadPoolExecutor, too
    return isinstance(executor, concurrent.futures.ThreadPoolExecutor) and not isinstance(executor, elsewhere)


def _name_of(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or repr(fn)
