"""`Thread.join`: a thread that is about to end says so, and only for the rest of its life does a kernel thread wait.

`Thread.start` is no cancel point: it waits for a moment, until the thread runs, and who was cancelled there would be told
nothing of a thread that it has started.

C ends a thread without a call that could be replaced. But the last thing that a thread does in Python is to leave
`threading._active`, in a method of its own; from there on it ends by itself, within a moment.

    Joiner: 1. queues in the parking lot under the thread [fence]   2. looks whether it is still active   3. parks
    Thread: 1. leaves `_active` [fence]   2. wakes all who are under it
Either the joiner's step 2 sees that it has left, or the thread's step 2 sees the joiner. Then the join proper is done by
one kernel thread for all who wait (`_watches.py`). It does the whole of it for what was started without a
`threading.Thread`. See docs/adr/0011.

An exception that is thrown into a thread from outside may keep it from its step 2, and the main thread, which some join,
never comes to it. So joiners look again each second whether the thread still runs.

Up to 3.12 the join proper is a method of `threading.Thread`, which takes any exception for the thread's end: where it
waits, none may reach it. From 3.13 on it is a method of the thread's handle.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from plait._core import Counter, Parker, WaitReason, call_deaf, check_entry, lot_wait, lot_wake_all, now, time_number
from plait._native import cooperative, lot_is_busy, original
from plait._originals import ThreadHandle
from plait.patch._locks import TOO_LONG
from plait.patch._registry import ALWAYS, ClassPatch, Leaf, beneath, method
from plait.patch._watches import wait_watching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_handle: Any = ThreadHandle
_join_handle: Any = None if _handle is None else original(method(_handle, "join"))
_wait: Any = beneath("threading.Thread._wait_for_tstate_lock")
_start = beneath("threading.Thread.start")
_delete = beneath("threading.Thread._delete")  # the last that a thread calls
_parks = Counter()  # in `wait_for_tstate_lock`
_LOOK = 1.0  # seconds between two looks whether a thread still runs


def join_handle(handle: Any, timeout: float | None = None) -> None:
    """`_thread._ThreadHandle.join`."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    seconds = None if timeout is None else time_number(timeout)
    if timeout is not None and (seconds is None or not 0 < seconds < TOO_LONG):
        _join_handle(handle, timeout)  # does not wait, or refuses
        return
    _join_handle(handle, 0)  # for what it refuses
    if not handle.is_done():
        _await(me, _thread_of(handle), handle.is_done, partial(_join_handle, handle), id(handle), seconds)
        if handle.is_done():
            _join_handle(handle)


def _thread_of(handle: Any) -> threading.Thread | None:
    """The thread with this handle, if it is one of `threading`'s, and has not said that it is about to end."""
    thread = threading._active.get(handle.ident)  # type: ignore[attr-defined]  # noqa: SLF001
    for candidate in (thread, *threading._limbo.copy()):  # type: ignore[attr-defined]  # noqa: SLF001 - begins just now
        fields = getattr(candidate, "__dict__", {})
        if handle in (fields.get("_handle"), fields.get("_os_thread_handle")):  # 3.13, 3.14
            return candidate  # type: ignore[no-any-return]
    return None


def wait_for_tstate_lock(thread: threading.Thread, block: bool = True, timeout: float = -1) -> None:  # noqa: FBT001, FBT002 - CPython's
    """`threading.Thread._wait_for_tstate_lock`."""
    me: Parker | None = cooperative()
    seconds = time_number(timeout)
    if me is None or not block or seconds is None or seconds == 0 or seconds > threading.TIMEOUT_MAX:
        _wait(thread, block, timeout)
        return
    if me.scope is not None:
        check_entry(me)

    def is_over() -> bool:
        _wait(thread, False)
        return thread._is_stopped  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001

    if not is_over():
        before = me.park_count
        try:
            _await(me, thread, is_over, partial(_wait, thread), id(thread), None if seconds < 0 else seconds)
        finally:
            _parks.add(me.park_count - before)


def _await(
    me: Parker,
    thread: threading.Thread | None,
    is_over: Callable[[], bool],
    join: Callable[[], object],
    key: int,
    timeout: float | None,
) -> None:
    """Park until `is_over()`, or until `timeout` seconds have passed. `join()` waits for that on a kernel thread."""
    deadline = None if timeout is None else now() + timeout
    if thread is not None:
        is_gone = partial(_is_gone, thread)
        while not is_gone() and not is_over():
            look = now() + _LOOK
            if deadline is None or look < deadline:
                lot_wait(me, id(thread), is_gone, WaitReason.THREAD, look)
            elif not lot_wait(me, id(thread), is_gone, WaitReason.THREAD, deadline):
                return
    wait_watching(me, ("join", key), join, is_over, WaitReason.THREAD, deadline)


def _is_gone(thread: threading.Thread) -> bool:
    """Whether a thread of `threading`'s has said that it is about to end."""
    if threading._active.get(thread.ident) is thread:  # type: ignore[attr-defined]  # noqa: SLF001
        return False
    return thread not in threading._limbo  # type: ignore[attr-defined]  # noqa: SLF001


def start(self: threading.Thread) -> None:
    """Start the thread's activity. See `threading.Thread.start`."""
    if cooperative() is None:
        _start(self)
    else:
        call_deaf(_start, self)


def delete(self: threading.Thread) -> None:
    """`threading.Thread._delete`: the calling thread leaves the list of those that run."""
    _delete(self)
    if lot_is_busy(id(self)):
        lot_wake_all(id(self))


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    begin = ClassPatch("threading.Thread.start", start)
    end = ClassPatch("threading.Thread._delete", delete, when=ALWAYS)
    if _handle is not None:
        return [Leaf("_thread._ThreadHandle.join", method(_handle, "join"), join_handle), begin, end]
    return [ClassPatch("threading.Thread._wait_for_tstate_lock", wait_for_tstate_lock, _parks), begin, end]
