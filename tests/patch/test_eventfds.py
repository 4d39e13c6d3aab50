"""os.eventfd_read and os.eventfd_write do what they do elsewhere. That they park: the table of leaves."""

import os

import pytest
from patch.helpers import described, on_virtual


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
