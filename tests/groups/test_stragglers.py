"""The report on a group that has failed, and still waits for threads that do not end."""

from __future__ import annotations

import logging
import re
import sys
import threading
import time

import pytest
from support import platform_thread, run_anywhere, until, wait_parked

from plait import Cancelled, ThreadGroup, gather, move_on_after, shield, timeout
from plait._core import WaitReason, now
from plait._originals import sleep

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    """A failure of these tests."""


def fail(error):
    raise error


def refuse_to_end(gate):
    with shield(timeout=3600):
        gate.wait()


@pytest.fixture
def reports(caplog, monkeypatch):
    monkeypatch.setattr("plait._joining._REPORT_AFTER", 0.05)
    caplog.set_level(logging.ERROR, "plait")

    def said():
        return [record.getMessage() for record in caplog.records if record.name == "plait"]

    return said


@WHERE
def test_report(where, reports):
    """It says what has failed, and where each thread is that the group waits for: once."""
    gate = threading.Event()

    def body():
        gate.clear()
        with platform_thread(lambda: (until(reports), gate.set())):
            with pytest.raises(ExceptionGroup), ThreadGroup(name="mine") as group:
                wait_parked(group.options(name="stubborn").spawn(refuse_to_end, gate))
                group.spawn(fail, Oops("the failure"))

    run_anywhere(where, body)
    [report] = reports()
    first, second, *_ = report.splitlines()
    assert re.fullmatch(
        r"<ThreadGroup 'mine'> was cancelled \('fail-\d+' failed: Oops\), and has waited \d+\.\d s for 1 thread to end\.",
        first,
    )
    assert second == "It failed with:"
    assert "the failure" in report
    assert "in fail\n" in report
    assert "'stubborn', spawned at " in report
    assert f"{__file__}:" in report
    assert "waiting for: condition" in report or "waiting for: lock" in report
    assert "in refuse_to_end\n    gate.wait()" in report


def test_failure_of_the_body_is_reported(reports):
    """The same if it is the body that has failed."""
    gate = threading.Event()
    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            wait_parked(group.spawn(refuse_to_end, gate))
            raise Oops("of the body")
    [report] = reports()
    assert "of the body" in report


def test_expired_group_is_reported(reports):
    """A group whose time is up says so, too: its TimeoutError is not to be seen before its end."""
    gate = threading.Event()
    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(TimeoutError), ThreadGroup(timeout=3600) as group:
            wait_parked(group.spawn(refuse_to_end, gate))  # else its time may be up before it has begun
            group.scope.set_deadline(now())
    [report] = reports()
    assert "was cancelled (deadline passed)" in report


@WHERE
def test_block_inside_the_body_is_reported(where, reports):
    """A failed group whose body is held up at the end of a block inside says so, and for whom that one waits."""
    gate = threading.Event()

    def body():
        gate.clear()
        with platform_thread(lambda: (until(reports), gate.set())):
            with pytest.raises(ExceptionGroup), ThreadGroup(name="outer") as outer:
                with ThreadGroup(name="inner") as inner:
                    wait_parked(inner.options(name="stubborn").spawn(refuse_to_end, gate))
                    outer.spawn(fail_when_joined, inner, Oops("the failure"))

    def fail_when_joined(inner, error):
        until(lambda: inner.joining)
        raise error

    run_anywhere(where, body)
    [report] = reports()
    first, second, *_ = report.splitlines()
    assert re.fullmatch(
        r"<ThreadGroup 'outer'> was cancelled \('.*fail_when_joined-\d+' failed: Oops\), and has waited \d+\.\d s for 1 "
        r"thread of <ThreadGroup 'inner'>, inside its body, to end\.",
        first,
    )
    assert second == "It failed with:"
    assert "the failure" in report
    assert "'stubborn', spawned at " in report


@WHERE
@pytest.mark.parametrize("limit", [timeout, move_on_after])
def test_time_limit_around_that_has_passed(where, limit, reports):
    """A time limit that is over, and is held up at the end of a block inside, says so, as that of a group."""
    gate = threading.Event()

    def body():
        gate.clear()
        with platform_thread(lambda: (until(reports), gate.set())):
            with limit(0.05), ThreadGroup(name="mine") as group:
                wait_parked(group.options(name="stubborn").spawn(refuse_to_end, gate))

    if limit is timeout:
        with pytest.raises(TimeoutError):
            run_anywhere(where, body)
    else:
        run_anywhere(where, body)
    [report] = reports()
    first, second = report.splitlines()[:2]
    assert re.fullmatch(
        rf"{limit.__name__}\(0\.05\) was cancelled \(deadline passed\), and has waited \d+\.\d s for 1 thread of "
        r"<ThreadGroup 'mine'>, inside its body, to end\.",
        first,
    )
    assert second.startswith("'stubborn', spawned at ")


def test_time_limit_around_a_gather_that_has_passed(reports):
    """So it is with calls that have no block to be seen."""
    gate = threading.Event()
    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(TimeoutError), timeout(0.05):
            gather(lambda: refuse_to_end(gate))
    [report] = reports()
    assert report.startswith("timeout(0.05) was cancelled (deadline passed), and has waited ")
    assert " for 1 thread of <ThreadGroup 'gather'>, inside its body, to end.\n" in report


def test_threads_of_a_child_s_own_group_are_shown(reports):
    """A child that waits at the end of a block of its own is shown with those that it waits for."""
    gate = threading.Event()

    def handle():
        with ThreadGroup(name="inner") as inner:
            wait_parked(inner.options(name="stubborn").spawn(refuse_to_end, gate))

    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(ExceptionGroup), ThreadGroup(name="outer") as outer:
            wait_parked(outer.options(name="handler").spawn(handle), WaitReason.GROUP)
            raise Oops
    [report] = reports()
    assert "has waited" in report and "for 1 thread to end." in report
    assert re.search(r"'handler', spawned at \S+, waiting for: children of the group:", report)
    assert re.search(r"'stubborn', spawned at \S+ into <ThreadGroup 'inner'>, waiting for: ", report)
    assert "in refuse_to_end" in report
    assert "Not begun" not in report


def test_failure_after_a_quiet_cancel_is_reported(reports):
    """The same if the group was cancelled before, and it is the clean-up of a child that fails."""
    gate = threading.Event()

    def clean_up_badly():
        try:
            time.sleep(3600)
        finally:
            raise Oops("in clean-up")

    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(ExceptionGroup), ThreadGroup(name="outer") as outer:
            wait_parked(outer.spawn(clean_up_badly))
            with ThreadGroup() as inner:
                wait_parked(inner.spawn(refuse_to_end, gate))
                outer.cancel()
    [report] = reports()
    assert "<ThreadGroup 'outer'> was cancelled (the group was cancelled)" in report
    assert "in clean-up" in report


def test_thread_at_work_is_reported(reports):
    """A thread that occupies its carrier is shown at work, where CPython can tell."""
    is_over = []
    has_begun = threading.Event()

    def busy():
        has_begun.set()
        while not is_over:
            pass

    with platform_thread(lambda: (until(reports), is_over.append(1))):
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            group.spawn(busy)
            has_begun.wait()
            raise Oops
    [report] = reports()
    assert "is at work" in report
    if not _has_gil():
        return
    assert "in busy" in report


def _has_gil():
    import sys

    return getattr(sys, "_is_gil_enabled", lambda: True)()


def test_many_threads_are_counted(reports):
    """Of many threads the first are shown, and the others counted."""
    gate = threading.Event()
    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            threads = [group.spawn(refuse_to_end, gate) for _ in range(30)]
            for thread in threads:
                wait_parked(thread)
            raise Oops
    [report] = reports()
    assert "for 30 threads to end" in report
    assert report.count("in refuse_to_end") == 20
    assert "... and 10 threads more that have waited for something before." in report


def test_no_report_of_what_ends_in_time(reports):
    """Groups that end, or that are only cancelled, or that have not failed, say nothing."""
    with pytest.raises(ExceptionGroup), ThreadGroup() as group:
        group.spawn(time.sleep, 3600)
        group.spawn(fail, Oops())
    with ThreadGroup() as group:
        group.spawn(sleep, 0.2)
        group.cancel()
    with ThreadGroup() as group:
        group.spawn(time.sleep, 0.2)
    assert not reports()


def test_report_is_no_cancel_point(reports):
    """Handlers that park are not cut short by the cancel of the group that is reported."""
    gate = threading.Event()
    seen = []

    class Slow(logging.Handler):
        def emit(self, record):
            try:
                time.sleep(0.01)
                seen.append(record)
            except Cancelled:
                seen.append("cancelled")
                raise
            gate.set()

    handler = Slow()
    logging.getLogger("plait").addHandler(handler)
    try:
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            wait_parked(group.spawn(refuse_to_end, gate))
            group.spawn(fail, Oops())
    finally:
        logging.getLogger("plait").removeHandler(handler)
    assert len(seen) == 1
    assert seen[0] != "cancelled"


def test_threads_of_nested_groups(reports):
    """A group that waits for a nested one is shown where it waits."""
    gate = threading.Event()

    def outer():
        with ThreadGroup() as inner:
            wait_parked(inner.spawn(refuse_to_end, gate))  # else the cancel may come before it has begun

    with platform_thread(lambda: (until(reports), gate.set())):
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            wait_parked(group.spawn(outer), WaitReason.GROUP)
            raise Oops
    [report] = reports()
    assert "waiting for: children of the group" in report
    assert "in outer\n" in report


def test_functions_without_a_frame(reports):
    """A child that is no function of Python is shown without a stack."""
    lock = threading.Lock()
    lock.acquire()
    with platform_thread(lambda: (until(reports), lock.release())):
        with pytest.raises(ExceptionGroup), ThreadGroup(grace=3600) as group:
            wait_parked(group.options(name="builtin").spawn(lock.acquire))
            raise Oops
    [report] = reports()
    assert "'builtin', spawned at " in report
    assert "(no function of Python)" in report
    assert "at work" not in report


def test_logging_that_fails_changes_nothing(reports, capfd):
    """What a filter raises is printed, and the block raises what it would have."""
    gate = threading.Event()
    error = Oops("the failure")

    def refuse(record):
        gate.set()
        raise ValueError("broken filter")

    logging.getLogger("plait").addFilter(refuse)
    try:
        with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
            wait_parked(group.spawn(refuse_to_end, gate))
            group.spawn(fail, error)
    finally:
        logging.getLogger("plait").removeFilter(refuse)
    assert caught.value.exceptions == (error,)
    assert "broken filter" in capfd.readouterr().err


def test_report_that_cannot_be_made_at_all(reports, monkeypatch):
    """Logging fails, and stderr, where that would be said, is closed: the block raises what has failed in it."""
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: lost.append(str(report.exc_value)))
    monkeypatch.setattr(sys, "stderr", ClosedFile())
    gate = threading.Event()
    monkeypatch.setattr("plait._stragglers._log", FailingLog(gate))
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        wait_parked(group.spawn(refuse_to_end, gate))
        raise Oops
    [error] = caught.value.exceptions
    assert isinstance(error, Oops)
    assert lost == ["closed"]


class ClosedFile:
    """What cannot be written to."""

    def write(self, text):
        raise ValueError("closed")

    def flush(self):
        """Nothing."""


class FailingLog:
    """What cannot be logged to; it opens a gate first."""

    def __init__(self, gate):
        self.gate = gate

    def error(self, *args):
        self.gate.set()
        raise RuntimeError("no log")
