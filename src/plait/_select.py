"""select: wait for the first of several things, and do that one alone.

A case is looked at in two ways. `look` completes it if it is ready; it runs before the wait is armed, one case after the
other from a random place on, and may run code of others (`fileno`, `done`). If nothing was ready, the wait is armed and
published to all cases at once:

    Select:  1. arms its wait                          Others:  a channel's other end claims the wait under the lock of the
             2. enters itself with each future                  channel, and with that has made the exchange
             3. takes the locks of all its channels,            a future that ends, a descriptor that is ready: claim the
                in the order of their addresses                 wait, and nothing else: a hint to look again
             4. tries each; if none is ready, queues
                its entries; lets go of the locks
             5. parks; looks how its entries stand

Between 3 and 4 nobody can find it in a channel, so it can claim others without being claimed: two that face each other
never each take a half. Claims do not wait, and locks are taken in one order by all, so there is no circle. It never
finds itself: when it tries, its entries are not there, or belong to a wait that is over. At most one entry can be claimed,
for they share the wait; a hint that comes first makes the claims of other ends fail, as if it were not there.
"""

from __future__ import annotations

import concurrent.futures
import errno
import os
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Never, overload

from plait._arguments import exact, refused
from plait._channels import Channel, Sending, closed_to_receivers, closed_to_senders
from plait._core import (
    BROKEN,
    READ,
    WRITE,
    Lock,
    Parker,
    WaitReason,
    check_entry,
    check_first,
    check_seconds,
    current_thread,
    now,
    park,
    resume,
    unpark_all,
    wait_descriptors,
)
from plait._exchange import CLOSED, DONE, WAIT, Entry, Exchange
from plait._futures import Future, lend_slot_among, limits_of, unwatch, verify_coming, watch
from plait._native import poll_now

if TYPE_CHECKING:
    from typing import Protocol, TypeAlias

    from plait._core import Slots

    class HasFileno(Protocol):
        """Something with a descriptor."""

        def fileno(self) -> int:
            """Its number."""


_INVALID = 0x020  # POLLNVAL
_LARGEST = 2**31 - 1  # that a descriptor can be, for C

# Of our own: the program's random numbers are the program's.
_random = Random().random  # noqa: S311 - for fairness


class Selected(NamedTuple):
    """Which case `select` has completed. A tuple of two.

    Attributes:
        source: The case, the very object that was passed.
        value: What was received from a channel; None for a send; the future; True for a descriptor.
    """

    source: Any
    value: Any


class Writable:
    """A descriptor that `select` waits to write to. Made by `writable`."""

    __slots__ = ("fd",)

    def __init__(self, fd: int | HasFileno) -> None:
        self.fd = fd

    def __repr__(self) -> str:
        return f"<writable {self.fd!r}>"


if TYPE_CHECKING:
    Case: TypeAlias = "Channel[Any] | Sending[Any] | concurrent.futures.Future[Any] | Writable | int | HasFileno"


def writable(fd: int | HasFileno) -> Writable:
    """A case for `select`: ready when `fd`, a descriptor or an object with `fileno()`, can be written to.

    Raises:
        TypeError: `fd` is neither.
    """
    if not _has_descriptor(fd):
        raise TypeError(f"writable() needs a descriptor or an object with fileno(), not {fd!r}")
    return Writable(fd)


@overload
def select(*cases: Case, after: None = None) -> Selected: ...


@overload
def select(*cases: Case, after: float) -> Selected | None: ...


@exact
def select(*cases: Case, after: float | None = None, **unknown: Never) -> Selected | None:
    """Wait until one of `cases` is ready, complete that one and no other, and say which.

    A case is one of

    * a `Channel`: receive from it,
    * `channel.sending(value)`: send `value` to it,
    * a future, plait's or any other of `concurrent.futures`: it is done (its result is not asked for),
    * a descriptor, or an object with `fileno()`: it can be read, or its other end is closed,
    * `writable(fd)`: it can be written to.

    If several are ready, chance decides, so that none starves. `after` seconds without any it gives up and returns None;
    `after=0` only looks. Any thread; a cancel point, whatever is ready. Cancelled, it has done nothing.

    A closed channel makes its case ready, with an error: leave it out of the next `select`. Two threads may well select crosswise, and one may send to a
    channel and receive from it in one `select`; a thread never meets itself. If there are several descriptors, one that
    another thread closes meanwhile is not noticed before something else happens.

    A signal handler that raises in the main thread during the wait (Ctrl-C): see `Channel`.

    Raises:
        ChannelClosed: A channel among the cases is closed (to receive from: and empty); `channel` of the error says which.
        ValueError: There is no case, or a descriptor is negative: its object is closed.
        TypeError: A case is nothing of the above.
        RuntimeError: A case is the future of the calling thread itself.
        OSError: A descriptor is not open.

    Example:
        >>> from plait import Channel, select
        >>> numbers, words = Channel(1), Channel(1)
        >>> select(numbers, words.sending("hello"))
        Selected(source=<sending 'hello' to <Channel with 1 of 1 buffered>>, value=None)
        >>> source, value = select(numbers, words)
        >>> source is words, value
        (True, 'hello')
        >>> if (chosen := select(numbers, words, after=0.01)) is None:
        ...     print("nothing yet")
        nothing yet
    """
    if unknown:
        raise refused("select", (), unknown, "a limit of its own is after, in seconds, as in select(channel, after=5)")
    if not cases:
        raise ValueError("select needs at least one case, or it would wait for ever")
    deadline = None if after is None else now() + check_seconds(after, "after")
    me = current_thread()
    selection = _Selection(me, [_prepare(me, source) for source in cases], deadline)
    if me.scope is not None:
        check_entry(me)
    return selection.run()


class _Selection:
    """One call of select."""

    __slots__ = ("cases", "deadline", "descriptors", "ends", "exchanges", "futures", "me", "order")

    def __init__(self, me: Parker, cases: list[_Case], deadline: float | None) -> None:
        self.me = me
        self.deadline = deadline
        start = int(_random() * len(cases))
        self.cases = cases[start:] + cases[:start]
        self.ends = [case for case in self.cases if isinstance(case, _End)]
        self.futures = [case for case in cases if isinstance(case, _Future)]
        self.descriptors = [case for case in cases if isinstance(case, _Descriptor)]
        # Each once, in the order in which everybody takes the locks of several.
        self.exchanges = sorted({case.exchange for case in self.ends}, key=id)

    def run(self) -> Selected | None:
        """Wait for the first."""
        chosen = self.look()
        if chosen is not None or self.is_late():
            return chosen
        slots: Slots | None = None
        if self.futures:
            slots = lend_slot_among(limits_of(case.source for case in self.futures), self.me, self.deadline)
        try:
            while True:
                self.wait()
                for end in self.ends:
                    value = end.outcome()
                    if value is not WAIT:
                        return end.selected(value)
                chosen = self.look()
                if chosen is not None or self.is_late():
                    return chosen
        except BaseException:  # a signal handler's may come when one is complete already
            for end in self.ends:
                end.exchange.undo(end.entry)
            raise
        finally:
            for end in self.ends:
                end.exchange.leave(end.entry)
            for future in self.futures:
                future.unwatch(self.me)
            if slots is not None:
                slots.take_back(self.me, self.deadline)

    def look(self) -> Selected | None:
        """Complete the first that is ready now, if one is."""
        for case in self.cases:
            value = case.look()
            if value is not WAIT:
                return case.selected(value)
        return None

    def is_late(self) -> bool:
        """Whether it has waited long enough."""
        return self.deadline is not None and now() >= self.deadline

    def wait(self) -> None:
        """Park until one may be ready."""
        watched: dict[int, int] = {}
        for case in self.descriptors:
            fd = case.number()
            watched[fd] = watched.get(fd, 0) | case.events | BROKEN
        if not watched:
            epoch = self.me.arm()
            if self.publish(epoch):
                park(self.me, epoch, WaitReason.SELECT, self.deadline)
            else:
                self.me.withdraw()
        else:
            wait_descriptors(self.me, watched, self.deadline, None, WaitReason.SELECT, self.publish)

    def publish(self, epoch: int) -> bool:
        """Let others end the armed wait `epoch`; False if there is nothing to wait for, since one is ready."""
        for future in self.futures:
            if not future.watch(self.me, epoch):
                return False
        who: Parker | None = None
        for exchange in self.exchanges:
            exchange.lock.__enter__()
        try:
            for end in self.ends:
                if end.exchange.attempt_locked(end.entry) is not WAIT:
                    who, end.exchange.claimed = end.exchange.claimed, None
                    break
            else:
                for end in self.ends:
                    end.exchange.queue_locked(end.entry, epoch)
                return True
        finally:
            for exchange in reversed(self.exchanges):
                exchange.lock.__exit__(None, None, None)
        if who is not None:
            resume(who)
        return False


class _Case:
    """One case of one call."""

    __slots__ = ("source",)

    source: Any  # as it was passed

    def look(self) -> Any:
        """Complete it if it is ready; the value, or WAIT. May run code of others; owner only, not while armed."""
        raise NotImplementedError

    def selected(self, value: Any) -> Selected:
        """What select returns for it."""
        # Not Selected(...), which is a function of Python: a signal handler could raise in it, and the value be lost.
        return tuple.__new__(Selected, (self.source, value))


class _End(_Case):
    """One end of a channel: a receive or a send."""

    __slots__ = ("channel", "entry", "exchange")

    def __init__(self, source: Channel[Any] | Sending[Any], channel: Channel[Any], entry: Entry) -> None:
        self.source = source
        self.channel = channel
        self.exchange: Exchange = channel._exchange  # noqa: SLF001 - that is what is inside
        self.entry = entry

    def look(self) -> Any:
        self.exchange.attempt(self.entry)
        return self.outcome()

    def outcome(self) -> Any:
        """What has become of it by others; the value, or WAIT. Raises if the channel is closed."""
        entry = self.entry
        verdict = self.exchange.state_of(entry)
        if verdict is DONE:
            return None if entry.is_sending else entry.value
        if verdict is CLOSED:
            check_first(entry.who)
            raise closed_to_senders(self.channel) if entry.is_sending else closed_to_receivers(self.channel)
        return WAIT


class _Future(_Case):
    """A future of plait's."""

    __slots__ = ()

    def __init__(self, source: Any) -> None:
        self.source = source

    def look(self) -> Any:
        return self.source if self.source.done() else WAIT

    def watch(self, me: Parker, epoch: int) -> bool:
        """Have wait `epoch` of `me` ended when it is done; False if it is done."""
        return watch(self.source, me, epoch)

    def unwatch(self, me: Parker) -> None:
        """No wait of `me` is to be ended any more."""
        unwatch(self.source, me)


class _ForeignFuture(_Future):
    """Any other future of `concurrent.futures`."""

    __slots__ = ("_bell",)

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self._bell = _bell_of(source)

    def watch(self, me: Parker, epoch: int) -> bool:
        with _lock:
            if self._bell.has_rung:
                return False
            self._bell.parked[me] = epoch
            return True

    def unwatch(self, me: Parker) -> None:
        with _lock:
            self._bell.parked.pop(me, None)


class _Bell:
    """Rung by a future that is not ours, when it is done. One for each, since a callback cannot be taken back."""

    __slots__ = ("has_rung", "parked")

    def __init__(self) -> None:
        self.has_rung = False  # under _lock
        self.parked: dict[Parker, int] = {}  # threads in select, with the epoch of their wait. Under _lock

    def ring(self, future: concurrent.futures.Future[Any]) -> None:
        """The callback."""
        parked: dict[Parker, int] = {}
        with _lock:
            self.has_rung = True
            parked, self.parked = self.parked, parked
        unpark_all(parked.items())


_lock = Lock()  # guards what is above, for moments
_BELL = "_plait_bell"  # under this name a future keeps its bell, which ends with it


def _bell_of(future: concurrent.futures.Future[Any]) -> _Bell:
    kept = vars(future)
    bell: _Bell | None = kept.get(_BELL)
    if bell is None:
        bell = _Bell()
        future.add_done_callback(bell.ring)  # first: once others see the bell, it will ring
        bell = kept.setdefault(_BELL, bell)
    return bell


class _Descriptor(_Case):
    """A descriptor, by number or by the object that it belongs to."""

    __slots__ = ("_of", "events")

    def __init__(self, source: Writable | int | HasFileno, of: int | HasFileno, events: int) -> None:
        self.source = source
        self.events = events
        self._of = of

    def look(self) -> Any:
        ready = poll_now(self.number(), self.events)
        if ready & _INVALID:
            raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: {self.source!r}")
        return True if ready else WAIT

    def number(self) -> int:
        """Its number, at this moment. May run code of others."""
        of = self._of
        fd = of if isinstance(of, int) else of.fileno()
        if fd < 0:
            raise ValueError(f"{self.source!r} cannot be waited for: it is closed, its descriptor is {fd}")
        if fd > _LARGEST:
            raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: {self.source!r}")
        return fd


def _has_descriptor(thing: object) -> bool:
    if isinstance(thing, int):
        return not isinstance(thing, bool)
    return callable(getattr(thing, "fileno", None))


def _prepare(me: Parker, source: Any) -> _Case:
    if isinstance(source, Channel):
        return _End(source, source, Entry(me, False, None))
    if isinstance(source, Sending):
        return _End(source, source.channel, Entry(me, True, source.value))
    if isinstance(source, Future):
        verify_coming(source, me)
        return _Future(source)
    if isinstance(source, concurrent.futures.Future):
        return _ForeignFuture(source)
    if isinstance(source, Writable):
        return _Descriptor(source, source.fd, WRITE)
    if _has_descriptor(source):
        return _Descriptor(source, source, READ)
    raise TypeError(
        f"select cannot wait for {source!r}: a case is a Channel, channel.sending(value), a future, a descriptor or an "
        f"object with fileno(), or writable(fd)"
    )
