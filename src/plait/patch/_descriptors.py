"""`os.read`, `os.write` and `os.sendfile`: pipes, FIFOs, ttys and sockets park on the reactor; regular files are read
at once as far as they are in the page cache, and on a worker beyond that. Writing to them goes to the page cache, which
does not wait for the disk as a rule; on file systems of a network, and FUSE's, it is left to a worker.

Linux says of most files whether a call would wait (RWF_NOWAIT). A descriptor in non-blocking mode keeps its
`BlockingIOError`, unless it leads to a regular file or a block device: to these the mode means nothing, and they wait for
the disk in either. On a blocking one `os.write` writes everything, as the kernel does; cancelled half-way it returns how
much was written, as the kernel does on a signal, and the cancel comes at the next point.

Where Linux cannot say it (terminals; before 6.4 pipes, before 6.5 sockets), a poll tells that there is room for
something, not for how much, so a write could block its carrier. Sockets have a flag for one call. A pipe or a
pseudo-terminal is opened once more, as an open file of our own in non-blocking mode: the mode of the shared one is not
touched. What cannot be opened, or might take it amiss (the master side of a terminal, a real one), is written on a
worker.

A write to a regular file of which Linux does not say it is left to a worker if it is large, or if the file was opened with
O_SYNC, O_DSYNC or O_DIRECT: these wait for the disk. How a worker does it: `_workers.py`.
"""

from __future__ import annotations

import errno
import os
import posix
import stat
import sys
from contextlib import nullcontext, suppress
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import READ, WRITE, Parker, check_entry, keeping
from plait._native import (
    builtin,
    closings,
    cooperative,
    poll_now,
    read_into_nowait,
    read_nowait,
    send,
    size_of,
    socket_type,
    write_nowait,
)
from plait.patch._closing import Wait, wait_open
from plait.patch._counters import SIZE, add, count_of
from plait.patch._registry import ClassPatch, Leaf
from plait.patch._terminals import read as read_terminal
from plait.patch._terminals import timing as terminal_timing
from plait.patch._workers import (
    Held,
    change_on_worker,
    is_direct,
    is_in_memory,
    is_number,
    is_pollable,
    on_worker,
    read_aligned,
    unchanging,
    write_aligned,
    write_waits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SOCK_STREAM = 1
_PTY_SLAVES = range(136, 144)  # their device numbers
_PART = 1 << 18  # how much of a file is in memory at a time


def read(fd: int, length: int, /) -> bytes:
    """`os.read`."""
    if not is_number(fd) or not isinstance(length, int):
        return _originals.os_read(fd, length)  # converts, or refuses
    data = read_some(cooperative(), fd, length)
    if data is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return data


def read_some(me: Parker, fd: int, length: int) -> bytes | None:
    """What one read of at most `length` bytes gives; None if there is nothing, in non-blocking mode. A cancel point."""
    if me.scope is not None:
        check_entry(me)
    is_polled = False  # it was waited for: then it is no file of a disk
    while True:
        data = read_nowait(fd, length, -1, is_polled)
        if data is None:
            if not is_polled and not is_pollable(fd):  # not in the page cache
                return _read_on_worker(me, fd, length)
            if not os.get_blocking(fd):
                return None
        elif data is not NotImplemented:
            if data and len(data) < length and not is_polled and not is_pollable(fd):
                return _read_rest(me, fd, data, length)
            return data  # type: ignore[no-any-return]
        elif not is_pollable(fd):
            return _read_somewhere(me, fd, length)
        elif not os.get_blocking(fd):
            return _read_in_non_blocking_mode(fd, length)
        elif settings := terminal_timing(fd):
            return read_terminal(me, fd, length, *settings)
        elif poll_now(fd, READ):
            return _originals.os_read(fd, length)
        wait_open(me, fd, READ)
        is_polled = True


def _read_rest(me: Parker, fd: int, data: bytes, length: int) -> bytes:
    """`data` came from the page cache, which had no more of the file: what a read that waits would have given."""
    with keeping(me):
        rest = read_nowait(fd, length - len(data))
        if rest is None or rest is NotImplemented:
            rest = _read_on_worker(me, fd, length - len(data)) or b""
        return data + rest  # type: ignore[no-any-return]
    return data


def _read_somewhere(me: Parker, fd: int, length: int) -> bytes | None:
    """From a file system that cannot tell whether a read would wait: a network's, say."""
    if is_in_memory(fd) and poll_now(fd, READ):  # /proc/kmsg waits for the next message
        return _originals.os_read(fd, length)
    return _read_on_worker(me, fd, length)


def _read_on_worker(me: Parker, fd: int, length: int) -> bytes | None:
    """None only of files that heed the mode though they cannot be polled for: some of FUSE's, and /proc/kmsg."""
    try:
        return on_worker(me, (fd,), _originals.os_read, length)  # type: ignore[no-any-return]
    except BlockingIOError:
        return None


def _read_in_non_blocking_mode(fd: int, length: int) -> bytes | None:
    try:
        return _originals.os_read(fd, length)
    except BlockingIOError:
        return None


def read_into(me: Parker, fd: int, view: memoryview) -> int | None:
    """As `read_some`, into `view`: how much it was."""
    if me.scope is not None:
        check_entry(me)
    is_polled = False
    while True:
        got = read_into_nowait(fd, view, 0, -1, is_polled)
        if got is None:
            if not is_polled and not is_pollable(fd):
                return _filled(view, _read_on_worker(me, fd, view.nbytes))
            if not os.get_blocking(fd):
                return None
        elif got is not NotImplemented:
            if 0 < got < view.nbytes and not is_polled and not is_pollable(fd):
                with keeping(me), view[got:] as rest:
                    return int(got + (read_into(me, fd, rest) or 0))
            return int(got)
        elif not is_pollable(fd):
            if is_direct(fd):
                return read_aligned(me, fd, [view])
            return _filled(view, _read_somewhere(me, fd, view.nbytes))
        elif not os.get_blocking(fd):
            return _filled(view, _read_in_non_blocking_mode(fd, view.nbytes))
        elif settings := terminal_timing(fd):
            return _filled(view, read_terminal(me, fd, view.nbytes, *settings))
        elif poll_now(fd, READ):
            return _filled(view, _originals.os_read(fd, view.nbytes))
        wait_open(me, fd, READ)
        is_polled = True


def _filled(view: memoryview, data: bytes | None) -> int | None:
    if data is None:
        return None
    view[: len(data)] = data
    return len(data)


def write(fd: int, data: Any, /) -> int:
    """`os.write`."""
    if not is_number(fd):
        return _originals.os_write(fd, data)
    size = size_of(data)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    began = closings(fd)
    with memoryview(data) as held, held.cast("B") as view:
        done = write_nowait(fd, view)
        if done is NotImplemented:
            return _write_otherwise(me, fd, view)
        if done == size:
            return size
        attempt = write_nowait if is_pollable(fd) else _write_elsewhere
        if attempt is write_nowait and not os.get_blocking(fd):
            return _originals.os_write(fd, view) if done is None else int(done)
        with Wait(me, fd, since=began if done else None) as wait:
            return _write_all(wait, fd, view, attempt, done or 0)


def _write_all(wait: Wait, fd: int, view: memoryview, attempt: Callable[..., int | None], done: int = 0) -> int:
    """`attempt(fd, view, done)` until all is written, parking on `fd` in between; how much it was in the end."""
    wait.remember()
    while done < view.nbytes:
        with keeping(wait.who) if done else nullcontext():
            wait.check()
            written = attempt(fd, view, done)
            if written is None:
                wait.wait_ready(fd, WRITE)
            done += written or 0
            continue
        break
    return done


def _write_otherwise(me: Parker, fd: int, view: memoryview) -> int:
    """To a file of which Linux does not say whether a write would wait."""
    does_not_wait = not os.get_blocking(fd) if is_pollable(fd) else not write_waits(fd, view.nbytes)
    if not view.nbytes or does_not_wait:
        return _originals.os_write(fd, view)
    status = os.fstat(fd)
    if not stat.S_IFMT(status.st_mode) and view.nbytes >= SIZE and count_of(fd) is not None:
        return add(me, fd, int.from_bytes(view[:SIZE], sys.byteorder), partial(_originals.os_write, fd, view))
    with Wait(me, fd) as wait:
        return _write_in_steps(wait, fd, view, status)


def _write_in_steps(wait: Wait, fd: int, view: memoryview, status: os.stat_result) -> int:
    if not is_pollable(fd):
        return _write_all(wait, fd, view, _write_elsewhere)
    if stat.S_ISSOCK(status.st_mode):
        return _write_all(wait, fd, view, _write_to_socket)
    if not stat.S_ISFIFO(status.st_mode) and not os.isatty(fd):
        return _write_all(wait, fd, view, _write_when_ready)
    own = _opened_again(fd, status)
    if own is None:
        return _write_all(wait, fd, view, _write_elsewhere)
    try:
        return _write_all(wait, own, view, _write_to_own)
    finally:
        _originals.os_close(own)


def _opened_again(fd: int, status: os.stat_result) -> int | None:
    """An open file of our own, in non-blocking mode, for the pipe or pseudo-terminal `fd`; None if there is no way."""
    if not stat.S_ISFIFO(status.st_mode) and os.major(status.st_rdev) not in _PTY_SLAVES:
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # no /proc, no permission, or no reader: the original call says which
        return None


def _write_to_own(fd: int, view: memoryview, start: int) -> int | None:
    try:
        return _originals.os_write(fd, view[start:])
    except BlockingIOError:
        return None


def _write_to_socket(fd: int, view: memoryview, start: int) -> int | None:
    return send(fd, view, 0, start)


def _write_when_ready(fd: int, view: memoryview, start: int) -> int | None:
    return _originals.os_write(fd, view[start:]) if poll_now(fd, WRITE) else None


def _write_elsewhere(fd: int, view: memoryview, start: int) -> int:
    me: Parker = cooperative()
    if is_direct(fd):
        return write_aligned(me, fd, [view[start:]])
    call = _originals.os_write, unchanging(view[start:])
    if is_pollable(fd):  # it waits for whoever reads
        return on_worker(me, (fd,), *call, is_apart=True)  # type: ignore[no-any-return]
    return change_on_worker(me, (fd,), *call)  # type: ignore[no-any-return]


def sendfile(out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
    """`os.sendfile`. It has no flag not to wait for the disk, so into a stream the file goes by way of our memory.

    As the kernel does there, it goes on until `count` bytes are sent, or the file ends, or a stream in non-blocking mode
    has no room; cancelled half-way, or with one of the two closed, it returns how much was sent. From what is no regular
    file, or into what is no stream, the original sends, on a worker.
    """
    try:
        numbers = index(out_fd), index(in_fd), offset if offset is None else index(offset), index(count)
    except TypeError:
        return _originals.os_sendfile(out_fd, in_fd, offset, count)  # refuses
    out_fd, in_fd, offset, count = numbers
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    is_sensible = is_number(out_fd) and is_number(in_fd) and 0 < count <= sys.maxsize
    if not is_sensible or (offset is not None and offset < 0):
        return _originals.os_sendfile(*numbers)  # has nothing to send, or refuses
    is_stream = socket_type(out_fd) == _SOCK_STREAM or stat.S_ISFIFO(os.fstat(out_fd).st_mode)
    if not is_stream or not stat.S_ISREG(os.fstat(in_fd).st_mode) or is_direct(in_fd):
        job = (out_fd, in_fd), _originals.os_sendfile, offset, count
        if is_pollable(out_fd):  # it waits for whoever reads
            return on_worker(me, *job, is_apart=True)  # type: ignore[no-any-return]
        return change_on_worker(me, *job)  # type: ignore[no-any-return]
    held = Held(in_fd)
    start = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
    done = 0
    try:
        with Wait(me, out_fd) as wait:
            wait.remember()
            while done < count:
                with keeping(me) if done else nullcontext():
                    part = _read_at(me, in_fd, min(count - done, _PART), start + done)
                    wait.check()  # who has closed `out_fd` meanwhile may have opened another file
                    written = write(out_fd, part)
                    done += written
                    if 0 < written == len(part):
                        continue
                break
    finally:
        if offset is None:
            with suppress(OSError):  # it was closed meanwhile
                os.lseek(in_fd, start + done, os.SEEK_SET)
        held.let_go()
    return done


def _read_at(me: Parker, fd: int, size: int, offset: int) -> bytes:
    data = read_nowait(fd, size, offset)
    if data is None or data is NotImplemented:
        data = on_worker(me, (fd,), _originals.os_pread, size, offset)
    return data  # type: ignore[no-any-return]


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [
        Leaf("os.read", builtin(posix, "read"), read),
        Leaf("os.write", builtin(posix, "write"), write),
        Leaf("os.sendfile", builtin(posix, "sendfile"), sendfile),
    ]
