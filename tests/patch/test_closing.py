"""A descriptor is closed while a virtual thread is parked in it."""

import errno
import fcntl
import io
import os

import pytest
from patch.helpers import PlatformCall, described, fill_pipe, on_virtual, outcome, wait_parked, wait_until

from plait import ThreadGroup, timeout
from plait.patch import _closing


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


def replaced(fd):
    """Put another pipe there, with something to read."""
    reader, writer = os.pipe()
    os.write(writer, b"other")
    os.dup2(reader, fd)
    os.close(reader)
    os.close(writer)


def _mode(fd):
    return "w" if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_WRONLY else "r"


CLOSERS = {
    "os.close": os.close,
    "os.close by name": lambda fd: os.close(fd=fd),
    "os.closerange": lambda fd: os.closerange(fd, fd + 1),
    "os.dup2": replaced,
    "FileIO.close": lambda fd: io.FileIO(fd, _mode(fd)).close(),
}
WAITS = {
    "os.read": lambda fd: os.read(fd, 10),
    "FileIO.read": lambda fd: io.FileIO(fd, closefd=False).read(10),
    "FileIO.readinto": lambda fd: io.FileIO(fd, closefd=False).readinto(bytearray(10)),
    "os.readv": lambda fd: os.readv(fd, [bytearray(10)]),
    "os.write": lambda fd: os.write(fd, b"x"),
}
RUNNERS = {
    "here": lambda fn, fd: fn(fd),
    "platform": lambda fn, fd: PlatformCall(fn, fd).result(),
    "virtual": on_virtual,
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("closer", CLOSERS)
@pytest.mark.parametrize("wait", WAITS)
def test_who_waits_is_told(pipe, wait, closer, runner):
    """It gets EBADF, and does not touch what has the number by then."""
    if wait == "os.write":
        fill_pipe(pipe[1])
        fd = pipe[1]
    else:
        fd = pipe[0]
    with ThreadGroup() as group:
        waiters = [group.spawn(outcome, WAITS[wait], fd) for _ in range(3)]
        wait_parked(*waiters)
        RUNNERS[runner](CLOSERS[closer], fd)
        results = [waiter.result() for waiter in waiters]
    assert all(kind == "raised" and error.errno == errno.EBADF for kind, error in results)
    if closer == "os.dup2":
        assert os.read(fd, 10) == b"other"


def test_number_that_comes_back(pipe):
    """The next file of that number is left alone by who waited in the last one, and can be waited for."""
    reader, writer = pipe
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, os.read, reader, 10)
        wait_parked(waiter)
        kept = os.dup(reader)  # the file stays
        os.close(reader)
        again, other = os.pipe()
        assert again == reader
        assert waiter.result()[1].errno == errno.EBADF
        next_one = group.spawn(os.read, again, 10)
        wait_parked(next_one)
        os.write(writer, b"old")
        os.write(other, b"new")
        assert next_one.result() == b"new"
        assert os.read(kept, 10) == b"old"
    for fd in (kept, other):
        os.close(fd)


def test_write_that_had_begun(pipe):
    """It says how much it has written; the error is the next call's."""
    reader, writer = pipe
    with ThreadGroup() as group:
        child = group.spawn(os.write, writer, bytes(1 << 20))
        wait_parked(child)
        os.close(writer)
        written = child.result()
    assert 0 < written < 1 << 20
    got = 0
    while part := os.read(reader, 1 << 16):
        got += len(part)
    assert got == written


def test_what_closes_nothing(pipe):
    """A file that does not own its descriptor, dup2 of a number onto itself, and a refused close end no wait."""
    reader, writer = pipe
    with ThreadGroup() as group:
        child = group.spawn(os.read, reader, 10)
        wait_parked(child)
        io.FileIO(reader, closefd=False).close()
        os.dup2(reader, reader)
        assert described(os.close, -1)[1] == "OSError"
        os.closerange(reader, reader)
        wait_parked(child)
        os.write(writer, b"hello")
    assert child.result() == b"hello"


def test_platform_thread_with_a_time_limit(pipe):
    """It is told, too."""
    reader, _ = pipe

    def read():
        with timeout(20):
            return os.read(reader, 10)

    waiter = PlatformCall(outcome, read)
    wait_until(lambda: any(wait.epoch for wait in list(_closing._waits.get(reader, ()))))
    os.close(reader)
    assert waiter.result()[1].errno == errno.EBADF
