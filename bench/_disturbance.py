"""What disturbs a turn: other processes, the host's other guests, and neighbours on a core, which no count shows.

Two processors of one core share its parts. If the other one belongs to another guest of the host, a processor is slower by up
to a half while that guest computes, for seconds at a time; nothing is counted as stolen, and who has been disturbed looks
slow. So a loop is timed on each processor before and after a turn, and compared with the fastest ever seen there.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

#: Cores that others may keep busy before a turn counts as disturbed.
DISTURBED = 0.25
#: How much slower than ever a processor may be before it does.
SLOWED = 0.3
#: Turns of the loop, some half a millisecond, and how often it is timed: what interrupts it once does not count.
LOOP = 30_000
TIMES = 4
#: How often each processor is timed to begin with, to know the fastest.
FIRST = 50


@dataclass(frozen=True)
class Disturbance:
    """What was going on during a turn, where the system tells."""

    #: The cores that others on this machine kept busy.
    cores: float | None
    #: The time that the loop took beside the fastest, on the processor where that was most.
    slowness: float | None

    @property
    def extent(self) -> float:
        """How much of it there was; above 1 the turn counts as disturbed."""
        return max((self.cores or 0.0) / DISTURBED, ((self.slowness or 1.0) - 1) / SLOWED)


class Processors:
    """How fast the processors are that this process may use."""

    def __init__(self) -> None:
        self._all = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
        self._fastest = {number: self._timed(number) for number in self._all}
        for _ in range(FIRST):
            self.slowness()

    def slowness(self) -> float | None:
        """Time the loop on each; return the largest ratio to the fastest ever, or None where that cannot be done."""
        found = []
        for number in self._all:
            taken = self._timed(number)
            self._fastest[number] = min(self._fastest[number], taken)
            found.append(taken / self._fastest[number])
        return max(found, default=None)

    def _timed(self, number: int) -> int:
        """Return the nanoseconds that the loop takes on one of them."""
        os.sched_setaffinity(0, {number})
        try:
            return min(_loop() for _ in range(TIMES))
        finally:
            os.sched_setaffinity(0, self._all)


class Observer:
    """Sees what happens from the moment at which it is made."""

    def __init__(self, processors: Processors) -> None:
        self._processors = processors
        self._before = processors.slowness()
        self._bystanders = Bystanders()

    def seen(self) -> Disturbance:
        """Return what has happened so far."""
        cores = self._bystanders.cores()
        after = self._processors.slowness()
        known = [slowness for slowness in (self._before, after) if slowness is not None]
        return Disturbance(cores, max(known, default=None))


class Bystanders:
    """Tells how much of the machine others used since it was made: processes not ours, and the host's other guests."""

    def __init__(self) -> None:
        self._start, self._machine, self._own = time.monotonic(), _machine_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Return the number of cores that others kept busy, or None where the system does not tell.

        Children of ours count as ours once they have ended.
        """
        if self._machine is None or (machine := _machine_seconds()) is None:
            return None
        others = (machine - self._machine) - (_own_seconds() - self._own)
        return max(0.0, others / (time.monotonic() - self._start))


def _loop() -> int:
    """Return the nanoseconds that the loop takes."""
    start = perf_counter_ns()
    for _ in range(LOOP):
        pass
    return perf_counter_ns() - start


def _machine_seconds() -> float | None:
    """Return the processor seconds that all cores have spent for anybody, interrupts left out."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system = map(int, fields[1:4])
    stolen = int(fields[8])
    return (user + nice + system + stolen) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
