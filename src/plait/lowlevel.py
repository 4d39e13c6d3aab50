"""For people who write primitives: park and unpark, waiting for descriptors, the thread itself.

    me = current_thread()
    (publish `me` to whoever shall wake it)
    while not condition():
        park()

`unpark(me)`, once for each thing that may have made the condition true, before or after the park: an unpark that comes
first leaves a permit, and the next park returns at once. Park may also return for no reason. Always loop.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from plait._core import READ, TIMED_OUT, WRITE, Lock, Parker, VirtualThread, WaitReason, check_entry, check_seconds
from plait._core import current_thread as _current_thread
from plait._core import now as _now
from plait._core import park as _park
from plait._core import wait_descriptor as _wait_descriptor
from plait._native import poll_now as _poll_now

if TYPE_CHECKING:
    from typing import Protocol

    class HasFileno(Protocol):
        """Something with a descriptor."""

        def fileno(self) -> int:
            """Its number."""


__all__ = ("Parker", "VirtualThread", "current_thread", "park", "unpark", "wait_readable", "wait_writable")

_INVALID = 0x020  # POLLNVAL
_lock = Lock()  # guards the permits of all threads, and who waits for one


def current_thread() -> Parker:
    """The calling thread, virtual or platform: what `unpark` takes. Never waits."""
    return _current_thread()


def park(timeout: float | None = None) -> bool:
    """Wait for a permit, and use it up; False after `timeout` seconds without one. A cancel point.

    Any thread, for itself.

    Example:
        >>> from plait import ThreadGroup
        >>> from plait.lowlevel import current_thread, park, unpark
        >>> with ThreadGroup() as group:
        ...     waker = group.spawn(unpark, current_thread())
        ...     park()
        True
    """
    me = _current_thread()
    deadline = None if timeout is None else _now() + check_seconds(timeout, "timeout")
    if me.scope is not None:
        check_entry(me)
    while True:
        epoch = me.arm()
        with _lock:
            has_permit = me.has_permit
            me.has_permit = False
            me.permit_wait = 0 if has_permit else epoch
        if has_permit:
            me.withdraw()
            return True
        try:
            outcome = _park(me, epoch, WaitReason.PERMIT, deadline)
        finally:
            with _lock:
                me.permit_wait = 0
        with _lock:
            has_permit = me.has_permit
            me.has_permit = False
        if has_permit:
            return True
        if outcome == TIMED_OUT:
            return False


def unpark(thread: Parker) -> None:
    """Give `thread` its permit, and end its park if it is parked. It has at most one. Any thread; never waits.

    Raises `TypeError` if `thread` is none: `current_thread()` gives the calling one, and `spawn` the one that it starts.
    """
    if not isinstance(thread, Parker):
        raise TypeError(f"unpark needs a thread, as current_thread() and spawn() give them, not {thread!r}")
    with _lock:
        thread.has_permit = True
        epoch = thread.permit_wait
        thread.permit_wait = 0
    if epoch:
        thread.unpark(epoch)


def wait_readable(fd: int | HasFileno, timeout: float | None = None) -> bool:
    """Park until `fd` can be read without waiting, or its other end is closed; False after `timeout` seconds.

    Any thread; a cancel point. Raises `OSError` if it is not an open descriptor.
    """
    return _wait(fd, READ, timeout)


def wait_writable(fd: int | HasFileno, timeout: float | None = None) -> bool:
    """Park until `fd` can be written without waiting; False after `timeout` seconds.

    Any thread; a cancel point. Raises `OSError` if it is not an open descriptor.
    """
    return _wait(fd, WRITE, timeout)


def _wait(fd: int | HasFileno, events: int, timeout: float | None) -> bool:
    me = _current_thread()
    deadline = None if timeout is None else _now() + check_seconds(timeout, "timeout")
    if me.scope is not None:
        check_entry(me)
    number = fd if isinstance(fd, int) else fd.fileno()
    ready = _poll_now(number, events)
    if ready & _INVALID:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return bool(ready) or _wait_descriptor(me, number, events, deadline)
