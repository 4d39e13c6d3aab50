"""Who a thread is: `threading.get_ident()`, and with it `current_thread()`, import locks and the like.

A virtual thread has an identity of its own. `threading.current_thread()` finds nobody under it and makes a record, as
for any thread that it did not start; the record gets the virtual thread's name, and goes when the thread ends. It is no
daemon, as such records are otherwise: what is started there would be one, too, and nobody would wait for it.

In a forked child, whoever has forked is `threading`'s main thread. It needs a record for that before it forks: in the child
`threading` would make one, for the identity of the kernel thread. `threading._shutdown`, with which a process waits for its
threads, asks it whether that is over: up to 3.12 it needs the lock that a main thread has, and later a handle of its own. And before
`threading._shutdown` waits in C, or for locks that C frees, the threads are joined, so that the others go on meanwhile.

The two functions that take an identity to the kernel find the carrier behind it: glibc would take the number for an address.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import VirtualThread, on_ident_end
from plait._native import builtin, current, original
from plait._threads import renew_handle
from plait.patch._registry import ALWAYS, IDENTITY, ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_dummy = threading._DummyThread  # noqa: SLF001
_make_dummy = _dummy.__init__
_known: dict[int, VirtualThread] = {}  # who has asked for an identity, by that, until the end


def get_ident() -> int:
    """`_thread.get_ident`."""
    me = current()
    if isinstance(me, VirtualThread):
        ident: int = me.ident
        if not me.has_ident:
            me.has_ident = True
            _known[ident] = me
        return ident
    return _originals.get_ident()


def init_dummy(self: Any) -> None:
    """`threading._DummyThread.__init__`: with the name of the virtual thread, and no daemon."""
    _make_dummy(self)
    me = current()
    if isinstance(me, VirtualThread):
        self._name = me.name
        self._daemonic = False


def forget(thread: VirtualThread) -> None:
    """`thread` ends: so does its record, if there is one."""
    _known.pop(thread.ident, None)
    threading._active.pop(thread.ident, None)  # type: ignore[attr-defined]  # noqa: SLF001


def _after_fork() -> None:
    """In the child: of all that are known, only the thread that has forked exists."""
    me = current()
    _known.clear()
    if isinstance(me, VirtualThread) and me.has_ident:
        _known[me.ident] = me


on_ident_end.append(forget)
os.register_at_fork(after_in_child=_after_fork)


def _for_the_kernel(target: Callable[..., Any]) -> Callable[..., Any]:
    """A leaf whose first argument is the identity of a thread."""
    call = original(target)

    def leaf(*args: Any) -> Any:
        if args and isinstance(args[0], int) and args[0] & 1:  # a virtual thread's: no kernel thread's is odd
            thread = _known.get(args[0])
            if thread is None or thread.carrier is None:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            args = (thread.carrier.ident, *args[1:])
        return call(*args)

    return leaf


def _introduce() -> None:
    """A fork comes: have a record of the calling thread, if it is a virtual one."""
    if isinstance(current(), VirtualThread):
        threading.current_thread()


def _be_main() -> None:
    """In a child process after fork: complete the record of the calling thread, if it is a virtual one."""
    if not isinstance(current(), VirtualThread):
        return
    record: Any = threading.main_thread()
    if record.__class__ is _dummy and hasattr(record, "_set_tstate_lock"):
        record.__class__ = threading._MainThread  # type: ignore[attr-defined]  # noqa: SLF001
        record._daemonic = False  # type: ignore[attr-defined]  # noqa: SLF001 - as 3.13 does
        record._set_tstate_lock()  # noqa: SLF001
    else:
        renew_handle(record)
    last = threading._threading_atexits  # type: ignore[attr-defined]  # noqa: SLF001 - called in the reverse order
    if _join_all not in last:
        last.insert(0, _join_all)


def _join_all() -> None:
    """The process ends: wait for its threads. `threading` is about to do so in C, where no carrier would run meanwhile."""
    me = threading.current_thread()
    while others := [each for each in threading.enumerate() if each is not me and _is_awaited(each)]:
        for each in others:
            each.join()


def _is_awaited(thread: threading.Thread) -> bool:
    return not thread.daemon and not isinstance(thread, _dummy)


os.register_at_fork(before=_introduce, after_in_child=_be_main)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    return [
        Leaf("_thread.get_ident", builtin(_thread, "get_ident"), get_ident, when=IDENTITY),
        *(
            Leaf(f"{name}.{target.__name__}", target, _for_the_kernel(target), when=ALWAYS)
            for name, target in (
                ("signal", builtin(_signal, "pthread_kill")),
                ("time", builtin(time, "pthread_getcpuclockid")),
            )
        ),
        ClassPatch("threading._DummyThread.__init__", init_dummy),
    ]
