"""The join of a group: its owner waits for the children, whatever comes meanwhile.

It cannot be cancelled: an outer cancel has reached the children already, and the group has nothing to do but to wait for
them. How the last child wakes the owner is in `_core/_container.py`.

A group whose owner is another thread is *seen out*: the same, as far as Ctrl-C goes, for who has cancelled it and waits for
that thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait._core import (
    DeadlineScope,
    Parker,
    VirtualThread,
    WaitReason,
    current_thread,
    excuse,
    is_cancelled,
    lend_slot,
    now,
    park_shielded,
    wake_all_under,
    without_cancelled,
)
from plait._errors import Cancelled
from plait._failures import note_failures
from plait._originals import sleep
from plait._stragglers import report_stragglers

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core import Scope
    from plait._groups import ThreadGroup

_PAUSE = 0.001  # seconds that it rests when memory has run out
_REPORT_AFTER = 1.0  # seconds that a failed group waits for its children before it says so

# What Ctrl-C does: the first cancels, wherever it comes. During the join the second says who is waited for and has no more
# patience with them, and the third leaves, children or not. SystemExit of a signal handler does the same.
# The count goes with the exception that the first has raised, on which it is kept: a block that it leaves leaves it to the
# one around, and so does an iterator of `pmap`, which is no block.
# Whatever else a handler raises during the join cancels, too, however often it comes, and is a failure of the group, the
# first such. It says nothing about patience: a handler that ticks must not drive children out of their clean-up. A handler
# that waits there, or looks, has the scopes of the block: if they are cancelled it gets their Cancelled. That is the end of
# the handler, and of nothing else, for the block knows already; nor has the block been told by it.
_HURRY, _LEAVE = 2, 3
_COUNT = "_plait_times_pressed"  # the attribute of such an exception
BARE = (KeyboardInterrupt, SystemExit)  # they leave as they are


def join(group: ThreadGroup, me: Parker, times: int, failure: BaseException | None) -> tuple[BaseException | None, int]:
    """Wait for the children, whatever happens; the first Ctrl-C that came meanwhile, and how often it has come.

    `times`: how often it has come already. `failure`: what has kept the children from hearing that the body has ended.
    """
    interrupt: BaseException | None = None
    cause = failure  # what the children have to hear of
    told = me.delivery
    alive: Any = None if told is None else told.alive
    is_hurried = times >= _HURRY  # it was said in a block inside this one
    is_impatient = False
    is_reported = False  # that it waits though it has failed
    since = now()
    slots = lend_slot(me, group.slots)
    while times < _LEAVE:
        try:
            if cause is not None:
                _cancel_for(group, me, cause)
                cause = None
            if is_hurried:
                group.scope.hurry()
                is_hurried = False
            group.dismiss_daemons()
            epoch = me.arm(True)
            group.joining = epoch
            if not group.inside.count():
                me.withdraw()
                break
            failed = _failed_around(group, failure if interrupt is None else interrupt)
            due = None if is_reported else _report_due(failed, since)
            if not is_impatient and (due is None or now() < due):
                park_shielded(me, epoch, WaitReason.GROUP, due)
                continue
            me.withdraw()
            is_reported = True
            report_stragglers(me, group, failed or group.scope, now() - since)
            if is_impatient:
                is_impatient = False
                group.scope.hurry()
        except BaseException as error:  # noqa: BLE001 - a signal handler's, in the main thread; or memory has run out
            me.delivery = told
            if told is not None:
                told.alive = alive
            raised = without_cancelled(error) if is_cancelled(group.scope) else error
            if raised is None:
                continue
            cause = raised
            if not isinstance(raised, BARE):
                failure = raised if failure is None else failure
                continue
            interrupt = raised if interrupt is None else interrupt
            times += 1
            is_impatient = times == _HURRY
    if slots is not None:
        slots.take_back(me)
    if failure is not None:
        group.keep_failure(failure)
    return interrupt, times


def see_out(group: ThreadGroup, wait: Callable[[], object], error: BaseException | None) -> BaseException | None:
    """Wait for the end of `group`, which is cancelled, and which another thread has open, by `wait()`; what leaves then.

    `error`: what leaves if nothing comes meanwhile (None: nothing). A Ctrl-C that it is of has been the first. A `Cancelled`
    out of `wait` says that the calling thread may wait no longer.
    """
    me = current_thread()
    since = now()
    interrupt = error if isinstance(error, BARE) else None
    failure: BaseException | None = None
    cancelled: Cancelled | None = None
    times = 0 if interrupt is None else max(1, times_pressed(interrupt))
    is_hurried = times >= _HURRY
    is_impatient = False
    while times < _LEAVE:
        try:
            if is_impatient:
                is_impatient, is_hurried = False, True
                report_stragglers(me, group, group.scope, now() - since)
            if is_hurried:
                group.scope.hurry()
                is_hurried = False
            wait()
            break
        except Cancelled as told:
            cancelled = told
            break
        except BARE as pressed:
            interrupt = pressed if interrupt is None else interrupt
            times += 1
            is_impatient = times == _HURRY
        except BaseException as failed:  # noqa: BLE001 - another signal handler's; or memory has run out
            failure = failed if failure is None else failure
            if isinstance(failed, MemoryError):
                _make_room(me)
    if interrupt is None:
        leaves = failure or cancelled or error
    else:
        leaves = interrupt
        keep_count(interrupt, times)
        if failure is not None:
            note_failures(interrupt, group, [failure])
    if leaves is not cancelled:
        excuse(me, cancelled)
    return leaves


def times_pressed(error: BaseException | None) -> int:
    """How often Ctrl-C has come when a block is left by `error`."""
    if not isinstance(error, BARE):
        return 0
    try:
        # As object does it: no code of the exception's class runs at the end of a block.
        times: int = object.__getattribute__(error, _COUNT)
    except AttributeError:
        return int(isinstance(error, KeyboardInterrupt))
    return times


def keep_count(error: BaseException, times: int) -> None:
    """Have the blocks around know that what has raised `error`, which goes on to them, has come so many times."""
    object.__setattr__(error, _COUNT, times)


def _cancel_for(group: ThreadGroup, me: Parker, cause: BaseException) -> None:
    """Cancel the children for `cause`. Owner only."""
    is_out_of_memory = isinstance(cause, MemoryError)
    if is_out_of_memory:
        _make_room(me)
    if not group.scope.cancel_scope(type(cause).__name__, group) and is_out_of_memory:
        wake_all_under(group.scope)  # it may have failed half-way


def _make_room(me: Parker) -> None:
    """Memory has run out: others may give some back."""
    if isinstance(me, VirtualThread):
        me.yield_now()
    else:
        sleep(_PAUSE)


def _failed_around(group: ThreadGroup, interrupt: BaseException | None) -> Scope | None:
    """The failed scope that this join holds up: the group's, or one around it whose block has come here. Owner only."""
    if not is_cancelled(group.scope):
        return None
    if group.scope.cancelled_at is not None and interrupt is not None:
        return group.scope
    scope: Scope | None = group.scope
    while scope is not None and scope.owner is group.owner:
        if isinstance(scope, DeadlineScope) and scope.cancelled_at is not None and scope.has_failed():
            return scope
        scope = scope.parent
    return None


def _report_due(failed: Scope | None, since: float) -> float | None:
    """When it is to be said that `failed` waits for this join, which has begun at `since`; None: never."""
    if failed is None:
        return None
    assert failed.cancelled_at is not None
    return max(failed.cancelled_at, since) + _REPORT_AFTER
