"""The carrier for what platform threads spawn: each thread in turn, unless they come in masses and never wait.

A thread that has begun stays on its carrier, so what lives (workers, connections) is spread before it begins. What is gone
as soon as it is there gains nothing by that: every carrier falls asleep and is woken again and again, where one would be kept
at work. And what computes for long is helped before it begins, wherever it is queued: `_watch.py`.

So the first of a burst go in turn: as many as are spawned before a carrier has been woken, and more. Others go where the last
one went, as long as no more have come together in the group than a carrier may find: it keeps up with them. A burst is that of
one platform thread in one group. It ends with a pause, and when somebody of the group has waited for the first time, for that
is who lives: where all wait, all go in turn.

What comes within a burst is taken to be of one kind: a few that live, spawned in a moment after many that did not, and before
the first of them has waited, are all on one carrier. And where several spawn into one group at a time, each ends the burst of
the other: all go in turn, as if they waited.

With a GIL all go in turn, and nothing here is asked: who spawns keeps the others from showing what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait._native._native import Counter

_FEW = 64  # threads of a burst for each carrier: to be woken takes 50 us, to be spawned one
_MANY = 1_000  # inside the group
_PAUSE = 0.001  # seconds without a spawn


class Placement:
    """What platform threads have spawned into one group lately. Any of them, at any time: its numbers are hints."""

    __slots__ = ("_before", "_few", "_last", "_spawned", "_spawner", "_turn", "_turns", "_waited")

    def __init__(self, turns: Counter, carriers: int) -> None:
        self._turns = turns  # those that all groups have given out
        self._few = _FEW * carriers
        self._turn = 0  # of the last thread that was spawned
        self._last = 0.0  # when that was
        self._spawner = 0  # who has spawned it, by the number of the kernel thread: whose burst it is
        self._spawned = 0  # in this burst
        self._before = 0  # the fewest that were inside the group since that began,
        self._waited = 0  # and how many had waited when it did

    def next_turn(self, inside: int, waited: int, spawner: int, moment: float) -> int:
        """Whose turn it is to take the next thread: the carriers are counted round and round.

        `inside` are in the group now, and so many have `waited` since it was made; `spawner` is the kernel thread that calls,
        `moment` is now.
        """
        if waited != self._waited or spawner != self._spawner or moment - self._last > _PAUSE:
            self._spawner = spawner
            self._spawned = 0
            self._before = inside
            self._waited = waited
        elif inside < self._before:
            self._before = inside
        self._last = moment
        if self._spawned < self._few or inside - self._before > _MANY:
            self._turn = self._turns.add(1)
        self._spawned += 1
        return self._turn
