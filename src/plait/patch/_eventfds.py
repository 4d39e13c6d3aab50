"""`os.eventfd_read` and `os.eventfd_write`: counters that are waited for while they are zero, or full.

An eventfd says when it has room for one, not when it has for more; so a larger number that does not fit is tried with
growing pauses.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import WRITE, Parker, check_entry, sleep
from plait._native import cooperative, poll_now
from plait.patch._closing import Wait, wait_open
from plait.patch._descriptors import read_some
from plait.patch._registry import Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIZE = 8  # of a counter, in bytes
_FULL = 2**64 - 2  # the largest count
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05  # seconds


def read(fd: Any) -> int:
    """`os.eventfd_read`."""
    if not isinstance(fd, int) and hasattr(fd, "fileno"):
        fd = fd.fileno()
    if not isinstance(fd, int) or isinstance(fd, bool) or fd < 0:
        return _originals.eventfd_read(fd)  # refuses, or warns
    data = read_some(cooperative(), fd, _SIZE)
    if data is None:
        return _originals.eventfd_read(fd)  # raises BlockingIOError
    if len(data) != _SIZE:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # something else than an eventfd
    return int.from_bytes(data, sys.byteorder)


def write(fd: Any, value: Any) -> None:
    """`os.eventfd_write`."""
    if not isinstance(fd, int) and hasattr(fd, "fileno"):
        fd = fd.fileno()
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if isinstance(fd, int) and fd >= 0 and isinstance(value, int) and 0 < value <= _FULL and os.get_blocking(fd):
        pause = _FIRST_PAUSE
        while not poll_now(fd, WRITE):
            wait_open(me, fd, WRITE)
        if value > 1:
            with Wait(me, fd) as wait:
                while _count_of(fd) + value > _FULL:
                    sleep(pause)
                    wait.check()
                    pause = min(2 * pause, _LONGEST_PAUSE)
    _originals.eventfd_write(fd, value)


def _count_of(fd: int) -> int:
    """What an eventfd has counted; 0 where the kernel does not tell."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            found = (line.partition("eventfd-count:")[2] for line in lines)
            return int(next(filter(None, found), "0"), 16)
    except OSError:
        return 0


def leaves() -> Sequence[Leaf]:
    """What this file makes cooperative."""
    return [
        Leaf("os.eventfd_read", os.eventfd_read, read),
        Leaf("os.eventfd_write", os.eventfd_write, write),
    ]
