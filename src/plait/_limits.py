"""Slots: how many children of a group may be started and unfinished at a time.

    Taker:    under the lock: takes a free slot, or queues (me, epoch), armed; parks     [claim = the slot is mine]
    Releaser: under the lock: takes the first waiter off, or counts the slot free; claims outside; on failure again
A slot goes from hand to hand: it is never free while somebody waits, so nobody can overtake. A taker whose wait was
WOKEN owns the slot, cancelled or not.

A member of a full group that spawns into it hands its own slot to the child and queues in front of all others to get
one back: the number of runnable members never exceeds the limit, and recursion never deadlocks.
"""

from __future__ import annotations

from collections import deque

from plait._core import WOKEN, Lock, Parker, WaitReason, park, park_shielded


class Slots:
    """A number of slots, and who waits for one."""

    __slots__ = ("_free", "_lock", "_waiting", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = Lock()
        self._free = limit  # under _lock; 0 while anybody waits
        self._waiting: deque[tuple[Parker, int]] = deque()  # under _lock

    @property
    def available(self) -> int:
        """How many are free now."""
        return self._free

    def reset(self) -> None:
        """All slots are free: in a child process after fork."""
        self._free = self.limit
        self._waiting = deque()

    def try_take(self) -> bool:
        """Take a free slot, if there is one. Any thread; never waits."""
        with self._lock:
            if not self._free:
                return False
            self._free -= 1
            return True

    def take(self, me: Parker) -> None:
        """Take a slot, parking until there is one. A cancel point; raises `Cancelled` without a slot."""
        while not self.try_take():
            epoch = me.arm()
            waiter = (me, epoch)
            with self._lock:
                is_free = self._free > 0
                if not is_free:
                    self._waiting.append(waiter)
            if is_free:
                me.withdraw()
                continue
            try:
                if park(me, epoch, WaitReason.SLOT) == WOKEN:
                    return
            except BaseException:
                if me.outcome == WOKEN:  # a signal handler's, with the slot in hand
                    self.release()
                raise
            finally:
                self._leave(waiter)

    def take_back(self, me: Parker) -> None:
        """Take a slot before all others, whatever the scopes of `me` say: it is a member, and goes on only with one."""
        while not self.try_take():
            epoch = me.arm(True)
            waiter = (me, epoch)
            with self._lock:
                is_free = self._free > 0
                if not is_free:
                    self._waiting.appendleft(waiter)
            if is_free:
                me.withdraw()
                continue
            if park_shielded(me, epoch, WaitReason.SLOT) == WOKEN:
                return
            self._leave(waiter)

    def _leave(self, waiter: tuple[Parker, int]) -> None:
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def release(self) -> None:
        """Give a slot to the first who waits, or back. Any thread; never parks."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                who, epoch = self._waiting.popleft()
            if who.unpark(epoch):
                return
