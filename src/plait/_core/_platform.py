"""Platform threads as parkers: the main thread, or any other OS thread, that waits under plait's rules.

A record exists per OS thread and is *bound* (leaves become cooperative there) only while the thread has a scope open.
It waits natively, for a bell: a lock that is held while the bell is silent; or, when it waits for a descriptor, an
eventfd in poll(2) beside that descriptor. Which of the two is chosen before the wait is armed. A signal handler that
waits in the middle of a wait for a descriptor keeps to the eventfd, and polls that alone: the descriptor is not its own.
Afterwards it rings once more, for the outer wait is over, whatever it has missed meanwhile, and has to look.

    Owner:   1. arms the wait word                      Resumer: 1. claims the wait word                        [fence]
             2. waits for the bell, and silences it              2. rings the bell, unless it rings already
             3. looks at the word: not claimed, again from 2
The word is the truth, the bell only says that it is time to look. So nobody has to know whether a ring has been heard:
a signal handler may raise out of the bell (Ctrl-C in the main thread) before or after the ring of the same wait, and a
ring that comes when its wait is over makes a later one look for nothing. No ring is lost: if the bell rings already,
the owner has still to silence it and looks after that, when the claim is there.

poll(2) does not notice that its descriptor is closed by another thread, so who closes one tells those who wait for it:

    Waiter: 1. enters itself in `_watchers`, is counted by the number, and arms [fence]
            2. looks whether the owner is still open     3. polls, which looks whether the number is
    Closer: 1. closes [fence: the system call]   2. reads `_watchers`, and nudges those that wait for this number

Either the waiter sees that it is closed, or the closer finds it armed. Whoever is nudged looks again by itself.

A deadline of a scope that is opened here is kept twice. While the thread waits it looks for itself, whatever keeps the
carriers busy. While it does not, a carrier sees to those below the scope. Both may come: the second finds it done.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, ClassVar, Protocol

from plait import _native, _originals
from plait._core._clock import LONGEST_WAIT, now
from plait._core._parking import TIMED_OUT, WOKEN, Parker, WaitReason, park
from plait._core._timers import Timer, Timers
from plait._originals import lock_acquire, lock_release, make_poll, poll_poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core._timers import Target

_record = threading.local()

# Those that wait for descriptors, and which, with the events that end the wait. Each writes its own entry.
_watchers: dict[PlatformThread, dict[int, int]] = {}


class Owner(Protocol):
    """What a descriptor belongs to: a socket."""

    def fileno(self) -> int:
        """The descriptor, or -1 once it is closed."""


class PlatformThread(Parker):
    """The record of one OS thread."""

    __slots__ = (
        "__weakref__",
        "_bell",
        "_bound",
        "_is_waiting",
        "_name",
        "_owner",
        "_timers",
        "_wakeup",
        "_watched",
        "_watching",
    )

    # Set by the runtime: a carrier keeps deadlines of scopes opened here, too, and may also say when to spawn again.
    queue_spawner: ClassVar[Callable[[Parker], bool]]
    push_timer: ClassVar[Callable[[Timer], None]]
    end_timer: ClassVar[Callable[[Timer], None]]

    def __init__(self) -> None:
        # First, for __del__: Ctrl-C may come while the thread is asked for its name.
        self._wakeup: int | None = None  # an eventfd, made at the first wait for a descriptor
        self.scope = None
        self.owner = None
        self.cancelled_at = None
        self.is_notable = False
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
        self._name = threading.current_thread().name
        self._bell = _originals.allocate_lock()
        lock_acquire(self._bell)
        self._is_waiting = False  # in `wait_natively`, where signal handlers run
        # Descriptors that it waits for, each with its events; None: for none, and the bell is the lock
        self._watched: dict[int, int] | None = None
        self._watching = 0  # the epoch of the wait that they end
        self._owner: Owner | None = None  # what the descriptor belongs to, if that can be asked
        self._bound = 0  # how many scopes this thread has open
        self._timers = Timers()  # their deadlines

    def __repr__(self) -> str:
        return f"<platform thread {self.name!r}>"

    @property
    def name(self) -> str:
        """The name that the OS thread had when it first met plait."""
        return self._name

    # The function is kept here: what ends last finds the names of its module gone.
    def __del__(self, close: Callable[[int], None] = _originals.os_close) -> None:
        if self._wakeup is not None:
            close(self._wakeup)

    def bind(self) -> None:
        """One more scope is open here: leaves on this OS thread are cancel points now."""
        self._bound += 1
        _native.bind(self)

    def unbind(self) -> None:
        """One scope fewer."""
        self._bound -= 1
        if not self._bound:
            _native.bind(None)

    def unbind_all(self) -> None:
        """No scope is open here any more."""
        self._bound = 0
        _native.bind(None)

    def survive_fork(self) -> None:
        """In a child that this thread has forked: its scopes set their timers again, and the parent hears no ring of it."""
        super().survive_fork()
        self._timers = Timers()
        if self._wakeup is not None:
            _originals.os_close(self._wakeup)
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._end_outer_wait()

    def add_timer(self, when: float, target: Target, epoch: int) -> tuple[Timer, Timer]:
        """Have it called here, in the first wait after that, or by a carrier."""
        elsewhere = Timer(when, target, epoch)
        PlatformThread.push_timer(elsewhere)
        return self._timers.add(when, target, epoch), elsewhere

    def retire_timer(self, timer: tuple[Timer, Timer]) -> None:
        """Here, and there."""
        here, elsewhere = timer
        self._timers.retire(here)
        PlatformThread.end_timer(elsewhere)

    def ring(self) -> None:
        """By the bell, or by the eventfd where descriptors are watched."""
        if self._watched is None:
            try:  # suppress() is Python: a signal handler could raise in it, and the ring be lost
                lock_release(self._bell)
            except RuntimeError:
                pass  # it rings already
        else:
            assert self._wakeup is not None
            _originals.eventfd_write(self._wakeup, 1)

    def resume_spawner(self) -> None:
        """Ring when the carrier has begun what was spawned before: it would hand the GIL over for each single slot."""
        if not PlatformThread.queue_spawner(self):
            self.ring()

    def wait_natively(self, epoch: int, limit: float | None) -> None:
        """Wait for the bell or the descriptor."""
        is_inner = self._is_waiting
        self._is_waiting = True
        has_eventfd = self._watched is not None
        is_own = self._watching == epoch
        watched = self._watched if is_own and self._watched is not None else {}
        owner = self._owner if is_own else None
        try:
            while self.waits(epoch):
                _native.check_signals()  # one that has come since the last instruction of Python would not end the wait
                until = self._timers.next_instant()
                if limit is not None and limit < until:
                    until = limit
                patience = min(max(until - now(), 0.0), LONGEST_WAIT)
                if not has_eventfd:
                    lock_acquire(self._bell, True, patience)
                elif self._poll(watched, owner, patience):
                    self.claim(epoch, WOKEN)
                moment = now()
                if moment >= until:
                    if limit is not None and moment >= limit:
                        self.claim(epoch, TIMED_OUT)
                    self._timers.expire_until(moment)
        finally:
            self._is_waiting = is_inner
            self._end_outer_wait()

    def withdraw(self) -> int:
        """As for any parker; what it was withdrawn over ends, too."""
        outcome = super().withdraw()
        self._end_outer_wait()
        return outcome

    def _end_outer_wait(self) -> None:
        """A signal handler has waited, or forked, in the middle of a wait, whose epoch is thereby past: that looks again."""
        if self._is_waiting:
            self.ring()

    def _poll(self, watched: dict[int, int], owner: Owner | None, patience: float) -> bool:
        """Wait for these descriptors, of `owner`, and the bell beside them; whether one is ready."""
        assert self._wakeup is not None
        poll = make_poll()
        for fd, events in watched.items():
            poll.register(fd, events)
        poll.register(self._wakeup, select.POLLIN)
        if owner is not None and owner.fileno() not in watched:
            return True  # closed before this wait was armed
        ready = dict(poll_poll(poll, patience * 1000))
        if ready.pop(self._wakeup, 0):
            _originals.eventfd_read(self._wakeup)
        for fd, happened in ready.items():
            if happened & (watched[fd] | select.POLLNVAL):
                return True
            del watched[fd]  # broken or hung up, which does not end this wait: nothing else comes of such a file
        return False

    def wait_descriptors(
        self,
        watched: dict[int, int],
        reason: WaitReason,
        deadline: float | None,
        owner: Owner | None = None,
        publish: Callable[[int], bool] | None = None,
    ) -> bool:
        """Park until one of `watched` is ready; False when the instant `deadline` has come first. Owner only.

        Returns also when `owner`, or somebody else through `wake_watchers`, has closed one. See `wait_descriptor` of the
        reactor for `publish`.
        """
        if self._wakeup is None:
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        interrupted = self._watched, self._owner  # by the signal handler that waits here
        self._watched = watched.copy()
        self._owner = owner
        for fd in watched:
            _native.closing_enter(fd)
        try:
            _watchers[self] = self._watched
            epoch = self._watching = self.arm()
            if publish is not None and not publish(epoch):
                self.withdraw()
                return True
            return park(self, epoch, reason, deadline) != TIMED_OUT
        finally:
            self._watched, self._owner = interrupted
            if self._watched is None:
                _watchers.pop(self, None)
            else:
                _watchers[self] = self._watched
            for fd in watched:
                _native.closing_leave(fd)
            self._end_outer_wait()


def wake_watchers(fd: int) -> None:
    """`fd` has been closed: let each platform thread that waits for it look. Any thread."""
    if _watchers:
        for who, watched in _watchers.copy().items():
            if fd in watched:
                who.nudge()


def watched_numbers() -> set[int]:
    """Which descriptors platform threads wait for. Any thread."""
    return set().union(*_watchers.copy().values())


def known_platform_thread() -> PlatformThread | None:
    """The record of the calling OS thread, if it has one."""
    return getattr(_record, "thread", None)


def platform_thread() -> PlatformThread:
    """The record of the calling OS thread, made when first asked for."""
    try:
        record: PlatformThread = _record.thread
    except AttributeError:
        record = _record.thread = PlatformThread()
    return record
