"""Channel: values handed from thread to thread, with a bound, and an end.

What happens inside, and why nothing is lost there, is in `_exchange`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, Generic, Never, NoReturn, TypeVar, overload

from plait._arguments import MISSING, exact, refused
from plait._core import WaitReason, check_entry, check_first, current_thread, whole_number
from plait._errors import ChannelClosed, not_copied
from plait._exchange import CLOSED, DONE, WAIT, Entry, Exchange

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

T = TypeVar("T")

_NO_TIME_LIMIT = (
    "it waits as long as it takes. A limit goes around it, `with timeout(5):`, or into select(channel, after=5)"
)


@dataclass(frozen=True)
class ChannelStatistics:
    """How a channel stood at one moment. Made by `Channel.statistics`."""

    buffered: int  # values sent and not yet received
    capacity: int
    senders_waiting: int  # those of select included
    receivers_waiting: int  # likewise
    is_closed: bool


class Channel(Generic[T]):
    """Hands values from those who send to those who receive, each value once; virtual and platform threads alike.

    It holds up to `capacity` values that nobody has received yet; when it is full, `send` waits. With capacity 0 every
    `send` waits until a receiver has taken its value. A channel is always bounded: who sends faster than others receive
    has to be held up somewhere.

    Values of one sender arrive in the order in which they were sent; who has waited longer is served first. A wait that
    is cancelled has not happened: nobody has received the value, or none was taken. `close` says that nothing more is
    coming: receivers get what is left, and then iteration ends and `recv` raises `ChannelClosed`; but who is cancelled
    gets its `Cancelled`, for the same cancel may be why the channel was closed.

    Several receivers share the values. `select` waits for several channels at a time.

    A signal handler that raises in the main thread (Ctrl-C) while it waits here interrupts the wait. If it has just
    received a value, the value goes back to the front of the channel; a `send` that is interrupted so may have sent.

    Raises:
        TypeError, ValueError: `capacity` is not a whole number from 0 up.

    Example:
        >>> from plait import Channel, ThreadGroup
        >>> def count_to(number, channel):
        ...     with channel:  # closed at the end
        ...         for step in range(number):
        ...             channel.send(step)
        >>> channel = Channel(1)
        >>> with ThreadGroup() as group:
        ...     counter = group.spawn(count_to, 3, channel)
        ...     print(list(channel))
        [0, 1, 2]
    """

    __slots__ = ("__weakref__", "_exchange")

    @overload
    def __init__(self, capacity: int, /) -> None: ...

    @overload
    def __init__(self, *, capacity: int) -> None: ...

    @exact
    def __init__(self, capacity: int = MISSING, *misplaced: Never, **unknown: Never) -> None:
        if misplaced or unknown:
            raise refused("Channel", misplaced, unknown, "it takes its capacity alone, as in Channel(8)")
        if capacity is MISSING:
            raise TypeError(
                "Channel needs its capacity: write Channel(8) for one that holds up to 8 values, or Channel(0) for one whose "
                "senders wait for receivers"
            )
        number = whole_number(capacity)
        if number is None:
            raise TypeError(f"capacity must be a whole number from 0 up, not {capacity!r}: a channel has a bound")
        if number < 0:
            raise ValueError(f"capacity must be 0 or more, not {number}: with 0, send waits for a receiver")
        if number > sys.maxsize:
            raise ValueError(f"capacity must be at most {sys.maxsize}, not {number}")
        self._exchange = Exchange(number)

    def __repr__(self) -> str:
        exchange = self._exchange
        closed = ", closed" if exchange.is_closed else ""
        return f"<Channel with {len(exchange.buffer)} of {exchange.capacity} buffered{closed}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise not_copied(self)

    @property
    def capacity(self) -> int:
        """How many values it holds that nobody has received yet."""
        return self._exchange.capacity

    @property
    def is_closed(self) -> bool:
        """Whether it is closed. There may still be values to receive."""
        return self._exchange.is_closed

    def __len__(self) -> int:
        """How many values are sent and not yet received; those of senders that wait are not among them."""
        return len(self._exchange.buffer)

    def statistics(self) -> ChannelStatistics:
        """What it holds and who waits, at this moment. Any thread; never waits."""
        exchange = self._exchange
        with exchange.lock:  # the numbers alone: making the object runs Python
            buffered, senders, receivers = len(exchange.buffer), len(exchange.senders), len(exchange.receivers)
            is_closed = exchange.is_closed
        return ChannelStatistics(buffered, exchange.capacity, senders, receivers, is_closed)

    @exact
    def send(self, value: T, *, timeout: Never = None) -> None:  # type: ignore[assignment]  # noqa: RUF013 - not optional
        """Send `value`; waits while the channel is full, with capacity 0 until a receiver has taken it.

        Any thread; a cancel point. Cancelled, it has not sent.

        Raises:
            ChannelClosed: The channel is closed, or was closed during the wait; the value has not been sent.
        """
        if timeout is not None:
            raise refused("Channel.send", (), {"timeout": timeout}, _NO_TIME_LIMIT)
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        verdict = self._exchange.put(value)
        if verdict is WAIT:
            verdict = self._exchange.complete(me, Entry(me, True, value), WaitReason.CHANNEL_SEND)
        if verdict is CLOSED:
            check_first(me)
            raise closed_to_senders(self)

    @exact
    def recv(self, *, timeout: Never = None) -> T:  # type: ignore[assignment]  # noqa: RUF013 - not optional
        """The next value; waits while there is none. Any thread; a cancel point. Cancelled, it has taken none.

        Raises:
            ChannelClosed: The channel is closed, or was closed during the wait, and everything has been received.
        """
        if timeout is not None:
            raise refused("Channel.recv", (), {"timeout": timeout}, _NO_TIME_LIMIT)
        value = self._recv()
        if value is CLOSED:
            raise closed_to_receivers(self)
        return value  # type: ignore[no-any-return]

    def send_nowait(self, value: T) -> None:
        """Send `value` if there is room, or a receiver waits for it. Any thread; never waits, and is no cancel point.

        Raises:
            queue.Full: It would have to wait; the value has not been sent.
            ChannelClosed: The channel is closed; the value has not been sent.
        """
        verdict = self._exchange.put(value)
        if verdict is WAIT:
            raise Full(f"{self!r} has no room, and nobody waits for a value")
        if verdict is CLOSED:
            raise closed_to_senders(self)

    def recv_nowait(self) -> T:
        """The next value, if one is there, or a sender waits with one. Any thread; never waits, and is no cancel point.

        Raises:
            queue.Empty: It would have to wait.
            ChannelClosed: The channel is closed, and everything has been received.
        """
        value = self._exchange.take()
        if value is WAIT:
            raise Empty(f"{self!r} has no value, and nobody waits with one")
        if value is CLOSED:
            raise closed_to_receivers(self)
        return value  # type: ignore[no-any-return]

    def sending(self, value: T) -> Sending[T]:
        """A case for `select`: ready when the channel takes `value`, which is sent only if this case is chosen."""
        return Sending(self, value)

    def close(self) -> None:
        """Nothing more is coming: wake all who wait, and let receivers have what is left.

        Values of senders that wait are not sent: their `send` raises `ChannelClosed`. Closing twice is the same as once.
        Any thread; never waits, and is no cancel point.
        """
        self._exchange.close()

    def __enter__(self) -> Self:
        """The channel itself; the end of the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close it."""
        self._exchange.close()

    def __iter__(self) -> Self:
        """The channel itself: each step receives a value, as `recv` does, until it is closed and nothing is left."""
        return self

    def __next__(self) -> T:
        """The next value; a cancel point."""
        value = self._recv()
        if value is CLOSED:
            raise StopIteration
        return value  # type: ignore[no-any-return]

    def _recv(self) -> Any:
        """The next value, or CLOSED."""
        me = current_thread()
        if me.scope is not None:
            check_entry(me)
        value = self._exchange.take()
        if value is WAIT:
            entry = Entry(me, False, None)
            value = CLOSED
            if self._exchange.complete(me, entry, WaitReason.CHANNEL_RECV) is DONE:
                value = entry.value
        if value is CLOSED:
            check_first(me)
        return value


class Sending(Generic[T]):
    """A value that `select` may send. Made by `Channel.sending`; of use as often as you like."""

    __slots__ = ("channel", "value")

    def __init__(self, channel: Channel[T], value: T) -> None:
        self.channel = channel
        self.value = value

    def __repr__(self) -> str:
        return f"<sending {self.value!r} to {self.channel!r}>"


def closed_to_senders(channel: Channel[Any]) -> ChannelClosed:
    """What to raise for a send into a closed channel."""
    return ChannelClosed(f"{channel!r} takes no more values: this one has not been sent", channel)


def closed_to_receivers(channel: Channel[Any]) -> ChannelClosed:
    """What to raise for a receive from a channel that is closed and empty."""
    return ChannelClosed(f"{channel!r} has nothing more to receive", channel)
