"""start: spawn, and wait until the thread says that it is ready."""

from __future__ import annotations

import concurrent.futures
import re
import threading
import time

import pytest
from support import run_anywhere, until, wait_parked

from plait import Cancelled, ThreadGroup, move_on_after
from plait._core import WaitReason, current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    """A failure of these tests."""


@WHERE
def test_start_returns_the_value_given_to_started(where):
    """start waits for started(value) and returns the value; the thread goes on."""

    def serve(started, port, *, host):
        served.append("before")
        started(f"{host}:{port}")
        gate.wait()
        served.append("after")

    gate = threading.Event()
    served = []

    def body():
        gate.clear()
        served.clear()
        with ThreadGroup() as group:
            assert group.start(serve, 80, host="here") == "here:80"
            assert served == ["before"]
            assert len(group) == 1
            gate.set()
        assert served == ["before", "after"]

    run_anywhere(where, body)


def test_started_without_a_value():
    """started() gives None."""
    with ThreadGroup() as group:
        assert group.start(lambda started: started()) is None


def test_started_from_another_thread():
    """Any thread may call it."""
    with ThreadGroup() as group:
        assert group.start(lambda started: group.spawn(started, 7).result()) == 7


def test_started_twice():
    """A second started() is an error, of the thread that calls it."""

    def serve(started):
        started(1)
        started(2)

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.start(serve)
        group.spawn(time.sleep, 3600)
    [error] = caught.value.exceptions
    assert str(error) == "started() was called before, with 1: a thread starts once"


def test_restarted_after_it_has_started():
    """A thread that is restarted may say once more that it is ready; who waited goes on with the first value."""
    attempts = []

    def serve(started):
        attempts.append(current_thread().name)
        started(len(attempts))
        if len(attempts) < 3:
            raise Oops

    with ThreadGroup(on_error=lambda future, error: "restart") as group:
        assert group.start(serve) == 1
    assert len(attempts) == 3
    assert all("serve" in name for name in attempts)


def test_restarted_before_it_has_started():
    """The value is that of the first attempt which comes so far."""
    attempts = []

    def serve(started, *, fn):
        attempts.append(fn)
        if len(attempts) < 3:
            raise Oops
        started(len(attempts))

    with ThreadGroup(on_error=lambda future, error: "restart") as group:
        assert group.start(serve, fn="any name") == 3
    assert attempts == ["any name"] * 3


@WHERE
def test_failure_before_started(where):
    """A thread that fails first fails the group: callers inside are cancelled with it."""
    error = Oops()
    seen = []

    def serve(started):
        raise error

    def body():
        seen.clear()
        with pytest.raises(ExceptionGroup) as caught:
            with ThreadGroup() as group:
                try:
                    group.start(serve)
                except Cancelled as cancelled:
                    seen.append(cancelled.source)
                    raise
        assert caught.value.exceptions == (error,)
        assert seen == [group]

    run_anywhere(where, body)


def test_failure_before_started_seen_from_outside():
    """A caller outside the group gets what the thread has raised."""
    error = Oops()

    def serve(started):
        raise error

    with ThreadGroup(on_error="collect") as group:
        with pytest.raises(Oops) as caught:
            group.start(serve)
        assert caught.value is error
        group._failures.clear()


def test_end_without_started():
    """A thread that ends without a word is an error for who waits for it."""
    with ThreadGroup() as group:
        with pytest.raises(RuntimeError) as caught:
            group.start(lambda started: None)
    assert re.fullmatch(
        r"<Future of '.*<lambda>-\d+' .*> has ended without calling started\(\): nobody knows whether it was ready\. Its "
        r"function gets `started` as its first argument, and calls it when others may go on",
        str(caught.value),
    )


def test_thread_cancelled_before_started():
    """A thread that is cancelled alone, before it has started, is no error of the group."""

    def serve(started):
        started_threads.append(current_thread())
        time.sleep(3600)

    started_threads = []

    def cancel_it():
        until(lambda: started_threads)
        started_threads[0].cancel()

    with ThreadGroup() as group:
        group.spawn(cancel_it)
        with pytest.raises(concurrent.futures.CancelledError):
            group.start(serve)


@WHERE
def test_cancelled_start_cancels_the_thread(where):
    """Who is cancelled while it waits for the word cancels the thread, too."""

    def serve(started):
        threads.append(current_thread())
        time.sleep(3600)

    threads = []

    def body():
        threads.clear()
        with move_on_after(3600) as limit, ThreadGroup() as group:
            group.spawn(lambda: (until(lambda: threads), limit.cancel_scope("enough", None)))
            group.start(serve)
        assert threads[0].cancelled()

    run_anywhere(where, body)


def test_start_in_a_full_group():
    """A member that starts a thread in its own full group lends its slot while it waits for the word."""
    most = []

    def serve(started):
        most.append(group.statistics().available)
        started("ready")

    def member():
        return group.start(serve)

    with ThreadGroup(max_concurrency=1) as group:
        assert group.spawn(member).result() == "ready"
    assert most == [0]
    assert group.available == 1


def test_start_waits_for_a_slot():
    """start is a spawn: it waits for its turn."""
    with ThreadGroup(max_concurrency=1) as group:
        gate = threading.Event()
        group.spawn(gate.wait)
        with ThreadGroup() as others:
            waiting = others.spawn(group.start, lambda started: started(1))
            wait_parked(waiting, WaitReason.SLOT)
            gate.set()
            assert waiting.result() == 1


def test_start_needs_something_to_call():
    """A call in place of a function is pointed out."""
    with ThreadGroup() as group:
        with pytest.raises(TypeError) as caught:
            group.start(3)
        assert str(caught.value) == "start needs something to call, not 3: write start(fn, x), not start(fn(x))"
        with pytest.raises(TypeError, match="start needs something to call, not None"):
            group.options(name="x").start(None)
