"""select: the first of several things."""

from __future__ import annotations

import concurrent.futures
import errno
import os
import socket
import threading
import time
import weakref

import pytest
from support import collect, handler_everywhere, me, platform_thread, run_anywhere, run_in_vthread, until, wait_parked

import plait._select
from plait import Channel, ChannelClosed, Selected, ThreadGroup, move_on_after, select, writable
from plait._core import PlatformThread, WaitReason

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])
SELECT = WaitReason.SELECT


@pytest.fixture
def pipe():
    """A pipe: its reading and its writing end."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def pair():
    """Two sockets that are connected."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def fill(sock):
    """Send until there is no room; how much it was."""
    sock.setblocking(False)
    size = 0
    with pytest.raises(BlockingIOError):
        while True:
            size += sock.send(bytes(65536))
    return size


def drain(sock, size):
    """Receive so much."""
    while size:
        size -= len(sock.recv(65536))


def is_untouched(channel, *values):
    """Whether nobody waits in `channel` and it holds `values`, which are taken out."""
    statistics = channel.statistics()
    return (
        (statistics.senders_waiting, statistics.receivers_waiting) == (0, 0)
        and len(channel) == len(values)
        and [channel.recv_nowait() for _ in values] == list(values)
    )


@pytest.fixture(params=["receive", "send", "future", "foreign", "number", "object", "writable"])
def ready(request, pair):
    """One case of each kind: (case, what makes it ready, the value that is then selected)."""
    ours, theirs = pair
    channel = Channel(1)
    if request.param == "receive":
        yield channel, lambda: channel.send_nowait("value"), "value"
    elif request.param == "send":
        channel.send("full")
        yield channel.sending("value"), channel.recv_nowait, None
        assert is_untouched(channel, "value")
    elif request.param == "future":
        gate = threading.Event()
        with ThreadGroup() as group:
            future = wait_parked(group.spawn(gate.wait))
            yield future, gate.set, future
    elif request.param == "foreign":
        future = concurrent.futures.Future()
        yield future, lambda: future.set_result(1), future
    elif request.param == "number":
        yield ours.fileno(), lambda: theirs.send(b"x"), True
    elif request.param == "object":
        yield ours, lambda: theirs.send(b"x"), True
    else:
        size = fill(ours)
        yield writable(ours), lambda: drain(theirs, size), True


@WHERE
def test_what_is_ready_is_selected_at_once(where, ready):
    """A case of each kind that is ready: it is selected without a wait, and named by the object that was passed."""
    case, make_ready, value = ready
    other = Channel(0)
    make_ready()
    if isinstance(case, plait.Future):
        until(case.done)

    def body():
        return select(other, case, other.sending("never"), after=0)

    chosen = run_anywhere(where, body)
    assert isinstance(chosen, Selected)
    assert chosen.source is case
    assert chosen.value == value
    assert tuple(chosen) == (case, value)
    assert is_untouched(other)


@WHERE
def test_waits_for_what_becomes_ready(where, ready):
    """A case of each kind that becomes ready ends the wait; the other cases have not happened."""
    case, make_ready, value = ready
    other, pending = Channel(0), concurrent.futures.Future()
    who = []

    def body():
        who.append(me())
        return select(other, case, pending, other.sending("never"))

    def make():
        until(lambda: who)
        wait_parked(who[0], SELECT)
        make_ready()

    with platform_thread(make):
        chosen = run_anywhere(where, body)
    assert (chosen.source is case, chosen.value) == (True, value)
    assert is_untouched(other)


@WHERE
def test_gives_up_after_a_while(where, pipe, ready):
    """When `after` has passed, the result is None, and nothing has happened."""
    case, make_ready, _ = ready
    reader, _ = pipe
    channel = Channel(0)

    def body():
        for after in (0, 0.005):
            assert select(channel, channel.sending(1), reader, case, after=after) is None
            assert select(case, after=after) is None

    run_anywhere(where, body)
    assert is_untouched(channel)
    make_ready()
    assert select(channel, case).source is case


@WHERE
def test_closed_channel_makes_its_case_ready(where):
    """A channel that is closed, before or during the wait, raises ChannelClosed and is named by it."""
    for kind in ("receive", "send"):
        other, channel = Channel(0), Channel(1)
        who = []

        def body(other=other, channel=channel, kind=kind, who=who):
            case = channel if kind == "receive" else channel.sending("lost")
            who.append(me())
            with pytest.raises(ChannelClosed) as during:
                select(other, case)
            with pytest.raises(ChannelClosed) as before:
                select(case, other)
            assert during.value.channel is before.value.channel is channel
            return str(before.value)

        def close(channel=channel, who=who):
            until(lambda: who)
            wait_parked(who[0], SELECT)
            channel.close()

        if kind == "send":
            channel.send("kept")
        with platform_thread(close):
            sentence = run_anywhere(where, body)
        assert (
            sentence
            == {
                "receive": "<Channel with 0 of 1 buffered, closed> has nothing more to receive",
                "send": "<Channel with 1 of 1 buffered, closed> takes no more values: this one has not been sent",
            }[kind]
        )
        assert is_untouched(other)
        assert list(channel) == (["kept"] if kind == "send" else [])


def test_never_meets_itself():
    """A thread that would send to a channel or receive from it waits for somebody else."""
    channel = Channel(0)
    assert select(channel, channel.sending(1), after=0) is None
    assert select(channel, channel.sending(1), channel, channel.sending(2), after=0.005) is None
    with ThreadGroup() as group:
        both = wait_parked(group.spawn(select, channel, channel.sending("from select")), SELECT)
        channel.send("to select")
        assert both.result() == (channel, "to select")
        both = wait_parked(group.spawn(select, channel, channel.sending("from select")), SELECT)
        both.nudge()
        assert channel.recv() == "from select"
        assert both.result().value is None
    assert is_untouched(channel)


def test_two_that_face_each_other_exchange_one_value():
    """Each would send to the other or receive from it: one of the two exchanges happens, on both sides."""
    for _ in range(100):
        there, back = Channel(0), Channel(0)
        with ThreadGroup() as group:
            one = group.spawn(select, there.sending("there"), back)
            two = group.spawn(select, there, back.sending("back"))
        assert {one.result().value, two.result().value} in ({None, "there"}, {None, "back"})
        assert (two.result().source is there) == (one.result().value is None)
        assert is_untouched(there)
        assert is_untouched(back)


def test_same_case_twice():
    """A channel, future or descriptor may be there more than once."""
    channel, future = Channel(0), concurrent.futures.Future()
    with ThreadGroup() as group:
        child = group.spawn(threading.Event().wait, 0.01)
        waiter = wait_parked(group.spawn(select, channel, channel, future, future), SELECT)
        channel.send(1)
        assert waiter.result() == (channel, 1)
        waiter = wait_parked(group.spawn(select, channel, channel, future, future), SELECT)
        future.set_result(1)
        assert waiter.result() == (future, future)
        assert select(child, child) == (child, child)
    assert is_untouched(channel)


def test_none_of_several_ready_starves():
    """Each of several cases that are always ready is chosen now and then."""
    channels = [Channel(1) for _ in range(4)]
    future = concurrent.futures.Future()
    future.set_result(1)
    for channel in channels:
        channel.send(0)
    chosen = set()

    def choose():
        source, _ = select(*channels, future)
        chosen.add(source)
        if source is not future:
            source.send(0)
        return len(chosen) == 5

    until(choose)


@WHERE
def test_several_descriptors(where, pipe, pair):
    """Several descriptors, to read and to write, beside a channel: whichever is first."""
    reader, writer = pipe
    ours, theirs = pair
    size = fill(ours)
    channel = Channel(0)
    room = writable(ours)
    who = []

    def body():
        who.append(me())
        return select(room, channel, reader, ours)

    def act(change):
        until(lambda: who)
        wait_parked(who[0], SELECT)
        change()

    for change, source, value in (
        (lambda: os.write(writer, b"x"), reader, True),
        (lambda: theirs.send(b"x"), ours, True),
        (lambda: channel.send("value"), channel, "value"),
        (lambda: drain(theirs, size), room, True),
    ):
        who.clear()
        with platform_thread(act, change):
            chosen = run_anywhere(where, body)
        assert (chosen.source is source, chosen.value) == (True, value)
        if source is reader:
            os.read(reader, 1)
        elif source is ours:
            ours.recv(1)
    assert is_untouched(channel)


@WHERE
def test_same_descriptor_to_read_and_to_write(where, pair):
    """One descriptor in both directions: the one that is ready is chosen."""
    ours, theirs = pair
    room = writable(ours)
    assert run_anywhere(where, lambda: select(ours, room)).source is room
    fill(ours)
    assert run_anywhere(where, lambda: select(ours, room, after=0.005)) is None
    theirs.send(b"x")
    assert run_anywhere(where, lambda: select(ours, room)).source is ours


def test_end_of_a_stream_is_readable(pipe):
    """A descriptor whose other end is closed makes its case ready, and so does a regular file."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        assert select(Channel(0), ours) == (ours, True)
    with open(__file__) as file:
        assert select(Channel(0), file) == (file, True)
        assert run_in_vthread(select, Channel(0), writable(file.fileno())).value is True


@WHERE
@pytest.mark.parametrize("count", [1, 2])
def test_descriptor_that_is_not_open(where, count, pipe):
    """A number that no descriptor has is an OSError, and a closed object a ValueError that names it."""
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    others = [pipe[0]] * (count - 1)

    def body():
        with pytest.raises(OSError, match=rf"^\[Errno 9\] Bad file descriptor: {reader}$"):
            select(*others, reader, Channel(0))
        sock = socket.socket()
        sock.close()
        with pytest.raises(ValueError, match=r"^<socket.*> cannot be waited for: it is closed, its descriptor is -1$"):
            select(*others, sock, Channel(0))

    run_anywhere(where, body)


@WHERE
def test_socket_that_is_closed_during_the_wait(where, pair):
    """A socket that another thread closes ends the wait with an error that names it."""
    ours, _ = pair
    channel = Channel(0)
    who = []

    def body():
        who.append(me())
        with ThreadGroup(), pytest.raises(ValueError, match="cannot be waited for: it is closed"):
            select(ours, channel)

    def close():
        until(lambda: who)
        wait_parked(who[0], SELECT)
        ours.close()

    with platform_thread(close):
        run_anywhere(where, body)
    assert is_untouched(channel)


@WHERE
def test_number_that_is_closed_during_the_wait(where):
    """A descriptor that another thread closes by its number ends the wait with an error."""
    reader, writer = os.pipe()
    channel = Channel(0)
    who = []

    def body():
        who.append(me())
        with ThreadGroup(), pytest.raises(OSError, match="Bad file descriptor"):
            select(reader, channel)

    def close():
        until(lambda: who)
        wait_parked(who[0], SELECT)
        os.close(reader)

    with platform_thread(close):
        run_anywhere(where, body)
    os.close(writer)
    assert is_untouched(channel)


@WHERE
def test_is_a_cancel_point(where, ready):
    """select looks for a cancel even if a case is ready, and has done nothing then."""
    case, make_ready, _ = ready
    make_ready()
    channel = Channel(1)

    def body():
        with move_on_after(0) as scope:
            select(case, channel.sending(1))
        assert scope.cancelled_caught

    run_anywhere(where, body)
    assert is_untouched(channel)
    assert select(case).source is case


@WHERE
def test_cancelled_select_has_done_nothing(where, ready):
    """A select that is cancelled while it waits has sent nothing, taken nothing, and left nothing behind."""
    case, make_ready, _ = ready
    channel = Channel(0)

    def body():
        with move_on_after(0.01) as scope:
            select(channel, case, channel.sending(1))
        assert scope.cancelled_caught

    run_anywhere(where, body)
    assert is_untouched(channel)
    make_ready()
    assert select(case).source is case


def test_completed_select_is_not_cancelled():
    """A cancel that comes after the exchange: what was selected is returned, the cancel comes next."""
    one, two = Channel(0), Channel(0)
    seen = []

    def work():
        seen.append(select(one, two.sending("sent")).value)
        time.sleep(3600)

    for act, value in ((lambda: one.send_nowait("got"), "got"), (two.recv_nowait, None)):
        with ThreadGroup() as group:
            child = wait_parked(group.spawn(work), SELECT)

            def both(act=act, child=child):
                act()
                child.cancel()

            group.spawn(both).result()
        assert child.cancelled()
        assert seen.pop() == value


def test_outcome_of_a_future_is_not_asked_for():
    """A future that has failed or was cancelled is done like any other."""
    with ThreadGroup() as group:
        child = group.spawn(time.sleep, 3600)
        child.cancel()
        assert select(Channel(0), child).value is child
        foreign = concurrent.futures.Future()
        foreign.cancel()
        assert select(Channel(0), foreign).source is foreign
    failed = concurrent.futures.Future()
    failed.set_exception(ZeroDivisionError())
    assert select(failed, Channel(0)).value is failed


def test_future_of_an_executor():
    """A call on a thread pool is waited for like any future."""
    gate = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        future = executor.submit(gate.wait)
        assert select(future, Channel(0), after=0.001) is None
        gate.set()
        assert run_in_vthread(select, future, Channel(0)).value.result() is True


def test_asks_a_future_for_one_callback_only():
    """However often a future is selected on, it keeps one callback, and only as long as it lives."""
    future = concurrent.futures.Future()
    for _ in range(10):
        assert select(future, Channel(0), after=0) is None
    assert len(future._done_callbacks) == 1
    ref = weakref.ref(future)
    del future
    collect(lambda: ref() is None)


def test_handler_that_selects():
    """A handler may wait for a future of any kind in the middle of a select on one."""
    seen = []

    def done(value):
        future = concurrent.futures.Future()
        future.set_result(value)
        return future

    with handler_everywhere(lambda: seen.append(select(done("inner")).value.result())):
        assert select(done("outer")).value.result() == "outer"
    assert set(seen) == {"inner"}


def test_own_future_is_an_error():
    """A thread cannot wait for its own end."""
    with ThreadGroup() as group:
        own = []

        def body():
            until(lambda: own)
            with pytest.raises(RuntimeError, match=r"^<Future of .* running> cannot wait for its own outcome$"):
                select(own[0], Channel(0))

        own.append(group.spawn(body))


class Struck(PlatformThread):
    """A platform thread whose signal handler raises in its wait, after `act` has been called."""

    def wait_natively(self, epoch, limit):
        self.act()
        raise KeyboardInterrupt

    __slots__ = ("act",)


def test_handler_that_raises_gives_the_value_back(monkeypatch, pipe):
    """A handler that raises when the exchange is complete already: what was received goes back to its channel."""
    one, two = Channel(0), Channel(0)
    struck = Struck()
    got = []
    with monkeypatch.context() as patching:
        patching.setattr(plait._select, "current_thread", lambda: struck)
        for more in ((), pipe):
            struck.act = lambda: one.send_nowait("value")
            with pytest.raises(KeyboardInterrupt):
                select(one, two, two.sending("sent"), *more[:1])
            assert is_untouched(one, "value")
            struck.act = lambda: got.append(two.recv_nowait())
            with pytest.raises(KeyboardInterrupt):
                select(one, two, two.sending("sent"), *more[:1])
            assert got.pop() == "sent"
    assert is_untouched(one)
    assert is_untouched(two)


def test_wrong_cases():
    """What cannot be waited for is named, with what could be."""
    with pytest.raises(ValueError, match="^select needs at least one case, or it would wait for ever$"):
        select()
    with pytest.raises(ValueError, match="^select needs at least one case"):
        select(after=1)
    for wrong in (None, 1.5, True, "name", threading.Event()):
        with pytest.raises(TypeError) as caught:
            select(Channel(0), wrong)
        assert str(caught.value) == (
            f"select cannot wait for {wrong!r}: a case is a Channel, channel.sending(value), a future, a descriptor or "
            f"an object with fileno(), or writable(fd)"
        )
    with pytest.raises(TypeError) as caught:
        writable("name")
    assert str(caught.value) == "writable() needs a descriptor or an object with fileno(), not 'name'"
    with pytest.raises(ValueError, match="^-1 cannot be waited for: it is closed, its descriptor is -1$"):
        select(-1)
    with pytest.raises(ValueError, match="^<writable -1> cannot be waited for: it is closed, its descriptor is -1$"):
        select(writable(-1))
    with pytest.raises(OSError, match=rf"{os.strerror(errno.EBADF)}: 1{30 * '0'}$"):
        select(10**30, after=60)


@pytest.mark.parametrize(("wrong", "error"), [(-1, ValueError), ("1", TypeError), (float("nan"), ValueError)])
def test_wrong_after(wrong, error):
    """`after` must be a number of seconds from 0 up."""
    with pytest.raises(error, match="after must be"):
        select(Channel(0), after=wrong)


def test_reprs():
    """What a case is for."""
    channel = Channel(0)
    assert repr(channel.sending("x")) == "<sending 'x' to <Channel with 0 of 0 buffered>>"
    assert repr(writable(5)) == "<writable 5>"
    assert (channel.sending("x").channel, channel.sending("x").value, writable(5).fd) == (channel, "x", 5)
