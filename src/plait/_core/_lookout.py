"""The lookout: finds the holder of a slot that waits, through others, for somebody who waits for a slot like it.

Nobody records for whom he waits: that would cost each wait. But who waits for a thread can be found, from what those who
wait have left with it, and there the search starts:

    a thread that waits for a slot
      <- the owner of its group (at the end of the block)
      <- who waits for its outcome (`Watchers.waiting`)
      <- who waits for a slot like the one that it holds
      <- who waits for a lock that it holds (`lock_waits`)
      <- and who waits for these, until one of them offers a slot of those wanted: that is passed on

A search looks at what others are changing meanwhile. If it finds a circle that stands no more, somebody has used the slot
of a holder that waits for others: the limit holds nevertheless, since the holder takes a slot back before it goes on. If
it misses one that closes just then, the next search finds it. There is one when a thread begins to wait for a slot, and
one when a holder offers one; both know of no wait of a third that closes the circle later. So while both, waiters and
offers, are there, the first carrier's timer searches again. At most a tenth of the time is spent on it.

    Waiter:  queues, armed             [lock of the slots]    then looks whether somebody offers
    Holder:  offers                    [lock of the slots]    then looks whether somebody waits
    One of them sees the other, and tells the lookout, who watches these slots from then on.
"""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING

from plait._core._atomics import Lock
from plait._core._clock import now
from plait._core._runtime import runtime
from plait._core._slots import on_need
from plait._core._vthread import VirtualThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core._parking import Parker
    from plait._core._slots import Slots, SlotWaiter
    from plait._core._timers import Entry

_FIRST = 0.002  # seconds until the first search by the timer; each takes twice as long to come as the one before
_LONGEST = 0.128  # seconds between two of them at most
_REST = 10  # a search is followed by a rest of so many times its length

# Each gives the threads that wait for a lock, by who holds it; filled by the locks. They must not park.
lock_waits: list[Callable[[], dict[Parker, list[Parker]]]] = []


class Lookout:
    """Which slots are watched, and the timer that sees to it. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watched: set[Slots] = set()  # under _lock, with the rest
        self._pause = _FIRST  # until the next timer but one
        self._due = inf  # when the timer comes
        self._serial = 0  # of that timer: those before it come in vain

    def heed(self, slots: Slots) -> None:
        """Somebody waits for one of `slots`, and somebody offers one: search, and keep an eye on them. Never parks."""
        rest_until = _search(slots)
        if rest_until is None:
            return
        with self._lock:
            self._watched.add(slots)
            self._pause = _FIRST
            timer = self._timer(max(rest_until, now() + _FIRST))
        if timer is not None:
            runtime.push_timer(timer)

    def expire(self, epoch: int) -> None:
        """It is time for another search. On the first carrier."""
        with self._lock:
            if epoch != self._serial:
                return
            self._due = inf
            watched = list(self._watched)
        rests = {slots: rest_until for slots in watched if (rest_until := _search(slots)) is not None}
        timer: Entry | None = None
        with self._lock:
            self._watched.difference_update([slots for slots in watched if slots not in rests])
            if rests:
                timer = self._timer(max(now() + self._pause, min(rests.values())))
                self._pause = min(2 * self._pause, _LONGEST)
        if timer is not None:
            runtime.push_timer(timer)

    def _timer(self, when: float) -> Entry | None:
        """What to push to have it come then, if it would come later or not at all. Under _lock."""
        if when >= self._due:
            return None
        self._due = when
        self._serial += 1
        return [when, 0, self, self._serial]

    def reset(self) -> None:
        """In a child process after fork: nobody waits."""
        self._watched = set()
        self._due = inf


def _search(slots: Slots) -> float | None:
    """Pass on the slots that are offered to who is waited for; until when to rest; None if there is nothing to find.

    Does not search during the rest.
    """
    begin = now()
    rest_until = slots.next_search()
    if rest_until is None or begin < rest_until:
        return rest_until
    holders, waiters = slots.survey()
    waits: dict[Parker, list[Parker]] = {}
    for give in lock_waits:
        for holder, threads in give().items():
            waits.setdefault(holder, []).extend(threads)
    seen: set[object] = {slots}  # threads and slots; not those wanted, for which all the others wait as well
    for waiter in waiters:
        found = _holder_waiting_for(waiter, holders, waits, seen)
        if found is not None and slots.pass_on(found, waiter):
            holders.discard(found)
    end = now()
    rest_until = end + _REST * (end - begin)
    slots.rest(rest_until)
    return rest_until


def _holder_waiting_for(
    waiter: SlotWaiter, holders: set[Parker], waits: dict[Parker, list[Parker]], seen: set[object]
) -> Parker | None:
    """One of `holders` that waits for `waiter`; None if none does, or if it is behind what was `seen` before."""
    todo = [waiter.who]
    while todo:
        thread = todo.pop()
        if thread in holders:
            return thread
        if thread in seen:
            continue
        seen.add(thread)
        todo += waits.get(thread, ())
        if isinstance(thread, VirtualThread):
            group = thread.group
            if group.owner is not None:
                todo.append(group.owner)
            if group.slots is not None and group.slots not in seen:
                seen.add(group.slots)
                todo += group.slots.waiters()
            watchers = thread.watchers
            if watchers is not None:
                todo += watchers.waiting()
    return None


lookout = Lookout()
on_need.append(lookout.heed)
os.register_at_fork(after_in_child=lookout.reset)
