"""flock, lockf and fcntl: locks among processes, tried with pauses."""

import fcntl
import os
import struct
import subprocess
import sys

import pytest
from patch.helpers import described, on_virtual, wait_parked, wait_until

from plait import ThreadGroup


@pytest.fixture
def path(tmp_path):
    """An empty file."""
    (tmp_path / "lock").touch()
    return tmp_path / "lock"


@pytest.fixture
def holder(path):
    """Another process, which holds both kinds of lock on the file until its input ends."""
    code = f"""
import fcntl, sys
file = open({str(path)!r}, "r+b")
fcntl.flock(file, fcntl.LOCK_EX)
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process


def record(kind):
    """A struct flock for the whole file."""
    return struct.pack("hhqqixxxx", kind, os.SEEK_SET, 0, 0, 0)


CALLS = {
    "flock": lambda file: fcntl.flock(file, fcntl.LOCK_EX),
    "shared flock": lambda file: fcntl.flock(file.fileno(), fcntl.LOCK_SH),
    "lockf": lambda file: fcntl.lockf(file, fcntl.LOCK_EX),
    "lockf of a part": lambda file: fcntl.lockf(file, fcntl.LOCK_EX, 10, 5, 0),
    "os.lockf": lambda file: os.lockf(file.fileno(), os.F_LOCK, 0),
    "fcntl": lambda file: fcntl.fcntl(file, fcntl.F_SETLKW, record(fcntl.F_WRLCK)),
    "open file": lambda file: fcntl.fcntl(file, 38, record(fcntl.F_WRLCK)),
}


@pytest.mark.parametrize("name", CALLS)
def test_lock_that_another_process_holds(path, holder, name):
    """It parks, and gets the lock when the other process lets it go."""
    with open(path, "r+b") as file, ThreadGroup() as group:
        child = group.spawn(described, CALLS[name], file)
        wait_parked(child)
        holder.stdin.close()
    assert child.result() == described(CALLS[name], file) if not file.closed else child.result()[0] == "returned"


@pytest.mark.parametrize("name", CALLS)
def test_cancelled_wait_does_not_get_the_lock(path, holder, name):
    """After a cancel, and after the other process has gone, the file is free for anybody."""
    with open(path, "r+b") as file:
        with ThreadGroup() as group:
            child = group.spawn(CALLS[name], file)
            wait_parked(child)
            group.cancel()
        assert child.cancelled()
        holder.stdin.close()
        holder.wait()
        code = f"""
import fcntl
file = open({str(path)!r}, "r+b")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", CALLS)
def test_number_that_comes_back_as_another_file(path, holder, name, tmp_path):
    """Who waits for a lock on a file that is closed is told so, and does not lock what has the number next."""
    file = open(path, "r+b")  # noqa: SIM115 - closed below
    with ThreadGroup() as group:
        child = group.spawn(described, CALLS[name], file)
        wait_parked(child)
        number = file.fileno()
        file.close()
        with open(tmp_path / "other", "w+b") as other:
            assert other.fileno() == number
            assert child.result() == ("raised", "OSError", "[Errno 9] Bad file descriptor")
            code = f"import fcntl; file = open({other.name!r}, 'r+b'); fcntl.flock(file, 6); fcntl.lockf(file, 6)"
            subprocess.run([sys.executable, "-c", code], check=True)


def test_many_threads_exclude_each_other(path):
    """With an open file each, virtual threads hold the lock one at a time."""
    inside = []

    def work():
        with open(path, "r+b") as file:
            for _ in range(3):
                fcntl.flock(file, fcntl.LOCK_EX)
                inside.append(1)
                assert len(inside) == 1
                os.sched_yield()
                inside.pop()
                fcntl.flock(file, fcntl.LOCK_UN)

    with ThreadGroup() as group:
        children = [group.spawn(work) for _ in range(8)]
        wait_until(lambda: all(child.done() for child in children))


@pytest.mark.parametrize(
    "call",
    [
        lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda file: fcntl.flock(file, fcntl.LOCK_UN),
        lambda file: fcntl.flock(file, 0),
        lambda file: fcntl.flock(file, "x"),
        lambda file: fcntl.flock(-1, fcntl.LOCK_EX),
        lambda file: fcntl.flock("x", fcntl.LOCK_EX),
        lambda file: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda file: fcntl.lockf(file, fcntl.LOCK_UN),
        lambda file: fcntl.lockf(file, 0),
        lambda file: os.lockf(file.fileno(), os.F_TLOCK, 0),
        lambda file: os.lockf(file.fileno(), os.F_ULOCK, 0),
        lambda file: os.lockf(file.fileno(), os.F_TEST, 0),
        lambda file: os.lockf(file.fileno(), os.F_LOCK, "x"),
        lambda file: os.lockf(-1, os.F_LOCK, 0),
        lambda file: fcntl.lockf(file, fcntl.LOCK_EX, "x"),
        lambda file: fcntl.fcntl(file, fcntl.F_GETFL),
        lambda file: fcntl.fcntl(file, fcntl.F_SETLKW, b"short"),
        lambda file: fcntl.fcntl(-1, fcntl.F_SETLKW, record(fcntl.F_WRLCK)),
        lambda file: fcntl.fcntl(file),
        lambda file: fcntl.lockf(file),
    ],
)
def test_calls_that_do_not_wait(path, call):
    """Those that do not wait, and wrong ones, are the original's."""
    with open(path, "r+b") as file:
        got, expected = on_virtual(described, call, file), described(call, file)
    if expected[0] == "raised" and expected[1] == "TypeError":
        got, expected = got[:2], expected[:2]
    if expected[:1] == ("returned",) and isinstance(expected[1], bytes):
        got, expected = got[0], expected[0]
    assert got == expected
