"""`ssl`: what an SSLSocket does in C (read, write, do_handshake, unwrap) is attempted without waiting, else parks.

An attempt (`_native/tls.c`) is the original on a stand-in that has no timeout to wait by, so every SSLSocket follows,
client's or server's, however old and whoever has wrapped it. Memory BIOs never wait, and are left alone. The socket's
timeout keeps its meaning. See docs/adr/0010.

OpenSSL wants no two threads in one connection, and a connection has one state for both directions: any operation may
read, or write, on behalf of the protocol.
* Attempts of cooperative threads take turns, under `claim`. None waits in the kernel, so a turn is short.
* Writes take turns as a whole, under `turn`. A write that is not over owns what OpenSSL has encrypted of it, and has to be
  repeated with the same data; another one in between would be taken for it.
* An attempt counts on the descriptor's mode for its length. `settimeout` and `setblocking` change that, and so does the end
  of `SSLSocket.do_handshake`, which sets the timeout once more: they take a turn at `claim`, too.
* What one thread has read off the descriptor, another may be parked for, and no event comes for it any more:

    Waiter: 1. notes how many things have come about   2. attempts       3. arms, and enters itself in `parked`,
               unless more have by then                 4. parks
    Other:  1. attempts, and reads   2. its operation ends, or the handshake has ended in its attempt: counts, and ends the
               waits of those in `parked`
  Both last steps are under the lock: either the waiter's step 3 sees the count, or the other's step 2 the waiter. A write
  reads only during a handshake, and disturbs nobody otherwise. A read that goes on may have taken the end of the handshake,
  for which others wait; of whatever else it has taken a part, the rest comes with an event for all.

Cancelled while it waits, an operation has not happened, and can be done again: nothing that was decrypted is lost, a
handshake or an unwrap goes on where it was. A write waits for room before it begins, so as a rule it is done at once or
not at all. But TLS cannot stop in the middle of a record. One that is cancelled with part of its data gone shuts the
sending side of the socket: whoever writes to the connection then gets an error, instead of sending what the peer would
take for the rest. What the peer sends can still be read.

A callback is a cancel point where it waits, but what it raises is lost as a rule: CPython shows it (`sys.unraisablehook`),
and OpenSSL fails the handshake. So an attempt that fails after the thread was told of a cancel in it is that cancel.
"""

from __future__ import annotations

import errno
import os
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from plait._core import (
    READ,
    WRITE,
    Lock,
    Parker,
    VirtualThread,
    WaitReason,
    check_entry,
    current_thread,
    deliver,
    lot_wait,
    lot_wait_shielded,
    now,
    unpark_all,
    wait_socket,
)
from plait._errors import Cancelled
from plait._native import (
    cooperative,
    original,
    poll_now,
    send,
    socket_fd,
    socket_timeout,
    tls_attempt,
    tls_prepare,
    tls_socket,
)
from plait._originals import Socket, allocate_lock, take_lock
from plait.patch._late import late_leaves
from plait.patch._registry import ALWAYS, ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plait.patch._registry import Patch

_SHUT_WR = 1
_NAMES = {"read": "read", "write": "write", "do_handshake": "do_handshake", "shutdown": "unwrap"}
_MODES = ("settimeout", "setblocking")
_LATE = {READ: "The read operation timed out", WRITE: "The write operation timed out"}

# Of `_ssl`, taken when it is there.
_read: Callable[..., Any]
_write: Callable[..., Any]
_do_handshake: Callable[..., Any]
_shutdown: Callable[..., Any]
_want_read: type[Exception]
_want_write: type[Exception]
_failure: type[Exception]

_lock = Lock()  # guards _connections, and what is in them
_connections: dict[int, _Connection] = {}  # by address: those that cooperative threads are at work on


class _Connection:
    """A TLS connection while threads are inside its operations."""

    __slots__ = ("claim", "claimant", "ended", "inside", "is_changed", "parked", "turn")

    def __init__(self) -> None:
        self.inside = 0  # how many threads. Under _lock
        self.ended = 0  # how many operations that may have read are over, and handshakes. Written under _lock
        self.parked: dict[Parker, int] = {}  # who waits to read, in which wait. Under _lock
        self.claim = allocate_lock()  # held for the length of an attempt
        self.claimant: Parker | None = None  # who has it. Written under it
        self.is_changed = False  # a callback in the attempt has set the mode. Likewise
        self.turn = allocate_lock()  # held for the length of a write


class _Operation:
    """One call of a method that may wait, of the calling thread."""

    __slots__ = ("_at", "_deadline", "_fd", "_me", "_sock", "_tls", "may_have_read")

    def __init__(self, me: Parker, tls: Any, sock: Any, fd: int, timeout: float | None) -> None:
        self._me = me
        self._tls = tls
        self._sock = sock
        self._fd = fd
        self._deadline = None if timeout is None else now() + timeout
        self.may_have_read = True
        with _lock:
            at = _connections.get(id(tls))
            if at is None:
                at = _connections[id(tls)] = _Connection()
            at.inside += 1
        self._at = at

    def end(self) -> None:
        """It is over, whatever came of it."""
        at = self._at
        waits: list[tuple[Parker, int]] = []
        with _lock:
            at.inside -= 1
            if not at.inside:
                del _connections[id(self._tls)]
            elif self.may_have_read:
                at.ended += 1
                waits.extend(at.parked.items())
        unpark_all(waits)

    def tell_others(self) -> None:
        """The handshake is over, and this operation is not."""
        at = self._at
        with _lock:
            at.ended += 1
            waits = list(at.parked.items())
        unpark_all(waits)

    def repeat(self, late: str | None, call: Callable[..., Any], *args: Any) -> Any:
        """Attempt it until it need not wait; `late` is what to say if that takes too long."""
        while True:
            ended = self._at.ended
            events, result = self.attempt(call, *args)
            if not events:
                return result
            self.wait(events, late or _LATE[events], ended)

    def attempt(self, call: Callable[..., Any], *args: Any) -> tuple[int, Any]:
        """(0, its result), or the events that it waits for and None."""
        claim = self._at.claim
        if not take_lock(claim):
            lot_wait(self._me, id(claim), partial(take_lock, claim), WaitReason.LOCK, None, True)
        self._at.claimant = self._me
        # Who comes later attempts after this one.
        is_ending = self._at.inside > 1 and self._tls.version() is None
        told = self._last_told()
        try:
            if socket_fd(self._sock) != self._fd:  # closed meanwhile; another may have the number
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return 0, tls_attempt(call, self._tls, self._sock, *args)
        except _want_read:
            events = READ
        except _want_write:
            events = WRITE
        except _failure as error:
            self._verify_not_told_since(told, error)
            raise
        finally:
            self._at.claimant = None
            if self._at.is_changed:
                self._at.is_changed = False
                self._let_block(True)
            is_ending = is_ending and self._tls.version() is not None
            claim.release()
        if is_ending:
            self.tell_others()
        return events, None

    def _last_told(self) -> Any:
        """Which `Cancelled` the thread has got last, as a reference to it."""
        told = self._me.delivery
        return None if told is None else told.alive

    def _verify_not_told_since(self, before: Any, error: Exception) -> None:
        """Raise `Cancelled` if an attempt has failed because a callback in it was cancelled: of that OpenSSL knows nothing."""
        told = self._me.delivery
        if told is not None and told.alive is not before:
            raise deliver(self._me, told.scope) from error

    def between_attempts(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`call(*args, **kwargs)` while there is no attempt but one that has led here, by a callback. No cancel point."""
        at = self._at
        if at.claimant is self._me:
            try:
                return call(*args, **kwargs)
            finally:
                at.is_changed = True
                self._let_block(False)  # until the attempt is over
        if not take_lock(at.claim):
            lot_wait_shielded(self._me, id(at.claim), partial(take_lock, at.claim), WaitReason.LOCK)
        try:
            return call(*args, **kwargs)
        finally:
            at.claim.release()

    def _let_block(self, is_blocking: bool) -> None:  # noqa: FBT001 - as for `os.set_blocking`
        """Whether the descriptor blocks, if the socket is one that waits without a limit."""
        fd = socket_fd(self._sock)
        if fd >= 0 and socket_timeout(self._sock) is None:
            os.set_blocking(fd, is_blocking)

    def wait(self, events: int, late: str, ended: int | None = None) -> None:
        """Park until the socket may be ready; or another operation has ended, since there were `ended` of those."""
        at = self._at
        me = self._me

        def publish(epoch: int) -> bool:
            with _lock:
                if ended is not None and at.ended != ended:
                    return False
                if events == READ:
                    at.parked[me] = epoch
                return True

        try:
            if not wait_socket(me, self._sock, self._fd, events, self._deadline, publish):
                raise TimeoutError(late)
        finally:
            if events == READ:
                with _lock:
                    at.parked.pop(me, None)

    def write(self, data: Any) -> int:
        """Attempt to write `data` until it is written."""
        turn = self._at.turn
        if not take_lock(turn) and not lot_wait(
            self._me, id(turn), partial(take_lock, turn), WaitReason.WRITABLE, self._deadline
        ):
            raise TimeoutError(_LATE[WRITE])
        try:
            return self._write_whole(data)
        finally:
            turn.release()

    def _write_whole(self, data: Any) -> int:
        is_in_handshake = self.may_have_read = self._tls.version() is None
        has_begun = False
        try:
            while not poll_now(self._fd, WRITE):
                send(self._fd, b"")  # raises where the sending side was shut, of which a full Unix socket says nothing
                self.wait(WRITE, _LATE[WRITE])
            while True:
                ended = self._at.ended
                events, result = self.attempt(_write, data)
                if not events:
                    return result  # type: ignore[no-any-return]
                has_begun = True
                self.may_have_read = self.may_have_read or events == READ
                self.wait(events, _LATE[WRITE], ended)
        except Cancelled:
            # As long as the first handshake lasts, none of the data is taken.
            if has_begun and not (is_in_handshake and self._tls.version() is None):
                self._close_sending_side()
            raise

    def _close_sending_side(self) -> None:
        try:
            Socket.shutdown(self._sock, _SHUT_WR)
        except OSError:
            pass  # it is closed, or the peer has gone: nobody will take what is sent for the rest


def _begin(tls: Any) -> _Operation | None:
    """Begin to operate on `tls`; None where the original does not wait."""
    sock = tls_socket(tls)
    if sock is None:
        return None
    timeout = socket_timeout(sock)
    fd = socket_fd(sock)
    if timeout == 0 or fd < 0:
        return None
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    return _Operation(me, tls, sock, fd, timeout)


def _held(data: Any) -> memoryview | None:
    """So that nobody resizes it meanwhile; None of what the original will refuse."""
    try:
        return memoryview(data)
    except TypeError:
        return None


def read(tls: Any, *args: Any) -> Any:
    """`_SSLSocket.read`."""
    held = _held(args[1]) if len(args) == 2 else None
    operation = _begin(tls)
    if operation is None:
        return _read(tls, *args)
    try:
        return operation.repeat(None, _read, *args)
    finally:
        operation.end()
        if held is not None:
            held.release()


def write(tls: Any, data: Any, /) -> int:
    """`_SSLSocket.write`."""
    held = _held(data)
    operation = None if held is None else _begin(tls)
    if operation is None:
        return _write(tls, data)  # type: ignore[no-any-return]
    try:
        return operation.write(data)
    finally:
        operation.end()
        held.release()  # type: ignore[union-attr]


def do_handshake(tls: Any) -> None:
    """`_SSLSocket.do_handshake`."""
    operation = _begin(tls)
    if operation is None:
        _do_handshake(tls)
        return
    try:
        operation.repeat("The handshake operation timed out", _do_handshake)
    finally:
        operation.end()


def shutdown(tls: Any) -> Any:
    """`_SSLSocket.shutdown`: the socket, for what comes after TLS."""
    operation = _begin(tls)
    if operation is None:
        return _shutdown(tls)
    try:
        operation.repeat(None, _shutdown)
    finally:
        operation.end()
    return tls_socket(tls)


def _changing_mode(original: Callable[..., Any]) -> Callable[..., Any]:
    """A method of SSLSocket that changes whether its descriptor blocks. On every thread."""

    @wraps(original)
    def change(self: Any, *args: Any, **kwargs: Any) -> Any:
        tls = getattr(self, "_sslobj", None)
        me = current_thread()
        if tls is None or (
            isinstance(me, VirtualThread) and cooperative() is None
        ):  # not connected; or nothing may wait here
            return original(self, *args, **kwargs)
        operation = _Operation(me, tls, self, -1, None)
        operation.may_have_read = False
        try:
            return operation.between_attempts(original, self, *args, **kwargs)
        finally:
            operation.end()

    return change


class _QuietSocket(Socket):
    """One that can be referred to weakly, as connections do."""

    __slots__ = ("__weakref__",)


def _is_known(module: Any) -> bool:
    """Whether connections look inside as they should."""
    context = module._SSLContext(module.PROTOCOL_TLS_CLIENT)  # noqa: SLF001
    sock = _QuietSocket(1, 2)  # AF_UNIX, SOCK_DGRAM: it goes nowhere
    sock.close()
    name = "plait.invalid"
    bios = module.MemoryBIO(), module.MemoryBIO()
    connection = context._wrap_bio(*bios, False, name, owner=sock)  # noqa: SLF001
    wants = module.SSLWantReadError, module.SSLWantWriteError
    return tls_prepare(connection, context, sock, name, sock, wants)


def _leaves(module: Any) -> list[Leaf]:
    global _read, _write, _do_handshake, _shutdown, _want_read, _want_write, _failure
    if not _is_known(module):
        return []
    cls = module._SSLSocket  # noqa: SLF001
    _read, _write, _do_handshake, _shutdown = (original(method(cls, name)) for name in _NAMES)
    _want_read, _want_write, _failure = module.SSLWantReadError, module.SSLWantWriteError, module.SSLError
    replacements: tuple[Callable[..., Any], ...] = (read, write, do_handshake, shutdown)
    return [
        Leaf(f"ssl.SSLSocket.{_NAMES[name]}", method(cls, name), replacement)
        for name, replacement in zip(_NAMES, replacements, strict=True)
    ]


def _modes(module: Any) -> list[ClassPatch]:
    cls = module.SSLSocket
    return [ClassPatch(f"ssl.SSLSocket.{name}", _changing_mode(getattr(cls, name)), when=ALWAYS) for name in _MODES]


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    return [
        *late_leaves("_ssl", [f"ssl.SSLSocket.{name}" for name in _NAMES.values()], _leaves),
        *late_leaves("ssl", [f"ssl.SSLSocket.{name}" for name in _MODES], _modes),
    ]


os.register_at_fork(after_in_child=_connections.clear)
