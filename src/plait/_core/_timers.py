"""The timers of one carrier: a heap of instants, with lazy deletion.

Only the carrier's own kernel thread touches it. When the instant of a timer has come, `target.expire(epoch)` is called,
which fails harmlessly if that wait is over. A timer that is retired before its time lets go of its target at once, and
stays, empty, until it surfaces or until more than half of the heap is empty; then all empty ones are swept out. So a
million cancelled timeouts cost memory for a moment, not until they are due.
"""

from __future__ import annotations

from typing import Protocol

from plait._native._native import Timer, Timers

__all__ = ("Target", "Timer", "Timers")


class Target(Protocol):
    """What a timer can end."""

    def expire(self, epoch: int) -> None:
        """The instant has come for wait `epoch`; do nothing if it is over."""
