"""io.FileIO, open() and the rarer calls of os: raw files of every kind, on virtual threads as on others."""

import errno
import fcntl
import io
import os
import pty
import socket
import stat
import termios
import threading
import time
import tty
import warnings
from itertools import chain

import pytest
from patch.helpers import (
    PlatformCall,
    described,
    drain,
    fill,
    fill_pipe,
    is_parked,
    on_virtual,
    outcome,
    run_python,
    tcp_pair,
    wait_parked,
    wait_until,
)
from support import descriptors

import plait
from plait import Cancelled, ThreadGroup, checkpoint
from plait._core import WaitReason, current_thread, runtime
from plait._native import cooperative
from plait.patch import _blocks, _descriptors, _files, _opening

DATA = bytes(range(256)) * 4096


@pytest.fixture
def path(tmp_path):
    """A file of a megabyte."""
    (tmp_path / "file").write_bytes(DATA)
    return tmp_path / "file"


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


@pytest.fixture(params=["cached", "not cached", "in part", "unknown"])
def cache(request, monkeypatch):
    """As with a file that is in the page cache, is not, is in part, and on a file system that cannot tell."""
    read, read_into = _descriptors.read_nowait, _descriptors.read_into_nowait

    def is_regular(fd):
        return stat.S_ISREG(os.fstat(fd).st_mode)

    if request.param == "not cached":
        for module in (_descriptors, _blocks):
            monkeypatch.setattr(
                module,
                "read_nowait",
                lambda fd, size, offset=-1, is_polled=False: None if is_regular(fd) else read(fd, size, offset),
            )
        monkeypatch.setattr(
            _descriptors, "read_into_nowait", lambda fd, buffer, start=0, offset=-1, is_polled=False: None
        )
    elif request.param == "unknown":
        for module in (_descriptors, _blocks):
            monkeypatch.setattr(module, "read_nowait", lambda fd, size, offset=-1, is_polled=False: NotImplemented)
            monkeypatch.setattr(module, "write_nowait", lambda fd, data, start=0, offset=-1: NotImplemented)
            monkeypatch.setattr(module, "write_waits", lambda fd, size: True)
        monkeypatch.setattr(
            _descriptors, "read_into_nowait", lambda fd, buffer, start=0, offset=-1, is_polled=False: NotImplemented
        )
    elif request.param == "in part":
        for module in (_descriptors, _blocks):
            monkeypatch.setattr(
                module, "read_nowait", lambda fd, size, offset=-1, is_polled=False: read(fd, min(size, 1000), offset)
            )
        monkeypatch.setattr(
            _descriptors,
            "read_into_nowait",
            lambda fd, buffer, start=0, offset=-1, is_polled=False: read_into(
                fd, memoryview(buffer)[:1000], start, offset
            ),
        )
    return request.param


# ---- regular files ----


def test_regular_file_is_read_in_full(path, cache):
    """However little of it is in the page cache, a read of a regular file is as long as it would be in C."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(5000)

        def body():
            got = [file.read(3000), file.readinto(buffer), bytes(buffer), os.read(file.fileno(), 4000)]
            if cache == "in part":  # two looks, and the rest on a worker
                rest = b"".join(iter(lambda: file.read(1 << 20), b""))
            else:
                rest = file.readall()
            return [*got, rest, file.read(), file.read(5), file.readall()]

        first, number, second, third, rest, *end = on_virtual(body)
    assert len(first) == 3000 or cache == "in part"
    assert number == 5000 or cache == "in part"
    second = second[:number]
    assert first + second + third + rest == DATA
    assert end == [b"", b"", b""]


def test_whole_file_by_way_of_buffers_and_text(path, cache):
    """`open(path).read()` in its forms."""
    assert on_virtual(path.read_bytes) == DATA
    with open(path, encoding="latin-1", newline="") as file:
        assert on_virtual(file.read) == DATA.decode("latin-1")
    with open(path, "rb") as file:
        assert on_virtual(lambda: b"".join(file)) == DATA


def test_regular_file_in_non_blocking_mode(path, cache):
    """The mode means nothing to it: a read gives what it would else, whether it waits for the disk or not."""

    def body():
        with _without_waiting(path, buffering=0) as raw, _without_waiting(path) as file:
            buffer = bytearray(5000)
            got = [raw.read(5000), raw.readinto(buffer), raw.readall(), b"".join(file)]
            fd = raw.fileno()
            os.lseek(fd, 0, os.SEEK_SET)
            return [*got, os.read(fd, 1000), os.readv(fd, [buffer])]

    expected = body()
    if cache == "in part":  # two looks; only `readinto` has as many as it needs
        expected = [DATA[:2000], 5000, DATA[7000:], DATA, DATA[:1000], 2000]
    with ThreadGroup():
        assert body() == expected
    assert on_virtual(body) == expected


def _without_waiting(path, **kwargs):
    return open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK), **kwargs)


def test_write_and_truncate(tmp_path, cache):
    """Written, cut and grown, and left on the disk."""

    def body():
        with open(tmp_path / "new", "w+b", buffering=0) as file:
            assert file.write(DATA) == len(DATA)
            assert file.truncate(1000) == 1000
            file.seek(10)
            assert file.truncate() == 10
            os.ftruncate(file.fileno(), 20)
            os.posix_fallocate(file.fileno(), 0, 30)
            os.fsync(file)
            os.fdatasync(file.fileno())
            file.seek(0)
            return file.read()

    assert on_virtual(body) == DATA[:10] + bytes(20)


@pytest.mark.parametrize("cache", ["cached", "not cached", "unknown"], indirect=True)
def test_calls_at_an_offset_and_with_many_buffers(path, pipe, cache):
    """pread, pwrite, readv, writev, preadv, pwritev, copy_file_range and splice do what they do elsewhere."""
    reader, writer = pipe

    def body():
        fd = os.open(path, os.O_RDWR)
        copy = os.open(path.with_name("copy"), os.O_RDWR | os.O_CREAT)
        try:
            parts = [bytearray(3), bytearray(0), bytearray(5)]
            got = [
                os.pread(fd, 10, 5),
                os.pread(fd, 100, len(DATA) - 10),
                os.pread(fd, 10, len(DATA)),
                os.pwrite(fd, b"hello", 2),
                os.pwrite(fd, b"", 2),
                os.pwritev(fd, [b"wor", bytearray(b"ld")], 100),
                os.pwritev(fd, [b"!"], 105, os.RWF_DSYNC),
                os.pread(fd, 6, 100),
                os.preadv(fd, parts, 1),
                [*parts],
                os.preadv(fd, parts, 1, os.RWF_HIPRI),
                os.readv(fd, parts),
                [*parts],
                os.lseek(fd, 0, os.SEEK_CUR),
                os.writev(fd, [b"ab", b"", memoryview(b"cd")]),
                os.copy_file_range(fd, copy, 1000, 0),
                os.pread(copy, 2000, 0),
                os.copy_file_range(fd, copy, 10, offset_src=0, offset_dst=0),
                os.splice(fd, writer, 100, offset_src=0),
                os.read(reader, 1000),
                os.write(writer, b"x" * 50),
                os.splice(reader, copy, 100, offset_dst=0),
                os.pread(copy, 60, 0),
            ]
            os.sync()
            return [bytes(b"".join(item)) if isinstance(item, list) else item for item in got]
        finally:
            os.close(fd)
            os.close(copy)

    found = on_virtual(body)
    path.write_bytes(DATA)
    path.with_name("copy").unlink()
    assert found == body()


@pytest.mark.skipif(not hasattr(os, "readinto"), reason="from 3.14 on")
def test_readinto(path, pipe, cache):
    """It fills what it is given, as far as the file goes, and refuses what it refuses elsewhere."""
    reader, writer = pipe
    os.set_blocking(reader, False)
    buffer = bytearray(5000)

    def body():
        with open(path, "rb", buffering=0) as file:
            fd = file.fileno()
            got = [os.readinto(fd, buffer), bytes(buffer), os.readinto(fd, memoryview(buffer)[7:7]), file.tell()]
            file.seek(-10, os.SEEK_END)
            got += [os.readinto(fd, buffer), bytes(buffer[:10]), os.readinto(fd, buffer)]
            for wrong in (b"x", "x", None, memoryview(buffer)[::2]):
                got.append(described(os.readinto, fd, wrong))
            got += [described(os.readinto, fd)[:2], described(os.readinto, "x", buffer)]
            return [*got, described(os.readinto, reader, buffer), described(os.readinto, -1, buffer)]

    assert on_virtual(body) == body()


@pytest.mark.parametrize(
    "call",
    [
        lambda fd: os.pread(fd, 1, -1),
        lambda fd: os.pread(fd, -1, 1),
        lambda fd: os.pread(fd, 1),
        lambda fd: os.pwrite(fd, "text", 0),
        lambda fd: os.pwrite(fd, b"x", -1),
        lambda fd: os.readv(fd, []),
        lambda fd: os.readv(fd, [b"x"]),
        lambda fd: os.readv(fd, bytearray(5)),
        lambda fd: os.readv(fd, None),
        lambda fd: os.writev(fd, None),
        lambda fd: os.writev(fd, []),
        lambda fd: os.writev(fd, ["text"]),
        lambda fd: os.writev(fd, [b"x"] * 2000),
        lambda fd: os.preadv(fd, [bytearray(1)], -1),
        lambda fd: os.preadv(fd, [bytearray(1)], 0, 1 << 20),
        lambda fd: (os.pwritev(fd, [b"x", b"y"], -1), os.lseek(fd, 0, os.SEEK_CUR)),
        lambda fd: (os.preadv(fd, [bytearray(9)], -1), os.lseek(fd, 0, os.SEEK_CUR)),
        lambda fd: os.pwritev(fd, [b"x"], -2),
        lambda fd: os.pwritev(fd, [b"x"], 0, 1 << 20),
        lambda fd: os.pread(-1, 1, 0),
        lambda fd: os.fsync(-1),
        lambda fd: os.fsync("x"),
        lambda fd: os.fsync(False),
        lambda fd: os.fsync(),
        lambda fd: os.ftruncate(fd, -1),
        lambda fd: os.splice(fd, fd, 10),
        lambda fd: os.splice(fd, "x", 10),
        lambda fd: os.copy_file_range(fd, -1, 10),
        lambda fd: os.copy_file_range(-1, -1),
        lambda fd: os.copy_file_range(-1, fd, "x"),
        lambda fd: io.FileIO(fd, "w", closefd=False).read(1),
        lambda fd: io.FileIO(fd, "r", closefd=False).write(b"x"),
        lambda fd: io.FileIO(fd, "r", closefd=False).truncate(5),
        lambda fd: io.FileIO(fd, "r+", closefd=False).truncate(-5),
        lambda fd: io.FileIO(fd, "r+", closefd=False).truncate("x"),
        lambda fd: io.FileIO(fd, "r+", closefd=False).write("x"),
        lambda fd: io.FileIO(fd, "r+", closefd=False).readinto(b"x"),
        lambda fd: io.FileIO(fd, "r+", closefd=False).readinto("x"),
        lambda fd: io.FileIO(fd, "r+", closefd=False).read("x"),
        lambda fd: io.FileIO(fd, "r+", closefd=False).read(2**70),
        lambda fd: io.FileIO(fd, "r+", closefd=False).read(-(2**70)),
        lambda fd: io.FileIO(fd, "r+", closefd=False).read(None)[:5],
        lambda fd: io.FileIO.close,
        lambda fd: open("/nowhere/at/all"),
        lambda fd: open("/"),
        lambda fd: os.open(10**30, os.O_RDONLY),
        lambda fd: os.open("x", os.O_RDONLY, dir_fd=10**30),
        lambda fd: open("a\0b"),
        lambda fd: io.FileIO(),
        lambda fd: io.FileIO(fd, "q"),
        lambda fd: io.FileIO("/dev/null", closefd=False),
        lambda fd: os.open("/nowhere/at/all", os.O_RDONLY),
        lambda fd: os.open("/dev/null", "x"),
        lambda fd: os.open(None, 0),
        lambda fd: os.open in os.supports_dir_fd,
        lambda fd: os.ftruncate(io.FileIO(fd, closefd=False), 0),
        lambda fd: os.posix_fallocate(io.FileIO(fd, closefd=False), 0, 1),
        lambda fd: os.fsync(io.FileIO(fd, closefd=False)),
        lambda fd: os.splice(fd, fd, 1, flags=1.5),
    ],
)
def test_wrong_calls(path, call):
    """Wrong arguments get the original's error, if not always its every word."""

    def attempt():
        fd = os.open(path, os.O_RDWR)
        try:
            return described(call, fd)
        finally:
            os.close(fd)

    got, expected = on_virtual(attempt), attempt()
    if expected[1] in {"TypeError", "ValueError"}:
        got, expected = got[:2], expected[:2]
    assert got == expected


def test_a_warning_names_the_line_that_opens():
    """`FileIO` of a bool, of which CPython warns from 3.13 on, warns of the line that it would name on any thread."""

    def warned():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            io.FileIO(False, closefd=False).close()
        return [(warning.filename, warning.lineno) for warning in caught]

    assert on_virtual(warned) == warned()


def test_file_in_non_blocking_mode(pipe):
    """Raw files over descriptors in non-blocking mode give None, as ever."""
    reader, writer = pipe
    for fd in pipe:
        os.set_blocking(fd, False)
    with open(reader, "rb", buffering=0, closefd=False) as near, open(writer, "wb", buffering=0, closefd=False) as far:

        def body():
            return [
                near.read(1),
                near.readinto(bytearray(1)),
                near.readall(),
                far.write(bytes(1 << 20)),
                far.write(b"x"),
            ]

        got = on_virtual(body)
        os.read(reader, 1 << 20)
        assert got == body()
        assert got[:3] == [None] * 3


def test_closed_file():
    """A raw file that is closed says so."""
    file = open(os.devnull, "r+b", buffering=0)
    file.close()
    for name, arguments in {
        "read": (1,),
        "readall": (),
        "readinto": (bytearray(1),),
        "write": (b"x",),
        "truncate": (),
    }.items():
        method = getattr(file, name)
        assert on_virtual(described, method, *arguments) == described(method, *arguments)


# ---- calls on a worker ----


def test_call_that_hangs_does_not_keep_a_cancelled_thread(path, monkeypatch):
    """A read that never comes back is abandoned; it goes on with a descriptor of its own, and takes nobody's data."""
    go_on = threading.Event()
    read_on = []

    def hang(fd, length):
        read_on.append(os.fstat(fd).st_ino)
        go_on.wait()
        return os.read(fd, length)

    monkeypatch.setattr(_descriptors, "read_nowait", lambda fd, size, offset=-1, is_polled=False: None)
    monkeypatch.setattr(_descriptors._originals, "os_read", hang)
    before = descriptors()
    fd = os.open(path, os.O_RDONLY)
    abandoned = runtime.offload.counts().abandoned if runtime.is_started else 0
    with ThreadGroup() as group:
        child = group.spawn(os.read, fd, 10)
        wait_until(lambda: read_on and is_parked(child))
        began = time.monotonic()
        group.cancel()
    assert time.monotonic() - began < 1
    assert child.cancelled()
    assert runtime.offload.counts().abandoned == abandoned + 1
    os.close(fd)
    go_on.set()
    wait_until(lambda: runtime.offload.counts().abandoned == abandoned)
    assert read_on == [path.stat().st_ino]
    wait_until(lambda: descriptors() == before)


def test_writers_to_terminals_leave_the_workers_to_others():
    """The master side of a terminal that nobody reads is waited for on workers that do not count."""

    def busy():
        counts = runtime.offload.counts()
        return counts.workers - counts.idle

    pairs = [pty.openpty() for _ in range(3)]
    try:
        for _, slave in pairs:
            tty.setraw(slave)
        with ThreadGroup() as group:
            writers = [group.spawn(os.write, master, bytes(1 << 18)) for master, _ in pairs]
            wait_parked(*writers)
            wait_until(lambda: not busy())
            group.cancel()
        assert all(writer.cancelled() for writer in writers)
    finally:

        def flush():
            for _, slave in pairs:
                termios.tcflush(slave, termios.TCIOFLUSH)

        wait_until(lambda: flush() or not runtime.offload.counts().abandoned)
        for fd in chain(*pairs):
            os.close(fd)


# ---- splice ----


@pytest.mark.parametrize("end", ["file", "pipe", "flag"])
def test_splice_without_waiting_for_a_pipe(path, pipe, monkeypatch, end):
    """It may wait for the disk nevertheless, and does so on a worker. The mode of the file means nothing."""
    seen = []
    splice = _blocks._splice

    def watched(*args, **kwargs):
        seen.append(cooperative())
        return splice(*args, **kwargs)

    monkeypatch.setattr(_blocks, "_splice", watched)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.set_blocking({"file": fd, "pipe": pipe[1], "flag": fd}[end], False)
        flags = os.SPLICE_F_NONBLOCK if end == "flag" else 0
        assert on_virtual(os.splice, fd, pipe[1], 100, offset_src=5, flags=flags) == 100
        assert seen == [None]
        if end == "file":
            return
        room = fill_pipe(pipe[1])
        assert room > 0
        os.set_blocking(pipe[1], end == "flag")
        assert on_virtual(described, os.splice, fd, pipe[1], 100, flags=flags)[1] == "BlockingIOError"
    finally:
        os.close(fd)


@pytest.mark.parametrize("make", [socket.socketpair, tcp_pair], ids=["unix", "tcp"])
def test_splice_into_a_full_socket(make):
    """It parks until there is room, and the socket stays in blocking mode."""
    near, far = make()
    reader, writer = os.pipe()
    with near, far:
        os.write(writer, b"spliced")
        filled = fill(near)
        with ThreadGroup() as group:
            child = group.spawn(os.splice, reader, near.fileno(), 7)
            wait_parked(child)
            drain(far, until=child.done)
            assert os.get_blocking(near.fileno())
        assert child.result() == 7
        assert filled
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("make", [socket.socketpair, tcp_pair], ids=["unix", "tcp"])
def test_splice_of_more_than_a_socket_takes(make):
    """It moves what there is room for."""
    near, far = make()
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with near, far:
        os.write(writer, bytes(1 << 20))
        with ThreadGroup(timeout=20) as group:
            child = group.spawn(os.splice, reader, near.fileno(), 1 << 20)
        assert 0 < child.result() < 1 << 20
        near.close()
        got = 0
        while part := far.recv(1 << 16):
            got += len(part)
        assert got == child.result()
    os.close(reader)
    os.close(writer)


# ---- FIFOs ----


@pytest.fixture
def fifo(tmp_path):
    """The path of a FIFO."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_both_sides_of_a_fifo_on_virtual_threads(fifo):
    """Reader and writer wait for each other, and find each other."""

    def read():
        with open(fifo) as file:
            return file.read()

    def write():
        with open(fifo, "w") as file:
            file.write("hello")

    with ThreadGroup() as group:
        reader = group.spawn(read)
        wait_parked(reader)
        group.spawn(write)
    assert reader.result() == "hello"


@pytest.mark.parametrize("first", ["virtual", "platform"])
@pytest.mark.parametrize("mode", ["r", "w"])
def test_fifo_with_a_platform_thread(fifo, first, mode):
    """The other side may be a thread that waits in the kernel, whoever comes first, and may stay silent."""
    is_over = threading.Event()

    def theirs():
        with open(fifo, "w" if mode == "r" else "r"):
            is_over.wait()

    def ours():
        with open(fifo, mode) as file:
            assert os.get_blocking(file.fileno())
            assert stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
            return file.name

    with ThreadGroup() as group:
        call = PlatformCall(theirs) if first == "platform" else None
        child = group.spawn(ours)
        if call is None:
            wait_parked(child)
            call = PlatformCall(theirs)
        assert child.result(10) == str(fifo) or child.result() == fifo
        is_over.set()
    call.result()


class Derived(io.FileIO):
    """With an `__init__` of its own, by way of which others come to ours."""

    def __init__(self, path):
        super().__init__(path)


def test_classes_made_of_fileio_before_it_was_patched(fifo):
    """They wait as it does, however they are derived; and no more once the originals are back."""
    plait.patch.uninstall()
    try:

        class Early(io.FileIO):
            pass

        class Mixed(Derived, Early):
            __init__ = Early.__init__

        class Later(Mixed):
            pass

    finally:
        plait.patch.install()
    for cls in (Early, Mixed, Later, Derived):
        with ThreadGroup() as group:
            reader = group.spawn(lambda cls=cls: cls(fifo).close())
            wait_parked(reader)
            os.close(os.open(fifo, os.O_WRONLY))
    plait.patch.uninstall()
    try:
        with ThreadGroup() as group:
            group.cancel()
            for cls in (Early, Mixed, Later, Derived):
                cls(os.devnull).close()  # no cancel point
    finally:
        plait.patch.install()


def test_writer_that_has_come_and_gone(fifo):
    """A reader whose writer wrote and left before it looked reads that, and the end."""

    def read():
        with open(fifo, "rb") as file:
            return file.read()

    with ThreadGroup() as group:
        child = group.spawn(read)
        wait_parked(child)
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.close(fd)
    assert child.result() == b""


@pytest.mark.parametrize("mode", ["rb", "wb"])
@pytest.mark.parametrize("call", ["open", "os.open", "FileIO"])
def test_cancelled_open_leaves_nothing(fifo, mode, call):
    """Who is cancelled while it waits for the other side has no descriptor, and is no reader or writer any more."""
    flags = os.O_RDONLY if mode == "rb" else os.O_WRONLY
    wait = {
        "open": lambda: open(fifo, mode),
        "os.open": lambda: os.open(fifo, flags),
        "FileIO": lambda: io.FileIO(fifo, mode),
    }[call]
    before = descriptors()
    with ThreadGroup() as group:
        child = group.spawn(wait)
        wait_parked(child)
        group.cancel()
    assert child.cancelled()
    assert {fd: what for fd, what in descriptors().items() if "fifo" in what} == {}
    assert before == {fd: what for fd, what in descriptors().items() if fd in before}
    with pytest.raises(OSError) as caught:
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.ENXIO


@pytest.mark.parametrize("call", ["open", "os.open", "FileIO"])
@pytest.mark.parametrize("where", ["virtual", "platform"])
def test_cancel_of_an_open_that_is_complete(fifo, monkeypatch, call, where):
    """A writer has opened the FIFO, which the reader has not seen yet: it gets its file, and the cancel later."""
    monkeypatch.setattr(_opening, "_FIRST_PAUSE", 3600)
    monkeypatch.setattr(_opening, "_LONGEST_PAUSE", 3600)
    wait = {
        "open": lambda: open(fifo, "rb"),
        "os.open": lambda: os.fdopen(os.open(fifo, os.O_RDONLY), "rb"),
        "FileIO": lambda: io.FileIO(fifo),
    }[call]
    opened, seen = [], []

    def body():
        with ThreadGroup() as group:
            seen.append((group, current_thread()))
            opened.append(wait())
            checkpoint()

    with ThreadGroup() as outer:
        reader = outer.spawn(body) if where == "virtual" else PlatformCall(body)
        wait_until(lambda: seen and is_parked(seen[0][1]))
        writer = os.open(fifo, os.O_WRONLY)
        seen[0][0].cancel()
        if where == "virtual":
            wait_until(reader.done)
        else:
            reader.result()
    (file,) = opened
    with file:
        assert os.get_blocking(file.fileno())
        assert os.write(writer, b"hello") == 5
        assert os.read(file.fileno(), 9) == b"hello"
        os.close(writer)


def test_open_that_does_not_wait(fifo):
    """O_NONBLOCK and O_RDWR mean what they mean; so does an opener."""

    def body():
        fds = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), os.open(fifo, os.O_RDWR)]
        with open(fifo, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            modes = [os.get_blocking(fd) for fd in (*fds, file.fileno())]
        with open(fds[0], "rb"), open(fds[1], "rb"):
            return modes

    assert on_virtual(body) == [False, True, False]


def test_attributes_of_a_file_opened_on_a_virtual_thread(path):
    """Name, mode, inheritance, and the permissions of what is made are as ever."""

    def body(new):
        found = []
        for name, mode in ((path, "rb"), (str(path), "r+"), (os.fsencode(path), "ab"), (new, "xb")):
            with open(name, mode) as file:
                fd = file.fileno()
                found.append((file.name, file.mode, os.get_inheritable(fd), stat.S_IMODE(os.fstat(fd).st_mode)))
        new.unlink()
        return found

    new = path.with_name("new")
    assert on_virtual(body, new) == body(new)


# ---- on the way of a cancel ----


def test_partial_write_counts(pipe):
    """A raw write that is cancelled half-way says how much it has written."""
    reader, writer = pipe
    full = fill_pipe(writer)
    written = []
    with open(writer, "wb", buffering=0, closefd=False) as file, ThreadGroup() as group:
        child = group.spawn(lambda: written.append(file.write(bytes(1 << 20))))
        wait_parked(child)
        got = 0
        while got < full + 5000:
            got += len(os.read(reader, 4096))
        wait_until(lambda: is_parked(child) and child.waits_for is WaitReason.WRITABLE)
        child.cancel()
        wait_until(child.done)
    os.close(writer)
    assert 0 < written[0] < 1 << 20
    while part := os.read(reader, 1 << 16):
        got += len(part)
    assert got - full == written[0]


@pytest.mark.parametrize("call", [lambda file: file.read(), lambda file: file.readall()], ids=["read", "readall"])
def test_cancelled_read_of_a_whole_file_leaves_it_where_it_was(path, monkeypatch, call):
    """The parts that it had are not lost: the next read gives them again."""
    parts = 0

    def read_some(me, fd, length):
        nonlocal parts
        if parts == 3:
            group.cancel()
        parts += 1
        return original(me, fd, min(length, 1000))

    original = _files.read_some
    monkeypatch.setattr(_files, "read_some", read_some)
    with open(path, "rb", buffering=0) as file:
        file.seek(10)
        with ThreadGroup() as group:
            child = group.spawn(call, file)
            wait_until(child.done)
        assert child.cancelled()
        assert parts == 4
        assert file.tell() == 10


def test_cancel_point_on_entry(path):
    """A thread that reads and writes what never waits hears of its cancel."""

    def work(call):
        group.cancel()
        try:
            return outcome(call)
        except Cancelled:
            return "cancelled"

    with open(path, "r+b", buffering=0) as file:
        fd = file.fileno()
        for call in (
            lambda: file.read(1),
            file.readall,
            lambda: file.readinto(bytearray(1)),
            lambda: file.write(b"x"),
            lambda: file.truncate(5),
            lambda: os.pread(fd, 1, 0),
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.fsync(fd),
            lambda: open(path, "rb").close(),
        ):
            with ThreadGroup() as group:
                child = group.spawn(work, call)
                wait_until(child.done)
            assert child.cancelled() or child.result() == "cancelled"


def test_file_that_was_opened_elsewhere_and_before():
    """Files made before plait are gated and park, too; originals come back with `uninstall`."""
    code = """
        import io, os, sys
        reader, writer = os.pipe()
        file = open(reader, "rb")
        next_line = file.__next__
        import plait
        plait.patch.install()
        with plait.ThreadGroup() as group:
            one, two = group.spawn(next_line), group.spawn(lambda: next(file))
            os.write(writer, b"a\\nb\\n")
        print(sorted([one.result(), two.result()]))
        plait.patch.uninstall()
        os.write(writer, b"c\\n")
        print(next(file), open in (open, io.open), os.open in os.supports_dir_fd)
    """
    assert run_python(code) == "[b'a\\n', b'b\\n']\nb'c\\n' True True\n"


def test_open_of_what_is_no_fifo_is_as_ever(tmp_path):
    """Errors name what was given, be it an object of whatever class; an audit hook hears of one `open`."""
    code = """
        import io, os, sys, plait
        from plait import ThreadGroup

        class Path:
            def __fspath__(self):
                return "/nowhere/at all"

        heard = []
        def hook(event, args):
            if event == "open" and args[0] == os.devnull:
                heard.append(args[1])

        def named(path):
            try:
                io.FileIO(path)
            except OSError as error:
                return error.filename

        def body():
            path = Path()
            with open(os.devnull, "rb"):
                return named(path) is path, named(b"/nowhere")

        print(body())
        sys.addaudithook(hook)
        with ThreadGroup() as group:
            child = group.spawn(body)
        print(child.result(), heard)
    """
    assert run_python(code) == "(True, b'/nowhere')\n(True, b'/nowhere') ['r']\n"
