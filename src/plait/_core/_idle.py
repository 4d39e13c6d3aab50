"""How a carrier falls asleep and is woken, so that no work is left lying while its carrier sleeps.

    Sleeper                                           Producer
    1. raises `asleep`                     [fence]    1. publishes the work (appends to a queue)
    2. looks at every source of work       [load]     2. takes `asleep`                             [fence, load]
    3. if there is any: lowers `asleep`, works        3. if it was raised: wakes the poller
    4. else waits in the poller
    5. lowers `asleep`, works

Proof sketch. Suppose work was published, and the sleeper waits in the poller with nobody to wake it. The sleeper did
not see the work in its step 2, so by the fence in its step 1 its raise came before the publication's visibility; the
producer's fence lies between its publication and its look at `asleep`, so it sees the flag raised, unless another
producer took it before. That one goes on to wake the poller (step 3), whose eventfd keeps the wake until the next wait
even if it comes before the sleeper's step 4. A wake that comes late, after step 5, makes the next wait return at once
and is otherwise lost, which is harmless. One taker per raise: a sleeping carrier costs its producers one system call.

tests/model explores all interleavings of these steps, with one and two producers, and shows that leaving out the look
in step 2, or doing it before step 1, loses a wake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._native._native import Flag

if TYPE_CHECKING:
    from collections.abc import Callable


class Idler:
    """The flag of one carrier, and how to wake it."""

    __slots__ = ("_asleep", "_wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self._asleep = Flag()
        self._wake = wake

    def prepare(self, has_work: Callable[[], bool]) -> bool:
        """Announce sleep; False if there is work after all. The sleeper's steps 1 to 3."""
        self._asleep.set()
        if has_work():
            self._asleep.clear()
            return False
        return True

    def awake(self) -> None:
        """The sleep is over. The sleeper's step 5."""
        self._asleep.clear()

    def is_asleep(self) -> bool:
        """Whether nobody has woken it yet. Any thread; it may change at any moment."""
        return self._asleep.is_raised()

    def notify(self) -> bool:
        """Work was published: wake the sleeper, if it sleeps. The producer's steps 2 and 3. Any thread."""
        if self._asleep.take():
            self._wake()
            return True
        return False
