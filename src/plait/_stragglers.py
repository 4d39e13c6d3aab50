"""The report on a group that has failed and still waits: what has failed, and which threads it waits for, where.

A failure cancels the others, but one that does not come to a cancel point keeps the block from ending, and the failure
from being seen. So once a group has waited for a while it says all this, through logging. So it is with a time limit
around a group, which is over.
"""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

from plait._core import (
    CancelScope,
    DeadlineScope,
    call_contained,
    close_scope,
    now,
    open_scope,
    runtime,
    take_snapshot,
)
from plait._errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from traceback import StackSummary

    from plait._core import Parker, Scope, Snapshot, VirtualThread
    from plait._groups import ThreadGroup

_PATIENCE = 1.0  # seconds for the carriers to answer
_LONGEST = 10.0  # seconds for whatever handlers do with the report
_MOST = 20  # threads whose stacks are shown

_log = logging.getLogger("plait")


def report_stragglers(me: Parker, group: ThreadGroup, failed: Scope, waited: float) -> None:
    """Say which threads of `group` keep `failed` from ending: its scope, or one around it. For who waits for its end."""
    refuge = CancelScope()  # its own group is cancelled, and logging must not be
    open_scope(refuge, now() + _LONGEST)
    try:
        threads = list(_threads_below(group))
        snapshot = take_snapshot(me, threads[:_MOST], runtime.carriers, _PATIENCE)
        if count := len(group):  # they may have ended meanwhile
            _log.error("%s", "\n".join(_lines(group, failed, count, threads, snapshot, waited)))
    except Cancelled:  # it has taken too long
        pass
    except Exception:  # noqa: BLE001 - a filter's, say: whatever logging makes of it, it is not what the block raises
        call_contained(traceback.print_exc)
    finally:
        close_scope(refuge)


def _threads_below(group: ThreadGroup) -> Iterator[VirtualThread]:
    """The threads of `group` that have waited for something, and those of the blocks which these have open, and so on."""
    todo: list[VirtualThread] = group.members()
    for thread in todo:  # grows meanwhile
        yield thread
        scope = thread.innermost()
        while (
            scope is not None and scope is not thread and scope.owner is thread
        ):  # else it is at its end, in its group's
            if scope.container is not None:
                todo.extend(scope.container.members())  # type: ignore[arg-type]
            scope = scope.parent


def _lines(
    group: ThreadGroup, failed: Scope, count: int, threads: list[VirtualThread], snapshot: Snapshot, waited: float
) -> Iterator[str]:
    whose = "" if failed is group.scope else f" of {group!r}, inside its body,"
    yield (
        f"{failed!r} was cancelled ({failed.cancel_reason}), and has waited {waited:.1f} s for {_threads(count)}{whose} "
        f"to end."
    )
    failure = failed.failure() if isinstance(failed, DeadlineScope) else None
    if failure is not None:
        yield f"It failed with:\n{_indented(''.join(traceback.format_exception(failure)))}"
    for thread in threads[:_MOST]:
        stack = snapshot.stacks.get(thread)
        where = "" if thread.group is group else f" into {thread.group!r}"
        yield f"{thread.name!r}, spawned at {thread.spawn_site}{where}, {_state(thread)}:"
        yield _stack(stack) if stack is not None else "  (its carrier is at work, and does not answer)"
    if len(threads) > _MOST:
        yield f"... and {_threads(len(threads) - _MOST)} more that have waited for something before."
    unseen = count - sum(thread.group is group for thread in threads)
    if unseen > 0:
        yield f"Not begun, or at work without ever having waited: {_threads(unseen)}."
    for carrier, stack in snapshot.busy.items():
        yield f"{carrier!r} is at work:"
        yield _stack(stack) if stack is not None else "  (only it could say on what)"


def _state(thread: VirtualThread) -> str:
    waits_for = thread.waits_for
    return "at work" if waits_for is None else f"waiting for: {waits_for.value}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _stack(stack: StackSummary) -> str:
    return "".join(stack.format()).rstrip() or "  (no function of Python)"


def _indented(text: str) -> str:
    return "".join(f"  {line}" for line in text.splitlines(keepends=True)).rstrip()
