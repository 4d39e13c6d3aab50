"""Channel: values handed from thread to thread."""

from __future__ import annotations

import dataclasses
import gc
import queue
import time
import weakref

import pytest
from support import me, platform_thread, run_anywhere, run_program, until, wait_parked

import plait._channels
from plait import Channel, ChannelClosed, ThreadGroup, move_on_after, select
from plait._core import PlatformThread, WaitReason, observe_parks, unobserve_parks

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])
SEND = WaitReason.CHANNEL_SEND
RECV = WaitReason.CHANNEL_RECV


@WHERE
def test_buffered_values_come_out_in_order(where):
    """Up to its capacity a channel takes values without a receiver, and gives them in the order of sending."""

    def body():
        channel = Channel[int](3)
        for number in range(3):
            channel.send(number)
        assert (len(channel), channel.capacity) == (3, 3)
        assert [channel.recv(), channel.recv_nowait(), channel.recv()] == [0, 1, 2]
        assert len(channel) == 0

    run_anywhere(where, body)


@pytest.mark.parametrize("capacity", [0, 1, 3])
@pytest.mark.parametrize("receiving", ["main", "platform", "virtual"])
@pytest.mark.parametrize("sending", ["platform", "virtual"])
def test_hands_over_between_all_kinds_of_threads(sending, receiving, capacity):
    """Whoever sends and whoever receives: everything arrives, in order, and the end is seen."""
    channel = Channel(capacity)

    def produce():
        with channel:
            for number in range(50):
                channel.send(number)

    def consume():
        return run_anywhere(receiving, lambda: list(channel))

    if sending == "platform":
        with platform_thread(produce):
            got = consume()
    else:
        with ThreadGroup() as group:
            group.spawn(produce)
            got = consume()
    assert got == list(range(50))


def test_send_waits_for_room():
    """With the buffer full, senders wait; each receive lets in the first of them, behind what is there."""
    channel = Channel(1)
    channel.send("a")
    with ThreadGroup() as group:
        first = wait_parked(group.spawn(channel.send, "b"), SEND)
        second = wait_parked(group.spawn(channel.send, "c"), SEND)
        assert channel.recv() == "a"
        first.result()
        assert not second.done()
        assert (len(channel), channel.statistics().senders_waiting) == (1, 1)
        assert [channel.recv(), channel.recv()] == ["b", "c"]
        second.result()


@WHERE
def test_rendezvous_send_returns_when_the_value_is_taken(where):
    """With capacity 0 nothing is stored: a send is over when a receiver has its value, and the other way round."""
    channel = Channel(0)

    def body():
        return channel.recv()

    with ThreadGroup() as group:
        sender = wait_parked(group.spawn(channel.send, 1), SEND)
        assert len(channel) == 0
        assert run_anywhere(where, body) == 1
        sender.result()
        receiver = wait_parked(group.spawn(channel.recv), RECV)
        run_anywhere(where, channel.send, 2)
        assert receiver.result() == 2


def test_who_waits_longer_is_served_first():
    """Receivers get values, and senders are received from, in the order in which they came."""
    channel = Channel(0)
    with ThreadGroup() as group:
        receivers = [wait_parked(group.spawn(channel.recv), RECV) for _ in range(5)]
        for number in range(5):
            channel.send_nowait(number)
        assert [receiver.result() for receiver in receivers] == [0, 1, 2, 3, 4]
        for number in range(5):
            wait_parked(group.spawn(channel.send, number), SEND)
        assert [channel.recv_nowait() for _ in range(5)] == [0, 1, 2, 3, 4]


def test_nowait_never_waits():
    """send_nowait raises queue.Full and recv_nowait queue.Empty where the others would wait."""
    channel = Channel(0)
    with pytest.raises(queue.Full, match="^<Channel with 0 of 0 buffered> has no room, and nobody waits for a value$"):
        channel.send_nowait(1)
    with pytest.raises(queue.Empty, match="^<Channel with 0 of 0 buffered> has no value, and nobody waits with one$"):
        channel.recv_nowait()
    channel = Channel(1)
    channel.send_nowait(1)
    with pytest.raises(queue.Full):
        channel.send_nowait(2)
    assert channel.recv_nowait() == 1
    with pytest.raises(queue.Empty):
        channel.recv_nowait()


def test_close_wakes_who_waits():
    """Closing ends all waits with ChannelClosed; what a waiting sender had is not sent."""
    channel = Channel(0)
    with ThreadGroup() as group:

        def attempt(fn, *args):
            with pytest.raises(ChannelClosed) as caught:
                fn(*args)
            assert caught.value.channel is channel
            return str(caught.value)

        receivers = [wait_parked(group.spawn(attempt, channel.recv), RECV) for _ in range(2)]
        channel.close()
        for receiver in receivers:
            assert receiver.result() == "<Channel with 0 of 0 buffered, closed> has nothing more to receive"
        channel.close()
        assert channel.is_closed

    channel = Channel(1)
    channel.send("kept")
    with ThreadGroup() as group:
        sender = wait_parked(group.spawn(attempt, channel.send, "lost"), SEND)
        channel.close()
        assert sender.result() == (
            "<Channel with 1 of 1 buffered, closed> takes no more values: this one has not been sent"
        )
    assert list(channel) == ["kept"]


@WHERE
def test_closed_channel_gives_what_is_left(where):
    """After close nothing can be sent; what was sent before can be received, then every receive raises."""

    def body():
        with Channel(2) as channel:
            channel.send(1)
            channel.send(2)
        assert channel.is_closed
        for send in (channel.send, channel.send_nowait):
            with pytest.raises(ChannelClosed, match="takes no more values: this one has not been sent"):
                send(3)
        assert channel.recv() == 1
        assert channel.recv_nowait() == 2
        for receive in (channel.recv, channel.recv_nowait):
            with pytest.raises(ChannelClosed, match="has nothing more to receive") as caught:
                receive()
            assert caught.value.channel is channel
        assert list(channel) == []
        assert isinstance(caught.value, RuntimeError)

    run_anywhere(where, body)


def test_block_closes_however_it_is_left():
    """An error in the block closes the channel, too."""
    channel = Channel(0)
    with pytest.raises(ZeroDivisionError), channel:
        1 / 0  # noqa: B018
    assert channel.is_closed


def test_receivers_share_a_channel():
    """Several that iterate get each value once, and all of them end when it is closed."""
    channel = Channel(2)
    with ThreadGroup() as group:
        workers = [group.spawn(list, channel) for _ in range(4)]
        for number in range(100):
            channel.send(number)
        channel.close()
    assert sorted(number for worker in workers for number in worker.result()) == list(range(100))


@pytest.mark.parametrize("capacity", [0, 1])
def test_cancelled_send_has_not_sent(capacity):
    """A send that is cancelled while it waits leaves nothing behind, and those behind it move up."""
    channel = Channel(capacity)
    for number in range(capacity):
        channel.send(number)
    with ThreadGroup() as group:
        first = wait_parked(group.spawn(channel.send, "first"), SEND)
        second = wait_parked(group.spawn(channel.send, "second"), SEND)
        first.cancel()
        received = [channel.recv() for _ in range(capacity + 1)]
        second.result()
    assert first.cancelled()
    assert received == [*range(capacity), "second"]
    assert (len(channel), channel.statistics().senders_waiting) == (0, 0)


def test_cancelled_recv_has_taken_nothing():
    """A receive that is cancelled while it waits is given nothing: the value goes to the next."""
    channel = Channel(0)
    with ThreadGroup() as group:
        first = wait_parked(group.spawn(channel.recv), RECV)
        second = wait_parked(group.spawn(channel.recv), RECV)
        first.cancel()
        channel.send_nowait("value")
        assert second.result() == "value"
        third = wait_parked(group.spawn(channel.recv), RECV)
        third.cancel()
        with pytest.raises(queue.Full):
            channel.send_nowait("nobody")
    assert first.cancelled()
    assert third.cancelled()
    assert channel.statistics().receivers_waiting == 0


def test_completed_exchange_is_not_cancelled():
    """A cancel that comes after the exchange, before the thread has run on: the value arrives, the cancel comes next."""
    channel = Channel(0)
    seen = []

    def receive():
        seen.append(channel.recv())
        time.sleep(3600)

    def send():
        channel.send("sent")
        seen.append("returned")
        time.sleep(3600)

    with ThreadGroup() as group:
        for work, act in ((receive, lambda: channel.send_nowait("got")), (send, channel.recv_nowait)):
            child = wait_parked(group.spawn(work))

            def both(act=act, child=child):
                act()
                child.cancel()

            group.spawn(both).result()
            until(child.cancelled)
    assert seen == ["got", "returned"]


@WHERE
def test_is_a_cancel_point(where):
    """send, recv and iteration look for a cancel even if they need not wait; the rest does not."""

    def body():
        channel = Channel(3)
        for number in range(2):
            channel.send(number)
        for point in (lambda: channel.send(9), channel.recv, lambda: next(channel)):
            with move_on_after(0) as scope:
                point()
            assert scope.cancelled_caught
        assert len(channel) == 2
        with move_on_after(0) as scope:
            channel.send_nowait(2)
            assert channel.recv_nowait() == 0
            channel.close()
        assert not scope.cancelled_caught
        assert list(channel) == [1, 2]

    run_anywhere(where, body)


CLOSED_UNDER = {
    "recv": lambda channel: channel.recv(),
    "iteration": list,
    "send": lambda channel: channel.send(1),
    "select": select,
    "select to send": lambda channel: select(channel.sending(1)),
}


@WHERE
@pytest.mark.parametrize("kind", CLOSED_UNDER)
def test_cancel_comes_before_the_end_of_the_channel(where, kind):
    """Who closes it may do so since the same cancel has reached it first: then it is no end."""
    channel = Channel(0)

    def close_and_cancel(thread, reason):
        if reason is not WaitReason.GROUP:  # which is another thread's
            unobserve_parks(close_and_cancel)
            channel.close()
            scope.cancel_scope("enough", scope)

    def body():
        with scope:
            observe_parks(close_and_cancel)
            CLOSED_UNDER[kind](channel)

    scope = move_on_after(3600)
    run_anywhere(where, body)
    assert scope.cancelled_caught


@WHERE
def test_time_limit_ends_the_wait(where):
    """A time limit interrupts a wait at once, on every kind of thread, and nobody is left in the queues."""

    def body():
        channel = Channel(0)
        for wait in (channel.recv, lambda: channel.send(1), lambda: list(channel)):
            with move_on_after(0.01) as scope:
                wait()
            assert scope.cancelled_caught
        assert channel.statistics() == plait._channels.ChannelStatistics(0, 0, 0, 0, is_closed=False)

    run_anywhere(where, body)


def test_woken_for_nothing_keeps_its_place():
    """A waiter that was woken for nothing is still before those who came later."""
    channel = Channel(0)
    with ThreadGroup() as group:
        first = wait_parked(group.spawn(channel.recv), RECV)
        second = wait_parked(group.spawn(channel.recv), RECV)
        until(lambda: channel.statistics().receivers_waiting == 2)
        epoch = list(channel._exchange.receivers)[0].epoch
        first.nudge()
        until(lambda: list(channel._exchange.receivers)[0].epoch > epoch)
        wait_parked(first, RECV)
        channel.send_nowait(1)
        channel.send_nowait(2)
        assert (first.result(), second.result()) == (1, 2)


def test_passed_over_while_awake_comes_first_again():
    """A waiter that was passed over since it was awake, for nothing, is the first again."""
    channel = Channel(0)
    with ThreadGroup() as group:
        waiters = []  # what they got

        def wait():
            waiters.append(channel.recv())
            return waiters[-1]

        first = wait_parked(group.spawn(wait), RECV)
        wait_parked(group.spawn(wait), RECV)
        third = wait_parked(group.spawn(wait), RECV)

        def pass_over():
            first.nudge()  # from here on its wait cannot be claimed, until it has run
            channel.send_nowait("to the first that can")

        group.spawn(pass_over).result()
        until(lambda: len(waiters) == 1 and channel.statistics().receivers_waiting == 2)
        channel.send_nowait("next")
        until(lambda: len(waiters) == 2)
        assert not third.done()
        channel.send_nowait("last")
        assert third.result() == "last"


def test_statistics_and_repr():
    """What it holds, and who waits."""
    channel = Channel(1)
    channel.send("secret")
    with ThreadGroup() as group:
        sender = wait_parked(group.spawn(channel.send, 2), SEND)
        statistics = channel.statistics()
        assert dataclasses.astuple(statistics) == (1, 1, 1, 0, False)
        with pytest.raises(dataclasses.FrozenInstanceError):
            statistics.buffered = 2
        assert repr(channel) == "<Channel with 1 of 1 buffered>"
        channel.recv()
        sender.result()
        channel.recv()
        receiver = wait_parked(group.spawn(channel.recv), RECV)
        assert channel.statistics().receivers_waiting == 1
        channel.send(3)
        assert receiver.result() == 3
    channel.close()
    assert dataclasses.astuple(channel.statistics()) == (0, 1, 0, 0, True)
    assert repr(channel) == "<Channel with 0 of 1 buffered, closed>"


@pytest.mark.parametrize(
    ("wrong", "error", "sentence"),
    [
        (None, TypeError, "capacity must be a whole number from 0 up, not None: a channel has a bound"),
        (1.5, TypeError, "capacity must be a whole number from 0 up, not 1.5: a channel has a bound"),
        (True, TypeError, "capacity must be a whole number from 0 up, not True: a channel has a bound"),
        (-1, ValueError, "capacity must be 0 or more, not -1: with 0, send waits for a receiver"),
    ],
)
def test_wrong_capacity(wrong, error, sentence):
    """The capacity is a whole number from 0 up."""
    with pytest.raises(error) as caught:
        Channel(wrong)
    assert str(caught.value) == sentence


def test_keeps_no_value_alive():
    """What has been received belongs to who received it alone."""

    class Thing:
        pass

    for capacity in (0, 1):
        channel = Channel(capacity)
        with ThreadGroup() as group:
            sender = group.spawn(lambda channel=channel: channel.send(Thing()))
            ref = weakref.ref(channel.recv())
            sender.result()
        gc.collect()
        assert ref() is None


class Struck(PlatformThread):
    """A platform thread whose signal handler raises in its wait, after `act` has been called."""

    def wait_natively(self, epoch, limit):
        self.act()
        raise KeyboardInterrupt

    __slots__ = ("act",)


@pytest.mark.parametrize("capacity", [0, 2])
def test_handler_that_raises_gives_the_value_back(monkeypatch, capacity):
    """A handler that raises when the receive is complete already: the value is the next that the channel gives."""
    channel = Channel(capacity)
    struck = Struck()
    monkeypatch.setattr(plait._channels, "current_thread", lambda: struck)

    def act():
        for number in range(1 + capacity):
            channel.send_nowait(number)

    struck.act = act
    with pytest.raises(KeyboardInterrupt):
        channel.recv()
    assert len(channel) == 1 + capacity
    assert channel.statistics().receivers_waiting == 0
    with pytest.raises(queue.Full):
        channel.send_nowait("too many")
    channel.close()
    assert list(channel) == list(range(1 + capacity))


def test_handler_that_raises_gives_the_value_to_who_waits(monkeypatch):
    """If others wait by then, the first of them gets the value."""
    channel = Channel(0)
    struck = Struck()
    with ThreadGroup() as group:
        waiting = []

        def act():
            channel.send_nowait("value")
            waiting.append(wait_parked(group.spawn(channel.recv), RECV))

        struck.act = act
        with monkeypatch.context() as patching:
            here = me()
            patching.setattr(plait._channels, "current_thread", lambda: struck if me() is here else me())
            with pytest.raises(KeyboardInterrupt):
                channel.recv()
        assert waiting[0].result() == "value"
    assert len(channel) == 0


def test_handler_that_raises_in_send(monkeypatch):
    """A handler that raises in a send: what was received stays sent, what was not is not sent later."""
    channel = Channel(0)
    struck = Struck()
    monkeypatch.setattr(plait._channels, "current_thread", lambda: struck)
    got = []
    struck.act = lambda: got.append(channel.recv_nowait())
    with pytest.raises(KeyboardInterrupt):
        channel.send("taken")
    struck.act = lambda: None
    with pytest.raises(KeyboardInterrupt):
        channel.send("not taken")
    with pytest.raises(queue.Empty):
        channel.recv_nowait()
    assert got == ["taken"]


# A storm of signals whose handler raises whenever it finds the main thread between the arming and the end of a wait.
STORM = """
        import signal, threading, time, plait
        class Struck(Exception):
            pass
        main, strikes, is_over = plait._core.current_thread(), [0], [False]
        def strike(number, frame):
            if main.state() != plait._native.outcomes["RUNNING"]:
                strikes[0] += 1
                raise Struck
        def storm():
            while not is_over[0]:
                if main.is_waiting():
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
                time.sleep(0.0003)
        signal.signal(signal.SIGALRM, strike)
        def beside(work):
            threads = [threading.Thread(target=storm), threading.Thread(target=work)]
            for thread in threads:
                thread.start()
            return threads
        def end(threads):
            is_over[0] = True
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            for thread in threads:
                thread.join()
"""


@pytest.mark.parametrize("capacity", [0, 1, 10])
def test_signals_in_the_main_thread_lose_no_value(capacity):
    """Handlers that raise in the main thread's receives, at any moment: each value arrives once, and in order."""
    out, _ = run_program(
        f"""{STORM}
        channel, received = plait.Channel({capacity}), []
        def produce():
            with channel:
                for number in range(3000):
                    channel.send(number)
                    time.sleep(0)
        threads = beside(produce)
        while not channel.is_closed or len(channel):
            try:
                received.extend(channel)  # not Python: no handler can run between a receive and its place in the list
            except Struck:
                pass
        end(threads)
        assert received == list(range(3000)), received
        print("received", strikes[0] > 0)
        """,
        seconds=50,
    )
    assert out == "received True\n"


@pytest.mark.parametrize("capacity", [0, 1])
def test_signals_in_the_main_thread_send_no_value_twice(capacity):
    """Handlers that raise in the main thread's sends: what was said to be sent has arrived; nothing comes twice."""
    out, _ = run_program(
        f"""{STORM}
        channel, sent, received = plait.Channel({capacity}), [], []
        def consume():
            for number in channel:
                received.append(number)
                time.sleep(0)
        threads = beside(consume)
        for number in range(3000):
            try:
                channel.send(number)
                sent.append(number)
            except Struck:
                pass
        channel.close()
        end(threads)
        assert set(sent) <= set(received), set(sent) - set(received)
        assert received == sorted(set(received)), received
        print("sent", strikes[0] > 0)
        """,
        seconds=50,
    )
    assert out == "sent True\n"


def test_forked_child_serves_only_who_is_there():
    """Threads that waited in a channel at a fork do not exist in the child: nothing is handed to them."""
    out, _ = run_program("""
        import os, queue, sys, plait
        channel, full = plait.Channel(0), plait.Channel(1)
        full.send("kept")
        with plait.ThreadGroup() as group:
            waiters = [group.spawn(channel.recv), group.spawn(full.send, "not sent")]
            while not all(waiter.waits_for is not None and waiter.is_waiting() for waiter in waiters):
                pass
            child = os.fork()
            if child == 0:
                try:
                    channel.send_nowait(1)
                except queue.Full:
                    pass
                else:
                    os._exit(1)
                assert full.recv_nowait() == "kept"
                try:
                    full.recv_nowait()
                except queue.Empty:
                    pass
                else:
                    os._exit(2)
                with plait.ThreadGroup() as inner:
                    inner.spawn(channel.send, 1)
                    assert channel.recv() == 1
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            channel.send("from the parent")
            print(status, waiters[0].result(), full.recv(), full.recv())
    """)
    assert out == "0 from the parent kept not sent\n"


def test_works_without_a_group():
    """Between plain platform threads, and from the main thread, with no scope open."""
    channel = Channel(0)
    with platform_thread(channel.recv) as outcome:
        channel.send("hello")
        until(lambda: outcome)
    assert outcome == [(None, "hello")]
