"""The sleep/wake protocol of carriers, in every interleaving of its steps.

The real `Idler` runs over modelled cells. Sleeper and producers are stacks of their own that give way before every
atomic step; a depth-first search runs them in every order, leaving out states that it has seen. A run is bad when the
producers are done, work lies in the queue, and the sleeper sleeps with nobody to wake it.
"""

from __future__ import annotations

import greenlet
import pytest
from model.explorer import Actor, Lost, explore, load_source

_idle = load_source("_idle")
Idler = _idle.Idler


class World:
    """Shared cells and actors of one run."""

    def __init__(self):
        self.actors = []
        self.queue = 0
        self.taken = 0
        self.is_woken = False
        self.wakes = 0
        self.raises = 0
        self.flag = None

    def state(self):
        cells = (self.queue, self.taken, self.is_woken, self.flag.raised if self.flag else 0)
        return cells, tuple((actor.at, actor.progress, actor.dead) for actor in self.actors)

    def check(self):
        """Nobody can go on: all are done, and nobody was woken twice for one sleep."""
        if not all(actor.dead for actor in self.actors):
            raise Lost(f"{self.queue} items lie while the sleeper sleeps")
        assert self.wakes <= self.raises, "one wake a raise"


class Member(Actor):
    """One thread of the model."""

    def __init__(self, world, run):
        super().__init__(run)
        self.world = world
        self.progress = 0


def step(at, needs=None):
    """Give way before the atomic step `at`."""
    me = greenlet.getcurrent()
    me.at, me.needs = at, needs
    me.parent.switch()
    me.needs = None
    return me.world


class ModelFlag:
    """`Flag`, in its atomic steps."""

    def __init__(self):
        self.raised = 0

    def set(self):
        step("set").raises += 1
        self.raised = 1

    def clear(self):
        step("clear")
        self.raised = 0

    def take(self):
        step("take: load")
        if not self.raised:
            return False
        step("take: swap")
        seen, self.raised = self.raised, 0
        return seen == 1


def wake():
    world = step("wake")
    world.is_woken = True
    world.wakes += 1


def has_work():
    return step("look").queue > 0


def sleeper(idler, total):
    """What a carrier does without work."""
    me = greenlet.getcurrent()
    while me.world.taken < total:
        world = step("take work")
        if world.queue:
            world.queue -= 1
            world.taken += 1
        elif idler.prepare(has_work):
            me.progress = 1
            step("sleep", lambda: world.is_woken).is_woken = False
            idler.awake()
            me.progress = 0


def produce(idler, items):
    """What whoever has work for the carrier does."""
    me = greenlet.getcurrent()
    for _ in range(items):
        step("publish").queue += 1
        idler.notify()
        me.progress += 1


def produce_late(idler, items):
    """A producer that tells before it publishes."""
    me = greenlet.getcurrent()
    for _ in range(items):
        idler.notify()
        step("publish").queue += 1
        me.progress += 1


class LooksFirst(Idler):
    """A sleeper that does step 2 before step 1."""

    __slots__ = ()

    def prepare(self, has_work):
        if has_work():
            return False
        self._asleep.set()
        return True


class NeverLooks(Idler):
    """A sleeper without step 2."""

    __slots__ = ()

    def prepare(self, has_work):
        self._asleep.set()
        return True


class NeverRaises(Idler):
    """A sleeper without step 1."""

    __slots__ = ()

    def prepare(self, has_work):
        return not has_work()


class TellsNobody(Idler):
    """A producer that takes the flag without waking."""

    __slots__ = ()

    def notify(self):
        return self._asleep.take()


def explore_idling(kind=Idler, producers=1, items=1, producer=produce):
    """Every interleaving of a sleeper with so many producers of so many items; the number of states."""

    def build():
        world = World()
        idler = kind(wake)
        world.flag = idler._asleep
        world.actors = [Member(world, lambda: sleeper(idler, producers * items))]
        world.actors += [Member(world, lambda: producer(idler, items)) for _ in range(producers)]
        return world

    return explore(build)


@pytest.fixture(autouse=True)
def modelled_flag(monkeypatch):
    monkeypatch.setattr(_idle, "Flag", ModelFlag)


@pytest.mark.parametrize(("producers", "items"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)])
def test_no_interleaving_loses_a_wake(producers, items):
    """Whatever the order of the steps, no work is left lying while its carrier sleeps."""
    assert explore_idling(producers=producers, items=items) > 20


@pytest.mark.parametrize("kind", [LooksFirst, NeverLooks, NeverRaises, TellsNobody])
@pytest.mark.parametrize("producers", [1, 2])
def test_a_broken_protocol_is_caught(kind, producers):
    """Leaving out a step, or doing the look before the raise, loses a wake in some order, and the search finds it."""
    with pytest.raises(Lost):
        explore_idling(kind, producers)


def test_publishing_after_the_notification_is_caught():
    """A producer that tells before it publishes loses a wake, too."""
    with pytest.raises(Lost):
        explore_idling(producer=produce_late)
