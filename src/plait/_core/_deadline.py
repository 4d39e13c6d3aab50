"""A cancel scope with a deadline: the scope that time cancels."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from plait._core._clock import now
from plait._core._container import Container
from plait._core._runtime import close_scope, open_scope
from plait._core._tree import CancelScope, cancelling, wake_all_under

if TYPE_CHECKING:
    from plait._core._parking import Parker
    from plait._core._timers import Timer
    from plait._core._tree import Scope

_DEADLINE_PASSED = "deadline passed"  # the reason that each `Cancelled` gives


class DeadlineScope(CancelScope):
    """Cancelled when its deadline has come, unless it is closed first. One timer, on the carrier of its owner.

    A timer may call when it is late: another thread's carrier hears of a new deadline, or of the end, in its turn. So it
    is the scope that says whether it is due, under the lock that cancels take; and it takes a new deadline under that lock,
    if it is not cancelled yet. Owner and timer agree on which of the two came first.

    In a forked child, whose carriers have lost their timers, each scope around the thread that has forked gets another one.
    """

    __slots__ = ("_timer", "has_expired")

    def __init__(self, grace: float | None = None, container: Container | None = None) -> None:
        super().__init__(grace, container)
        self._timer: Timer | tuple[Timer, Timer] | None = None  # the owner's alone
        # The deadline is what has cancelled it. Set once, before cancelled_at, under cancelling.
        self.has_expired = False

    def enter(self, deadline: float | None) -> Parker:
        """Open it on the calling thread, which is returned, until an instant (None: with no deadline)."""
        me = open_scope(self)
        if deadline is not None:
            self.set_deadline(deadline)
        return me

    def set_deadline(self, instant: float) -> bool:
        """Move the deadline of an open scope; False if it is cancelled already. Owner only."""
        me: Parker = self.owner  # type: ignore[assignment]
        instant = instant or -inf  # 0.0 stands for none
        self.is_notable = True
        if not self.deadline:  # there is no timer yet
            self.deadline = instant
        else:
            with cancelling:
                if self.cancelled_at is not None:
                    return False
                self.deadline = instant
        if self._timer is not None:
            me.retire_timer(self._timer)
            self._timer = None
        if instant <= now():
            self.expire(0)
        elif instant < inf:
            self._timer = me.add_timer(instant, self, 0)
        return True

    def leave(self, is_absorbed: bool = False) -> None:  # noqa: FBT001, FBT002 - compiled
        """Close it. Raises `RuntimeError` if it is not the calling thread's innermost scope. As `close_scope`."""
        me = self.owner
        close_scope(self, is_absorbed)
        if self.deadline:
            with cancelling:
                self.deadline = 0.0
        if self._timer is not None:
            me.retire_timer(self._timer)  # type: ignore[union-attr]
            self._timer = None

    def stay_open(self) -> None:
        """Have a timer in this process, too, unless it is cancelled. What has become of the former one does not matter."""
        me: Parker = self.owner  # type: ignore[assignment]
        if self.deadline and self.deadline < inf and self.cancelled_at is None:
            self._timer = me.add_timer(self.deadline, self, 0)

    def expire(self, epoch: int) -> None:
        """The deadline has come."""
        self.cancel_by_time(self)
        self.wake_owner()

    def cancel_by_time(self, source: object) -> None:
        """As `cancel_scope`, if the deadline is past and nobody was first. The mark tells, not the reason: that is public."""
        cause = (_DEADLINE_PASSED, source, None, None)
        with cancelling:
            if self.cancelled_at is not None or not self.deadline or self.deadline > now():
                return
            self.cause = cause
            self.has_expired = True
            self.cancelled_at = now()
        wake_all_under(self)

    def has_failed(self) -> bool:
        """Whether its time is up, or something has failed that is to leave the block."""
        return self.has_expired

    def failure(self) -> BaseException | None:
        """What has failed in the block, first."""
        return None

    def wake_owner(self) -> None:
        """It is cancelled: the owner, if it waits for children, shall see what there is to report.

        They are those of this block's group, or of one inside it. Owner: publishes its wait, then looks whether a scope
        around it is cancelled. Who cancels: cancels, then looks for the wait. Any thread; never parks.
        """
        owner: Parker | None = self.owner  # type: ignore[assignment]  # not of this class: in a forked child it is gone
        if owner is None:  # its time is up before it has begun
            return
        inner = owner.innermost()
        group = None if inner is None or inner.owner is not owner else inner.container
        if isinstance(group, Container) and group.joining:
            owner.unpark(group.joining)


def end_inside(me: Parker, outer: Scope, error: BaseException) -> BaseException:
    """End the scopes that `me`, the caller, has left open inside `outer`, by a suspended generator say.

    No child may outlive them. Gives what leaves them: `error`, or what a group among them makes of it.
    """
    while (inner := me.scope) is not outer and inner is not me:
        if inner.container is not None:  # type: ignore[union-attr]  # `outer` is further out
            error = inner.container.end_block(error)  # type: ignore[union-attr]
        elif isinstance(inner, DeadlineScope):
            inner.leave()
        else:
            close_scope(inner)  # type: ignore[arg-type]  # a shield
    return error


def left_open(what: str, scope: Scope | None) -> RuntimeError:
    """The error for `what`, a function that has returned inside `scope`."""
    return RuntimeError(
        f"{what} has ended inside {scope!r}, which it has opened and not closed: leave each block in the function that "
        f"enters it"
    )
