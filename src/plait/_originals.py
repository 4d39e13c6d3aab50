"""The unpatched standard library, captured before anything is patched: all that the core may wait with.

Functions and methods that are leaves are taken with `original()`: a callable over a private copy of the method table
entry, which stays the original whatever happens to the table.
"""
# ruff: noqa: SLF001 - what threading and socket use of C is private to them

from __future__ import annotations

import _queue
import _socket
import _thread
import os
import select
import time
from typing import TYPE_CHECKING, Any

from plait._native import original

if TYPE_CHECKING:
    from collections.abc import Callable

monotonic = time.monotonic

start_new_thread = _thread.start_new_thread
allocate_lock = _thread.allocate_lock
lock_acquire: Callable[..., bool] = original(_thread.LockType.acquire)
lock_release: Callable[..., None] = original(_thread.LockType.release)

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

get_ident: Callable[[], int] = original(_thread.get_ident)

sleep: Callable[[float], None] = original(time.sleep)
sched_yield: Callable[[], None] = original(os.sched_yield)

os_read: Callable[[int, int], bytes] = original(os.read)
os_write: Callable[[int, Any], int] = original(os.write)
os_sendfile: Callable[..., int] = original(os.sendfile)
os_pread: Callable[[int, int, int], bytes] = original(os.pread)
os_pwrite: Callable[[int, Any, int], int] = original(os.pwrite)
os_close: Callable[[int], None] = original(os.close)
eventfd_read: Callable[[int], int] = original(os.eventfd_read)
eventfd_write: Callable[[int, int], None] = original(os.eventfd_write)

os_system: Callable[..., int] = original(os.system)
os_wait3: Callable[..., tuple[int, int, Any]] = original(os.wait3)
os_wait4: Callable[..., tuple[int, int, Any]] = original(os.wait4)
os_waitid: Callable[..., Any] = original(os.waitid)
os_waitpid: Callable[[int, int], tuple[int, int]] = original(os.waitpid)

epoll_poll: Callable[..., list[tuple[int, int]]] = original(select.epoll.poll)
poll_poll: Callable[..., list[tuple[int, int]]] = original(type(select.poll()).poll)
select_select: Callable[..., tuple[list[Any], list[Any], list[Any]]] = original(select.select)

queue_get: Callable[..., Any] = original(_queue.SimpleQueue.get)

Socket = _socket.socket
getaddrinfo: Callable[..., list[Any]] = original(_socket.getaddrinfo)
gethostbyname: Callable[..., str] = original(_socket.gethostbyname)
gethostbyname_ex: Callable[..., tuple[str, list[str], list[str]]] = original(_socket.gethostbyname_ex)
gethostbyaddr: Callable[..., tuple[str, list[str], list[str]]] = original(_socket.gethostbyaddr)
getnameinfo: Callable[..., tuple[str, str]] = original(_socket.getnameinfo)
sock_bind: Callable[..., None] = original(Socket.bind)
sock_accept: Callable[..., tuple[int, Any]] = original(Socket._accept)  # type: ignore[attr-defined]
sock_connect: Callable[..., None] = original(Socket.connect)
sock_connect_ex: Callable[..., int] = original(Socket.connect_ex)
sock_recv: Callable[..., bytes] = original(Socket.recv)
sock_recv_into: Callable[..., int] = original(Socket.recv_into)
sock_send: Callable[..., int] = original(Socket.send)
sock_sendall: Callable[..., None] = original(Socket.sendall)
sock_close: Callable[..., None] = original(Socket.close)
