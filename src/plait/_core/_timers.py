"""The timers of one carrier: a heap of instants, with lazy deletion.

Only the carrier's own kernel thread touches it. An entry is `[when, serial, target, epoch]`: when the instant has come,
`target.expire(epoch)` is called, which fails harmlessly if that wait is over. An entry that is retired before its time
lets go of its target at once, and stays, empty, until it surfaces or until more than half of the heap is empty; then
all empty ones are swept out. So a million cancelled timeouts cost memory for a moment, not until they are due.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, Protocol

Entry = list[Any]


class Target(Protocol):
    """What a timer can end."""

    def expire(self, epoch: int) -> None:
        """The instant has come for wait `epoch`; do nothing if it is over."""


class Timers:
    """A heap of deadlines. Owner: the carrier."""

    __slots__ = ("_empty", "_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._serial = 0  # breaks ties: first come, first out, and targets are never compared
        self._empty = 0  # retired entries in the heap

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, target: Target, epoch: int) -> Entry:
        """Call `target.expire(epoch)` once `when` has come, unless the entry that this gives is retired first."""
        entry: Entry = [when, 0, target, epoch]
        self.push(entry)
        return entry

    def push(self, entry: Entry) -> None:
        """As `add`, for an entry made elsewhere."""
        self._serial += 1
        entry[1] = self._serial
        heappush(self._heap, entry)

    def retire(self, entry: Entry) -> None:
        """The entry is over before its time; harmless if it has surfaced already."""
        if entry[2] is None:
            return
        entry[2] = None
        self._empty += 1
        if self._empty > 64 and self._empty * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapify(self._heap)
            self._empty = 0

    def next_instant(self) -> float | None:
        """When the first entry is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def expire_until(self, now: float) -> None:
        """End every wait whose instant has come."""
        while self._heap and self._heap[0][0] <= now:
            entry = heappop(self._heap)
            target = entry[2]
            if target is None:
                self._empty -= 1
            else:
                entry[2] = None
                target.expire(entry[3])
