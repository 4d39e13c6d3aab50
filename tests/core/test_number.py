"""Numbers that callers give: of which classes, and what is said of the others."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest
from support import run_anywhere

from plait import (
    Channel,
    Limiter,
    Mutex,
    RWLock,
    ThreadGroup,
    VirtualThreadPoolExecutor,
    as_completed,
    configure,
    deadline,
    lowlevel,
    move_on_after,
    pmap,
    select,
    shield,
    timeout,
)
from plait._core import check_seconds, real_number, runtime, whole_number
from plait.testing import cancel_at_park


class Whole:
    """As numpy's whole numbers: only like an int."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


class Real(float):
    """As numpy's float64."""


def test_whole_numbers():
    """Whatever `operator.index` takes is one, and becomes an int; a bool is none."""
    assert [whole_number(thing) for thing in (3, -1, Whole(3), 1 << 100)] == [3, -1, 3, 1 << 100]
    assert type(whole_number(Whole(3))) is int
    assert [whole_number(thing) for thing in (True, False, 1.0, "1", None, Decimal(1))] == [None] * 6


def test_real_numbers():
    """Floats, and whole numbers."""
    assert [real_number(thing) for thing in (3, 0.5, Real(0.5), Whole(3))] == [3, 0.5, 0.5, 3]
    assert [real_number(thing) for thing in (True, "1", None, Decimal(1), 1j)] == [None] * 5


def test_error_of_an_index():
    """What `__index__` raises, other than that it is none, is the caller's own."""

    class Broken:
        def __index__(self):
            raise ZeroDivisionError

    for limit in (Limiter, timeout):
        with pytest.raises(ZeroDivisionError):
            limit(Broken())


def test_seconds():
    """They are a float in the end; what is only like a float `time.sleep` does not take either, and is told so."""
    assert [check_seconds(thing, "x") for thing in (2, 0.5, Real(0.5), Whole(2), 10**400)] == [
        2,
        0.5,
        0.5,
        2,
        float("inf"),
    ]
    assert [type(check_seconds(thing, "x")) for thing in (2, Whole(2))] == [float, float]
    with pytest.raises(TypeError) as caught:
        timeout(Decimal("0.5"))
    assert str(caught.value) == (
        "timeout must be a number of seconds, not Decimal('0.5'), which is neither a float nor like an int: hand over "
        "float(...) of it, as for time.sleep"
    )
    with pytest.raises(TypeError) as caught:
        timeout("5")
    assert str(caught.value) == "timeout must be a number of seconds, not '5'"
    with pytest.raises(ValueError, match="x must be 0 or more seconds, not <.*Whole object"):
        check_seconds(Whole(-1), "x")


def test_counts_of_another_library():
    """Each count of the public names takes what is only like an int."""
    two = Whole(2)
    assert Limiter(two).limit == 2
    assert Channel(two).capacity == 2
    with ThreadGroup(max_concurrency=two) as group:
        assert group.limit == 2
    assert list(pmap(abs, [-1, -2, -3], limit=two)) == [1, 2, 3]
    with VirtualThreadPoolExecutor(two) as executor:
        assert executor.submit(int).result() == 0
    limiter = Limiter(1)
    limiter.limit = two
    assert limiter.limit == 2
    assert repr(cancel_at_park(two)) == "cancel_at_park(2)"
    configure(carriers=Whole(len(runtime.carriers)))  # which run: another number would be refused


@pytest.mark.parametrize("where", ["main", "platform", "virtual"])
def test_spans_of_another_library(where):
    """Each span of time of the public names takes what is only like an int."""
    run_anywhere(where, _use_spans)


def _use_spans():
    minute = Whole(60)
    assert repr(deadline(10**400)) == "deadline(inf)"  # nobody lives to see it
    with timeout(minute) as scope, move_on_after(minute), shield(timeout=minute), deadline(Whole(1 << 40)):
        assert scope.reschedule(minute)
        assert repr(scope) == "timeout(60)"
    assert Limiter(1).acquire(minute)
    with Mutex(1).lock(timeout=minute) as one, RWLock(2).read(timeout=minute) as two:
        assert (one, two) == (1, 2)
    with ThreadGroup(timeout=minute, grace=minute) as group:
        future = group.spawn(int)
        assert future.result(minute) == 0
        assert list(as_completed([future], timeout=minute)) == [future]
        assert select(future, after=minute).source is future
        group.cancel(grace=minute)
    with ThreadGroup() as group:
        future = group.spawn(time.sleep, 3600)
        for past in (-1, -0.5, Whole(-1)):
            with pytest.raises(TimeoutError):
                future.result(past)
        future.cancel()
    lowlevel.unpark(lowlevel.current_thread())
    assert lowlevel.park(minute) is True
    assert lowlevel.park(Whole(0)) is False
