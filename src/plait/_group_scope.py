"""The scope of a group: what its children and its body are cancelled by, and what its time limit ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait._core import DeadlineScope

if TYPE_CHECKING:
    from plait._groups import ThreadGroup


class GroupScope(DeadlineScope):
    """The scope of a group; knows it for messages and for `ThreadGroup.current`."""

    __slots__ = ("group",)

    def __init__(self, group: ThreadGroup, grace: float) -> None:
        super().__init__(grace, group)
        self.group = group

    def __repr__(self) -> str:
        return repr(self.group)

    def expire(self, epoch: int) -> None:
        """The group's time is up."""
        self.cancel_by_time(self.group)
        self.wake_owner()

    def has_failed(self) -> bool:
        """As for any such scope."""
        return self.has_expired or self.group.has_failures()

    def failure(self) -> BaseException | None:
        """As for any such scope."""
        return self.group.exception
