"""The composition root: builds the carriers and the pool, once, when first needed; drops them in a forked child.

Nothing imports a running part: a virtual thread reaches its carrier through itself, and everybody else asks here.
"""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from plait import _native
from plait._core import _lot
from plait._core._cancel import check_entry, patiently
from plait._core._carrier import Carrier
from plait._core._ending import at_the_very_end
from plait._core._misuse import check_openers, check_reach, suspendable_caller
from plait._core._number import whole_number
from plait._core._offload import Offload
from plait._core._platform import PlatformThread, known_platform_thread, platform_thread
from plait._core._tree import pending
from plait._core._vthread import VirtualThread
from plait._core._watch import Watch
from plait._native._native import (
    Counter,
    Lock,
    Rundown,
    caller_code,
    caller_offset,
    copied_context,
    current,
    kernel_ident,
    now,
    write_unraisable,
)
from plait._originals import lock_acquire

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from plait._core._container import Container
    from plait._core._parking import Parker
    from plait._core._timers import Timer
    from plait._core._tree import CancelScope

V = TypeVar("V", bound=VirtualThread)

_PATIENCE = 1.0  # seconds that all carriers together have to stop in, when the process ends
_OVER = "virtual threads cannot be started any more: the process is ending"


class Runtime:
    """The parts, and the configuration they are built from."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._carriers: list[Carrier] = []  # empty until started, and when the process ends; `_show` replaces it
        self._shown = [self._carriers]  # all that it has been
        self._is_over = False  # the process is ending. Under _lock
        self._kept: list[Timer] = []  # deadlines for the first carrier, where there is none yet. Under _lock
        self._turns = Counter()  # of the carriers, with platform threads that spawn
        self._has_gil = True  # as it is when the carriers start
        self._wanted: int | None = None  # carriers asked for by configure()
        self.offload = Offload()  # for plait's own calls
        self.offload_for_programs = Offload()  # for calls of others, which may wait for what makes calls of plait's own
        self.on_start: list[Callable[[], None]] = []  # what must happen before there are carriers; can be repeated

    @property
    def carriers(self) -> list[Carrier]:
        """All carriers, started on first use."""
        return self._carriers or self.start()

    @property
    def started_carriers(self) -> list[Carrier]:
        """All carriers that run; none before the first use, and none when the process ends."""
        return self._carriers

    @property
    def is_started(self) -> bool:
        """Whether there are carriers."""
        return bool(self._carriers)

    def is_carrier(self) -> bool:
        """Whether the calling kernel thread is one of the carriers."""
        ident = kernel_ident()
        return any(carrier.ident == ident for carrier in self._carriers)

    def configure_carriers(self, count: int) -> None:
        """How many carriers to start."""
        number = whole_number(count)
        if number is None:
            raise TypeError(f"carriers must be a whole number from 1 up, not {count!r}")
        if number < 1:
            raise ValueError(f"carriers must be at least 1, not {number}: with none nothing could ever run")
        with self._lock:
            if self._carriers and len(self._carriers) != number:
                raise RuntimeError(
                    f"the runtime has started with {len(self._carriers)} carriers: "
                    f"call plait.configure(carriers=...) before the first spawn"
                )
            self._wanted = number

    def start(self) -> list[Carrier]:
        """Start the carriers, if they are not started. Any platform thread."""
        if self._is_over:  # the steps below would only fail on what is left of the interpreter
            raise RuntimeError(_OVER)
        # Before anybody can see a carrier: who sees one may spawn, and a thread must not run over unpatched leaves. Not
        # under the lock: the steps import modules. Two threads that start at a time both run them, which is harmless.
        for step in self.on_start:
            step()
        found = self._carriers
        while not found:
            # Nor these: the environment and the pollers run Python, and a signal handler that comes there may start us.
            carriers = self._make_carriers()
            with self._lock:
                found = self._carriers
                is_over = self._is_over
                if not found and not is_over and self._wanted in (None, len(carriers)):
                    self._start_locked(carriers)
                    return carriers
            for carrier in carriers:
                carrier.poller.close()
            if is_over:
                raise RuntimeError(_OVER)
        return found

    def _make_carriers(self) -> list[Carrier]:
        """As many as there shall be, not started."""
        count = self._wanted if self._wanted is not None else default_carriers()
        watch = Watch(count)
        return [Carrier(number, watch) for number in range(count)]

    def _start_locked(self, carriers: list[Carrier]) -> None:
        """Start `carriers`, and let them be seen."""
        if _native.gc_gate not in gc.callbacks:
            gc.callbacks.append(_native.gc_gate)
        self._has_gil = has_gil()
        kept, self._kept = self._kept, []
        for timer in kept:
            carriers[0].timers.push(timer)
        for carrier in carriers:
            carrier.start()
        self._show(carriers)
        at_the_very_end(self.halt)

    def _show(self, carriers: list[Carrier]) -> None:
        """Let these be seen, by all threads. What was seen before is kept: who reads it just now would find it freed."""
        self._shown.append(carriers)
        self._carriers = carriers

    def carrier_for(self, me: Parker, group: Container) -> Carrier:
        """Where a child of `group` spawned by `me` is queued: with its spawner; of platform threads in turn, or see `_placement`."""
        if isinstance(me, VirtualThread):
            spawner: VirtualThread = me
            assert spawner.carrier is not None
            return spawner.carrier
        carriers = self._carriers or self.start()
        count = len(carriers)
        if count == 1:
            return carriers[0]
        if self._has_gil:
            return carriers[self._turns.add(1) % count]
        placement = group.placement
        if placement is None:
            placement = group.make_placement(self._turns, count)
        return carriers[placement.next_turn(group.inside.count(), group.ever_listed, kernel_ident(), now()) % count]

    def queue_spawner(self, me: Parker) -> bool:
        """Have a platform thread that may spawn again told in its turn, behind what it has spawned; whether it will be.

        With several carriers it is not: while one is busy with a long call the others would run out of work. Nor if the
        slot comes from a platform thread: the carrier may be busy for long, and has no part in it.
        """
        carriers = self._carriers
        if len(carriers) != 1 or not isinstance(current(), VirtualThread):
            return False
        carriers[0].make_spawner_runnable(me)
        return True

    def push_timer(self, timer: Timer) -> None:
        """A platform thread's scope has a deadline: the first carrier keeps it."""
        with self._lock:
            carriers = self._carriers
            if not carriers:
                self._kept.append(timer)
                return
        carriers[0].call(partial(carriers[0].timers.push, timer))

    def retire_timer(self, timer: Timer) -> None:
        """One of those deadlines is over before its time. Its carrier hears of it after the push: calls keep order."""
        with self._lock:
            carriers = self._carriers
            if not carriers:  # a forked child leaves a block of its parent
                timer.take_target()
                return
        carriers[0].call(partial(carriers[0].timers.retire, timer))

    def halt(self) -> None:
        """Stop all carriers: the process is about to end, and what still runs on them ends with it.

        All but the one that asks, if that is one: it has forked this process, and ends it.
        """
        with self._lock:
            carriers = self._carriers
            self._show([])
            self._is_over = True
        me = kernel_ident()
        answers = [carrier.halt() for carrier in carriers if carrier.ident != me]
        until = now() + _PATIENCE
        for answered in answers:
            lock_acquire(answered, True, max(until - now(), 0.0))

    def after_fork(self) -> None:
        """In the child: only the calling kernel thread exists.

        On a platform thread everything starts afresh when it is next needed. A virtual thread that has forked keeps its
        carrier, which has lost all others. The scopes around it stay open, and time limits among them hold in both processes,
        whoever opened them. Nobody else can be resumed: see `WaitWord`.
        """
        self.offload = Offload()
        self.offload_for_programs = Offload()
        _lot.reset()
        me: Parker | None = current() or known_platform_thread()
        self._show([])
        self._kept = []
        if me is None:
            return
        me.survive_fork()
        if isinstance(me, VirtualThread) and me.carrier is not None:
            me.carrier.survive_fork(me)
            self._show([me.carrier])
        scope = me.scope
        while scope is not None:
            if scope.owner is not None:  # else it is the default group's, which nobody opens
                scope.owner = me
            if scope.container is not None:
                scope.container.abandon()
            scope.stay_open()
            scope = scope.parent


def default_carriers() -> int:
    """PLAIT_CARRIERS, or one on a build with a GIL, or as many as cores."""
    text = os.environ.get("PLAIT_CARRIERS", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"PLAIT_CARRIERS must be a whole number from 1 up, not {text!r}")
        return int(text)
    return 1 if has_gil() else max(1, len(os.sched_getaffinity(0)))


def has_gil() -> bool:
    """Whether one kernel thread at a time runs Python now."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def open_scope(scope: CancelScope, shelter: float = 0.0) -> Parker:
    """Make `scope` the innermost of the calling thread, which is returned; leaves are cancel points there from now on.

    With an instant `shelter` it is a shield until then.
    """
    if not runtime.is_started:
        runtime.start()
    me = current_thread()
    check_openers(me)
    if scope.container is not None and isinstance(me, VirtualThread):
        me.enlist()  # before it can have children: cancellers find them through it, though it may not park for long
    scope.open(me, shelter)
    scope.opener = suspendable_caller()
    if isinstance(me, PlatformThread):
        me.bind()
        try:
            # A handler that raises after __enter__ and before the block (3.14 runs them there) would leave it open.
            _native.check_signals()
        except BaseException:
            close_scope(scope)
            raise
    return me


def close_scope(scope: CancelScope, is_absorbed: bool = False) -> None:  # noqa: FBT001, FBT002 - compiled
    """End `scope`, the innermost of the calling thread. Raises `RuntimeError` if it is not that.

    `is_absorbed`: the cancellation that has left its block was its own.
    """
    me = scope.owner
    if me is not None and me is not current_thread():
        raise RuntimeError(
            f"{scope!r} must be left by the thread that entered it, {me!r}, not by {current_thread()!r}: write `with`, and "
            f"do not hand a generator that is suspended inside to another thread"
        )
    scope.close(is_absorbed)
    if isinstance(me, PlatformThread):
        me.unbind()


def launch(
    group: Container,
    make: type[V],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    label: str | None = None,
    context: Context | None = None,
    is_reached: bool = False,  # noqa: FBT001, FBT002 - compiled functions take no keyword-only arguments
) -> V | None:
    """Start `fn(*args, **kwargs)` as a child of `group`, made by `make`; None if it cannot be started just so.

    That is, if the group is not open, is cancelled or full: the caller finds out why. A cancel point. Any thread.
    `is_reached`: the time limits of the caller do concern the child.
    """
    me: Parker = current_thread()
    scope = me.scope
    told = check_entry(me) if scope is not None else None
    if (
        scope is not None
        and scope is not me
        and not is_reached
        and (scope is not group.scope or scope.opener is not None)
    ):
        check_reach(me, group.scope)
    # The body of the group, which spawns most, has looked already.
    if group.owner is None or (told if scope is group.scope else pending(group.scope)) is not None:
        return None
    slots = group.slots
    if slots is not None and not slots.try_take():
        return None
    return start_child(group, make, me, fn, args, kwargs, label, context)


def start_child(
    group: Container,
    make: type[V],
    me: Parker,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    label: str | None = None,
    context: Context | None = None,
    is_daemon: bool = False,  # noqa: FBT001, FBT002 - compiled functions take no keyword-only arguments
) -> V | None:
    """Queue `fn(*args, **kwargs)` as a child of `group`, spawned by `me`; None if the group has closed.

    Its slot is taken; a daemon takes none. `label` is its name, else made from the function's; its context variables
    are those of `context`, else a copy of the caller's.
    """
    # Whatever can fail comes before the count: a child that is counted in and never queued would hang its group.
    slots = None if is_daemon else group.slots
    if slots is None:  # a `try` costs, even where nothing is raised
        carrier = _runtime.carrier_for(me, group)
        thread = _prepared(group, carrier, make, fn, args, kwargs, label, context)
    else:
        try:
            carrier = _runtime.carrier_for(me, group)
            thread = _prepared(group, carrier, make, fn, args, kwargs, label, context)
        except BaseException:
            slots.give()
            raise
    if not Rundown.enter(group.inside):
        VirtualThread.begin(thread)  # it refers to itself, and the collector does not know it
        if slots is not None:
            slots.give()
        return None
    if is_daemon:
        thread.is_daemon = True
        try:
            group.adopt_daemon(thread)
        except MemoryError:
            group.child_ended(thread)
            VirtualThread.begin(thread)
            raise
    if not carrier.submit(thread):
        group.child_ended(thread)
        VirtualThread.begin(thread)
        raise MemoryError
    return thread


def _prepared(
    group: Container,
    carrier: Carrier,
    make: type[V],
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    label: str | None,
    context: Context | None,
) -> V:
    """A thread as `start_child` queues it."""
    thread = carrier.blank_thread(make)
    # Both run code of others: what the function is called, and a context's copy.
    if context is None:
        context = copied_context(thread.context)
    VirtualThread.prepare(thread, fn, args, kwargs or None, context, group, label)
    thread.spawn_code = caller_code()
    thread.spawn_offset = caller_offset()
    return thread


def current_thread() -> Parker:
    """The calling thread as a parker: the virtual thread, or the record of the platform thread."""
    me: Parker | None = current()
    return me if me is not None else platform_thread()


def call_deaf(fn: Callable[..., object], *args: object) -> None:
    """Call `fn(*args)` on the calling thread, which hears of no cancel meanwhile.

    For what waits for a moment, and must not be torn apart there.
    """
    me = current_thread()
    before = me.is_deaf
    me.is_deaf = True
    try:
        fn(*args)
    finally:
        me.is_deaf = before


def call_contained(fn: Callable[..., object], *args: object) -> None:
    """Call `fn(*args)` at a thread's end; what it raises goes to `sys.unraisablehook`.

    Such as a report: it may be written to what can be waited for, and is not torn apart there before the grace is over.
    """
    try:
        patiently(current_thread(), fn, *args)
    except BaseException as error:  # noqa: BLE001 - a report may fail, as where the reader of stderr has gone
        patiently(current_thread(), write_unraisable, error, fn)


def leave_all_scopes() -> None:
    """Put the calling thread outside all scopes, for good: it is a child process now, which never ends their blocks."""
    me: Parker | None = current()
    if me is None:
        return
    me.set_scope(None)
    me.delivery = None
    me.patient_since = 0.0  # as it has been while it was started
    me.patient_for = None
    me.loads_locked = False
    if isinstance(me, PlatformThread):
        me.unbind_all()


runtime = Runtime()
_runtime = runtime  # for every spawn: compiled, a name that others import costs a look-up each time
PlatformThread.queue_spawner = runtime.queue_spawner
PlatformThread.push_timer = runtime.push_timer
PlatformThread.end_timer = runtime.retire_timer
os.register_at_fork(after_in_child=runtime.after_fork)
