"""The timers of one carrier: a heap of instants, with lazy deletion.

Only the carrier's own kernel thread touches it. An entry is `(when, serial, target, epoch)`: when the instant has come,
`target.expire(epoch)` is called, which fails harmlessly if that wait is over. Entries whose wait ended early stay until
they surface or until more than half of the heap is stale; then the stale ones are swept out at once, so a million
cancelled timeouts cost memory for a moment, not until they are due.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Protocol


class Target(Protocol):
    """What a timer can end."""

    def expire(self, epoch: int) -> None:
        """The instant has come for wait `epoch`; do nothing if it is over."""

    def waits(self, epoch: int) -> bool:
        """Whether wait `epoch` is still open."""


class Timers:
    """A heap of deadlines. Owner: the carrier."""

    __slots__ = ("_heap", "_serial", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Target, int]] = []
        self._serial = 0  # breaks ties: first come, first out, and targets are never compared
        self._stale = 0  # entries known to be over

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, target: Target, epoch: int) -> None:
        """Call `target.expire(epoch)` once `when` has come."""
        self._serial += 1
        heappush(self._heap, (when, self._serial, target, epoch))

    def retire(self) -> None:
        """One entry is over before its time."""
        self._stale += 1
        if self._stale > 64 and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].waits(entry[3])]
            heapify(self._heap)
            self._stale = 0

    def next_instant(self) -> float | None:
        """When the first entry is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def expire_until(self, now: float) -> None:
        """End every wait whose instant has come."""
        while self._heap and self._heap[0][0] <= now:
            _, _, target, epoch = heappop(self._heap)
            if target.waits(epoch):
                target.expire(epoch)
            elif self._stale:
                self._stale -= 1
