"""`signal.sigwait`, `sigwaitinfo`, `sigtimedwait` and `pause`.

A descriptor (signalfd) tells when a signal is pending, without taking it; then the caller takes it with a call that does not
wait, so no cancel can lose it. What is pending depends on who asks: the signals of the process, and those that were sent
to the kernel thread alone, which is the carrier. A virtual thread never changes that.

As POSIX has it, the signals must be blocked in all threads of the process. A thread inherits the mask of whoever starts
it, carriers and workers, too: a program blocks what it is going to wait for before its first spawn. What
`pthread_sigmask` changes on a virtual thread is the mask of its carrier, for all who run there.

`pause` waits for a signal that is handled on the calling kernel thread. In the main thread, where Python's handlers run,
that is any for which there is a handler: its wake-up descriptor tells, and whoever has set another gets what was written.
Elsewhere the kernel hardly ever chooses that thread; one kernel thread pauses for all of those. It notes when it came back
before it asks for the GIL, so that who comes between the two waits for the next signal.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import READ, Parker, VirtualThread, WaitReason, check_entry, now, time_number, wait_descriptor
from plait._native import (
    await_signal,
    builtin,
    check_signals,
    cooperative,
    kernel_ident,
    original,
    poll_now,
    signal_descriptor,
)
from plait.patch._locks import TOO_LONG
from plait.patch._registry import Leaf
from plait.patch._watches import wait_watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_sigtimedwait: Callable[..., Any] = original(builtin(_signal, "sigtimedwait"))


def _await(signals: Iterable[int], deadline: float | None) -> Any:
    """The information on the first of `signals`; None if the instant `deadline` comes first."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    numbers = tuple(signals)
    found = _sigtimedwait(numbers, 0)
    if found is not None:
        return found
    fd = signal_descriptor(numbers)
    try:
        while found is None:
            is_in_time = wait_descriptor(me, fd, READ, deadline, None, WaitReason.SIGNAL)
            found = _sigtimedwait(numbers, 0)
            if not is_in_time:
                break
    finally:
        _originals.os_close(fd)
    return found


def sigwait(signals: Iterable[int], /) -> int:
    """`signal.sigwait`, underneath."""
    return int(_await(signals, None).si_signo)


def sigwaitinfo(signals: Iterable[int], /) -> Any:
    """`signal.sigwaitinfo`."""
    return _await(signals, None)


def sigtimedwait(signals: Iterable[int], timeout: float, /) -> Any:
    """`signal.sigtimedwait`."""
    seconds = time_number(timeout)
    if seconds is None or not 0 < seconds < TOO_LONG:
        return _sigtimedwait(signals, timeout)  # does not wait, or refuses
    return _await(signals, now() + seconds)


_paused_at = 0.0  # when the kernel thread that pauses last came back. Its alone


def _pause_elsewhere() -> None:
    global _paused_at  # noqa: PLW0603 - there is one for all
    _paused_at = await_signal()


def pause() -> None:
    """`signal.pause`."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if isinstance(me, VirtualThread) or kernel_ident() != threading.main_thread().ident:
        began = now()
        wait_watching(me, "pause", _pause_elsewhere, lambda: _paused_at >= began, WaitReason.SIGNAL)
        return
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        other = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            while not poll_now(reader, READ):
                wait_descriptor(me, reader, READ, None, None, WaitReason.SIGNAL)
        finally:
            signal.set_wakeup_fd(other)
            if other != -1:
                with suppress(OSError):
                    _originals.os_write(other, _originals.os_read(reader, 1 << 16))
        check_signals()  # those that another thread has got for us
    finally:
        _originals.os_close(reader)
        _originals.os_close(writer)


def leaves() -> Sequence[Leaf]:
    """What this file makes cooperative."""
    return [
        Leaf("signal.sigwait", builtin(_signal, "sigwait"), sigwait),
        Leaf("signal.sigwaitinfo", builtin(_signal, "sigwaitinfo"), sigwaitinfo),
        Leaf("signal.sigtimedwait", builtin(_signal, "sigtimedwait"), sigtimedwait),
        Leaf("signal.pause", builtin(_signal, "pause"), pause),
    ]
