"""Channels and select under storms of cancels, closes and signals: every value is accounted for exactly once."""

from __future__ import annotations

import pytest
from support import run_program

pytestmark = pytest.mark.stress

CARRIERS = pytest.mark.parametrize("carriers", [1, 2, 4])

# What the programs below share. `often(call)`: repeat it under tiny time limits until it comes through; whatever was cut
# off by its limit must not have happened, or a value would be lost or come twice.
STORM = """
        import queue, random, sys, threading, time, plait
        from plait import Channel, ChannelClosed, ThreadGroup, move_on_after, select
        sys.setswitchinterval(1e-5)
        random.seed(11)
        cuts = [0]

        def often(call, *args):
            while True:
                with move_on_after(random.random() * 2e-4) as scope:
                    return call(*args)
                cuts[0] += 1

        def on_platform(fn, *args):
            def run():
                try:
                    fn(*args)
                except BaseException as error:
                    failures.append(error)
            thread = threading.Thread(target=run)
            thread.start()
            return thread

        failures = []
"""


@CARRIERS
@pytest.mark.parametrize("capacity", [0, 1, 8])
def test_cancelled_sends_and_receives_lose_nothing(capacity, carriers):
    """Sends and receives of virtual and platform threads, cut off by time limits all the while: 20,000 values."""
    out, _ = run_program(
        f"""{STORM}
        COUNT, SENDERS = 5000, 4
        channel = Channel({capacity})
        sums = []

        def send(place):
            for number in range(COUNT):
                often(channel.send, (place, number))

        def receive():
            got = []
            try:
                while True:
                    got.append(often(channel.recv))
            except ChannelClosed:
                sums.append(got)

        with ThreadGroup() as outer:
            receivers = [outer.spawn(receive) for _ in range(3)]
            threads = [on_platform(receive)]
            with ThreadGroup() as group:
                senders = [group.spawn(send, place) for place in range(SENDERS - 1)]
                sender = on_platform(send, SENDERS - 1)
            sender.join()
            channel.close()
        for thread in threads:
            thread.join()
        assert not failures, failures
        got = [value for part in sums for value in part]
        assert len(got) == COUNT * SENDERS, len(got)
        assert sorted(got) == [(place, number) for place in range(SENDERS) for number in range(COUNT)]
        for part in sums:
            for place in range(SENDERS):
                mine = [number for who, number in part if who == place]
                assert mine == sorted(mine)
        print("done", cuts[0] > 0)
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "done True\n"


@CARRIERS
def test_children_that_are_cancelled_have_not_exchanged(carriers):
    """Waves of children that send and receive, half of them cancelled at any moment: both sides tell the same story."""
    out, _ = run_program(
        f"""{STORM}
        sent, received, made = [], [], 0

        def send(channel, value):
            channel.send(value)
            sent.append(value)

        def choose(channel, other, value):
            if select(channel.sending(value), other).value is None:
                sent.append(value)

        def receive(channel):
            received.append(channel.recv())

        def cancel(children):
            for child in children:
                child.cancel()
                if random.random() < 0.1:
                    time.sleep(0)

        for wave in range(250):
            channel, nothing = Channel(random.choice((0, 1, 5))), Channel(0)
            with ThreadGroup() as group:
                children = []
                for _ in range(30):
                    made += 1
                    children.append(group.spawn(*random.choice((
                        (send, channel, made), (choose, channel, nothing, made), (receive, channel), (receive, channel),
                    ))))
                for part in (children[::4], children[1::4]):
                    group.spawn(cancel, part)
                thread = on_platform(cancel, children[2::4])
                for child in children[3::4]:
                    child.cancel()
                thread.join()
            while True:
                try:
                    received.append(channel.recv_nowait())
                except queue.Empty:
                    break
        assert not failures, failures
        assert sorted(sent) == sorted(received), (len(sent), len(received))
        assert len(set(sent)) == len(sent)
        print("done", len(sent) > 100)
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "done True\n"


@CARRIERS
def test_selects_across_channels_lose_nothing(carriers):
    """Threads that move values about among channels by select, both ways and crosswise, under time limits."""
    out, _ = run_program(
        f"""{STORM}
        COUNT = 600
        channels = [Channel(0), Channel(1), Channel(0), Channel(3)]
        way_out = Channel(0)

        def feed(place):
            for number in range(COUNT):
                often(channels[place].send, (place, number))

        def move():
            pocket = []
            never = Channel(0)
            try:
                while True:
                    cases = [never, *channels]
                    if pocket:
                        cases += [channel.sending(pocket[-1]) for channel in [*channels, way_out]]
                        cases.append(way_out.sending(pocket[-1]))  # twice
                    random.shuffle(cases)
                    chosen = often(select, *cases)
                    time.sleep(0)  # there is always something to move: let others run
                    if isinstance(chosen.source, Channel):
                        pocket.append(chosen.value)
                    else:
                        pocket.pop()
            except ChannelClosed:
                assert not pocket, pocket

        def finish():
            got = [often(way_out.recv) for _ in range(len(channels) * COUNT)]
            for channel in channels:
                channel.close()
            results.extend(got)

        results = []
        with ThreadGroup() as group:
            for place in range(len(channels)):
                group.spawn(feed, place)
            for _ in range(4):
                group.spawn(move)
            threads = [on_platform(move) for _ in range(2)]
            group.spawn(finish)
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert sorted(results) == [(place, number) for place in range(len(channels)) for number in range(COUNT)]
        for channel in [*channels, way_out]:
            statistics = channel.statistics()
            assert (statistics.buffered, statistics.senders_waiting, statistics.receivers_waiting) == (0, 0, 0)
        print("done")
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "done\n"


@CARRIERS
def test_closing_tells_each_value_apart(carriers):
    """Channels that are closed in the middle: what a send says it has sent is received, and nothing else is."""
    out, _ = run_program(
        f"""{STORM}
        for wave in range(300):
            channel = Channel(random.choice((0, 1, 4)))
            sent, received = [], []

            def send(place):
                try:
                    for number in range(10):
                        if random.random() < 0.5:
                            channel.send((place, number))
                        else:
                            select(channel.sending((place, number)))
                        sent.append((place, number))
                except ChannelClosed as closed:
                    assert closed.channel is channel

            def receive():
                received.extend(channel)

            with ThreadGroup() as group:
                for place in range(4):
                    group.spawn(send, place)
                for _ in range(3):
                    group.spawn(receive)
                thread = on_platform(receive)
                for _ in range(random.randrange(20)):
                    time.sleep(0)
                channel.close()
            thread.join()
            assert not failures, failures
            assert sorted(sent) == sorted(received), (sent, received)
        print("done")
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "done\n"
