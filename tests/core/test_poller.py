"""What a poller is asked to report: orders for numbers whose file may be another one by now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from plait._core._poller import READ, WRITE, Poller, open_poller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def poller() -> Iterator[Poller]:
    made = open_poller()
    yield made
    made.close()


def reported(poller: Poller) -> dict[int, int]:
    """What is at hand now."""
    ready = poller.wait(0.0)
    return {ready.fd(place): ready.events(place) for place in range(ready.size())}


def test_an_order_is_for_one_event(poller: Poller) -> None:
    """The next one is given as if nothing had been ordered before."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    for _ in range(3):
        poller.watch_once(reader, READ)
        assert reported(poller) == {reader: READ}
        assert reported(poller) == {}
    os.close(reader)
    os.close(writer)


def test_an_order_takes_the_place_of_the_one_before(poller: Poller) -> None:
    reader, writer = os.pipe()
    poller.watch_once(writer, READ)
    poller.watch_once(writer, WRITE)
    assert reported(poller) == {writer: WRITE}
    poller.watch(reader)  # it has seen this file only now
    poller.watch(reader)
    os.write(writer, b"x")
    assert reported(poller) == {reader: READ}
    os.close(reader)
    os.close(writer)


def test_the_number_is_another_files(poller: Poller) -> None:
    """The order was for the file that is gone; the next is for the one that has its number, and `is_watched` knows."""
    reader, writer = os.pipe()
    poller.watch(reader)
    assert poller.is_watched(reader)
    other_reader, other_writer = os.pipe()
    os.dup2(other_reader, reader)
    assert not poller.is_watched(reader)
    poller.watch_once(reader, READ)
    os.write(other_writer, b"x")
    assert reported(poller) == {reader: READ}
    for fd in (reader, writer, other_reader, other_writer):
        os.close(fd)


def test_no_file_and_a_file_that_cannot_be_polled(poller: Poller, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    poller.watch_once(reader, READ)
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        poller.watch_once(reader, READ)
    assert not poller.is_watched(reader)
    poller.forget(reader)
    poller.forget(-1)
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(PermissionError):
        poller.watch_once(fd, READ)
    poller.forget(fd)
    os.close(fd)


def test_what_is_forgotten_is_not_reported(poller: Poller) -> None:
    reader, writer = os.pipe()
    poller.watch(reader)
    poller.forget(reader)
    os.write(writer, b"x")
    assert reported(poller) == {}
    os.close(reader)
    os.close(writer)
