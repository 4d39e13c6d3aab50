"""ThreadGroup: threads that cannot outlive a block, and fail together.

Life of a group, and who brings it about:

    NEW     -> OPEN      # __enter__                                                 the owner
    OPEN    -> CANCELLED # a child fails, the body fails, cancel(), the deadline, an outer scope    any thread
    any     -> JOINING   # the body is over; __exit__ waits for the children        the owner
    JOINING -> CLOSED    # body and children are done: nothing can enter any more   whoever is last

Whether it is cancelled is asked of its scope; who is inside is counted by `Container.inside`, which starts with the
body and closes for good at zero, so a spawn either is counted in before the group closes or fails.

The join (its protocol: `_core/_container.py`) cannot be cancelled: an outer cancel has reached the children already,
and the group has nothing to do but to wait for them.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, ParamSpec, Self, TypeVar

from plait._core import (
    GRACE,
    Container,
    DeadlineScope,
    Lock,
    Parker,
    VirtualThread,
    WaitReason,
    check_entry,
    check_seconds,
    close_scope,
    current_thread,
    deliver,
    is_under,
    launch,
    now,
    park_shielded,
    pending,
    start_child,
)
from plait._errors import Cancelled, GroupClosed, GroupFailed
from plait._futures import Future
from plait._limits import Slots

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")

_serials = count(1)

# How often Ctrl-C must come during a join until it is left, children or not.
_INTERRUPTS = 3


class GroupScope(DeadlineScope):
    """The scope of a group; knows it for messages and for `ThreadGroup.current`."""

    __slots__ = ("group",)

    def __init__(self, group: ThreadGroup, grace: float) -> None:
        super().__init__(grace, group)
        self.group = group

    def __repr__(self) -> str:
        return repr(self.group)


class ThreadGroup(Container):
    """A block whose threads end with it. A context manager; each group is used once.

    Threads spawned into the group run concurrently; the end of the block waits for all of them. If one fails, or the
    body does, the others are cancelled wherever they wait, the body included, nothing more can be spawned, and the
    block raises.

    Any thread, virtual or platform, may open one; any thread may spawn into it while it is open. Its end is a cancel
    point once the children are done.

    Args:
        max_concurrency: How many children may be started and unfinished at a time; `spawn` blocks while there are so
            many. None: no limit.
        timeout: Seconds after which the group is cancelled, counted from entry; the block then raises `TimeoutError`.
        grace: Seconds that clean-up in a cancelled thread may take before its waits are interrupted again.
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

    current: ClassVar[ThreadGroup]  # computed for the calling thread: see _default.py

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        timeout: float | None = None,
        grace: float = GRACE,
        name: str | None = None,
    ) -> None:
        self._scope = GroupScope(self, check_seconds(grace, "grace"))
        self._slots = None if max_concurrency is None else Slots(_check_limit(max_concurrency))
        super().__init__(self._scope, self._slots)
        self._timeout = None if timeout is None else check_seconds(timeout, "timeout")
        self._name = name
        self._is_body_over = False  # written by the owner
        self._lock = Lock()
        self._failures: dict[int, BaseException] = {}  # each once, in the order they came. Written under _lock

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
        return None if self._slots is None else self._slots.limit

    @property
    def available(self) -> int | None:
        """How many children could be spawned now without waiting; None if there is no limit."""
        return None if self._slots is None else self._slots.available

    @property
    def exception(self) -> BaseException | None:
        """The first failure, once the group is cancelled for it."""
        if self.scope.cancelled_at is None:
            return None
        with self._lock:
            return next(iter(self._failures.values()), None)

    def __len__(self) -> int:
        """How many children are unfinished now."""
        return max(0, int(self.inside.count()) - (not self._is_body_over))

    def __bool__(self) -> bool:
        """A group is true, empty or not."""
        return True

    # ---- spawning

    def spawn(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` on a virtual thread of this group; its future.

        Any thread may call it while the block is open. A cancel point; waits while `max_concurrency` children are at
        work. The child starts with a copy of the caller's context variables. If the group is cancelled before the child
        has started, it never runs, and its future is cancelled.

        Raises:
            TypeError: `fn` cannot be called.
            Cancelled: the caller belongs to this group, and the group was cancelled.
            GroupFailed: the caller does not, and the group has failed or was cancelled.
            GroupClosed: the block has ended.
            RuntimeError: the block has not begun.
        """
        if not callable(fn):
            raise _not_callable(fn, "spawn")
        child = launch(self, Future, fn, args, kwargs)
        return child if child is not None else self._spawn_slowly(fn, args, kwargs)

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
        if not callable(fn):
            raise _not_callable(fn, "try_spawn")
        child = launch(self, Future, fn, args, kwargs)
        if child is None and (self.owner is None or pending(self.scope) is not None or not self.inside.count()):
            self._refuse(current_thread())
        return child

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
        if not callable(fn):
            raise _not_callable(fn, "spawn_daemon")
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        child: Future[T] | None = None
        if self.owner is not None and pending(self.scope) is None:
            child = start_child(self, Future, me, fn, args, kwargs, is_daemon=True)
        if child is None:
            self._refuse(me)
        return child

    def _spawn_slowly(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[T]:
        """Wait for a slot, or say why nothing can be spawned."""
        me = current_thread()
        slots = self._slots
        if slots is None or self.owner is None or pending(self.scope) is not None:
            self._refuse(me)
        is_member = isinstance(me, VirtualThread) and me.group is self and not me.is_daemon
        if not is_member:
            slots.take(me)
            if pending(self.scope) is not None:
                slots.release()
                self._refuse(me)
        # A member hands its own slot to the child, and goes on when it has one again.
        child: Future[T] | None = start_child(self, Future, me, fn, args, kwargs)
        if child is None:
            self._refuse(me)
        if is_member:
            slots.take_back(me)
        return child

    def _refuse(self, me: Parker) -> NoReturn:
        """Say why nothing can be spawned."""
        if self.owner is None:
            raise RuntimeError(f"{self!r} has not begun: spawn inside `with ThreadGroup() as group:`")
        if not self.inside.count():
            raise GroupClosed(f"{self!r} has ended: nothing can be spawned into it any more")
        scope = pending(self.scope)
        assert scope is not None
        if is_under(me.scope, self.scope):
            raise deliver(me, scope)
        raise GroupFailed(
            f"{self!r} was cancelled ({scope.cancel_reason}): nothing can be spawned into it any more"
        ) from self.exception

    # ---- ending

    def cancel(self, reason: object = None, *, grace: float | None = None) -> None:
        """Cancel the body and all children, quietly: the block then ends without an error of its own.

        Any thread; never waits. `grace`: seconds for clean-up, instead of the group's own.
        """
        if grace is not None:
            grace = check_seconds(grace, "grace")
        self.scope.cancel_scope("the group was cancelled" if reason is None else reason, self, grace)

    def abandon(self) -> None:
        """After fork, in the child: the group is empty here."""
        super().abandon()
        if self._slots is not None:
            self._slots.reset()

    def child_failed(self, thread: VirtualThread, error: BaseException) -> None:
        """Keep the failure, and cancel everybody else."""
        self._fail(error, f"{thread.name!r} failed: {type(error).__name__}")

    def _fail(self, error: BaseException, reason: str) -> None:
        with self._lock:
            self._failures.setdefault(id(error), error)
        self.scope.cancel_scope(reason, self)

    def __enter__(self) -> Self:
        """Begin: the calling thread is the owner, and its body a member."""
        if self.owner is not None:
            raise RuntimeError(f"{self!r} was entered before: a group is used once, make a new one")
        self.owner = self._scope.enter(None if self._timeout is None else now() + self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Wait for the children, then say what failed."""
        me = current_thread()
        if me.scope is not self.scope:
            misuse = RuntimeError(
                f"the block of {self!r} must end on the thread that began it, and after the scopes inside it: it was "
                f"begun by {self.owner!r}, and the innermost scope of {me!r} is {me.scope!r}"
            )
            if me is not self.owner or not is_under(me.scope, self.scope):
                raise misuse
            error = self._end_inside(me, error or misuse)
        is_own = self._scope.absorbs(error)
        if error is not None and not (isinstance(error, Cancelled) and pending(self.scope) is not None):
            self._fail(error, f"the body failed: {type(error).__name__}")
        interrupt = None
        self._is_body_over = True
        if not self.inside.leave():
            self.dismiss_daemons()
            interrupt = self._join(me)
        self._scope.leave()
        return self._conclude(me, error, interrupt, is_own=is_own)

    def _end_inside(self, me: Parker, error: BaseException) -> BaseException:
        """End the scopes that were left open inside this one, by a suspended generator say: no child may outlive them.

        Gives what leaves them: `error`, or what a group among them makes of it.
        """
        while (inner := me.scope) is not self.scope:
            if isinstance(inner, GroupScope):
                try:
                    inner.group.__exit__(type(error), error, None)
                except BaseException as failed:  # noqa: BLE001 - it leaves through this group
                    error = failed
            elif isinstance(inner, DeadlineScope):
                inner.leave()
            else:
                close_scope(inner)  # type: ignore[arg-type]  # a shield
        return error

    def _join(self, me: Parker) -> BaseException | None:
        """Wait for the children, whatever happens; the first KeyboardInterrupt that came meanwhile."""
        interrupt: BaseException | None = None
        times = 0
        while True:
            try:
                epoch = me.arm(True)
                self.joining = epoch
                if not self.inside.count():
                    me.withdraw()
                    return interrupt
                park_shielded(me, epoch, WaitReason.GROUP)
            except BaseException as error:  # noqa: BLE001 - a signal handler's, in the main thread
                interrupt = interrupt or error
                times += 1
                self.scope.cancel_scope(type(error).__name__, self)
                if times == _INTERRUPTS:
                    return interrupt

    def _conclude(
        self, me: Parker, error: BaseException | None, interrupt: BaseException | None, *, is_own: bool
    ) -> bool:
        """Raise what leaves the block; otherwise whether `error` ends here."""
        failures = list(self._failures.values())
        bare = interrupt or next((e for e in failures if isinstance(e, (KeyboardInterrupt, SystemExit))), None)
        if bare is not None:
            others = [failure for failure in failures if failure is not bare]
            if others:
                bare.add_note(f"{self!r} also failed with " + ", ".join(map(repr, others)))
            if bare is error:
                return False
            raise bare
        if self._scope.has_expired:
            late = TimeoutError(f"{self!r} has not ended within {self._timeout} seconds")
            if not failures and pending(me.scope) is None:
                raise late from None
            failures.append(late)
        if failures and not (self._scope.has_expired and len(failures) == 1):
            raise BaseExceptionGroup(f"{len(failures)} failed in {self!r}", failures) from None
        if error is None and me.scope is not None:
            check_entry(me)
        return is_own


def _not_callable(fn: object, caller: str) -> TypeError:
    return TypeError(f"{caller} needs something to call, not {fn!r}: write {caller}(fn, x), not {caller}(fn(x))")


def _check_limit(limit: object) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"max_concurrency must be a whole number or None, not {limit!r}")
    if limit < 1:
        raise ValueError(f"max_concurrency must be at least 1, not {limit}: with none nothing could ever run")
    return limit
