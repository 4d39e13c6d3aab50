"""Files on a worker: what `_descriptors.py` and `_blocks.py` leave to one, where a call would wait for the disk.

A worker is given the number of its caller's file, which is held for the length of the call (`_native/holds.c`): whoever
closes the file meanwhile, the number leads to no other. And it reads into, and writes from, memory of its own, for who
is cancelled takes its buffers back.

What changes a file of this machine ends by itself, and soon, so once asked for it is waited for, whatever the scopes of
its caller say: what has been written is counted, and nothing is written behind anybody's back. The cancel comes at the
next point. Whatever else was begun can be left, and goes on by itself. What waits for somebody at the other end, as a
write to a terminal does, does not count against the limit of workers (`_core/_offload.py`).

Who loads a module while the import lock is held reads and writes files by itself (`_imports.py`).

Files opened with O_DIRECT are particular about the address of a worker's memory: there it is as aligned as the caller's
buffer is, so what fails for its alignment fails here, too.
"""

from __future__ import annotations

import mmap
import os
import posix
import stat
from _imp import lock_held as import_is_locked
from typing import TYPE_CHECKING, Any, TypeGuard

from plait import _originals
from plait._core import Parker, runtime
from plait._native import address_of, builtin, file_system, file_type, hold, let_go, original, status_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_readv = original(builtin(posix, "readv"))
_writev = original(builtin(posix, "writev"))
_preadv = original(builtin(posix, "preadv"))
_pwritev = original(builtin(posix, "pwritev"))

# File systems by their magic numbers: tmpfs, ramfs, proc, sysfs, cgroup2, cgroup wait for no disk; FUSE, NFS, CIFS, SMB,
# SMB2, Ceph, 9P, AFS (two), Coda, Lustre, GFS2, OCFS2 wait for somebody else.
_IN_MEMORY = frozenset((0x01021994, 0x858458F6, 0x9FA0, 0x62656572, 0x63677270, 0x27E0EB))
_REMOTE = frozenset(
    (
        *(0x65735546, 0x6969, 0xFF534D42, 0x517B, 0xFE534D42, 0x00C36400, 0x01021997, 0x5346414F, 0x6B414653),
        *(0x73757245, 0x0BD00BD0, 0x01161970, 0x7461636F),
    )
)
_NUMBERS = range(-(1 << 31), 1 << 31)  # C's int; of those below zero the kernel says that they are none
_NEVER_POLLED = frozenset((stat.S_IFREG, stat.S_IFBLK, stat.S_IFDIR))
_LARGE = 1 << 18  # bytes from which on a write is likely to wait until older ones are on the disk


def is_number(fd: Any) -> TypeGuard[int]:
    """Whether it can be the number of a descriptor. All else CPython converts, or refuses in its own words."""
    return isinstance(fd, int) and fd in _NUMBERS


def is_pollable(fd: int) -> bool:
    """Whether the kernel can say when `fd` is ready; regular files and block devices always claim to be."""
    return file_type(fd) not in _NEVER_POLLED


def is_in_memory(fd: int) -> bool:
    """Whether the file is nowhere else, so that nothing waits for a disk. A block device's file system is that of its name."""
    return file_type(fd) != stat.S_IFBLK and file_system(fd) in _IN_MEMORY


def is_direct(fd: int) -> bool:
    """Whether the file was opened with O_DIRECT, and so takes buffers of a certain alignment alone."""
    return status_flags(fd) & os.O_DIRECT != 0 and not is_pollable(fd)


def write_waits(fd: int, size: int) -> bool:
    """Whether writing so much to the file may wait for the disk, for another machine, or for a process."""
    if file_system(fd) in _REMOTE:
        return True
    return not is_in_memory(fd) and (size > _LARGE or status_flags(fd) & (os.O_DIRECT | os.O_DSYNC) != 0)


class Held:
    """Numbers of files, held until their call is over, or until the last reference goes if there is none.

    A socket is also closed in ways that nobody is told of. It has no record locks to lose, so it is lent as a duplicate.
    """

    def __init__(self, *fds: int) -> None:
        self.fds: list[int] = []
        self._ends: list[tuple[Any, ...]] = []
        for fd in fds:
            if file_type(fd) == stat.S_IFSOCK:
                fd = os.dup(fd)
                self._ends.append((_originals.os_close, fd))
            else:
                self._ends.append((let_go, fd, hold(fd)))
            self.fds.append(fd)

    def let_go(self) -> None:
        """They are used no more."""
        while self._ends:
            end, *numbers = self._ends.pop()
            end(*numbers)

    __del__ = let_go

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`fn(*fds, *args)`, after which they are let go."""
        try:
            return fn(*self.fds, *args)
        finally:
            self.let_go()


def on_worker(me: Parker, fds: Sequence[int], fn: Callable[..., Any], *args: Any, is_apart: bool = False) -> Any:
    """`fn(*fds, *args)` on a worker, where it goes on by itself if its caller is cancelled. A cancel point."""
    if not is_apart and _loads_locked(me):
        return fn(*fds, *args)
    return runtime.offload.call(me, Held(*fds).call, fn, args, is_apart=is_apart)


def change_on_worker(me: Parker, fds: Sequence[int], fn: Callable[..., Any], *args: Any) -> Any:
    """As `on_worker`, for what changes files, and waits for nobody at the other end: waited for, if it ends by itself."""
    if _loads_locked(me):
        return fn(*fds, *args)
    if not all(map(_ends_by_itself, fds)):
        return on_worker(me, fds, fn, *args)
    return runtime.offload.call_whole(me, Held(*fds).call, fn, args)


def _loads_locked(me: Parker) -> bool:
    return me.loads_locked and import_is_locked()


def _ends_by_itself(fd: int) -> bool:
    """Whether a call waits for the disk at most."""
    kind = file_type(fd)
    return kind == stat.S_IFIFO or (kind == stat.S_IFREG and file_system(fd) not in _REMOTE)


def unchanging(view: memoryview) -> bytes:
    """The bytes of `view`, where nobody can change them."""
    whole = view.obj
    return whole if type(whole) is bytes and len(whole) == view.nbytes else bytes(view)


def _twin(buffer: Any) -> memoryview:
    """Memory of our own, as long as `buffer` and as aligned."""
    with memoryview(buffer) as view:
        size = view.nbytes
        start = address_of(view) % mmap.PAGESIZE
    memory = mmap.mmap(-1, start + size or 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(memory)[start : start + size]


def read_aligned(me: Parker, fd: int, buffers: Sequence[Any], *at: int) -> int:
    """As `os.readv`, or as `os.preadv` with `at`, on a worker: how much it was. A cancel point."""
    twins = [_twin(buffer) for buffer in buffers]
    got: int = on_worker(me, (fd,), _preadv if at else _readv, twins, *at)
    left = got
    for buffer, twin in zip(buffers, twins, strict=True):
        with memoryview(buffer) as held, held.cast("B") as view:
            size = min(left, twin.nbytes, view.nbytes)
            view[:size] = twin[:size]
        left -= size
    return got


def write_aligned(me: Parker, fd: int, buffers: Sequence[Any], *at: int) -> int:
    """As `os.writev`, or as `os.pwritev` with `at`, on a worker: how much it was. A cancel point."""
    twins = [_twin(buffer) for buffer in buffers]
    for buffer, twin in zip(buffers, twins, strict=True):
        with memoryview(buffer) as held, held.cast("B") as view:
            twin[:] = view
    return change_on_worker(me, (fd,), _pwritev if at else _writev, twins, *at)  # type: ignore[no-any-return]
