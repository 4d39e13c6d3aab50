"""The watch: how a carrier without work finds out whether another has too much, and helps it.

A thread that is taken over costs more than a short one is worth: what it touches is in the cache of the other core, and
belongs to the other kernel thread, which has to count and free it. So a carrier without work does not take what it finds.
It goes on the watch: it looks, after short and growing naps, how the unstarted threads of the others come and go. It
takes over half of a backlog once that moves so slowly that each thread stands for `_WORTH` of work. When it has done
these, it knows by the time that they took whether it shall take more at once. Work is what keeps a processor busy: a
carrier that the system has put aside does not become slow by that. One that blocks in a call shows after `_PATIENCE`.

`vacant` says that nobody is on the watch: there is one watcher at most, who takes it.

    Spawner                                 Watcher, who ends                 Carrier that is to sleep for long
    1. publishes the thread      [fence]    1. raises `vacant`     [fence]    1. counts itself in `sleepers`,
    2. if `vacant` is raised, and           2. if there is a backlog, and        raises `asleep`              [fence]
       there are sleepers:                     `vacant` is raised, and        2. if there is a backlog, and
       wakes one that is asleep                there are sleepers: as left       `vacant` is raised: takes it, stays

So no backlog is left alone while a carrier sleeps for long. A spawner that finds `vacant` lowered looks before the
watcher's step 1, and so the watcher's step 2 finds its thread. One that finds it raised, and a carrier asleep, wakes that;
a carrier that comes to its step 1 only after that look finds the thread in its step 2. A sleeper that finds `vacant` lowered
in its step 2 is asleep for the watcher's step 2. Who was woken and has got work of its own meanwhile goes through the
watcher's step 2, too: it was meant to help, and another may do that. `sleepers` spares a spawner the look at each carrier
while all are busy.

While somebody is on the watch no spawner pays for a wake. So the watcher stays for a while when the backlog is gone: those
who spawn and join in turn would pay for each round.

tests/model explores the interleavings of these steps, and shows that leaving one out leaves threads alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._native._native import Counter, Flag, now, processor_time

if TYPE_CHECKING:
    from plait._core._idle import Idler
    from plait._core._vthread import VirtualThread
    from plait._native._native import Queue

_MOST_TAKEN = 32  # threads at a time
_QUIET = 4  # looks in a row at no backlog, until the watch ends
# In seconds:
_WORTH = 10e-6  # work in a thread that makes up for taking it over
_SHORTEST_NAP = 50e-6  # between two looks; each nap is twice as long as the last
_LONGEST_NAP = 0.002
_PATIENCE = 0.005  # time that counts as work, whether or not a processor was busy
_FRESH = 0.001  # what was found out about a backlog holds for so long


class Backlog:
    """The unstarted threads of one carrier, and what is known of how it does."""

    __slots__ = ("_began", "_began_at", "_seen", "_seen_used", "_worth_until", "ident", "idler", "unstarted")

    def __init__(self, unstarted: Queue[VirtualThread], idler: Idler) -> None:
        self.unstarted = unstarted
        self.idler = idler  # of its carrier
        self.ident = 0  # of its carrier's kernel thread, once that runs. Written by the carrier
        self._seen = 0  # its traffic at the last look that counts. The watcher's, as those below
        self._seen_used = 0.0  # the processor time of its carrier at that look
        self._began = 0  # its traffic when the watch began, or `_PATIENCE` was over
        self._began_at = 0.0  # when that was
        self._worth_until = 0.0  # until then it is known to be worth taking over. Any carrier writes it: a hint

    def begin(self, moment: float) -> None:
        """Have the first look of a watch."""
        self._seen = self._began = self.unstarted.traffic()
        self._seen_used = processor_time(self.ident)
        self._began_at = moment

    def is_slow(self, moment: float) -> bool:
        """Whether each of its threads has stood for much work since the last look. The watcher's."""
        traffic = self.unstarted.traffic()
        used = processor_time(self.ident)
        if used - self._seen_used >= _SHORTEST_NAP / 2:
            work = (used - self._seen_used) / _WORTH
            passed = traffic - self._seen
            self._seen = traffic
            self._seen_used = used
            if 2 * work >= passed:  # each comes and goes
                return True
        if moment - self._began_at < _PATIENCE:
            return False
        work = (moment - self._began_at) / _WORTH
        passed = traffic - self._began
        self.begin(moment)
        return 2 * work >= passed

    def is_known_slow(self, moment: float) -> bool:
        """Whether somebody has found that out a moment ago. Any carrier."""
        return moment < self._worth_until

    def note(self, until: float) -> None:
        """Let others know that it is, until then. Any carrier."""
        self._worth_until = until


class Watch:
    """What the carriers of a runtime share: their backlogs, and whether one of them is on the watch."""

    __slots__ = ("backlogs", "size", "sleepers", "vacant")

    def __init__(self, size: int) -> None:
        self.size = size  # how many carriers there are
        self.backlogs: list[Backlog] = []  # theirs; complete before the first one runs
        self.sleepers = Counter()  # carriers that sleep, or are about to
        self.vacant = Flag()
        self.vacant.set()

    def is_open(self) -> bool:
        """Whether nobody is on the watch, and somebody may sleep who could be. Any thread. No fence."""
        return self.vacant.is_raised() and self.sleepers.value() > 0

    def is_backlog(self, mine: Backlog) -> bool:
        """Whether there are unstarted threads elsewhere, or more in `mine` than the one that runs next."""
        for backlog in self.backlogs:  # noqa: SIM110 - compiled, a loop costs less than a generator
            if backlog.unstarted.size() > (1 if backlog is mine else 0):
                return True
        return False

    def call(self, mine: Backlog) -> None:
        """Wake one carrier that sleeps, but not that of `mine`, to go on the watch. Any thread."""
        for backlog in self.backlogs:
            if backlog is not mine and backlog.idler.is_asleep() and backlog.idler.notify():
                return


class Watcher:
    """One carrier's part in it. The carrier's alone."""

    __slots__ = ("_mine", "_nap", "_place", "_quiet", "_source", "_taken", "_taken_at", "_watch", "is_on")

    def __init__(self, watch: Watch, mine: Backlog) -> None:
        self._watch = watch
        self._mine = mine
        self._place = len(watch.backlogs)  # of `mine`
        self.is_on = False  # it is on the watch: has taken `vacant`
        self._nap = 0.0  # how long it may sleep then
        self._quiet = 0  # looks in a row at no backlog
        self._taken = 0  # how many threads it has taken over last,
        self._taken_at = 0.0  # when,
        self._source: Backlog | None = None  # and from where; None once that is judged
        watch.backlogs.append(mine)

    def lie_down(self, timeout: float) -> float:
        """The carrier is about to sleep for `timeout` seconds; how long it may. The sleeper's step 1."""
        self._watch.sleepers.add(1)
        return min(self._nap, timeout) if self.is_on else timeout

    def get_up(self) -> None:
        """It has slept, or has not had to."""
        self._watch.sleepers.add(-1)

    def is_wanted(self) -> bool:
        """Whether it should go on the watch instead of sleeping for long: the sleeper's step 2."""
        return not self.is_on and self._watch.is_backlog(self._mine) and self._watch.vacant.is_raised()

    def help(self) -> bool:
        """Take threads over from a carrier that has too many; False if there is none, or not yet known to be one."""
        moment = now()
        if self._source is not None:
            self._source.note(moment + _FRESH if moment - self._taken_at >= _WORTH * self._taken else 0.0)
            self._source = None
        is_backlog = False
        for step in range(1, self._watch.size):
            backlog = self._watch.backlogs[(self._place + step) % self._watch.size]
            if not backlog.unstarted.size():
                if self.is_on:
                    backlog.begin(moment)  # what its carrier has not had to do counts for nothing later
                continue
            is_backlog = True
            is_slow = backlog.is_known_slow(moment) or (self.is_on and backlog.is_slow(moment))
            if is_slow and self._take_over(backlog, moment):
                return True
        if self.is_on:
            self._quiet = 0 if is_backlog else self._quiet + 1
            self._nap = min(2 * self._nap, _LONGEST_NAP)
            if self._quiet == _QUIET:
                self.end()
        elif is_backlog and self._watch.vacant.take():
            self._begin()
        return False

    def _begin(self) -> None:
        self.is_on = True
        self._nap = _SHORTEST_NAP
        self._quiet = 0
        moment = now()
        for backlog in self._watch.backlogs:
            backlog.begin(moment)

    def end(self) -> None:
        """The carrier has work, or there is none anywhere: the watcher's steps, for whoever was on the watch or is woken."""
        if self.is_on:
            self.is_on = False
            self._watch.vacant.set()
        if self._watch.is_open() and self._watch.is_backlog(self._mine):
            self._watch.call(self._mine)

    def _take_over(self, backlog: Backlog, moment: float) -> bool:
        """Take up to half of it; False if there is nothing left."""
        count = 0
        for _ in range(min((backlog.unstarted.size() + 1) // 2, _MOST_TAKEN)):
            thread = backlog.unstarted.take()
            if thread is None:
                break
            if not self._mine.unstarted.offer(thread):  # no memory
                backlog.unstarted.put(thread)  # in the cell that it has just left
                break
            count += 1
        if count:
            self._source = backlog
            self._taken = count
            self._taken_at = moment
            backlog.note(moment + _FRESH)
        return count > 0
