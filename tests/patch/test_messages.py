"""Messages of `multiprocessing`: a cancelled wait takes none of a message along, and leaves none of it behind."""

import multiprocessing
import os
import pickle
import struct
import time

import pytest
from patch.helpers import PlatformCall, fill_pipe, is_parked, on_virtual, run_python, wait_parked, wait_until

import plait
from plait import ThreadGroup

TEXT = "x" * 1000


@pytest.fixture(params=["pipe", "socket"])
def connection(request):
    """Two ends, one to read from and one to write to."""
    reader, writer = multiprocessing.Pipe(duplex=request.param == "socket")
    with reader, writer:
        yield reader, writer


def _raw(value):
    """A message as it goes through the pipe."""
    data = pickle.dumps(value)
    return struct.pack("!i", len(data)) + data


class _Inside:
    """`fn(*args)` in a group of its own, on a virtual thread or on one of the operating system."""

    def __init__(self, group, where, fn, *args, **options):
        self._call = (fn, args, options)
        self.done = []  # what it returned, as soon as it has
        self.was_cancelled = False
        begun = []
        self._future = group.spawn(self._run, begun) if where == "virtual" else PlatformCall(self._run, begun)
        wait_until(lambda: begun)
        self.group, self.thread = begun[0]

    def _run(self, begun):
        fn, args, options = self._call
        with ThreadGroup(**options) as inner:
            begun.append((inner, plait._core.current_thread()))
            try:
                self.done.append(fn(*args))
            except plait.Cancelled:
                self.was_cancelled = True
                raise

    def wait_parked(self):
        """Return as soon as it is suspended."""
        wait_until(lambda: is_parked(self.thread))

    def join(self):
        """Wait for its end."""
        self._future.result()


WHERE = pytest.mark.parametrize("where", ["virtual", "platform"])


@WHERE
@pytest.mark.parametrize("begun", [2, 4, 20])
def test_receive_is_cancelled_in_the_middle_of_a_message(connection, where, begun):
    """What has begun to come is received as a whole, though the reader is cancelled meanwhile; what follows, too."""
    reader, writer = connection
    raw = _raw(TEXT)
    with ThreadGroup() as group:
        call = _Inside(group, where, reader.recv)
        call.wait_parked()
        os.write(writer.fileno(), raw[:begun])
        wait_until(lambda: not reader.poll(0) and is_parked(call.thread))
        call.group.cancel()
        os.write(writer.fileno(), raw[begun:])
        call.join()
    assert call.done == [TEXT]
    writer.send("next")
    assert on_virtual(reader.recv) == "next"


@WHERE
def test_receive_is_cancelled_before_a_message(connection, where):
    """Where nothing has come yet a cancel ends the wait at once, and the message goes to the next reader."""
    reader, writer = connection
    with ThreadGroup() as group:
        call = _Inside(group, where, reader.recv)
        call.wait_parked()
        call.group.cancel()
        call.join()
    assert call.was_cancelled
    writer.send(TEXT)
    assert on_virtual(reader.recv) == TEXT


@WHERE
def test_patience_with_a_peer_that_stops_in_the_middle_ends(connection, where):
    """The rest of a message is waited for until the grace is over, not for ever."""
    reader, writer = connection
    with ThreadGroup() as group:
        os.write(writer.fileno(), _raw(TEXT)[:20])
        call = _Inside(group, where, reader.recv, grace=0.02)
        call.wait_parked()
        call.group.cancel()
        call.join()
    assert call.was_cancelled


@WHERE
def test_send_is_cancelled_in_the_middle_of_a_message(connection, where):
    """What has begun to be sent is sent as a whole, though the writer is cancelled meanwhile."""
    reader, writer = connection
    data = os.urandom(1 << 20)
    with ThreadGroup() as group:
        call = _Inside(group, where, writer.send_bytes, data)
        call.wait_parked()
        call.group.cancel()
        assert on_virtual(reader.recv_bytes) == data
        call.join()
    assert not call.was_cancelled
    writer.send("next")
    assert on_virtual(reader.recv) == "next"


@WHERE
def test_send_is_cancelled_before_a_message(where):
    """Where there is no room a cancel ends the wait at once, and nothing was sent."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        filled = fill_pipe(writer.fileno())
        with ThreadGroup() as group:
            call = _Inside(group, where, writer.send_bytes, TEXT.encode())
            call.wait_parked()
            call.group.cancel()
            call.join()
        assert call.was_cancelled
        while filled:
            filled -= len(os.read(reader.fileno(), filled))
        assert not reader.poll(0)


def test_clean_up_beyond_a_message_is_told_as_ever(connection):
    """A cancel that a message has put off comes at the next cancel point."""
    reader, writer = connection
    steps = []

    def body():
        steps.append(reader.recv())
        time.sleep(3600)
        steps.append("not cancelled")

    raw = _raw(TEXT)
    with ThreadGroup() as group:
        os.write(writer.fileno(), raw[:20])
        future = group.spawn(body)
        wait_parked(future)
        future.cancel()
        os.write(writer.fileno(), raw[20:])
    assert future.cancelled()
    assert steps == [TEXT]


def test_connection_in_non_blocking_mode(connection):
    """Its error is the caller's, as ever."""
    reader, _ = connection
    os.set_blocking(reader.fileno(), False)
    with pytest.raises(BlockingIOError):
        on_virtual(reader.recv)


@pytest.mark.parametrize("where", ["plait.spawn(consume).result()", "consume()"])
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_queue_whose_getters_are_cancelled_again_and_again(kind, where):
    """All items of another process arrive once, and in their order, whenever the getters are cancelled."""
    code = f"""
        import multiprocessing, random, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        items = context.{kind}()
        def produce():
            for number in range(500):
                items.put(number)
                time.sleep(0.0002)
        def consume():
            chance = random.Random(7)
            got = []
            while len(got) < 500:
                with plait.move_on_after(chance.random() * 0.002):
                    while True:
                        got.append(items.get())
            assert got == list(range(500)), got
        process = context.Process(target=produce)
        process.start()
        {where}
        process.join()
        print(process.exitcode)
    """
    assert run_python(code) == "0\n"


POOLS = {
    "Pool": ("context.Pool(2)", "pool.apply(fn, args)", "pool.close(), pool.join()"),
    "ProcessPoolExecutor": (
        "concurrent.futures.ProcessPoolExecutor(2, context)",
        "pool.submit(fn, *args).result()",
        "pool.shutdown()",
    ),
}


@pytest.mark.parametrize("name", POOLS)
def test_pool_of_processes_used_by_virtual_threads(name):
    """They work in it while a canary ticks; those who are cancelled mid-flight leave it usable, and it ends properly."""
    make, call, end = POOLS[name]
    code = f"""
        import concurrent.futures, multiprocessing, os, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        reader, writer = os.pipe()
        pool = {make}
        def call(fn, *args):
            return {call}
        def body():
            ticks = []
            def tick():
                while True:
                    time.sleep(0.005)
                    ticks.append(None)
            with plait.ThreadGroup() as canary:
                canary.spawn(tick)
                with plait.ThreadGroup() as group:
                    squares = [group.spawn(call, pow, number, 2) for number in range(20)]
                assert [square.result() for square in squares] == [number**2 for number in range(20)]
                with plait.ThreadGroup() as group:
                    sitters = [group.spawn(call, os.read, reader, 1) for _ in range(4)]
                    while not all(sitter.waits_for and sitter.is_waiting() for sitter in sitters):
                        time.sleep(0.001)
                    then = len(ticks)
                    while len(ticks) < then + 5:
                        time.sleep(0.001)
                    group.cancel()
                assert all(sitter.cancelled() for sitter in sitters)
                os.write(writer, b"four")  # the calls that were given up end by themselves
                assert call(pow, 3, 2) == 9
                canary.cancel()
        plait.spawn(body).result()
        {end}
        print(len(multiprocessing.active_children()))
    """
    assert run_python(code) == "0\n"
