"""Blocks of calls: what `gather`, `race` and `pmap` are made of.

What leaves such a block is the first failure itself. The calls of an iterator have a block that a thread of its own holds
open: for an iterator must not hold a scope while it is suspended.
"""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from math import inf
from typing import TYPE_CHECKING, Any, Self, TypeVar

from plait._arrivals import Arrivals, lending, offer
from plait._core import (
    GRACE,
    VirtualThread,
    check_entry,
    current_thread,
    excuse,
    grace_of,
    now,
    refuge,
    runtime,
    sleep,
    without_cancelled,
)
from plait._default import default_group, lasting_group_around
from plait._errors import Cancelled
from plait._failures import class_of, note_failures
from plait._groups import ThreadGroup
from plait._joining import BARE, see_out
from plait._native import cooperative, current
from plait._reprs import shortened
from plait._scopes import move_on_after, shield
from plait._spawning import add_child, name_of, refuse

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from plait._futures import Future

T = TypeVar("T")


class Calls:
    """A block of calls, which raises the first failure among them, as it is."""

    def __init__(self, name: str) -> None:
        self.group = ThreadGroup(name=name, grace=grace_of(current_thread().scope))
        self._count = 0
        self._process = os.getpid()  # where they are

    def spawn(self, what: object, fn: Callable[..., T], *args: Any) -> Future[T]:
        """Call `fn(*args)`; should it fail, its error says which call it was, and of `what`."""
        place = self._count
        self._count += 1

        def call() -> T:
            try:
                return fn(*args)
            except Cancelled:
                raise
            except BaseException as error:
                with suppress(Exception):  # whatever the item makes of repr(), and the error of notes
                    error.add_note(f"raised by call {place} of {self.group.name}: {shortened(what)}")
                raise

        call.__qualname__ = name_of(fn)  # the thread is called so
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        # Whatever time limits the caller is in: it sees to the end of the calls.
        return add_child(self.group, me, call, (), {})

    def __enter__(self) -> Self:
        """Begin."""
        self.group.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Wait for all calls."""
        try:
            is_over = self.group.__exit__(kind, error, traceback)
        except BaseExceptionGroup as failures:
            first = self.group.exception
            assert first is not None
            if first is not failures:  # what it came from itself is not lost
                failures.__cause__ = first.__cause__
                if failures.__cause__ is None and not first.__suppress_context__:
                    failures.__context__ = first.__context__
            raise first from failures
        if error is None:
            self.verify_here()  # a signal handler may have forked meanwhile
        return is_over

    def verify_here(self) -> None:
        """Refuse to go on in a child process, forked meanwhile: `RuntimeError`."""
        if self._process != os.getpid():
            raise begun_elsewhere(self.group.name)


def begun_elsewhere(what: str) -> RuntimeError:
    """The error for who goes on in a forked child with `what`, which was begun before the fork."""
    return RuntimeError(
        f"this {what} was begun in the process that has forked this one, where its calls are: begin another one here"
    )


class Host:
    """Calls whose block is held open by a thread of its own: an iterator must not hold a scope while it is suspended.

    The thread is a daemon of the group that the iterator is begun in, so a cancel there reaches the calls. (A signal handler
    may begin one while its thread waits for a group to end: then it is the next group around, as for what comes after the
    block, for a daemon would not keep that group open. A cancel of it comes to who uses the iterator.) It must not if
    the iterator is begun in a shield, or in clean-up: then it is one of the default group, and who uses the iterator ends
    it when cancelled. If that has come already, the thread knows by itself when the shield, or the grace, is over.

    In a child process that is forked meanwhile there is neither the thread nor the calls: nothing is ended there, and who
    asks for more is told so.
    """

    def __init__(self, name: str) -> None:
        self.calls = Calls(name)
        self.failure: BaseException | None = None  # what the block has raised, until `close` has seen to it
        self._is_seen_out = False  # its end was waited for, whether it has come or not
        opened = Arrivals()
        me = current_thread()
        group = lasting_group_around()
        until = refuge(me, group.scope)
        if until is not None:
            until = until if group.is_shut() else inf
            group = default_group()
        self._thread = add_child(group, me, self._hold, (opened, until), {}, is_daemon=True)
        self._thread.add_done_callback(opened.put)  # cancelled before it could begin
        try:
            first = opened.take(me)
        except BaseException:
            self._thread.cancel()
            raise
        if first is not self:
            refuse(group, me)

    def _hold(self, opened: Arrivals, until: float | None) -> None:
        limit = nullcontext() if until is None else move_on_after(max(0.0, until - now()))
        try:
            with limit, self.calls:
                opened.put(self)
                while True:
                    sleep(3600)
        except Cancelled:
            raise
        except BaseException as failure:  # noqa: BLE001 - raised where the iterator is used
            self.failure = failure

    def close(self, error: BaseException | None = None) -> None:
        """Cancel the calls at work, and wait for their end, as far as the calling thread may wait.

        `error` is what leaves the iterator, if it is left. Raises what leaves it in place of that: a failure of the calls,
        which must not be lost, or what a signal handler has raised meanwhile.
        """
        leaves = self._end_calls(error)
        failure, self.failure = self.failure, None
        if failure is not None and failure is not leaves:
            if leaves is None or isinstance(leaves, GeneratorExit) or without_cancelled(leaves) is None:
                excuse(current_thread(), leaves)
                raise failure
            note_failures(leaves, self.calls.group, [failure])
        if leaves is not None and leaves is not error:
            raise leaves

    def _end_calls(self, error: BaseException | None) -> BaseException | None:
        """Cancel the calls, and see them out, once; what leaves the iterator then, on its way with `error`."""
        group = self.calls.group
        # At the end of the process nothing can be waited for.
        if self._is_seen_out or self._thread.done() or not runtime.is_started or not self._thread.is_here():
            return error
        reason = class_of(error) if isinstance(error, BARE) else "its iterator was closed"
        group.scope.cancel_scope(reason, group)
        if is_amid():
            return error
        self._is_seen_out = True
        until = now() + grace_of(group.scope) + GRACE

        def wait() -> None:
            with shield(timeout=max(0.0, until - now())):
                lending(self._thread.wait_done, offer)

        return see_out(group, wait, error)


def is_amid() -> bool:
    """Whether an iterator is dropped where nothing can wait: by the garbage collector, in the middle of whatever."""
    return cooperative() is None and (isinstance(current(), VirtualThread) or runtime.is_carrier())
