"""Who owns which threads: the set behind every group, from which cancels and dumps start.

A thread is listed when it first parks and taken off when it ends; one that never parks is never listed, and needs no
waking. The list is also what keeps parked threads alive: a suspended stack must never be collected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._core._atomics import Lock, Rundown

if TYPE_CHECKING:
    from plait._core._vthread import VirtualThread


class Container:
    """The threads of one group, and the count of those inside: its children and its body. Policy is the subclass's."""

    def __init__(self) -> None:
        self.inside = Rundown()  # starts with the body; closes when body and children are done, for good
        self._members_lock = Lock()
        self._listed: set[VirtualThread] = set()  # under _members_lock

    def enlist(self, thread: VirtualThread) -> None:
        """`thread` parks for the first time. Itself only."""
        with self._members_lock:
            self._listed.add(thread)

    def discharge(self, thread: VirtualThread) -> None:
        """`thread`, which is listed, has ended. Itself only."""
        with self._members_lock:
            self._listed.discard(thread)

    def members(self) -> list[VirtualThread]:
        """Those listed now. Any thread."""
        with self._members_lock:
            return list(self._listed)

    def abandon(self) -> None:
        """After fork, in the child: none of them exists here."""
        self._members_lock = Lock()
        self._listed = set()
        self.inside.reset()

    def child_failed(self, thread: VirtualThread, error: BaseException) -> None:
        """The function of a child has raised `error`. On the child; may park."""
        raise NotImplementedError

    def child_ended(self, thread: VirtualThread) -> None:
        """Nothing of a child is left to run. On the child, at its very end; must not park."""
        raise NotImplementedError
