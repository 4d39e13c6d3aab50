"""select, poll, epoll, selectors, and asyncio inside virtual threads."""

import asyncio
import os
import queue
import select
import selectors
import socket
import sys
import threading
import time
from decimal import Decimal

import pytest
from patch.helpers import (
    PlatformCall,
    described,
    fill,
    is_parked,
    on_virtual,
    run_python,
    tcp_pair,
    wait_parked,
    wait_until,
)
from support import run_anywhere

from plait import InternalError, ThreadGroup, _originals, move_on_after
from plait.patch import _polling


@pytest.fixture
def pair():
    """Two ends of a stream."""
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def _by_select(sock, events, timeout):
    read, write, _ = select.select([sock] if "r" in events else [], [sock] if "w" in events else [], [], timeout)
    return "r" * bool(read) + "w" * bool(write)


def _by_poll(sock, events, timeout):
    poll = select.poll()
    poll.register(sock, select.POLLIN * ("r" in events) | select.POLLOUT * ("w" in events))
    found = dict(poll.poll(None if timeout is None else timeout * 1000)).get(sock.fileno(), 0)
    return "r" * bool(found & select.POLLIN) + "w" * bool(found & select.POLLOUT)


def _by_epoll(sock, events, timeout):
    with select.epoll() as epoll:
        epoll.register(sock, select.EPOLLIN * ("r" in events) | select.EPOLLOUT * ("w" in events))
        found = dict(epoll.poll(timeout)).get(sock.fileno(), 0)
        return "r" * bool(found & select.EPOLLIN) + "w" * bool(found & select.EPOLLOUT)


def _by_selector(cls):
    def ask(sock, events, timeout):
        with cls() as selector:
            selector.register(sock, selectors.EVENT_READ * ("r" in events) | selectors.EVENT_WRITE * ("w" in events))
            found = selector.select(timeout)
            mask = found[0][1] if found else 0
            return "r" * bool(mask & selectors.EVENT_READ) + "w" * bool(mask & selectors.EVENT_WRITE)

    return ask


WAYS = {
    "select": _by_select,
    "poll": _by_poll,
    "epoll": _by_epoll,
    "SelectSelector": _by_selector(selectors.SelectSelector),
    "PollSelector": _by_selector(selectors.PollSelector),
    "EpollSelector": _by_selector(selectors.EpollSelector),
}


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("way", WAYS)
def test_waits_for_data(pair, way, timeout):
    """Each parks until there is something to read."""
    near, far = pair
    with ThreadGroup() as group:
        future = group.spawn(WAYS[way], near, "r", timeout)
        wait_parked(future)
        far.send(b"x")
    assert future.result() == "r"


@pytest.mark.parametrize("way", WAYS)
def test_waits_for_room(pair, way):
    """Each parks until there is room to write."""
    near, far = pair
    fill(near)
    with ThreadGroup() as group:
        future = group.spawn(WAYS[way], near, "w", None)
        wait_parked(future)
        far.setblocking(False)
        while not future.done():
            try:
                far.recv(1 << 20)
            except BlockingIOError:
                time.sleep(0.001)
    assert future.result() == "w"


@pytest.mark.parametrize("way", WAYS)
def test_says_what_is_ready_at_once(pair, way):
    """What is ready is said without waiting, all of it."""
    near, far = pair
    far.send(b"x")
    assert on_virtual(WAYS[way], near, "rw", None) == "rw"
    assert on_virtual(WAYS[way], near, "r", 0) == "r"


@pytest.mark.parametrize("timeout", [0, 0.03])
@pytest.mark.parametrize("way", WAYS)
def test_times_out(pair, way, timeout):
    """Nothing comes, so nothing is said, after the time and not before."""
    started = time.monotonic()
    assert on_virtual(WAYS[way], pair[0], "r", timeout) == ""
    assert time.monotonic() - started >= timeout


@pytest.mark.parametrize("way", WAYS)
def test_many_wait_at_once(way):
    """Several threads wait for sockets of their own on one carrier, and for a shared one."""
    pairs = [socket.socketpair() for _ in range(10)]
    shared, writer = socket.socketpair()
    with ThreadGroup() as group:
        futures = [group.spawn(WAYS[way], near, "r", None) for near, _ in pairs]
        futures += [group.spawn(WAYS[way], shared, "r", None) for _ in range(5)]
        wait_parked(*futures)
        for _, far in pairs:
            far.send(b"x")
        writer.send(b"x")
    assert [future.result() for future in futures] == ["r"] * 15
    for sock in (shared, writer, *(sock for both in pairs for sock in both)):
        sock.close()


def _poll_with_a_bell(sock, bell):
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(bell, select.POLLIN)
    return poll.poll()


def _select_with_a_bell(sock, bell):
    return [(thing, select.POLLIN) for thing in select.select([sock, bell], [], [])[0]]


@pytest.mark.parametrize("ask", [_poll_with_a_bell, _select_with_a_bell])
def test_many_wait_for_one_descriptor(pair, ask):
    """More than the kernel lets epoll descriptors be nested for one; each waits for something else, too."""
    near, _ = pair
    bell, ring = os.pipe()
    with ThreadGroup() as group:
        children = [group.spawn(ask, near.fileno(), bell) for _ in range(600)]
        wait_parked(*children)
        os.write(ring, b"x")
        assert all(child.result() == [(bell, select.POLLIN)] for child in children)
    os.close(bell)
    os.close(ring)


def test_no_descriptor_is_needed_to_wait():
    """Where no more can be opened, what is open can be waited for."""
    code = """
        import os, resource, select
        import plait
        reader, writer = os.pipe()
        def body():
            resource.setrlimit(resource.RLIMIT_NOFILE, (writer + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            try:
                while True:
                    os.dup(reader)
            except OSError:
                pass
            poll = select.poll()
            poll.register(reader)
            return select.select([reader], [], [], 0.01), poll.poll(10)
        with plait.ThreadGroup() as group:
            group.spawn(os.getpid).result()
            print(group.spawn(body).result())
    """
    assert run_python(code) == "(([], [], []), [])\n"


def _is_asleep(carrier):
    """Whether a carrier sleeps, and goes on to."""
    told = queue.SimpleQueue()
    carrier.call(lambda: told.put(threading.get_native_id()))
    number = told.get(timeout=20)

    def look():
        with open(f"/proc/self/task/{number}/status") as file:
            return [line for line in file if line.startswith(("State", "voluntary_ctxt"))]

    before = look()
    _originals.sleep(0.02)
    return before[0].split()[1] == "S" and before == look()


@pytest.mark.parametrize("kind", ["w", "x"])
def test_end_that_nobody_has_asked_for(kind):
    """A pipe without a writer is no reason to wake who waits to write to it, or for what is out of the ordinary."""
    reader, writer = os.pipe()
    os.close(writer)
    with ThreadGroup() as group:
        child = group.spawn(select.select, [], [reader] if kind == "w" else [], [reader] if kind == "x" else [])
        wait_parked(child)
        wait_until(lambda: _is_asleep(child.carrier))
        before = child.epoch()
        other = group.spawn(select.select, [reader], [], [])  # which is one for who waits to read
        assert other.result()[0] == [reader]
        wait_until(lambda: _is_asleep(child.carrier))
        assert child.epoch() == before
        group.cancel()
    os.close(reader)


def test_end_that_nobody_has_asked_for_on_a_platform_thread():
    """Nor there."""
    reader, writer = os.pipe()
    os.close(writer)

    def body():
        with move_on_after(60):
            return select.select([], [reader], [reader], 0.05)

    assert PlatformCall(body).result() == ([], [], [])
    os.close(reader)


@pytest.mark.parametrize("is_known", [False, True])
def test_urgent_data(is_known):
    """It ends a wait for what is out of the ordinary, whether the reactor has seen the socket before or not."""
    near, far = tcp_pair()

    def body():
        if is_known:
            with move_on_after(0.01):
                near.recv(1)
        return select.select([], [], [near])

    with near, far, ThreadGroup() as group:
        child = group.spawn(body)
        wait_parked(child)
        far.send(b"!", socket.MSG_OOB)
        assert child.result() == ([], [], [near])


def test_platform_threads_wait_as_ever(pair):
    """A platform thread waits in select while a virtual thread makes it ready."""
    near, far = pair
    call = PlatformCall(_by_select, near, "r", None)
    on_virtual(far.send, b"x")
    assert call.result() == "r"


@pytest.mark.parametrize("timeout", [None, 30])
def test_regular_files_are_always_ready(tmp_path, timeout):
    """select and poll call a regular file ready."""
    with open(tmp_path / "file", "wb") as file:
        assert on_virtual(select.select, [file], [file], [], timeout) == ([file], [file], [])
        assert on_virtual(_by_poll, file, "rw", timeout) == "rw"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (select.select, ([], [], [], -1)),
        (select.select, ([], [], [], "x")),
        (select.select, ([-1], [], [])),
        (select.select, (["x"], [], [])),
        (select.select, ([10**6], [], [])),
        (select.select, (5, [], [])),
        (select.select, ()),
        (select.select, ([], [], [], 0.01)),
        (select.select, ([], [], [], float("nan"))),
        (select.poll().poll, ("x",)),
        (select.poll().poll, (10,)),
        (select.poll().poll, (0.5,)),
        (select.poll().poll, (1, 2, 3)),
    ],
)
def test_odd_arguments(call, arguments):
    """Nothing to watch, bad descriptors, wrong arguments: as the original has it."""
    got, expected = on_virtual(described, call, *arguments), described(call, *arguments)
    if expected[1] == "TypeError":
        got, expected = got[:2], expected[:2]
    assert got == expected


def test_odd_arguments_of_epoll(pair):
    """The same for epoll: maxevents, timeouts, a closed object."""
    with select.epoll() as epoll:
        epoll.register(pair[0], select.EPOLLOUT)
        for arguments in ((0, 1), (None, 0), (None, -2), (-1, 1), ("x",), (0.01, -1)):
            assert on_virtual(described, epoll.poll, *arguments)[:2] == described(epoll.poll, *arguments)[:2]
        assert on_virtual(epoll.poll, timeout=1, maxevents=5) == [(pair[0].fileno(), select.EPOLLOUT)]
    assert on_virtual(described, epoll.poll, 1) == described(epoll.poll, 1)


def test_closed_descriptor_in_a_poll():
    """poll says POLLNVAL of a closed descriptor."""
    poll = select.poll()
    reader, writer = os.pipe()
    poll.register(reader)
    os.close(reader)
    os.close(writer)
    assert on_virtual(poll.poll) == [(reader, select.POLLNVAL)]


def test_descriptor_registered_while_a_thread_waits(pair):
    """An epoll object that another thread adds a ready descriptor to ends the wait."""
    near, far = pair
    with select.epoll() as epoll, ThreadGroup() as group:
        future = group.spawn(epoll.poll)
        wait_parked(future)
        far.send(b"x")
        epoll.register(near, select.EPOLLIN)
        assert future.result() == [(near.fileno(), select.EPOLLIN)]


# ---- asyncio ----


async def _work(number):
    """A bit of everything: timers, tasks, sockets, threads."""
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    _, other = await asyncio.open_connection(sock=far)
    assert asyncio.get_running_loop() is asyncio.current_task().get_loop()
    other.write(b"%d\n" % number)
    line, _ = await asyncio.gather(reader.readline(), asyncio.sleep(0.005))
    assert await asyncio.to_thread(int, line) == number
    for stream in (writer, other):
        stream.close()
        await stream.wait_closed()
    return int(line)


def test_asyncio_run():
    """`asyncio.run` inside a virtual thread."""
    assert on_virtual(lambda: asyncio.run(_work(7))) == 7


def test_asyncio_many_at_once():
    """Several loops run at once on one carrier, beside a thread that ticks, each seeing its own loop and task."""
    ticks = 0
    is_over = []

    def tick():
        nonlocal ticks
        while not is_over:
            time.sleep(0.001)
            ticks += 1

    with ThreadGroup() as group:
        group.spawn(tick)
        runs = [group.spawn(lambda number=number: asyncio.run(_work(number))) for number in range(8)]
        assert [run.result() for run in runs] == list(range(8))
        is_over.append(True)
    assert ticks > 2


def test_asyncio_loop_is_not_seen_by_others():
    """While a loop runs in one virtual thread, others of the carrier and the main thread have none."""
    is_running, is_over = threading.Event(), threading.Event()

    async def sit():
        is_running.set()
        while not is_over.is_set():
            await asyncio.sleep(0.001)

    with ThreadGroup() as group:
        group.spawn(lambda: asyncio.run(sit()))
        is_running.wait()
        futures = [group.spawn(described, asyncio.get_running_loop) for _ in range(8)]
        for outcome in (*(future.result() for future in futures), described(asyncio.get_running_loop)):
            assert outcome == ("raised", "RuntimeError", "no running event loop")
        is_over.set()


def test_asyncio_run_is_interrupted():
    """Cancelling the virtual thread gets `asyncio.run` out of its wait."""

    def body():
        asyncio.run(asyncio.sleep(3600))

    with ThreadGroup() as group:
        future = group.spawn(body)
        wait_until(lambda: is_parked(future))
        group.cancel()
    assert future.cancelled()


def test_blocking_call_inside_a_coroutine():
    """A coroutine that blocks in a virtual thread's loop holds up that loop alone, and returns to it."""

    async def work():
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        time.sleep(0.01)
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        return 1

    with ThreadGroup() as group:
        futures = [group.spawn(lambda: asyncio.run(work())) for _ in range(5)]
    assert [future.result() for future in futures] == [1] * 5


@pytest.mark.parametrize("when", ["before", "after"])
def test_asyncio_imported(when):
    """asyncio works in virtual threads whether it was imported before the first spawn or after."""
    code = f"""
        import sys, threading, time
        {"import asyncio" if when == "before" else ""}
        import plait
        with plait.ThreadGroup() as group:
            group.spawn(int)
        assert ("asyncio" in sys.modules) is {when == "before"}

        def body(number):
            import asyncio
            async def main():
                await asyncio.sleep(0.01)
                time.sleep(0.01)
                asyncio.get_running_loop()
                await asyncio.sleep(0.01)
                return number
            return asyncio.run(main())

        with plait.ThreadGroup() as group:
            futures = [group.spawn(body, number) for number in range(5)]
        print([future.result() for future in futures])
    """
    assert run_python(code, PLAIT_CARRIERS="1") == "[0, 1, 2, 3, 4]\n"


def test_layout_that_is_unknown(monkeypatch):
    """Where a poll object is not what plait takes it for, plait refuses to run, and says on what account."""
    _polling.check_layout()
    monkeypatch.setattr(_polling, "poll_registered", lambda poll: {})
    with pytest.raises(InternalError) as caught:
        _polling.check_layout()
    assert str(caught.value) == (
        "the poll object of this interpreter is laid out in an unknown way: plait cannot run on it"
    )


class Number:
    """What C takes for a number."""

    def __index__(self):
        return 0


LONG = [1 << 31, -(1 << 32)]  # more than fits into an int of C, which poll(2) takes until 3.15, and ppoll(2) does not
LIMITS = [*LONG, 1 << 64, -(1 << 64), 1e30, float("nan"), float("inf"), Number(), "x"]


@pytest.mark.parametrize("limit", LIMITS, ids=range(len(LIMITS)))
def test_limits_are_refused_as_ever(limit, pair):
    """A limit that C cannot take is refused, on a virtual thread as elsewhere, and not waited for."""
    poll = select.poll()
    poll.register(pair[0], select.POLLIN)
    with select.epoll() as epoll:
        epoll.register(pair[0], select.EPOLLIN)
        calls = [lambda: epoll.poll(limit)]
        if limit not in LONG or sys.version_info < (3, 15):
            calls.append(lambda: poll.poll(limit))
        if limit != 1 << 31:  # many years, for select: it would wait
            calls.append(lambda: select.select([pair[0]], [], [], limit))
        for call in calls:
            assert described(on_virtual, call) == described(call)


@pytest.mark.skipif(sys.version_info < (3, 15), reason="refused before 3.15")
@pytest.mark.parametrize("limit", [*LONG, Decimal(1 << 31)])
def test_long_limits_of_poll(limit, pair):
    """They are waited for, and not by the carrier."""
    poll = select.poll()
    poll.register(pair[0], select.POLLIN)
    with ThreadGroup() as group:
        future = group.spawn(poll.poll, limit)
        wait_parked(future)
        pair[1].send(b"x")
    assert future.result() == poll.poll(0)


def test_select_of_a_list_that_changes():
    """`fileno()` may take things off the list: what is left is asked about, as ever."""

    class Shrinking:
        def fileno(self):
            del things[-1]
            return writer

    reader, writer = os.pipe()
    things = []
    try:
        things[:] = [Shrinking()] * 10
        found = on_virtual(lambda: select.select([], things, []))
    finally:
        os.close(reader)
        os.close(writer)
    assert found == ([], things[:5], [])


@pytest.mark.parametrize("things", [5, None, [object()], "x"], ids=["number", "none", "object", "text"])
def test_select_of_no_descriptors(things):
    """What cannot be selected is refused in the same words."""
    assert described(on_virtual, select.select, things, [], [], 0.1) == described(select.select, things, [], [], 0.1)


@pytest.mark.parametrize("ask", [_by_select, _by_poll, _by_epoll])
@pytest.mark.parametrize("where", ["main", "virtual"])
def test_ready_descriptors_hide_no_cancel(pair, ask, where):
    """A loop that always finds something is a loop of cancel points all the same; a look without waiting is none."""

    def body():
        with move_on_after(3600) as scope:
            scope.cancel_scope("enough", None)
            assert ask(pair[0], "w", 0) == "w"
            ask(pair[0], "w", 10)
            raise AssertionError("it was not cancelled")

    run_anywhere(where, body)


@pytest.mark.parametrize("change", ["taken out", "asked for nothing"])
def test_poll_object_that_is_changed_meanwhile(change, pair):
    """What is wanted is what was wanted when the wait began, as in the kernel; the poll object is the next call's."""
    near, far = pair
    poll = select.poll()
    poll.register(near, select.POLLIN)
    with ThreadGroup() as group:
        future = group.spawn(poll.poll)
        wait_parked(future)
        if change == "taken out":
            poll.unregister(near)
        else:
            poll.modify(near, 0)
        far.send(b"x")
        assert future.result() == [(near.fileno(), select.POLLIN)]
        assert poll.poll(0) == []


def test_list_that_is_changed_meanwhile(pair):
    """The same for the lists that select is given; what is ready is given back as it was given."""
    near, far = pair
    listed = [near.fileno(), near]
    with ThreadGroup() as group:
        future = group.spawn(select.select, listed, [], [])
        wait_parked(future)
        del listed[:]
        far.send(b"x")
        assert future.result() == ([near.fileno(), near], [], [])
