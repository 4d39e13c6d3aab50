"""VirtualThread: the scheduled unit, from its spawn to its end.

States (wait word and `stack` together say which), and who brings them about:

    NEW        -> UNSTARTED   # submit: in a carrier's queue of unstarted threads, may be stolen        unmounted
    UNSTARTED  -> MOUNTED     # a carrier takes it and mounts it on a stack: its carrier for ever       mounted
    UNSTARTED  -> ENDED       # its scope was cancelled first: it never runs, its arguments are dropped unmounted
    MOUNTED    -> PARKED      # park: armed, not claimed, another thread is at work on the carrier      unmounted
    PARKED     -> RUNNABLE    # claimed and put into its carrier's run queue: woken, timed out, nudged  unmounted
    RUNNABLE   -> MOUNTED     # the carrier switches to its stack                                       mounted
    MOUNTED    -> ENDED       # its function has returned or raised                                     unmounted

A virtual thread is the outermost scope of what it runs: cancelling that scope cancels this thread alone.

Outcome: `status`, with `result` or `error`, is stored before `settle()` and never changes after it. Whoever wants to be
told publishes a `Watchers` and then looks whether the thread has settled; the thread settles and then looks whether
there are watchers. Both sides have a full fence in between, so nobody is forgotten. `Future`, in the friendly layer,
is the subclass that people see: one object for thread and future, since every spawn makes both.
"""

from __future__ import annotations

import enum
from _imp import lock_held as import_is_locked
from contextvars import Context
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from plait._core._cancel import begin_clean_up, patiently
from plait._core._container import Container
from plait._core._parking import TIMED_OUT, Parker
from plait._core._tree import Victim, is_cancelled, pending, without_cancelled
from plait._errors import Cancelled
from plait._native import set_give_way
from plait._native._native import (
    RAISED,
    Timer,
    WaitWord,
    attempt,
    drop_leftovers,
    drop_locals,
    handle,
    has_leftovers,
    is_held_by,
    is_plain,
    label_of,
    line_at,
    mount,
    switch_to,
    take_raised,
    unmount,
    write_unraisable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    from plait._core._carrier import Carrier
    from plait._core._continuation import Stack
    from plait._core._timers import Target
    from plait._core._tree import Scope

# Drops what CPython's threading keeps under a thread's identity; filled by plait.patch, which gives identities out.
on_ident_end: list[Callable[[VirtualThread], None]] = []
# Tells those who wait for a lock that a thread has ended with; filled by the locks. Called on it; must not park.
on_holder_end: list[Callable[[VirtualThread], None]] = []

PENDING, SUCCEEDED, FAILED, CANCELLED = range(4)  # status
# For every thread: compiled, a name that others import costs a look-up each time.
_PENDING, _SUCCEEDED, _CANCELLED, _TIMED_OUT = PENDING, SUCCEEDED, CANCELLED, TIMED_OUT
_Coroutine, _RAISED = CoroutineType, RAISED


class Verdict(enum.Enum):
    """What becomes of a child that has failed, and of its group."""

    CANCEL = "cancel"  # the failure is the group's, too
    IGNORE = "ignore"  # the failure is the child's alone
    RESTART = "restart"  # the child runs once more, as if nothing had happened


class Watchers(Protocol):
    """Who wants to know that a thread has settled."""

    def notify(self, thread: VirtualThread) -> None:
        """`thread` has settled. Called on it, once; may park."""

    def waiting(self) -> list[Parker]:
        """The threads that wait for that now, as far as they are known. Any thread; never parks."""


def _context_in_use(name: str) -> NoReturn:
    raise RuntimeError(
        f"the context given for {name!r} is in use: one thread at a time can be in a context; give it one of its own, "
        f"context.copy()"
    )


def refuse_coroutine(coroutine: Any, label: str) -> None:
    """A call has returned `coroutine`: `TypeError` if that has not begun, for it is all that `async def` does here."""
    import inspect  # it costs more than the rest of this module, and hardly anybody comes here

    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()
        raise TypeError(
            f"{label} has returned a coroutine that nobody runs: a virtual thread calls plain functions. Write `def` for "
            f"`async def` and wait without `await`, or have asyncio.run() called with it"
        )


class VirtualThread(Parker):
    """A function call that runs on a stack of its own. Made by groups; `run` is called by a carrier."""

    __slots__ = (
        "_args",
        "_error",
        "_fn",
        "_is_listed",
        "_kwargs",
        "_label",
        "_result",
        "_timer",
        "carrier",
        "context",
        "group",
        "has_ident",
        "is_daemon",
        "is_named",
        "spawn_code",
        "spawn_offset",
        "stack",
        "status",
        "watchers",
    )

    carrier: Carrier | None  # None until it starts, then its carrier for ever. Written by that carrier
    stack: Stack | None  # where it is mounted or suspended; None before the start and after the end. Likewise
    context: Context | None  # its context variables, in force from its start to its end; then None
    group: Container  # that it was spawned in
    status: int  # PENDING, then the outcome. Written by the owner before it settles
    watchers: Watchers | None  # published by whoever wants to be told
    _timer: Timer | None  # of the present wait, if that has a limit. The owner's alone
    spawn_code: CodeType | None  # who has spawned it, and where in that code. Written by the spawner
    spawn_offset: int
    is_daemon: bool  # its group does not wait for it, and it takes no slot there. Written by the spawner
    is_named: bool  # `_label` is its name as it stands. Written by the spawner
    has_ident: bool  # CPython's threading may hold a record under its identity. The owner's alone

    def prepare(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        context: Context,
        group: Container,
        label: str | None,
    ) -> None:
        """Have `fn(*args, **kwargs)` ready to be called."""
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self.context = context
        # Now, while the function is sure to be there.
        self._label: str = label_of(fn) if label is None else label
        self.is_named = label is not None
        self.group = group
        # As a scope it is the outermost of what it runs, owned by itself.
        scope = group.scope
        self.parent = scope
        self.owner = self
        self.scope = self
        self.grace = scope.grace
        self.shelter = scope.shelter
        self.grace_end = scope.grace_end

    def begin(self) -> None:
        """Be a thread of which nothing is known: it was made just now. What is set here is so again when it has ended."""
        self._fn = self._args = self._kwargs = None  # type: ignore[assignment]
        self.stack = None
        self.owner = None
        # Of other scopes.
        self.opener = None
        self.container = None
        self.is_shield = False
        self.is_time_limit = False
        self.is_notable = True
        VirtualThread.blank(self, None)

    def blank(self, context: Context | None) -> None:
        """Be a thread of which nothing is known: it has ended, and its carrier, who alone knows it, keeps it.

        `context` is one that it may use when it is spawned: empty, and known to nobody else.
        """
        WaitWord.renew(self)
        self.context = context
        self._label = ""
        self._result: Any = None
        self._error: BaseException | None = None
        self._timer = None
        self.carrier = None
        self.watchers = None
        self.group = None  # type: ignore[assignment]
        self.status = _PENDING
        self._is_listed = False
        self.spawn_code = None
        self.is_daemon = False
        self.has_ident = False
        # The scope.
        self.parent = None
        if self.is_notable:
            self.is_notable = False
            self.is_hurried = False
            self.cancelled_at = None
            self.cause = None  # type: ignore[assignment]
            self.cut_off = 0.0
            self.deadline = 0.0
        # The parker.
        self.scope = None
        self.delivery = None
        self.is_deaf = False
        self.patient_since = 0.0
        self.patient_for = None
        self.loads_locked = False
        self.waits_for = None
        self.holds = 0
        self.has_lent = False
        self.slot_waiter = None
        self.has_permit = False
        self.permit_wait = 0

    def __repr__(self) -> str:
        return f"<virtual thread {self.name!r}>"

    @property
    def ident(self) -> int:
        """What `threading.get_ident()` says on this thread: an odd number, so never a kernel thread's."""
        return id(self) | 1

    @property
    def spawn_site(self) -> str:
        """Where it was spawned, as `file:line`. Any thread."""
        if self.spawn_code is None:
            return "no line of Python"
        return f"{self.spawn_code.co_filename}:{line_at(self.spawn_code, self.spawn_offset)}"

    @property
    def name(self) -> str:
        """The name given, or the function's name with a number. Any thread."""
        return self._label if self.is_named else f"{self._label}-{self.number()}"

    def _refuse_context(self) -> Context:
        """Its context is in use by somebody else: the call fails instead of being made, in the context that this gives."""
        self._fn, self._args, self._kwargs = _context_in_use, (self.name,), None
        self.context = Context()
        return self.context

    def leave(self, epoch: int, limit: float | None) -> Stack | None:
        """Set the timer, and let the carrier choose who runs next."""
        if not self._is_listed:
            VirtualThread.enlist(self)
        carrier = self.carrier
        if limit is not None:
            self._timer = carrier.timers.add(limit, self, epoch)  # type: ignore[union-attr]
        return carrier.next_stack(self)  # type: ignore[union-attr]

    def enlist(self) -> None:
        """Be found by cancellers from now on, and whoever is below this thread through it."""
        if self._is_listed:
            return
        self._is_listed = True
        Container.enlist(self.group, self)
        # A cancel that came after the look at the scopes and before this has not seen the thread: look again.
        if pending(self.scope) is not None:
            self.nudge()

    def hear_handlers(self) -> None:
        """Ask the carrier, which may be on the main thread of a forked child."""
        error = self.carrier.take_raised(self)  # type: ignore[union-attr]
        if error is not None:
            raise error

    def drop_timer(self) -> None:
        """Take it off the carrier's heap."""
        self.carrier.timers.retire(self._timer)  # type: ignore[union-attr, arg-type]
        self._timer = None

    def absorb(self) -> None:
        """Take the place in the run queue that a claim has given, or is about to give."""
        assert self.carrier is not None
        WaitWord.hold(self)
        stack = self.carrier.next_stack(self)
        if stack is not None:
            switch_to(stack)
        WaitWord.let_go(self)

    def resume(self) -> None:
        """Put it into its carrier's run queue."""
        assert self.carrier is not None
        self.carrier.make_runnable(self)

    def resume_spawner(self) -> None:
        """Put it behind the unstarted threads of its carrier."""
        assert self.carrier is not None
        self.carrier.make_spawner_runnable(self)

    def expire(self, epoch: int) -> None:
        """A timer of a wait has come. The carrier's own."""
        if WaitWord.claim(self, epoch, _TIMED_OUT):
            VirtualThread.resume(self)

    def add_timer(self, when: float, target: Target, epoch: int) -> Timer:
        """Have it called by this thread's carrier."""
        assert self.carrier is not None
        return self.carrier.timers.add(when, target, epoch)

    def retire_timer(self, timer: Timer) -> None:
        """Tell this thread's carrier."""
        assert self.carrier is not None
        self.carrier.timers.retire(timer)

    def yield_now(self) -> None:
        """Let the others that can run have their turn."""
        assert self.carrier is not None
        if not self._is_listed:
            VirtualThread.enlist(self)
        WaitWord.hold(self)
        stack = self.carrier.next_after(self)
        if stack is not None:
            switch_to(stack)
        WaitWord.let_go(self)

    def give_way(self) -> None:
        """It has gone from leaf to leaf for a whole turn: let all who are due by now go first. Itself only."""
        if self.loads_locked and import_is_locked():
            return
        assert self.carrier is not None
        if not self._is_listed:
            VirtualThread.enlist(self)
        WaitWord.hold(self)
        stack = self.carrier.next_in_turn(self)
        if stack is not None:
            switch_to(stack)
        WaitWord.let_go(self)

    def run(self, stack: Stack) -> None:
        """Call the function on `stack`, which runs, and settle the outcome. The carrier's; never raises.

        What comes after the function has a frame of its own: this one is a part of every parked stack.
        """
        if not mount(stack, self, self.context):  # type: ignore[arg-type]
            mount(stack, self, self._refuse_context())
        self.stack = stack
        if self.cancelled_at is not None or pending(self.parent) is not None:
            self._release()
            self.status = _CANCELLED
        else:
            while not self._take_outcome(attempt(self._fn, self._args, self._kwargs)):
                pass
        self._end(stack)

    def _take_outcome(self, result: Any) -> bool:
        """Its function has given `result`: store the outcome, unless it is called once more; whether it is stored."""
        if result is _RAISED:
            return self._end_by(take_raised())
        if type(result) is _Coroutine or self.scope is not self:
            return self._end_by(self._misused(result))
        self._result = result
        self._release()
        self.status = _SUCCEEDED
        return True

    def _end(self, stack: Stack) -> None:
        """Settle it, and leave the stack.

        Whatever the outcome sets off still runs on this thread: destructors of what it lets go of in its own scope, before
        it settles; callbacks of the future, and destructors of what nobody else keeps, in the scope of its group. If that is
        cancelled, it is clean-up. After `child_ended` nothing runs.
        """
        if self.scope is not self:
            self._end_left_open(self)
        WaitWord.settle(self)
        Victim.set_scope(self, self.group.scope)
        self.delivery = None
        if self.watchers is not None:
            self._notify()
        if self._error is not None or not is_plain(self._result) or has_leftovers():
            self._bury()
        if self.scope is not self.group.scope:
            self.context = None  # what ends there may leave something in it
            self._end_left_open(self.group.scope)
        self.owner = None
        self.delivery = None
        if self.has_ident:  # callbacks, too, may have asked who they are
            self.context = None  # code of others may come between these lines, and leave something in it
            for forget in on_ident_end:
                forget(self)
        if self.holds:
            self.context = None
            WaitWord.end(self)
            for tell in on_holder_end:
                tell(self)
        if self._is_listed:
            Container.discharge(self.group, self)
        WaitWord.hold(self)
        Container.child_ended(self.group, self)
        unmount(stack)
        self.stack = None

    def _misused(self, result: Any) -> BaseException | None:
        """Why it fails though its function has returned `result`; None: it does not."""
        try:
            if type(result) is _Coroutine:
                refuse_coroutine(result, self._label)
            if self.scope is not self:
                raise RuntimeError(
                    f"{self!r} has ended inside {self.scope!r}, which it has opened and not closed: leave each block "
                    f"in the function that enters it, and do not return a generator that is suspended inside one"
                )
        except BaseException as error:  # noqa: BLE001 - every outcome is settled
            return error
        self._result = result
        self._release()
        self.status = _SUCCEEDED
        return None

    def _end_by(self, error: BaseException | None) -> bool:
        """Its function was left by `error`, if that is given: settle the outcome, unless it is called once more.

        Whether it is settled.
        """
        if error is None:
            return True
        if type(error) is Cancelled and self.scope is self and is_cancelled(self):
            self._release()
            self.status = _CANCELLED
            return True
        handle(error)
        try:
            is_over = self._conclude(error)
        except BaseException:  # noqa: BLE001 - memory is out, for saying so, too; it ends nevertheless
            self._release()
            self.status, self._error = FAILED, error
            is_over = True
        handle(None)
        return is_over

    def _conclude(self, error: BaseException) -> bool:
        """Its function was left by `error`: settle the outcome, unless it is called once more; whether it is settled."""
        if self.scope is not self:
            error = self.group.end_inside(self, self, error)
        failure: BaseException | None = error
        # A shield around the group may hide the cancel; a spawn into a group outside it was told of it all the same.
        if isinstance(error, Cancelled):
            if is_cancelled(self):
                failure = None
        elif isinstance(error, BaseExceptionGroup) and is_cancelled(self):
            failure = without_cancelled(error)
        if failure is None:
            self._release()
            self.status = _CANCELLED
            return True
        verdict = self._judge(failure)
        if verdict is not None and verdict is Verdict.RESTART:
            return False
        self._release()
        self._fail(failure, verdict)
        return True

    def _release(self) -> None:
        """Let go of what only the run needed; the future may live on for long."""
        if self.delivery is not None:
            begin_clean_up(self)  # its Cancelled is about to die, and must not count as swallowed
        # What these let go of may spawn into its group, and hands on the slot that it has: it is still the owner of itself.
        self._fn = self._args = self._kwargs = None  # type: ignore[assignment]
        drop_locals()

    def _end_left_open(self, outer: Scope) -> None:
        """End what destructors, or a hook, have left open inside `outer`. It is reported, and nobody's failure."""
        error = RuntimeError(
            f"{self.scope!r} was opened at the end of {self!r}, by a destructor or a hook, and not closed: leave each block "
            f"in the function that enters it"
        )
        write_unraisable(self.group.end_inside(self, outer, error), self)

    def _notify(self) -> None:
        """Tell the watchers."""
        begin_clean_up(self)
        try:
            self.watchers.notify(self)  # type: ignore[union-attr]
        except BaseException as failure:  # noqa: BLE001 - nothing may keep the thread from its end
            patiently(self, write_unraisable, failure, self)

    def _bury(self) -> None:
        """Let go of what would die with this thread, as long as its destructors can wait as they may anywhere.

        Afterwards they would run on the carrier with the gate closed, and hold up all others. Nobody can ask for the outcome
        if only those who run the thread have it: the carrier, its stack, itself as its owner, and the list of its group.
        """
        begin_clean_up(self)
        self.context = None
        if is_held_by(self, 4 if self._is_listed else 3):
            self._result = self._error = None
        drop_leftovers()

    def _judge(self, error: BaseException) -> Verdict | None:
        """What to do about `error`; None: nobody is asked, and the failure is the group's, too.

        A cancelled thread is asked about in its clean-up: an answer must not depend on which of the two came first.
        """
        if not self.group.is_supervised or not isinstance(error, Exception):
            return None
        if self.delivery is None or self.delivery.alive() is None:
            begin_clean_up(self)
        try:
            return self.group.judge(self, error)
        except BaseException:  # noqa: BLE001 - memory is out: nobody could be asked
            return None

    def _fail(self, error: BaseException, verdict: Verdict | None) -> None:
        """`error` is its outcome."""
        self.status = FAILED
        self._error = error
        try:
            error.add_note(f"on {self.name!r}, spawned at {self.spawn_site}")
        except BaseException:  # noqa: BLE001 - whatever its class does with notes; and memory may be out
            pass
        if verdict is not Verdict.IGNORE:
            try:
                self.group.child_failed(self, error)
            except BaseException as failure:  # noqa: BLE001 - as in `_notify`
                patiently(self, write_unraisable, failure, self)


set_give_way(VirtualThread.__dict__["give_way"])
