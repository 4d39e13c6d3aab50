"""Exchange: what is inside a channel. Values on their way, and the threads that wait at its two ends.

One lock per channel guards everything here. A thread that has to wait leaves an `Entry` in the queue of its end, with
the epoch of its wait; who finds it there makes the exchange on both sides at once.

    Waiter: 1. arms its wait                         Other: 1. takes the lock; takes the first entry off the queue
            2. under the lock: tries; cannot, so             2. claims its wait; lost: that wait is over, the next entry
               it queues its entry                           3. stores value and state in the entry: the exchange has
            3. parks                                            happened. Lets go of the lock
            4. under the lock: takes its entry off           4. resumes the waiter
               the queue, if it is there, and reads it

Either the waiter's step 2 finds what it needs, or its entry is there for all who come later: both are steps under the
lock. The claim decides alone. A wait that a cancel or a deadline has ended first cannot be claimed any more, so nothing
is given to it and nothing taken from it; a wait that was claimed is complete, and `park` never turns it into a
cancellation. The waiter may see its word claimed before the other's step 3 (a platform thread need not wait for the
resume), therefore it reads its entry under the lock.

An entry whose wait is over is taken off by who finds it. If its owner waits again (it was woken for nothing), it gets
its place back: at the front, for all before it had gone. While a receiver waits there is nothing to take, and while a
sender waits there is no room, so nobody who comes later overtakes.

Signal handlers. They run in the main thread between instructions of Python and in its waits. This module is compiled, so
they cannot raise between the steps above, but in the wait; and there the claim may have come first. A receiver then has a
value that it cannot return any more: it goes back to the front (`undo`), even if that is one more than the capacity, or
to the next who waits. A sender's value stays sent.

`select` waits in several channels at a time, with an entry in each and one wait for all. It holds the locks of all
while it tries and queues, so that nobody can claim it while it claims others; the first claim ends all.

In a forked child those who waited do not exist: their entries are dropped before anybody is claimed.
"""

from __future__ import annotations

import enum
import os
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from plait._core import WOKEN
from plait._core._parking import Parker, park
from plait._native._native import Lock

if TYPE_CHECKING:
    from plait._core import WaitReason


class Verdict(enum.Enum):
    """How an attempt, or an entry, stands."""

    WAIT = "not yet"
    DONE = "the value has changed hands"
    CLOSED = "it never will: the channel is closed"


WAIT = Verdict.WAIT
DONE = Verdict.DONE
CLOSED = Verdict.CLOSED

_forks = 0  # how many forks this process has seen. Written in a child, while it has one thread


class Entry:
    """One end of an exchange that somebody would like to make."""

    __slots__ = ("epoch", "has_queued", "is_sending", "state", "value", "who")

    def __init__(self, who: Parker, is_sending: bool, value: Any) -> None:  # noqa: FBT001 - compiled: by place is quicker
        self.who = who
        self.is_sending = is_sending
        self.value = value  # a sender's, to begin with; a receiver's once DONE. Under the lock
        self.state = WAIT  # WAIT, then DONE or CLOSED for good. Under the lock
        self.epoch = 0  # of the present wait. Written by the owner, under the lock
        self.has_queued = False  # it has had a place in the queue. The owner's, under the lock


class Exchange:
    """The state of one channel. What ends in `_locked` needs the lock, and leaves whom it has claimed in `claimed`."""

    __slots__ = ("_forks", "buffer", "capacity", "claimed", "is_closed", "lock", "receivers", "senders")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.lock = Lock()
        self.buffer: deque[Any] = deque()  # values that are sent and not received. This and what follows: under lock
        self.senders: OrderedDict[Entry, None] = OrderedDict()  # who waits for room, in order of arrival
        self.receivers: OrderedDict[Entry, None] = OrderedDict()  # who waits for a value, likewise
        self.is_closed = False  # for good
        self.claimed: Parker | None = None  # whom the present holder of the lock has to resume when it lets go
        self._forks = _forks  # as of the entries

    def put(self, value: Any) -> Verdict:
        """Send `value` now, if that needs no wait. Any thread."""
        with self.lock:
            verdict = self.put_locked(value)
            who, self.claimed = self.claimed, None
        if who is not None:
            who.resume()
        return verdict

    def take(self) -> Any:
        """Receive a value now, if that needs no wait; the value, WAIT or CLOSED. Any thread."""
        with self.lock:
            value = self.take_locked()
            who, self.claimed = self.claimed, None
        if who is not None:
            who.resume()
        return value

    def attempt(self, entry: Entry) -> Verdict:
        """Put or take, as `entry` would, if that needs no wait. Its owner's."""
        with self.lock:
            verdict = self.attempt_locked(entry)
            who, self.claimed = self.claimed, None
        if who is not None:
            who.resume()
        return verdict

    def complete(self, me: Parker, entry: Entry, reason: WaitReason) -> Verdict:
        """Park until `entry` has been exchanged, or never will be: DONE or CLOSED. A cancel point."""
        try:
            while True:
                epoch = me.arm()
                with self.lock:
                    verdict = self.attempt_locked(entry)
                    if verdict is WAIT:
                        self.queue_locked(entry, epoch)
                    who, self.claimed = self.claimed, None
                if verdict is not WAIT:
                    if who is not None:
                        who.resume()
                    me.withdraw()
                    return verdict
                park(me, epoch, reason)
                verdict = self.state_of(entry)
                if verdict is not WAIT:
                    return verdict
        except BaseException:
            self.undo(entry)
            raise
        finally:
            self.leave(entry)

    def state_of(self, entry: Entry) -> Verdict:
        """How `entry` stands, once its wait is over. Its owner's."""
        with self.lock:
            return entry.state

    def undo(self, entry: Entry) -> None:
        """The owner of `entry` is left by an exception: what it has received goes back to where it came from."""
        with self.lock:
            if entry.state is DONE and not entry.is_sending:
                receiver = self._claim_locked(self.receivers)
                if receiver is not None:
                    receiver.value = entry.value
                else:
                    self.buffer.appendleft(entry.value)
            who, self.claimed = self.claimed, None
        if who is not None:
            who.resume()

    def leave(self, entry: Entry) -> None:
        """The owner of `entry` waits no longer."""
        with self.lock:
            (self.senders if entry.is_sending else self.receivers).pop(entry, None)

    def close(self) -> None:
        """Nothing is sent from now on: whoever waits shall hear of it. Any thread; never waits."""
        claimed: list[Parker] = []
        with self.lock:
            self.is_closed = True
            for queue in (self.senders, self.receivers):
                while (entry := self._claim_locked(queue)) is not None:
                    entry.state = CLOSED
                    claimed.append(entry.who)
            self.claimed = None
        for who in claimed:
            who.resume()

    def put_locked(self, value: Any) -> Verdict:
        """Hand `value` to the first receiver, or store it if there is room."""
        if self.is_closed:
            return CLOSED
        if self.receivers:
            receiver = self._claim_locked(self.receivers)
            if receiver is not None:
                receiver.value = value
                return DONE
        if len(self.buffer) < self.capacity:
            self.buffer.append(value)
            return DONE
        return WAIT

    def take_locked(self) -> Any:
        """The next value, from the buffer or from the first sender; WAIT or CLOSED if there is none."""
        buffer = self.buffer
        if buffer:
            value = buffer.popleft()
            if self.senders and len(buffer) < self.capacity:
                sender = self._claim_locked(self.senders)
                if sender is not None:
                    buffer.append(sender.value)
            return value
        if self.senders:
            sender = self._claim_locked(self.senders)
            if sender is not None:
                return sender.value
        return CLOSED if self.is_closed else WAIT

    def attempt_locked(self, entry: Entry) -> Verdict:
        """Put or take as `entry` would; how it stands then."""
        if entry.is_sending:
            verdict = self.put_locked(entry.value)
        else:
            value = self.take_locked()
            if value is WAIT or value is CLOSED:
                verdict = value
            else:
                entry.value = value
                verdict = DONE
        entry.state = verdict
        return verdict

    def queue_locked(self, entry: Entry, epoch: int) -> None:
        """Let others find `entry`, whose owner has armed wait `epoch`."""
        queue = self.senders if entry.is_sending else self.receivers
        entry.epoch = epoch
        if entry not in queue:
            queue[entry] = None
            if entry.has_queued:
                queue.move_to_end(entry, last=False)
            entry.has_queued = True

    def _claim_locked(self, queue: OrderedDict[Entry, None]) -> Entry | None:
        """Take the first entry whose wait can still be claimed off the queue, claimed; None if there is none."""
        if self._forks != _forks:
            self._forks = _forks
            self.senders.clear()
            self.receivers.clear()
        while queue:
            entry, _ = queue.popitem(last=False)
            if entry.who.claim(entry.epoch, WOKEN):
                entry.state = DONE
                self.claimed = entry.who
                return entry
        return None


def _after_fork() -> None:
    global _forks  # noqa: PLW0603 - a count for all of them
    _forks += 1


os.register_at_fork(after_in_child=_after_fork)
