"""The unpatched standard library, captured before anything is patched: all that the core may wait with.

Functions and methods that are leaves are taken with `original()`: a callable over a private copy of the method table
entry, which stays the original whatever happens to the table. Functions are taken with `builtin()`, from the table of the
module that brings them: `time.sleep` may be a mock just now, or gevent's.
"""
# ruff: noqa: SLF001 - what threading and socket use of C is private to them

from __future__ import annotations

import _queue
import _socket
import _thread
import posix
import select
import time
from typing import TYPE_CHECKING, Any

from plait._native import builtin, lock_taker, original

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def _builtin_class(module: ModuleType, name: str) -> Any:
    """A class of a module written in C, though others may have taken it out, as gevent does; None where there is none."""
    found = getattr(module, name, None)
    if isinstance(found, type) and found.__module__ == module.__name__:
        return found
    return next(
        (cls for cls in object.__subclasses__() if (cls.__module__, cls.__name__) == (module.__name__, name)), None
    )


monotonic: Callable[[], float] = builtin(time, "monotonic")

start_new_thread: Callable[..., int] = builtin(_thread, "start_new_thread")
allocate_lock: Callable[[], _thread.LockType] = builtin(_thread, "allocate_lock")
Lock = type(allocate_lock())
ThreadHandle: Any = _builtin_class(_thread, "_ThreadHandle")  # None: up to 3.12
lock_acquire: Callable[..., bool] = original(Lock.acquire)
lock_release: Callable[..., None] = original(Lock.release)
take_lock: Callable[[Any], bool] = lock_taker(lock_acquire)

RLock = _thread.RLock
rlock_acquire: Callable[..., bool] = original(RLock.acquire)
rlock_release: Callable[..., None] = original(RLock.release)
rlock_release_save: Callable[..., Any] = original(RLock._release_save)  # type: ignore[attr-defined]
rlock_acquire_restore: Callable[..., None] = original(RLock._acquire_restore)  # type: ignore[attr-defined]
rlock_is_owned: Callable[..., bool] = original(RLock._is_owned)  # type: ignore[attr-defined]
# 3.11 has no such method; nothing is replaced there, and nothing asks.
rlock_recursion_count: Callable[..., int] = (
    original(RLock._recursion_count) if hasattr(RLock, "_recursion_count") else lambda _: 0
)

get_ident: Callable[[], int] = original(builtin(_thread, "get_ident"))

sleep: Callable[[float], None] = original(builtin(time, "sleep"))
sched_yield: Callable[[], None] = original(builtin(posix, "sched_yield"))

os_read: Callable[[int, int], bytes] = original(builtin(posix, "read"))
os_write: Callable[[int, Any], int] = original(builtin(posix, "write"))
os_sendfile: Callable[..., int] = original(builtin(posix, "sendfile"))
os_pread: Callable[[int, int, int], bytes] = original(builtin(posix, "pread"))
os_pwrite: Callable[[int, Any, int], int] = original(builtin(posix, "pwrite"))
os_close: Callable[[int], None] = original(builtin(posix, "close"))
eventfd_read: Callable[[int], int] = original(builtin(posix, "eventfd_read"))
eventfd_write: Callable[[int, int], None] = original(builtin(posix, "eventfd_write"))

os_system: Callable[..., int] = original(builtin(posix, "system"))
os_wait3: Callable[..., tuple[int, int, Any]] = original(builtin(posix, "wait3"))
os_wait4: Callable[..., tuple[int, int, Any]] = original(builtin(posix, "wait4"))
os_waitid: Callable[..., Any] = original(builtin(posix, "waitid"))
os_waitpid: Callable[[int, int], tuple[int, int]] = original(builtin(posix, "waitpid"))

Epoll: Any = _builtin_class(select, "epoll")
make_poll: Callable[[], Any] = builtin(select, "poll")
Poll: Any = type(make_poll())
epoll_poll: Callable[..., list[tuple[int, int]]] = original(Epoll.poll)
poll_poll: Callable[..., list[tuple[int, int]]] = original(Poll.poll)
select_select: Callable[..., tuple[list[Any], list[Any], list[Any]]] = original(builtin(select, "select"))

queue_get: Callable[..., Any] = original(_queue.SimpleQueue.get)

Socket = _socket.socket
getaddrinfo: Callable[..., list[Any]] = original(builtin(_socket, "getaddrinfo"))
gethostbyname: Callable[..., str] = original(builtin(_socket, "gethostbyname"))
gethostbyname_ex: Callable[..., tuple[str, list[str], list[str]]] = original(builtin(_socket, "gethostbyname_ex"))
gethostbyaddr: Callable[..., tuple[str, list[str], list[str]]] = original(builtin(_socket, "gethostbyaddr"))
getnameinfo: Callable[..., tuple[str, str]] = original(builtin(_socket, "getnameinfo"))
sock_bind: Callable[..., None] = original(Socket.bind)
sock_accept: Callable[..., tuple[int, Any]] = original(Socket._accept)  # type: ignore[attr-defined]
sock_connect: Callable[..., None] = original(Socket.connect)
sock_connect_ex: Callable[..., int] = original(Socket.connect_ex)
sock_recv: Callable[..., bytes] = original(Socket.recv)
sock_recv_into: Callable[..., int] = original(Socket.recv_into)
sock_send: Callable[..., int] = original(Socket.send)
sock_sendall: Callable[..., None] = original(Socket.sendall)
sock_close: Callable[..., None] = original(Socket.close)
