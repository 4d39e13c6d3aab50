"""epoll, with an eventfd to be woken by."""

from __future__ import annotations

import os
from functools import partial
from select import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from typing import TYPE_CHECKING

from plait import _originals
from plait._native._native import Ready, poller_forget, poller_order, poller_renew

if TYPE_CHECKING:
    from collections.abc import Callable

_EPOLLET, _EPOLLONESHOT = EPOLLET, EPOLLONESHOT  # for every wait: a name that others import costs a look-up each time
_EVERYTHING = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET


class Epoll:
    """See `Poller`.

    Facts that matter here. The kernel drops a descriptor from the set when its last duplicate is closed, so an order
    for a closed number is never seen again, and a number that comes back is not in the set: an order is given or changed,
    whichever the kernel takes. Adding a descriptor reports its present state as a first edge, so nothing that happened
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
        poller_order(self._fd, fd, _EVERYTHING, False)

    def is_watched(self, fd: int) -> bool:
        """Whether `fd` is still what it was."""
        return poller_renew(self._fd, fd, _EVERYTHING)

    def watch_once(self, fd: int, events: int) -> None:
        """Report the next readiness of `fd` for `events`. Who waits for a number once does it again, mostly."""
        poller_order(self._fd, fd, events | _EPOLLONESHOT, True)

    def watch_changes(self, fd: int, events: int) -> None:
        """Report the changes of `fd` with respect to `events`."""
        poller_order(self._fd, fd, events | _EPOLLET, True)

    def forget(self, fd: int) -> None:
        """Report nothing more of `fd`."""
        poller_forget(self._fd, fd)

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
