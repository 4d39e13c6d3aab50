"""How a call becomes a child of a group, or why it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from plait._core import (
    Container,
    WaitReason,
    check_entry,
    check_first,
    check_reach,
    current_thread,
    deliver,
    is_under,
    launch,
    lend_slot,
    now,
    park,
    pending,
    start_child,
)
from plait._errors import GroupClosed, GroupFailed
from plait._futures import Future
from plait._rebinding import is_development, watch_variables
from plait._reprs import shortened

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from plait._core import Parker
    from plait._groups import ThreadGroup

P = ParamSpec("P")
T = TypeVar("T")


def checked(fn: Callable[P, T], caller: str) -> Callable[P, T]:
    """`fn`, if it can be called; in development mode, one that looks at its variables first."""
    if not callable(fn):
        raise TypeError(f"{caller} needs something to call, not {fn!r}: write {caller}(fn, x), not {caller}(fn(x))")
    return watch_variables(fn) if is_development else fn


def verify_group(group: object, caller: str) -> None:
    """Refuse what is no group: a method of the class was called in place of one of a group."""
    if not isinstance(group, Container):
        raise TypeError(
            f"ThreadGroup.{caller} needs an open group, not {shortened(group)}: write group.{caller}(fn, x) inside "
            f"`with ThreadGroup() as group:`"
        )


def name_of(fn: object) -> str:
    """What a thread is called whose function calls `fn`."""
    name = getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__name__


def spawn(
    group: ThreadGroup,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str | None = None,
    context: Context | None = None,
    *,
    is_reached: bool = False,
) -> Future[T]:
    """As `ThreadGroup.spawn`."""
    fn = checked(fn, "spawn")
    child = launch(group, Future, fn, args, kwargs, label, context, is_reached)
    return child if child is not None else spawn_slowly(group, fn, args, kwargs, label, context)


def try_spawn(
    group: ThreadGroup,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str | None = None,
    context: Context | None = None,
) -> Future[T] | None:
    """As `ThreadGroup.try_spawn`."""
    fn = checked(fn, "try_spawn")
    child = launch(group, Future, fn, args, kwargs, label, context)
    if child is None and (group.owner is None or group.is_shut()):
        refuse(group, current_thread())
    return child


def spawn_daemon(
    group: ThreadGroup,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str | None = None,
    context: Context | None = None,
) -> Future[T]:
    """As `ThreadGroup.spawn_daemon`."""
    fn = checked(fn, "spawn_daemon")
    me = current_thread()
    if me.scope is not None:
        check_entry(me)
        check_reach(me, group.scope)
    return add_child(group, me, fn, args, kwargs, label, context, is_daemon=True)


def add_child(
    group: ThreadGroup,
    me: Parker,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str | None = None,
    context: Context | None = None,
    *,
    is_daemon: bool = False,
) -> Future[T]:
    """Start a daemon, or a child of a group without a limit, whatever time limits the caller, `me`, is in."""
    child: Future[T] | None = None
    if group.owner is not None and pending(group.scope) is None:
        child = start_child(group, Future, me, fn, args, kwargs, label, context, is_daemon)
    if child is None:
        refuse(group, me)
    return child


def spawn_slowly(
    group: ThreadGroup,
    fn: Callable[..., T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    label: str | None = None,
    context: Context | None = None,
) -> Future[T]:
    """Where `launch` could not: wait for a slot, or say why nothing can be spawned."""
    me = current_thread()
    slots = group.slots
    if slots is None or group.owner is None or group.is_shut():
        refuse(group, me)
    child: Future[T] | None
    if slots.is_held_by(me):
        # Its own slot goes to the child, and it goes on when it has one again.
        try:
            child = start_child(group, Future, me, fn, args, kwargs, label, context)
        finally:
            slots.take_back(me)  # also where nobody got it: the group has closed meanwhile, or this has failed
    else:
        own = lend_slot(me, None)  # of another limit
        try:
            if not slots.take(me, None, group):
                refuse(group, me)
            if pending(group.scope) is not None:
                slots.give()
                refuse(group, me)
            # Before it waits for its own again, or two could keep from each other what they wait for.
            child = start_child(group, Future, me, fn, args, kwargs, label, context)
        finally:
            if own is not None:
                own.take_back(me)
    if child is None:
        refuse(group, me)
    return child


def refuse(group: ThreadGroup, me: Parker) -> NoReturn:
    """Say why nothing can be spawned into `group`, or nothing that was spawned begins.

    Unless `me`, the caller, is cancelled, wherever it belongs: what has ended the group may be for it, too.
    """
    if group.owner is None:
        raise RuntimeError(f"{group!r} has not begun: spawn inside `with ThreadGroup() as group:`")
    check_first(me)
    scope = pending(group.scope)
    if scope is None or not group.inside.count():
        raise GroupClosed(f"{group!r} has ended: nothing can be spawned into it any more. {group.after_its_end}")
    if is_under(me.scope, group.scope):
        told = me.delivery
        if told is not None and (told.alive() is None or now() >= told.until):
            # It has swallowed its Cancelled, or its grace is over: it gets another no sooner than from any other wait.
            park(me, me.arm(), WaitReason.SLOT)
        raise deliver(me, scope)
    raise GroupFailed(
        f"{group!r} was cancelled ({scope.cancel_reason}): nothing can be spawned into it any more"
    ) from group.exception
