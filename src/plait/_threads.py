"""`plait.Thread`: a `threading.Thread` that runs on a virtual thread, for code that already uses threads.

CPython's own `_bootstrap` runs on the virtual thread, so what a thread is to `threading` (its name and identity, its
place in `enumerate()`, the hooks for tracing and for failures, `run` in a subclass) it is here. Three things differ: how
it is started, what says that it is over, and how one waits for that.

    up to 3.12  `_tstate_lock` is an ordinary lock, which the thread holds from its start to its end
    from 3.13   the handle is one that stands for no kernel thread; `_set_done` says that the thread is over

The functions below take any `threading.Thread`: `plait.Thread` has them as methods, and `python -m plait
--virtual-threads` puts them in place of those of all threads.

Such a thread belongs to no group: nobody cancels it, its failure goes to `threading.excepthook`, and the process waits for
it at its end, at the same time as for other threads: after what was registered to be done before that (executors tell
their threads to end there). Daemons are not waited for; they go on while the handlers of `atexit` run, and what they are
doing after that ends with the process. For a thread that such a handler starts nobody waits but the handler, as with
other threads.
"""
# ruff: noqa: SLF001 - what threading keeps of a thread is private to it

from __future__ import annotations

import os
import sys
import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import GRACE, DeadlineScope, Lock, check_entry, current_thread, now, start_child
from plait._default import DefaultGroup
from plait._futures import Future
from plait._native import copied_context, original

if TYPE_CHECKING:
    from collections.abc import Callable

_FUTURE = "_plait_future"  # the attribute of a `threading.Thread` that is virtual: its virtual thread
_HANDLE = "_os_thread_handle" if sys.version_info >= (3, 14) else "_handle"
_make_handle: Callable[[int], Any] | None = getattr(threading, "_make_thread_handle", None)  # None: up to 3.12
_after_fork: Any = original(threading.Thread._after_fork) if hasattr(threading.Thread, "_after_fork") else None

_lock = Lock()
_containers: dict[bool, Threads] = {}  # by whether its threads are daemons. Under _lock


class Threads(DefaultGroup):
    """Virtual threads that belong to no group: those the process waits for at its end, or those that it does not."""

    def __init__(self, name: str, *, is_awaited: bool) -> None:
        self._is_awaited = is_awaited
        super().__init__(name)
        self.scope = DeadlineScope(GRACE, self)  # no group's: who spawns here spawns into the default group

    def be_joined_at_exit(self) -> None:
        """Last of what `threading` calls before it waits for its own threads."""
        if self._is_awaited:
            threading._threading_atexits.insert(0, self.wait_for_all)  # type: ignore[attr-defined]

    def start(self, fn: Callable[..., Any], args: tuple[Any, ...], name: str, context: Context) -> Future[Any]:  # type: ignore[override]
        """Run `fn(*args)` on a virtual thread that is awaited here. Any thread; no cancel point, never waits."""
        future: Future[Any] | None = start_child(self, Future, current_thread(), fn, args, {}, name, context)
        if future is not None:
            return future
        # The process has waited for its threads. What its main thread runs after that are the handlers of `atexit`, which
        # may start others; elsewhere it may still be a thread that is waited for, and takes it that what it starts is, too.
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("can't create new thread at interpreter shutdown")
        return container(is_daemon=True).start(fn, args, name, context)


def container(*, is_daemon: bool) -> Threads:
    """Where threads are that belong to no group, made when first asked for."""
    found = _containers.get(is_daemon)
    if found is None:
        made = Threads("daemon threads" if is_daemon else "threads", is_awaited=not is_daemon)
        with _lock:
            found = _containers.setdefault(is_daemon, made)
    return found


def _forget_threads() -> None:
    """In a child process: none of them is here."""
    for each in _containers.values():
        each.abandon()


os.register_at_fork(after_in_child=_forget_threads)


def is_virtual(thread: Any) -> bool:
    """Whether a `threading.Thread` was started here."""
    return _FUTURE in thread.__dict__


def start(thread: Any) -> None:
    """As `threading.Thread.start`, on a virtual thread. No cancel point, and no wait: the thread may not have begun."""
    if not thread._initialized:
        raise RuntimeError("thread.__init__() not called")
    if thread._started.is_set():
        raise RuntimeError("threads can only be started once")
    if getattr(thread, "_context", thread) is None:  # from 3.14 on, and none was given
        thread._context = copied_context() if sys.flags.thread_inherit_context else Context()  # type: ignore[attr-defined]
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        threading._limbo[thread] = thread  # type: ignore[attr-defined]
    thread.__dict__[_FUTURE] = None
    if _make_handle is None:
        thread._tstate_lock = _originals.allocate_lock()
        _originals.lock_acquire(thread._tstate_lock)
    try:
        future = container(is_daemon=thread.daemon).start(_run, (thread,), thread.name, Context())
    except BaseException:
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            del threading._limbo[thread]  # type: ignore[attr-defined]
        del thread.__dict__[_FUTURE]
        thread._tstate_lock = None
        raise
    # What the thread does first, done here already: whoever starts one may ask for both.
    thread.__dict__[_FUTURE] = future
    thread._ident = future.ident
    thread._started.set()


def _run(thread: Any) -> None:
    """What the virtual thread does."""
    me = current_thread()
    assert isinstance(me, Future)
    thread.__dict__[_FUTURE] = me
    if _make_handle is not None:
        setattr(thread, _HANDLE, _make_handle(me.ident))
    try:
        if threading.get_ident() != me.ident:
            raise RuntimeError(
                f"{thread!r} cannot run: the leaves of the standard library are not patched (PLAIT_PATCH=0, or "
                f"plait.patch.uninstall()), so it has no identity of its own"
            )
        thread._bootstrap()
    finally:
        _end(thread)


def _end(thread: Any) -> None:
    """It is over: `is_alive` says so from now on."""
    if _make_handle is not None:
        getattr(thread, _HANDLE)._set_done()
        return
    lock = thread._tstate_lock
    if lock is not None and lock.locked():  # not where `threading` has taken it for the main thread, in a forked child
        _originals.lock_release(lock)


def join(thread: Any, timeout: float | None = None) -> None:
    """As `threading.Thread.join`, for one that is virtual. A cancel point."""
    if not thread._started.is_set():
        raise RuntimeError("cannot join thread before it is started")
    future: Future[Any] = thread.__dict__[_FUTURE]
    me = current_thread()
    if me is future:
        raise RuntimeError("cannot join current thread")
    deadline = None if timeout is None else now() + max(timeout, 0)
    if me.scope is not None:
        check_entry(me)
    if thread.is_alive():  # after fork it is not, and its future will never be done
        future.wait_done(me, deadline)
        thread.is_alive()  # up to 3.12 it is who asks that finds out


def renew_handle(thread: Any) -> None:
    """In a forked child, from 3.13 on: CPython has marked all handles of virtual threads as those of ended ones."""
    if _make_handle is not None:
        setattr(thread, _HANDLE, _make_handle(thread._ident or 0))


def after_fork(thread: Any, new_ident: int | None = None) -> None:
    """As `threading.Thread._after_fork`, from 3.13 on."""
    renew_handle(thread)
    if new_ident is None:
        _end(thread)
    _after_fork(thread, new_ident)


class Thread(threading.Thread):
    """A `threading.Thread` that runs on a virtual thread: same arguments, same methods, subclassed in the same way.

    For code that is written for threads; what is new had better be spawned into a `ThreadGroup`. Any thread, virtual or
    platform, starts and joins it. It belongs to no group: it is not cancelled with the group that it is started in, its
    failure goes to `threading.excepthook`, and the process waits for it before it ends, unless it is a daemon. `spawn` in
    it leads to the default group. It starts with the context variables that a `threading.Thread` starts with.

    `ident` is the virtual thread's. `native_id` is that of the kernel thread it runs on, which others run on, too; None
    until it runs. `threading.settrace` and `setprofile` trace that kernel thread from then on, with all that runs there.

    Raises (by `start`):
        RuntimeError: it was started before, or the process is ending. (A handler of `atexit` can start it, and join it.)

    Example:
        >>> import time
        >>> from plait import Thread
        >>> threads = [Thread(target=time.sleep, args=(0.01,)) for _ in range(1000)]
        >>> for thread in threads:
        ...     thread.start()
        >>> for thread in threads:
        ...     thread.join()
        >>> any(thread.is_alive() for thread in threads)
        False
    """

    def start(self) -> None:
        """Begin to run; at most once. Any thread. No cancel point, and no wait: it may not have begun on return."""
        start(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it is over, or until `timeout` seconds have passed: `is_alive()` tells which. A cancel point.

        Raises `RuntimeError` if it is not started, or is the calling thread.
        """
        if not self._initialized:  # type: ignore[attr-defined]
            raise RuntimeError("Thread.__init__() not called")
        join(self, timeout)

    def _set_tstate_lock(self) -> None:
        """Up to 3.12: there is one."""

    def _set_os_name(self) -> None:
        """From 3.14 on: the kernel thread is not ours to name."""

    def _after_fork(self, new_ident: int | None = None) -> None:
        """From 3.13 on."""
        if is_virtual(self):
            after_fork(self, new_ident)
        else:
            _after_fork(self, new_ident)
