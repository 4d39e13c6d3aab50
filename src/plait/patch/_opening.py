"""`open()`, `io.FileIO` and `os.open` of a FIFO, which wait until its other side is open, too.

The other side cannot be polled for, and a worker that waits for it could not be called off: it would come out one day as
the reader or writer that nobody is any more, and take what was meant for others. So the FIFO is opened without waiting,
as open(2) does at first, and looked at with growing pauses:

    For reading: open; we count as a reader from here on, which is all that a writer waits for. Then until somebody
                 writes (tee(2) tells, and takes nothing), or has written and gone (poll(2): POLLHUP).
    For writing: open until it succeeds. It does as soon as somebody reads, or waits in open(2) for us.

Then the descriptor gets the blocking mode that was asked for. Who is cancelled looks once more: a writer that has come
meanwhile has opened a FIFO with a reader, so the wait was complete, and the cancel comes at the next point. Else it
closes the descriptor; a writer that comes between these two finds a reader that opened the FIFO and left.

Any other file is opened as ever: a directory entry is in memory as a rule. `FileIO` opens a FIFO through its `opener`,
which becomes our `os.open`.
"""

from __future__ import annotations

import _io
import errno
import os
import posix
import stat
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import READ, Counter, Parker, check_entry, now, retract, sleep, wait_descriptor
from plait._errors import Cancelled
from plait._native import builtin, cooperative, has_writer, opening_call, opening_replace, original, poll_now
from plait.patch._registry import Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch

_open = original(builtin(posix, "open"))

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds
_POLLHUP = 0x010

_parks = Counter()  # in `init`


def os_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """`os.open`."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    waits = isinstance(flags, int) and not flags & (os.O_NONBLOCK | os.O_PATH) and flags & os.O_ACCMODE != os.O_RDWR
    if waits and _is_fifo(path, dir_fd):
        return _open_fifo(me, path, flags, mode, dir_fd)
    return _open(path, flags, mode, dir_fd=dir_fd)  # type: ignore[no-any-return]


def _is_fifo(path: Any, dir_fd: int | None = None) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path, dir_fd=dir_fd).st_mode)
    except (OSError, OverflowError, TypeError, ValueError):
        return False  # the original says what is wrong


def _open_fifo(me: Parker, path: Any, flags: int, mode: int, dir_fd: int | None) -> int:
    pause = _FIRST_PAUSE
    while True:
        try:
            fd: int = _open(path, flags | os.O_NONBLOCK, mode, dir_fd=dir_fd)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    try:
        if flags & os.O_ACCMODE == os.O_RDONLY:
            _await_writer(me, fd)
        os.set_blocking(fd, True)
    except BaseException:
        _originals.os_close(fd)
        raise
    return fd


def _await_writer(me: Parker, fd: int) -> None:
    pause = _FIRST_PAUSE
    while not _has_come(fd):
        try:
            wait_descriptor(me, fd, READ, now() + pause)
        except Cancelled:
            if not _has_come(fd):
                raise
            retract(me)
            return
        pause = min(2 * pause, _LONGEST_PAUSE)


def _has_come(fd: int) -> bool:
    """Whether there is a writer, or was one."""
    return bool(poll_now(fd, READ) or has_writer(fd))


def _opener(path: Any, flags: int) -> int:
    return os_open(path, flags, 0o666)


def init(file: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
    """`FileIO.__init__`."""
    named = dict(kwargs or ())
    name = args[0] if args else named.get("file")
    has_opener = len(args) > 3 or named.get("opener") is not None
    if len(args) == 4 and args[3] is None:
        args, has_opener = args[:3], False
    closefd = args[2] if len(args) > 2 else named.get("closefd", True)
    me: Parker = cooperative()
    if not has_opener and closefd and isinstance(name, (str, bytes, os.PathLike)):
        if me.scope is not None:
            check_entry(me)
        if _is_fifo(name):
            named["opener"] = _opener
    before = me.park_count
    try:
        opening_call(file, args, named)
    finally:
        if me.park_count != before:
            _parks.add(me.park_count - before)


class _Opening:
    """The slot behind `FileIO.__init__`."""

    name = "io.FileIO.__init__"

    def __init__(self) -> None:
        self.is_in_place = False

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        return _parks.value()

    def put(self) -> None:
        """See `Patch`."""
        opening_replace(_io.FileIO, _io.FileIO.__dict__["__init__"], init)
        self.is_in_place = True

    def take(self) -> None:
        """See `Patch`."""
        opening_replace(_io.FileIO, _io.FileIO.__dict__["__init__"], None)
        self.is_in_place = False


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    return [Leaf("os.open", builtin(posix, "open"), os_open), _Opening()]
