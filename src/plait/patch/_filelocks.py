"""`fcntl.flock`, `fcntl.lockf`, `os.lockf` and the waiting commands of `fcntl.fcntl`: locks among processes.

The kernel cannot be polled for them, and a worker that waits for one could not be called off: the lock would be taken
one day for somebody who has gone. So they are tried without waiting, with growing pauses. A cancelled wait has not got
the lock; one that got it does not hear of the cancel.

They are mutual exclusion, and yet not patient: who holds one is another process, which our cancel does not reach, and for
as long as it likes. Clean-up that locks a file may wait for it within its grace, as for anything.

Who waits for a lock on a descriptor that is closed meanwhile gets EBADF: what has its number by then is another file.

The kernel finds deadlocks (EDEADLK) among those who wait in it alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import posix
from typing import TYPE_CHECKING, Any

from plait._core import Parker, check_entry, sleep
from plait._native import builtin, cooperative, original
from plait.patch._closing import Wait
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_flock = original(builtin(fcntl, "flock"))
_lockf = original(builtin(fcntl, "lockf"))
_fcntl = original(builtin(fcntl, "fcntl"))
_os_lockf = original(builtin(posix, "lockf"))

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05  # seconds
_NOT_WAITING = {fcntl.F_SETLKW: fcntl.F_SETLK, 38: 37}  # F_OFD_SETLKW: F_OFD_SETLK


def _attempts(call: Callable[..., Any], fd: Any, *args: Any) -> Any:
    """`call(fd, *args)`, which does not wait, until it succeeds, or `fd` is closed."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    number = fd if isinstance(fd, int) or not hasattr(fd, "fileno") else fd.fileno()  # asked for once, as in C
    if not isinstance(number, int):
        return call(fd, *args)  # refuses
    pause = _FIRST_PAUSE
    with Wait(me, number) as wait:
        wait.remember()
        while True:
            try:
                return call(number, *args)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            sleep(pause)
            wait.check()  # before the number may mean another file
            pause = min(2 * pause, _LONGEST_PAUSE)


def _waits(operation: Any) -> bool:
    return isinstance(operation, int) and not operation & (fcntl.LOCK_NB | fcntl.LOCK_UN)


def flock(fd: Any, operation: Any, /) -> None:
    """`fcntl.flock`."""
    if _waits(operation):
        _attempts(_flock, fd, operation | fcntl.LOCK_NB)
    else:
        _flock(fd, operation)


def lockf(fd: Any, cmd: Any, *args: Any) -> None:
    """`fcntl.lockf`."""
    if _waits(cmd) and cmd & (fcntl.LOCK_SH | fcntl.LOCK_EX):
        _attempts(_lockf, fd, cmd | fcntl.LOCK_NB, *args)
    else:
        _lockf(fd, cmd, *args)


def os_lockf(fd: Any, command: Any, length: Any, /) -> None:
    """`os.lockf`."""
    if isinstance(fd, int) and isinstance(command, int) and command == os.F_LOCK:
        _attempts(_os_lockf, fd, os.F_TLOCK, length)
    else:
        _os_lockf(fd, command, length)


def fcntl_(fd: Any, cmd: Any, *args: Any) -> Any:
    """`fcntl.fcntl`."""
    if isinstance(cmd, int) and cmd in _NOT_WAITING:
        return _attempts(_fcntl, fd, _NOT_WAITING[cmd], *args)
    return _fcntl(fd, cmd, *args)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [
        Leaf("fcntl.flock", builtin(fcntl, "flock"), flock),
        Leaf("fcntl.lockf", builtin(fcntl, "lockf"), lockf),
        Leaf("os.lockf", builtin(posix, "lockf"), os_lockf),
        Leaf("fcntl.fcntl", builtin(fcntl, "fcntl"), fcntl_),
    ]
