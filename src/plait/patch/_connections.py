"""How connections begin and end: `accept`, `connect` and the close of a socket.

Linux has no flag for one call that would keep `accept` and `connect` from waiting. So the descriptor is in non-blocking
mode for the length of one attempt, which is made only when it should succeed at once (accept) or on a socket that nobody
else uses yet (connect), and again with growing pauses where the backlog of a Unix socket is full. A platform thread that
enters `accept` in that moment tries again. See docs/adr/0003.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import (
    IN_TURN,
    READ,
    WRITE,
    await_socket,
    check_entry,
    let_go,
    listens,
    now,
    pass_turn,
    patiently,
    runtime,
    sleep,
)
from plait._native import accept as take_one
from plait._native import (
    closing_begin,
    closing_is_awaited,
    connected,
    cooperative,
    is_in_blocking_mode,
    lingers,
    outside_blocking_mode,
    packed_address,
    poll_now,
    reset_modes,
)
from plait._native import connect as begin_to_connect
from plait._native import socket_fd as _fileno
from plait._native import socket_timeout as _gettimeout
from plait._originals import Socket, make_poll, poll_poll
from plait.patch._closing import closed
from plait.patch._names import numeric
from plait.patch._registry import ALWAYS, Leaf, method
from plait.patch._twins import twinned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plait._core._parking import Parker

_family = Socket.family.__get__
_type = Socket.type.__get__
_proto = Socket.proto.__get__
_AF_UNIX, _AF_INET, _AF_INET6, _AF_ALG = 1, 2, 10, 38
_SOCK_STREAM = 1
_TCP = 6
_SOL_SOCKET, _SO_ERROR, _SO_RCVTIMEO = 1, 4, 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02  # seconds between two looks where nothing can be polled for


def accept(sock: Any) -> tuple[int, Any]:
    """`socket._accept`, under `socket.accept`."""
    me: Parker | None = cooperative()
    if me is None:
        return _accept_natively(sock)
    timeout = _gettimeout(sock)
    fd = _fileno(sock)
    if timeout == 0 or fd < 0 or _family(sock) == _AF_ALG:  # the last has nobody to wait for, and cannot be polled
        return _originals.sock_accept(sock)
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    accepted: tuple[int, Any] | None = None
    # Where nobody can ever come it is refused. With a timeout CPython waits all the same.
    if poll_now(fd, READ) or (timeout is None and not listens(me, sock, fd)):
        accepted = _take(sock, fd, timeout)
    if accepted is not None:
        return accepted
    try:
        while accepted is None:
            await_socket(me, sock, fd, READ | IN_TURN, deadline)
            accepted = _take(sock, fd, timeout)
    finally:
        pass_turn(me, fd)
    return accepted


def _take(sock: Any, fd: int, timeout: float | None) -> tuple[int, Any] | None:
    """One attempt to accept; None if nobody has come."""
    family: int = _family(sock)
    if family in (_AF_INET, _AF_INET6, _AF_UNIX):
        return take_one(sock, fd)
    try:
        accepted: tuple[int, Any] = _attempt(sock, fd, timeout, _originals.sock_accept)
        return accepted
    except BlockingIOError:
        return None


def _attempt(sock: Any, fd: int, timeout: float | None, call: Callable[..., Any], *args: Any) -> Any:
    """`call(sock, *args)`, which does not wait."""
    if timeout is None:
        return outside_blocking_mode(fd, sock, call, sock, *args)
    with twinned(sock, timeout) as twin:
        return call(twin, *args)


def _accept_natively(sock: Any) -> tuple[int, Any]:
    """On a platform thread: the original, which may meet the moment in which `_attempt` has changed the mode."""
    while True:
        try:
            return _originals.sock_accept(sock)
        except BlockingIOError:
            fd = _fileno(sock)
            if _gettimeout(sock) is not None or not is_in_blocking_mode(fd):
                raise
            if any(sock.getsockopt(_SOL_SOCKET, _SO_RCVTIMEO, 16)):
                raise  # the time that this allows may be over
            poll = make_poll()
            poll.register(fd, select.POLLIN)
            poll_poll(poll)


def _connect(sock: Any, address: Any, timeout: float | None, original: Callable[..., Any]) -> int:
    """The error number of an attempt to connect, 0 if it succeeded. `original` refuses a wrong address in its words."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    family: int = _family(sock)
    peer = packed_address(family, address)
    if peer is None:
        address = numeric(family, address)
        peer = packed_address(family, address)
    if peer is not None:
        sys.audit("socket.connect", sock, address)  # CPython's own call does, which takes the others
    deadline = None if timeout is None else now() + timeout
    fd = _fileno(sock)
    try:
        failed = _attempt_to_connect(sock, fd, timeout, peer, address)
    except (TypeError, OverflowError):
        failed = original(sock, address)
    if timeout is None:
        if failed == errno.EAGAIN and family == _AF_UNIX:  # a full backlog, which cannot be polled for
            return _connect_with_pauses(sock, fd, peer, address)
        if failed == errno.EALREADY:  # an attempt that was cancelled goes on in the kernel: wait for that
            failed = errno.EINPROGRESS
    if failed != errno.EINPROGRESS:
        return failed
    pause = _FIRST_PAUSE
    while True:
        while not poll_now(fd, WRITE):
            await_socket(me, sock, fd, WRITE, deadline)
        if timeout is not None or not _is_tcp(sock):
            break
        failed = connected(sock, fd)
        if failed != errno.EINPROGRESS:
            return failed
        sleep(pause)  # it was shut down before it was connected, and hangs up whatever becomes of it
        pause = min(2 * pause, _LONGEST_PAUSE)
    return int(sock.getsockopt(_SOL_SOCKET, _SO_ERROR))


def _attempt_to_connect(sock: Any, fd: int, timeout: float | None, peer: bytes | None, address: Any) -> int:
    if peer is not None:
        return begin_to_connect(sock, fd, peer)
    failed: int = _attempt(sock, fd, timeout, _originals.sock_connect_ex, address)
    return failed


def _is_tcp(sock: Any) -> bool:
    return _family(sock) in (_AF_INET, _AF_INET6) and _type(sock) & 0xF == _SOCK_STREAM and _proto(sock) in (0, _TCP)


def _connect_with_pauses(sock: Any, fd: int, peer: bytes | None, address: Any) -> int:
    """Until a Unix listener has room: that cannot be polled for, and who waits in connect(2) cannot be called off."""
    pause = _FIRST_PAUSE
    while True:
        sleep(pause)
        if _fileno(sock) != fd:
            return errno.EBADF
        failed = _attempt_to_connect(sock, fd, None, peer, address)
        if failed != errno.EAGAIN:
            return failed
        pause = min(2 * pause, _LONGEST_PAUSE)


def connect(sock: Any, address: Any, /) -> None:
    """`socket.connect`."""
    timeout = _gettimeout(sock)
    if timeout == 0 or _fileno(sock) < 0:
        _originals.sock_connect(sock, address)
        return
    failed = _connect(sock, address, timeout, _originals.sock_connect)
    if failed:
        raise OSError(failed, os.strerror(failed))


def connect_ex(sock: Any, address: Any, /) -> int:
    """`socket.connect_ex`."""
    timeout = _gettimeout(sock)
    if timeout == 0 or _fileno(sock) < 0:
        return _originals.sock_connect_ex(sock, address)
    try:
        return _connect(sock, address, timeout, _originals.sock_connect_ex)
    except TimeoutError:
        return errno.EAGAIN


def close(sock: Any) -> None:
    """`socket.close`: wakes those who are parked on it, on whatever thread. They find it closed."""
    fd = _fileno(sock)
    if fd >= 0:
        closing_begin(fd)
    me: Parker | None = cooperative()
    if me is not None and fd >= 0 and _lingers(sock, fd):
        patiently(me, runtime.offload.call, me, _originals.sock_close, sock)
    else:
        _originals.sock_close(sock)
    if fd >= 0 and runtime.is_started:
        let_go(me, sock, fd)
        if closing_is_awaited(fd):
            closed(fd)


def _lingers(sock: Any, fd: int) -> bool:
    """Whether its end may wait until what was sent has arrived. (A connection has that from its listener, too.)"""
    family: int = _family(sock)
    return family in (_AF_INET, _AF_INET6) and lingers(fd)


def leaves() -> Sequence[Leaf]:
    """What this file makes cooperative."""
    return [
        Leaf("socket.socket.accept", method(Socket, "_accept"), accept, when=ALWAYS),
        Leaf("socket.socket.connect", method(Socket, "connect"), connect),
        Leaf("socket.socket.connect_ex", method(Socket, "connect_ex"), connect_ex),
        Leaf("socket.socket.close", method(Socket, "close"), close, when=ALWAYS),
    ]


os.register_at_fork(after_in_child=reset_modes)
