"""`socket`: every method that can wait tries without waiting, else parks on the reactor.

`settimeout` keeps its meaning: 0 is left alone, a number of seconds bounds the operation, None waits for ever. A
socket with a timeout of None is in blocking mode, and stays so: other threads and processes may share it. Where Linux
knows a flag for one call (MSG_DONTWAIT) that is used; how connections begin and end is in `_connections.py`.

The four that carry streams are operations of the core (`_core/_operations.py`), which compiles them.
"""

from __future__ import annotations

import select
from contextlib import suppress
from functools import partial
from operator import index
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
    recv,
    recv_into,
    runtime,
    send,
    send_rest,
    sendall,
    wait_descriptor,
)
from plait._native import (
    cooperative,
    original,
    poll_now,
    size_of,
)
from plait._originals import Socket
from plait.patch._names import numeric
from plait.patch._registry import ClassPatch, Leaf, method
from plait.patch._twins import twinned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


# ---- the calls that are rarer: the original, on a twin that does not wait ----

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
                with twinned(sock, timeout) as twin:
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
    return (data,), index(flags), (numeric(_family(sock), address),)


def _place_sendmsg(sock: Any, buffers: Any, ancillary: Any = (), flags: int = 0, address: Any = None, /) -> _Placed:
    after = () if address is None else (numeric(_family(sock), address),)
    return (_listed(buffers), _listed(ancillary)), index(flags), after


def _listed(things: Any) -> Any:
    """An iterable that can be gone through more than once."""
    return things if isinstance(things, (list, tuple)) else tuple(things)


def bind(sock: Any, address: Any, /) -> None:
    """`socket.bind`: of all that it does only looking a name up may wait."""
    _originals.sock_bind(sock, numeric(_family(sock), address))


def sendmsg_afalg(sock: Any, *args: Any, **kwargs: Any) -> int:
    """`socket.sendmsg_afalg`: to the kernel's ciphers. Cut short, it cannot be continued by another call, so no parts."""
    call: Callable[[], int] = partial(_sendmsg_afalg, sock, *args, **kwargs)
    if _gettimeout(sock) == 0:
        return call()
    sent: int = runtime.offload.call(cooperative(), call)
    return sent


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
    }
    if _sendmsg_afalg is not None:
        table["sendmsg_afalg"] = sendmsg_afalg
    return [Leaf(f"socket.socket.{name}", method(Socket, name), replacement) for name, replacement in table.items()]
