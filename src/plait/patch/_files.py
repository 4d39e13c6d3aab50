"""`io.FileIO`, on which `open()`, buffered and text files are built: reads and writes as `os.read` and `os.write` do.

Where a descriptor in non-blocking mode has nothing to give or to take, these return None instead of raising.
"""

from __future__ import annotations

import _io
import errno
import os
import posix
import stat
import sys
from contextlib import suppress
from operator import index
from typing import TYPE_CHECKING, Any

from plait._core import Parker, check_entry
from plait._errors import Cancelled
from plait._native import builtin, cooperative, file_type, original
from plait.patch import _descriptors
from plait.patch._descriptors import read_into, read_some
from plait.patch._registry import ClassPatch, Leaf, method
from plait.patch._workers import change_on_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_read = original(method(_io.FileIO, "read"))
_readinto = original(method(_io.FileIO, "readinto"))
_readall = original(method(_io.FileIO, "readall"))
_write = original(method(_io.FileIO, "write"))
_truncate = original(method(_io.FileIO, "truncate"))
_fileno = original(method(_io.FileIO, "fileno"))
_readable = original(method(_io.FileIO, "readable"))
_writable = original(method(_io.FileIO, "writable"))
_closed = _io.FileIO.closed.__get__

_MOST = 0x7FFFF000  # bytes that Linux moves in one call
_CHUNK = 1 << 16  # how much is read at a time of what has no size


def _may_read(file: Any) -> bool:
    return not _closed(file) and _readable(file)


def read(file: Any, size: Any = -1) -> bytes | None:
    """`FileIO.read`."""
    if size is None:
        size = -1
    elif not isinstance(size, int):
        try:
            size = index(size)
        except TypeError:
            return _read(file, size)  # type: ignore[no-any-return]  # refuses
    if not _may_read(file) or not -sys.maxsize <= size <= sys.maxsize:
        return _read(file, size)  # type: ignore[no-any-return]  # so does it here
    me: Parker = cooperative()
    if size < 0:
        return _read_all(me, file)
    return read_some(me, _fileno(file), min(size, _MOST))


def readall(file: Any) -> bytes | None:
    """`FileIO.readall`."""
    return _readall(file) if _closed(file) else _read_all(cooperative(), file)


def _read_all(me: Parker, file: Any) -> bytes | None:
    """Up to the end; None, or what there is, if a descriptor in non-blocking mode has no more now.

    Cancelled, a regular file is back where it was. Nothing that came out of a pipe can be put back into it. As in C, each
    part is read from the descriptor that the file has by then: closed meanwhile, it has none.
    """
    parts: list[bytes] = []
    size = _CHUNK
    fd = _descriptor(file)
    is_regular = file_type(fd) == stat.S_IFREG
    if is_regular:
        # One more than there is: so the first read gives everything, and the second the end.
        size = max(os.fstat(fd).st_size - os.lseek(fd, 0, os.SEEK_CUR), 0) + 1
    try:
        while part := read_some(me, _descriptor(file), min(max(size, _CHUNK), _MOST)):
            parts.append(part)
    except Cancelled:
        if is_regular:
            with suppress(OSError):  # it was closed meanwhile
                os.lseek(_descriptor(file), -sum(map(len, parts)), os.SEEK_CUR)
        raise
    return part if part is None and not parts else b"".join(parts)


def _descriptor(file: Any) -> int:
    try:
        return _fileno(file)  # type: ignore[no-any-return]
    except ValueError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None


def readinto(file: Any, buffer: Any) -> int | None:
    """`FileIO.readinto`."""
    if not _may_read(file):
        return _readinto(file, buffer)  # type: ignore[no-any-return]  # refuses
    try:
        with memoryview(buffer) as held, held.cast("B") as view:
            if not view.readonly:
                return read_into(cooperative(), _fileno(file), view)
    except TypeError:
        pass
    return _readinto(file, buffer)  # type: ignore[no-any-return]


def write(file: Any, data: Any) -> int | None:
    """`FileIO.write`."""
    if _closed(file) or not _writable(file):
        return _write(file, data)  # type: ignore[no-any-return]  # refuses
    try:
        return _descriptors.write(_fileno(file), data)
    except BlockingIOError:
        return None


def truncate(file: Any, size: Any = None) -> Any:
    """`FileIO.truncate`."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if _closed(file) or not _writable(file):
        return _truncate(file, size)  # refuses
    if size is None:
        size = os.lseek(_fileno(file), 0, os.SEEK_CUR)
    try:
        length = index(size)
    except TypeError:
        return _truncate(file, size)
    if length < 0 or length >= 1 << 63:
        return _truncate(file, size)
    change_on_worker(me, (_fileno(file),), _ftruncate, length)
    return size


_ftruncate = original(builtin(posix, "ftruncate"))


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    table: dict[str, Callable[..., Any]] = {
        "read": read,
        "readall": readall,
        "readinto": readinto,
        "write": write,
        "truncate": truncate,
    }
    return [Leaf(f"io.FileIO.{name}", method(_io.FileIO, name), leaf) for name, leaf in table.items()]
