"""Files on a worker: what `_descriptors.py` and `_blocks.py` leave to one, where a call would wait for the disk.

A worker has a descriptor of its own for the length of the call: who is cancelled may close the file, and the number may
lead elsewhere by the time that the worker comes to it. And it reads into, and writes from, memory of its own, for who is
cancelled takes its buffers back. Files opened with O_DIRECT are particular about the address of that memory: there it is
as aligned as the caller's buffer is, so what fails for its alignment fails here, too.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import Parker, runtime
from plait._native import address_of, file_system, file_type, original, status_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_readv = original(os.readv)
_writev = original(os.writev)
_preadv = original(os.preadv)
_pwritev = original(os.pwritev)

# File systems by their magic numbers: tmpfs, ramfs, proc, sysfs, cgroup2, cgroup wait for no disk; FUSE, NFS, CIFS, SMB,
# SMB2, Ceph, 9P, AFS (two), Coda, Lustre, GFS2, OCFS2 wait for somebody else.
_IN_MEMORY = frozenset((0x01021994, 0x858458F6, 0x9FA0, 0x62656572, 0x63677270, 0x27E0EB))
_REMOTE = frozenset(
    (
        *(0x65735546, 0x6969, 0xFF534D42, 0x517B, 0xFE534D42, 0x00C36400, 0x01021997, 0x5346414F, 0x6B414653),
        *(0x73757245, 0x0BD00BD0, 0x01161970, 0x7461636F),
    )
)
_NEVER_POLLED = frozenset((stat.S_IFREG, stat.S_IFBLK, stat.S_IFDIR))
_LARGE = 1 << 18  # bytes from which on a write is likely to wait until older ones are on the disk


def is_pollable(fd: int) -> bool:
    """Whether the kernel can say when `fd` is ready; regular files and block devices always claim to be."""
    return file_type(fd) not in _NEVER_POLLED


def is_in_memory(fd: int) -> bool:
    """Whether the file is nowhere else, so that nothing waits for a disk."""
    return file_system(fd) in _IN_MEMORY


def is_direct(fd: int) -> bool:
    """Whether the file was opened with O_DIRECT, and so takes buffers of a certain alignment alone."""
    return status_flags(fd) & os.O_DIRECT != 0 and not is_pollable(fd)


def write_waits(fd: int, size: int) -> bool:
    """Whether writing so much to the file may wait for the disk, for another machine, or for a process."""
    kind = file_system(fd)
    if kind in _REMOTE:
        return True
    return kind not in _IN_MEMORY and (size > _LARGE or status_flags(fd) & (os.O_DIRECT | os.O_DSYNC) != 0)


class Own:
    """A descriptor of our own for the file behind `fd`: closed after its call, or with the last reference if there is none."""

    fd = -1

    def __init__(self, fd: int) -> None:
        self.fd = os.dup(fd)

    def close(self, close: Callable[[int], None] = _originals.os_close) -> None:
        """Close it, if it is open."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            close(fd)

    __del__ = close

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """`fn(fd, *args)`, with ours."""
        try:
            return fn(self.fd, *args)
        finally:
            self.close()


def on_worker(me: Parker, fd: int, fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(fd, *args)` on a worker, on a descriptor of its own. A cancel point."""
    return runtime.offload.call(me, Own(fd).call, fn, args)


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
    got: int = on_worker(me, fd, _preadv if at else _readv, twins, *at)
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
    return on_worker(me, fd, _pwritev if at else _writev, twins, *at)  # type: ignore[no-any-return]
