"""Offload: calls on platform threads while the caller parks."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest
from support import run_anywhere, run_in_vthread, until, wait_parked

from plait import Cancelled, ThreadGroup, _originals, move_on_after
from plait._core import WaitReason, _offload, current_thread, now, runtime
from plait._core._offload import _MOST_WORKERS, Offload, OffloadJob
from plait._native import kernel_ident

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def offload(fn, *args, **kwargs):
    return runtime.offload.call(current_thread(), fn, *args, **kwargs)


@WHERE
def test_result_and_place(where):
    """The call runs on another kernel thread; its result comes back."""

    def body():
        assert offload(pow, 2, 5) == 32
        assert offload(kernel_ident) != kernel_ident()

    run_anywhere(where, body)


@WHERE
def test_exception_comes_back(where):
    """What the call raises is raised, as it is."""
    error = KeyError("mine")

    def fail():
        raise error

    def body():
        with pytest.raises(KeyError) as caught:
            offload(fail)
        assert caught.value is error

    run_anywhere(where, body)


def test_carrier_goes_on_meanwhile():
    """While a call blocks its worker, other virtual threads run."""
    gate = threading.Event()

    def body():
        with ThreadGroup() as group:
            waiting = wait_parked(group.spawn(offload, gate.wait), WaitReason.OFFLOAD)
            assert group.spawn(int).result() == 0
            gate.set()
        return waiting.result()

    assert run_in_vthread(body) is True


def wait_late(gate, begun):
    begun.append(1)
    gate.wait()
    return "late"


@WHERE
def test_cancelled_caller_leaves_and_the_result_is_given_up(where):
    """A cancelled caller goes at once; the call goes on, and its result goes to `abandoned`."""

    def body():
        gate = threading.Event()
        begun = []
        given_up = []
        with ThreadGroup() as group:
            group.spawn(lambda: until(lambda: begun) and group.cancel())
            offload(wait_late, gate, begun, abandoned=given_up.append)
        assert given_up == []
        gate.set()
        until(lambda: given_up == ["late"])

    run_anywhere(where, body)


@WHERE
def test_deadline(where):
    """At the deadline the caller gets TimeoutError; a call that has begun by then goes on."""

    def body():
        gate = threading.Event()
        begun = []
        given_up = []
        with pytest.raises(TimeoutError):
            offload(wait_late, gate, begun, deadline=now() + 0.005, abandoned=given_up.append)
        gate.set()
        until(lambda: given_up == ["late"] * len(begun))

    run_anywhere(where, body)


def test_queued_call_of_a_caller_that_leaves(monkeypatch):
    """A call that has not begun when its caller leaves never runs."""
    monkeypatch.setattr(_offload, "_MOST_WORKERS", 1)
    pool = Offload()
    gate = threading.Event()
    called = []
    with ThreadGroup() as group:
        group.spawn(lambda: pool.call(current_thread(), gate.wait))
        until(lambda: pool._workers and not pool._jobs)
        with move_on_after(0.001):
            pool.call(current_thread(), called.append, 1)
        gate.set()
    assert (called, pool.counts().queued, pool.counts().abandoned_total) == ([], 0, 0)


@WHERE
def test_whole_call_is_waited_for(where):
    """A cancel that comes while it runs does not end it: the caller gets its result, and the cancel at the next point."""

    def body():
        gate = threading.Event()
        begun = []

        def cancel(group, me):
            until(lambda: begun)
            group.cancel()
            until(me.is_waiting)
            gate.set()

        with ThreadGroup() as group:
            me = current_thread()
            group.spawn(cancel, group, me)
            assert runtime.offload.call_whole(me, wait_late, gate, begun) == "late"
            with pytest.raises(Cancelled):
                time.sleep(60)

    run_anywhere(where, body)


def test_whole_call_that_has_not_begun(monkeypatch):
    """It never runs when its caller is cancelled."""
    monkeypatch.setattr(_offload, "_MOST_WORKERS", 1)
    pool = Offload()
    gate = threading.Event()
    called = []
    with ThreadGroup() as group:
        group.spawn(lambda: pool.call(current_thread(), gate.wait))
        until(lambda: pool._workers and not pool._jobs)
        with move_on_after(0.001) as scope:
            pool.call_whole(current_thread(), called.append, 1)
        assert scope.cancelled_caught
        gate.set()
    assert (called, pool.counts().queued, pool.counts().abandoned_total) == ([], 0, 0)


def test_cancelled_before_the_call():
    """A caller that is cancelled already does not wait."""
    with ThreadGroup() as group:
        group.cancel()
        with pytest.raises(Cancelled):
            offload(int)


def test_workers_start_from_an_empty_context():
    """Workers see nobody's context variables."""
    variable = contextvars.ContextVar("variable", default="empty")
    variable.set("mine")
    assert offload(variable.get) == "empty"


def test_workers_are_used_again():
    """Calls one after the other need one worker; many at once, many."""
    pool = Offload()

    def body():
        places = set()
        for _ in range(20):
            places.add(pool.call(current_thread(), kernel_ident))
            until(lambda: pool._idle)
        return places

    assert len(run_in_vthread(body)) == 1
    gate = _originals.allocate_lock()
    gate.acquire()
    at_work = []

    def block():
        at_work.append(1)
        with gate:
            pass

    with ThreadGroup() as group:
        for _ in range(30):
            group.spawn(lambda: pool.call(current_thread(), block))
        until(lambda: len(at_work) == 30)
        gate.release()
    assert pool._workers >= 30


def test_more_calls_than_workers(monkeypatch):
    """Beyond the limit calls queue, and all are done in the end."""
    monkeypatch.setattr(_offload, "_MOST_WORKERS", 3)
    pool = Offload()

    def work(n):
        _originals.sleep(0.0005)
        return n

    with ThreadGroup() as group:
        futures = [group.spawn(lambda n=n: pool.call(current_thread(), work, n)) for n in range(60)]
    assert [future.result() for future in futures] == list(range(60))
    assert pool._workers <= 3


def test_idle_workers_end():
    """A worker that has had nothing to do for a while ends, and the next call starts another."""
    pool = Offload(patience=0.002)
    assert pool.call(current_thread(), int) == 0
    until(lambda: pool._workers == 0)
    assert pool.call(current_thread(), int) == 0
    until(lambda: pool._workers == 0)


def test_calls_racing_with_workers_that_end():
    """A call that comes as its worker gives up is not lost."""
    pool = Offload(patience=0.0005)

    def body():
        for _ in range(200):
            assert pool.call(current_thread(), int) == 0
            time.sleep(0.0005)

    run_in_vthread(body)
    until(lambda: pool._workers == 0)


def test_exception_of_a_call_is_no_cycle():
    """The failure of a call does not keep the job alive."""
    import gc
    import weakref

    class Oops(Exception):
        pass

    def fail():
        raise Oops

    def body():
        try:
            offload(fail)
        except Oops as oops:
            return weakref.ref(oops)

    gc.disable()
    try:
        seen = body()
        until(lambda: seen() is None)
    finally:
        gc.enable()


def test_job_that_comes_while_many_workers_are_on_their_way(monkeypatch):
    """Workers that were started for jobs apart do not count for long; what is queued behind them finds a worker."""
    start, held = _originals.start_new_thread, []
    monkeypatch.setattr(_originals, "start_new_thread", lambda *call: held.append(call))
    pool = Offload(patience=0.01)
    is_over = _originals.allocate_lock()
    _originals.lock_acquire(is_over)

    def wait():
        _originals.lock_acquire(is_over)
        _originals.lock_release(is_over)

    for _ in range(_MOST_WORKERS):
        pool.run_apart(wait)
    done = []
    pool.submit(OffloadJob(None, done.append, (1,)))
    assert len(held) == _MOST_WORKERS
    monkeypatch.setattr(_originals, "start_new_thread", start)
    for call in held:
        start(*call)
    until(lambda: done)
    _originals.lock_release(is_over)
    until(lambda: pool.counts().workers == 0)
