"""epoll, with an eventfd to be woken by."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from select import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import TYPE_CHECKING

from plait import _originals
from plait._native._native import Ready

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERYTHING = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET


class Epoll:
    """See `Poller`.

    Facts that matter here. The kernel drops a descriptor from the set when its last duplicate is closed, so an order
    for a closed number is never seen again, and a number that comes back is not in the set: `register` and `modify`
    each fall back to the other. Adding a descriptor reports its present state as a first edge, so nothing that happened
    before is missed. Each write to an eventfd is an edge, so the one to wake by is never read.
    """

    __slots__ = ("_epoll", "_fd", "_ready", "_wakeup", "wake")

    def __init__(self) -> None:
        self._epoll = _originals.Epoll()
        self._fd = self._epoll.fileno()
        self._ready = Ready()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, EPOLLIN | EPOLLET)
        # No function of Python: a signal handler could raise at its beginning, on a main thread that has taken the
        # sleeper's flag already, and nobody else would wake it.
        self.wake: Callable[[], object] = partial(_originals.eventfd_write, self._wakeup, 1)

    def watch(self, fd: int) -> None:
        """Report every change of `fd`."""
        self._order(fd, _EVERYTHING)

    def is_watched(self, fd: int) -> bool:
        """Whether `fd` is still what it was."""
        try:
            self._epoll.modify(fd, _EVERYTHING)
        except OSError:  # closed (EBADF), or another file by now (ENOENT)
            return False
        return True

    def watch_once(self, fd: int, events: int) -> None:
        """Report the next readiness of `fd` for `events`."""
        self._order(fd, events | EPOLLONESHOT)

    def watch_changes(self, fd: int, events: int) -> None:
        """Report the changes of `fd` with respect to `events`."""
        self._order(fd, events | EPOLLET)

    def _order(self, fd: int, mask: int) -> None:
        try:
            self._epoll.register(fd, mask)
        except FileExistsError:
            try:
                self._epoll.modify(fd, mask)
            except FileNotFoundError:  # closed, and reopened, in between
                self._epoll.register(fd, mask)

    def forget(self, fd: int) -> None:
        """Report nothing more of `fd`."""
        # The number may be closed, or be another file by now, even one that epoll does not take: all the same to us.
        with suppress(OSError, ValueError):
            self._epoll.unregister(fd)

    def wait(self, timeout: float) -> Ready:
        """Block until something happens."""
        self._ready.collect(self._fd, timeout)
        return self._ready

    def nap(self, timeout: float) -> Ready:
        """The same for a moment."""
        self._ready.nap(self._fd, timeout)
        return self._ready

    def close(self) -> None:
        """Give the descriptors back."""
        self._epoll.close()
        os.close(self._wakeup)
