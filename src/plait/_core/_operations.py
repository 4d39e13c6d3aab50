"""Operations on stream sockets: tried without waiting, else parked on the reactor. What `socket`'s methods become.

Here, not among the leaves, because the core compiles them; each has the signature of the method that it stands in for.

A read that came back short has emptied a stream, so the next one parks first instead of asking for EAGAIN; not after
the peer has hung up, when no further edge would come.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core._cancel import check_entry
from plait._core._clock import now
from plait._core._poller import READ, WRITE
from plait._core._reactor import Descriptor, wait_descriptor
from plait._core._vthread import VirtualThread
from plait._native._native import cooperative
from plait._native._native import recv as _native_recv
from plait._native._native import recv_into as _native_recv_into
from plait._native._native import send as _native_send
from plait._native._native import socket_fd as _fileno
from plait._native._native import socket_timeout as _gettimeout
from plait._originals import Socket

if TYPE_CHECKING:
    from plait._core._parking import Parker

_type = Socket.type.__get__
_SOCK_STREAM = 1
_DONTWAIT = 0x40  # MSG_DONTWAIT: the caller would rather have BlockingIOError


def late() -> TimeoutError:
    """What CPython raises when a socket's timeout has passed."""
    return TimeoutError("timed out")


def await_socket(me: Parker, sock: Any, fd: int, events: int, deadline: float | None) -> None:
    """Park until `sock` may be ready; `TimeoutError` if the instant `deadline` comes first."""
    if isinstance(me, VirtualThread):
        thread: VirtualThread = me
        reactor = thread.carrier.reactor  # type: ignore[union-attr]
        is_in_time = reactor.wait(thread, reactor.owned(fd, sock), events, deadline)
    else:
        is_in_time = wait_descriptor(me, fd, events, deadline)
    if not is_in_time:
        raise late()
    if _fileno(sock) != fd:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _entry(me: VirtualThread, sock: Any, fd: int) -> Descriptor:
    """What the reactor of a virtual thread knows of the socket."""
    entry = me.carrier.reactor.owned(fd, sock)  # type: ignore[union-attr]
    if entry.is_stream is None:
        entry.is_stream = _type(sock) & 0xF == _SOCK_STREAM
    return entry


def recv(sock: Any, size: int, flags: int = 0, /) -> bytes:
    """`socket.recv`."""
    timeout = _gettimeout(sock)
    fd = _fileno(sock)
    if (timeout is not None and timeout == 0) or fd < 0 or size == 0 or flags & _DONTWAIT:
        return _originals.sock_recv(sock, size, flags)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    while True:
        if entry is None or entry.readable:
            got = _native_recv(fd, size, flags)
            if got is not None:
                if entry is not None and 0 < len(got) < size:
                    _note_short(entry, flags)
                return got
            if entry is not None:
                entry.readable = False
        await_socket(me, sock, fd, READ, deadline)


def _note_short(entry: Descriptor, flags: int) -> None:
    """A read came back with less than was asked for: nothing is left, if this is a stream that has not ended."""
    if entry.is_stream and not flags and not entry.has_ended:
        entry.readable = False


def recv_into(sock: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
    """`socket.recv_into`."""
    timeout = _gettimeout(sock)
    fd = _fileno(sock)
    if (timeout is not None and timeout == 0) or fd < 0 or flags & _DONTWAIT:
        return _originals.sock_recv_into(sock, buffer, nbytes, flags)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    while True:
        if entry is None or entry.readable:
            got = _native_recv_into(fd, buffer, nbytes, flags)
            if got is not None:
                if entry is not None and 0 < got < (nbytes or memoryview(buffer).nbytes):
                    _note_short(entry, flags)
                return got
            if entry is not None:
                entry.readable = False
        await_socket(me, sock, fd, READ, deadline)


def _send_some(me: Parker, sock: Any, data: Any, flags: int, start: int, deadline: float | None) -> int:
    while True:
        fd = _fileno(sock)
        sent: int | None = _native_send(fd, data, flags, start)
        if sent is not None:
            return sent
        await_socket(me, sock, fd, WRITE, deadline)


def send(sock: Any, data: Any, flags: int = 0, /) -> int:
    """`socket.send`."""
    timeout = _gettimeout(sock)
    if (timeout is not None and timeout == 0) or _fileno(sock) < 0 or flags & _DONTWAIT:
        return _originals.sock_send(sock, data, flags)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    return _send_some(me, sock, data, flags, 0, None if timeout is None else now() + timeout)


def sendall(sock: Any, data: Any, flags: int = 0, /) -> None:
    """`socket.sendall`. Cancelled half-way, part of the data has been sent, as CPython documents for any error."""
    timeout = _gettimeout(sock)
    if (timeout is not None and timeout == 0) or _fileno(sock) < 0 or flags & _DONTWAIT:
        _originals.sock_sendall(sock, data, flags)
        return
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    if type(data) is bytes:
        size = len(data)
    else:
        data = memoryview(data).cast("B")
        size = data.nbytes
    start = 0
    while True:
        start += _send_some(me, sock, data, flags, start, deadline)
        if start >= size:
            return
