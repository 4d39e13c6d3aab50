"""The rarer system calls on files. Positional and scattered reads and writes, and from 3.14 on `os.readinto`, are made of
`os.read` and `os.write`, or of the same at an offset; what waits for the disk, and for nothing else, is left to a worker.

`os.splice` moves what it can without waiting, and parks on the side that is not ready. Its flag not to wait binds the
pipe alone. So a socket that takes from a pipe is out of blocking mode for the call (`_native/modes.pxi`), and what else may
have no room, a terminal say, is left to a worker.
"""

from __future__ import annotations

import errno
import mmap
import os
import posix
import stat
import sys
from contextlib import nullcontext
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import READ, WRITE, Parker, check_entry, keeping, runtime
from plait._native import (
    address_of,
    builtin,
    cooperative,
    file_type,
    is_in_blocking_mode,
    original,
    outside_blocking_mode,
    poll_now,
    read_nowait,
    size_of,
    sync_memory,
    write_nowait,
)
from plait.patch import _descriptors
from plait.patch._closing import Wait
from plait.patch._descriptors import read_into
from plait.patch._registry import ClassPatch, Leaf, method
from plait.patch._workers import (
    change_on_worker,
    is_direct,
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

_readv = original(builtin(posix, "readv"))
_writev = original(builtin(posix, "writev"))
_preadv = original(builtin(posix, "preadv"))
_pwritev = original(builtin(posix, "pwritev"))
_splice = original(builtin(posix, "splice"))
_copy_file_range = original(builtin(posix, "copy_file_range"))
_sync = original(builtin(posix, "sync"))
_flush = original(method(mmap.mmap, "flush"))


def _knows_the_rest() -> bool:
    """Whether for `mmap.flush` a size of -1 is all that is left, and the size of who gives none; else it is the mapping's."""
    with mmap.mmap(-1, mmap.PAGESIZE) as mapping:
        try:
            _flush(mapping, 0, -1)
        except ValueError:
            return False
    return True


_KNOWS_THE_REST = _knows_the_rest()
_MOST_PARTS = 1024  # IOV_MAX
_SPLICE_F_NONBLOCK = 2
_WAITING_FLAGS = os.RWF_HIPRI | os.RWF_DSYNC | os.RWF_SYNC | getattr(os, "RWF_APPEND", 0)


def pread(fd: Any, length: Any, offset: Any, /) -> bytes:
    """`os.pread`."""
    if not (is_number(fd) and isinstance(length, int) and isinstance(offset, int)) or length < 0 or offset < 0:
        return _originals.os_pread(fd, length, offset)  # converts, or refuses
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if is_pollable(fd):
        return _originals.os_pread(fd, length, offset)
    data = read_nowait(fd, length, offset)
    if data is None or data is NotImplemented:
        return on_worker(me, (fd,), _originals.os_pread, length, offset)  # type: ignore[no-any-return]
    if data and len(data) < length:  # no more of it is in the page cache, or it ends there
        rest = read_nowait(fd, length - len(data), offset + len(data))
        if rest is None or rest is NotImplemented:
            return on_worker(me, (fd,), _originals.os_pread, length, offset)  # type: ignore[no-any-return]
        data += rest
    return data  # type: ignore[no-any-return]


def pwrite(fd: Any, data: Any, offset: Any, /) -> int:
    """`os.pwrite`."""
    size = size_of(data)
    if not (is_number(fd) and isinstance(offset, int)) or offset < 0:
        return _originals.os_pwrite(fd, data, offset)  # converts, or refuses
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if is_pollable(fd):
        return _originals.os_pwrite(fd, data, offset)
    begun = write_nowait(fd, data, 0, offset)
    if begun == size:
        return size
    if begun is NotImplemented and not write_waits(fd, size):
        return _originals.os_pwrite(fd, data, offset)
    if is_direct(fd):
        return write_aligned(me, fd, [data], offset)
    done: int = 0 if begun is NotImplemented else begun or 0
    with memoryview(data) as held, held.cast("B") as view, view[done:] as rest:
        kept = unchanging(rest)
    with keeping(me) if done else nullcontext():  # a file that is written at its end has these already
        done += change_on_worker(me, (fd,), _originals.os_pwrite, kept, offset + done)
    return done


def readv(fd: Any, buffers: Any, /) -> int:
    """`os.readv`."""
    room = _room_in(buffers)
    if room is None or not is_number(fd):
        return _readv(fd, buffers)  # type: ignore[no-any-return]  # converts, or refuses
    if is_direct(fd):
        return read_aligned(cooperative(), fd, buffers)
    return _scattered(_descriptors.read(fd, room), buffers)


def _readinto() -> list[Leaf]:
    """The leaf for `os.readinto`, if this version has it."""
    if not hasattr(posix, "readinto"):
        return []
    target = builtin(posix, "readinto")
    call: Callable[..., Any] = original(target)

    def readinto(fd: Any, buffer: Any, /) -> int:
        if not isinstance(fd, int) or _room_in((buffer,)) is None:
            return call(fd, buffer)  # type: ignore[no-any-return]  # converts, or refuses
        with memoryview(buffer) as held, held.cast("B") as view:
            got = read_into(cooperative(), fd, view)
        if got is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return got

    return [Leaf("os.readinto", target, readinto)]


def preadv(fd: Any, buffers: Any, offset: Any, flags: int = 0, /) -> int:
    """`os.preadv`."""
    room = _room_in(buffers)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if room is None or not is_number(fd) or not isinstance(offset, int) or not _may_wait(flags):
        return _preadv(fd, buffers, offset, flags)  # type: ignore[no-any-return]  # refuses, or does not wait
    if offset == -1 and (not flags or is_pollable(fd)):  # the file's position; pipes do not care for flags
        return readv(fd, buffers)
    if (flags or is_direct(fd)) and not is_pollable(fd):
        return read_aligned(me, fd, buffers, offset, flags)
    return _preadv(fd, buffers, offset, flags) if flags else _scattered(pread(fd, room, offset), buffers)


def writev(fd: Any, buffers: Any, /) -> int:
    """`os.writev`."""
    data = _joined(buffers)
    if data is None or not is_number(fd):
        return _writev(fd, buffers)  # type: ignore[no-any-return]  # converts, or refuses
    return write_aligned(cooperative(), fd, buffers) if is_direct(fd) else _descriptors.write(fd, data)


def pwritev(fd: Any, buffers: Any, offset: Any, flags: int = 0, /) -> int:
    """`os.pwritev`."""
    data = _joined(buffers)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if data is None or not is_number(fd) or not isinstance(offset, int) or not _may_wait(flags):
        return _pwritev(fd, buffers, offset, flags)  # type: ignore[no-any-return]  # refuses, or does not wait
    if is_direct(fd):
        at = (offset, flags) if flags or offset != -1 else ()
        return write_aligned(me, fd, buffers, *at)
    if offset == -1 and (not flags or is_pollable(fd)):  # the file's position; pipes do not care for flags
        return _descriptors.write(fd, data)
    if flags and file_type(fd) == stat.S_IFREG:  # to be on the disk when it returns
        return change_on_worker(me, (fd,), _pwritev, [data], offset, flags)  # type: ignore[no-any-return]
    return _pwritev(fd, buffers, offset, flags) if flags else pwrite(fd, data, offset)


def _may_wait(flags: Any) -> bool:
    """Whether a call with these flags waits as one without does. The kernel refuses those that it does not know."""
    return isinstance(flags, int) and not flags & ~_WAITING_FLAGS


def _room_in(buffers: Any) -> int | None:
    """How many bytes fit into `buffers`; None if they are not what the original takes."""
    if not isinstance(buffers, (list, tuple)) or not 0 < len(buffers) <= _MOST_PARTS:
        return None
    room = 0
    for buffer in buffers:
        try:
            with memoryview(buffer) as view:
                if view.readonly or not view.contiguous:
                    return None
                room += view.nbytes
        except TypeError:
            return None
    return room


def _scattered(data: bytes, buffers: Any) -> int:
    done = 0
    for buffer in buffers:
        with memoryview(buffer) as held, held.cast("B") as view:
            part = data[done : done + view.nbytes]
            view[: len(part)] = part
        done += len(part)
    return done


def _joined(buffers: Any) -> bytes | None:
    if not isinstance(buffers, (list, tuple)) or len(buffers) > _MOST_PARTS:
        return None
    try:
        return b"".join(buffers)
    except (TypeError, BufferError):
        return None


def splice(src: int, dst: int, count: int, offset_src: Any = None, offset_dst: Any = None, flags: int = 0) -> int:
    """`os.splice`."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    try:
        numbers = index(src), index(dst), index(count)
    except TypeError:
        return _splice(src, dst, count, offset_src, offset_dst, flags)  # type: ignore[no-any-return]  # refuses
    src, dst, count = numbers
    if not (is_number(src) and is_number(dst) and isinstance(flags, int) and 0 < count <= sys.maxsize):
        return _splice(src, dst, count, offset_src, offset_dst, flags)  # type: ignore[no-any-return]  # likewise, or does nothing
    at = {"offset_src": offset_src, "offset_dst": offset_dst}
    ends = [(fd, events) for fd, events in ((src, READ), (dst, WRITE)) if is_pollable(fd)]
    job = (src, dst), _splice_onto, count, flags | _SPLICE_F_NONBLOCK, at
    if flags & _SPLICE_F_NONBLOCK or not all(_is_blocking(fd) for fd, _ in ends):
        if len(ends) < 2:  # it waits for the disk in spite of that
            return change_on_worker(me, *job)  # type: ignore[no-any-return]
        return _splice(src, dst, count, flags=flags, **at)  # type: ignore[no-any-return]
    attempt = partial(_splice, src, dst, count, flags=flags | _SPLICE_F_NONBLOCK, **at)
    with Wait(me, src, dst) as wait:
        wait.remember()
        while True:
            for fd, events in ends:
                while not poll_now(fd, events):
                    wait.wait_ready(fd, events)
            wait.check()  # who has closed the other one meanwhile may have opened another file
            try:
                if len(ends) < 2:  # a pipe, and what may wait for the disk
                    return change_on_worker(me, *job)  # type: ignore[no-any-return]
                kind = file_type(dst)
                if kind == stat.S_IFIFO:
                    return attempt()  # type: ignore[no-any-return]
                if kind == stat.S_IFSOCK:
                    return outside_blocking_mode(dst, None, attempt)  # type: ignore[no-any-return]
                return on_worker(me, *job, is_apart=True)  # type: ignore[no-any-return]
            except BlockingIOError:
                continue


def _is_blocking(fd: int) -> bool:
    """Of a pollable file. Of a socket, the mode may be another for the moment of somebody else's call."""
    return is_in_blocking_mode(fd) if file_type(fd) == stat.S_IFSOCK else os.get_blocking(fd)


def _splice_onto(src: int, dst: int, count: int, flags: int, at: dict[str, Any]) -> int:
    return _splice(src, dst, count, flags=flags, **at)  # type: ignore[no-any-return]


def sync() -> None:
    """`os.sync`."""
    runtime.offload.call(cooperative(), _sync)


def flush(mapping: Any, *args: Any, **kwargs: Any) -> Any:
    """`mmap.flush`. The original keeps the GIL; so the worker is given the address, which closing may make invalid, no more."""
    place = _to_flush(mapping, *args) if len(args) <= 2 and not kwargs else None
    if place is None:
        return _flush(mapping, *args, **kwargs)  # refuses, or has nothing to write
    runtime.offload.call(cooperative(), sync_memory, *place)
    return None


def _to_flush(mapping: Any, offset: Any = 0, *sizes: Any) -> tuple[int, int] | None:
    """The address and the size of what `mmap.flush` writes; None if it does not."""
    try:
        offset = index(offset)
        with memoryview(mapping) as view:
            size = index(*sizes) if sizes else -1 if _KNOWS_THE_REST else view.nbytes
            if size == -1 and _KNOWS_THE_REST:
                size = view.nbytes - offset
            if view.readonly or offset < 0 or size < 0 or view.nbytes - offset < size:
                return None
            return address_of(view) + offset, size
    except (TypeError, ValueError):
        return None


def _on_disk(name: str, run: Callable[..., Any], *, takes_files: bool = False) -> Leaf:
    """A leaf whose first argument is a descriptor, or else what has one, and which always runs on a worker."""
    target = builtin(posix, name)
    call: Callable[..., Any] = original(target)

    def leaf(fd: Any, *args: Any) -> Any:
        if takes_files and hasattr(fd, "fileno"):
            fd = fd.fileno()
        if not is_number(fd) or isinstance(fd, bool) or fd < 0:
            return call(fd, *args)  # refuses, or warns
        return run(cooperative(), (fd,), call, *args)

    return Leaf(f"os.{name}", target, leaf)


def copy_file_range(src: Any, dst: Any, *args: Any, **kwargs: Any) -> Any:
    """`os.copy_file_range`."""
    try:
        fds = index(src), index(dst)
    except TypeError:
        return _copy_file_range(src, dst, *args, **kwargs)  # refuses
    if not all(map(is_number, fds)) or min(fds) < 0:
        return _copy_file_range(*fds, *args, **kwargs)  # likewise
    return change_on_worker(cooperative(), fds, _copy_onto, args, kwargs)


def _copy_onto(src: int, dst: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _copy_file_range(src, dst, *args, **kwargs)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    table: dict[str, Callable[..., Any]] = {
        "pread": pread,
        "pwrite": pwrite,
        "readv": readv,
        "preadv": preadv,
        "writev": writev,
        "pwritev": pwritev,
        "splice": splice,
        "sync": sync,
        "copy_file_range": copy_file_range,
    }
    found: list[Leaf | ClassPatch] = [Leaf(f"os.{name}", builtin(posix, name), leaf) for name, leaf in table.items()]
    found += [_on_disk(name, on_worker, takes_files=True) for name in ("fsync", "fdatasync")]
    found += [_on_disk("posix_fallocate", on_worker), _on_disk("ftruncate", change_on_worker)]
    found += _readinto()
    found.append(Leaf("mmap.mmap.flush", method(mmap.mmap, "flush"), flush))
    return found
