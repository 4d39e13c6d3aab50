"""The reactor of one carrier: which threads wait for which descriptors.

Owner: the carrier; only its kernel thread touches a reactor, except that `forget` may be posted from elsewhere. Two
kinds of entry:

* *Owned*: the descriptor of an object whose life we see (a socket). It is registered once, edge-triggered, in both
  directions. `readable` says whether a read is worth trying: an edge sets it; EAGAIN, or a read that emptied it
  clears it. No edge can be lost between the failed attempt and the wait, since only this kernel thread takes events
  out of the kernel, and it does not do so in between.
* *Bare*: a number that anybody may close, or that of an object whose life we do not see, for it takes no weak reference
  (`_socket.socket` itself). Each wait orders one event (one-shot), so nothing is known of it between waits and a number
  that comes back as another file starts afresh.

A thread may wait for several at once, and several for one, each for events of its own. The kernel also reports what nobody
has asked for: that a file is broken or hung up. Where that ends no wait it would be reported for ever, so from then on,
as long as these threads wait, only changes are.

Turns. What ends a wait may be for one alone: a connection, of those in `accept`. They wait in turn (`IN_TURN`) at an owned
entry, and each event wakes the first of them whose wait nothing else has ended. Edges are not counted: two connections may
have made one. So
    Waiter: 1. tries; that meets EAGAIN   2. waits   3. is woken: 1 again
            4. leaves, with a connection or without: if it has waited, and there is still something, wakes the next
Whatever it finds at 1 or 4, nothing is forgotten. If there is something, it takes that, and comes to 4, or wakes another, who
comes to 1. If there is nothing, what comes later makes an edge, which wakes the first who waits by then; and until it waits
itself no event is taken out of the kernel. The kernel tells the reactors of other carriers itself.

A number that comes back with another owner replaces the entry; threads that still wait on the old one are woken, and find
out by themselves, or by `is_over`, what has become of their descriptor. Two objects over one open descriptor share an
entry, or they would wake each other for ever.

Closing. Any thread may close a descriptor that threads of this carrier wait for, or are about to: by the object that owns
it, or by its number, of which the object hears nothing.
    Waiter: 1. enters the entry in `_descriptors`, and is counted by its number [fence]
            2. has the kernel watch the number      3. looks whether the owner is open
    Closer: 1. closes [fence: the system call]      2. if anybody is counted: looks for an entry, and has the carrier forget it
Either the closer sees the entry, or the kernel refuses the number, or watches the next file: it is as if the waiter had
come later. At an owned entry only who makes it takes these steps: later waits find one that every closer can see. Who
waits for several, or at a bare one, is counted for as long as it waits. The entry that a closer finds may be the next
file's; the kernel tells whether it is (`is_watched`), and that one stays.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from plait._core._parking import TIMED_OUT, WOKEN, Parker, WaitReason, park
from plait._core._platform import Owner, PlatformThread
from plait._core._poller import BROKEN, READ, TROUBLE, URGENT, WRITE, Poller
from plait._core._vthread import VirtualThread
from plait._native import closing_enter, closing_leave, poll_now
from plait._native._native import Ready, WaitWord, referent

if TYPE_CHECKING:
    from collections.abc import Callable

_READABLE = WaitReason.READABLE
_WRITABLE = WaitReason.WRITABLE
IN_TURN = 1 << 28  # with READ: an event wakes one alone, as EPOLLEXCLUSIVE has it
_IN_TURN: int = IN_TURN  # compiled, a name that others import costs a look-up each time
_READABLE_BANDS = 0x0C0  # POLLRDNORM | POLLRDBAND: what else `poll` may be asked for, which comes with READ
_WRITABLE_BANDS = 0x300  # POLLWRNORM | POLLWRBAND: and with WRITE


class Descriptor:
    """One entry: who waits for it, and what was last heard of it."""

    __slots__ = (
        "awaited",
        "fd",
        "has_ended",
        "is_checked",
        "is_marked",
        "is_over",
        "is_tcp",
        "line",
        "listens",
        "others",
        "owner",
        "readable",
        "waiter",
    )

    def __init__(self, fd: int, owner: weakref.ref[Owner] | None) -> None:
        self.fd = fd
        self.owner = owner  # None: bare
        self.waiter: VirtualThread | None = None  # in a wait; hardly ever there is another
        self.awaited = 0  # which events end the wait of `waiter`
        self.others: dict[VirtualThread, int] | None = None  # who came while there was one, and which events end theirs
        self.line: OrderedDict[VirtualThread, None] | None = None  # who waits in turn, if anybody ever has
        self.readable = True  # owned: whether reading is worth a try
        self.has_ended = False  # owned: hung up, no further edge will come. Bare: only changes are reported now
        self.is_marked = True  # owned: urgent data may be, or may have been, in it; not once it was found empty
        self.is_over = False  # owned: closed, as far as the threads are concerned that wait here
        # What the operations note of an owned one.
        self.is_checked = False  # its owner was seen to be open after it was entered
        self.is_tcp: bool | None = None  # None: nobody has asked
        self.listens = False  # it takes connections; False: it may

    def is_awaited(self) -> bool:
        """Whether anybody waits, but in turn."""
        return self.waiter is not None or bool(self.others)

    def wanted(self) -> int:
        """All events that anybody waits for, but in turn."""
        events = 0 if self.waiter is None else self.awaited
        if self.others:
            for awaited in self.others.values():
                events |= awaited
        return events

    def enter(self, me: VirtualThread, events: int) -> None:
        """`me` begins to wait for any of `events`."""
        if self.waiter is None:
            self.waiter = me
            self.awaited = events
        else:
            if self.others is None:
                self.others = {}
            self.others[me] = events

    def enter_line(self, me: VirtualThread) -> None:
        """`me` begins to wait in turn."""
        if self.line is None:
            self.line = OrderedDict()
        self.line[me] = None

    def leave(self, me: VirtualThread) -> None:
        """The wait of `me` is over, whatever has ended it."""
        if self.waiter is me:
            self.waiter = None
        elif self.others:
            self.others.pop(me, None)
        if self.line:
            self.line.pop(me, None)

    def wake(self, events: int) -> bool:
        """End the waits for any of `events`; whether there were any, but in turn."""
        if self.line and events & (READ | TROUBLE):
            self.wake_next()
        is_heard = False
        waiter = self.waiter
        if waiter is not None and self.awaited & events:
            self.waiter = None
            _end_wait(waiter)
            is_heard = True
        if self.others:
            for who in [who for who, awaited in self.others.items() if awaited & events]:
                del self.others[who]
                _end_wait(who)
                is_heard = True
        return is_heard

    def wake_next(self) -> None:
        """End the wait of the first who waits in turn, if nothing else has: then of the next."""
        while self.line:
            who, _ = self.line.popitem(False)
            if _end_wait(who):
                break

    def wake_all(self) -> None:
        """End every wait."""
        self.wake(-1)
        while self.line:
            self.wake_next()


def _end_wait(who: VirtualThread) -> bool:
    """Wake a waiter, unless something else has: it is in no other wait before it has run."""
    if WaitWord.claim(who, WaitWord.epoch(who), WOKEN):
        VirtualThread.resume(who)
        return True
    return False


class Reactor:
    """The descriptors that threads of one carrier have waited for."""

    __slots__ = ("_descriptors", "_poller")

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._descriptors: dict[int, Descriptor] = {}

    def owned(self, fd: int, owner: Owner) -> Descriptor | None:
        """The entry of `fd`, which belongs to `owner`; registered with the kernel on first sight.

        None if `owner` takes no weak reference: it is to be waited for as a bare one.
        """
        entry = self._descriptors.get(fd)
        if entry is not None and entry.owner is not None:
            previous = referent(entry.owner)
            if previous is owner:
                return entry
            if previous is not None and previous.fileno() == fd and self._poller.is_watched(fd):
                entry.readable = True
                return entry  # another object over the same descriptor
        try:
            reference = weakref.ref(owner)
        except TypeError:
            return None
        if entry is not None:
            self._replace(entry)
        entry = Descriptor(fd, reference)
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
            owner = referent(entry.owner)
            if owner is None or owner.fileno() != fd:
                self._replace(entry)
                entry = self._descriptors[fd] = Descriptor(fd, None)
        return entry

    def _replace(self, entry: Descriptor) -> None:
        self._drop(entry)
        self._poller.forget(entry.fd)
        entry.wake_all()

    def _drop(self, entry: Descriptor) -> None:
        del self._descriptors[entry.fd]
        entry.is_over = True
        if entry.owner is not None:
            closing_leave(entry.fd)

    def wait(self, me: VirtualThread, entry: Descriptor, events: int, deadline: float | None) -> bool:
        """Park until an owned descriptor may be ready for `events`; False if the instant `deadline` came first.

        Who waits in turn calls `pass_turn` when it leaves, in whatever way.
        """
        epoch = WaitWord.arm(me)
        if events & _IN_TURN:
            entry.enter_line(me)
        else:
            entry.enter(me, events | TROUBLE)
        try:
            outcome = park(me, epoch, _READABLE if events & READ else _WRITABLE, deadline)
        finally:
            entry.leave(me)
        return outcome != TIMED_OUT

    def pass_turn(self, fd: int) -> None:
        """Who has waited for `fd` in turn leaves: if there is still something, the next shall look."""
        entry = self._descriptors.get(fd)
        if entry is not None and entry.line and poll_now(fd, READ):
            entry.wake_next()

    def wait_any(
        self,
        me: VirtualThread,
        watched: dict[int, int],
        deadline: float | None,
        reason: WaitReason,
        publish: Callable[[int], bool] | None,
    ) -> bool:
        """Park until one of these descriptors, whoever owns it, is ready for its events; False if it is too late."""
        entries: list[Descriptor] = []
        for fd in watched:
            closing_enter(fd)
        epoch = WaitWord.arm(me)
        try:
            try:
                is_ready = self._enter(me, watched, entries) or (publish is not None and not publish(epoch))
            except BaseException:
                me.withdraw()
                raise
            if is_ready:
                me.withdraw()
                return True
            outcome = park(me, epoch, reason, deadline)
        finally:
            for entry in entries:
                self._leave(me, entry)
            for fd in watched:
                closing_leave(fd)
        return outcome != TIMED_OUT

    def _enter(self, me: VirtualThread, watched: dict[int, int], entries: list[Descriptor]) -> bool:
        """Let `me` be woken by each of `watched`; whether one is always ready."""
        for fd, events in watched.items():
            entry = self._bare(fd)
            entry.enter(me, events)
            entries.append(entry)
            try:
                self._order(entry)
            except PermissionError:  # EPERM: a file that is always ready to be read and written, and nothing else
                if events & (READ | WRITE):
                    return True
        return False

    def _leave(self, me: VirtualThread, entry: Descriptor) -> None:
        entry.leave(me)
        if entry.owner is None and not entry.is_awaited() and self._descriptors.get(entry.fd) is entry:
            del self._descriptors[entry.fd]
            if entry.has_ended:
                self._poller.forget(entry.fd)

    def _order(self, entry: Descriptor) -> None:
        """Have the next event that anybody waits for reported; an owned entry is reported anyway, and looked at now."""
        wanted = entry.wanted()
        if entry.owner is None:
            self._poller.watch_once(entry.fd, wanted)
            entry.has_ended = False
        elif ready := poll_now(entry.fd, wanted):
            entry.wake(ready)

    def dispatch(self, ready: Ready) -> None:
        """Resume whom these events concern."""
        for place in range(ready.size()):
            entry = self._descriptors.get(ready.fd(place))
            if entry is None:
                continue
            happened = ready.events(place)
            if entry.owner is None:
                self._dispatch_bare(entry, happened)
                continue
            if happened & URGENT:
                entry.is_marked = True
            if happened & TROUBLE:
                happened |= READ | WRITE
                entry.has_ended = True
            if happened & READ:
                happened |= _READABLE_BANDS
                entry.readable = True
            if happened & WRITE:
                happened |= _WRITABLE_BANDS
            entry.wake(happened)

    def _dispatch_bare(self, entry: Descriptor, happened: int) -> None:
        """One event of a bare descriptor: order the next, if anybody is left to wait for it."""
        is_heard = entry.wake(happened)
        if not entry.is_awaited():
            return
        try:
            if is_heard:
                self._order(entry)
            elif not entry.has_ended:
                entry.has_ended = True
                self._poller.watch_changes(entry.fd, entry.wanted())
        except OSError:  # closed, or another file by now: whoever waits shall look, and hear of it there
            entry.wake(-1)

    def let_go(self, fd: int, owner: Owner) -> None:
        """`owner` has been closed, and the kernel has forgotten `fd` by itself, if this was the last of its duplicates."""
        entry = self._descriptors.get(fd)
        if entry is not None and entry.owner is not None and referent(entry.owner) is owner:
            self._drop(entry)
            entry.wake_all()

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
    return wait_descriptors(me, {fd: events | BROKEN}, deadline, owner, reason, publish)


def wait_descriptors(
    me: Parker,
    watched: dict[int, int],
    deadline: float | None,
    owner: Owner | None,
    reason: WaitReason,
    publish: Callable[[int], bool] | None,
) -> bool:
    """As `wait_descriptor`, for the first of several that is ready for one of its events.

    That a file is broken or hung up (`BROKEN`) must be among them if it is to end the wait.
    """
    if isinstance(me, VirtualThread):
        assert me.carrier is not None
        return me.carrier.reactor.wait_any(me, watched, deadline, reason, publish)
    assert isinstance(me, PlatformThread)
    return me.wait_descriptors(watched, reason, deadline, owner, publish)
