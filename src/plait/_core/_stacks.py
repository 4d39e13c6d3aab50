"""Stacks of other threads, for reports: each is read where nobody can change it meanwhile.

A suspended stack is read on the carrier that it belongs to, between two turns: only that kernel thread could resume it.
A carrier that does not answer is busy with one thread; on builds with a GIL, CPython says with what.

    Asker:   1. asks each carrier (`Carrier.call`)    2. arms, stores its epoch   3. counts the answers   4. parks
    Carrier: 1. reads the stacks, stores the answer   2. unparks the epoch
Step 2 of the asker is before its step 3, and step 1 of the carrier before its step 2, with fences: none is missed.
"""

from __future__ import annotations

import sys
from traceback import StackSummary, walk_stack
from typing import TYPE_CHECKING

from plait._core._atomics import Lock
from plait._core._clock import now
from plait._core._continuation import frame_of
from plait._core._parking import Parker, WaitReason, park_shielded
from plait._native._native import caller_code, current

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from plait._core._carrier import Carrier
    from plait._core._vthread import VirtualThread


class Snapshot:
    """What threads were doing at about one moment.

    Attributes:
        stacks: The stacks of those that could be read.
        busy: What the carriers are at work on that did not answer; None where only they could say.
    """

    def __init__(self) -> None:
        self.stacks: dict[VirtualThread, StackSummary] = {}
        self.busy: dict[Carrier, StackSummary | None] = {}


class _Inquiry:
    """One question to a carrier."""

    def __init__(self, who: Parker, carrier: Carrier) -> None:
        self.carrier = carrier
        self.threads: list[VirtualThread] = []
        self.stacks: dict[VirtualThread, StackSummary] | None = None  # the answer. Under _lock
        self._who = who
        self._lock = Lock()
        self._epoch = 0  # under _lock

    def answer(self) -> None:
        """On the carrier, between two turns."""
        stacks = {}
        for thread in self.threads:
            frame = _frame(thread)
            stacks[thread] = StackSummary() if frame is None else _read(frame)
        with self._lock:
            self.stacks = stacks
            epoch = self._epoch
        self._who.unpark(epoch)

    def is_open(self, epoch: int) -> bool:
        """Whether the answer has still to come; it then ends wait `epoch`."""
        with self._lock:
            self._epoch = epoch
            return self.stacks is None


def take_snapshot(
    me: Parker, threads: Iterable[VirtualThread], carriers: Iterable[Carrier], patience: float
) -> Snapshot:
    """Read the stacks of `threads`, and see which of `carriers` are busy, for at most `patience` seconds.

    Calling thread only. Parks; no cancel point.
    """
    inquiries = {carrier: _Inquiry(me, carrier) for carrier in carriers}
    for thread in threads:
        if thread.carrier in inquiries:
            inquiries[thread.carrier].threads.append(thread)
    for inquiry in inquiries.values():
        inquiry.carrier.call(inquiry.answer)
    until = now() + patience
    snapshot = Snapshot()
    for inquiry in inquiries.values():
        while now() < until:
            epoch = me.arm(True)
            if not inquiry.is_open(epoch):
                me.withdraw()
                break
            park_shielded(me, epoch, WaitReason.SNAPSHOT, until)
        if inquiry.is_open(0):
            snapshot.busy[inquiry.carrier] = stack_of_kernel_thread(inquiry.carrier.ident)
        else:
            snapshot.stacks.update(inquiry.stacks or {})
    return snapshot


def _frame(thread: VirtualThread) -> FrameType | None:
    if thread is current():
        # The scheduler runs on the stack of the thread that parks, and has no frames; neither has, say, lock.acquire.
        return None if caller_code() is None else sys._getframe()  # noqa: SLF001 - the only way
    return None if thread.stack is None else frame_of(thread.stack)


def stack_of_kernel_thread(ident: int) -> StackSummary | None:
    """What the kernel thread `ident` is at; None where that cannot be read. Any thread."""
    # Without a GIL, the frames of a running thread cannot be read safely.
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None
    frame = sys._current_frames().get(ident)  # noqa: SLF001 - the documented way
    return None if frame is None else _read(frame)


def _read(frame: FrameType) -> StackSummary:
    summary = StackSummary.extract(walk_stack(frame), lookup_lines=False)
    summary.reverse()
    return summary
