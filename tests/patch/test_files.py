"""os.read and os.write: pipes, FIFOs, terminals, sockets park; regular files are read as ever."""

import os
import select
import socket
import threading
import time

import pytest
from patch.helpers import PlatformCall, described, fill_pipe, is_parked, on_virtual, wait_parked, wait_until

from plait import ThreadGroup, _originals
from plait._core import WaitReason
from plait._native import cooperative
from plait.patch import _descriptors


@pytest.fixture
def pipe():
    """The two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


@pytest.fixture(params=["kernel", "old kernel"])
def kernel(request, monkeypatch):
    """With what this kernel can do, and as on one that cannot tell of pipes whether a call would wait (before 6.4)."""
    if request.param == "old kernel":
        monkeypatch.setattr(_descriptors, "read_nowait", lambda fd, size, offset=-1, is_polled=False: NotImplemented)
        monkeypatch.setattr(_descriptors, "write_nowait", lambda fd, data, start=0: NotImplemented)
    return request.param


def test_read_waits(pipe, kernel):
    """A read from an empty pipe parks until there is something, and gives what is there."""
    reader, writer = pipe
    with ThreadGroup() as group:
        future = group.spawn(os.read, reader, 100)
        wait_parked(future)
        os.write(writer, b"hello")
    assert future.result() == b"hello"


def test_read_gives_the_end(pipe, kernel):
    """What was written before the other end was closed comes first, then nothing."""
    reader, writer = pipe
    os.write(writer, b"hello")
    os.close(writer)
    assert on_virtual(lambda: [os.read(reader, 3), os.read(reader, 100), os.read(reader, 100)]) == [b"hel", b"lo", b""]


def test_end_comes_while_a_reader_is_parked(pipe, kernel):
    """Closing the other end ends a parked read."""
    reader, writer = pipe
    with ThreadGroup() as group:
        future = group.spawn(os.read, reader, 100)
        wait_parked(future)
        os.close(writer)
    assert future.result() == b""


@pytest.mark.parametrize("data", [bytes(1_000_000), memoryview(bytearray(400_000)), b"x", b""], ids=len)
def test_write_with_a_slow_reader_writes_everything(pipe, kernel, data):
    """A write to a blocking pipe returns when all of it is written, however slow the reader, and others run meanwhile."""
    reader, writer = pipe
    ticks = 0

    def tick():
        nonlocal ticks
        while not future.done():
            ticks += 1
            time.sleep(0.0005)

    with ThreadGroup() as group:
        future = group.spawn(os.write, writer, data)
        ticker = group.spawn(tick)

        def read():
            left = len(data)
            while left:
                left -= len(os.read(reader, 20_000))
                if left > 100_000 and not any(stalls) and not future.done():
                    before, limit = ticks, time.monotonic() + 2
                    while ticks == before and time.monotonic() < limit:
                        time.sleep(0.0005)
                    stalls.append(ticks == before)

        stalls = []
        PlatformCall(read).result()
        wait_until(ticker.done)
    assert future.result() == len(data)
    assert not any(stalls)


def test_writes_of_a_page_are_whole(pipe, kernel):
    """Writes of up to a page by many threads are not mixed."""
    reader, writer = pipe
    size = 4096

    def write(letter):
        for _ in range(10):
            assert os.write(writer, letter * size) == size

    def read():
        with open(reader, "rb", closefd=False) as file:
            return [file.read(size) for _ in range(80)]

    with ThreadGroup() as group:
        for letter in b"abcdefgh":
            group.spawn(write, bytes([letter]))
        call = PlatformCall(read)
    assert all(len(set(part)) == 1 for part in call.result())


def test_write_without_a_reader(pipe, kernel):
    """The other end is gone: BrokenPipeError, also for one who was parked."""
    reader, writer = pipe
    fill_pipe(writer)
    with ThreadGroup() as group:
        future = group.spawn(described, os.write, writer, b"x")
        wait_parked(future)
        os.close(reader)
    assert future.result()[1] == "BrokenPipeError"
    assert on_virtual(described, os.write, writer, b"x") == described(os.write, writer, b"x")


def test_descriptor_in_non_blocking_mode(pipe, kernel):
    """O_NONBLOCK keeps its meaning: BlockingIOError instead of waiting, and a short write."""
    reader, writer = pipe
    for fd in pipe:
        os.set_blocking(fd, False)
    assert on_virtual(described, os.read, reader, 1) == described(os.read, reader, 1)
    capacity = on_virtual(os.write, writer, bytes(1 << 20))
    assert 0 < capacity < 1 << 20
    os.set_blocking(writer, False)
    expected = described(os.write, writer, b"x")
    assert expected[1] == "BlockingIOError"
    assert on_virtual(described, os.write, writer, b"x") == expected


def test_fifo(tmp_path, kernel):
    """A FIFO parks as a pipe does."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR)
    with ThreadGroup() as group:
        future = group.spawn(os.read, fd, 10)
        wait_parked(future)
        os.write(fd, b"hello")
    assert future.result() == b"hello"
    os.close(fd)


def test_terminal(kernel):
    """A terminal parks: reads until a line is there, writes while the other side reads nothing."""
    near, far = os.openpty()
    try:
        with ThreadGroup() as group:
            future = group.spawn(os.read, far, 100)
            wait_parked(future)
            os.write(near, b"hello\n")
            assert future.result() == b"hello\n"
    finally:
        os.close(near)
        os.close(far)


def test_write_to_a_terminal_that_nobody_reads():
    """A large write to a terminal writes everything while others run."""
    import tty

    near, far = os.openpty()
    tty.setraw(far)
    size = 100_000
    try:
        with ThreadGroup() as group:
            future = group.spawn(os.write, far, bytes(size))
            wait_until(future.running)
            others = [group.spawn(int) for _ in range(4)]
            try:
                for other in others:
                    assert other.result(2) == 0
            finally:

                def read():
                    left = size
                    while left:
                        left -= len(os.read(near, 4096))

                PlatformCall(read).result()
        assert future.result() == size
    finally:
        os.close(near)
        os.close(far)


def test_write_to_the_master_of_a_terminal(kernel):
    """The master side, which cannot be opened again, is written whole, too."""
    import tty

    near, far = os.openpty()
    tty.setraw(far)
    try:
        with ThreadGroup() as group:
            future = group.spawn(os.write, near, bytes(60_000))
            got = 0
            while got < 60_000:
                got += len(os.read(far, 4096))
        assert future.result() == 60_000
    finally:
        os.close(near)
        os.close(far)


@pytest.mark.parametrize("make", [os.pipe, os.openpty, socket.socketpair])
def test_cancelled_write_says_how_much(kernel, make):
    """A write that is cancelled half-way returns what was written, and leaves the descriptor's mode alone."""
    ends = make()
    reader, writer = (end if isinstance(end, int) else end.detach() for end in ends)
    if make is os.openpty:
        import tty

        tty.setraw(writer)
    written = []
    try:
        with ThreadGroup() as group:
            future = group.spawn(lambda: written.append(os.write(writer, bytes(3_000_000))))
            wait_parked(future)
            assert os.get_blocking(writer)
            group.cancel()
        assert 0 < written[0] < 3_000_000
        left = written[0]
        while left:
            left -= len(os.read(reader, left))
        os.set_blocking(reader, False)
        assert described(os.read, reader, 1)[1] == "BlockingIOError"
    finally:
        os.close(reader)
        os.close(writer)


# ---- sendfile ----


@pytest.fixture
def file(tmp_path):
    """A file of a megabyte, open for reading."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4096)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def _read_up_to(fd, size):
    parts = []
    while size and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


@pytest.mark.parametrize("kind", ["socket", "pipe"])
@pytest.mark.parametrize(
    ("offset", "count"), [(0, 1 << 20), (5, 1000), (None, 300_000), (None, 1 << 30), (1 << 20, 5), (1 << 19, 1 << 30)]
)
def test_sendfile_sends_what_was_asked_for(file, kernel, kind, offset, count):
    """All of it, from the offset or the file's position, which then moves on; the rest of the file where it ends."""
    os.lseek(file, 7, os.SEEK_SET)
    start = 7 if offset is None else offset
    expected = (bytes(range(256)) * 4096)[start : start + count]
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    try:
        with ThreadGroup() as group:
            sender = group.spawn(os.sendfile, writer, file, offset, count=count)
            assert _read_up_to(reader, len(expected)) == expected
        assert sender.result() == len(expected)
        assert os.lseek(file, 0, os.SEEK_CUR) == (7 if offset is not None else 7 + len(expected))
    finally:
        os.close(reader)
        os.close(writer)


def test_cancelled_sendfile_says_how_much(file, kernel):
    """What was sent before the cancel is counted, and the position says the same."""
    near, far = socket.socketpair()
    sent = []
    with near, far:
        with ThreadGroup() as group:
            future = group.spawn(lambda: sent.append(os.sendfile(near.fileno(), file, None, 1 << 20)))
            wait_until(lambda: is_parked(future) and future.waits_for is WaitReason.WRITABLE)  # not for the disk
            group.cancel()
        assert 0 < sent[0] < 1 << 20
        assert os.lseek(file, 0, os.SEEK_CUR) == sent[0]
        assert len(_read_up_to(far.fileno(), sent[0])) == sent[0]
        assert described(far.recv, 1, socket.MSG_DONTWAIT)[1] == "BlockingIOError"


def test_sendfile_between_files(file, tmp_path, pipe):
    """Into a regular file it copies; from a pipe, and with wrong arguments, it gives the original's error."""
    fd = os.open(tmp_path / "copy", os.O_RDWR | os.O_CREAT)
    try:
        assert on_virtual(os.sendfile, fd, file, 0, 1 << 20) == 1 << 20
        assert os.pread(fd, 1 << 21, 0) == bytes(range(256)) * 4096
        for arguments in [
            (pipe[1], pipe[0], 0, 1),
            (pipe[1], file, -1, 1),
            (pipe[1], file, 0, -1),
            (pipe[1], file, 0, 0),
            (-1, file, 0, 1),
            (pipe[1], -1, 0, 1),
            (pipe[1], file, "x", 1),
            ("x", file, 0, 1),
            (pipe[0], file, 0, 1),
        ]:
            assert on_virtual(described, os.sendfile, *arguments) == described(os.sendfile, *arguments), arguments
    finally:
        os.close(fd)


def test_sendfile_into_a_socket_in_non_blocking_mode(file):
    """A part is sent, then BlockingIOError, as the original has it."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        sent = on_virtual(os.sendfile, near.fileno(), file, 0, 1 << 20)
        assert 0 < sent < 1 << 20
        assert on_virtual(described, os.sendfile, near.fileno(), file, sent, 1 << 20)[1] == "BlockingIOError"


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_sendfile_in_non_blocking_mode_of_what_is_not_in_memory(file, monkeypatch, kind):
    """What it waits for is the disk: on a worker. Then it sends what there is room for."""
    readers = []
    read = _originals.os_pread

    def watched(*args):
        readers.append(cooperative())
        return read(*args)

    monkeypatch.setattr(_originals, "os_pread", watched)
    monkeypatch.setattr(_originals, "os_sendfile", None)
    monkeypatch.setattr(_descriptors, "read_nowait", lambda fd, size, offset=-1, is_polled=False: None)
    near, far = os.pipe()[::-1] if kind == "pipe" else (end.detach() for end in socket.socketpair())
    try:
        os.set_blocking(near, False)
        sent = on_virtual(os.sendfile, near, file, 5, 1 << 20)
        assert 0 < sent < 1 << 20
        assert on_virtual(described, os.sendfile, near, file, sent, 1 << 20)[1] == "BlockingIOError"
        assert on_virtual(os.sendfile, near, file, 1 << 20, 5) == 0
        assert os.pread(file, sent, 5) == _read_up_to(far, sent)
    finally:
        os.close(near)
        os.close(far)
    assert readers
    assert not any(readers)


def test_socket(kernel):
    """A socket's descriptor parks, too, beside the socket's own methods."""
    near, far = socket.socketpair()
    with near, far, ThreadGroup() as group:
        by_method = group.spawn(near.recv, 5)
        wait_parked(by_method)
        by_number = group.spawn(os.read, near.fileno(), 5)
        wait_parked(by_number)
        far.send(b"hello")
        wait_until(lambda: by_method.done() or by_number.done())
        far.send(b"world")
    assert {by_method.result(), by_number.result()} == {b"hello", b"world"}


def test_regular_file(tmp_path, kernel):
    """A regular file is read and written as ever, in the page cache or not."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    data = os.urandom(3_000_000)

    def body():
        assert os.write(fd, data) == len(data)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(fd, 0, os.SEEK_SET)
        parts = []
        while part := os.read(fd, 100_000):
            parts.append(part)
        return b"".join(parts)

    assert on_virtual(body) == data
    os.close(fd)


def test_dev_files():
    """Devices that never wait."""

    def body():
        fd = os.open("/dev/zero", os.O_RDWR)
        try:
            return os.read(fd, 10), os.write(fd, b"hello")
        finally:
            os.close(fd)

    assert on_virtual(body) == (bytes(10), 5)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (os.read, (-1, 10)),
        (os.read, (10**6, 10)),
        (os.read, ("x", 10)),
        (os.read, (0, "x")),
        (os.read, (0, -1)),
        (os.read, ()),
        *(
            (call, (fd, *arguments))
            for fd in (2**31, 2**40, 2**70, -(2**31) - 1, True, None)
            for call, *arguments in (
                (os.read, 1),
                (os.write, b"x"),
                (os.pread, 1, 0),
                (os.pwrite, b"x", 0),
                (os.readv, [bytearray(1)]),
                (os.writev, [b"x"]),
                (os.fsync,),
                (os.ftruncate, 0),
                (os.splice, 1, 1),
                (os.copy_file_range, 1, 1),
                (os.sendfile, 1, 0, 1),
            )
            if fd is not True or call in (os.fsync, os.copy_file_range)
        ),
        (os.write, (-1, b"x")),
        (os.write, ("x", b"x")),
        (os.write, (1, "text")),
        (os.write, (1, None)),
        (os.write, (1, memoryview(bytes(10))[::2])),
        (os.write, (1,)),
    ],
)
def test_wrong_arguments(call, arguments):
    """Bad descriptors and wrong arguments get the original's error."""
    got, expected = on_virtual(described, call, *arguments), described(call, *arguments)
    if expected[1] in {"TypeError", "BufferError"}:
        got, expected = got[:2], expected[:2]
    assert got == expected


@pytest.mark.parametrize("count", [0, -1, 2**63, 2**70, None])
@pytest.mark.parametrize("name", ["splice", "sendfile"])
def test_wrong_counts(pipe, tmp_path, name, count):
    """They are refused at once: nothing is waited for, and nothing is moved."""
    reader, writer = pipe
    (tmp_path / "file").write_bytes(b"x")
    with open(tmp_path / "file", "rb") as file, ThreadGroup(timeout=20):
        calls = {
            "splice": lambda: os.splice(reader, writer, count),
            "sendfile": lambda: os.sendfile(writer, file.fileno(), 0, count),
        }
        assert on_virtual(described, calls[name]) == described(calls[name])
        assert not select.select([reader], [], [], 0)[0]


def test_platform_and_virtual_threads_share_a_pipe(pipe):
    """A platform thread reads what virtual threads write."""
    reader, writer = pipe
    seen = threading.Event()

    def read():
        total = b""
        while part := os.read(reader, 100):
            total += part
            seen.set()
        return total

    call = PlatformCall(read)
    with ThreadGroup() as group:
        for letter in b"abc":
            group.spawn(os.write, writer, bytes([letter]))
    seen.wait()
    os.close(writer)
    assert sorted(call.result()) == sorted(b"abc")


def test_files_opened_in_python(pipe):
    """`subprocess`-like use: what a virtual thread reads through os.fdopen does not lose data."""
    reader, writer = pipe
    with ThreadGroup() as group:
        future = group.spawn(lambda: b"".join(iter(lambda: os.read(reader, 7), b"")))
        for _ in range(50):
            os.write(writer, b"0123456789")
        os.close(writer)
    assert future.result() == b"0123456789" * 50
