"""Endings are no cancel points, and not torn apart: `close` of files over files, finalizers of the standard library, reports."""

import bz2
import contextlib
import gzip
import lzma
import os
import socket
import sys
import tarfile
import tempfile
import time
import weakref
import zipfile

import pytest
from patch.helpers import PlatformCall, fill_pipe, is_parked, on_virtual, run_python, wait_until
from support import run_anywhere

from plait import Cancelled, ThreadGroup, checkpoint
from plait._core import current_thread

WHERE = pytest.mark.parametrize("where", ["main", "virtual"])


def _zip(path):
    file = zipfile.ZipFile(path, "w")
    file.writestr("name", "text")
    return file


def _tar(path):
    file = tarfile.open(path, "w")
    file.addfile(tarfile.TarInfo("name"))
    return file


def _written(file, what):
    file.write(what)
    return file


def _contents(file):
    with file:
        return file.read()


def _names(path):
    with tarfile.open(path) as file:
        return file.getnames()


FILES = {
    "text": (lambda path: _written(open(path, "w"), "text"), lambda path: path.read_text() == "text"),
    "buffered": (lambda path: _written(open(path, "wb"), b"text"), lambda path: path.read_text() == "text"),
    "random": (lambda path: _written(open(path, "w+b"), b"text"), lambda path: path.read_text() == "text"),
    "gzip": (lambda path: _written(gzip.open(path, "wb"), b"text"), lambda path: _contents(gzip.open(path)) == b"text"),
    "gzip text": (
        lambda path: _written(gzip.open(path, "wt"), "text"),
        lambda path: _contents(gzip.open(path)) == b"text",
    ),
    "bz2": (lambda path: _written(bz2.open(path, "wb"), b"text"), lambda path: _contents(bz2.open(path)) == b"text"),
    "lzma": (lambda path: _written(lzma.open(path, "wb"), b"text"), lambda path: _contents(lzma.open(path)) == b"text"),
    "zip": (_zip, lambda path: zipfile.is_zipfile(path)),
    "tar": (_tar, lambda path: len(_names(path)) == 1),
    "tar stream": (lambda path: tarfile.open(str(path), "w|gz"), lambda path: _names(path) == []),
}


@WHERE
@pytest.mark.parametrize("name", FILES)
def test_close_under_a_cancelled_scope(tmp_path, where, name):
    """It does all its work, and the cancel comes at the next point."""
    make, is_whole = FILES[name]
    path = tmp_path / "file"
    steps = []

    def body():
        file = make(path)
        with ThreadGroup() as group:
            group.cancel()
            file.close()
            steps.append(getattr(file, "closed", True))
            checkpoint()
            steps.append("not cancelled")

    run_anywhere(where, body)
    assert steps == [True]
    assert is_whole(path)


@WHERE
def test_close_that_waits_is_not_torn_apart(where):
    """A text file whose reader is slow, closed by who is cancelled meanwhile: all of it arrives."""
    near, far = socket.socketpair()
    steps, parked = [], []

    def body():
        file = near.makefile("w")
        file.write("x" * 5000)
        fill(near)
        with ThreadGroup() as group:
            parked.append((group, current_thread()))
            file.close()
            steps.append(file.closed)
            checkpoint()
            steps.append("not cancelled")

    def fill(sock):
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(1 << 16))
        sock.setblocking(True)

    def cancel():
        wait_until(lambda: parked and is_parked(parked[0][1]))
        group, thread = parked[0]
        parks = thread.park_count
        group.cancel()
        wait_until(lambda: thread.park_count > parks and is_parked(thread))
        read = b""
        while not read.endswith(b"x" * 5000):
            read = read[-5000:] + far.recv(1 << 16)

    with near, far:
        canceller = PlatformCall(cancel)
        run_anywhere(where, body)
        canceller.result()
    assert steps == [True]


def test_close_that_nobody_reads_is_given_up_after_the_grace():
    """The file is closed all the same."""
    reader, writer = os.pipe()
    file = open(writer, "w")
    fill_pipe(writer)
    file.write("text")
    seen = []

    def body():
        with ThreadGroup(grace=0.02) as group:
            group.cancel()
            try:
                file.close()
            except Cancelled:
                seen.append(file.closed)
                raise

    try:
        on_virtual(body)
        assert seen == [True]
    finally:
        os.close(reader)


def test_flush_and_write_are_cancel_points_as_ever(tmp_path):
    """Only the end is patient."""
    steps = []

    def body(call):
        with open(tmp_path / "file", "w") as file:
            file.write("x")
            with ThreadGroup() as group:
                group.cancel()
                call(file)
                steps.append("not cancelled")

    on_virtual(body, lambda file: file.flush())
    on_virtual(body, lambda file: file.write("x" * (1 << 20)))
    assert steps == []


@WHERE
@pytest.mark.parametrize("ending", ["dropped", "called"])
def test_finalizers_under_a_cancelled_scope(where, ending):
    """They run to their end, whoever makes them run."""
    steps = []

    class Thing:
        pass

    def finish():
        time.sleep(0.001)
        steps.append("finished")

    def body():
        thing = Thing()
        directory = tempfile.TemporaryDirectory()
        path = directory.name
        finalizer = weakref.finalize(thing, finish)
        with ThreadGroup() as group:
            group.cancel()
            del directory
            if ending == "called":
                finalizer()
            del thing
            steps.append(os.path.exists(path))
            checkpoint()
            steps.append("not cancelled")

    with pytest.warns(ResourceWarning):
        run_anywhere(where, body)
    assert steps == ["finished", False]


@WHERE
def test_report_of_what_cannot_be_raised(where, tmp_path, monkeypatch):
    """What a destructor raises is written to stderr, though a cancel has come, and not the cancel in its place."""

    class Thing:
        def __del__(self):
            raise OSError("the only trace of it")

    def body():
        thing = Thing()
        with ThreadGroup() as group:
            group.cancel()
            del thing
            steps.append("not cancelled")
            checkpoint()
            steps.append("went on")

    steps = []
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with open(tmp_path / "stderr", "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        run_anywhere(where, body)
    report = (tmp_path / "stderr").read_text()
    assert "OSError: the only trace of it" in report
    assert "Cancelled" not in report
    assert steps == ["not cancelled"]


def test_uninstall_puts_the_methods_back():
    """The very same functions."""
    code = """
        import gzip, weakref, plait
        before = gzip.GzipFile.close, weakref.finalize.__call__
        plait.patch.install()
        assert all(plait.patch.status()[name] for name in ("gzip.GzipFile.close", "weakref.finalize.__call__"))
        assert (gzip.GzipFile.close, weakref.finalize.__call__) == before
        assert (gzip.GzipFile.close.__name__, weakref.finalize.__call__.__doc__) == ("close", before[1].__doc__)
        import zipfile
        plait.patch.uninstall()
        print((gzip.GzipFile.close, weakref.finalize.__call__) == before, type(zipfile.ZipFile.close).__name__)
    """
    assert run_python(code) == "True function\n"
