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
offers, are there, a timer searches again, on the carrier of the one that came last. At most a tenth of the time is spent.

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
from plait._core._timers import Timer
from plait._core._vthread import VirtualThread
from plait._native._native import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core._parking import Parker
    from plait._core._slots import Slots, SlotWaiter
    from plait._core._timers import Timers

_FIRST = 0.002  # seconds until the first search by the timer; each takes twice as long to come as the one before
_LONGEST = 0.128  # seconds between two of them at most
_REST = 10  # a search is followed by a rest of so many times its length

# Each gives the threads that wait for a lock, by who holds it; filled by the locks. They must not park.
lock_waits: list[Callable[[], dict[Parker, list[Parker]]]] = []


class Alarm:
    """The lookout's timer on one carrier."""

    __slots__ = ("timers",)

    def __init__(self, timers: Timers) -> None:
        self.timers = timers

    def expire(self, epoch: int) -> None:
        """It is time for another search. On the carrier."""
        when = lookout.search_again(epoch)
        if when is not None:
            self.timers.add(when, self, epoch)


class Lookout:
    """Which slots are watched, and the alarm that sees to it. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watched: set[Slots] = set()  # under _lock, with the rest
        self._rest_until = 0.0  # no search before this instant
        self._pause = _FIRST  # until the next alarm but one
        self._due = inf  # when the alarm comes
        self._serial = 0  # of that alarm: those before it come in vain

    def heed(self, slots: Slots) -> None:
        """Somebody waits for one of `slots`, and somebody offers one: search, and keep an eye on them. Never parks."""
        if self._is_awake():
            self._search([slots])
        if not slots.is_search_needed():
            return
        with self._lock:
            self._watched.add(slots)
            self._pause = _FIRST
            when = max(self._rest_until, now() + _FIRST)
            if self._due <= when and now() < self._due + _LONGEST:  # else its carrier is busy
                return
            self._due = when
            self._serial = serial = self._serial + 1
        me = current()
        if isinstance(me, VirtualThread) and me.carrier is not None:
            timers = me.carrier.timers  # of our own carrier, which comes to them as soon as this thread waits
            timers.add(when, Alarm(timers), serial)
        else:
            runtime.push_timer(Timer(when, Alarm(runtime.carriers[0].timers), serial))

    def search_again(self, serial: int) -> float | None:
        """The alarm `serial` has come: search; when it shall come again."""
        with self._lock:
            if serial != self._serial:
                return None
            watched = list(self._watched)
        if self._is_awake():
            self._search(watched)
        with self._lock:
            # Under the lock, or what is heeded meanwhile would be taken off.
            self._watched = {slots for slots in self._watched if slots.is_search_needed()}
            if serial != self._serial:
                return None
            if not self._watched:
                self._due = inf
                return None
            self._due = max(self._rest_until, now() + self._pause)
            self._pause = min(2 * self._pause, _LONGEST)
            return self._due

    def _is_awake(self) -> bool:
        with self._lock:
            return now() >= self._rest_until

    def _search(self, wanted: list[Slots]) -> None:
        """Pass on the slots that are offered to who is waited for, and rest after that."""
        begin = now()
        waits: dict[Parker, list[Parker]] = {}
        for give in lock_waits:
            for holder, threads in give().items():
                waits.setdefault(holder, []).extend(threads)
        for slots in wanted:
            holders, waiters = slots.survey()
            seen: set[object] = {slots}  # threads and slots; not those wanted, for which all the others wait as well
            for waiter in waiters if holders else ():
                found = _holder_waiting_for(waiter, holders, waits, seen)
                if found is not None and slots.pass_on(found, waiter):
                    holders.discard(found)
        end = now()
        with self._lock:
            self._rest_until = max(self._rest_until, end + _REST * (end - begin))

    def reset(self) -> None:
        """In a child process after fork: nobody waits."""
        self._watched = set()
        self._due = inf


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
            if group.owner is not None and group.joining:
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
