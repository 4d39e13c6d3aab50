"""`socket`: every method that can wait tries without waiting, else parks on the reactor.

`settimeout` keeps its meaning: 0 is left alone, a number of seconds bounds the operation, None waits for ever. A
socket with a timeout of None is in blocking mode, and stays so: other threads and processes may share it. Where Linux
knows a flag for one call (MSG_DONTWAIT) that is used. `accept` and `connect` have none: there the descriptor is in
non-blocking mode for the length of one attempt, which is made only when it should succeed at once (accept) or on a
socket that nobody else uses yet (connect), and again with growing pauses where the backlog of a Unix socket is full. A
platform thread that enters `accept` in that moment tries again. See docs/adr/0003.

The four that carry streams are operations of the core (`_core/_operations.py`), which compiles them.
"""

from __future__ import annotations

import errno
import os
import select
from contextlib import contextmanager, suppress
from functools import partial
from operator import index
from struct import unpack
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import (
    READ,
    WRITE,
    Parker,
    await_socket,
    check_entry,
    keeping,
    late,
    now,
    patiently,
    recv,
    recv_into,
    runtime,
    send,
    send_rest,
    sendall,
    sleep,
    wait_descriptor,
)
from plait._native import (
    closing_begin,
    cooperative,
    is_in_blocking_mode,
    original,
    outside_blocking_mode,
    poll_now,
    reset_modes,
    size_of,
)
from plait._originals import Socket, poll_poll
from plait.patch._closing import closed
from plait.patch._names import is_numeric, lookup
from plait.patch._registry import ALWAYS, ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
_fileno = Socket.fileno
_gettimeout = Socket.gettimeout
_settimeout = Socket.settimeout
_family = Socket.family.__get__
_type = Socket.type.__get__
_proto = Socket.proto.__get__
_AF_UNIX, _AF_INET, _AF_INET6, _AF_ALG = 1, 2, 10, 38
_SOCK_STREAM, _SOCK_DGRAM = 1, 2
_TCP = 6
_PEEK, _CTRUNC, _DONTWAIT, _WAITALL = 0x02, 0x08, 0x40, 0x100
_NEVER_WAITS = 0x2041  # MSG_DONTWAIT | MSG_OOB | MSG_ERRQUEUE
_SOL_SOCKET, _SO_ERROR, _SO_LINGER, _SO_RCVTIMEO, _SO_ACCEPTCONN = 1, 4, 13, 20, 30
_recvmsg_into = original(Socket.recvmsg_into)
_sendmsg_afalg: Any = original(Socket.sendmsg_afalg) if hasattr(Socket, "sendmsg_afalg") else None
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02  # seconds between attempts to connect to a Unix listener that is full
_SPECIAL_HOSTS = ("", b"", "<broadcast>", b"<broadcast>")  # which C knows without looking them up


# ---- the calls that are rarer: the original, on a twin that does not wait ----


@contextmanager
def _twin(sock: Any, timeout: float | None) -> Iterator[Any]:
    """An object over the same descriptor on which CPython does not wait by itself.

    With a timeout of None that is the socket itself. With seconds the descriptor is in non-blocking mode already, but
    CPython would poll it first; an object without the timeout does not.
    """
    if timeout is None:
        yield sock
        return
    twin = Socket(_family(sock), _type(sock), _proto(sock), _fileno(sock))
    try:
        if _gettimeout(twin) is not None:  # socket.setdefaulttimeout
            _settimeout(twin, 0)
        yield twin
    finally:
        twin.detach()


# Each `place` below has the signature of the method that it stands for, and gives the arguments before the flags, the
# flags, and those after them. Where it raises TypeError the original will refuse the call.
_Placed = tuple[tuple[Any, ...], int, tuple[Any, ...]]


def _waiting(name: str, events: int, place: Callable[..., _Placed]) -> Callable[..., Any]:
    """A leaf that repeats the original with MSG_DONTWAIT among its flags."""
    call = original(getattr(Socket, name))

    def leaf(sock: Any, *args: Any, **kwargs: Any) -> Any:
        timeout = _gettimeout(sock)
        fd = _fileno(sock)
        if timeout == 0 or fd < 0:
            return call(sock, *args, **kwargs)
        me: Parker = cooperative()
        if me.scope is not None:
            check_entry(me)
        deadline = None if timeout is None else now() + timeout
        try:
            before, flags, after = place(sock, *args, **kwargs)
        except TypeError:
            return call(sock, *args, **kwargs)
        if timeout is None and flags & (_DONTWAIT if events == WRITE else _NEVER_WAITS):
            return call(sock, *before, flags, *after)
        while True:
            try:
                with _twin(sock, timeout) as twin:
                    done = call(twin, *before, flags | _DONTWAIT, *after)
                break
            except BlockingIOError:
                if events == WRITE and after and _family(sock) == _AF_UNIX:
                    _await_peer(me, sock, after[-1], deadline)
                else:
                    await_socket(me, sock, fd, events, deadline)
        if events == WRITE and timeout is None:  # the kernel would have waited until a stream had taken everything
            return _send_rest(me, sock, before[0], flags, done)
        if events == READ and flags & _WAITALL and timeout is None and _type(sock) & 0xF == _SOCK_STREAM:
            if not flags & _PEEK:
                return _receive_rest(me, sock, fd, _Parts(name, before), flags, done)
            recv_into(sock, bytearray(_Parts(name, before).room), 0, flags)  # until all is there, where it stays
            with suppress(BlockingIOError):  # others have taken it meanwhile
                return call(sock, *before, flags | _DONTWAIT, *after)
        return done

    leaf.__name__ = name
    leaf.__doc__ = f"`socket.{name}`."
    return leaf


def _send_rest(me: Parker, sock: Any, data: Any, flags: int, sent: int) -> int:
    total = 0
    for part in data if isinstance(data, (list, tuple)) else (data,):
        size = size_of(part)
        done = size if sent >= size else send_rest(me, sock, part, flags, sent)
        total += done
        if done < size:
            break
        sent = max(sent - size, 0)
    return total


class _Parts:
    """Where the bytes of one receiving call go, `before` being its arguments before the flags; and ancillary data."""

    def __init__(self, name: str, before: tuple[Any, ...]) -> None:
        self.ancillary: int = before[1] if "msg" in name else 0  # bytes that it may take
        self.own = None if name.endswith("_into") else bytearray(before[0])
        self.views: list[memoryview] = []
        for buffer in before[0] if name == "recvmsg_into" else (before[0] if self.own is None else self.own,):
            with memoryview(buffer) as view:
                self.views.append(view.cast("B"))
        if name == "recvfrom_into" and before[1]:
            self.views = [self.views[0][: before[1]]]
        self.room = sum(view.nbytes for view in self.views)

    def after(self, done: int) -> list[memoryview]:
        """What is left when `done` bytes have come."""
        rest = []
        for view in self.views:
            if done < view.nbytes:
                rest.append(view[done:])
            done = max(done - view.nbytes, 0)
        return rest


def _receive_rest(me: Parker, sock: Any, fd: int, parts: _Parts, flags: int, done: tuple[Any, ...]) -> tuple[Any, ...]:
    """MSG_WAITALL, after the call has given `done`: go on until all is there, as `_receive_all` of the core does.

    The kernel ends such a call early where descriptors or credentials have come, too.
    """
    first, *told = done
    got = first if parts.own is None else len(first)
    if parts.own is not None:
        parts.own[:got] = first
    while 0 < got < parts.room and not (len(told) > 1 and (told[0] or told[1] & _CTRUNC)):
        if poll_now(fd, 0) & select.POLLERR:  # an error belongs to the next call
            break
        try:
            more, *rest = _recvmsg_into(sock, parts.after(got), parts.ancillary, flags | _DONTWAIT)
        except BlockingIOError:
            with keeping(me):
                await_socket(me, sock, fd, READ, None)
                continue
            break
        if not more:
            break
        got += more
        if len(told) > 1:
            told[:2] = rest[:2]
        elif rest[1] & _CTRUNC:
            break
    return (got if parts.own is None else bytes(parts.own[:got]), *told)


def _await_peer(me: Parker, sock: Any, address: Any, deadline: float | None) -> None:
    """Park until the queue of the Unix datagram socket at `address` has room.

    The sender cannot be polled for that, but a socket that is connected to that peer can. Where the two are connected
    to each other nobody else may be, and no queue's room counts but the sender's own.
    """
    probe = Socket(_AF_UNIX, _SOCK_DGRAM)
    try:
        try:
            _originals.sock_connect(probe, address)
        except PermissionError:
            await_socket(me, sock, _fileno(sock), WRITE, deadline)
            return
        if not wait_descriptor(me, _fileno(probe), WRITE, deadline):
            raise late()
    finally:
        _originals.sock_close(probe)


def _place_recvfrom(sock: Any, size: int, flags: int = 0, /) -> _Placed:
    return (size,), index(flags), ()


def _place_recvfrom_into(sock: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> _Placed:
    return (buffer, nbytes), index(flags), ()


def _place_recvmsg(sock: Any, size: int, ancillary: int = 0, flags: int = 0, /) -> _Placed:
    return (size, ancillary), index(flags), ()


def _place_recvmsg_into(sock: Any, buffers: Any, ancillary: int = 0, flags: int = 0, /) -> _Placed:
    return (_listed(buffers), ancillary), index(flags), ()


def _place_sendto(sock: Any, data: Any, *rest: Any) -> _Placed:
    if not 1 <= len(rest) <= 2:
        raise TypeError
    flags, address = rest if len(rest) == 2 else (0, rest[0])
    return (data,), index(flags), (_numeric(sock, address),)


def _place_sendmsg(sock: Any, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None, /) -> _Placed:
    after = () if address is None else (_numeric(sock, address),)
    return (_listed(buffers), _listed(ancillary)), index(flags), after


def _listed(things: Any) -> Any:
    """An iterable that can be gone through more than once."""
    return things if isinstance(things, (list, tuple)) else tuple(things)


def _numeric(sock: Any, address: Any) -> Any:
    """An internet address whose host is a name, with the name looked up: C would wait for that inside."""
    family = _family(sock)
    if family not in (_AF_INET, _AF_INET6) or not isinstance(address, tuple) or not address:
        return address
    host = bytes(address[0]) if isinstance(address[0], bytearray) else address[0]
    if not isinstance(host, (str, bytes)) or host in _SPECIAL_HOSTS or is_numeric(host):
        return address
    if "\0" in host if isinstance(host, str) else b"\0" in host:
        return address  # the original refuses it
    try:
        found = lookup(host, None, family)
    except (UnicodeError, ValueError):
        return address  # so does it here
    return (found[0][4][0], *address[1:])


def bind(sock: Any, address: Any, /) -> None:
    """`socket.bind`: of all that it does only looking a name up may wait."""
    _originals.sock_bind(sock, _numeric(sock, address))


def sendmsg_afalg(sock: Any, *args: Any, **kwargs: Any) -> int:
    """`socket.sendmsg_afalg`: to the kernel's ciphers. Cut short, it cannot be continued by another call, so no parts."""
    call: Callable[[], int] = partial(_sendmsg_afalg, sock, *args, **kwargs)
    if _gettimeout(sock) == 0:
        return call()
    sent: int = runtime.offload.call(cooperative(), call)
    return sent


# ---- accept and connect ----


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
    while True:
        if poll_now(fd, READ):
            try:
                accepted: tuple[int, Any] = _attempt(sock, fd, timeout, _originals.sock_accept)
                return accepted
            except BlockingIOError:
                pass
        elif timeout is None and not sock.getsockopt(_SOL_SOCKET, _SO_ACCEPTCONN):
            # It does not listen: nobody would ever come. With a timeout CPython waits all the same.
            refused: tuple[int, Any] = _attempt(sock, fd, None, _originals.sock_accept)
            return refused
        await_socket(me, sock, fd, READ, deadline)


def _attempt(sock: Any, fd: int, timeout: float | None, call: Callable[..., Any], *args: Any) -> Any:
    """`call(sock, *args)`, which does not wait."""
    if timeout is None:
        return outside_blocking_mode(fd, call, sock, *args)
    with _twin(sock, timeout) as twin:
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
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll_poll(poll)


def _connect(sock: Any, address: Any, timeout: float | None, original: Callable[..., Any]) -> int:
    """The error number of an attempt to connect, 0 if it succeeded. `original` refuses a wrong address in its words."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    address = _numeric(sock, address)
    fd = _fileno(sock)
    try:
        failed: int = _attempt(sock, fd, timeout, _originals.sock_connect_ex, address)
    except (TypeError, OverflowError):
        failed = original(sock, address)
    if timeout is None:
        if failed == errno.EAGAIN and _family(sock) == _AF_UNIX:  # a full backlog, which cannot be polled for
            return _connect_with_pauses(sock, fd, address)
        if failed == errno.EALREADY:  # an attempt that was cancelled goes on in the kernel: wait for that
            failed = errno.EINPROGRESS
    if failed != errno.EINPROGRESS:
        return failed
    while not poll_now(fd, WRITE):
        await_socket(me, sock, fd, WRITE, deadline)
    if timeout is None and _is_tcp(sock):
        # The kernel keeps the attempt open until somebody asks connect(2) itself how it went. It waits no more.
        failed = _originals.sock_connect_ex(sock, address)
        return 0 if failed == errno.EISCONN else failed
    return int(sock.getsockopt(_SOL_SOCKET, _SO_ERROR))


def _is_tcp(sock: Any) -> bool:
    return _family(sock) in (_AF_INET, _AF_INET6) and _type(sock) & 0xF == _SOCK_STREAM and _proto(sock) in (0, _TCP)


def _connect_with_pauses(sock: Any, fd: int, address: Any) -> int:
    """Until a Unix listener has room: that cannot be polled for, and who waits in connect(2) cannot be called off."""
    pause = _FIRST_PAUSE
    while True:
        sleep(pause)
        if _fileno(sock) != fd:
            return errno.EBADF
        failed: int = _attempt(sock, fd, None, _originals.sock_connect_ex, address)
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


# ---- close ----


def close(sock: Any) -> None:
    """`socket.close`: wakes those who are parked on it, on whatever thread. They find it closed."""
    fd = _fileno(sock)
    if fd >= 0:
        closing_begin(fd)
    me: Parker | None = cooperative()
    if me is not None and fd >= 0 and _lingers(sock):
        patiently(me, runtime.offload.call, me, _originals.sock_close, sock)
    else:
        _originals.sock_close(sock)
    if fd >= 0 and runtime.is_started:
        closed(fd)


def _lingers(sock: Any) -> bool:
    """Whether its end may wait until what was sent has arrived: SO_LINGER, which is inherited from a listener, too."""
    if _family(sock) not in (_AF_INET, _AF_INET6):
        return False
    try:
        is_on, seconds = unpack("ii", Socket.getsockopt(sock, _SOL_SOCKET, _SO_LINGER, 8))
    except OSError:
        return False
    return bool(is_on and seconds)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    table: dict[str, Callable[..., Any]] = {
        "recv": recv,
        "recv_into": recv_into,
        "send": send,
        "sendall": sendall,
        "recvfrom": _waiting("recvfrom", READ, _place_recvfrom),
        "recvfrom_into": _waiting("recvfrom_into", READ, _place_recvfrom_into),
        "recvmsg": _waiting("recvmsg", READ, _place_recvmsg),
        "recvmsg_into": _waiting("recvmsg_into", READ, _place_recvmsg_into),
        "sendto": _waiting("sendto", WRITE, _place_sendto),
        "sendmsg": _waiting("sendmsg", WRITE, _place_sendmsg),
        "bind": bind,
        "connect": connect,
        "connect_ex": connect_ex,
    }
    if _sendmsg_afalg is not None:
        table["sendmsg_afalg"] = sendmsg_afalg
    found: list[Leaf | ClassPatch] = [
        Leaf(f"socket.socket.{name}", method(Socket, name), replacement) for name, replacement in table.items()
    ]
    found.append(Leaf("socket.socket.accept", method(Socket, "_accept"), accept, when=ALWAYS))
    found.append(Leaf("socket.socket.close", method(Socket, "close"), close, when=ALWAYS))
    return found


os.register_at_fork(after_in_child=reset_modes)
