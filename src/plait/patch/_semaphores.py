"""`multiprocessing`'s locks and semaphores (SemLock): shared with other processes, and owned by the virtual thread.

A semaphore of POSIX cannot be polled, and who waits for it in the kernel takes it. So one kernel thread waits for all
threads of this process that would like to have it, and what it gets is a *grant* for whichever of them looks first. It
waits in slices, since nothing else could end its wait; a slice costs a few microseconds, without the GIL.

    Waiter:  1. counts itself in, and has a taker at work unless there are grants for all   2. queues in the parking lot
             [fence]   3. looks: a grant, else the semaphore itself; success ends the wait   4. parks
             5. counts itself out; what is granted beyond those who wait is given back to the semaphore
    Taker:   1. while more wait than are granted: waits for the semaphore   2. got it: a grant, if that is still so, else
             gives it back   3. wakes one who is parked
    Release: 1. frees the semaphore [fence]   2. wakes one who is parked here
Waiters and grants are counted under one lock. So while more wait than are granted there is a taker, and none is granted
when nobody waits: a waiter that is cancelled takes nothing along. And the threads of this process hear of a release
among themselves without the taker. One thing remains: a taker whose waiters have gone may be at work for the rest of its
slice, and what is released then may pass through its hands; until it gives that back somebody's try may fail.

`Condition.notify` counts on it that no try fails so: what it has released is there, or with one who waited then, when the
first waiter says that it is over; and it may be in another process, which knows nothing of us. So who waits in
`Condition.wait` waits *exactly*: it gets what the taker takes, and nothing else, and counts itself out by way of the taker.

    Waiter:  5'. a grant, if there is one, is its own, be it late: its wait is complete   6'. else asks the taker for the end
             of its turn, and parks until it is out, with a grant or without
    Taker:   2'. ends its turn when it has got the semaphore, or is asked; under one lock: grants what it has got, counts out
             all who have asked, the first of them with the grant, and stops if nobody is left   3'. wakes them all
So a taker is never at work for nobody, and gives nothing back: what it has taken is for one who has waited ever since. No
grant goes to a waiter that has come after it, for whom it was not released. A turn is over when its slice is, so who is
cancelled there waits for 10 ms at most. Who has a time limit does not wait longer for it: slices end when the first does.

Who holds it is told by two words that CPython keeps in the object (`_native/words.c`): a virtual thread writes its own
identity there, and the kernel thread's before CPython's own release, as with RLock (`_rlocks.py`).

Waiting for a lock is patient (design §3.2, rule 4), but not in `multiprocessing.queues`, whose getters hold a lock while
they wait for an item; others of its semaphores are no locks. `Condition.wait` is not interrupted as it takes its lock
again: its caller is going to release it (docs/adr/0004).
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left, bisect_right, insort
from errno import EINVAL
from math import isnan, ldexp
from typing import TYPE_CHECKING, Any

from plait._core import (
    Counter,
    Lock,
    Parker,
    VirtualThread,
    WaitReason,
    check_entry,
    lot_wait,
    lot_wait_shielded,
    lot_wake_all,
    lot_wake_one,
    now,
    retract,
    runtime,
)
from plait._errors import Cancelled, InternalError
from plait._native import (
    cooperative,
    current,
    kernel_ident,
    lot_is_busy,
    original,
    sem_await,
    sem_await_for,
    sem_post,
    sem_try,
    semlock_enter,
    semlock_give,
    semlock_is_known,
    semlock_is_owned,
)
from plait.patch._registry import IDENTITY, Leaf, method

try:
    from _multiprocessing import SemLock  # type: ignore[import-not-found]
except ImportError:  # pragma: no cover - built without semaphores
    SemLock = None

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

if SemLock is not None:
    _acquire: Callable[..., bool] = original(method(SemLock, "acquire"))
    _release: Callable[..., None] = original(method(SemLock, "release"))
_RECURSIVE = 0  # the kind of an RLock
_SLICE = 0.01  # seconds that a taker waits before it looks whether it is wanted
_FAR = 1e9  # an instant that does not come

_lock = Lock()  # guards _contended and what is in it
_contended: dict[int, Contended] = {}  # by the address of the semaphore: those that somebody waits for


class Contended:
    """A semaphore that somebody waits for."""

    __slots__ = ("_lock", "asked", "claims", "deadlines", "grants", "handle", "has_taker", "leaving", "until", "wanted")

    def __init__(self, lock: Any) -> None:
        self._lock = lock  # as long as it lives, the semaphore is there
        self.handle: int = lock.handle
        self.wanted = Counter()  # how many more wait than are granted. Changed under _lock
        self.claims = 0  # how often the taker has got it for those who wait. Under _lock
        self.grants: list[int] = []  # those of them that nobody has yet, by their numbers. Under _lock
        self.has_taker = False  # Under _lock
        self.leaving: list[Waiter] = []  # who has asked the taker to be counted out. Under _lock
        self.asked = Counter()  # how many have. Changed under _lock
        self.deadlines: list[int] = []  # of those who are going to ask, in nanoseconds, sorted. Under _lock
        self.until = Counter()  # the first of them; 0: there is none. Changed under _lock

    def want_less(self) -> None:
        """One waits no more, with or without what it wanted. Under _lock."""
        self.wanted.add(-1)
        if self.wanted.value() < 0:
            self.grants.pop()
            self.wanted.add(1)
            sem_post(self.handle)
        self.drop()

    def drop(self) -> None:
        """Be forgotten, if nobody waits. Under _lock."""
        if not self.has_taker and not self.grants and not self.wanted.value() and _contended.get(self.handle) is self:
            del _contended[self.handle]

    def add_deadline(self, deadline: int) -> None:
        """Who has joined is going to ask at this instant. Under _lock."""
        insort(self.deadlines, deadline)
        self._look_ahead()

    def drop_deadline(self, deadline: int) -> None:
        """That one has gone. Under _lock."""
        del self.deadlines[bisect_left(self.deadlines, deadline)]
        self._look_ahead()

    def _look_ahead(self) -> None:
        first = self.deadlines[0] if self.deadlines else 0
        self.until.add(first - self.until.value())

    def take(self) -> None:
        """What the taker does."""
        while True:
            try:
                has_got = sem_await_for(self.handle, self.wanted, self.asked, self.until, _SLICE)
            except OSError:  # who waits looks by itself, and hears of it there
                has_got = False
            with _lock:
                if has_got and self.wanted.value() > 0:
                    self.claims += 1
                    self.grants.append(self.claims)
                    self.wanted.add(-1)
                elif has_got:
                    sem_post(self.handle)
                has_let_go = self._let_go()
                is_wanted = self.wanted.value() > 0
                if not is_wanted:
                    self.has_taker = False
                    self.drop()
            if has_let_go:
                lot_wake_all(id(self))
            if has_got:
                lot_wake_one(self.handle)
            if not is_wanted:
                return

    def _let_go(self) -> bool:
        """Count out those who have asked for it; whether anybody has. Under _lock."""
        leaving, self.leaving = self.leaving, []
        for waiter in leaving:
            waiter.be_out()
        self.asked.add(-len(leaving))
        return bool(leaving)


class Waiter:
    """One who waits for a semaphore, until the instant `deadline`, if that is not None; exactly, if told so."""

    __slots__ = ("_contended", "_deadline", "_has_it", "_is_exact", "_is_out", "_joined")

    def __init__(self, lock: Any, deadline: float | None, is_exact: bool) -> None:  # noqa: FBT001 - compiled
        self._has_it = False
        self._is_out = False  # after it has asked. Under _lock, as is all that follows
        self._is_exact = is_exact
        self._deadline = int(min(deadline, _FAR) * 1e9) if is_exact and deadline is not None else 0
        with _lock:
            contended = _contended.get(lock.handle)
            if contended is None:
                contended = _contended[lock.handle] = Contended(lock)
            self._contended = contended
            contended.wanted.add(1)
            self._joined = contended.claims if is_exact else 0  # grants up to this one are for others
            if self._deadline:
                contended.add_deadline(self._deadline)
            needs_taker = not contended.has_taker and contended.wanted.value() > 0
            if needs_taker:
                contended.has_taker = True
        if needs_taker:
            runtime.offload.run_apart(contended.take)

    def attempt(self) -> bool:
        """Take it, if that is possible without waiting; whether it was."""
        contended = self._contended
        with _lock:
            if not self._take_grant():
                if (self._is_exact and contended.has_taker) or not sem_try(contended.handle):
                    return False
                contended.want_less()
            self._has_it = True
        return True

    def _take_grant(self) -> bool:
        """One less waits, and one less is granted, if one is granted for this waiter. Under _lock."""
        contended = self._contended
        number = bisect_right(contended.grants, self._joined)
        if number == len(contended.grants):
            return False
        del contended.grants[number]
        contended.drop()
        return True

    def leave(self, me: Parker) -> bool:
        """Wait no more; whether it has it nevertheless, as only who waits exactly may."""
        contended = self._contended
        if self._is_exact:
            return self._leave_exactly(me, contended)
        with _lock:
            if self._has_it:  # something has come between
                sem_post(contended.handle)
            else:
                contended.want_less()
        return False

    def _leave_exactly(self, me: Parker, contended: Contended) -> bool:
        with _lock:
            if self._deadline:
                contended.drop_deadline(self._deadline)
            if self._has_it or self._take_grant():
                return True
            contended.leaving.append(self)
            contended.asked.add(1)
        lot_wait_shielded(me, id(contended), lambda: self._is_out, WaitReason.SEMAPHORE)
        return self._has_it

    def be_out(self) -> None:
        """Its wait is over: with a grant, if there is one, or without. Under _lock."""
        self._has_it = self._take_grant()
        if not self._has_it:
            self._contended.want_less()
        self._is_out = True


def acquire(lock: Any, block: bool = True, timeout: float | None = None) -> bool:  # noqa: FBT001, FBT002 - CPython's
    """`SemLock.acquire`."""
    me: Parker = current()
    if not isinstance(me, VirtualThread):
        if cooperative() is None:
            return _acquire(lock, block, timeout)
        ident = kernel_ident()
    else:
        ident = me.ident
    if lock.kind == _RECURSIVE and semlock_is_owned(lock, ident):
        semlock_enter(lock, ident)
        return True
    if timeout is not None:
        timeout = ldexp(timeout, 0)  # as C takes a number: of what has `__float__` or `__index__`, and of no text
    handle = lock.handle
    if not sem_try(handle):
        if not block or (timeout is not None and timeout <= 0):
            return False
        if timeout is not None and isnan(timeout):  # as the kernel says
            raise OSError(EINVAL, os.strerror(EINVAL))
        if not _wait(me, lock, handle, None if timeout is None else now() + timeout):
            return False
    semlock_enter(lock, ident)
    return True


def _wait(me: Parker, lock: Any, handle: int, deadline: float | None) -> bool:
    """Take the semaphore as soon as it can be had; False if the instant `deadline` comes first."""
    if cooperative() is None:  # nothing may park here
        while deadline is None or now() < deadline:
            if sem_await(handle, _SLICE if deadline is None else min(_SLICE, deadline - now())):
                return True
        return False
    rule = _rule(lock)
    if (rule is _INTERRUPTED or rule is _EXACT) and me.scope is not None:
        check_entry(me)
    waiter = Waiter(lock, deadline, rule is _EXACT)
    has_it = False
    try:
        if rule is _SHIELDED:
            lot_wait_shielded(me, handle, waiter.attempt, WaitReason.SEMAPHORE)
            has_it = True
        else:
            has_it = lot_wait(me, handle, waiter.attempt, WaitReason.SEMAPHORE, deadline, rule is _PATIENT)
    except Cancelled:
        if not waiter.leave(me):
            raise
        retract(me)  # a completed wait is never turned into a cancellation
        return True
    except BaseException:
        waiter.leave(me)
        raise
    if rule is _EXACT or not has_it:
        return waiter.leave(me)
    return True


# How a wait is cancelled; exactly (see above): at once, or not at all.
_INTERRUPTED, _PATIENT, _SHIELDED, _EXACT = "interrupted", "patient", "shielded", "exact"


def _rule(lock: Any) -> str:
    """How a wait for `lock` is cancelled: that is told by what it is, and by who waits."""
    module, name = _caller()
    if module == "multiprocessing.synchronize" and name == "notify":
        return _PATIENT  # those whom it has woken tell it so at once
    if module == "multiprocessing.synchronize" and name == "wait":
        return _SHIELDED if lock.maxvalue == 1 else _EXACT
    return _INTERRUPTED if lock.maxvalue != 1 or module == "multiprocessing.queues" else _PATIENT


def _caller() -> tuple[str | None, str | None]:
    """The module and the name of the Python function that waits, or enters the block that does."""
    try:
        frame = sys._getframe()  # noqa: SLF001 - the only way to know
    except ValueError:
        return None, None  # a method of the lock was spawned: there is no Python function
    while frame is not None:
        module, name = frame.f_globals.get("__name__"), frame.f_code.co_name
        if module != __name__ and (module, name) != ("multiprocessing.synchronize", "__enter__"):
            return module, name
        frame = frame.f_back  # type: ignore[assignment]
    return None, None


def enter(lock: Any) -> bool:
    """`with semaphore:`."""
    return acquire(lock)


def release(lock: Any) -> None:
    """`SemLock.release`."""
    me = current()
    if isinstance(me, VirtualThread) and lock.kind == _RECURSIVE and semlock_is_owned(lock, me.ident):
        semlock_give(_release, lock)
    else:
        _release(lock)
    if lot_is_busy(lock.handle):
        lot_wake_one(lock.handle)


def leave(lock: Any, *exc_info: object) -> None:
    """`SemLock.__exit__`."""
    release(lock)


def is_mine(lock: Any) -> bool:
    """`SemLock._is_mine`."""
    me = current()
    return semlock_is_owned(lock, me.ident if isinstance(me, VirtualThread) else kernel_ident())


def wake(lock: Any) -> None:
    """A semaphore was released, or a lock once of several times, on a platform thread."""
    lot_wake_one(lock.handle)


def leaves() -> Sequence[Leaf]:
    """What this file makes cooperative."""
    if SemLock is None:
        return []
    if not semlock_is_known(SemLock):
        raise InternalError("the SemLock of this interpreter is laid out in an unknown way: plait cannot run on it")
    table: dict[str, tuple[Callable[..., Any], Callable[[Any], None] | None]] = {
        "acquire": (acquire, None),
        "__enter__": (enter, None),
        "release": (release, wake),
        "__exit__": (leave, wake),
        "_is_mine": (is_mine, None),
    }
    return [
        Leaf(
            f"multiprocessing.SemLock.{name}",
            method(SemLock, name),
            replacement,
            after,
            IDENTITY,
            SemLock.__dict__["handle"],
        )
        for name, (replacement, after) in table.items()
    ]


os.register_at_fork(after_in_child=_contended.clear)  # no other thread is left, and what was granted is the parent's
