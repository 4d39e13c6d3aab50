"""`os.eventfd_read` and `os.eventfd_write`: counters that are waited for while they are zero, or full.

A number that does not fit yet is tried with growing pauses: see `_counters.py`.
"""

from __future__ import annotations

import errno
import os
import posix
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import Parker, check_entry
from plait._native import builtin, cooperative
from plait.patch._counters import FULL, SIZE, add
from plait.patch._descriptors import read_some
from plait.patch._registry import Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence


def read(fd: Any) -> int:
    """`os.eventfd_read`."""
    if not isinstance(fd, int) and hasattr(fd, "fileno"):
        fd = fd.fileno()
    if not isinstance(fd, int) or isinstance(fd, bool) or fd < 0:
        return _originals.eventfd_read(fd)  # refuses, or warns
    data = read_some(cooperative(), fd, SIZE)
    if data is None:
        return _originals.eventfd_read(fd)  # raises BlockingIOError
    if len(data) != SIZE:
        # Something else than an eventfd. The C library refuses that, too, and leaves errno as an earlier call has set it.
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return int.from_bytes(data, sys.byteorder)


def write(fd: Any, value: Any) -> None:
    """`os.eventfd_write`."""
    if not isinstance(fd, int) and hasattr(fd, "fileno"):
        fd = fd.fileno()
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if isinstance(fd, int) and fd >= 0 and isinstance(value, int) and 0 < value <= FULL and os.get_blocking(fd):
        add(me, fd, value, partial(_originals.eventfd_write, fd, value))
    else:
        _originals.eventfd_write(fd, value)  # does not wait, or refuses


def leaves() -> Sequence[Leaf]:
    """What this file makes cooperative."""
    return [
        Leaf("os.eventfd_read", builtin(posix, "eventfd_read"), read),
        Leaf("os.eventfd_write", builtin(posix, "eventfd_write"), write),
    ]
