"""Messages of `multiprocessing` (Connection, and so Queue, SimpleQueue, Pool, managers): whole, or not at all.

A message takes several system calls: its length, then its parts. Who is cancelled between two of them would leave the
rest of it in the pipe, and whoever reads next, in this process or another, would take that for the beginning of one.

    1. the thread waits until the message begins: something is there to read, or there is room to write. A cancel point
    2. CPython's own function moves the message. From here on the thread is patient, as for mutual exclusion (design §3.2,
       rule 4): what has begun ends soon as a rule, and for a peer that stops in the middle there is the grace

Who is cancelled in the first step has taken nothing, and sent nothing. If the grace runs out in the second the connection
is of no use any more, as after any exception there.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from plait._core import READ, WRITE, Parker, check_entry, patiently
from plait._native import cooperative, poll_now
from plait.patch._closing import wait_open
from plait.patch._late import late_leaves
from plait.patch._registry import ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch

_MODULE = "multiprocessing.connection"
_RECEIVE = f"{_MODULE}.Connection._recv_bytes"
_SEND = f"{_MODULE}.Connection._send_bytes"


class _Tally(threading.local):
    """What the calling thread has moved."""

    owed = 0  # messages that it has begun to send, less those that it has received as a whole


tally = _Tally()


def _await_beginning(me: Parker, fd: int, events: int) -> None:
    """Park until `fd` is ready for `events`; not in non-blocking mode, whose error is the caller's. A cancel point."""
    if me.scope is not None:
        check_entry(me)
    while not poll_now(fd, events) and os.get_blocking(fd):
        wait_open(me, fd, events)


def _connections(_: Any) -> Sequence[ClassPatch]:
    receive, send = beneath(_RECEIVE), beneath(_SEND)  # each moves one message

    def recv_bytes(self: Any, maxsize: int | None = None) -> Any:
        me: Parker | None = cooperative()
        if me is None:
            return receive(self, maxsize)
        _await_beginning(me, self._handle, READ)
        message = patiently(me, receive, self, maxsize)
        tally.owed -= 1
        return message

    def send_bytes(self: Any, buf: Any) -> None:
        me: Parker | None = cooperative()
        if me is None:
            send(self, buf)
            return
        _await_beginning(me, self._handle, WRITE)
        tally.owed += 1
        patiently(me, send, self, buf)

    return [ClassPatch(_RECEIVE, recv_bytes), ClassPatch(_SEND, send_bytes)]


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    return late_leaves(_MODULE, [_RECEIVE, _SEND], _connections)
