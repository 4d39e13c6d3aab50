"""What a thread lets go of at its end: destructors wait there as anywhere, in its group, and hold up nobody else."""

from __future__ import annotations

import contextvars
import itertools
import logging
import queue
import sys
import threading
import time

import pytest
from support import until, wait_parked

import plait
from plait import Cancelled, ThreadGroup
from plait._core import WaitReason
from plait._default import default_group
from plait._stragglers import _threads_below

FREES_AT_ONCE = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(),
    reason="without a GIL what a thread was the last to have may be freed by the one that has made it, later",
)


class Guarded:
    """Takes a lock when it is dropped, as what gives itself back to a pool does."""

    def __init__(self, lock, dropped, begun=None):
        self.lock = lock
        self.dropped = dropped
        self.begun = begun or threading.Event()

    def __del__(self):
        self.begun.set()
        with self.lock:
            self.dropped.append(threading.get_ident())


class Waiting:
    """Waits for ever when it is dropped."""

    def __init__(self, begun):
        self.begun = begun

    def __del__(self):
        self.begun.set()
        threading.Event().wait()


@pytest.fixture
def unraisable(monkeypatch):
    """The classes of what was handed to sys.unraisablehook."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_type))
    return seen


VARIABLE = contextvars.ContextVar("variable")
LOCAL = threading.local()


def keep_in_variable(make):
    VARIABLE.set(make())


def keep_in_local(make):
    LOCAL.kept = make()


def fail_with(make):
    kept = make()
    raise ValueError(kept)


def give(make):
    return make()


def give_inside(make):
    return [make()]


@FREES_AT_ONCE
@pytest.mark.parametrize("fn", [give, give_inside, keep_in_variable, keep_in_local, fail_with])
@pytest.mark.parametrize("parks", [False, True])
def test_drop_at_the_end(fn, parks, monkeypatch):
    """Whatever a thread drops last may wait for a lock: on itself, while others go on, and its group waits for it."""
    monkeypatch.setattr(plait, "excepthook", lambda future, error: None)
    lock, dropped, go, begun = threading.Lock(), [], [], threading.Event()
    group = default_group()  # where nobody keeps a failure

    def run():
        if parks:
            time.sleep(0)
        while not go:  # who is woken by somebody is kept by that for a moment
            pass
        return fn(lambda: Guarded(lock, dropped, begun))

    with lock:
        group.spawn(run)
        go.append(True)  # the future is gone
        until(begun.is_set)  # nobody looks at the thread itself, which would keep it
        assert group.spawn(int).result() == 0
        assert not dropped
    until(lambda: dropped)
    [ident] = dropped
    assert ident % 2, "it was dropped by a kernel thread"


@FREES_AT_ONCE
def test_drop_of_what_a_callback_keeps():
    """The same for what a callback of the future has put into a thread-local."""
    lock, dropped, go, begun = threading.Lock(), [], [], threading.Event()

    def spin():
        while not go:
            pass

    with ThreadGroup() as group:
        with lock:
            group.spawn(spin).add_done_callback(lambda _: keep_in_local(lambda: Guarded(lock, dropped, begun)))
            go.append(True)
            until(begun.is_set)
            assert group.spawn(int).result() == 0
    [ident] = dropped
    assert ident % 2


@FREES_AT_ONCE
def test_drop_of_an_outcome_is_over_before_the_block():
    """What nobody keeps is gone when the block has ended."""
    lock, dropped = threading.Lock(), []
    with ThreadGroup() as group:
        for _ in range(100):
            group.spawn(Guarded, lock, dropped)
    assert len(dropped) == 100


def test_outcome_that_is_kept():
    """Who keeps the future has its outcome."""
    with ThreadGroup() as group:
        futures = [group.spawn(list, (number,)) for number in range(100)]
    assert [future.result() for future in futures] == [[number] for number in range(100)]


@FREES_AT_ONCE
@pytest.mark.parametrize("is_failure", [False, True])
def test_drop_of_an_iterator_that_runs(is_failure, monkeypatch):
    """A pmap that dies with its thread cancels its calls and waits for them."""
    monkeypatch.setattr(plait, "excepthook", lambda future, error: None)
    begun, ended = [], []

    def square(number):
        begun.append(number)
        try:
            if number > 2:
                threading.Event().wait()
            return number * number
        finally:
            ended.append(number)

    def use():
        squares = plait.pmap(square, itertools.count(), limit=3)
        assert next(squares) == 0
        if is_failure:
            raise ValueError
        return squares

    plait.spawn(use)
    until(lambda: 0 < len(begun) == len(ended) and not default_group().count_daemons())
    assert plait.spawn(pow, 2, 3).result() == 8


@FREES_AT_ONCE
@pytest.mark.parametrize("kind", ["local variable", "argument", "result", "thread-local"])
def test_drop_under_cancel(kind, unraisable):
    """A destructor is clean-up where its group is cancelled: it is cut off when the grace is over."""
    go, begun = [], threading.Event()

    def run(*args):
        while not go:
            pass
        if kind == "thread-local":
            LOCAL.kept = Waiting(begun)
        return Waiting(begun) if kind == "result" else None

    def run_cancelled():
        kept = Waiting(begun)
        time.sleep(3600)
        del kept

    with ThreadGroup(grace=0.0) as group:
        if kind == "local variable":
            future = group.spawn(run_cancelled)
            wait_parked(future)
            del future
        else:
            group.spawn(run, *([Waiting(begun)] if kind == "argument" else []))
            go.append(True)  # neither the future nor the argument is anywhere else
            until(begun.is_set)
        group.cancel()
    assert unraisable == [Cancelled]


def test_report_at_the_end_is_cut_off(unraisable):
    """A report about a callback may wait, but not beyond the grace of its group."""
    full = queue.Queue(1)
    full.put(None)

    class Handler(logging.Handler):
        def emit(self, record):
            full.put(record)

    log, handler = logging.getLogger("concurrent.futures"), Handler()
    log.addHandler(handler)
    log.propagate = False
    try:
        gate = threading.Event()
        with ThreadGroup(grace=0.0) as group:
            future = group.spawn(gate.wait)
            future.add_done_callback(lambda _: 1 / 0)
            gate.set()
            wait_parked(future, WaitReason.CONDITION)
            group.cancel()
    finally:
        log.removeHandler(handler)
        log.propagate = True
    assert unraisable == [Cancelled]


def test_threads_at_their_end_are_found_once():
    """Who looks for stragglers finds a thread that waits in a callback of its future."""
    gate, go = threading.Event(), threading.Event()
    with ThreadGroup() as group:
        future = group.spawn(gate.wait)
        future.add_done_callback(lambda _: go.wait())
        gate.set()
        until(future.done)
        wait_parked(future)
        assert list(itertools.islice(_threads_below(group), 10)) == [future]
        go.set()


class Opening:
    """Opens a block when it is dropped, and leaves it open."""

    def __init__(self, leave_open):
        self._leave_open = leave_open

    def __del__(self):
        self._leave_open()


@FREES_AT_ONCE
@pytest.mark.parametrize("kind", ["callback", "on_error", "excepthook", "destructor", "destructor of an outcome"])
def test_block_that_is_left_open_at_the_end(kind, monkeypatch, caplog):
    """It ends before the thread does, with its children, and somebody is told."""
    children, reports = [], []
    gate, go = threading.Event(), []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reports.append(args.exc_value))

    def leave_open(*_):
        children.append(ThreadGroup(name="left").__enter__().spawn(time.sleep, 3600))
        return "ignore"

    def spin(_=None):
        while not go:  # who is woken by somebody is kept by that for a moment
            pass
        return Opening(leave_open) if kind == "destructor of an outcome" else None

    if kind == "callback":
        with ThreadGroup() as group:
            future = group.spawn(gate.wait)
            future.add_done_callback(leave_open)
            future.add_done_callback(lambda _: reports.append(children[0].cancelled()))
            gate.set()
        reports = [reports[0] and record.exc_info[1] for record in caplog.records]
    elif kind == "on_error":
        with pytest.raises(ExceptionGroup) as caught, ThreadGroup(on_error=leave_open) as group:
            group.spawn(divmod, 1, 0)
        assert isinstance(caught.value.exceptions[1], ZeroDivisionError)
        reports = caught.value.exceptions[:1]
    elif kind == "excepthook":
        monkeypatch.setattr(plait, "excepthook", leave_open)
        plait.spawn(divmod, 1, 0).exception()
    else:
        with ThreadGroup() as group:
            group.spawn(spin, *([Opening(leave_open)] if kind == "destructor" else []))
            go.append(True)
    assert children[0].cancelled()
    (report,) = reports
    while isinstance(report, ExceptionGroup):
        (report,) = report.exceptions
    assert isinstance(report, RuntimeError)
    assert "<ThreadGroup 'left'>" in str(report)
    assert "leave each block in the function that enters it" in str(report)
