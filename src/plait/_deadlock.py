"""Deadlocks: who waits for whom among the locks of plait, and the one who would close a circle.

A thread that finds its lock taken registers its wait here before it parks, and in the same step, under one lock, walks
from lock to holder to the lock that this one waits for, and on. If the walk comes back to the thread itself, its wait
would close a circle: it gets `DeadlockError` instead of the wait. Who gets a lock at once never comes here.

    Holder:  1. takes the lock                                                                  [fence]
             2. stores its hold in it; clears that before it frees the lock
    Waiter:  1. fails to take the lock
       under the graph's lock:
             2. (RWLock) tries once more, else queues
             3. walks: `_blockers` of the lock, for each holder the wait registered for it, and so on
             4. registers its wait, unless the walk came back
             5. parks; when the wait is over, however it ended, takes the graph's lock again and removes it

A thread *really waits* from its step 4 until its lock is granted or it gives up. `_blockers` answers for that: a wait
that was granted, or whose thread holds the lock by now, waits for nobody, though it may still be registered.

No circle is missed. Consider one that stands, and the member that registered last. All others had registered before,
in the order of the graph's lock. Each had stored the holds that are part of the circle before it registered, since it
took those locks earlier in its own program. So the last one's walk sees every edge. A lock may change hands while
somebody is registered for it (barging): the edge is from the waiter to whoever holds the lock at the time of the walk,
and the new holder has stored its hold before it registers a wait of its own.

No circle is reported that did not stand. A walk goes on only through holders that are registered, and nobody registers
during a walk. While a thread really waits it takes nothing (a lock that is granted to it ends its wait). So no edge to
a thread that really waits can appear during the walk, it can only vanish: by giving up (cancelled, timed out, a writer
that leaves lets the readers behind it in), or since another thread has left the block (see `_holding`). So all edges
found stood together when the walk began. A wait that has a timeout counts like any other.

Exactly one gets the error: the others of the circle had walked before it was closed. It is not registered, so the next
walk does not see the circle again.

A thread that holds nothing can be in no circle, and does not walk.

A signal handler that runs while the main thread waits counts as a part of that wait: what it takes meanwhile is held by
a thread that waits. If it has to wait itself, that wait stands for the thread until it is over.

A virtual thread that ends with a lock in hand will never let go, nor will, in a forked child, a thread of the parent's. The
waits of these are taken out of all queues there.

    Ender:   1. marks itself ended     2. under the graph's lock: sees who is registered for what it holds
                                       3. has them look again
    Waiter:  under the graph's lock: looks whether a holder has ended, and registers. When it wakes, it looks again.
One of them sees the other. That a lock is taken by a thread that ends later, while the waiter is already registered,
is seen by the ender. After settling a thread may still run callbacks, which may lock: ended means that nothing of it
runs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from plait._core import Lock, Parker, VirtualThread, lock_waits, on_holder_end
from plait._errors import DeadlockError
from plait._holding import called, place

if TYPE_CHECKING:
    from types import CodeType

    from plait._holding import Hold, Shared

_graph = Lock()  # "wait-for graph": guards what follows
_waits: dict[Parker, Wait] = {}  # the wait that each thread has registered
_has_orphans = False  # some thread has ended with a lock in hand


class Wait:
    """One thread's wait for one lock, from its registration to its end."""

    __slots__ = ("code", "epoch", "is_granted", "is_writer", "offset", "outer", "shared", "thread")

    def __init__(
        self,
        thread: Parker,
        shared: Shared[Any],
        is_writer: bool,  # noqa: FBT001 - compiled functions take no keyword-only arguments
        code: CodeType | None,
        offset: int,
    ) -> None:
        self.thread = thread
        self.shared = shared
        self.is_writer = is_writer
        self.code = code  # where it waits
        self.offset = offset
        self.outer: Wait | None = (
            None  # a wait that a signal handler, whose wait this is, has interrupted. Under _graph
        )
        self.epoch = 0  # of the wait word, and whether the lock was given to it: RWLock's, under its lock
        self.is_granted = False


def begin_wait(wait: Wait) -> bool:
    """Register `wait`, or look again if it is registered; True if its lock was had after all. On its thread.

    Raises `DeadlockError`, with nothing registered by this call, if it would never end.
    """
    with _graph:
        if wait.shared._queue(wait):  # noqa: SLF001
            return True
        circle = _find_circle(wait)
        if circle is None:
            former = _waits.get(wait.thread)
            if former is not wait:
                wait.outer = former
                _waits[wait.thread] = wait
            return False
    if not wait.shared._withdraw(wait):  # noqa: SLF001
        return True  # somebody before it has given up meanwhile
    raise DeadlockError(_describe(circle))


def end_wait(wait: Wait) -> None:
    """The wait is over, if it was registered. On its thread."""
    with _graph:
        if _waits.get(wait.thread) is wait:
            if wait.outer is None:
                del _waits[wait.thread]
            else:
                _waits[wait.thread] = wait.outer


def _waiting_threads() -> dict[Parker, list[Parker]]:
    """Who waits for whom: the threads that are registered, by those who hold what they wait for."""
    threads: dict[Parker, list[Parker]] = {}
    with _graph:
        for wait in _waits.values():
            for hold in wait.shared._blockers(wait):  # noqa: SLF001
                threads.setdefault(hold[0], []).append(wait.thread)
    return threads


def is_orphan(hold: Hold) -> bool:
    """Whether the thread of `hold` has ended, or is one of the process that has forked this one. Any thread."""
    return hold[0].is_ended() or not hold[0].is_here()


def orphaned(wait: Wait, hold: Hold) -> DeadlockError:
    """The error for `wait`: the thread of `hold` never lets go."""
    return DeadlockError(_describe([(wait, hold)]))


def _find_circle(first: Wait) -> list[tuple[Wait, Hold]] | None:
    """Waits and the holds that they wait for, from `first` to a hold of its thread or of one that has ended; or None.

    Under _graph.
    """
    me = first.thread
    if _has_orphans:
        for hold in first.shared._blockers(first):  # noqa: SLF001
            # A reader that is kept out by a waiting writer need not worry about readers: the writer will, and give up.
            if is_orphan(hold) and (first.is_writer or hold[5]):
                return [(first, hold)]
    if not me.holds:
        return None
    seen: dict[Parker, tuple[Wait, Hold]] = {}  # threads, and how the walk came to them
    todo = [first]
    while todo:
        wait = todo.pop()
        for hold in wait.shared._blockers(wait):  # noqa: SLF001
            holder = hold[0]
            if holder is me:
                circle = [(wait, hold)]
                while wait is not first:
                    step = seen[wait.thread]
                    circle.append(step)
                    wait = step[0]
                circle.reverse()
                return circle
            if holder not in seen:
                seen[holder] = (wait, hold)
                following = _waits.get(holder)
                if following is not None:
                    todo.append(following)
    return None


def _describe(circle: list[tuple[Wait, Hold]]) -> str:
    first, hold = circle[0]
    if len(circle) == 1 and not hold[0].is_here():
        return (
            f"{called(first.thread)} would wait for ever, at {place(first.code, first.offset)}, {_sought(first)}: "
            f"{_holder(first, hold)}, in the process that has forked this one, and lets it go there. Fork while no other "
            f"thread holds it, or make another one here"
        )
    if len(circle) == 1:
        return (
            f"{called(first.thread)} would wait for ever, at {place(first.code, first.offset)}, {_sought(first)}: "
            f"{_holder(first, hold)}, and has ended without letting it go. Take locks in a `with` block, which lets go "
            f"however it is left"
        )
    lines = [
        f"{called(wait.thread)} waits at {place(wait.code, wait.offset)} {_sought(wait)}, which {_holder(wait, hold)}"
        for wait, hold in circle
    ]
    return "\n  ".join(
        [
            f"{called(first.thread)} would close a circle of threads that wait for each other:",
            *lines,
            "Take these locks in the same order everywhere, or only try to take the second",
        ]
    )


def _sought(wait: Wait) -> str:
    return f"{wait.shared._waits[wait.is_writer]} {wait.shared._name}"  # noqa: SLF001


def _holder(wait: Wait, hold: Hold) -> str:
    return f"{called(hold[0])} {wait.shared._took[hold[5]]} at {place(hold[1], hold[2])}"  # noqa: SLF001


def _holder_ended(thread: VirtualThread) -> None:
    """`thread` has ended, and may have something in hand."""
    global _has_orphans  # noqa: PLW0603 - with the rest, under the lock
    with _graph:
        _has_orphans = True
        contended = {id(wait.shared): wait.shared for wait in _waits.values()}
        orphans = [
            shared
            for shared in contended.values()
            if any([hold[0] is thread for hold in shared._holders()])  # noqa: SLF001, C419 - no generator: it has a frame
        ]
    for shared in orphans:
        shared._disturb()  # noqa: SLF001


def _after_fork() -> None:
    """In a child process: of those who wait nobody is there, and of those who hold something hardly anybody."""
    global _has_orphans  # noqa: PLW0603 - as above
    _has_orphans = True
    for registered in _waits.values():
        wait: Wait | None = registered
        while wait is not None:
            if not wait.thread.is_here():
                wait.shared._forget(wait)  # noqa: SLF001
            wait = wait.outer
    _waits.clear()


on_holder_end.append(_holder_ended)
lock_waits.append(_waiting_threads)
os.register_at_fork(after_in_child=_after_fork)
