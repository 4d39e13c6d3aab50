"""`socket`: every method that can wait tries without waiting, else parks on the reactor.

`settimeout` keeps its meaning: 0 is left alone, a number of seconds bounds the operation, None waits for ever. A
socket with a timeout of None is in blocking mode, and stays so: other threads and processes may share it. Where Linux
knows a flag for one call (MSG_DONTWAIT) that is used. `accept` and `connect` have none: there the descriptor is in
non-blocking mode for the length of one attempt, which is made only when it should succeed at once (accept) or on a
socket that nobody else uses yet (connect). See docs/adr/0003.

The four that carry streams are operations of the core (`_core/_operations.py`), which compiles them.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import (
    READ,
    WRITE,
    Parker,
    await_socket,
    check_entry,
    late,
    now,
    recv,
    recv_into,
    runtime,
    send,
    sendall,
)
from plait._native import cooperative, original, poll_now
from plait._originals import Socket
from plait.patch._names import is_numeric, lookup
from plait.patch._registry import ALWAYS, ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
_fileno = Socket.fileno
_gettimeout = Socket.gettimeout
_family = Socket.family.__get__
_type = Socket.type.__get__
_proto = Socket.proto.__get__
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_DONTWAIT = 0x40
_SOL_SOCKET, _SO_ERROR = 1, 4


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
        yield twin
    finally:
        twin.detach()


def _waiting(name: str, events: int, place: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Callable[..., Any]:
    """A leaf that repeats the original with MSG_DONTWAIT, which `place` puts among the arguments."""
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
        if kwargs:  # only recvfrom_into and recv_into take any: nbytes, flags
            args = (*args, kwargs.get("nbytes", 0), kwargs.get("flags", 0))
        placed = place(args)
        if placed == args:  # MSG_DONTWAIT was there, or the original will refuse the arguments
            return call(sock, *args)
        while True:
            try:
                with _twin(sock, timeout) as twin:
                    return call(twin, *placed)
            except BlockingIOError:
                await_socket(me, sock, fd, events, deadline)

    leaf.__name__ = name
    leaf.__doc__ = f"`socket.{name}`."
    return leaf


def _flags_at(position: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Where the flags are the argument at `position`, with zeros before it that may be left out."""

    def place(args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not args:
            return args  # the original refuses it
        full = list(args) + [0] * (position + 1 - len(args))
        if isinstance(full[position], int):
            full[position] |= _DONTWAIT
        return tuple(full)

    return place


def _flags_of_sendto(args: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(args) == 2:
        return (args[0], _DONTWAIT, _resolved_host(args[1]))
    if len(args) == 3 and isinstance(args[1], int):
        return (args[0], args[1] | _DONTWAIT, _resolved_host(args[2]))
    return args


def _flags_of_sendmsg(args: tuple[Any, ...]) -> tuple[Any, ...]:
    full = list(args) + [(), 0][len(args) - 1 :] if 1 <= len(args) < 3 else list(args)
    if len(full) >= 3 and isinstance(full[2], int):
        full[2] |= _DONTWAIT
    return tuple(full)


# ---- accept and connect ----


@contextmanager
def _not_blocking(fd: int, timeout: float | None) -> Iterator[None]:
    """The descriptor of a socket in blocking mode, out of it for one attempt."""
    if timeout is not None:
        yield
        return
    os.set_blocking(fd, False)
    try:
        yield
    finally:
        os.set_blocking(fd, True)


def accept(sock: Any) -> tuple[int, Any]:
    """`socket._accept`, under `socket.accept`."""
    timeout = _gettimeout(sock)
    fd = _fileno(sock)
    if timeout == 0 or fd < 0:
        return _originals.sock_accept(sock)
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    while True:
        if poll_now(fd, READ):
            try:
                with _not_blocking(fd, timeout), _twin(sock, timeout) as twin:
                    return _originals.sock_accept(twin)
            except BlockingIOError:
                pass
        await_socket(me, sock, fd, READ, deadline)


def _resolved_host(address: Any) -> Any:
    """An internet address whose host is a name, with the name looked up: C would wait for that inside."""
    if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str) and not is_numeric(address[0]):
        found = lookup(address[0], None)
        return (found[0][4][0], *address[1:]) if found else address
    return address


def _connect(sock: Any, address: Any, timeout: float | None) -> int:
    """The error number of an attempt to connect, 0 if it succeeded."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    family = _family(sock)
    if family in (_AF_INET, _AF_INET6) and isinstance(address, tuple) and address and isinstance(address[0], str):
        address = _named_for(family, address)
    fd = _fileno(sock)
    with _not_blocking(fd, timeout), _twin(sock, timeout) as twin:
        failed = _originals.sock_connect_ex(twin, address)
    if failed == errno.EAGAIN and family == _AF_UNIX:  # a full backlog, which cannot be polled for
        return _connect_elsewhere(me, sock, address, deadline)
    if failed != errno.EINPROGRESS:
        return failed
    while not poll_now(fd, WRITE):
        await_socket(me, sock, fd, WRITE, deadline)
    return int(sock.getsockopt(_SOL_SOCKET, _SO_ERROR))


def _named_for(family: int, address: tuple[Any, ...]) -> tuple[Any, ...]:
    host = address[0]
    if not host or is_numeric(host) or host == "<broadcast>":
        return address
    found = lookup(host, None, family)
    return (found[0][4][0], *address[1:])


def _connect_elsewhere(me: Parker, sock: Any, address: Any, deadline: float | None) -> int:
    """Let a worker wait in connect(2)."""

    def wait() -> int:
        twin = Socket(_family(sock), _type(sock), _proto(sock), os.dup(_fileno(sock)))
        try:
            twin.settimeout(None if deadline is None else max(deadline - now(), 0.001))
            return _originals.sock_connect_ex(twin, address)
        finally:
            _originals.sock_close(twin)

    failed: int = runtime.offload.call(me, wait)
    return failed


def connect(sock: Any, address: Any, /) -> None:
    """`socket.connect`."""
    timeout = _gettimeout(sock)
    if timeout == 0 or _fileno(sock) < 0:
        _originals.sock_connect(sock, address)
        return
    failed = _connect(sock, address, timeout)
    if failed == errno.EAGAIN:
        raise late()
    if failed:
        raise OSError(failed, os.strerror(failed))


def connect_ex(sock: Any, address: Any, /) -> int:
    """`socket.connect_ex`."""
    timeout = _gettimeout(sock)
    if timeout == 0 or _fileno(sock) < 0:
        return _originals.sock_connect_ex(sock, address)
    try:
        return _connect(sock, address, timeout)
    except TimeoutError:
        return errno.EAGAIN


# ---- close ----


def close(sock: Any) -> None:
    """`socket.close`: wakes those who are parked on it, on whatever carrier. They find it closed."""
    fd = _fileno(sock)
    _originals.sock_close(sock)
    if fd >= 0 and runtime.is_started:
        for carrier in runtime.carriers:
            entry = carrier.reactor.find(fd)
            if entry is not None and entry.owner is not None and entry.owner() is sock:
                carrier.call(lambda reactor=carrier.reactor, entry=entry: reactor.forget(entry))  # type: ignore[misc]


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    table: dict[str, Callable[..., Any]] = {
        "recv": recv,
        "recv_into": recv_into,
        "send": send,
        "sendall": sendall,
        "recvfrom": _waiting("recvfrom", READ, _flags_at(1)),
        "recvfrom_into": _waiting("recvfrom_into", READ, _flags_at(2)),
        "recvmsg": _waiting("recvmsg", READ, _flags_at(2)),
        "recvmsg_into": _waiting("recvmsg_into", READ, _flags_at(2)),
        "sendto": _waiting("sendto", WRITE, _flags_of_sendto),
        "sendmsg": _waiting("sendmsg", WRITE, _flags_of_sendmsg),
        "_accept": accept,
        "connect": connect,
        "connect_ex": connect_ex,
    }
    found: list[Leaf | ClassPatch] = [
        Leaf(f"socket.socket.{name.strip('_')}", method(Socket, name), replacement)
        for name, replacement in table.items()
    ]
    found.append(Leaf("socket.socket.close", method(Socket, "close"), close, when=ALWAYS))
    return found
