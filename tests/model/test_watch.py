"""The watch of carriers that have no work, in every interleaving of its steps.

The real `Carrier` and its `Watcher`, uncompiled, run over modelled cells: a spawner fills the queue of a carrier that runs
none of it, and the others, each a stack of its own, give way before every atomic step. A depth-first search runs them in every order,
leaving out states that it has seen. A run is bad when unstarted threads are left and every carrier sleeps for long.
"""

from __future__ import annotations

import sys

import greenlet
import pytest
from model.explorer import Actor, Lost, explore, load_source

_carrier, _idle, _watch = load_source("_carrier"), load_source("_idle"), load_source("_watch")
Carrier, Watcher = _carrier.Carrier, _watch.Watcher


def step(needs=None):
    """Give way before an atomic step, until `needs()`."""
    me = greenlet.getcurrent()
    if not isinstance(me, Actor):  # nobody runs yet
        return
    me.needs, me.at = needs, place()
    me.parent.switch()
    me.needs = None


def place():
    """Where the calling stack is, with what its variables hold: lines alone do not tell two states apart."""
    found = []
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_name != "act":
        plain = {name: value for name, value in frame.f_locals.items() if isinstance(value, int | float | str)}
        which = {name: value.place for name, value in frame.f_locals.items() if isinstance(value, ModelBacklog)}
        found.append((frame.f_code.co_name, frame.f_lasti, tuple(plain.items()), tuple(which.items())))
        frame = frame.f_back
    return tuple(found)


class ModelFlag:
    """`Flag`. test_idle takes its steps apart; here each call is one."""

    def __init__(self):
        self.raised = 0

    def set(self):
        step()
        self.raised = 1

    def clear(self):
        step()
        self.raised = 0

    def is_raised(self):
        step()
        return self.raised == 1

    def take(self):
        step()
        seen, self.raised = self.raised, 0
        return seen == 1


class ModelCounter:
    """`Counter`."""

    def __init__(self):
        self.total = 0

    def add(self, number):
        step()
        self.total += number

    def value(self):
        step()
        return self.total


class ModelQueue:
    """`Queue`: each step is atomic. Only the spawner's unstarted threads are worth giving way for: others just take along
    what their carrier's last step has brought, and the search stays short.
    """

    def __init__(self):
        self.items = []
        self.is_shared = False

    def put(self, item):
        if self.is_shared:
            step()
        self.items.append(item)

    def offer(self, item):
        self.put(item)
        return True

    def take(self):
        if self.is_shared:
            step()
        return self.items.pop(0) if self.items else None

    def size(self):
        if self.is_shared:
            step()
        return len(self.items)


class ModelPoller:
    """Sleeps until it is woken, or for a nap: then it may wake at any moment."""

    def __init__(self):
        self.is_woken = False
        self.is_napping = False

    def wake(self):
        step()
        self.is_woken = True

    def wait(self, timeout):
        self.is_napping = False
        step(lambda: self.is_woken)
        self.is_woken = False

    def nap(self, timeout):
        self.is_napping = True
        step()
        self.is_woken = False


class ModelBacklog(_watch.Backlog):
    """Is slow at the second look of each watch; nobody else hears of it."""

    __slots__ = ("is_seen", "place")

    def __init__(self, unstarted, idler):
        super().__init__(unstarted, idler)
        self.is_seen = False

    def begin(self, moment):
        self.is_seen = False

    def is_slow(self, moment):
        is_first = not self.is_seen
        self.is_seen = True
        return not is_first

    def note(self, until):
        pass


class ModelCarrier(Carrier):
    """Has nothing to attend to but unstarted threads."""

    watcher = Watcher

    def _join(self, watch):
        super()._join(watch)
        watch.backlogs.pop()
        self._watcher = self.watcher(watch, self._backlog)
        self._backlog.place = self.number
        self.unstarted.is_shared = self.number == 0

    def _attend(self, ready):
        pass

    def state(self):
        return (
            tuple(self.unstarted.items),
            self.idler._asleep.raised,
            (self.poller.is_woken, self.poller.is_napping),
            (self._watcher.is_on, self._watcher._quiet, self._backlog.is_seen),
        )


class World:
    """A carrier that is busy for ever and on which somebody spawns, and others that have nothing to do."""

    def __init__(self, kind, helpers, threads, before):
        self.watch = _watch.Watch(1 + helpers)
        self.carriers = [kind(number, self.watch) for number in range(1 + helpers)]
        self.carriers[0].unstarted.items = list(range(-before, 0))
        self.actors = [Actor(self.spawner(threads))]
        self.actors += [Actor(self.helper(carrier)) for carrier in self.carriers[1:]]

    def spawner(self, threads):
        def act():
            for number in range(threads):
                self.carriers[0].submit(number)

        return act

    def helper(self, carrier):
        """Who gets a thread never comes back: it computes."""

        def act():
            while True:
                carrier._wait()
                if carrier.unstarted.items:
                    carrier.unstarted.items.pop(0)
                    break

        return act

    def state(self):
        return (
            (self.watch.vacant.raised, self.watch.sleepers.total),
            *(carrier.state() for carrier in self.carriers),
            *((a.at, a.dead) for a in self.actors),
        )

    def check(self):
        """Nobody can go on, and everybody naps or is busy, or nothing is left."""
        left = sum(len(carrier.unstarted.items) for carrier in self.carriers)
        if left and not all(actor.dead for actor in self.actors):
            raise Lost(f"{left} threads are left, and everybody else sleeps")


def explore_watching(kind=ModelCarrier, helpers=1, threads=1, before=0):
    """Every interleaving of `threads` spawns, when so many were spawned before; the number of states."""
    return explore(lambda: World(kind, helpers, threads, before))


@pytest.fixture(autouse=True)
def modelled(monkeypatch):
    monkeypatch.setattr(_idle, "Flag", ModelFlag)
    monkeypatch.setattr(_watch, "Flag", ModelFlag)
    monkeypatch.setattr(_watch, "Counter", ModelCounter)
    monkeypatch.setattr(_watch, "_QUIET", 1)
    monkeypatch.setattr(_watch, "now", lambda: 1.0)
    monkeypatch.setattr(_carrier, "Idler", _idle.Idler)
    monkeypatch.setattr(_carrier, "Backlog", ModelBacklog)
    monkeypatch.setattr(_carrier, "Watcher", Watcher)
    monkeypatch.setattr(_carrier, "Queue", ModelQueue)
    monkeypatch.setattr(_carrier, "open_poller", ModelPoller)
    monkeypatch.setattr(_carrier, "Reactor", lambda poller: None)


class EndsBlindly(Watcher):
    """Ends its watch without the look afterwards."""

    def end(self):
        if self.is_on:
            self.is_on = False
            self._watch.vacant.set()


class LooksFirst(Watcher):
    """Ends its watch after the look instead of before."""

    def end(self):
        if self._watch.is_open() and self._watch.is_backlog(self._mine):
            self._watch.call(self._mine)
        if self.is_on:
            self.is_on = False
            self._watch.vacant.set()


class CountsLate(Watcher):
    """Is no sleeper before it sleeps."""

    def lie_down(self, timeout):
        return min(self._nap, timeout) if self.is_on else timeout


class SleepsOn(Watcher):
    """Looks at nobody else before it sleeps."""

    def is_wanted(self):
        return False


class WakesNobody(ModelCarrier):
    """Spawns without waking anybody."""

    def submit(self, thread):
        self.unstarted.put(thread)


def with_watcher(kind):
    return type(kind.__name__, (ModelCarrier,), {"watcher": kind})


@pytest.mark.parametrize(
    ("helpers", "threads", "before"), [(1, 1, 0), (1, 2, 0), (1, 3, 0), (1, 2, 1), (2, 1, 0), (2, 0, 2)]
)
def test_no_backlog_is_left_alone(helpers, threads, before):
    """Whatever the order of the steps, no thread is left behind while a carrier sleeps for long."""
    assert explore_watching(helpers=helpers, threads=threads, before=before) > 10


@pytest.mark.parametrize(
    ("kind", "helpers", "threads", "before"),
    [
        (with_watcher(EndsBlindly), 2, 1, 1),
        (with_watcher(LooksFirst), 2, 1, 1),
        (with_watcher(CountsLate), 1, 1, 0),
        (with_watcher(SleepsOn), 1, 1, 0),
        (WakesNobody, 1, 1, 0),
    ],
)
def test_a_broken_watch_is_caught(kind, helpers, threads, before):
    """Leaving out a step loses threads in some order, and the search finds it."""
    with pytest.raises(Lost):
        explore_watching(kind, helpers, threads, before)
