"""The only C door: the switch, the method tables, the atomics and the raw system calls. See `_native.pyx`.

Refuses interpreters on which switching stacks is known to be unsound, with a sentence, before anything is loaded.
"""

import sys
import sysconfig

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    if sys.version_info < (3, 14):
        raise ImportError(
            "plait does not support free-threaded Python 3.13: use free-threaded 3.14.4 or later, or a build with a GIL"
        )
    if sys.version_info < (3, 14, 4):
        raise ImportError(
            "plait needs free-threaded Python 3.14.4 or later: greenlet's builds for 3.14t crash on earlier patch "
            f"releases (this is {sys.version.split()[0]})"
        )

import greenlet as _greenlet

from plait._native._native import (
    Counter,
    Flag,
    Lock,
    Queue,
    Ready,
    Rundown,
    Stack,
    WaitWord,
    bind,
    caller_code,
    caller_offset,
    check_signals,
    chunk_counts,
    cooperative,
    count_fork,
    count_waiters,
    current,
    gc_gate,
    install,
    is_in_blocking_mode,
    kernel_ident,
    line_at,
    mark_loop,
    original,
    outcomes,
    outside_blocking_mode,
    parks,
    poll_now,
    poll_registered,
    read_nowait,
    recv,
    recv_into,
    reset_modes,
    reset_waiters,
    rlock_give,
    rlock_owner,
    rlock_read,
    rlock_take,
    rlock_write,
    send,
    set_loop_hooks,
    size_of,
    socket_fd,
    socket_timeout,
    socket_type,
    switch_to,
    uninstall,
    write_nowait,
)

del _greenlet

__all__ = (
    "Counter",
    "Flag",
    "Lock",
    "Queue",
    "Ready",
    "Rundown",
    "Stack",
    "WaitWord",
    "bind",
    "caller_code",
    "caller_offset",
    "check_signals",
    "chunk_counts",
    "cooperative",
    "count_fork",
    "count_waiters",
    "current",
    "gc_gate",
    "install",
    "is_in_blocking_mode",
    "kernel_ident",
    "line_at",
    "mark_loop",
    "original",
    "outcomes",
    "outside_blocking_mode",
    "parks",
    "poll_now",
    "poll_registered",
    "read_nowait",
    "recv",
    "recv_into",
    "reset_modes",
    "reset_waiters",
    "rlock_give",
    "rlock_owner",
    "rlock_read",
    "rlock_take",
    "rlock_write",
    "send",
    "set_loop_hooks",
    "size_of",
    "socket_fd",
    "socket_timeout",
    "socket_type",
    "switch_to",
    "uninstall",
    "write_nowait",
)
