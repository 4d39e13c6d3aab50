"""Timers: a heap of instants with lazy deletion."""

from __future__ import annotations

import math
import random
import weakref

from plait._core._timers import Timers


class Recorder:
    """A target that notes what expires."""

    def __init__(self, log, name=""):
        self.log = log
        self.name = name

    def expire(self, epoch):
        self.log.append((self.name, epoch))


def test_expire_in_order_of_time():
    """Instants expire in their order, whatever the order in which they were added."""
    log = []
    timers = Timers()
    target = Recorder(log)
    instants = list(range(200))
    random.Random(1).shuffle(instants)
    for instant in instants:
        timers.add(float(instant), target, instant)
    assert timers.next_instant() == 0.0
    timers.expire_until(99.0)
    assert [epoch for _, epoch in log] == list(range(100))
    assert timers.next_instant() == 100.0
    timers.expire_until(1000.0)
    assert [epoch for _, epoch in log] == list(range(200))
    assert timers.next_instant() == math.inf
    assert len(timers) == 0


def test_ties_first_come_first_out():
    """Equal instants expire in the order in which they were added; targets are never compared."""
    log = []
    timers = Timers()
    for number in range(50):
        timers.add(1.0, Recorder(log, number), 0)
    timers.expire_until(1.0)
    assert [name for name, _ in log] == list(range(50))


def test_not_before_the_instant():
    """An instant that has not come does not expire; one that has come exactly does."""
    log = []
    timers = Timers()
    timers.add(1.0, Recorder(log), 7)
    timers.expire_until(0.999)
    assert log == []
    timers.expire_until(1.0)
    assert log == [("", 7)]


def test_waits_that_are_over_are_not_expired():
    """A retired entry lets go of its target at once, surfaces and is dropped."""
    log = []
    timers = Timers()
    over, still = Recorder(log, "over"), Recorder(log, "still")
    entry = timers.add(1.0, over, 1)
    timers.add(2.0, still, 2)
    timers.retire(entry)
    over = weakref.ref(over)
    assert over() is None
    timers.expire_until(3.0)
    assert log == [("still", 2)]


def test_retired_after_its_time():
    """Retiring an entry that has expired, or twice, changes nothing."""
    log = []
    timers = Timers()
    entry = timers.add(1.0, Recorder(log), 1)
    other = timers.add(2.0, Recorder(log), 2)
    timers.expire_until(1.0)
    timers.retire(entry)
    timers.retire(other)
    timers.retire(other)
    timers.expire_until(3.0)
    assert log == [("", 1)]
    assert len(timers) == 0


def test_stale_entries_are_swept_out():
    """A million cancelled timeouts cost memory for a moment: the heap stays in proportion to what waits."""
    log = []
    timers = Timers()
    keep = Recorder(log, "keep")
    for number in range(100):
        timers.add(1000.0 + number, keep, number)
    most = 0
    for number in range(10_000):
        timers.retire(timers.add(5000.0, Recorder(log, "over"), number))
        most = max(most, len(timers))
    assert most < 400
    timers.expire_until(9999.0)
    assert [epoch for _, epoch in log] == list(range(100))


def test_sweep_keeps_the_order():
    """After a sweep the rest still comes in order."""
    log = []
    timers = Timers()
    targets = [Recorder(log, number) for number in range(300)]
    order = list(range(300))
    random.Random(2).shuffle(order)
    entries = {number: timers.add(float(number), targets[number], 0) for number in order}
    for number in range(300):
        if number % 3:
            timers.retire(entries[number])
    assert len(timers) < 300
    timers.expire_until(1000.0)
    assert [name for name, _ in log] == list(range(0, 300, 3))
