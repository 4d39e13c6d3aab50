"""offload: calls that block, beside the virtual threads; what a cancel does to them; other executors."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import logging
import re
import socket
import sqlite3
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import (
    NO_GIL,
    collect,
    finish,
    handler_everywhere,
    interrupt,
    program,
    run_anywhere,
    run_in_vthread,
    run_program,
    until,
    wait_parked,
)

from plait import Cancelled, ThreadGroup, _originals, move_on_after, offload, offload_statistics, timeout
from plait._core import WaitReason, current_thread, runtime
from plait._core import _offload as pools
from plait._native import kernel_ident
from plait._offload import call_on
from plait.testing import cancel_at_park

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])
EXECUTOR = pytest.mark.parametrize("kind", ["pool", "executor"])


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own, with two workers at most, and another such for the calls of plait's own."""
    monkeypatch.setattr(pools, "_MOST_WORKERS", 2)
    pool = pools.Offload()
    monkeypatch.setattr(runtime, "offload", pools.Offload())
    monkeypatch.setattr(runtime, "offload_for_programs", pool)
    return pool


@pytest.fixture
def on(kind, request):
    """Keyword arguments: which executor."""
    return {} if kind == "pool" else {"executor": request.getfixturevalue("executor")}


class Call:
    """A call that blocks its kernel thread until it is let go."""

    def __init__(self):
        self.gate = _originals.allocate_lock()
        self.gate.acquire()
        self.has_begun = False
        self.has_ended = False

    def __call__(self, result=None):
        self.has_begun = True
        _originals.lock_acquire(self.gate)
        self.has_ended = True
        if isinstance(result, BaseException):
            raise result
        return result

    def let_go(self):
        _originals.lock_release(self.gate)


@pytest.fixture
def call():
    call = Call()
    yield call
    if call.has_begun and not call.has_ended:
        call.let_go()
    until(lambda: call.has_begun == call.has_ended and not offload_statistics().abandoned)


# ---- calls


@WHERE
@EXECUTOR
def test_result_and_place(where, on):
    """The call runs on another kernel thread; its result comes back."""

    def body():
        assert offload(pow, 2, 5, **on) == 32
        assert offload(kernel_ident, **on) != kernel_ident()

    run_anywhere(where, body)


@WHERE
@EXECUTOR
def test_exception_comes_back(where, on):
    """What the call raises is raised, as it is, with the call's frames in its traceback."""
    error = KeyError("mine")

    def fail():
        raise error

    def body():
        with pytest.raises(KeyError) as caught:
            offload(fail, **on)
        assert caught.value is error
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert (names[0], names[-1]) == ("body", "fail")

    run_anywhere(where, body)


@WHERE
@EXECUTOR
def test_context_variables(where, on):
    """The call sees a copy of the caller's context variables; what it sets stays there."""
    variable = contextvars.ContextVar("variable", default="empty")

    def call():
        assert variable.get() == "the caller's"
        variable.set("the call's")

    def body():
        variable.set("the caller's")
        offload(call, **on)
        assert variable.get() == "the caller's"

    run_anywhere(where, contextvars.copy_context().run, body)


@EXECUTOR
def test_other_threads_run_meanwhile(on, call):
    """While a call blocks, the carrier runs other virtual threads."""
    with ThreadGroup() as group:
        waiting = wait_parked(group.spawn(offload, call, "late", **on), WaitReason.OFFLOAD)
        assert group.spawn(int).result() == 0
        call.let_go()
    assert waiting.result() == "late"


@EXECUTOR
def test_many_at_a_time(on):
    """Any number of threads may offload at a time; everybody gets an outcome of their own."""

    def work(n):
        _originals.sleep(0.0002)
        return n

    with ThreadGroup() as group:
        futures = [group.spawn(offload, work, n, **on) for n in range(300)]
        assert [offload(work, n, **on) for n in range(20)] == list(range(20))
    assert [future.result() for future in futures] == list(range(300))


def test_keyword_arguments(executor):
    """What is called on an executor for a group may have keyword arguments."""
    assert call_on(executor, int, ("ff",), {"base": 16}) == 255


# ---- cancelled


@EXECUTOR
def test_already_cancelled(on):
    """A caller that is cancelled already calls nothing."""
    called = []
    with ThreadGroup() as group:
        group.cancel()
        with pytest.raises(Cancelled):
            offload(called.append, 1, **on)
    assert called == []


@WHERE
@EXECUTOR
def test_on_cancel_ends_the_call(where, on, call, caplog):
    """`on_cancel` is called on the cancelled thread, once; the call ends, its outcome is dropped, the cancel goes on."""
    places = []

    def stop():
        places.append(current_thread())
        call.let_go()

    def body():
        with move_on_after(3600) as scope:
            with ThreadGroup() as group:

                def cancel():
                    until(lambda: call.has_begun)
                    scope.cancel_scope("enough", scope)

                group.spawn(cancel)
                with pytest.raises(Cancelled, match="enough"):
                    offload(call, KeyError("dropped"), on_cancel=stop, **on)
                assert call.has_ended
        assert places == [current_thread()]

    run_anywhere(where, body)
    assert not caplog.records


@EXECUTOR
def test_call_that_ends_within_the_grace(on, call, caplog):
    """Without an `on_cancel` the call has the grace to end by itself; then nothing is abandoned."""
    before = offload_statistics().abandoned_total

    with ThreadGroup(grace=60) as group:
        future = wait_parked(group.spawn(offload, call, **on), WaitReason.OFFLOAD)
        until(lambda: call.has_begun)
        group.cancel()
        call.let_go()
    assert future.cancelled()
    assert offload_statistics().abandoned_total == before
    assert not caplog.records


@WHERE
@EXECUTOR
@pytest.mark.parametrize("grace", [0, 0.005])
def test_call_that_does_not_end_is_abandoned(where, on, call, caplog, grace, kind):
    """When the grace is over the caller goes, and says so: who, what, since when, where; the call is counted until its end."""
    before = offload_statistics()

    def body():
        with ThreadGroup(grace=grace) as group:

            def cancel():
                until(lambda: call.has_begun)
                group.cancel()

            group.spawn(cancel)
            with pytest.raises(Cancelled):
                offload(call, **on)  # here
            assert not call.has_ended
        now = offload_statistics()
        assert (now.abandoned, now.abandoned_total) == (before.abandoned + 1, before.abandoned_total + 1)

    run_anywhere(where, body)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("plait", logging.WARNING)
    line = body.__code__.co_firstlineno + 9
    text = record.getMessage()
    assert re.match(rf"abandoned a call that was offloaded by '.+', at {re.escape(__file__)}:{line}: ", text)
    if kind == "pool":
        assert re.search(
            rf": {re.escape(repr(call))} has run for 0\.\d seconds, and has a thread of its own until it ends"
            rf"({'; that is here:' if not NO_GIL else ''}\n|$)",
            text,
        )
        assert ("_originals.lock_acquire(self.gate)" in text) is not NO_GIL
    else:
        assert re.search(
            rf": {re.escape(repr(call))} was submitted to <.*ThreadPoolExecutor.*> 0\.\d seconds ago, and runs on there$",
            text,
        )
    call.let_go()
    until(lambda: offload_statistics().abandoned == before.abandoned)
    assert offload_statistics().abandoned_total == before.abandoned_total + 1


def test_queued_call_never_runs(pool, call):
    """A call that still waits for a worker is taken back: it never runs, and `on_cancel` is not called."""
    called = []
    with ThreadGroup() as group:
        blocking = [Call(), Call()]
        for each in blocking:
            group.spawn(offload, each)
        until(lambda: all(each.has_begun for each in blocking))
        queued = wait_parked(group.spawn(lambda: offload(call, on_cancel=lambda: called.append(1))), WaitReason.OFFLOAD)
        until(lambda: offload_statistics().queued == 1)
        queued.cancel()
        until(queued.done)
        assert offload_statistics().queued == 0
        for each in blocking:
            each.let_go()
    assert queued.cancelled()
    assert (called, call.has_begun) == ([], False)
    assert offload_statistics().abandoned_total == 0


def test_pending_call_of_an_executor_never_runs(call):
    """So is one that an executor has not begun."""
    called = []
    before = offload_statistics().abandoned_total
    with ThreadPoolExecutor(1) as executor, ThreadGroup() as group:
        blocking = Call()
        group.spawn(offload, blocking, executor=executor)
        until(lambda: blocking.has_begun)
        pending = group.spawn(lambda: offload(call, on_cancel=lambda: called.append(1), executor=executor))
        wait_parked(pending, WaitReason.OFFLOAD).cancel()
        until(pending.done)
        blocking.let_go()
    assert pending.cancelled()
    assert (called, call.has_begun) == ([], False)
    assert offload_statistics().abandoned_total == before


def test_abandoned_calls_leave_room_for_others(pool):
    """Workers at abandoned calls do not count against the limit, and end with their calls."""
    calls = [Call() for _ in range(6)]
    with ThreadGroup() as group:
        futures = [group.spawn(offload, each) for each in calls]
        until(lambda: offload_statistics().queued == 4)
        for number in range(6):
            until(lambda: sum(each.has_begun for each in calls) == min(6, number + 2))
            future = next(f for f, each in zip(futures, calls) if each.has_begun and not f.done())
            future.cancel_scope("enough", future, 0)
            until(lambda: sum(future.done() for future in futures) == number + 1)
        assert group.spawn(offload, pow, 2, 3).result() == 8
    now = offload_statistics()
    assert (now.abandoned, now.abandoned_total, now.queued) == (6, 6, 0)
    assert now.workers <= 2
    for each in calls:
        each.let_go()
    until(lambda: offload_statistics().abandoned == 0)
    until(lambda: offload_statistics().idle == offload_statistics().workers)
    assert offload_statistics().workers <= 2


def test_calls_of_plait_itself_have_other_workers(pool):
    """Calls that take all workers may wait for a thread that looks up a name first."""
    calls = [Call() for _ in range(3)]

    def let_go():
        address = socket.gethostbyname("localhost")
        for each in calls:
            each.let_go()
        return address

    with ThreadGroup(timeout=30) as group:
        futures = [group.spawn(offload, each) for each in calls]
        until(lambda: sum(each.has_begun for each in calls) == 2)
        assert group.spawn(let_go).result().startswith("127.")
    assert all(future.done() for future in futures)
    until(lambda: offload_statistics().idle == offload_statistics().workers)
    assert (pool.counts().workers, offload_statistics().workers) == (2, 3)


@EXECUTOR
def test_on_cancel_that_fails(on, call, caplog):
    """What `on_cancel` raises is logged; the cancel goes on, and so does the call."""

    def stop():
        raise KeyError("cannot")

    with ThreadGroup(grace=0.001) as group:
        future = group.spawn(lambda: offload(call, on_cancel=stop, **on))
        until(lambda: call.has_begun and wait_parked(future))
        group.cancel()
    assert future.cancelled()
    failed, abandoned = caplog.records
    assert re.fullmatch(
        r"on_cancel <function .*stop at .*> has failed: the call that it should have ended goes on", failed.getMessage()
    )
    assert (failed.levelno, failed.exc_info[0]) == (logging.ERROR, KeyError)
    assert abandoned.levelno == logging.WARNING


@EXECUTOR
def test_on_cancel_may_park(on, call):
    """`on_cancel` may wait, until the grace is over."""
    steps = []

    def stop():
        time.sleep(0.001)
        steps.append("slept")
        time.sleep(3600)
        steps.append("never")

    with ThreadGroup(grace=0.1) as group:
        future = group.spawn(lambda: offload(call, on_cancel=stop, **on))
        until(lambda: call.has_begun and wait_parked(future))
        group.cancel()
    assert future.cancelled()
    assert steps == ["slept"]


@EXECUTOR
def test_clean_up_after_an_abandoned_call(on, call):
    """The Cancelled that leaves an abandoned call is the one that counts: clean-up that parks is told, and not accused."""
    steps = []

    def child():
        try:
            offload(call, **on)
        finally:
            steps.append("clean-up")
            try:
                time.sleep(3600)
            finally:
                steps.append("told")

    with ThreadGroup(grace=0.001) as group:
        future = group.spawn(child)
        until(lambda: call.has_begun and wait_parked(future))
        group.cancel()
    assert future.cancelled()
    assert steps == ["clean-up", "told"]


def test_time_limit(call):
    """A time limit around an offloaded call is a cancel like any other."""
    with pytest.raises(TimeoutError, match=r"not done within 0.01 seconds"), timeout(0.01):
        offload(call, on_cancel=call.let_go)


@EXECUTOR
def test_result_that_came_first_is_delivered(on, call):
    """A call that has ended before the cancel wins: the caller gets its result, and the cancel at the next point."""
    if len(runtime.carriers) > 1:
        pytest.skip("only with one carrier can the caller be kept from going on")
    outcomes = []

    def caller():
        outcomes.append(offload(call, "result", **on))
        time.sleep(3600)
        outcomes.append("never")

    def body():
        with ThreadGroup() as group:
            future = wait_parked(group.spawn(caller), WaitReason.OFFLOAD)
            until(lambda: call.has_begun)
            call.let_go()
            while future.is_waiting():
                _originals.sleep(0.0001)  # the carrier stands still meanwhile
            group.cancel()

    run_in_vthread(body)
    assert outcomes == ["result"]


@EXECUTOR
def test_cancelled_at_each_park(on):
    """Wherever offload waits it can be cancelled, and nothing is left."""

    def let_go(call, scope):
        until(lambda: call.has_begun or scope.was_reached)
        time.sleep(0.0001)
        if not scope.was_reached:
            call.let_go()

    k = 0
    was_reached = True
    while was_reached:
        k += 1
        call = Call()
        with cancel_at_park(k, grace=60) as scope:
            with ThreadGroup() as group:
                group.spawn(lambda: offload(call, on_cancel=call.let_go, **on))
                group.spawn(let_go, call, scope)
        was_reached = scope.was_reached
        until(lambda: call.has_begun == call.has_ended)
    assert k > 2
    assert offload_statistics().abandoned == 0


# ---- Ctrl-C


@pytest.mark.parametrize("stop", ["None", "call.let_go"])
def test_ctrl_c(stop):
    """Ctrl-C in the main thread leaves the call: at once, or when `on_cancel` has ended it."""
    code = f"""
        import threading
        from plait import offload, offload_statistics, _originals

        class call:
            gate = _originals.allocate_lock()
            gate.acquire()
            ended = False
            let_go = staticmethod(lambda: _originals.lock_release(call.gate))

        def block():
            print("blocks", flush=True)
            _originals.lock_acquire(call.gate)
            call.ended = True

        try:
            offload(block, on_cancel={stop})
        except KeyboardInterrupt:
            print(call.ended, offload_statistics().abandoned)
    """
    with program(code) as process:
        assert process.stdout.readline() == "blocks\n"
        interrupt(process)
        out, err = finish(process)
    assert out.split() == (["False", "1"] if stop == "None" else ["True", "0"])
    assert ("abandoned a call that was offloaded by 'MainThread'" in err) is (stop == "None")


# ---- uses


@WHERE
def test_sqlite_is_interrupted(where):
    """A query without end is ended by the connection's `interrupt`, and the connection is as good as before."""
    running = threading.Event()
    with sqlite3.connect(":memory:", check_same_thread=False) as connection:
        connection.create_function("running", 0, running.set)
        endless = "WITH RECURSIVE n(x) AS (SELECT running() UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"

        def query():
            return connection.execute(endless).fetchall()

        def body():
            with ThreadGroup() as group:
                group.spawn(lambda: running.wait() and group.cancel())
                offload(query, on_cancel=connection.interrupt)
            assert offload(lambda: connection.execute("SELECT 1").fetchall()) == [(1,)]

        run_anywhere(where, body)
    connection.close()
    assert offload_statistics().abandoned == 0


@pytest.mark.slow
def test_process_pool():
    """A process pool is an executor: results, errors, and cancels while a call is pending."""
    out, _ = run_program(
        """
        import multiprocessing, operator, os, time
        from concurrent.futures import ProcessPoolExecutor
        from plait import ThreadGroup, offload

        if __name__ == "__main__":
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                with ThreadGroup() as group:
                    futures = [group.spawn(offload, pow, n, 2, executor=pool) for n in range(10)]
                    places = {group.spawn(offload, os.getpid, executor=pool).result() for _ in range(3)}
                print([future.result() for future in futures], len(places), os.getpid() in places)
                try:
                    offload(operator.truediv, 1, 0, executor=pool)
                except ZeroDivisionError as error:
                    print(error, "RemoteTraceback" in type(error.__cause__).__name__)
                with ThreadGroup() as group:
                    pending = [group.spawn(offload, time.sleep, 0.05, executor=pool) for _ in range(20)]
                    time.sleep(0.01)
                    group.cancel()
                print(all(future.cancelled() for future in pending))
        """
    )
    assert out.splitlines() == [
        "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81] 1 False",
        "division by zero True",
        "True",
    ]


def test_executor_that_is_shut_down():
    """What submit raises is raised; a call whose executor gives it up ends with the futures' CancelledError."""
    executor = ThreadPoolExecutor(1)
    call = Call()
    with ThreadGroup() as group:
        blocking = group.spawn(offload, call, executor=executor)
        until(lambda: call.has_begun)

        def given_up():
            with pytest.raises(concurrent.futures.CancelledError):
                offload(int, executor=executor)

        pending = wait_parked(group.spawn(given_up), WaitReason.OFFLOAD)
        executor.shutdown(wait=False, cancel_futures=True)
        pending.result()
        call.let_go()
        blocking.result()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        offload(int, executor=executor)
    executor.shutdown()


# ---- memory


class Thing:
    """Something whose end can be seen."""


# Without a GIL an object that two threads have used goes when the one that made it next runs, which a worker may not.
await_end = collect if NO_GIL else until


@pytest.fixture
def no_collector():
    gc.disable()
    yield
    gc.enable()


@EXECUTOR
@pytest.mark.parametrize("where", ["main", "virtual"])
def test_nothing_is_kept(where, on, no_collector):
    """Arguments, results and errors go when nobody needs them any more, without the help of the collector."""
    seen = []

    def give(thing):
        return Thing()

    class Oops(Exception):
        pass

    def fail(thing):
        raise Oops

    def body():
        thing = Thing()
        seen.append(weakref.ref(thing))
        seen.append(weakref.ref(offload(give, thing, **on)))
        try:
            offload(fail, thing, **on)
        except Oops as error:
            seen.append(weakref.ref(error))

    run_anywhere(where, body)
    await_end(lambda: [ref() for ref in seen] == [None, None, None])


@EXECUTOR
def test_abandoned_call_keeps_nothing_when_it_ends(on, call, no_collector):
    """An abandoned call lets go of its arguments and its result when it ends; one that never runs, at once."""
    thing = Thing()
    seen = weakref.ref(thing)
    with ThreadGroup(grace=0) as group:
        future = group.spawn(offload, call, thing, **on)
        until(lambda: call.has_begun)
        wait_parked(future)
        group.cancel()
    del thing, future, group
    assert seen() is not None
    call.let_go()
    await_end(lambda: seen() is None)


# ---- misuse


@pytest.mark.parametrize(
    ("fn", "options", "sentence"),
    [
        (3, {}, "offload needs something to call, not 3: write offload(fn, x), not offload(fn(x))"),
        (
            int,
            {"on_cancel": 3},
            (
                "on_cancel must be something to call without arguments, or None, not 3: write on_cancel=connection.interrupt, "
                "not on_cancel=connection.interrupt()"
            ),
        ),
        (
            int,
            {"executor": "threads"},
            "executor must be a concurrent.futures.Executor, something with a method submit(fn, ...), not 'threads'",
        ),
        (
            int,
            {"executor": ThreadPoolExecutor},
            (
                "executor must be a concurrent.futures.Executor, something with a method submit(fn, ...), not "
                "<class 'concurrent.futures.thread.ThreadPoolExecutor'>"
            ),
        ),
    ],
)
def test_wrong_arguments(fn, options, sentence):
    """Arguments that make no sense are refused with a sentence."""
    with pytest.raises(TypeError) as caught:
        offload(fn, **options)
    assert str(caught.value) == sentence


def test_executor_whose_submit_gives_no_future():
    """Something with a submit method is not an executor by that alone."""

    class Typist:
        def __repr__(self):
            return "<typist>"

        def submit(self, fn, *args):
            return "a form"

    with pytest.raises(TypeError) as caught:
        offload(int, executor=Typist())
    assert str(caught.value) == "<typist> is no executor: its submit() has given 'a form', which is no future"


def test_no_thread_can_be_started(pool, monkeypatch):
    """If the pool cannot start its only worker, whoever waits for it gets the error."""

    def refuse(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_originals, "start_new_thread", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        offload(int)
    monkeypatch.undo()
    assert offload(int) == 0


# ---- statistics


def test_statistics(pool, call):
    """Workers, idle and queued calls are counted, and cannot be written."""
    assert offload_statistics() == type(offload_statistics())(0, 0, 0, 0, 0)
    with ThreadGroup() as group:
        group.spawn(offload, call)
        until(lambda: call.has_begun)
        now = offload_statistics()
        assert (now.workers, now.idle, now.queued) == (1, 0, 0)
        call.let_go()
    until(lambda: offload_statistics().idle == 1)
    with pytest.raises(AttributeError):
        now.workers = 3


def test_statistics_in_a_handler():
    """A handler may use the pool in the middle of a look at its statistics."""
    seen = []
    with handler_everywhere(lambda: seen.append(offload(int))):
        offload_statistics()
    assert set(seen) == {0}
