"""os.eventfd_read and os.eventfd_write do what they do elsewhere. That they park: the table of leaves."""

import os
import sys

import pytest
from patch.helpers import described, on_virtual, run_python, wait_parked

from plait import ThreadGroup
from plait.patch._counters import FULL


@pytest.fixture(params=[0, os.EFD_NONBLOCK, os.EFD_SEMAPHORE, os.EFD_NONBLOCK | os.EFD_SEMAPHORE])
def body(request):
    """What is done with an eventfd of each kind."""

    def body():
        fd = os.eventfd(3, request.param)
        try:
            found = [os.eventfd_read(fd), os.eventfd_write(fd, 2**64 - 10), os.eventfd_write(fd, 1)]
            if request.param & os.EFD_NONBLOCK:
                found += [described(os.eventfd_write, fd, 20), os.eventfd_read(fd), described(os.eventfd_read, fd)]
            found += [described(os.eventfd_write, fd, value) for value in (0, -1, 2**64 - 1, 2**64, "x", 1.5)]
            found += [described(os.eventfd_write, number, 1) for number in (-1, "x", None)]
            return found + [described(os.eventfd_read, number) for number in (-1, "x", None)]
        finally:
            os.close(fd)

    return body


def test_values_and_refusals(body):
    """The same numbers, the same errors."""
    assert on_virtual(body) == body()


CALLS = {
    "os.eventfd_write": os.eventfd_write,
    "os.write": lambda fd, value: os.write(fd, value.to_bytes(8, sys.byteorder)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("count", [FULL - 2, FULL])
def test_number_that_does_not_fit(name, count):
    """It parks until it does."""
    fd = os.eventfd(0)
    try:
        os.eventfd_write(fd, count)
        with ThreadGroup(timeout=20) as group:
            child = group.spawn(CALLS[name], fd, 100)
            wait_parked(child)
            assert os.eventfd_read(fd) == count
        assert child.result() in (None, 8)
        assert os.eventfd_read(fd) == 100
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", CALLS)
def test_closed_while_it_is_full(name):
    """Who is parked is told."""
    fd = os.eventfd(0)
    os.eventfd_write(fd, FULL)
    with ThreadGroup(timeout=20) as group:
        child = group.spawn(described, CALLS[name], fd, 1)
        wait_parked(child)
        os.close(fd)
    assert child.result() == ("raised", "OSError", "[Errno 9] Bad file descriptor")


@pytest.mark.parametrize("name", CALLS)
def test_room_that_another_takes(name):
    """Two carriers add to a counter that has room for one at a time: who comes too late parks, and blocks neither of them."""
    write = {"os.eventfd_write": f"os.eventfd_write(fd, {FULL})", "os.write": "os.write(fd, full)"}[name]
    code = f"""
        import os, sys, plait
        fd, full = os.eventfd(0), ({FULL}).to_bytes(8, sys.byteorder)
        def add():
            for _ in range(500):
                {write}
        def take():
            for _ in range(1000):
                assert os.eventfd_read(fd) == {FULL}
        with plait.ThreadGroup() as group:
            for call in (add, add, take):
                group.spawn(call)
        print("over")
    """
    assert run_python(code, patience=20, PLAIT_CARRIERS="2") == "over\n"
