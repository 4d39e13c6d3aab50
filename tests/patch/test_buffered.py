"""Buffered and text files shared by virtual and platform threads: one at a time, nothing lost, nothing twice."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
from patch.helpers import PlatformCall, described, fill_pipe, is_parked, on_virtual, run_python, wait_parked, wait_until

from plait import Cancelled, ThreadGroup, checkpoint
from plait._core import WaitReason
from plait.patch import status


@pytest.fixture
def pipe():
    """The two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def waits_for_a_turn(thread):
    """Whether a thread is parked before a gate."""
    return is_parked(thread) and thread.waits_for is WaitReason.FILE


def drain(fd):
    """Everything up to the end, on a platform thread, a little at a time."""

    def read():
        parts = []
        while part := os.read(fd, 1000):
            parts.append(part)
        return b"".join(parts)

    return PlatformCall(read)


# ---- many at one file ----


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_many_threads_print_into_a_full_pipe(pipe, mode):
    """Virtual and platform threads write lines into a full pipe: each arrives once, and whole where it was flushed whole."""
    reader, writer = pipe
    full = fill_pipe(writer)
    file = open(writer, mode, closefd=False)
    lines, threads = 25, 20

    def work(number):
        for turn in range(lines):
            line = f"{number:05}-{turn:05}\n"
            file.write(line if mode == "w" else line.encode())
            file.flush()

    platform = [PlatformCall(work, 1000 + number) for number in range(3)]
    with ThreadGroup() as group:
        writers = [group.spawn(work, number) for number in range(threads)]
        wait_parked(*writers)
        call = drain(reader)
    for other in platform:
        other.result()
    file.close()
    os.close(writer)
    text = call.result()[full:]
    assert sorted(text.split()) == sorted(
        b"%05d-%05d" % (number, turn) for number in (*range(threads), 1000, 1001, 1002) for turn in range(lines)
    )


def test_logging_and_print_to_a_full_stderr():
    """Handlers and prints of many threads of both kinds get through a pipe that is full at first."""
    reader, writer = os.pipe()
    full = fill_pipe(writer)
    code = f"""
        import logging, os, sys, threading
        from plait import ThreadGroup

        sys.stderr = open({writer}, "w", buffering=1)
        log = logging.getLogger("test")
        log.addHandler(logging.StreamHandler(sys.stderr))

        def work(number):
            for turn in range(10):
                log.error("%s %s", number, turn)
                print(f"{{number}} {{turn}}\\n", end="", file=sys.stderr, flush=True)  # a line in one write

        platform = [threading.Thread(target=work, args=(100 + number,)) for number in range(3)]
        for thread in platform:
            thread.start()
        with ThreadGroup() as group:
            for number in range(20):
                group.spawn(work, number)
            group.spawn(print, "begun", flush=True)
        for thread in platform:
            thread.join()
        sys.stderr.close()
        sys.stderr = sys.__stderr__
        print("done")
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        pass_fds=[writer],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ) as process:
        os.close(writer)
        assert process.stdout.readline() == b"begun\n"  # though nobody reads the other pipe
        call = drain(reader)
        assert process.communicate(timeout=20)[0] == b"done\n"
    text = call.result()[full:].decode()
    os.close(reader)
    assert process.returncode == 0
    words = text.split()
    assert len(words) == 23 * 10 * 2 * 2
    expected = [f"{number} {turn}" for number in (*range(20), 100, 101, 102) for turn in range(10)] * 2
    assert sorted(text.splitlines()) == sorted(expected) or sorted(words) == sorted(" ".join(expected).split())


def test_many_readers_of_one_file(pipe):
    """Lines are read by several threads, by iteration and by calls: each line once, and whole."""
    reader, writer = pipe
    lines = []
    with open(reader, "rb", closefd=False) as file:

        def iterate():
            lines.extend(file)

        def call():
            lines.extend(iter(file.readline, b""))

        with ThreadGroup() as group:
            group.spawn(iterate)
            group.spawn(iterate)
            group.spawn(call)
            other = PlatformCall(iterate)
            for number in range(300):
                os.write(writer, b"%d\n" % number)
                if number % 50 == 0:
                    time.sleep(0)
            os.close(writer)
        other.result()
    assert sorted(map(int, lines)) == list(range(300))


def test_readers_of_a_random_file(tmp_path):
    """A BufferedRandom is shared, too: reads and writes at places of their own, each under a turn."""
    with open(tmp_path / "file", "w+b") as file:
        file.write(bytes(100))

        def work(number):
            for _ in range(20):
                assert file.write(b"") == 0
                file.flush()
                file.seek(number)
                assert len(file.peek(1)) >= 0
                time.sleep(0)

        with ThreadGroup() as group:
            for number in range(10):
                group.spawn(work, number)
        file.seek(0)
        assert file.read() == bytes(100)


# ---- turns ----


def test_second_thread_waits_for_its_turn(pipe):
    """A second thread at a file parks, whichever carrier it is on; the platform thread that comes then waits as well."""
    reader, writer = pipe
    with open(reader, "rb", closefd=False) as file, ThreadGroup() as group:
        first = group.spawn(file.read, 3)
        wait_parked(first)
        others = [group.spawn(file.read, 1) for _ in range(4)]
        wait_until(lambda: all(map(waits_for_a_turn, others)))
        platform = PlatformCall(file.read, 1)
        os.write(writer, b"abcd")
        assert first.result() == b"abc"
        os.write(writer, b"efgh")
        assert sorted([*(other.result() for other in others), platform.result()]) == [b"d", b"e", b"f", b"g", b"h"]


@pytest.mark.parametrize("ending", ["data", "error"])
def test_platform_thread_is_inside(ending):
    """While a platform thread is inside a file virtual threads park; they go on when it comes out, in whatever way."""
    is_inside, go_on = threading.Event(), threading.Event()

    class Raw(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            if threading.current_thread() in platform_threads:
                is_inside.set()
                go_on.wait()
                if ending == "error":
                    raise OSError("no")
            buffer[:1] = b"x"
            return 1

    file = io.BufferedReader(Raw())
    platform_threads = []

    def read():
        platform_threads.append(threading.current_thread())
        return file.read(1)

    call = PlatformCall(read)
    is_inside.wait()
    with ThreadGroup() as group:
        waiters = [group.spawn(file.read, 1) for _ in range(3)]
        wait_until(lambda: all(map(waits_for_a_turn, waiters)))
        go_on.set()
    assert [waiter.result() for waiter in waiters] == [b"x"] * 3
    if ending == "error":
        with pytest.raises(OSError, match="no"):
            call.result()
    else:
        assert call.result() == b"x"


def test_wait_for_a_turn_is_patient(pipe):
    """Who waits for a turn is interrupted when the grace is over, and leaves the turn to others."""
    reader, writer = pipe
    with open(reader, "rb", closefd=False) as file, ThreadGroup() as outer:
        first = outer.spawn(file.read, 1)
        wait_parked(first)
        with ThreadGroup(grace=0.1) as group:
            second = group.spawn(file.read, 1)
            wait_until(lambda: waits_for_a_turn(second))
            began = time.monotonic()
            group.cancel()
        assert second.cancelled()
        assert time.monotonic() - began >= 0.1
        os.write(writer, b"xy")
        assert first.result() == b"x"
        assert outer.spawn(file.read, 1).result() == b"y"


def test_turn_that_comes_within_the_grace(pipe):
    """A cancelled thread that gets its turn in time uses it, and hears of the cancel in there."""
    reader, writer = pipe
    with open(reader, "rb", closefd=False) as file, ThreadGroup() as group:
        first = group.spawn(file.read, 1)
        wait_parked(first)
        second = group.spawn(file.read, 1)
        wait_until(lambda: waits_for_a_turn(second))
        second.cancel()
        os.write(writer, b"xy")
        wait_until(second.done)
        assert first.result() == b"x"
        assert second.result() == b"y" if not second.cancelled() else file.read(1) == b"y"


def test_reentrant_call():
    """A raw file that calls its buffer gets CPython's error, on virtual and platform threads, in scopes and out of them."""

    class Raw(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            return file.readinto(buffer)

    file = io.BufferedReader(Raw())
    expected = described(file.read, 1)
    assert expected[1] == "RuntimeError"
    assert on_virtual(described, file.read, 1) == expected
    with ThreadGroup():
        assert described(file.read, 1) == expected


def test_turns_one_inside_the_other(pipe):
    """A file whose raw file reads another one: a thread has turns at both, and others come to either meanwhile."""
    reader, writer = pipe

    class Raw(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:1] = inner.read(1)
            return 1

    with open(reader, "rb", closefd=False) as inner, ThreadGroup() as group:
        outer = io.BufferedReader(Raw())
        first = group.spawn(outer.read, 1)
        wait_parked(first)
        assert first.waits_for is WaitReason.READABLE
        others = [group.spawn(file.read, 1) for file in (inner, outer, inner, outer)]
        wait_until(lambda: all(map(waits_for_a_turn, others)))
        os.write(writer, b"abcde")
        found = [first.result(), *(other.result() for other in others)]
    assert found[0] == b"a"
    assert sorted(found) == [b"a", b"b", b"c", b"d", b"e"]


def test_many_turns_at_a_time():
    """Thousands of threads are inside files of their own, each in a call within a call, and come out in any order."""
    threads = 3_000
    gates = [threading.Event() for _ in range(threads)]
    written = []

    class Raw(io.RawIOBase):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def writable(self):
            return True

        def write(self, data):
            gates[self.number].wait()
            written.append(self.number)
            return len(data)

    def work(number):
        file = io.BufferedWriter(Raw(number), 8)
        file.write(b"x")
        file.close()  # which flushes: the same thread, the same turn
        return file.closed

    with ThreadGroup() as group:
        children = [group.spawn(work, number) for number in range(threads)]
        for child in children:
            wait_parked(child)
        for step in (3, 1, 2, 0):
            for gate in gates[step::4]:
                gate.set()
    assert all(child.result() for child in children)
    assert sorted(written) == list(range(threads))


def test_parks_are_counted(pipe):
    """The waits inside a file count for the leaf that was called, and so do those for a turn."""
    reader, writer = pipe

    def count():
        return status()["io.BufferedReader.read1"].parks

    with open(reader, "rb", closefd=False) as file, ThreadGroup() as group:
        before = count()
        first = group.spawn(file.read1, 1)
        wait_parked(first)
        second = group.spawn(file.read1, 1)
        wait_until(lambda: waits_for_a_turn(second))
        os.write(writer, b"xy")
        assert {first.result(), second.result()} == {b"x", b"y"}
        assert count() >= before + 2


def test_close_waits_for_its_turn(pipe):
    """A file that somebody reads is closed when that read is over, as ever."""
    reader, writer = pipe
    file = open(reader, "rb", closefd=False)
    with ThreadGroup() as group:
        first = group.spawn(file.read, 1)
        wait_parked(first)
        closer = group.spawn(file.close)
        wait_until(lambda: waits_for_a_turn(closer))
        os.write(writer, b"x")
    assert first.result() == b"x"
    assert file.closed


def test_child_process_may_use_what_was_in_use():
    """After fork the child writes to the file at which a virtual thread of the parent had its turn."""
    code = """
        import os, warnings
        from plait import ThreadGroup

        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() with threads
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, bytes(4096))
        except BlockingIOError:
            os.set_blocking(writer, True)
        file = open(writer, "wb")

        def write():
            file.write(b"parent")
            file.flush()

        with ThreadGroup() as group:
            child = group.spawn(write)
            while not child.is_waiting() or child.waits_for is None:
                pass
            pid = os.fork()
            if not pid:
                os.read(reader, 65536)
                file.write(b"child")
                file.flush()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            os.read(reader, 65536)
        print("done")
    """
    assert run_python(code) == "done\n"


# ---- cancels ----


def test_cancel_in_the_middle_of_a_flush(pipe):
    """A flush that is cancelled keeps what it has not written; the next one writes that, and nothing twice."""
    reader, writer = pipe
    full = fill_pipe(writer)
    data = os.urandom(200_000)
    file = open(writer, "wb", buffering=1 << 20, closefd=False)
    file.write(data)
    with ThreadGroup() as group:
        flusher = group.spawn(file.flush)
        wait_parked(flusher)
        got = 0
        while got < full + 50_000:  # some of it has gone through
            got += len(os.read(reader, 4096))
        wait_parked(flusher)
        group.cancel()
    assert flusher.cancelled()
    left = got - full
    rest = drain(reader)
    with ThreadGroup() as group:
        group.spawn(file.flush)
    file.close()
    os.close(writer)
    assert rest.result() == data[left:]


def test_cancel_before_a_write_leaves_the_buffer(tmp_path):
    """A write that raises Cancelled has not taken anything, and what was in the buffer before is written later."""
    with open(tmp_path / "file", "wb", buffering=100) as file:

        def work():
            file.write(b"a" * 80)
            group.cancel()
            file.write(b"b" * 80)

        with ThreadGroup() as group:
            child = group.spawn(work)
        assert child.cancelled()
    assert (tmp_path / "file").read_bytes() == b"a" * 80


def test_close_is_no_cancel_point(tmp_path):
    """A thread that has been cancelled closes its file, and everything is in it; the cancel comes at the next point."""
    path = tmp_path / "file"
    reached = []

    def work():
        file = open(path, "wb")
        file.write(b"everything")
        group.cancel()
        file.close()
        reached.append(path.exists())
        checkpoint()
        reached.append("not this")

    with ThreadGroup() as group:
        child = group.spawn(work)
    assert child.cancelled()
    assert reached == [True]
    assert path.read_bytes() == b"everything"


def test_close_that_is_cancelled_while_it_flushes(pipe):
    """A cancel that comes while `close` writes is kept until it has written, within the grace."""
    reader, writer = pipe
    full = fill_pipe(writer)
    reached = []

    def work():
        file = open(writer, "wb")
        file.write(b"everything")
        file.close()
        reached.append(file.closed)
        checkpoint()
        reached.append("not this")

    with ThreadGroup() as group:
        child = group.spawn(work)
        wait_parked(child)
        parks = child.park_count
        child.cancel()
        wait_until(lambda: child.park_count > parks and is_parked(child))
        call = drain(reader)
    assert child.cancelled()
    assert reached == [True]
    assert call.result()[full:] == b"everything"


def test_close_that_nobody_reads_is_given_up(pipe):
    """When the grace is over the file is closed all the same, and `close` raises Cancelled."""
    _reader, writer = pipe
    fill_pipe(writer)
    seen = []

    def work():
        file = open(writer, "wb")
        file.write(b"everything")
        try:
            file.close()
        except Cancelled:
            seen.append(file.closed)
            raise

    with ThreadGroup(grace=0.05) as group:
        child = group.spawn(work)
        wait_parked(child)
        group.cancel()
    assert child.cancelled()
    assert seen == [True]


def test_file_that_is_dropped_is_flushed(pipe):
    """The last reference goes on a virtual thread: what is in the buffer is written, and the thread parks for that."""
    reader, writer = pipe
    full = fill_pipe(writer)

    def work():
        file = open(writer, "wb", closefd=False)
        file.write(b"everything")
        return weakref.ref(file)

    with ThreadGroup() as group:
        child = group.spawn(work)
        wait_parked(child)
        call = drain(reader)
        assert child.result()() is None
    os.close(writer)
    assert call.result()[full:] == b"everything"


# ---- as ever ----


class Line(io.BufferedReader):
    """A subclass that overrides what iteration calls by name."""

    def readline(self, size=-1):
        return super().readline(size).upper()


def test_iteration_of_subclasses_and_by_hand(tmp_path):
    """Iteration calls an overridden `readline`; `__next__` and the end are as ever."""
    (tmp_path / "file").write_bytes(b"one\ntwo\n")

    def lines(make):
        with make(open(tmp_path / "file", "rb", buffering=0)) as file:
            first = file.__next__()
            return [first, *file, described(next, file), next(file, None)]

    for make in (io.BufferedReader, Line, io.BufferedRandom):
        if make is io.BufferedRandom:
            continue
        assert on_virtual(lines, make) == lines(make)
    with open(tmp_path / "file", "r+b") as file:
        assert on_virtual(list, file) == [b"one\n", b"two\n"]


@pytest.mark.parametrize(
    "call",
    [
        lambda file: file.read(b"x"),
        lambda file: file.read(-5),
        lambda file: file.readinto(b"x"),
        lambda file: file.peek("x"),
        lambda file: file.seek(-1),
        lambda file: file.seek(0, 9),
        lambda file: file.truncate(1, 2),
        lambda file: file.write("text"),
        lambda file: file.readline(1, 2),
        lambda file: file.read(wrong=1),
        lambda file: file.detach().close() or file.read(1),
        lambda file: file.close() or file.read(1),
        lambda file: file.close() or file.close(),
        lambda file: file.close() or next(file),
    ],
)
@pytest.mark.parametrize("mode", ["rb", "wb", "w+b"])
def test_wrong_calls(tmp_path, call, mode):
    """Wrong arguments, and calls on files that cannot do it or are closed, get the original's error."""
    path = tmp_path / "file"

    def attempt():
        path.write_bytes(b"one\ntwo\n")
        file = open(path, mode)
        result = described(call, file)
        with contextlib.suppress(ValueError):  # it is detached
            file.close()
        return result

    assert on_virtual(attempt) == attempt()


def test_uninitialized_object():
    """An object whose __init__ has not run refuses everything, as ever."""
    file = io.BufferedReader.__new__(io.BufferedReader)
    for name in ("read", "close", "readline", "peek"):
        method = getattr(file, name)
        assert on_virtual(described, method) == described(method)


def test_handlers_made_before(caplog):
    """Logging on virtual threads is as ever."""
    with caplog.at_level(logging.INFO):
        on_virtual(logging.getLogger("x").info, "hello")
    assert caplog.messages == ["hello"]


@pytest.mark.parametrize("again", ["", "plait.patch.uninstall(), plait.patch.install()"])
def test_kernel_thread_that_is_inside_since_before(again):
    """Nobody has counted it in, and it tells nobody when it comes out: who waits for a turn looks, and parks."""
    code = f"""
        import os, threading, time, plait
        from plait._native import gate_owner
        plait.patch.uninstall()
        reader, writer = os.pipe()
        file = open(reader, "rb")
        stranger = threading.Thread(target=file.readline)
        stranger.start()
        while not gate_owner(file):
            time.sleep(0.001)
        plait.patch.install()
        {again}
        with plait.ThreadGroup() as group:
            children = [group.spawn(file.readline), group.spawn(lambda: next(file)), group.spawn(file.readline)]
            group.spawn(time.sleep, 0).result()  # on the same carrier
            while not all(child.waits_for and child.is_waiting() for child in children):
                time.sleep(0.001)
            assert gate_owner(file)
            with plait.ThreadGroup(grace=0.01) as inner:
                given_up = inner.spawn(file.readline)
                while not (given_up.waits_for and given_up.is_waiting()):
                    time.sleep(0.001)
                inner.cancel()
            assert given_up.cancelled()
            os.write(writer, b"1\\n2\\n3\\n4\\n")
        stranger.join()
        print(sorted(child.result() for child in children))
    """
    assert run_python(code) == "[b'2\\n', b'3\\n', b'4\\n']\n"
