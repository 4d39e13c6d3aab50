"""Terminals in non-canonical mode: how long a read waits is up to their VMIN and VTIME (termios(3)).

poll(2) knows of these by halves: it tells of the first byte, or of VMIN of them where VTIME is zero. The rest is done
here, as the kernel does it:

    VMIN 0, VTIME 0   what there is, at once
    VMIN 0            what there is; if nothing, the first bytes that come within VTIME, or none
    VTIME 0           as soon as VMIN bytes are there, or as many as were asked for, if those are less
    both              likewise, but no later than VTIME after the last byte that came
A read that is cancelled with bytes in hand returns them, as the kernel does on a signal.
"""

from __future__ import annotations

import array
import fcntl
import os
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from plait import _originals
from plait._core import READ, Parker, keeping, now
from plait._native import builtin, original, poll_now
from plait.patch._closing import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

_ioctl: Callable[..., object] = original(builtin(fcntl, "ioctl"))

_MASTER = os.makedev(5, 2)  # the device of the master sides of pseudo-terminals
_LFLAG, _CC = 3, 6  # places in what tcgetattr() gives
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds


def timing(fd: int) -> tuple[int, float] | None:
    """VMIN, and VTIME in seconds, of a terminal of which poll(2) does not say all; None for any other file.

    The master side of a pseudo-terminal shows the settings of the other, and reads without regard to them.
    """
    if not os.isatty(fd):
        return None
    settings = termios.tcgetattr(fd)
    if settings[_LFLAG] & termios.ICANON:
        return None
    least, tenths = (value if isinstance(value, int) else value[0] for value in _timing_of(settings))
    if (least, tenths) == (1, 0) or os.fstat(fd).st_rdev == _MASTER:
        return None
    return least, tenths / 10


def _timing_of(settings: list[object]) -> tuple[int | bytes, int | bytes]:
    characters = settings[_CC]
    assert isinstance(characters, list)
    return characters[termios.VMIN], characters[termios.VTIME]


def read(me: Parker, fd: int, length: int, least: int, patience: float) -> bytes:
    """What one read of at most `length` bytes gives. A cancel point."""
    with Wait(me, fd) as wait:
        wait.remember()
        return _read(wait, fd, length, min(least, length), patience)


def _read(wait: Wait, fd: int, length: int, least: int, patience: float) -> bytes:
    if not least:
        if patience and length and not poll_now(fd, READ):
            wait.wait_ready(fd, READ, now() + patience)
        return _originals.os_read(fd, length if poll_now(fd, READ) else 0)
    if not patience:
        _wait_for(wait, fd, least)
        return _originals.os_read(fd, length)
    while not poll_now(fd, READ):
        wait.wait_ready(fd, READ)
    data = _originals.os_read(fd, min(length, _waiting(fd) or 1))
    while data and len(data) < least:
        with keeping(wait.who):
            wait.check()
            if poll_now(fd, READ) or wait.wait_ready(fd, READ, now() + patience):
                more = _originals.os_read(fd, min(length - len(data), _waiting(fd) or 1))
                data += more
                if more:
                    continue
        break
    return data


def _wait_for(wait: Wait, fd: int, least: int) -> None:
    """Until `least` bytes are there, or the other side has gone. poll(2) waits for VMIN, which may be more."""
    pause = _FIRST_PAUSE
    while _waiting(fd) < least and not poll_now(fd, READ):
        if wait.wait_ready(fd, READ, now() + pause):
            pause = _FIRST_PAUSE
        pause = min(2 * pause, _LONGEST_PAUSE)


def _waiting(fd: int) -> int:
    """How many bytes are there to read; 0 if the other side has gone, which poll(2) tells, and read(2)."""
    count = array.array("i", [0])
    with suppress(OSError):
        _ioctl(fd, termios.FIONREAD, count)
    return count[0]
