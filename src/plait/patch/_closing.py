"""`os.close`, `FileIO.close` and what else closes descriptors by their numbers: who is parked in one is told.

A thread that waits for a pipe, say, would else wait for ever, or wake for whatever file has the number by then. Told, it
raises OSError (EBADF), and does not try again. (Threads that wait in the kernel go on there, in a file that is closed.)

    Waiter: 1. is among the waits of its number, and counted in the lot [fence]   2. has the kernel watch the number
            3. publishes the epoch of its wait [fence]   4. looks whether it is over   5. parks
    Closer: 1. closes [fence]   2. looks at the count, then for waits of the number; for each: 3. marks it as over [fence]
            4. ends the wait of the epoch, if there is one
If the closer finds no wait in step 2, its step 1 came before the waiter's step 2, which fails, or has the next file: it
is as if the waiter had called later. Neither side takes a lock: files are also closed by the collector, anywhere.
"""

from __future__ import annotations

import errno
import io
import os
from operator import index
from typing import TYPE_CHECKING, Any

from plait._core import Parker, wait_descriptor
from plait._native import lot_enter, lot_is_busy, lot_leave
from plait.patch._registry import CLOSING, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Sequence

_KEY = 1  # PLAIT_CLOSING in leaf.c
_waits: dict[int, dict[Wait, None]] = {}  # by number; what is empty stays, for others may be about to fill it


class Wait:
    """One wait for a descriptor."""

    __slots__ = ("epoch", "is_over", "who")

    def __init__(self, who: Parker) -> None:
        self.who = who
        self.epoch = 0  # 0: not armed. Written by the waiter
        self.is_over = False  # the number was closed. Written by closers

    def publish(self, epoch: int) -> bool:
        """The wait is armed: whether there is anything to wait for."""
        self.epoch = epoch
        lot_is_busy(_KEY)  # the fence
        return not self.is_over

    def end(self) -> None:
        """The number has been closed. Any thread."""
        self.is_over = True
        lot_is_busy(_KEY)  # the fence
        if self.epoch:
            self.who.unpark(self.epoch)


def wait_open(me: Parker, fd: int, events: int, deadline: float | None = None, number: int | None = None) -> bool:
    """Park until `fd` is ready for `events`; False if the instant `deadline` came first. A cancel point.

    OSError (EBADF) if it is closed before.

    `number`: by which the caller knows the file, if `fd` is a descriptor of our own for it.
    """
    waits = _waits.setdefault(fd if number is None else number, {})
    wait = Wait(me)
    waits[wait] = None
    lot_enter(_KEY)
    try:
        is_ready = wait_descriptor(me, fd, events, deadline, publish=wait.publish)
    finally:
        lot_leave(_KEY)
        waits.pop(wait, None)
    if wait.is_over:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return is_ready


def closed(fd: int) -> None:
    """`os.close` has succeeded: tell who waits there. Any thread."""
    for wait in list(_waits.get(index(fd), ())):
        wait.end()


def _replaced(fd: int, fd2: int, inheritable: bool = True) -> None:  # noqa: FBT001, FBT002 - as `os.dup2`
    if index(fd) != index(fd2):
        closed(fd2)


def _range_closed(low: int, high: int) -> None:
    for fd in list(_waits):
        if low <= fd < high:
            closed(fd)


def _file_closed(file: Any, fd: int) -> None:
    if fd >= 0 and file.closefd:
        closed(fd)


os.register_at_fork(after_in_child=_waits.clear)  # no other thread is left


def leaves() -> Sequence[Leaf]:
    """What this file watches."""
    return [
        Leaf("os.close", os.close, closed, when=CLOSING),
        Leaf("os.dup2", os.dup2, _replaced, when=CLOSING),
        Leaf("os.closerange", os.closerange, _range_closed, when=CLOSING),
        Leaf("io.FileIO.close", method(io.FileIO, "close"), None, _file_closed, when=CLOSING),
    ]
