"""time.sleep."""

import threading
import time
from fractions import Fraction

import pytest
from patch.helpers import PATIENCE, carriers, described, on_virtual, run_python, wait_parked

from plait import ThreadGroup


@pytest.mark.parametrize("seconds", [0.02, Fraction(1, 50), True])
def test_sleep_takes_its_time(seconds):
    """A sleep is never shorter than asked, whatever kind of number asks."""
    if seconds is True:
        with ThreadGroup() as group:
            future = group.spawn(time.sleep, seconds)
            wait_parked(future)
            future.cancel()
        return
    if isinstance(seconds, Fraction):
        assert on_virtual(described, time.sleep, seconds) == described(time.sleep, seconds)
        return
    started = time.monotonic()
    assert on_virtual(time.sleep, seconds) is None
    assert time.monotonic() - started >= seconds


@pytest.mark.parametrize(
    "argument", [-1, -0.1, float("nan"), float("-inf"), "x", None, 10**30, 1e300, float("inf"), 1j]
)
def test_wrong_arguments(argument):
    """What the original refuses is refused in the same words."""
    assert on_virtual(described, time.sleep, argument) == described(time.sleep, argument)


def test_number_of_arguments():
    """None, two, or a keyword are refused."""
    for arguments, keywords in (((), {}), ((1, 2), {}), ((), {"secs": 1})):
        assert on_virtual(described, time.sleep, *arguments, **keywords) == described(
            time.sleep, *arguments, **keywords
        )


def test_sleep_of_an_index():
    """A number by way of `__index__` will do."""

    class Zero:
        def __index__(self):
            return 0

    assert on_virtual(time.sleep, Zero()) is None


def test_very_long_sleep_does_not_hold_up_its_carrier():
    """However long, a sleep parks, and can be cancelled."""
    code = """
        import time
        from plait import ThreadGroup
        with ThreadGroup() as group:
            group.spawn(time.sleep, 2e9)
            group.spawn(time.sleep, 0.01).result()
            group.cancel()
        print("done")
    """
    assert run_python(code, patience=10, PLAIT_CARRIERS="1") == "done\n"


def test_sleep_zero_lets_others_run():
    """Two threads that only ever sleep for no time take turns."""
    seen = []

    begin = threading.Event()

    def turn(name):
        begin.wait()
        for _ in range(3):
            seen.append(name)
            time.sleep(0)

    def body():
        with ThreadGroup() as group:
            wait_parked(group.spawn(turn, "a"), group.spawn(turn, "b"))
            begin.set()

    on_virtual(body)
    if carriers() == 1:
        assert seen == ["a", "b"] * 3
    assert sorted(seen) == ["a"] * 3 + ["b"] * 3


def test_sleepers_wake_in_the_order_of_their_instants():
    """Who asked for less comes back first."""
    order = []

    def rest(seconds):
        time.sleep(seconds)
        order.append(seconds)

    def body():
        with ThreadGroup() as group:
            for seconds in (0.06, 0.02, 0.04):
                group.spawn(rest, seconds)

    on_virtual(body)
    assert order == [0.02, 0.04, 0.06] or carriers() > 1


def test_ten_thousand_sleep_at_once():
    """The sleeps overlap: ten thousand of them take about as long as one."""
    started = time.monotonic()
    with ThreadGroup() as group:
        for _ in range(10_000):
            group.spawn(time.sleep, 0.1)
    assert time.monotonic() - started < PATIENCE
