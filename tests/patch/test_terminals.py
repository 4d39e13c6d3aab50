"""Reads of terminals in non-canonical mode, by VMIN and VTIME."""

import fcntl
import io
import os
import struct
import termios
import tty

import pytest
from patch.helpers import PlatformCall, described, is_parked, on_virtual, wait_parked, wait_until

from plait import ThreadGroup, _originals

LONG = 255  # tenths of a second


@pytest.fixture
def terminal():
    """The two sides of a pseudo-terminal, and what sets VMIN and VTIME of the second."""
    near, far = os.openpty()
    tty.setraw(far)

    def configure(least, tenths):
        settings = termios.tcgetattr(far)
        settings[6][termios.VMIN] = least
        settings[6][termios.VTIME] = tenths
        termios.tcsetattr(far, termios.TCSANOW, settings)

    yield near, far, configure
    for fd in (near, far):
        try:
            os.close(fd)
        except OSError:
            pass


def _read_into(fd, size):
    buffer = bytearray(size)
    with io.FileIO(fd, closefd=False) as file:
        return bytes(buffer[: file.readinto(buffer)])


@pytest.fixture(params=[os.read, _read_into])
def read(request):
    """Both ways to read."""
    return request.param


def waiting(fd):
    """How many bytes a terminal has to read."""
    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]


@pytest.mark.parametrize(
    ("least", "tenths", "size", "data", "expected"),
    [
        (0, 0, 10, b"", b""),
        (0, 0, 10, b"abc", b"abc"),
        (0, 0, 2, b"abc", b"ab"),
        (0, 1, 10, b"", b""),
        (0, 1, 10, b"abc", b"abc"),
        (2, 0, 10, b"ab", b"ab"),
        (2, 0, 1, b"a", b"a"),
        (2, 1, 10, b"a", b"a"),
        (2, 1, 10, b"abc", b"abc"),
        (2, LONG, 2, b"abc", b"ab"),
        (9, LONG, 2, b"abc", b"ab"),
        (9, 1, 0, b"abc", b""),
    ],
)
def test_read_as_the_kernel_has_it(terminal, read, least, tenths, size, data, expected):
    """As much, and as little, as on a kernel thread."""
    near, far, configure = terminal
    configure(least, tenths)
    for call in (lambda: read(far, size), lambda: on_virtual(read, far, size)):
        os.write(near, data)
        wait_until(lambda: waiting(far) == len(data))
        assert call() == expected
        termios.tcflush(far, termios.TCIFLUSH)


@pytest.mark.parametrize(("least", "tenths"), [(0, LONG), (1, LONG), (2, 0), (2, LONG)])
def test_read_that_waits_for_its_bytes(terminal, read, least, tenths):
    """It parks until they are there, each time anew."""
    near, far, configure = terminal
    configure(least, tenths)
    with ThreadGroup() as group:
        child = group.spawn(read, far, 10)
        for _ in range(max(least, 1)):
            wait_parked(child)
            os.write(near, b"a")
            wait_until(lambda: child.done() or (least == 2 and is_parked(child)))
    assert child.result() == b"a" * max(least, 1)


def test_cancelled_read_returns_what_it_has(terminal, monkeypatch):
    """Bytes that were taken are not lost."""
    near, far, configure = terminal
    configure(3, LONG)
    taken, found = [], []
    original = _originals.os_read

    def take(fd, size):
        data = original(fd, size)
        taken.append(data)
        return data

    monkeypatch.setattr(_originals, "os_read", take)
    with ThreadGroup() as group:
        child = group.spawn(lambda: found.append(os.read(far, 10)))
        wait_parked(child)
        os.write(near, b"a")
        wait_until(lambda: taken == [b"a"] and is_parked(child))
        os.write(near, b"b")
        wait_until(lambda: taken == [b"a", b"b"] and is_parked(child))
        child.cancel()
    assert found == [b"ab"]


def test_cancelled_read_that_has_nothing_takes_nothing(terminal):
    """What comes later is for others."""
    near, far, configure = terminal
    configure(2, 0)
    with ThreadGroup() as group:
        child = group.spawn(os.read, far, 10)
        wait_parked(child)
        os.write(near, b"a")
        wait_until(lambda: waiting(far) == 1)
        child.cancel()
    assert child.cancelled()
    assert waiting(far) == 1


@pytest.mark.parametrize(("least", "tenths"), [(0, LONG), (2, 0), (2, LONG)])
def test_other_side_goes(terminal, least, tenths):
    """The read ends as on a kernel thread."""
    near, far, configure = terminal
    configure(least, tenths)
    with ThreadGroup() as group:
        child = group.spawn(described, os.read, far, 10)
        wait_parked(child)
        os.close(near)
    assert child.result() == described(os.read, far, 10)


def test_master_side_is_as_ever(terminal):
    """It shows the settings of the other side, which are not its own."""
    near, far, configure = terminal
    configure(0, 0)
    with ThreadGroup() as group:
        child = group.spawn(os.read, near, 10)
        wait_parked(child)
        PlatformCall(os.write, far, b"hello").result()
    assert child.result() == b"hello"
