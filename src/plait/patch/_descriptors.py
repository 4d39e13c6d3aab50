"""`os.read` and `os.write`: pipes, FIFOs, ttys and sockets park on the reactor; regular files are read as ever.

Linux says of most files whether a call would wait (RWF_NOWAIT). A descriptor in non-blocking mode keeps its
`BlockingIOError`. On a blocking one `os.write` writes everything, as the kernel does; cancelled half-way, part of it
is written.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import READ, WRITE, Parker, check_entry, runtime, wait_descriptor
from plait._native import cooperative, poll_now, read_nowait, write_nowait
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence


def _is_pollable(fd: int) -> bool:
    """Whether the kernel can say when `fd` is ready; regular files and block devices always claim to be."""
    mode = os.fstat(fd).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode))


def read(fd: int, length: int, /) -> bytes:
    """`os.read`."""
    if not isinstance(fd, int) or not isinstance(length, int):
        return _originals.os_read(fd, length)  # converts, or refuses
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    while True:
        data = read_nowait(fd, length)
        if data is None:
            if not os.get_blocking(fd):
                return _originals.os_read(fd, length)  # raises BlockingIOError
            if not _is_pollable(fd):  # not in the page cache
                found: bytes = runtime.offload.call(me, _originals.os_read, fd, length)
                return found
        elif data is not NotImplemented:
            return data  # type: ignore[no-any-return]
        elif not os.get_blocking(fd) or not _is_pollable(fd) or poll_now(fd, READ):
            return _originals.os_read(fd, length)
        wait_descriptor(me, fd, READ)


def write(fd: int, data: Any, /) -> int:
    """`os.write`."""
    if not isinstance(fd, int):
        return _originals.os_write(fd, data)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    with memoryview(data) as whole, whole.cast("B") as view:
        size = view.nbytes
        start: int = 0
        while True:
            written = write_nowait(fd, view, start)
            if written is NotImplemented:
                if os.get_blocking(fd) and _is_pollable(fd) and not poll_now(fd, WRITE):
                    wait_descriptor(me, fd, WRITE)
                    continue
                return start + _originals.os_write(fd, view[start:])
            if written is not None:
                start += written
                if start >= size:
                    return start
            if not os.get_blocking(fd):
                return start or _originals.os_write(fd, view)
            if written is None:
                if not _is_pollable(fd):
                    wrote: int = runtime.offload.call(me, _originals.os_write, fd, view[start:])
                    return start + wrote
                wait_descriptor(me, fd, WRITE)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [Leaf("os.read", os.read, read), Leaf("os.write", os.write, write)]
