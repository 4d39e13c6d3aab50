"""Who owns which threads: the set behind every group, from which cancels and dumps start.

A thread is listed when it first parks or opens a group, and taken off when it ends; one that does neither is never
listed, and needs no waking. The list is also what keeps parked threads alive: a suspended stack must never be collected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from plait._core._placement import Placement
from plait._core._slots import Slots
from plait._core._tree import is_under, pending
from plait._errors import not_copied
from plait._native._native import Lock, Rundown, current

if TYPE_CHECKING:
    from plait._core._parking import Parker
    from plait._core._slots import SlotWaiter
    from plait._core._tree import Scope
    from plait._core._vthread import Verdict, VirtualThread
    from plait._native._native import Counter


_making = Lock()  # so that a group gets one lock


class Container:
    """The threads of one group, and the count of those inside: its children and its body. Policy is the subclass's.

    Join protocol. Owner: publishes its wait (`joining`), then looks at the count [fence]. Last child: counts itself out
    [fence], then looks for the owner's wait. One of them sees the other.

    Daemons are children that nobody waits for: once they alone are inside, they are cancelled. Whoever leaves counts
    itself out and then looks; a daemon is taken off `_daemons` before it counts itself out, so the last to leave before
    them, whoever it is, sees as many inside as there are daemons, or a daemon that leaves later does.

    Outsiders are threads elsewhere that wait for a slot, to spawn into this group. Outsider: is listed, with its wait
    armed, then looks whether the group is shut [fence]. Who cancels: does so, then wakes those listed [lock]. Who closes
    the count: does so [fence], then looks whether there are any. One of them sees the other.

    In a forked child there is none of these threads, but perhaps the one that has forked, the *heir*, or one that it is in a
    thread of. It stands for the body there, whoever began that, and is no child for which anybody waits.
    """

    __slots__ = (
        "_daemons",
        "_listed",
        "_lock",
        "_outsiders",
        "_undismissed",
        "ever_listed",
        "inside",
        "is_supervised",
        "joining",
        "owner",
        "placement",
        "scope",
        "slots",
    )

    def __init__(self, scope: Scope, slots: Slots | None = None) -> None:
        self.inside = Rundown()  # starts with the body; closes when body and children are done, for good
        self.scope = scope  # what children start under
        self.slots = slots  # None: no limit
        self.is_supervised = False  # somebody wants to `judge` the failures of children. Written before the first
        self.owner: Parker | None = None  # the thread that runs the body; written on entry
        self.joining = 0  # the epoch of its wait for the children; 0 before that. Written by the owner
        self.placement: Placement | None = None  # made for the first child that needs one; then never changes
        self._lock: Lock | None = None  # `members_lock`, once it is made; then never changes
        self._listed: dict[VirtualThread, None] | None = None  # as they came; made for the first. Under members_lock
        self.ever_listed = 0  # how many there have been. Written under it
        self._daemons: set[VirtualThread] | None = None  # made for the first. Likewise
        self._undismissed: set[VirtualThread] | None = None  # who does not know yet that all others are done. Likewise
        self._outsiders: dict[SlotWaiter, None] | None = None  # made for the first. Likewise

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    def members_lock(self) -> Lock:
        """What guards who is listed, and what is made for the first of a kind; made for the first who takes it. Any thread."""
        if self._lock is None:
            made = Lock()
            with _making:
                if self._lock is None:
                    self._lock = made
        return self._lock

    def enlist(self, thread: VirtualThread) -> None:
        """`thread` is about to park or to have children for the first time. Itself only."""
        listed = self._listed if self._listed is not None else {}  # made here: under the lock the collector may run
        lock = self.members_lock()
        lock.acquire()
        try:
            if self._listed is None:
                self._listed = listed
            self._listed[thread] = None
            self.ever_listed += 1
        finally:
            lock.release()

    def discharge(self, thread: VirtualThread) -> None:
        """`thread`, which is listed, has ended. Itself only."""
        lock = self.members_lock()
        lock.acquire()
        try:
            if self._listed is not None:  # it is, in a forked child
                self._listed.pop(thread, None)
        finally:
            lock.release()

    def is_shut(self) -> bool:
        """Whether nothing can be spawned any more: cancelled, or closed. A full fence before it looks. Any thread."""
        return not self.inside.count() or pending(self.scope) is not None

    def make_placement(self, turns: Counter, carriers: int) -> Placement:
        """What says on which of so many carriers children from platform threads go. Any thread.

        Once: who reads it while another replaces it would find it freed. And whole: spawners read it without the lock.
        """
        made = Placement(turns, carriers)
        turns.add(0)  # a full fence, before anybody can see it
        with self.members_lock():
            if self.placement is None:
                self.placement = made
            return self.placement

    def add_outsider(self, waiter: SlotWaiter) -> None:
        """`waiter` shall be woken if the group is shut. Its own thread, armed."""
        outsiders = self._outsiders if self._outsiders is not None else {}
        with self.members_lock():
            if self._outsiders is None:
                self._outsiders = outsiders
            self._outsiders[waiter] = None

    def drop_outsider(self, waiter: SlotWaiter) -> None:
        """Its wait is over. Its own thread."""
        with self.members_lock():
            if self._outsiders is not None:  # it is, in a forked child
                self._outsiders.pop(waiter, None)

    def turn_away(self) -> None:
        """Nothing can be spawned any more: wake the outsiders, who look for themselves. Any thread; never parks."""
        with self.members_lock():
            outsiders = list(self._outsiders or ())
        for waiter in outsiders:
            waiter.who.nudge()

    def members(self) -> list[VirtualThread]:
        """Those listed now, the first to park first. Any thread."""
        with self.members_lock():
            return list(self._listed or ())

    def count_daemons(self) -> int:
        """How many daemons are unfinished now. Any thread."""
        with self.members_lock():
            return len(self._daemons or ())

    def abandon(self) -> None:
        """After fork, in the child: none of them exists here but the thread that has forked, if that is below this scope."""
        me: Parker | None = current()
        is_below = me is not None and me.owner is me and is_under(me, self.scope)  # a virtual one: it owns itself
        self._listed = {me: None} if is_below else None  # type: ignore[dict-item]
        self.joining = 0
        self._daemons = self._undismissed = self._outsiders = None
        self.inside.reset()

    def adopt_daemon(self, thread: VirtualThread) -> None:
        """`thread`, which is counted in and not queued yet, is a daemon. Its spawner."""
        daemons, undismissed = set(), set()  # type: ignore[var-annotated]  # the collector may run where they are made
        with self.members_lock():
            if self._daemons is None or self._undismissed is None:
                self._daemons, self._undismissed = daemons, undismissed
            self._daemons.add(thread)
            self._undismissed.add(thread)
        self.dismiss_daemons()  # it may be a daemon that spawns another, with nobody else left to wait for

    def dismiss_daemons(self) -> None:
        """Cancel the daemons, if nobody else is inside. Any thread."""
        if not self._undismissed:
            return
        with self.members_lock():
            if self._daemons is None or self._undismissed is None or self.inside.count() != len(self._daemons):
                return
            daemons = list(self._undismissed)
            self._undismissed.clear()  # each once: there may be many, and each that leaves comes here
        for daemon in daemons:
            daemon.cancel_scope("all others in its group are done", daemon)

    def end_block(self, error: BaseException) -> BaseException:
        """End the block, left open, as if `error` left it; what leaves it. On the thread that began it."""
        raise NotImplementedError

    def end_inside(self, me: Parker, outer: Scope, error: BaseException) -> BaseException:
        """End the scopes that `me`, the caller, has left open inside `outer`; what leaves them of `error`."""
        raise NotImplementedError

    def judge(self, thread: VirtualThread, error: Exception) -> Verdict:
        """What to do about `error`, which a child of a supervised group has raised. On the child, in its scopes."""
        raise NotImplementedError

    def child_failed(self, thread: VirtualThread, error: BaseException) -> None:
        """The function of a child has raised `error`. On the child; may park."""
        raise NotImplementedError

    def child_ended(self, thread: VirtualThread) -> None:
        """Nothing of a child is left to run: its slot goes on, and the last tells the owner. Must not park."""
        if thread.is_daemon:
            with self.members_lock():
                if self._daemons is not None and self._undismissed is not None:  # they are, in a forked child
                    self._daemons.discard(thread)
                    self._undismissed.discard(thread)
        elif self.slots is not None:
            Slots.give(self.slots)
        if Rundown.leave(self.inside):
            if self._outsiders is not None:
                self.turn_away()
            owner = self.owner
            epoch = self.joining
            if epoch:
                owner.unpark(epoch)  # type: ignore[union-attr]
        elif self._undismissed:
            self.dismiss_daemons()
