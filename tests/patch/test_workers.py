"""Files on a worker: opened with O_DIRECT, with O_DSYNC, and large writes."""

import fcntl
import io
import mmap
import os
import socket
import stat
import struct
import threading

import pytest
from patch.helpers import (
    PATIENCE,
    PlatformCall,
    described,
    on_virtual,
    run_python,
    wait_parked,
    wait_until,
)

from plait import ThreadGroup, _originals
from plait._native import cooperative, held, original, read_into_nowait, read_nowait, write_nowait
from plait.patch import _blocks, _workers

SIZE = 1 << 16


def aligned(size=SIZE, letter=b"y"):
    """Memory that begins with a page."""
    memory = mmap.mmap(-1, size)
    memory[:] = letter * size
    return memory


@pytest.fixture
def path(tmp_path):
    """A file whose file system takes O_DIRECT."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip(f"the file system of {tmp_path} does not take O_DIRECT")
    return path


def _file(fd, mode):
    return open(fd, mode, buffering=0, closefd=False)


CALLS = {
    "readv": lambda fd, buffer: os.readv(fd, [buffer, aligned(4096)]),
    "preadv": lambda fd, buffer: os.preadv(fd, [buffer[4096:]], 4096),
    "preadv with a flag": lambda fd, buffer: os.preadv(fd, [buffer], 0, os.RWF_HIPRI),
    "write": os.write,
    "pwrite": lambda fd, buffer: os.pwrite(fd, buffer, 4096),
    "writev": lambda fd, buffer: os.writev(fd, [buffer, aligned(4096)]),
    "pwritev": lambda fd, buffer: os.pwritev(fd, [buffer], SIZE),
    "pwritev with a flag": lambda fd, buffer: os.pwritev(fd, [buffer], 0, os.RWF_DSYNC),
    "FileIO.readinto": lambda fd, buffer: _file(fd, "rb").readinto(buffer),
    "FileIO.write": lambda fd, buffer: _file(fd, "r+b").write(buffer),
    "sendfile": lambda fd, buffer: _sent(fd),
}


def _sent(fd):
    reader, writer = os.pipe()
    try:
        return os.sendfile(writer, fd, 0, 4096), os.read(reader, SIZE)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("start", [0, 1], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("name", CALLS)
def test_file_opened_with_direct(path, name, start):
    """Each call does what it does elsewhere: it takes aligned memory, and refuses other."""

    def body():
        path.write_bytes(b"x" * SIZE)
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        buffer = memoryview(aligned(SIZE + 4096))[start : start + SIZE]
        try:
            done = described(CALLS[name], fd, buffer)
            return done, os.lseek(fd, 0, os.SEEK_CUR), bytes(buffer), path.read_bytes()
        finally:
            os.close(fd)

    assert on_virtual(body) == body()


@pytest.mark.parametrize("read", [os.read, lambda fd, size: os.pread(fd, size, 0)], ids=["read", "pread"])
def test_read_from_a_file_opened_with_direct(path, read):
    """The memory is the call's own: whether it is aligned is chance, here and elsewhere."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        outcome = on_virtual(described, read, fd, SIZE)
    finally:
        os.close(fd)
    assert outcome in (("returned", b"x" * SIZE), ("raised", "OSError", "[Errno 22] Invalid argument"))


@pytest.fixture
def writers(monkeypatch):
    """Who has written, of those that may park: None is a worker."""
    seen = []
    for name in ("os_write", "os_pwrite"):
        original = getattr(_originals, name)

        def write(*args, original=original):
            seen.append(cooperative())
            return original(*args)

        monkeypatch.setattr(_originals, name, write)
    monkeypatch.setattr(_workers, "_IN_MEMORY", frozenset())
    return seen


@pytest.mark.parametrize("name", ["write", "pwrite", "FileIO.write"])
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(
    ("flags", "size"),
    [(os.O_DSYNC, 10), (os.O_SYNC, 10), (os.O_DSYNC, 1 << 20), (os.O_DSYNC | os.O_NONBLOCK, 10)],
)
def test_write_that_waits_for_the_disk(tmp_path, writers, name, kind, flags, size):
    """It is left to a worker."""
    data = kind(b"z" * size)
    fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | flags)
    try:
        assert on_virtual(CALLS[name], fd, data) == size
    finally:
        os.close(fd)
    assert writers == [None]
    assert (tmp_path / "new").read_bytes().lstrip(b"\0") == data


@pytest.mark.parametrize("name", ["write", "pwrite", "FileIO.write"])
@pytest.mark.parametrize("mode", [0, os.O_NONBLOCK], ids=["blocking", "non-blocking"])
def test_large_write_where_the_kernel_cannot_tell(tmp_path, writers, monkeypatch, name, mode):
    """It is left to a worker; a small one goes to the page cache at once. The mode of a regular file means nothing."""
    for module in ("_descriptors", "_blocks"):
        monkeypatch.setattr(f"plait.patch.{module}.write_nowait", lambda *args: NotImplemented)
    fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | mode)
    try:
        assert on_virtual(CALLS[name], fd, bytes(10)) == 10
        assert writers.pop() is not None
        assert on_virtual(CALLS[name], fd, bytes(1 << 20)) == 1 << 20
        assert writers == [None]
    finally:
        os.close(fd)


@pytest.mark.parametrize("taken", [None, 10])
def test_write_in_non_blocking_mode_of_which_a_part_waits(tmp_path, writers, monkeypatch, taken):
    """What does not go into the page cache at once is written by a worker: the mode means nothing to a regular file."""
    write = original(os.write)
    monkeypatch.setattr("plait.patch._descriptors.write_nowait", lambda fd, view: taken and write(fd, view[:taken]))
    fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
    try:
        assert on_virtual(os.write, fd, bytes(range(100))) == 100
    finally:
        os.close(fd)
    assert writers == [None]
    assert (tmp_path / "new").read_bytes() == bytes(range(100))


# ---- the number that a worker uses ----

F_OFD_GETLK = 36
FLOCK = "hhqqi4x"


def is_locked(other):
    """Whether anybody has a record lock on the file behind `other`, an open file of its own."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0)
    return struct.unpack(FLOCK, fcntl.fcntl(other, F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK


def _copied(fd, other):
    os.copy_file_range(fd, other, 10, 0, 500)


def _spliced(fd, _):
    reader, writer = os.pipe()
    try:
        os.splice(fd, writer, 10)
        os.splice(reader, fd, 10)
    finally:
        os.close(reader)
        os.close(writer)


LOCKED_CALLS = {
    "os.fsync": lambda fd, _: os.fsync(fd),
    "os.fdatasync": lambda fd, _: os.fdatasync(fd),
    "os.ftruncate": lambda fd, _: os.ftruncate(fd, 100),
    "os.posix_fallocate": lambda fd, _: os.posix_fallocate(fd, 0, 100),
    "FileIO.truncate": lambda fd, _: _file(fd, "r+b").truncate(100),
    "FileIO.read": lambda fd, _: _file(fd, "rb").read(100),
    "os.read": lambda fd, _: os.read(fd, 100),
    "os.pread": lambda fd, _: os.pread(fd, 100, 0),
    "os.write": lambda fd, _: os.write(fd, bytes(1 << 20)),
    "os.pwrite": lambda fd, _: os.pwrite(fd, bytes(1 << 20), 0),
    "os.copy_file_range from it": _copied,
    "os.copy_file_range to it": lambda fd, other: _copied(other, fd),
    "os.splice": _spliced,
}


@pytest.fixture
def elsewhere(monkeypatch):
    """Nothing is in the page cache, and the kernel cannot tell of a write whether it would wait: all goes to a worker."""
    for module in ("_descriptors", "_blocks"):
        monkeypatch.setattr(f"plait.patch.{module}.write_nowait", lambda *args: NotImplemented)
        monkeypatch.setattr(f"plait.patch.{module}.read_nowait", lambda *args: None)
    monkeypatch.setattr("plait.patch._descriptors.read_into_nowait", lambda *args: None)
    monkeypatch.setattr(_workers, "_IN_MEMORY", frozenset())


@pytest.mark.parametrize("name", LOCKED_CALLS)
def test_record_locks_are_kept(tmp_path, elsewhere, name):
    """The kernel drops them with any descriptor that the process closes for the file."""
    (tmp_path / "file").write_bytes(bytes(1000))
    fd, other = (os.open(tmp_path / "file", os.O_RDWR) for _ in range(2))
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        on_virtual(LOCKED_CALLS[name], fd, other)
        assert is_locked(other)
    finally:
        os.close(fd)
        os.close(other)


class Held:
    """A call of a worker, on a file, that goes on when its caller has been cancelled: until `go_on`."""

    def __init__(self, fd):
        self.began, self.go_on = threading.Event(), threading.Event()
        self.results = []
        with ThreadGroup() as group:
            group.spawn(self._wait, fd)
            wait_until(self.began.is_set)
            group.cancel()

    def _wait(self, fd):
        _workers.on_worker(cooperative(), (fd,), self._call)

    def _call(self, fd):
        self.began.set()
        self.go_on.wait(PATIENCE)
        self.results.append(described(_originals.os_write, fd, b"late"))

    def end(self):
        """Let it come to its end; what it has found."""
        self.go_on.set()
        wait_until(lambda: self.results and not held(0, 1 << 20))
        return self.results[0]


HELD_CLOSERS = {
    "os.close": os.close,
    "os.closerange": lambda fd: os.closerange(fd, fd + 1),
    "socket.close": socket.close,
    "FileIO.close": lambda fd: io.FileIO(fd, "r+").close(),
    "buffered": lambda fd: open(fd, "r+b").close(),
}
HELD_RUNNERS = {"platform": lambda fn, fd: PlatformCall(fn, fd).result(), "virtual": on_virtual}


@pytest.mark.parametrize("runner", HELD_RUNNERS)
@pytest.mark.parametrize("closer", HELD_CLOSERS)
def test_number_is_closed_while_a_worker_uses_it(tmp_path, closer, runner):
    """The file is closed at once, with its locks; the number leads nowhere, to no other file, until the worker is done."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    other = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    call = Held(fd)
    try:
        assert is_locked(other)
        HELD_RUNNERS[runner](HELD_CLOSERS[closer], fd)
        assert not is_locked(other)
        assert described(os.read, fd, 1)[1:] == ("OSError", "[Errno 9] Bad file descriptor")
        assert described(os.close, fd)[1:] == ("OSError", "[Errno 9] Bad file descriptor")
        with open(tmp_path / "next", "wb") as another:
            assert another.fileno() != fd
            assert call.end()[1:] == ("OSError", "[Errno 9] Bad file descriptor")
        assert described(os.fstat, fd)[1] == "OSError"
        assert path.read_bytes() == b""
    finally:
        call.end()
        os.close(other)


@pytest.mark.parametrize("runner", HELD_RUNNERS)
def test_number_is_replaced_while_a_worker_uses_it(tmp_path, runner):
    """dup2() waits until the worker is done: what that writes goes to the old file."""
    fd = os.open(tmp_path / "old", os.O_RDWR | os.O_CREAT)
    new = os.open(tmp_path / "new", os.O_RDWR | os.O_CREAT)
    call = Held(fd)
    try:
        with ThreadGroup() as group:
            if runner == "virtual":
                replacing = group.spawn(os.dup2, new, fd)
                wait_parked(replacing)
            else:
                replacing = PlatformCall(os.dup2, new, fd)
            assert os.fstat(fd).st_ino == os.stat(tmp_path / "old").st_ino
            assert call.end() == ("returned", 4)
            assert replacing.result() == fd
        assert os.fstat(fd).st_ino == os.fstat(new).st_ino
        assert (tmp_path / "old").read_bytes() == b"late"
    finally:
        os.close(fd)
        os.close(new)


def test_child_of_a_fork_holds_no_numbers(tmp_path):
    """It has no workers."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    call = Held(fd)
    os.close(fd)
    pid = os.fork()
    if pid == 0:
        os._exit(bool(held(0, 1 << 20)) or described(os.fstat, fd)[0] == "returned")
    assert os.waitpid(pid, 0)[1] == 0
    call.end()


def test_cancelled_flush_writes_once(tmp_path, elsewhere, monkeypatch):
    """A write that a worker has begun is waited for, and counted; so the next flush does not write it again."""
    began, go_on = threading.Event(), threading.Event()
    original = _originals.os_write

    def write(fd, data):
        began.set()
        go_on.wait(PATIENCE)
        return original(fd, data)

    monkeypatch.setattr(_originals, "os_write", write)
    file = open(tmp_path / "file", "wb", buffering=1 << 21)  # noqa: SIM115
    file.write(b"x" * (1 << 20))
    with ThreadGroup() as group:
        writer = group.spawn(file.flush)
        wait_until(began.is_set)
        wait_parked(writer)
        group.cancel()
        wait_parked(writer)
        go_on.set()
    file.close()
    assert (tmp_path / "file").stat().st_size == 1 << 20


def test_at_the_limit_of_descriptors():
    """What a worker does takes none."""
    assert (
        run_python("""
        import os, resource, tempfile
        from plait import ThreadGroup, patch
        import plait.patch._descriptors as descriptors
        descriptors.read_nowait = descriptors.write_nowait = lambda *args: None
        with tempfile.TemporaryFile(buffering=0, dir="/var/tmp") as file:
            def body():
                fd = file.fileno()
                os.write(fd, bytes(1 << 20))
                os.fsync(fd)
                os.ftruncate(fd, 100)
                os.lseek(fd, 0, 0)
                return len(os.read(fd, 1000))
            with ThreadGroup() as group:
                group.spawn(body).result()
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                filler = []
                try:
                    while True:
                        filler.append(os.dup(file.fileno()))
                except OSError:
                    pass
                child = group.spawn(body)
            for fd in filler:
                os.close(fd)
            print(child.result())
        """)
        == "100\n"
    )


def test_rest_of_a_write_at_an_offset(tmp_path, monkeypatch):
    """What the page cache took at once is not written again: at the end of a file it would be there twice."""
    original = _blocks.write_nowait
    monkeypatch.setattr(_blocks, "write_nowait", lambda fd, data, start, at: original(fd, memoryview(data)[:10], 0, at))
    for flags, name in ((os.O_APPEND, "appended"), (0, "at its place")):
        fd = os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | flags)
        assert on_virtual(os.pwrite, fd, bytes(range(100)), 0) == 100
        assert os.pread(fd, 1000, 0) == bytes(range(100))
        os.close(fd)


def test_block_device_is_not_in_memory(tmp_path, monkeypatch):
    """The file system that the device's name is in says nothing of what is behind it."""
    (tmp_path / "device").write_bytes(b"x")
    monkeypatch.setattr(_workers, "file_system", lambda fd: 0x01021994)
    fd = os.open(tmp_path / "device", os.O_RDWR)
    try:
        assert _workers.is_in_memory(fd)
        monkeypatch.setattr(_workers, "file_type", lambda fd: stat.S_IFBLK)
        assert not _workers.is_in_memory(fd)
        assert not _workers.is_pollable(fd)
        assert _workers.write_waits(fd, 1 << 20)
    finally:
        os.close(fd)


# ---- mmap ----


def test_flush_of_mapped_memory(tmp_path, monkeypatch):
    """It is on the disk when it returns, and the carrier is free meanwhile."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * mmap.PAGESIZE))
    calls = []
    original = _blocks.sync_memory

    def sync(address, size):
        calls.append((cooperative(), size))
        original(address, size)

    monkeypatch.setattr(_blocks, "sync_memory", sync)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:4] = b"news"
        assert on_virtual(mapping.flush) is None
        assert on_virtual(mapping.flush, mmap.PAGESIZE, mmap.PAGESIZE) is None
    assert calls == [(None, 3 * mmap.PAGESIZE), (None, mmap.PAGESIZE)]
    assert path.read_bytes().startswith(b"news")


@pytest.mark.parametrize("args", [(0, -1), (mmap.PAGESIZE,), (mmap.PAGESIZE, -1)], ids=str)
def test_flush_of_all_that_is_left(tmp_path, args):
    """What the version takes for that."""
    (tmp_path / "file").write_bytes(bytes(3 * mmap.PAGESIZE))
    with open(tmp_path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert on_virtual(described, mapping.flush, *args) == described(mapping.flush, *args)


@pytest.mark.parametrize("args", [(1, 1), (-1, 1), (0, 1 << 30), ("x",), (1.5,), (0, 1, 2, 3)], ids=str)
def test_flush_refuses_as_ever(tmp_path, args):
    """A place that is none, or memory that is closed."""
    (tmp_path / "file").write_bytes(bytes(3 * mmap.PAGESIZE))
    with open(tmp_path / "file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert on_virtual(described, mapping.flush, *args) == described(mapping.flush, *args)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as reading:
            assert on_virtual(described, reading.flush, *args) == described(reading.flush, *args)
    assert on_virtual(described, mapping.flush) == described(mapping.flush)


# ---- the GIL ----


@pytest.mark.parametrize("size", [1 << 10, 1 << 20])
def test_large_parts_and_small_ones(tmp_path, size):
    """Without the GIL as with it: what is moved, what would wait, what the kernel cannot tell, and errors."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    fd = os.open(path, os.O_RDWR)
    reader, writer = os.pipe()
    try:
        assert read_nowait(fd, size, 0) == bytes(size)
        assert read_into_nowait(fd, bytearray(size), 0, 0) == size
        assert write_nowait(fd, b"x" * size, 0, 0) in (size, None, NotImplemented)
        if read_nowait(reader, size) is not NotImplemented:
            assert read_nowait(reader, size) is None
            os.write(writer, b"y")
            assert read_nowait(reader, size) == b"y"
        assert described(read_nowait, writer, size)[1:] == ("OSError", "[Errno 9] Bad file descriptor")
        assert described(write_nowait, reader, bytes(size))[1:] == ("OSError", "[Errno 9] Bad file descriptor")
    finally:
        for one in (fd, reader, writer):
            os.close(one)


def test_ctrl_c_while_a_number_is_replaced():
    """dup2 onto a number that a worker uses waits until it is let go; a signal handler that raises ends the wait."""
    code = """
        import os, signal, threading
        from plait._native import await_free, hold
        number = os.open("/dev/null", os.O_RDONLY)
        hold(number)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            await_free(number)
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert run_python(code) == "interrupted\n"
