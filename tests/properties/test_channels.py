"""Channel against a naive model: the same steps on both, and the same values, waits and refusals."""

from __future__ import annotations

import queue

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import is_parked, until

from plait import Channel, ChannelClosed, ThreadGroup, select
from plait._core import WaitReason

WAITS = (WaitReason.CHANNEL_SEND, WaitReason.CHANNEL_RECV, WaitReason.SELECT)


class Model:
    """What a channel is: a list of values, and lists of those who wait, each until it has an outcome."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.values = []
        self.senders = []  # (name, value)
        self.receivers = []  # names
        self.is_closed = False
        self.outcomes = {}  # of those who had to wait: name -> outcome

    def send(self, value):
        """What comes of it: "sent", "closed", or "waits"."""
        if self.is_closed:
            return "closed"
        if self.receivers:
            self.outcomes[self.receivers.pop(0)] = value
            return "sent"
        if len(self.values) < self.capacity:
            self.values.append(value)
            return "sent"
        return "waits"

    def receive(self):
        """The value, "closed", or "waits"."""
        if self.values:
            value = self.values.pop(0)
            if self.senders:
                name, late = self.senders.pop(0)
                self.values.append(late)
                self.outcomes[name] = "sent"
            return value
        if self.senders:
            name, value = self.senders.pop(0)
            self.outcomes[name] = "sent"
            return value
        return "closed" if self.is_closed else "waits"

    def cancel(self, name):
        self.senders = [sender for sender in self.senders if sender[0] != name]
        self.receivers = [receiver for receiver in self.receivers if receiver != name]
        self.outcomes[name] = "cancelled"

    def close(self):
        self.is_closed = True
        for name in [name for name, _ in self.senders] + self.receivers:
            self.outcomes[name] = "closed"
        self.senders, self.receivers = [], []


class Channels(RuleBasedStateMachine):
    """Threads that send, receive, select, are cancelled and close, one step at a time."""

    @initialize(capacity=st.integers(0, 3))
    def make(self, capacity):
        self.group = ThreadGroup().__enter__()
        self.channel = Channel(capacity)
        self.other = Channel(0)  # never ready
        self.model = Model(capacity)
        self.waiting = {}
        self.count = 0

    def teardown(self):
        self.group.cancel()
        self.group.__exit__(None, None, None)

    def settle(self, fn, expected, queued):
        """Call `fn` on a thread, and see it come to its outcome, or to its place in the queue."""

        def outcome():
            try:
                return fn()
            except ChannelClosed:
                return "closed"

        child = self.group.spawn(outcome)
        until(lambda: child.done() or any(is_parked(child, reason) for reason in WAITS))
        if expected == "waits":
            assert not child.done()
            queued(child)
            self.waiting[child] = None
        else:
            assert child.result() == expected

    def next_value(self):
        self.count += 1
        return self.count

    @rule(by_select=st.booleans())
    def send(self, by_select):
        value = self.next_value()
        channel, other = self.channel, self.other

        def plain():
            channel.send(value)
            return "sent"

        def selecting():
            assert select(other, channel.sending(value)).value is None
            return "sent"

        self.settle(
            selecting if by_select else plain,
            self.model.send(value),
            lambda child: self.model.senders.append((child, value)),
        )

    @rule(by_select=st.booleans())
    def receive(self, by_select):
        channel, other = self.channel, self.other
        self.settle(
            (lambda: select(other, channel).value) if by_select else channel.recv,
            self.model.receive(),
            self.model.receivers.append,
        )

    @rule()
    def send_now(self):
        value = self.next_value()
        expected = self.model.send(value)
        try:
            self.channel.send_nowait(value)
        except queue.Full:
            assert expected == "waits"
        except ChannelClosed:
            assert expected == "closed"
        else:
            assert expected == "sent"

    @rule()
    def receive_now(self):
        expected = self.model.receive()
        try:
            assert self.channel.recv_nowait() == expected
        except queue.Empty:
            assert expected == "waits"
        except ChannelClosed:
            assert expected == "closed"

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        place = data.draw(st.integers(0, len(self.waiting) - 1))
        child = list(self.waiting)[place]
        child.cancel()
        self.model.cancel(child)

    @rule()
    def close(self):
        self.channel.close()
        self.model.close()

    @invariant()
    def agrees(self):
        if not hasattr(self, "channel"):
            return
        model = self.model
        for child, outcome in model.outcomes.items():
            until(child.done)
            assert ("cancelled" if child.cancelled() else child.result()) == outcome
            del self.waiting[child]
        model.outcomes.clear()
        statistics = self.channel.statistics()
        assert statistics.buffered == len(model.values)
        assert statistics.is_closed == model.is_closed
        assert statistics.senders_waiting == len(model.senders)
        assert statistics.receivers_waiting == len(model.receivers)
        assert self.other.statistics().receivers_waiting <= len(self.waiting)


TestChannels = Channels.TestCase
TestChannels.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
