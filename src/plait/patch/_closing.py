"""`os.close`, `FileIO.close` and what else closes descriptors by their numbers: who is parked in one is told.

A thread that waits for a pipe, say, would else wait for ever, or wake for whatever file has the number by then. Told, it
raises OSError (EBADF), and does not try again. (Threads that wait in the kernel go on there, in a file that is closed.)

    Waiter: 1. is among the waits of its number, and counted by it [fence]   2. notes how many closings of it have begun,
               and which file it is   3. has the kernel watch the number
            4. publishes the epoch of its wait [fence]   5. looks whether it is over   6. parks
    Closer: 1. counts the closing [fence]   2. closes [fence]   3. looks at the count of waits, then for waits of the
               number; for each: 4. marks it as over [fence]   5. ends the wait of the epoch, if there is one
If the closer finds no wait in step 3, its step 2 came before the waiter's step 3, which fails, or has the next file: it
is as if the waiter had called later. Neither side takes a lock: files are also closed by the collector, anywhere.

A closer may come to step 3 late, when the number is another file's, and that has waiters of its own. So whoever is told
looks whether a closing has begun since its step 2: then it was its own file that was closed, whatever the number leads
to now. If none has, the one that it is told of began before it came, and it is a false alarm if the file is still the
one that it was. (That alone would not do: a file that is opened again looks the same, and so do all eventfds and their
kin. A waiter that comes in the very middle of a closing, between the closer's first two steps, has nothing better.)

A call of several steps, such as a large write, is one wait from the first to the last of them, or the later ones might
go to the next file. What has been done before the wait was entered counts, too, if the caller has noted the closings
before that (`since`).

Who waits by trying again and again, with pauses, is told at the end of the pause: it leaves out 3, 4 and 6.

Methods of sockets, whose waits are too many to be entered one by one, are told by the reactors, which count each socket
that they know; and on platform threads by `wake_watchers`.

A closer that has done step 2 must come through step 3, whatever happens. So this module is compiled: no signal handler
interrupts it. And `_native/leaf.c`, which calls it, gives it room at the limit of recursion, and tells a second time if
the first fails.

A number that a worker uses is *held* (`_native/holds.c`): closed, it leads nowhere, and stays taken until it is let go.
"""

from __future__ import annotations

import _io
import _socket
import errno
import os
import posix
from contextlib import suppress
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import Parker, runtime, wait_descriptor, wake_watchers, watched_numbers
from plait._native import (
    await_free,
    builtin,
    close_held,
    closing_enter,
    closing_fence,
    closing_leave,
    closings,
    cooperative,
    file_at,
    held,
    original,
    reset_holds,
)
from plait.patch._registry import CLOSING, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

_dup2 = original(builtin(posix, "dup2"))
_closerange = original(builtin(posix, "closerange"))
_close_socket = original(builtin(_socket, "close"))

_NUMBERS = range(1 << 31)
_waits: dict[int, dict[Wait, None]] = {}  # by number; what is empty stays, for others may be about to fill it


class Wait:
    """A wait for files, in the block that it is entered for, known by the numbers of their descriptors.

    `since`: what `closings` said of the number before the caller did the first step of what it waits for.
    """

    __slots__ = ("_began", "_files", "_numbers", "_since", "epoch", "is_over", "who")

    def __init__(self, who: Parker, *numbers: int, since: int | None = None) -> None:
        self.who = who
        self._since = since
        self._began = 0  # how many closings of the numbers had begun when it did
        self.epoch = 0  # 0: not armed. Written by the waiter
        self.is_over = False  # one of the numbers was closed, it seems. Written by closers
        self._numbers = numbers
        self._files: list[tuple[int, int] | None] = []

    def __enter__(self) -> Self:
        for number in self._numbers:
            _waits.setdefault(number, {})[self] = None
            closing_enter(number)
        began = closings(*self._numbers)
        self._began = began if self._since is None else self._since
        if self._began != began:
            self.is_over = True
        return self

    def __exit__(self, *error: object) -> None:
        for number in self._numbers:
            closing_leave(number)
            _waits.get(number, {}).pop(self, None)  # a child process may have none

    def publish(self, epoch: int) -> bool:
        """The wait is armed: whether there is anything to wait for."""
        self.epoch = epoch
        closing_fence()
        return not self.is_over

    def end(self) -> None:
        """A number has been closed. Any thread."""
        self.is_over = True
        closing_fence()
        if self.epoch:
            self.who.unpark(self.epoch)

    def remember(self) -> None:
        """What the numbers lead to now is what it waits for."""
        self._files = [file_at(number) for number in self._numbers]

    def check(self) -> None:
        """Raise OSError (EBADF) if one of the numbers was closed meanwhile, or leads to another file than remembered."""
        is_told = self.is_over
        if is_told:
            self.is_over = False  # before it looks: who closes the next one says so again
        is_begun = closings(*self._numbers) != self._began
        if (is_told and is_begun) or ((is_told or is_begun) and self._files != list(map(file_at, self._numbers))):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def wait_ready(self, fd: int, events: int, deadline: float | None = None) -> bool:
        """Park until `fd` is ready for `events`; False if the instant `deadline` came first. A cancel point.

        OSError (EBADF) if one of the numbers is closed before. `fd` is one of them, or a descriptor of ours for the same.
        """
        is_ready = wait_descriptor(self.who, fd, events, deadline, publish=self.publish)
        self.check()
        return is_ready


def wait_open(me: Parker, fd: int, events: int) -> None:
    """Park until `fd` is ready for `events`; OSError (EBADF) if it is closed before. A cancel point."""
    with Wait(me, fd) as wait:
        wait.remember()
        wait.wait_ready(fd, events)


def closed(fd: int) -> None:
    """`os.close` has succeeded: tell who waits there. Any thread."""
    fd = index(fd)
    for wait in list(_waits.get(fd, ())):
        wait.end()
    wake_watchers(fd)
    for carrier in runtime.started_carriers:
        entry = carrier.reactor.find(fd)
        if entry is not None:
            carrier.call(partial(carrier.reactor.forget, entry))


def _replaced(fd: int, fd2: int, inheritable: bool = True) -> None:  # noqa: FBT001, FBT002 - as `os.dup2`
    if index(fd) != index(fd2):
        closed(fd2)


def _range_closed(low: int, high: int) -> None:
    numbers = {*_waits, *watched_numbers()}.union(*(carrier.reactor.numbers() for carrier in runtime.started_carriers))
    for fd in numbers:
        if low <= fd < high:
            closed(fd)


def _file_closed(file: Any, fd: int) -> None:
    if fd >= 0 and file.closefd:
        closed(fd)


def _epoll_closed(epoll: Any, fd: int) -> None:
    if fd >= 0:
        closed(fd)


# ---- while any numbers are held: who waits is told afterwards ----


def _close(fd: int) -> None:
    _close_by(_originals.os_close, fd)


def _close_of_socket(fd: int, /) -> None:
    _close_by(_close_socket, fd)


def _close_by(close: Callable[[int], None], fd: int) -> None:
    number = index(fd)
    if number not in _NUMBERS or not close_held(number):
        close(fd)


def _replace(fd: int, fd2: int, inheritable: bool = True) -> int:  # noqa: FBT001, FBT002 - as `os.dup2`
    number = index(fd2)
    while number in _NUMBERS and number != index(fd) and held(number, number + 1):
        me: Parker | None = cooperative()
        if me is None:
            await_free(number)
        else:
            runtime.offload.call_whole(me, await_free, number, is_apart=True)
    return _dup2(fd, fd2, inheritable)  # type: ignore[no-any-return]


def _close_range(low: int, high: int) -> None:
    start, end = (min(max(index(number), 0), _NUMBERS.stop - 1) for number in (low, high))
    for number in held(start, end):
        _closerange(start, number)
        with suppress(OSError):  # it was closed before
            _close(number)
        start = number + 1
    _closerange(start, high)


def _after_fork() -> None:
    """No other thread is left."""
    _waits.clear()
    reset_holds()


os.register_at_fork(after_in_child=_after_fork)


def leaves() -> Sequence[Leaf]:
    """What this file watches."""
    return [
        Leaf("os.close", builtin(posix, "close"), _close, closed, when=CLOSING, key=0),
        Leaf("socket.close", builtin(_socket, "close"), _close_of_socket, closed, when=CLOSING, key=0),
        Leaf("os.dup2", builtin(posix, "dup2"), _replace, _replaced, when=CLOSING, key=1),
        Leaf("os.closerange", builtin(posix, "closerange"), _close_range, _range_closed, when=CLOSING, key=-1),
        Leaf("io.FileIO.close", method(_io.FileIO, "close"), None, _file_closed, when=CLOSING),
        Leaf("select.epoll.close", method(_originals.Epoll, "close"), None, _epoll_closed, when=CLOSING),
    ]
