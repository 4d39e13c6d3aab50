"""The reactor of one carrier: which threads wait for which descriptors.

Owner: the carrier; only its kernel thread touches a reactor, except that `forget` may be posted from elsewhere. Two
kinds of entry:

* *Owned*: the descriptor of an object whose life we see (a socket). It is registered once, edge-triggered, in both
  directions. `readable` says whether a read is worth trying: an edge sets it; EAGAIN, or a read that emptied it
  clears it. No edge can be lost between the failed attempt and the wait, since only this kernel thread takes events
  out of the kernel, and it does not do so in between.
* *Bare*: a number that anybody may close. Each wait orders one event (one-shot), so nothing is known of it between
  waits and a number that comes back as another file starts afresh.

A number that comes back with another owner replaces the entry; threads that still wait on the old one are woken, and find
out by themselves, or by `is_over`, what has become of their descriptor. Two objects over one open descriptor share an
entry, or they would wake each other for ever.

Closing. Any thread may close a descriptor that threads of this carrier wait for, or are about to: by the object that owns
it, or by its number, of which the object hears nothing.
    Waiter: 1. enters the entry in `_descriptors`, and is counted by its number [fence]
            2. has the kernel watch the number      3. looks whether the owner is open
    Closer: 1. closes [fence: the system call]      2. if anybody is counted: looks for an entry, and has the carrier forget it
Either the closer sees the entry, or the kernel refuses the number, or watches the next file: it is as if the waiter had
come later. Only who makes an entry takes these steps: later waits find one that every closer can see. The entry that a
closer finds may be the next file's; the kernel tells whether it is (`is_watched`), and that one stays.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from plait._core._parking import TIMED_OUT, WOKEN, Parker, WaitReason, park
from plait._core._platform import Owner, PlatformThread
from plait._core._poller import READ, TROUBLE, URGENT, WRITE, Poller
from plait._core._vthread import VirtualThread
from plait._native import closing_enter, closing_leave, poll_now
from plait._native._native import Ready, WaitWord

if TYPE_CHECKING:
    from collections.abc import Callable

_READABLE = WaitReason.READABLE
_WRITABLE = WaitReason.WRITABLE


class Descriptor:
    """One entry: who waits for it, and what was last heard of it."""

    __slots__ = ("fd", "has_ended", "is_marked", "is_over", "is_tcp", "owner", "readable", "waiters")

    def __init__(self, fd: int, owner: weakref.ref[Owner] | None) -> None:
        self.fd = fd
        self.owner = owner  # None: bare
        self.waiters: list[VirtualThread] = []  # in a wait for the events that each `awaits`
        self.readable = True  # owned: whether reading is worth a try
        self.has_ended = False  # owned: the peer has hung up, so no further edge will come
        self.is_marked = (
            True  # owned: urgent data may be in what is there, or may have been; not once it was found empty
        )
        self.is_over = False  # owned: closed, as far as the threads are concerned that wait here
        self.is_tcp: bool | None = None  # owned: for who reads it, who finds out

    def wake(self, events: int) -> None:
        """End the waits for any of `events`."""
        waiters = self.waiters
        if not waiters:
            return
        if len(waiters) == 1:
            if waiters[0].awaits & events:
                _end_wait(waiters.pop())
            return
        self.waiters = [who for who in waiters if not who.awaits & events]
        for who in waiters:
            if who.awaits & events:
                _end_wait(who)


def _end_wait(who: VirtualThread) -> None:
    """Wake a waiter, unless something else has: it is in no other wait before it has run."""
    if WaitWord.claim(who, WaitWord.epoch(who), WOKEN):
        VirtualThread.resume(who)


class Reactor:
    """The descriptors that threads of one carrier have waited for."""

    __slots__ = ("_descriptors", "_poller")

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._descriptors: dict[int, Descriptor] = {}

    def owned(self, fd: int, owner: Owner) -> Descriptor:
        """The entry of `fd`, which belongs to `owner`; registered with the kernel on first sight."""
        entry = self._descriptors.get(fd)
        if entry is not None:
            if entry.owner is not None:
                previous = entry.owner()
                if previous is owner:
                    return entry
                if previous is not None and previous.fileno() == fd and self._poller.is_watched(fd):
                    entry.readable = True
                    return entry  # another object over the same descriptor
            self._replace(entry)
        entry = Descriptor(fd, weakref.ref(owner))
        self._descriptors[fd] = entry
        closing_enter(fd)
        try:
            self._poller.watch(fd)
        except BaseException:
            self._drop(entry)
            raise
        return entry

    def _bare(self, fd: int) -> Descriptor:
        entry = self._descriptors.get(fd)
        if entry is None:
            entry = self._descriptors[fd] = Descriptor(fd, None)
        elif entry.owner is not None:
            owner = entry.owner()
            if owner is None or owner.fileno() != fd:
                self._replace(entry)
                entry = self._descriptors[fd] = Descriptor(fd, None)
        return entry

    def _replace(self, entry: Descriptor) -> None:
        self._drop(entry)
        self._poller.forget(entry.fd)
        entry.wake(-1)

    def _drop(self, entry: Descriptor) -> None:
        del self._descriptors[entry.fd]
        entry.is_over = True
        if entry.owner is not None:
            closing_leave(entry.fd)

    def wait(self, me: VirtualThread, entry: Descriptor, events: int, deadline: float | None) -> bool:
        """Park until an owned descriptor may be ready for `events`; False if the instant `deadline` came first."""
        epoch = WaitWord.arm(me)
        me.awaits = events
        entry.waiters.append(me)
        try:
            outcome = park(me, epoch, _READABLE if events & READ else _WRITABLE, deadline)
        finally:
            if entry.waiters and me in entry.waiters:
                entry.waiters.remove(me)
        return outcome != TIMED_OUT

    def wait_bare(
        self,
        me: VirtualThread,
        fd: int,
        events: int,
        deadline: float | None,
        reason: WaitReason,
        publish: Callable[[int], bool] | None = None,
    ) -> bool:
        """Park until `fd`, whoever owns it, is ready for `events`; False if the instant `deadline` came first."""
        entry = self._bare(fd)
        epoch = WaitWord.arm(me)
        me.awaits = events
        entry.waiters.append(me)
        try:
            try:
                self._order(entry)
            except PermissionError:  # EPERM: a file that is always ready
                me.withdraw()
                return True
            except BaseException:
                me.withdraw()
                raise
            if publish is not None and not publish(epoch):
                me.withdraw()
                return True
            outcome = park(me, epoch, reason, deadline)
        finally:
            if entry.waiters and me in entry.waiters:
                entry.waiters.remove(me)
            if not entry.waiters and entry.owner is None and self._descriptors.get(fd) is entry:
                del self._descriptors[fd]
        return outcome != TIMED_OUT

    def _order(self, entry: Descriptor) -> None:
        """Have the next event that anybody waits for reported; an owned entry is reported anyway, and looked at now."""
        wanted = 0
        for who in entry.waiters:
            wanted |= who.awaits
        if entry.owner is None:
            self._poller.watch_once(entry.fd, wanted)
        elif ready := poll_now(entry.fd, wanted):
            entry.wake(ready)

    def dispatch(self, ready: Ready) -> None:
        """Resume whom these events concern."""
        for place in range(ready.size()):
            entry = self._descriptors.get(ready.fd(place))
            if entry is None:
                continue
            happened = ready.events(place)
            if happened & TROUBLE:
                happened |= READ | WRITE
                entry.has_ended = True
            if happened & URGENT:
                entry.is_marked = True
            if happened & READ:
                entry.readable = True
            entry.wake(happened)
            if entry.waiters and entry.owner is None:
                try:
                    self._order(entry)
                except OSError:  # closed, or another file by now: whoever waits shall look, and hear of it there
                    entry.wake(-1)

    def find(self, fd: int) -> Descriptor | None:
        """The entry of `fd`, if there is one. Any thread."""
        return self._descriptors.get(fd)

    def numbers(self) -> list[int]:
        """Of which descriptors there are entries. Any thread."""
        return list(self._descriptors)

    def forget(self, entry: Descriptor) -> None:
        """What had its number was closed: whoever waits for it shall look, unless the kernel says that it is another file."""
        if self._descriptors.get(entry.fd) is not entry:
            return
        if entry.owner is None or not self._poller.is_watched(entry.fd):
            self._replace(entry)


def wait_descriptor(
    me: Parker,
    fd: int,
    events: int,
    deadline: float | None = None,
    owner: Owner | None = None,
    reason: WaitReason | None = None,
    publish: Callable[[int], bool] | None = None,
) -> bool:
    """Park the calling thread until `fd` is ready for `events`; False if the instant `deadline` came first.

    Any file that can be polled, on virtual threads and on platform threads alike. A platform thread asks `owner`, if
    there is one, whether it is still open. A cancel point.

    Who waits for other things, too, gives `publish`: it is called with the epoch of the armed wait, so that others can
    end it, and says whether there is still something to wait for. It must not raise, park or run code of others.
    """
    if reason is None:
        reason = _READABLE if events & READ else _WRITABLE
    if isinstance(me, VirtualThread):
        assert me.carrier is not None
        return me.carrier.reactor.wait_bare(me, fd, events, deadline, reason, publish)
    assert isinstance(me, PlatformThread)
    return me.wait_descriptor(fd, events, reason, deadline, owner, publish)
