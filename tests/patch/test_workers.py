"""Files on a worker: opened with O_DIRECT, with O_DSYNC, and large writes."""

import mmap
import os

import pytest
from patch.helpers import described, on_virtual

from plait import _originals
from plait._native import cooperative
from plait.patch import _workers

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
@pytest.mark.parametrize(("flags", "size"), [(os.O_DSYNC, 10), (os.O_SYNC, 10), (os.O_DSYNC, 1 << 20)])
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
def test_large_write_where_the_kernel_cannot_tell(tmp_path, writers, monkeypatch, name):
    """It is left to a worker; a small one goes to the page cache at once."""
    for module in ("_descriptors", "_blocks"):
        monkeypatch.setattr(f"plait.patch.{module}.write_nowait", lambda *args: NotImplemented)
    fd = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
    try:
        assert on_virtual(CALLS[name], fd, bytes(10)) == 10
        assert writers.pop() is not None
        assert on_virtual(CALLS[name], fd, bytes(1 << 20)) == 1 << 20
        assert writers == [None]
    finally:
        os.close(fd)
