"""ThreadGroup: threads that cannot outlive a block, and fail together.

Life of a group, and who brings it about:

    NEW     -> OPEN      # __enter__                                                 the owner
    OPEN    -> CANCELLED # a child fails, the body fails, cancel(), the deadline, an outer scope    any thread
    any     -> JOINING   # the body is over; __exit__ waits for the children        the owner
    JOINING -> CLOSED    # body and children are done: nothing can enter any more   whoever is last

Whether it is cancelled is asked of its scope; who is inside is counted by `Container.inside`, which starts with the
body and closes for good at zero, so a spawn either is counted in before the group closes or fails.

The join is in `_joining.py`.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Never, ParamSpec, Self, TypeVar, overload

from plait._arguments import exact, refused
from plait._core import (
    GRACE,
    Parker,
    Verdict,
    VirtualThread,
    check_entry,
    check_park,
    check_seconds,
    current_thread,
    end_inside,
    excuse,
    is_cancelled,
    is_under,
    left_open,
    now,
    pending,
    without_cancelled,
)
from plait._core._container import Container
from plait._core._runtime import launch
from plait._errors import Cancelled
from plait._failures import OnError, check_on_error, class_of, note_failures, verdict_of
from plait._futures import Future
from plait._group_scope import GroupScope
from plait._joining import BARE, join, keep_count, times_pressed
from plait._limits import Limiter, slots_for
from plait._native import _native
from plait._options import Options
from plait._rebinding import is_development
from plait._spawning import checked, spawn_daemon, spawn_slowly, try_spawn, verify_group
from plait._starts import start
from plait._statistics import GroupStatistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from contextvars import Context
    from types import TracebackType

    from plait._core import Scope
    from plait._starts import Started

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")

_serials = count(1)
_OPTIONS = (
    "it takes max_concurrency, timeout, grace, on_error and name, and max_concurrency is how many children may be at work "
    "at a time"
)
_SPAWN_OPTIONS = "it takes name, context and on; a time limit goes into the function, or into ThreadGroup(timeout=5)"


def _spawn(group: ThreadGroup, fn: Callable[..., T], args: tuple[Any, ...]) -> Future[T]:
    """As `ThreadGroup.spawn`, without keywords."""
    return _spawn_with(group, fn, args, None)


def _spawn_with(
    group: ThreadGroup, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any] | None
) -> Future[T]:
    """As `ThreadGroup.spawn`."""
    if not isinstance(group, Container) or not callable(fn) or is_development:
        verify_group(group, "spawn")
        fn = checked(fn, "spawn")
    child = launch(group, Future, fn, args, kwargs)
    return child if child is not None else spawn_slowly(group, fn, args, kwargs)


class ThreadGroup(Container):
    """A block whose threads end with it. A context manager; each group is used once.

    Threads spawned into the group run concurrently; the end of the block waits for all of them. If one fails, or the
    body does, the others are cancelled wherever they wait, the body included, nothing more can be spawned, and the
    block raises.

    Any thread, virtual or platform, may open one; any thread may spawn into it while it is open. Its end is a cancel
    point once the children are done.

    `ThreadGroup.current` is the innermost group that the calling thread has open; where it has none, the group that it was
    spawned in; else the background group of `plait.spawn`. It goes by the thread and is no context variable: the threads of
    executors and others of `threading` do not inherit it, and coroutines see what the thread that runs their loop has open.

    Args:
        max_concurrency: How many children may be started and unfinished at a time; `spawn` blocks while there are so
            many. A `Limiter` is shared with whoever else uses it. None: no limit.
        timeout: Seconds after which the group is cancelled, counted from entry; the block then raises `TimeoutError`.
        grace: Seconds that clean-up in a cancelled thread may take before its waits are interrupted again.
        on_error: What becomes of a failure. "cancel": it cancels all others, and the block raises. "collect": all run
            on, the block raises what has failed at its end. A function `(future, exception)`, called on the thread that
            has failed, answers "cancel", "ignore" (the failure is the future's alone) or "restart" (the call is made
            once more, with the same arguments). It may wait, between two attempts say. It is asked about cancelled
            threads, too, as part of their clean-up, but those are not restarted: such a failure is dropped, unless the
            group has others. What is no `Exception` cancels in any case, and so does a failure of the function.
        name: For messages and dumps.

    Raises (by the end of the block):
        ExceptionGroup: what children and body raised, each exception once (`BaseExceptionGroup` where needed).
        KeyboardInterrupt, SystemExit: bare, after all children have ended.
        TimeoutError: `timeout` has passed, and nothing else failed.

    Example:
        >>> import time
        >>> from plait import ThreadGroup
        >>> with ThreadGroup(max_concurrency=2) as group:
        ...     futures = [group.spawn(time.sleep, 0.001) for _ in range(10)]
        >>> all(future.done() for future in futures)
        True
    """

    __slots__ = (
        "__weakref__",
        "_failures",
        "_is_body_over",
        "_name",
        "_on_error",
        "_scope",
        "_timeout",
    )

    current: ClassVar[ThreadGroup]  # computed for the calling thread: see _default.py
    after_its_end: ClassVar[str] = "Spawn inside its block, or into one further out"  # what to do instead

    @exact
    def __init__(
        self,
        *misplaced: Never,
        max_concurrency: int | Limiter | None = None,
        timeout: float | None = None,
        grace: float = GRACE,
        on_error: OnError = "cancel",
        name: str | None = None,
        **unknown: Never,
    ) -> None:
        if misplaced:
            raise TypeError(
                f"ThreadGroup takes its options by name: write ThreadGroup(max_concurrency={misplaced[0]!r}), not "
                f"ThreadGroup({misplaced[0]!r})"
            )
        if unknown:
            raise refused("ThreadGroup", misplaced, unknown, _OPTIONS)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {name!r}")
        self._scope = GroupScope(self, check_seconds(grace, "grace"))
        super().__init__(self._scope, slots_for(max_concurrency))
        self._on_error = check_on_error(on_error)
        self.is_supervised = callable(on_error)
        self._timeout = None if timeout is None else check_seconds(timeout, "timeout")
        self._scope.is_time_limit = timeout is not None
        self._name = name
        self._is_body_over = False  # written by the owner
        self._failures: dict[int, BaseException] | None = None  # each once, in the order they came. Under members_lock

    def __repr__(self) -> str:
        return f"<ThreadGroup {self.name!r}>"

    @property
    def name(self) -> str:
        """The name given, or one made up."""
        if self._name is None:
            self._name = f"group-{next(_serials)}"
        return self._name

    @property
    def limit(self) -> int | None:
        """`max_concurrency`."""
        return None if self.slots is None else self.slots.get_limit()

    @property
    def available(self) -> int | None:
        """How many children could be spawned now without waiting; None if there is no limit."""
        return None if self.slots is None else self.slots.count_free()

    @property
    def exception(self) -> BaseException | None:
        """The first failure, once the group is cancelled for it (at once where failures are collected)."""
        if self.scope.cancelled_at is None and self._on_error != "collect":
            return None
        with self.members_lock():
            return next(iter(self._failures.values())) if self._failures else None

    def __len__(self) -> int:
        """How many children are unfinished now."""
        return max(0, int(self.inside.count()) - (not self._is_body_over))

    def __bool__(self) -> bool:
        """A group is true, empty or not."""
        return True

    def statistics(self) -> GroupStatistics:
        """What the group is doing now, as a frozen value. Any thread; never waits.

        The numbers are read one after the other, while others go on.

        Example:
            >>> import threading
            >>> from plait import ThreadGroup
            >>> gate = threading.Event()
            >>> with ThreadGroup(max_concurrency=4) as group:
            ...     future = group.spawn(gate.wait)
            ...     seen = group.statistics()
            ...     gate.set()
            >>> seen.children, seen.limit, group.statistics().available
            (1, 4, 4)
        """
        return GroupStatistics(
            name=self.name,
            children=len(self),
            daemons=self.count_daemons(),
            parked=sum(thread.waits_for is not None for thread in self.members()),
            limit=self.limit,
            available=self.available,
            waiting=None if self.slots is None else self.slots.count_waiting(),
            failures=len(self._failures or ()),
            is_cancelled=pending(self.scope) is not None,
        )

    # ---- spawning

    def spawn(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a virtual thread of this group; its future.

        Any thread may call it while the block is open. A cancel point; waits while `max_concurrency` children are at
        work. A child that spawns into its own full group lets the new one go first: it must hold no lock of `threading`
        that this needs, nor have anything else that this waits for.
        The child starts with a copy of the caller's context variables. If the group is cancelled before the child
        has started, it never runs, and its future is cancelled.

        Raises:
            TypeError: `fn` cannot be called.
            Cancelled: the caller was cancelled, as all who belong to the group are when that is.
            GroupFailed: the caller was not, and the group has failed or was cancelled.
            GroupClosed: the block has ended.
            RuntimeError: the block has not begun.
        """
        return _spawn_with(self, fn, args, kwargs)

    def try_spawn(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T] | None:
        """As `spawn`, if there is a free slot now; else None. A cancel point; never waits.

        Example:
            >>> import threading
            >>> from plait import ThreadGroup
            >>> gate = threading.Event()
            >>> with ThreadGroup(max_concurrency=1) as group:
            ...     first = group.try_spawn(gate.wait)
            ...     second = group.try_spawn(gate.wait)
            ...     gate.set()
            >>> first.done(), second
            (True, None)
        """
        verify_group(self, "try_spawn")
        return try_spawn(self, fn, args, kwargs)

    def spawn_daemon(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` beside the others: a heartbeat, a watcher. It is cancelled when all others are done.

        The block does not wait for it to end by itself, only for its clean-up. It takes no slot of `max_concurrency`;
        its failure fails the group. Otherwise as `spawn`. A cancel point; never waits.

        Example:
            >>> import time
            >>> from plait import ThreadGroup
            >>> with ThreadGroup() as group:
            ...     heart = group.spawn_daemon(time.sleep, 3600)
            ...     work = group.spawn(time.sleep, 0.001)
            >>> heart.cancelled()
            True
        """
        verify_group(self, "spawn_daemon")
        return spawn_daemon(self, fn, args, kwargs)

    @overload
    def start(self, fn: Callable[Concatenate[Started[V], P], Any], /, *args: P.args, **kwargs: P.kwargs) -> V: ...

    @overload
    def start(
        self, fn: Callable[Concatenate[Callable[[V], None], P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> V: ...

    @overload
    def start(
        self, fn: Callable[Concatenate[Callable[[], None], P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...

    def start(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Spawn `fn(started, *args, **kwargs)`, and wait until it calls `started(value)`; that value.

        For threads that others need ready: a server that listens, a connection that stands. The thread goes on after
        that as one of the group. A cancel point; a caller who is cancelled cancels the thread.

        Raises:
            Exception: what `fn` raised before it called `started`, to callers outside the group; those inside get the
                `Cancelled` of the group, which has failed.
            concurrent.futures.CancelledError: the thread was cancelled before that.
            RuntimeError: it has ended without calling `started`.
            TypeError, Cancelled, GroupFailed, GroupClosed: as `spawn`.

        Example:
            >>> import socket
            >>> from plait import ThreadGroup
            >>> def serve(started):
            ...     with socket.create_server(("127.0.0.1", 0)) as server:
            ...         started(server.getsockname())
            ...         server.accept()[0].close()
            >>> with ThreadGroup() as group:
            ...     address = group.start(serve)
            ...     socket.create_connection(address).close()
        """
        verify_group(self, "start")
        return start(self, checked(fn, "start"), args, kwargs)

    @exact
    def options(  # noqa: D417 - what it refuses is no argument of its own
        self,
        *misplaced: Never,
        name: str | None = None,
        context: Context | None = None,
        on: Executor | None = None,
        **unknown: Never,
    ) -> Options:
        """The ways to spawn into this group, with options: `group.options(name="reader").spawn(read, file)`.

        Args:
            name: The thread's name as it stands, for messages and dumps; else its function's name with a number.
            context: The context that the thread runs in, as it is, for one thread at a time; else a copy of the
                spawner's.
            on: Any `concurrent.futures.Executor`: the call runs there, while the thread of the group waits for it under
                the rules of `offload`. Limits, failures and cancellation are the group's as ever. The executor must
                outlive the block, since that thread submits the call, once it runs: open it outside.

        Raises:
            TypeError: an option is of the wrong kind.

        Example:
            >>> from plait import ThreadGroup
            >>> with ThreadGroup() as group:
            ...     future = group.options(name="squarer").spawn(pow, 7, 2)
            >>> future.name, future.result()
            ('squarer', 49)
        """
        if misplaced or unknown:
            raise refused("ThreadGroup.options", misplaced, unknown, _SPAWN_OPTIONS)
        return Options(self, name, context, on)

    # ---- ending

    def cancel(self, reason: object = None, *, grace: float | None = None) -> None:
        """Cancel the body and all children, quietly: the block then ends without an error of its own.

        Any thread; never waits. `grace`: seconds for clean-up, instead of the group's own.

        Of a group that is cancelled already, for whatever reason, which stays as it is, `grace` can shorten the clean-up: it
        is over so many seconds from now, unless it is to be sooner. What a shield from outside of clean-up holds goes on.

        Example:
            >>> import time
            >>> from plait import ThreadGroup
            >>> def work():
            ...     try:
            ...         time.sleep(3600)
            ...     finally:
            ...         time.sleep(60)  # polite, and slow
            >>> with ThreadGroup(grace=3600) as group:
            ...     future = group.spawn(work)
            ...     time.sleep(0.001)
            ...     group.cancel()
            ...     group.cancel(grace=0.01)
            >>> future.cancelled()
            True
        """
        if grace is not None:
            grace = check_seconds(grace, "grace")
        is_first = self.scope.cancel_scope("the group was cancelled" if reason is None else reason, self, grace)
        if not is_first and grace is not None:
            self.scope.cut_grace(grace)

    def abandon(self) -> None:
        """After fork, in the child: the group is empty here."""
        if self.owner is not current_thread():
            self._is_body_over = False  # who has forked stands for it
        super().abandon()
        if self._is_body_over:  # a signal handler has forked, in the join
            self.inside.leave()
        if self.slots is not None:
            self.slots.reset()

    def judge(self, thread: VirtualThread, error: Exception) -> Verdict:
        """Ask the function that was given as `on_error`."""
        try:
            verdict = verdict_of(self._on_error(thread, error), self)  # type: ignore[operator, arg-type]
            if thread.scope is not thread:
                raise left_open("on_error", thread.scope)
            if verdict is Verdict.RESTART:
                thread.yield_now()  # a call that fails at once, again and again, would keep all others from running
                if pending(thread) is not None:
                    return self._overtaken()
            return verdict
        except BaseException as raised:  # noqa: BLE001 - it leaves through the group, beside what it was asked about
            failure = without_cancelled(raised if thread.scope is thread else end_inside(thread, thread, raised))
            if failure is None:
                return self._overtaken()
            self._fail(failure, f"on_error failed: {class_of(failure)}")
            return Verdict.CANCEL

    def _overtaken(self) -> Verdict:
        """A cancel has come while it was asked what to do: there is no further attempt.

        What was going to be put right is no failure of a group that is cancelled quietly; beside others it is one.
        """
        return Verdict.CANCEL if self._failures else Verdict.IGNORE

    def child_failed(self, thread: VirtualThread, error: BaseException) -> None:
        """Keep the failure, and cancel everybody else."""
        self._fail(error, f"{thread.name!r} failed: {class_of(error)}")

    def keep_failure(self, error: BaseException) -> None:
        """It is to leave the block."""
        first: dict[int, BaseException] = {}  # not under the lock: the collector may run where it is made
        with self.members_lock():
            if self._failures is None:
                self._failures = first
            self._failures.setdefault(id(error), error)

    def has_failures(self) -> bool:
        """Whether something has failed that is to leave the block."""
        return bool(self._failures)

    def _fail(self, error: BaseException, reason: str) -> None:
        self.keep_failure(error)
        if self._on_error != "collect" or not isinstance(error, Exception):
            self.scope.cancel_scope(reason, self)
            self._scope.wake_owner()

    def __enter__(self) -> Self:
        """Begin: the calling thread is the owner, and its body a member."""
        if self.owner is not None:
            raise RuntimeError(f"{self!r} was entered before: a group is used once, make a new one")
        self.owner = self._scope.enter(None if self._timeout is None else now() + self._timeout)
        return self

    # It may end an error quietly, the `Cancelled` of its own cancel. Type checkers that are told `bool` take what follows
    # a `return` in such a block for reachable, and refuse most functions with a group in them.
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Wait for the children, then say what failed."""
        me = current_thread()
        if me.scope is not self.scope:
            misuse = self._misplaced(me)
            if me is not self.owner or not is_under(me.scope, self.scope):
                self.scope.cancel_scope("its block was ended out of place", self)
                raise misuse
            error = end_inside(me, self.scope, error or misuse)
        rest = self._scope.rest_of(error)
        is_own = rest is None and error is not None
        is_cut = False
        try:
            interrupt, times = self._end_children(me, error, rest)
            # Asked again: if a scope further out was cancelled during the join, what the body was told goes on to that one.
            # Not after `leave`: a block that was opened in clean-up hides what that is for.
            outermost = pending(self.scope)
            is_own = is_own and outermost is self.scope
            is_cut = outermost is not None and outermost is not self.scope
        finally:
            self._scope.leave(is_own)
        first = error if isinstance(error, KeyboardInterrupt) else interrupt
        if first is not None:
            keep_count(first, times)
        return self._conclude(me, error, interrupt, is_own=is_own, is_cut=is_cut)

    def _end_children(
        self, me: Parker, error: BaseException | None, rest: BaseException | None
    ) -> tuple[BaseException | None, int]:
        """The body has ended by `error`, `rest` without its own cancellation: wait for the children, as `join`."""
        interrupt: BaseException | None = None
        failure: BaseException | None = None
        try:
            self._judge_body(rest)
        except MemoryError as failed:
            failure = failed
        times = times_pressed(error)
        self._is_body_over = True
        if not self.inside.leave():
            return join(self, me, times, failure)
        if self._outsiders is not None:
            self.turn_away()
        if failure is not None:
            raise failure
        return interrupt, times

    def _judge_body(self, error: BaseException | None) -> None:
        """The body has ended by `error`, its own cancellation left out: have the children hear of it, if they shall."""
        if error is None:
            return
        if without_cancelled(error) is None and is_cancelled(self.scope):
            # On its way to the scope that was cancelled. If a shield hides that, the body alone has been told, by a spawn
            # into a group outside; the children hear of it now.
            if pending(self.scope) is None:
                self.scope.cancel_scope("the body was cancelled", self)
        else:
            self._fail(error, f"the body failed: {type(error).__name__}")

    def _misplaced(self, me: Parker) -> BaseException:
        """What to raise if the block ends where it must not; or what a signal handler raises meanwhile, for the same."""
        try:
            return RuntimeError(
                f"the block of {self!r} must end on the thread that began it, and after the scopes inside it: it was "
                f"begun by {self.owner!r}, and the innermost scope of {me!r} is {me.scope!r}"
            )
        except BaseException as error:  # noqa: BLE001 - repr() lets handlers run
            return error

    def end_inside(self, me: Parker, outer: Scope, error: BaseException) -> BaseException:
        """As the function of that name."""
        return end_inside(me, outer, error)

    def end_block(self, error: BaseException) -> BaseException:
        """What a block around this one, which ends first, has to do with it."""
        try:
            self.__exit__(type(error), error, None)
        except BaseException as failed:  # noqa: BLE001 - it leaves through the block around
            return failed
        return error

    def _conclude(
        self, me: Parker, error: BaseException | None, interrupt: BaseException | None, *, is_own: bool, is_cut: bool
    ) -> bool:
        """Raise what leaves the block; otherwise whether `error` ends here.

        `is_cut`: a scope further out was cancelled. Where the block was opened in clean-up, the grace of that is over: the
        children may not have done what they were to do.
        """
        failures = list(self._failures.values()) if self._failures else []
        bare = error if isinstance(error, KeyboardInterrupt) else interrupt  # the first Ctrl-C
        bare = bare or next((e for e in failures if isinstance(e, BARE)), None)
        if error is not bare and (bare is not None or failures):
            excuse(me, error)
        if bare is not None:
            others = [failure for failure in failures if failure is not bare]
            if others:
                note_failures(bare, self, others)
            if bare is error:
                return False
            raise bare
        if len(failures) == 1 and failures[0] is error and isinstance(error, GeneratorExit):
            return False  # a generator that is closed inside its block: close() must get it back
        if self._scope.has_expired:
            late = TimeoutError(f"{self!r} has not ended within {self._timeout} seconds")
            if failures:
                failures.append(late)
            elif not is_cut:
                raise late from None
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} failed in {self!r}", failures) from None
        if error is None and me.scope is not None:
            check_entry(me)
            if is_cut and self._scope.is_shield and isinstance(cancelled := check_park(me), Cancelled):
                raise cancelled
        return is_own


_native.take_positionals(ThreadGroup.spawn, _spawn)
