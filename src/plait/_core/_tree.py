"""Scopes as a tree, cancelled by their state: what a cancel is stored in, and how it reaches who waits.

A *scope* is a node with a parent; every thread has an innermost one. Cancelling a scope is one store into that node; a
thread is cancelled if any node from its innermost scope to the root is. So nothing is copied down the tree, nothing can
be missed by a thread that enters late, and nothing is ever re-sent: a cancel wakes each thread parked under the scope
once, and from then on each cancel point looks at the state by itself (`_cancel.py`).

    parent      the scope that this one was opened in. Written once. A virtual thread is itself a scope: the outermost
                of what it runs, between its group's scope and those that it opens.
    owner       the thread that opened it, whose `scope` pointer leads here. In a forked child the thread that has forked
                is the owner of all that is around it, for nobody else is there: through it a cancel comes to who is below.
    container   the threads spawned under it, if it belongs to a group.

A *shield* is a scope that hides the cancels above it from what is below it, until an instant (`shelter`) that all below
know: there a wait has to look again. It keeps what the thread had been told, and gives it back when it closes. A scope
that is opened while the thread cleans up is a shield for as long as the clean-up may take; whatever is granted below,
to clean-up or to shields, ends with that (`grace_end`). Other shields are asked for. Who has no patience left (a second
Ctrl-C) hurries a cancelled scope: nothing hides it any more, and no grace is left below it. Who has less patience (a second
cancel, with a grace) cuts clean-up for it off at an instant (`cut_off`), which ends all shields that are part of clean-up.

Protocol (cancel and park).
    Victim:     1. joins the container of its group, on its first wait or when it opens a group (under the container's lock)
                2. arms its wait word                                                            [fence]
                3. reads the state of its scopes; if one is cancelled it withdraws and raises
                4. suspends
    Canceller:  1. stores the state                                                              [lock, fence]
                2. reads the members of every container under the scope, and the scopes of each member
                3. claims the open wait of each                                                  [fence], resumes it
    Either the victim's step 3 sees the state, or the canceller's step 3 sees the armed word: both sides have a full
    fence between their store and their load. A victim that joins after the canceller's step 2 took the container's lock
    after it, and so sees the state: it does not park, and spawns nothing. A thread that the canceller finds parked under
    some other scope by then is woken for nothing: every wait is a loop over its own condition.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NoReturn, Protocol

from plait._core import _quiet
from plait._core._atomics import Lock
from plait._errors import Cancelled, not_copied
from plait._native._native import WaitWord, caller_code, caller_offset, current, line_at, now
from plait._reprs import stated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

GRACE = 5.0  # seconds that clean-up may take, unless the scope, or one above it, says otherwise

cancelling = Lock()  # orders the first canceller of a scope before the others

# Of any exception group, whatever its class makes of the name.
_inside: Callable[[BaseExceptionGroup[BaseException]], Sequence[BaseException]] = vars(BaseExceptionGroup)[
    "exceptions"
].__get__


class Container(Protocol):
    """Threads that live and die together."""

    def members(self) -> Sequence[Victim]:
        """Those that have parked at least once and have not ended."""

    def turn_away(self) -> None:
        """Wake whoever waits outside to spawn here: nothing can be spawned any more."""

    def end_block(self, error: BaseException) -> BaseException:
        """End the block, left open, as if `error` left it; what leaves it. On the thread that began it."""

    def abandon(self) -> None:
        """In a forked child: of its threads only the one that has forked may be here."""


class Scope(WaitWord):
    """A node of the tree.

    It has a wait word because a virtual thread is a scope, too, and extension types know no multiple inheritance; other
    scopes leave the word alone.
    """

    __slots__ = (
        "cancelled_at",
        "cause",
        "container",
        "cut_off",
        "deadline",
        "grace",
        "grace_end",
        "is_hurried",
        "is_notable",
        "is_shield",
        "is_time_limit",
        "opener",
        "owner",
        "parent",
        "shelter",
    )

    parent: Scope | None  # written once, before anybody else can see the node
    owner: Victim | None  # written by the owner on entry, and in a forked child
    opener: FrameType | None  # the generator that has opened it, until it is seen to be suspended inside. Owner only
    container: Container | None  # written once
    grace: float | None  # seconds; None: what the scope above grants. Written before the cancel
    cancelled_at: float | None  # None, then the instant of the cancel, for good. Written under cancelling
    deadline: float  # the instant when time cancels it; 0.0: there is none. Written by the owner, under cancelling
    cut_off: float  # the instant when clean-up for it has to be over; 0.0: as its grace says. Written under cancelling
    is_hurried: bool  # cancelled, and out of patience: shields below hide nothing of it, no grace is left. Set once
    is_time_limit: bool  # a block whose time is limited: what is spawned inside may expect to be, too. Written once
    is_shield: bool  # hides the cancels above it until `shelter`. Written once
    # It has been cancelled, has a deadline or is a shield, or is about to: what has none of that is passed by at one look.
    # Set before any of that, and never taken back
    is_notable: bool
    shelter: float  # the instant when this shield, or the nearest one above, ends; 0.0: there is none. Written once
    grace_end: float  # the end of the clean-up that this is part of; 0.0: of none. Written once
    # Reason, source, name of the canceller, its place: what each `Cancelled` says. Written before cancelled_at
    cause: tuple[object, object, str | None, str | None]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    @property
    def cancel_reason(self) -> str:
        """Why it was cancelled, for a message."""
        return stated(self.cause[0])

    def cancel_scope(self, reason: object, source: object, grace: float | None = None) -> bool:
        """Cancel everything under this scope; False if it was cancelled already. Any thread; never parks."""
        if self.cancelled_at is not None:
            return False
        cause = (reason, source, *_whereabouts())
        with cancelling:
            if self.cancelled_at is not None:
                return False
            self.cause = cause
            if grace is not None:
                self.grace = grace
            self.is_notable = True
            self.cancelled_at = now()
        wake_all_under(self)
        return True

    def expire(self, epoch: int) -> None:
        """The deadline has come. Any thread; never parks."""
        raise NotImplementedError

    def stay_open(self) -> None:
        """In a child that the owner has forked inside this scope, which stays open there. The owner's."""

    def cut_grace(self, grace: float) -> None:
        """Let clean-up for this scope, which is cancelled, be over in `grace` seconds, unless it is to be sooner.

        Any thread; never parks.
        """
        end = now() + grace
        with cancelling:
            if self.cut_off and self.cut_off <= end:
                return
            self.cut_off = end
        wake_all_under(self)

    def hurry(self) -> None:
        """Have no more patience with what is under this scope, which is cancelled: neither shields nor grace count.

        Any thread; never parks.
        """
        with cancelling:
            self.is_hurried = True
        wake_all_under(self)


class Victim(Scope):
    """A thread as cancellation sees it: it has an innermost scope, and may have been told."""

    __slots__ = ("delivery", "is_deaf", "loads_locked", "patient_for", "patient_since", "scope")

    scope: Scope | None  # the innermost. Written by the owner, read by cancellers: both under the latch
    delivery: Delivery | None  # what it was told of its cancellation. The owner's alone
    is_deaf: bool  # it hears of no cancel now: it takes back a lock that its caller counts on. Likewise
    patient_since: float  # since when it does what must not be left half done; 0.0: it does not. Likewise
    patient_for: Scope | None  # below this scope it hears of cancels as ever meanwhile; None: nowhere. Likewise
    loads_locked: bool  # it loads a module, and when it began the import lock was held: see patch/_imports.py. Likewise

    def set_scope(self, scope: Scope | None) -> None:
        """Make `scope` the innermost. Owner only."""
        former = self.scope
        WaitWord.latch(self)
        self.scope = scope
        WaitWord.unlatch(self)
        del former  # not under the latch: it may be the last reference

    def resume(self) -> None:
        """Let the thread go on: who has won a claim of its wait calls it, once. Any thread."""
        raise NotImplementedError

    def innermost(self) -> Scope | None:
        """The innermost scope. Any thread."""
        WaitWord.latch(self)
        scope = self.scope
        WaitWord.unlatch(self)
        return scope

    def nudge(self) -> None:
        """End the open wait of this thread, if a canceller may. Any thread."""
        if WaitWord.interrupt(self):
            self.resume()


class Delivery:
    """What a thread has been told: the `Cancelled` raised, for which scope, and until when clean-up may park."""

    __slots__ = (
        "alive",
        "former",
        "is_due",
        "is_reported",
        "is_swallowed",
        "quiet_until",
        "scope",
        "told_again_at",
        "until",
    )

    scope: Scope  # for which it was told
    alive: Callable[[], object]  # a weak reference to the exception that was raised last
    former: Callable[[], object] | None  # the one before, for `retract`; None: it is the first
    until: float  # the instant when clean-up may park no more
    quiet_until: float  # until this instant who was told again may park
    told_again_at: float  # the instant when it was first raised again; 0.0: it was not
    is_swallowed: bool  # it has died before it reached its scope
    is_reported: bool  # that has been said
    is_due: bool  # there may be something to say


class CancelScope(Scope):
    """A scope that a thread opens and closes around a part of its work."""

    __slots__ = ("_told",)

    _told: Delivery | None  # a shield's: what the thread had been told when it opened this scope

    def __init__(self, grace: float | None = None, container: Container | None = None) -> None:
        self.parent = None
        self.owner = None
        self.container = container
        self.grace = grace
        self.cancelled_at = None
        self.cut_off = 0.0
        self.is_hurried = False
        self.is_notable = False
        self.is_shield = False
        self.is_time_limit = False
        self.deadline = 0.0
        self.shelter = 0.0
        self.grace_end = 0.0
        self.opener = None
        self._told = None

    def open(self, owner: Victim, shelter: float = 0.0) -> None:
        """Become the innermost scope of `owner`, which is the calling thread; a shield until the instant `shelter`."""
        parent = owner.scope
        told = owner.delivery
        if parent is not None:
            self.shelter = parent.shelter
            self.grace_end = parent.grace_end
        is_cleaning_up = told is not None and told.alive() is not None
        if is_cleaning_up:
            self.grace_end = told.until  # type: ignore[union-attr]
        if shelter or is_cleaning_up:
            self.is_shield = self.is_notable = True
            self.shelter = min(shelter or self.grace_end, self.grace_end or shelter)
            self._told = told
            owner.delivery = None
        self.parent = parent
        self.owner = owner
        owner.set_scope(self)

    def close(self, is_absorbed: bool = False) -> None:  # noqa: FBT001, FBT002 - compiled
        """Stop being the innermost scope of the calling thread, which opened this one last.

        `is_absorbed`: what the thread was told ends here, even if a scope further out has been cancelled just now.
        """
        owner = self.owner
        if owner is None:
            raise RuntimeError(f"{self!r} is not open: write `with`, which enters it and leaves it, once")
        if owner.scope is not self:
            raise RuntimeError(
                f"scopes must be closed in the reverse order of opening, by the thread that opened them: {self!r} is "
                f"not the innermost scope of {owner!r}, {owner.scope!r} is"
            )
        owner.set_scope(self.parent)
        self.opener = None
        if self.is_shield:
            owner.delivery = self._told
        elif is_absorbed or (self.cancelled_at is not None and pending(self) is self):
            owner.delivery = None  # what was delivered on behalf of this scope is settled

    def rest_of(self, error: BaseException | None) -> BaseException | None:
        """What of `error`, which leaves this scope's block, goes on outwards: all but this scope's own cancellation."""
        if isinstance(error, Cancelled):
            return None if pending(self) is self else error
        if isinstance(error, BaseExceptionGroup) and pending(self) is self:
            return without_cancelled(error)
        return error


def without_cancelled(error: BaseException) -> BaseException | None:
    """What is left of `error`, when each `Cancelled` in it is left out: of one, or of a group of nothing else, None.

    Of a group that holds others, too, it is the rest, as `split` makes it. If the class of the group fails at that, what it
    raises takes the place of the group, as it does where `except*` splits one. Never raises.
    """
    if isinstance(error, Cancelled):
        return None
    if not isinstance(error, BaseExceptionGroup):
        return error
    try:
        are_cancelled = [isinstance(one, Cancelled) for one in exceptions_in(error)]
        if all(are_cancelled):
            return None
        return BaseExceptionGroup.split(error, Cancelled)[1] if any(are_cancelled) else error
    except BaseException as failure:  # noqa: BLE001 - of `derive`, or of a signal handler that has run there
        if failure is error or isinstance(failure, Cancelled):  # it waits there: the next cancel point raises another
            return error
        if failure.__context__ is None:
            failure.__context__ = error
        return failure


def exceptions_in(error: BaseException) -> list[BaseException]:
    """`error` itself; in place of an exception group what is in it, however deep."""
    todo = [error]
    for one in todo:  # grows meanwhile
        if isinstance(one, BaseExceptionGroup):
            todo.extend(_inside(one))
    return [one for one in todo if not isinstance(one, BaseExceptionGroup)]


def pending(scope: Scope | None) -> Scope | None:
    """The outermost cancelled scope from `scope` upwards that no shield hides, or None."""
    return None if _quiet.is_quiet(scope) else _outermost(scope, False)


def pending_now(scope: Scope | None) -> Scope | None:
    """As `pending`, once time has cancelled what it shall. Not under a lock.

    A thread that goes from one cancel point to the next, and never has to wait, lets no timer come.
    """
    return None if _quiet.is_quiet(scope) else _outermost(scope, True)


def _outermost(scope: Scope | None, is_timely: bool) -> Scope | None:  # noqa: FBT001 - compiled
    found = None
    is_hidden = is_out_of_clean_up = False  # by what shields: those of clean-up end with it
    while scope is not None:
        if scope.is_notable:
            if is_timely and scope.deadline and scope.cancelled_at is None and scope.deadline <= now():
                scope.expire(0)
            if scope.cancelled_at is not None and (
                not is_hidden
                or scope.is_hurried
                or (scope.cut_off and not is_out_of_clean_up and scope.cut_off <= now())
            ):
                found = scope
            if scope.is_shield and now() < scope.shelter:
                is_hidden = True
                if not scope.grace_end:
                    is_out_of_clean_up = True
        scope = scope.parent
    return found


def is_cancelled(scope: Scope | None) -> bool:
    """Whether `scope` or one above is cancelled, hidden by a shield or not."""
    while scope is not None:
        if scope.cancelled_at is not None:
            return True
        scope = scope.parent
    return False


def is_hurried(scope: Scope | None) -> bool:
    """Whether `scope` or one above has no more patience."""
    while scope is not None:
        if scope.is_hurried:
            return True
        scope = scope.parent
    return False


def is_under(scope: Scope | None, ancestor: Scope) -> bool:
    """Whether `ancestor` is `scope` or stands above it."""
    while scope is not None:
        if scope is ancestor:
            return True
        scope = scope.parent
    return False


def grace_of(scope: Scope | None) -> float:
    """How many seconds clean-up for `scope` may take: what the nearest one from there upwards says that says anything."""
    while scope is not None:
        if scope.grace is not None:
            return scope.grace
        scope = scope.parent
    return GRACE


def horizon(above: Scope | None) -> float | None:
    """When the nearest shield from `above` upwards ends, and a wait below has to look again; None: there is none."""
    if above is None or not above.shelter:
        return None
    while above is not None:
        if above.is_shield and now() < above.shelter:
            return _end_of_shelter(above)
        above = above.parent
    return None


def _end_of_shelter(shield: Scope) -> float:
    """When the shelter of `shield` ends, or what it hides is cut off: as `_outermost` looks at it."""
    end = shield.shelter
    scope: Scope | None = shield
    while scope is not None and (scope.grace_end or not scope.is_shield or now() >= scope.shelter):
        if scope.cut_off and now() < scope.cut_off < end:
            end = scope.cut_off
        scope = scope.parent
    return end


def _whereabouts() -> tuple[str | None, str | None]:
    """The name of the calling thread, and where it is.

    A block that ends asks, so no signal handler may run here: no repr(), no str() of anything but a string. The line
    is a number of C.
    """
    me = current()
    code, offset = caller_code(), caller_offset()
    name = threading.current_thread().name if me is None else me.name
    return name, None if code is None else f"{code.co_filename}:{line_at(code, offset)}"


def wake_all_under(scope: Scope) -> None:
    """Wake each thread that is parked under `scope` once. The tree is walked without recursion: it may be deep.

    In the order in which they have parked: whoever waits in a queue is then found at its head, not by a search through
    all who wait there, and stacks made one after the other go one after the other.
    """
    todo: list[tuple[Sequence[Victim], Scope]] = []
    if scope.container is not None:
        scope.container.turn_away()
        todo.append((scope.container.members(), scope))
    owner = scope.owner  # read once: a thread that ends takes it away
    if owner is not None:
        todo.append(([owner], scope))
    for threads, until in todo:  # grows meanwhile
        for thread in threads:
            Victim.nudge(thread)
            inner = Victim.innermost(thread)
            # A thread at its end is in its group's scope: what else is there is none of its business.
            while inner is not None and inner is not until and inner.owner is thread:
                if inner.container is not None:
                    inner.container.turn_away()
                    todo.append((inner.container.members(), inner))
                inner = inner.parent
