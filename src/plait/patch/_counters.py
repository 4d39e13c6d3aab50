"""eventfds: a counter says when it has room for one, not when it has for more.

Linux has no way to ask for a write that does not wait: who finds room, and writes then, blocks its carrier if another has
taken the room in between. So those who add take turns, from the look to the write. What plait does not see (other processes,
platform threads outside of all groups and time limits) takes no turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from plait._core import WRITE, Lock, sleep
from plait._native import poll_now
from plait.patch._closing import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core import Parker

T = TypeVar("T")

SIZE = 8  # of a counter, in bytes
FULL = 2**64 - 2  # the largest count
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05  # seconds


_turn = Lock()  # held from the look at the room to the write


def add(me: Parker, fd: int, value: int, write: Callable[[], T]) -> T:
    """`write()`, which adds `value` to the eventfd, when there is room for so much. A cancel point.

    While there is room, but not for all, it looks again with growing pauses.
    """
    pause = _FIRST_PAUSE
    with Wait(me, fd) as wait:
        wait.remember()
        while True:
            with _turn:
                has_any = poll_now(fd, WRITE)
                if has_any and (value <= 1 or (count_of(fd) or 0) + value <= FULL):
                    return write()
            if not has_any:
                wait.wait_ready(fd, WRITE)
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
