"""Operations on stream sockets: tried without waiting, else parked on the reactor. What `socket`'s methods become.

Here, not among the leaves, because the core compiles them; each has the signature of the method that it stands in for.

A read that came back short has emptied a TCP stream, so the next one parks first instead of asking for EAGAIN. Not after
the peer has hung up, when no further edge would come; and not where urgent data may be: reads stop short at its mark. Other
streams have more such places (on Unix sockets: descriptors, and credentials of another sender), so there it proves nothing.

On a socket without a timeout the kernel moves everything in one call: `send` takes all, MSG_WAITALL gives all. What
ends such a call early ends ours the same way, and a cancel counts as the signal that it stands for: once bytes have
been moved their number is returned, and the cancel comes at the next point. So nothing is lost. An error of the socket
is not fetched while there is a number to return: it belongs to the next call.

Three differences from a blocking call on a platform thread. SO_RCVTIMEO and SO_SNDTIMEO have no effect: `settimeout` is
the limit. Nor has SO_RCVLOWAT. And a socket whose timeout is None waits even if somebody
has put its descriptor into non-blocking mode.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core._cancel import check_entry
from plait._core._poller import READ, TROUBLE, WRITE
from plait._core._reactor import IN_TURN, Descriptor, wait_descriptor
from plait._core._vthread import VirtualThread
from plait._errors import Cancelled
from plait._native import closing_enter, closing_leave
from plait._native import poll_now as _poll_now
from plait._native._native import cooperative, flags_of, now, room_in, size_of
from plait._native._native import recv as _native_recv
from plait._native._native import recv_into as _native_recv_into
from plait._native._native import send as _native_send
from plait._native._native import socket_fd as _fileno
from plait._native._native import socket_timeout as _gettimeout
from plait._originals import Socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from plait._core._parking import Parker

_type = Socket.type.__get__
_SOCK_STREAM = 1
_SOL_SOCKET, _SO_ACCEPTCONN, _SO_PROTOCOL, _TCP = 1, 30, 38, 6
_POLLERR = 0x008
_IN_TURN: int = IN_TURN
_PEEK = 0x02  # MSG_PEEK
_DONTWAIT = 0x40  # MSG_DONTWAIT: the caller would rather have BlockingIOError
_NEVER_WAITS = 0x2041  # MSG_DONTWAIT | MSG_OOB | MSG_ERRQUEUE: what the kernel has of those, it has at once
_WAITALL = 0x100  # MSG_WAITALL
_UNUSUAL = _NEVER_WAITS | _WAITALL


def late() -> TimeoutError:
    """What CPython raises when a socket's timeout has passed."""
    return TimeoutError("timed out")


def await_socket(me: Parker, sock: Any, fd: int, events: int, deadline: float | None) -> None:
    """Park until `sock` may be ready; `TimeoutError` if the instant `deadline` comes first."""
    _await_entry(me, _entry(me, sock, fd) if isinstance(me, VirtualThread) else None, sock, fd, events, deadline)


def _await_entry(me: Parker, entry: Descriptor | None, sock: Any, fd: int, events: int, deadline: float | None) -> None:
    """The same, for who has the reactor's entry of `sock` already: it is `sock`'s for as long as this thread runs."""
    if entry is not None:
        thread: VirtualThread = me  # type: ignore[assignment]
        is_in_time = thread.carrier.reactor.wait(thread, entry, events, deadline)  # type: ignore[union-attr]
    else:
        is_in_time = _wait_bare(me, sock, fd, events, deadline)
    if not is_in_time:
        raise late()
    if _fileno(sock) != fd or (entry is not None and entry.is_over):
        _refuse(me)


def pass_turn(me: Parker, fd: int) -> None:
    """`me` has waited in turn, for which `await_socket` was given IN_TURN, and leaves. Calling thread only."""
    if isinstance(me, VirtualThread):
        thread: VirtualThread = me
        thread.carrier.reactor.pass_turn(fd)  # type: ignore[union-attr]


def _wait_bare(me: Parker, sock: Any, fd: int, events: int, deadline: float | None) -> bool:
    """For a platform thread, and for a socket that no reactor may own. It is counted, so that closers tell its reactor.

    Waiter: 1. is counted   2. is in the reactor's entry of the number [fence]   3. looks whether the socket is open
    Closer: 1. closes [fence]   2. has the reactor forget the entry, if there is one
    """
    closing_enter(fd)
    try:
        return wait_descriptor(me, fd, events & ~_IN_TURN, deadline, sock, None, lambda _: bool(_fileno(sock) == fd))
    finally:
        closing_leave(fd)


def wait_socket(
    me: Parker, sock: Any, fd: int, events: int, deadline: float | None, publish: Callable[[int], bool]
) -> bool:
    """As `await_socket`, for who waits for other things, too: see `wait_descriptor`. False if it is too late."""
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    is_in_time = wait_descriptor(me, fd, events, deadline, sock, None, publish)
    if _fileno(sock) != fd or (entry is not None and entry.is_over):
        _refuse(me)
    return is_in_time


def _refuse(me: Parker) -> None:
    """What `me` has waited for was closed. If it was cancelled, too, it hears of that: one may come of the other."""
    if me.scope is not None:
        check_entry(me)
    raise _closed()


def _closed() -> OSError:
    return OSError(errno.EBADF, os.strerror(errno.EBADF))


@contextmanager
def keeping(me: Parker) -> Iterator[None]:
    """Around a wait with bytes moved already: what would end the call, a cancel or an error, ends the block instead.

    The cancel has not been told then; it comes at the next point. So does the error.
    """
    told = me.delivery
    alive = None if told is None else told.alive
    try:
        yield
    except Cancelled:
        me.delivery = told
        if told is not None:
            told.alive = alive  # type: ignore[assignment]
    except OSError:
        pass


def _await_more(me: Parker, sock: Any, fd: int, events: int) -> bool:
    """Park with bytes moved already; False if the call shall return their number."""
    with keeping(me):
        await_socket(me, sock, fd, events, None)
        return True
    return False


def _entry(me: VirtualThread, sock: Any, fd: int) -> Descriptor | None:
    """What the reactor of a virtual thread knows of the socket; None if it may not own that."""
    reactor = me.carrier.reactor  # type: ignore[union-attr]
    entry = reactor.owned(fd, sock)
    if entry is not None and not entry.is_checked:
        entry.is_checked = True
        if _fileno(sock) != fd:
            reactor.forget(entry)
            raise _closed()
    return entry


def let_go(me: Parker | None, sock: Any, fd: int) -> None:
    """The calling thread has closed the socket, whose number was `fd`: its own reactor is told. (Others: see `_closing`.)"""
    if isinstance(me, VirtualThread):
        thread: VirtualThread = me
        reactor = thread.carrier.reactor  # type: ignore[union-attr]
        reactor.let_go(fd, sock)


def listens(me: Parker, sock: Any, fd: int) -> bool:
    """Whether the socket takes connections, or has once: when it no longer does, the poller says that it is ready."""
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    if entry is not None and entry.listens:
        return True
    answer = bool(sock.getsockopt(_SOL_SOCKET, _SO_ACCEPTCONN))
    if entry is not None:
        entry.listens = answer
    return answer


def _is_stream(sock: Any) -> bool:
    kind: int = _type(sock)
    return kind & 0xF == _SOCK_STREAM


def _is_tcp(sock: Any) -> bool:
    """Whether the kernel says so: `socket.fromfd` believes what it is told of a descriptor."""
    if not _is_stream(sock):
        return False
    try:
        protocol: int = sock.getsockopt(_SOL_SOCKET, _SO_PROTOCOL)
    except OSError:  # closed
        return False
    return protocol == _TCP


# ---- receive ----


def recv(sock: Any, size: int, flags: int = 0, /) -> bytes:
    """`socket.recv`."""
    bits: int = flags_of(flags)
    timeout = _gettimeout(sock)
    fd = _fileno(sock)
    if (timeout is not None and timeout == 0) or fd < 0 or size <= 0:
        return _originals.sock_recv(sock, size, bits)
    if bits & _UNUSUAL and timeout is None:
        if bits & _NEVER_WAITS:
            return _originals.sock_recv(sock, size, bits)
        whole = bytearray(size)
        return bytes(memoryview(whole)[: _receive_all(sock, fd, whole, size, bits)])
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    is_worth_a_try = entry is None or entry.readable
    while True:
        if is_worth_a_try:
            got = _native_recv(fd, size, bits)
            if got is not None:
                if entry is not None and 0 < len(got) < size:
                    _note_short(entry, sock, bits)
                return got
            if entry is not None:
                _note_empty(entry)
        _await_entry(me, entry, sock, fd, READ, deadline)
        is_worth_a_try = True


def _note_empty(entry: Descriptor) -> None:
    """A read met EAGAIN."""
    entry.readable = False
    entry.is_marked = False


def _note_short(entry: Descriptor, sock: Any, flags: int) -> None:
    """A read came back with less than was asked for: nothing is left, if that is all that can end a read early here."""
    if flags or entry.is_marked or entry.has_ended:
        return
    if entry.is_tcp is None:
        entry.is_tcp = _is_tcp(sock)
    if entry.is_tcp:
        entry.readable = False


def recv_into(sock: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
    """`socket.recv_into`."""
    bits: int = flags_of(flags)
    timeout = _gettimeout(sock)
    fd = _fileno(sock)
    if (timeout is not None and timeout == 0) or fd < 0:
        return _originals.sock_recv_into(sock, buffer, nbytes, bits)
    size = room_in(buffer, nbytes)
    if not size:
        return 0
    if bits & _UNUSUAL and timeout is None:
        if bits & _NEVER_WAITS:
            return _originals.sock_recv_into(sock, buffer, nbytes, bits)
        return _receive_all(sock, fd, buffer, size, bits)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    is_worth_a_try = entry is None or entry.readable
    while True:
        if is_worth_a_try:
            got = _native_recv_into(fd, buffer, size, bits)
            if got is not None:
                if entry is not None and 0 < got < size:
                    _note_short(entry, sock, bits)
                return got
            if entry is not None:
                _note_empty(entry)
        _await_entry(me, entry, sock, fd, READ, deadline)
        is_worth_a_try = True


def _receive_all(sock: Any, fd: int, buffer: Any, size: int, flags: int) -> int:
    """MSG_WAITALL: put `size` bytes into `buffer`, fewer only at the end of the stream, an error, or a cancel.

    On a socket that is no stream it means nothing. With MSG_PEEK the bytes stay in the kernel and are looked at anew
    whenever some have come; a platform thread, which is not told of edges, takes what there is at the first look.
    """
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    entry = _entry(me, sock, fd) if isinstance(me, VirtualThread) else None
    is_peek = flags & _PEEK
    is_worth_a_try = is_peek or entry is None or entry.readable
    is_whole = not _is_stream(sock)
    total: int = 0
    while True:
        if is_worth_a_try:
            if is_peek:
                is_whole = is_whole or entry is None or _poll_now(fd, TROUBLE) != 0
                got = _native_recv_into(fd, buffer, size, flags)
            elif total and _poll_now(fd, 0) & _POLLERR:
                return total
            else:
                got = _native_recv_into(fd, buffer, size - total, flags, total)
            if got is not None:
                total = got if is_peek else total + got
                if not got or total >= size or is_whole:
                    return total
                if not is_peek:
                    continue
            elif entry is not None:
                _note_empty(entry)
        if total and not is_peek:
            if not _await_more(me, sock, fd, READ):
                return total
        else:
            _await_entry(me, entry, sock, fd, READ, None)
        is_worth_a_try = True


# ---- send ----


def _send_some(me: Parker, sock: Any, data: Any, flags: int, start: int, deadline: float | None) -> int:
    while True:
        fd = _fileno(sock)
        sent: int | None = _native_send(fd, data, flags, start)
        if sent is not None:
            return sent
        await_socket(me, sock, fd, WRITE, deadline)


def send(sock: Any, data: Any, flags: int = 0, /) -> int:
    """`socket.send`. Without a timeout it sends everything; cancelled half-way, it returns how much was sent."""
    bits: int = flags_of(flags)
    timeout = _gettimeout(sock)
    if (timeout is not None and timeout == 0) or _fileno(sock) < 0 or (bits & _DONTWAIT and timeout is None):
        return _originals.sock_send(sock, data, bits)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if timeout is not None:
        return _send_some(me, sock, data, bits, 0, now() + timeout)
    size = size_of(data)
    sent = _send_some(me, sock, data, bits, 0, None)
    return sent if sent >= size else send_rest(me, sock, data, bits, sent)


def send_rest(me: Parker, sock: Any, data: Any, flags: int, start: int) -> int:
    """Send data[start:] on a stream without a timeout, after some has been sent; how much of `data` was sent at last.

    Less than all after an error or a cancel. A socket that is no stream does not send in parts.
    """
    if not _is_stream(sock):
        return start
    with memoryview(data) as held:  # so that nobody resizes it meanwhile
        size = held.nbytes
        while start < size:
            fd = _fileno(sock)
            if fd < 0 or _poll_now(fd, 0):  # closed, an error, or the end
                break
            sent = _native_send(fd, held, flags, start)
            if sent is not None:
                start += sent
            elif not _await_more(me, sock, fd, WRITE):
                break
    return start


def sendall(sock: Any, data: Any, flags: int = 0, /) -> None:
    """`socket.sendall`. Cancelled half-way, part of the data has been sent, as CPython documents for any error."""
    bits: int = flags_of(flags)
    timeout = _gettimeout(sock)
    if (timeout is not None and timeout == 0) or _fileno(sock) < 0 or (bits & _DONTWAIT and timeout is None):
        _originals.sock_sendall(sock, data, bits)
        return
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    size = size_of(data)
    if type(data) is not bytes:
        data = memoryview(data)  # so that nobody resizes it meanwhile
    start = 0
    while True:
        start += _send_some(me, sock, data, bits, start, deadline)
        if start >= size:
            return
