"""GroupStatistics: what a group was doing at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """What a group was doing at one moment; see `ThreadGroup.statistics`.

    Attributes:
        name: The group's name.
        children: Unfinished children, daemons included.
        daemons: Daemons among them.
        parked: Those among them that wait for something.
        limit: `max_concurrency`; None without one.
        available: Free slots; None without a limit.
        waiting: Threads that wait for a slot; None without a limit.
        failures: Failures that the block will raise so far.
        is_cancelled: Whether nothing can be spawned any more, since the group or a scope around it was cancelled.
    """

    name: str
    children: int
    daemons: int
    parked: int
    limit: int | None
    available: int | None
    waiting: int | None
    failures: int
    is_cancelled: bool
