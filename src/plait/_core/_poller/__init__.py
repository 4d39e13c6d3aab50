"""What the kernel knows about descriptors: one interface, one file per backend.

A backend belongs to one carrier and is used on its kernel thread alone, except `wake`. The reactor above turns its
events into resumed threads; no other module names epoll.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from plait._core._poller._epoll import Epoll

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._native import Ready

READ = 0x001  # POLLIN: there is something to read, or the end
URGENT = 0x002  # POLLPRI: there is something out of the ordinary, such as TCP's urgent data
WRITE = 0x004  # POLLOUT: there is room to write
BROKEN = 0x018  # POLLERR | POLLHUP: which the kernel reports to everybody, asked or not
TROUBLE = 0x2018  # POLLERR | POLLHUP | POLLRDHUP: the end; whoever waits for anything shall look

__all__ = ("BROKEN", "READ", "TROUBLE", "URGENT", "WRITE", "Poller", "open_poller")


class Poller(Protocol):
    """The contract of a backend."""

    def watch(self, fd: int) -> None:
        """Report every change of `fd` in either direction, and urgent data, from now on; its present state once (edges).

        Raises `OSError`: EPERM if the kernel cannot poll such a file (a regular one is always ready).
        """

    def is_watched(self, fd: int) -> bool:
        """Whether the number still stands for the file that `watch` was called for. Reports its present state anew."""

    def watch_once(self, fd: int, events: int) -> None:
        """Report the next time that `fd` is ready for any of `events`, once. Replaces an earlier order for `fd`."""

    def watch_changes(self, fd: int, events: int) -> None:
        """Report every change of `fd` with respect to `events`; its present state once. Replaces an earlier order for it."""

    def forget(self, fd: int) -> None:
        """Report nothing more of `fd`; harmless if it is closed or was never watched."""

    def wait(self, timeout: float) -> Ready:
        """Block for at most `timeout` seconds; what is at hand, valid until the next wait.

        A wake is among it, under a descriptor that nobody has asked for.
        """

    def nap(self, timeout: float) -> Ready:
        """As `wait`, for less than a second, and to the microsecond."""

    @property
    def wake(self) -> Callable[[], object]:
        """Let the present or the next `wait` return at once. Any thread; uninterrupted by signal handlers."""

    def close(self) -> None:
        """Give the descriptors back."""


def open_poller() -> Poller:
    """The best backend of this system."""
    return Epoll()
