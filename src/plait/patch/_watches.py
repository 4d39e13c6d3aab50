"""Waits that a kernel thread has to do, where nothing can be polled: one such thread for all who wait for the same thing.

What is called tells of something and takes nothing, so a waiter that goes loses nothing, and the thread that it leaves
behind serves whoever comes next. It stands apart from the pool's (`_core/_offload.py`): it may wait for long.

    Waiter: 1. queues in the parking lot under the watch [fence]   2. looks: success ends the wait
            3. has the call run, unless it runs                    4. parks
    Runner: 1. the call returns   2. marks the watch as not running [fence]   3. wakes all who are under the watch
Who is queued before the runner's step 3 is woken by it, and looks again; who comes after its step 2 has the call run anew.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plait._core import Lock, Parker, WaitReason, lot_wait, lot_wake_all, runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

_lock = Lock()  # guards _watches and what is in them
_watches: dict[Hashable, Watch] = {}  # those that somebody waits for, or that run


class Watch:
    """One call, and who waits for it."""

    __slots__ = ("_call", "_is_running", "_key", "waiters")

    def __init__(self, key: Hashable, call: Callable[[], object]) -> None:
        self._key = key
        self._call = call
        self._is_running = False  # a kernel thread is at it, or about to be. Under _lock
        self.waiters = 0  # Under _lock

    def run(self) -> None:
        """Have the call run, unless it runs. Any thread; never waits."""
        with _lock:
            if self._is_running:
                return
            self._is_running = True
        runtime.offload.run_apart(self._work)

    def _work(self) -> None:
        try:
            self._call()
        except Exception:  # noqa: BLE001 - who waits looks by itself, and hears of it there
            pass
        with _lock:
            self._is_running = False
            self.drop()
        lot_wake_all(id(self))

    def drop(self) -> None:
        """Be forgotten, if nobody needs it. Under _lock."""
        if not self.waiters and not self._is_running and _watches.get(self._key) is self:
            del _watches[self._key]


def wait_watching(
    me: Parker,
    key: Hashable,
    call: Callable[[], object],
    attempt: Callable[[], bool],
    reason: WaitReason,
    deadline: float | None = None,
) -> bool:
    """Park until `attempt()` succeeds, which is tried when `call()` has returned on a kernel thread of its own.

    False if the instant `deadline` comes first. A cancel point. `attempt` must not raise. Who gives the same `key` gives
    the same `call`, and shares it.
    """
    with _lock:
        watch = _watches.get(key)
        if watch is None:
            watch = _watches[key] = Watch(key, call)
        watch.waiters += 1

    def look() -> bool:
        if attempt():
            return True
        watch.run()
        return False

    try:
        return lot_wait(me, id(watch), look, reason, deadline)
    finally:
        with _lock:
            watch.waiters -= 1
            watch.drop()


os.register_at_fork(after_in_child=_watches.clear)  # no other thread is left
