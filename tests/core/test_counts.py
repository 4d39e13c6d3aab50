"""How compiled code counts references: as CPython does, whatever state a count is in."""

from __future__ import annotations

import ctypes
import sys
import sysconfig
import time
from typing import TYPE_CHECKING

import pytest

from plait import Channel, ThreadGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    sysconfig.get_config_var("Py_GIL_DISABLED") or sys.version_info >= (3, 14) or sys.version_info < (3, 12),
    reason="counts of one word with an immortal half are those of 3.12 and 3.13",
)

IMMORTAL = 2**32 - 1


class Thing:
    """Something that is counted."""


@pytest.fixture
def thing() -> Iterator[Thing]:
    made = Thing()
    count = count_of(made)
    before = count.value
    yield made
    count.value = before


def count_of(thing: Thing) -> ctypes.c_uint64:
    """The whole count, where it is."""
    return ctypes.c_uint64.from_address(id(thing))


def handle(thing: Thing) -> None:
    """Have it go through what counts references: threads, their arguments and results, and a queue."""

    def give_back(given: Thing) -> Thing:
        time.sleep(0)
        return given

    box: Channel[Thing] = Channel(4)
    with ThreadGroup() as group:
        for _ in range(10):
            assert group.spawn(give_back, thing).result() is thing
            box.send(thing)
            assert box.recv() is thing


def test_what_was_taken_is_given_back(thing: Thing) -> None:
    before = count_of(thing).value
    handle(thing)
    assert count_of(thing).value == before


def test_an_immortal_object_stays_so(thing: Thing) -> None:
    count_of(thing).value = IMMORTAL
    handle(thing)
    assert count_of(thing).value == IMMORTAL


def test_what_an_old_extension_has_made_of_an_immortal_object_is_kept(thing: Thing) -> None:
    before = count_of(thing).value + 2**32
    count_of(thing).value = before
    handle(thing)
    assert count_of(thing).value == before
