"""spawn_daemon and try_spawn: children that nobody waits for, and spawns that never wait."""

from __future__ import annotations

import threading
import time

import pytest
from support import run_anywhere, until, wait_parked

from plait import Cancelled, GroupClosed, GroupFailed, ThreadGroup

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def sleep_forever():
    time.sleep(3600)


@WHERE
def test_daemon_is_cancelled_when_all_others_are_done(where):
    """The block ends with the last ordinary child; daemons are cancelled then, their clean-up is waited for."""

    def body():
        trace = []

        def beat():
            try:
                sleep_forever()
            finally:
                time.sleep(0.001)
                trace.append("cleaned up")

        def work():
            time.sleep(0.002)
            trace.append("worked")

        with ThreadGroup() as group:
            daemons = [group.spawn_daemon(beat) for _ in range(2)]
            for daemon in daemons:
                wait_parked(daemon)
            group.spawn(work)
        assert trace == ["worked", "cleaned up", "cleaned up"]
        assert all(daemon.cancelled() for daemon in daemons)
        assert group.exception is None

    run_anywhere(where, body)


def test_block_of_daemons_alone():
    """With nothing but daemons the end of the body cancels them."""
    with ThreadGroup() as group:
        daemon = group.spawn_daemon(sleep_forever)
        wait_parked(daemon)
    assert daemon.cancelled()


def test_very_many_daemons():
    """What each of them costs at the end does not grow with their number. (20,000 took 8 seconds when it did.)"""
    with ThreadGroup() as group:
        for _ in range(20_000):
            group.spawn_daemon(sleep_forever)
        since = time.monotonic()
    assert time.monotonic() - since < 4


def test_daemon_that_ends_by_itself():
    """A daemon may be done before; its result is there."""
    with ThreadGroup() as group:
        daemon = group.spawn_daemon(pow, 2, 3)
        assert daemon.result() == 8


def test_failure_of_a_daemon_fails_the_group():
    """As any child's, it cancels the others and leaves in the group's error."""
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        other = group.spawn(sleep_forever)
        wait_parked(other)
        group.spawn_daemon(lambda: 1 / 0)
        sleep_forever()
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert other.cancelled()


def test_daemon_takes_no_slot():
    """max_concurrency counts those who are waited for."""
    with ThreadGroup(max_concurrency=1) as group:
        daemon = group.spawn_daemon(sleep_forever)
        wait_parked(daemon)
        assert group.available == 1
        assert group.spawn(int).result() == 0
        group.spawn(int).result()
    assert group.available == 1


def test_daemons_spawned_by_a_daemon_in_its_clean_up():
    """Whatever a dismissed daemon starts ends, too."""
    spawned = []

    def restless(group):
        try:
            sleep_forever()
        finally:
            spawned.append(group.spawn_daemon(sleep_forever))

    with ThreadGroup() as group:
        wait_parked(group.spawn_daemon(restless, group))
    assert all(future.done() for future in spawned)


def test_daemon_spawns_a_child():
    """An ordinary child keeps the group open, whoever has spawned it."""
    trace = []

    def child():
        time.sleep(0.003)
        trace.append("child")

    def daemon(group):
        group.spawn(child)
        sleep_forever()

    with ThreadGroup() as group:
        wait_parked(group.spawn_daemon(daemon, group))
    assert trace == ["child"]


def test_spawn_daemon_misuse():
    """Before, after, failed, and with nothing to call: each its own error."""
    group = ThreadGroup()
    with pytest.raises(RuntimeError, match="has not begun"):
        group.spawn_daemon(int)
    with group:
        with pytest.raises(
            TypeError, match=r"spawn_daemon needs something to call, not 3: write spawn_daemon\(fn, x\)"
        ):
            group.spawn_daemon(3)
        group.cancel()
        with pytest.raises(Cancelled):
            group.spawn_daemon(int)
    with pytest.raises(GroupClosed):
        group.spawn_daemon(int)


def test_try_spawn():
    """A future while there is a free slot, None while there is none, errors as spawn's."""
    group = ThreadGroup(max_concurrency=2)
    with pytest.raises(RuntimeError, match="has not begun"):
        group.try_spawn(int)
    gate = threading.Event()
    with group:
        futures = [group.try_spawn(gate.wait) for _ in range(3)]
        assert [future is None for future in futures] == [False, False, True]
        gate.set()
        futures[0].result()
        futures[1].result()
        while (future := group.try_spawn(int)) is None:  # the slot comes back just after the result
            time.sleep(0)
        assert future.result() == 0
        with pytest.raises(TypeError, match="try_spawn needs something to call"):
            group.try_spawn("x")
    with pytest.raises(GroupClosed):
        group.try_spawn(int)


def test_try_spawn_from_outside_a_failed_group():
    """An outsider learns why: the group has failed, or has ended with that already."""
    group = ThreadGroup()

    def outsider():
        until(lambda: group.exception is not None)
        with pytest.raises((GroupFailed, GroupClosed)):
            group.try_spawn(int)

    with ThreadGroup() as outside:
        outside.spawn(outsider)
        with pytest.raises(ExceptionGroup), group:
            group.spawn(lambda: 1 / 0)
