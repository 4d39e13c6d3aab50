"""Slots: how many threads may be at work at a time; who waits for a slot, and whose slot others may use meanwhile.

    Taker:    under the lock: takes a free slot, or queues with the epoch of its wait, armed; parks
    Releaser: under the lock: takes waiters off until a claim succeeds, which it notes there (`is_served`), or counts the
              slot free; resumes that waiter outside
    Taker:    under the lock: reads whether it was served
A slot goes from hand to hand: it is never free while somebody waits, so nobody can overtake. Who was served owns the slot,
cancelled or not. The outcome of the wait does not tell: a signal handler that waits in the middle of it has changed the
word since.

Who is woken for nothing, and waits again, keeps its place. If it was taken off in between, since its wait could not be
claimed, it goes back in front of all who came later.

A signal handler may want a slot in the middle of a wait for one that has been served already. It takes that, or it would
wait for its own thread, and the outer wait finds that it was not served.

A *holder* is a thread that was started with a slot. It does not keep that to itself while it waits for the end of others:

* It spawns into its own full group: the slot goes to the child.
* It waits for threads that have slots like its own: the slot is *lent*, to anybody.
* It waits for other threads, for a slot of another limit, or for a lock of plait's: the slot is *offered* to those for
  whom it waits, directly or through others, for one of them may need it to go on, and they would wait for each other. An
  offer costs nothing when nobody takes it.

Those below the holder help themselves to what it offers, and it looks for one of them when it offers. Whether it waits for
anybody else is not known to it: where somebody waits for a slot while somebody offers one, the lookout is told
(`_lookout`), who finds out, and passes the slot on.

Other waits (a queue, a channel, a lock of `threading`) are work like any other, and keep the slot.

A thread that is no holder, and has waited for a slot in order to spawn, goes behind the threads that have not begun:
then it finds many slots free. (docs/adr/0007 has the reasons for all this.)

A wait whose time is limited offers the slot instead of lending it: whoever gets a slot that is lent may keep it for long.

Each time the holder takes a slot back, in front of all others, before it goes on: the number of runnable holders never
exceeds the limit, and neither recursion nor waiting for each other can deadlock. Of those who take one back the last to
come is the first, so recursion goes depth by depth; but one that has waited for a while goes before it, or two that hand
their slots on and on would keep it out. Taking back is patient, as mutual exclusion is: a cancel ends it once the grace is
over, and the end of a wait's own time ends it at once. Then the holder goes on with a slot that there is not (`_free` below
zero). Whoever gives one back then pays for it, or waits for others: a slot that there is not is not offered again.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, NoReturn

from plait._core._cancel import patience, sooner
from plait._core._parking import TIMED_OUT, WAITING, WOKEN, Parker, WaitReason, park, park_shielded
from plait._core._tree import horizon, is_under
from plait._errors import not_copied
from plait._native._native import Lock, WaitWord, current, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core._container import Container
    from plait._core._tree import Scope


_LONG = 0.05  # seconds after which who takes a slot back goes before those who came later

# Told where somebody waits for a slot while a holder offers one; filled by the lookout. It must not park.
on_need: list[Callable[[Slots], None]] = []


class SlotWaiter:
    """Somebody who waits for a slot."""

    __slots__ = ("epoch", "holder", "is_served", "outer", "since", "slots", "turn", "who")

    def __init__(self, slots: Slots, who: Parker, holder: Scope | None, since: float = 0.0) -> None:
        self.slots = slots  # what it waits for one of
        self.who = who
        self.outer: SlotWaiter | None = who.slot_waiter  # whose wait this one is in the middle of
        self.epoch = 0  # of the present wait. Written by the owner, under the lock
        self.turn = 0  # its place among all who ever waited for a first slot, from 1 on. Likewise
        self.since = since  # since when it wants back what it has lent; 0.0: it has lent nothing
        self.is_served = False  # it has a slot: its wait was claimed with one. Under the lock
        self.holder = holder  # the nearest holder above it, whose offer it may use

    def serve(self) -> bool:
        """It gets a slot, unless its wait is over. Under the lock; the caller resumes it after that."""
        self.is_served = WaitWord.claim(self.who, self.epoch, WOKEN)
        return self.is_served


class Slots:
    """A number of slots, and who waits for one. Any thread."""

    __slots__ = ("_below", "_free", "_limit", "_lock", "_offers", "_returning", "_turns", "_waiting")

    def __init__(self, limit: int) -> None:
        self._limit = limit  # under _lock
        self._lock = Lock()
        self._free = limit  # under _lock; above zero only while nobody waits, below while more are taken than there are
        self._returning: OrderedDict[SlotWaiter, None] = OrderedDict()  # who takes one back, as they came. Under _lock
        self._waiting: OrderedDict[SlotWaiter, None] = OrderedDict()  # who has none yet, as they came. Under _lock
        self._turns = 0  # how many have ever waited there. Under _lock
        self._below = 0  # how many of them are below a holder. Under _lock
        self._offers: set[Parker] = set()  # holders that wait, and whose slots nobody has used. Under _lock

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    def get_limit(self) -> int:
        """How many slots there are."""
        return self._limit

    def resize(self, limit: int) -> None:
        """Have so many slots from now on. What is taken stays taken; never waits."""
        served: list[SlotWaiter] = []
        with self._lock:
            self._free += limit - self._limit
            self._limit = limit
            while self._free > 0 and self._is_wanted():
                waiter = self._take_first()
                if waiter.serve():
                    self._free -= 1
                    served.append(waiter)
        for waiter in served:
            waiter.who.resume()

    def count_free(self) -> int:
        """How many are free now."""
        return max(0, self._free)

    def count_waiting(self) -> int:
        """How many threads wait for one now."""
        return len(self._returning) + len(self._waiting)

    def count_taken(self) -> int:
        """How many are taken now."""
        with self._lock:
            return self._limit - self._free

    def reset(self) -> None:
        """All slots are free, but for that of the calling thread, if it has one: in a child that it has forked."""
        me: Parker | None = current()
        self._free = self._limit - (me is not None and self.is_held_by(me))
        self._returning = OrderedDict()
        self._waiting = OrderedDict()
        self._below = 0
        self._offers = set()

    def is_held_by(self, me: Parker) -> bool:
        """Whether `me` is a thread that was started with one of these slots, and has it. Calling thread only."""
        return not me.has_lent and _slots_of(me) is self

    def try_take(self) -> bool:
        """Take a free slot, if there is one; never waits."""
        with self._lock:
            if self._free <= 0:
                return False
            self._free -= 1
            return True

    def take(self, me: Parker, deadline: float | None = None, group: Container | None = None) -> bool:
        """Take a slot, parking until there is one; False when the instant `deadline` comes first. A cancel point.

        Who wants to spawn into `group` has no deadline, and gives up once that is shut, whether it is in there or not.
        Whoever is left by an exception has no slot.
        """
        waiter = SlotWaiter(self, me, self._holder_above(me))
        limit = deadline
        is_outsider = group is not None and not is_under(me.scope, group.scope)
        while True:
            epoch = me.arm()
            with self._lock:
                is_taken = self._take_or_queue(waiter, epoch)
                is_offered = bool(self._offers)
            if is_taken:
                me.withdraw()
                return True
            is_raising = is_over = True
            me.slot_waiter = waiter
            try:
                if is_offered:
                    _tell_lookout(self)
                if group is not None:
                    if is_outsider:
                        group.add_outsider(waiter)
                    limit = horizon(group.scope)
                if group is not None and group.is_shut():
                    outcome = me.withdraw()
                else:
                    outcome = park(me, epoch, WaitReason.SLOT, limit)
                is_over = outcome == WAITING or (outcome == TIMED_OUT and group is None)
                is_raising = False
            finally:
                me.slot_waiter = waiter.outer
                with self._lock:
                    is_served = waiter.is_served
                    if is_over:
                        self._drop(waiter)
                if is_outsider:
                    group.drop_outsider(waiter)  # type: ignore[union-attr]
                # Whose exception it is, and after which other waits, does not matter: only whether it has the slot.
                if is_raising and is_served:
                    Slots.give(self)
            if is_served:
                return True
            if is_over:
                return False

    def give(self) -> bool:
        """Give a slot to the first who waits, or back; False if none is taken. Never parks."""
        with self._lock:
            if self._free >= self._limit:
                return False
            while True:
                if self._free < 0 or not self._is_wanted():
                    self._free += 1
                    return True
                waiter = self._take_first()
                if waiter.serve():
                    break
        if waiter.since:
            waiter.who.resume()
        else:
            waiter.who.resume_spawner()
        return True

    def lend(self, me: Parker, awaited: Slots | None) -> None:
        """`me`, a holder, is about to wait for threads that have `awaited` slots. It calls `take_back` after that."""
        if awaited is self:
            Slots.give(self)
            return
        with self._lock:
            if self._free < 0:
                # It may be this one that went on without: offered at each of its waits, its slot would become many.
                self._free += 1
                return
            waiter = self._serve_below(me)
            if waiter is None:
                self._offers.add(me)
            is_wanted = self._is_wanted()
        if waiter is not None:
            waiter.who.resume()
        elif is_wanted:
            _tell_lookout(self)

    def is_search_needed(self) -> bool:
        """Whether somebody waits for a slot while somebody offers one. Any thread."""
        with self._lock:
            return bool(self._offers) and self._is_wanted()

    def survey(self) -> tuple[set[Parker], list[SlotWaiter]]:
        """Who offers a slot, and who waits for one. The lookout's."""
        with self._lock:
            return set(self._offers), [*self._returning, *self._waiting]

    def pass_on(self, holder: Parker, waiter: SlotWaiter) -> bool:
        """Give the slot that `holder` offers to `waiter`; False if one of them is not there any more. Any thread."""
        with self._lock:
            if holder not in self._offers or not self._is_queued(waiter) or not waiter.serve():
                return False
            self._drop(waiter)
            self._offers.discard(holder)
        waiter.who.resume()
        return True

    def waiters(self) -> list[Parker]:
        """Who waits for a slot now. Any thread."""
        with self._lock:
            return [waiter.who for waiter in (*self._returning, *self._waiting)]

    def take_back(self, me: Parker, deadline: float | None = None) -> None:
        """Have a slot again, before all others; none is needed if nobody has used the one offered. No cancel point.

        Parks until there is one, or until a cancel's grace is over; not beyond `deadline`, the end of what the slot was
        lent for, nor beyond the time of a block of its own.
        """
        me.has_lent = False
        since = now()
        while True:
            limit = _own_limit(me, deadline)
            is_late = limit is not None and now() >= limit
            epoch = me.arm()
            waiter = SlotWaiter(self, me, None, since)
            waiter.epoch = epoch
            with self._lock:
                is_taken = me in self._offers
                if is_taken:
                    self._offers.discard(me)
                elif self._free > 0 or is_late:
                    self._free -= 1
                    is_taken = True
                else:
                    self._returning[waiter] = None
                is_offered = bool(self._offers)
            if is_taken:
                me.withdraw()
                return
            if is_offered:
                _tell_lookout(self)
            # Looked at while armed: a cancel that comes later finds the wait, and ends it.
            until = patience(me, since)
            if limit is not None and (until is None or limit < until):
                until = limit
            park_shielded(me, epoch, WaitReason.SLOT, sooner(until, me))
            is_over = until is not None and now() >= until
            with self._lock:
                if waiter.is_served:
                    return
                self._drop(waiter)
                if is_over:
                    self._free -= 1
            if is_over:
                return

    def _take_or_queue(self, waiter: SlotWaiter, epoch: int) -> bool:
        """Take a slot for `waiter`, if it can have one now; else let it be found, with its armed wait `epoch`. Under _lock."""
        waiter.epoch = epoch
        is_taken = self._free > 0
        if is_taken:
            self._free -= 1
        elif waiter.holder in self._offers:
            self._offers.discard(waiter.holder)
            is_taken = True
        else:
            is_taken = self._take_over(waiter.outer)
        if is_taken:
            self._drop(waiter)
        elif waiter not in self._waiting:
            self._queue(waiter)
        return is_taken

    def _take_over(self, outer: SlotWaiter | None) -> bool:
        """Take the slot with which `outer`, or one around it, has been served, and has not seen it yet. Under _lock."""
        while outer is not None:
            if outer.slots is self and outer.is_served:
                outer.is_served = False
                return True
            outer = outer.outer
        return False

    def _queue(self, waiter: SlotWaiter) -> None:
        """At the end, or where it was before. Under _lock."""
        self._waiting[waiter] = None
        self._below += waiter.holder is not None
        if not waiter.turn:
            self._turns += 1
            waiter.turn = self._turns
            return
        for other in [other for other in self._waiting if other.turn > waiter.turn]:
            self._waiting.move_to_end(other)

    def _serve_below(self, me: Parker) -> SlotWaiter | None:
        """Give the slot of `me` to the first who may use it when that is offered. Under _lock; as `SlotWaiter.serve`."""
        if self._below:
            for waiter in self._waiting:
                if waiter.holder is me and waiter.serve():
                    self._drop(waiter)
                    return waiter
        return None

    def _is_wanted(self) -> bool:
        """Whether anybody waits. Under _lock."""
        return bool(self._returning) or bool(self._waiting)

    def _take_first(self) -> SlotWaiter:
        """Take the first off. Under _lock."""
        waiter: SlotWaiter
        if self._returning:
            for oldest in self._returning:
                is_newest_first = now() - oldest.since < _LONG
                break
            waiter = self._returning.popitem(is_newest_first)[0]
            return waiter
        waiter = self._waiting.popitem(last=False)[0]
        self._below -= waiter.holder is not None
        return waiter

    def _is_queued(self, waiter: SlotWaiter) -> bool:
        """Whether it waits for its turn. Under _lock."""
        return waiter in self._waiting or waiter in self._returning

    def _drop(self, waiter: SlotWaiter) -> None:
        """Take it off, wherever it stands, if it does. Under _lock."""
        if waiter in self._waiting:
            del self._waiting[waiter]
            self._below -= waiter.holder is not None
        elif waiter in self._returning:
            del self._returning[waiter]

    def _holder_above(self, me: Parker) -> Scope | None:
        """The nearest thread above `me` that was started with one of these slots."""
        scope = me.scope
        while scope is not None:
            if scope is not me and scope.owner is scope and _slots_of(scope) is self:  # type: ignore[arg-type]
                return scope
            scope = scope.parent
        return None


def _tell_lookout(slots: Slots) -> None:
    for tell in on_need:
        tell(slots)


def _slots_of(thread: Parker) -> Slots | None:
    """The slots of which `thread` has one; None for all that have none."""
    # Only a virtual thread is the owner of itself.
    return thread.group.slots if thread.owner is thread and not thread.is_daemon else None  # type: ignore[attr-defined]


def lend_slot(me: Parker, awaited: Slots | None, deadline: float | None = None) -> Slots | None:
    """`me` is about to wait for other threads, which have `awaited` slots: others may use its slot meanwhile.

    `deadline`: when that wait ends at the latest. Gives the slots, for `take_back` after the wait; None if it has none.
    """
    slots = None if me.has_lent else _slots_of(me)  # it has if it waits in the middle of another wait: in a report, say
    if slots is not None:
        me.has_lent = True
        slots.lend(me, awaited if _own_limit(me, deadline) is None else None)
    return slots


def _own_limit(me: Parker, deadline: float | None) -> float | None:
    """`deadline`, or the end of a block of its own whose time is limited before that; None: neither. Calling thread only."""
    scope = me.scope
    while (
        scope is not None and scope.owner is me and scope is not me and not (scope.is_shield and now() < scope.shelter)
    ):
        if scope.deadline and (deadline is None or scope.deadline < deadline):
            deadline = scope.deadline
        scope = scope.parent
    return None if deadline == inf else deadline
