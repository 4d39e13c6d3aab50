"""The sleep/wake protocol of carriers, in every interleaving of its steps.

The real `Idler` runs over modelled cells. Sleeper and producers are stacks of their own that give way before every
atomic step; a depth-first search runs them in every order, leaving out states that it has seen. A run is bad when the
producers are done, work lies in the queue, and the sleeper sleeps with nobody to wake it.
"""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import greenlet
import pytest

from plait._core import _idle as installed


def load_source():
    """The module's Python source, whether or not what is installed was compiled from it."""
    source = Path(installed.__file__).parent / "_idle.py"
    spec = spec_from_file_location("plait_idle_source", source)
    module = module_from_spec(spec)
    SourceFileLoader(spec.name, str(source)).exec_module(module)
    return module


_idle = load_source()
Idler = _idle.Idler


class Lost(AssertionError):
    """Work lies, and the sleeper sleeps on."""


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


class Actor(greenlet.greenlet):
    """One thread of the model."""

    def __init__(self, world, run):
        super().__init__(run)
        self.world = world
        self.at = "start"
        self.progress = 0
        self.needs = None  # what must be true before it can go on

    def can_run(self):
        return not self.dead and (self.needs is None or self.needs())


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


def build(kind, producers, items, producer):
    world = World()
    idler = kind(wake)
    world.flag = idler._asleep
    world.actors = [Actor(world, lambda: sleeper(idler, producers * items))]
    world.actors += [Actor(world, lambda: producer(idler, items)) for _ in range(producers)]
    return world


def run(world, choices, seen):
    """One run along `choices`, then always the first; how many could run at each new point. Stops at a known state."""
    options = []
    for depth in range(10_000):
        if depth >= len(choices):
            state = world.state()
            if state in seen:
                break
            seen.add(state)
        able = [actor for actor in world.actors if actor.can_run()]
        if not able:
            if not all(actor.dead for actor in world.actors):
                raise Lost(f"{world.queue} items lie while the sleeper sleeps")
            assert world.wakes <= world.raises, "one wake a raise"
            break
        choice = choices[depth] if depth < len(choices) else 0
        options.append(len(able))
        able[choice].switch()
    else:
        raise AssertionError("a run that does not end")
    for actor in world.actors:
        if not actor.dead:
            actor.throw()
    return options


def explore(kind=Idler, producers=1, items=1, producer=produce):
    """Every interleaving; the number of states."""
    seen = set()
    todo = [[]]
    while todo:
        choices = todo.pop()
        options = run(build(kind, producers, items, producer), choices, seen)
        path = choices + [0] * (len(options) - len(choices))
        for depth in range(len(choices), len(options)):
            todo.extend([*path[:depth], choice] for choice in range(1, options[depth]))
    return len(seen)


@pytest.fixture(autouse=True)
def modelled_flag(monkeypatch):
    monkeypatch.setattr(_idle, "Flag", ModelFlag)


@pytest.mark.parametrize(("producers", "items"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1)])
def test_no_interleaving_loses_a_wake(producers, items):
    """Whatever the order of the steps, no work is left lying while its carrier sleeps."""
    assert explore(producers=producers, items=items) > 20


@pytest.mark.parametrize("kind", [LooksFirst, NeverLooks, NeverRaises, TellsNobody])
@pytest.mark.parametrize("producers", [1, 2])
def test_a_broken_protocol_is_caught(kind, producers):
    """Leaving out a step, or doing the look before the raise, loses a wake in some order, and the search finds it."""
    with pytest.raises(Lost):
        explore(kind, producers)


def test_publishing_after_the_notification_is_caught():
    """A producer that tells before it publishes loses a wake, too."""
    with pytest.raises(Lost):
        explore(producer=produce_late)
