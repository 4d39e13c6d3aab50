"""Platform threads as parkers: the main thread, or any other OS thread, that waits under plait's rules.

A record exists per OS thread and is *bound* (leaves become cooperative there) only while the thread has a scope open.
It waits natively: on its gate, a lock that is always held, which each resume releases once; or, when it waits for a
descriptor, in poll(2) on that descriptor and an eventfd. Which of the two is chosen before the wait is armed and is
not changed until it is over, so a resumer reads it safely.

A signal handler may raise out of the gate (Ctrl-C in the main thread). The wait is then withdrawn: a resume that is on
its way is consumed, so the next wait starts clean.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING, ClassVar

from plait import _native, _originals
from plait._core._clock import LONGEST_WAIT, now
from plait._core._parking import SHIELDED, TIMED_OUT, WAITING, WOKEN, Parker, WaitReason, park
from plait._originals import lock_acquire, lock_release, poll_poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core._timers import Target

_record = threading.local()


class PlatformThread(Parker):
    """The record of one OS thread."""

    __slots__ = ("__weakref__", "_bound", "_gate", "_wakeup", "_watched", "name")

    # Set by the runtime: deadlines of scopes opened here are kept by a carrier.
    arm_timer: ClassVar[Callable[[float, Target, int], None]]
    end_timer: ClassVar[Callable[[], None]]

    def __init__(self) -> None:
        self.scope = None
        self.cancelled_at = None
        self.delivery = None
        self.waits_for = None
        self.name = threading.current_thread().name
        self._gate = _originals.allocate_lock()
        lock_acquire(self._gate)
        self._wakeup: int | None = None  # an eventfd, made at the first wait for a descriptor
        self._watched: tuple[int, int] | None = None  # descriptor and events of the present wait; owner
        self._bound = 0  # how many scopes this thread has open

    def __repr__(self) -> str:
        return f"<platform thread {self.name!r}>"

    def __del__(self) -> None:
        if self._wakeup is not None:
            _originals.os_close(self._wakeup)

    def bind(self) -> None:
        """One more scope is open here: leaves on this OS thread are cancel points now."""
        self._bound += 1
        _native.bind(self)

    def unbind(self) -> None:
        """One scope fewer."""
        self._bound -= 1
        if not self._bound:
            _native.bind(None)

    def add_timer(self, when: float, target: Target, epoch: int) -> None:
        """Have it called by a carrier."""
        PlatformThread.arm_timer(when, target, epoch)

    def retire_timer(self) -> None:
        """Tell that carrier."""
        PlatformThread.end_timer()

    def resume(self) -> None:
        """Open the gate, or interrupt the poll."""
        if self._watched is None:
            lock_release(self._gate)
        else:
            assert self._wakeup is not None
            os.eventfd_write(self._wakeup, 1)

    def absorb(self) -> None:
        """Wait for the resume that is on its way."""
        if self._watched is None:
            lock_acquire(self._gate)
        else:
            assert self._wakeup is not None
            os.eventfd_read(self._wakeup)

    def drop_timer(self) -> None:
        """A wait here sets none."""

    def leave(self, epoch: int, limit: float | None) -> None:
        """Wait on the gate or the descriptor."""
        wait = self._wait_gate if self._watched is None else self._wait_descriptor
        try:
            while True:
                patience = LONGEST_WAIT if limit is None else limit - now()
                if wait(epoch, min(max(patience, 0.0), LONGEST_WAIT)):
                    return
                if limit is not None and now() >= limit and self.claim(epoch, TIMED_OUT):
                    return
        except BaseException:
            if self.disarm() not in (WAITING, SHIELDED):
                self.absorb()
            raise

    def _wait_gate(self, epoch: int, patience: float) -> bool:
        return lock_acquire(self._gate, True, patience)

    def _wait_descriptor(self, epoch: int, patience: float) -> bool:
        assert self._watched is not None
        assert self._wakeup is not None
        poll = select.poll()
        poll.register(*self._watched)
        poll.register(self._wakeup, select.POLLIN)
        ready = poll_poll(poll, patience * 1000)
        if not ready:
            return False
        if not self.claim(epoch, WOKEN):  # the descriptor is not the winner, so a resume is here or on its way
            os.eventfd_read(self._wakeup)
        return True

    def wait_descriptor(self, fd: int, events: int, reason: WaitReason, deadline: float | None) -> bool:
        """Park until `fd` is ready for `events`; False when the instant `deadline` has come first. Owner only."""
        if self._wakeup is None:
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC)
        self._watched = (fd, events)
        try:
            return park(self, self.arm(), reason, deadline) != TIMED_OUT
        finally:
            self._watched = None


def platform_thread() -> PlatformThread:
    """The record of the calling OS thread, made when first asked for."""
    try:
        record: PlatformThread = _record.thread
    except AttributeError:
        record = _record.thread = PlatformThread()
    return record
