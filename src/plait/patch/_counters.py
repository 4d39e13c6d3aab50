"""eventfds: a counter says when it has room for one, not when it has for more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._core import WRITE, sleep
from plait._native import poll_now
from plait.patch._closing import Wait

if TYPE_CHECKING:
    from plait._core import Parker

SIZE = 8  # of a counter, in bytes
FULL = 2**64 - 2  # the largest count
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05  # seconds


def wait_for_room(me: Parker, fd: int, value: int) -> None:
    """Park until the eventfd has room for so much; with growing pauses while it has room, but not for all. A cancel point."""
    pause = _FIRST_PAUSE
    with Wait(me, fd) as wait:
        wait.remember()
        while True:
            if not poll_now(fd, WRITE):
                wait.wait_ready(fd, WRITE)
            elif value <= 1 or (count_of(fd) or 0) + value <= FULL:
                return
            else:
                sleep(pause)
                wait.check()
                pause = min(2 * pause, _LONGEST_PAUSE)


def count_of(fd: int) -> int | None:
    """What an eventfd has counted; None for what is none, or where the kernel does not tell."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            found = (line.partition("eventfd-count:")[2] for line in lines)
            count = next(filter(None, found), None)
    except OSError:
        return None
    return None if count is None else int(count, 16)
