"""Future: what spawn returns is a concurrent.futures.Future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import threading
import time
import weakref

import pytest
from support import collect, is_parked, platform_thread, run_anywhere, run_in_vthread, until, wait_parked

from plait import Cancelled, Future, ThreadGroup, timeout
from plait._core import WaitReason, current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    pass


def fail(error):
    raise error


def sleep_forever():
    time.sleep(3600)


@WHERE
def test_result_waits_for_the_value(where):
    """result() parks until the call has returned, on each kind of thread."""

    def body():
        me = current_thread()

        def give():
            until(lambda: is_parked(me, WaitReason.FUTURE))
            return "value"

        with ThreadGroup() as group:
            future = group.spawn(give)
            assert not future.done()
            assert future.result() == "value"
            assert future.done()
            assert not future.running()
            assert not future.cancelled()
            assert future.exception() is None

    run_anywhere(where, body)


@WHERE
def test_exception_comes_as_it_is(where):
    """result() raises the very exception of the call; exception() returns it."""
    error = Oops("as it is")

    def body():
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            future = group.spawn(fail, error)
        with pytest.raises(Oops) as caught:
            future.result()
        assert caught.value is error
        assert future.exception() is error

    run_anywhere(where, body)


@WHERE
def test_result_with_a_timeout(where):
    """result(timeout) raises TimeoutError, and the call goes on."""

    def body():
        gate = threading.Event()
        with ThreadGroup() as group:
            future = group.spawn(gate.wait)
            for seconds in (0, 0.005, -1):
                with pytest.raises(TimeoutError, match="was not done after"):
                    future.result(seconds)
            gate.set()
            assert future.result(20) is True

    run_anywhere(where, body)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ("1", TypeError, "timeout must be a number of seconds, not '1'"),
        (True, TypeError, "timeout must be a number of seconds, not True"),
        (float("nan"), ValueError, "timeout must be 0 or more seconds, not nan"),
    ],
)
def test_result_with_a_wrong_timeout(wrong, error, text):
    """A timeout that is no number of seconds is refused, by name and value."""
    with ThreadGroup() as group:
        future = group.spawn(sleep_forever)
        for wait in (future.result, future.exception):
            with pytest.raises(error) as caught:
                wait(wrong)
            assert str(caught.value) == text
        group.cancel()


@WHERE
def test_cancelled_child_raises_cancelled_error(where):
    """result() of a cancelled child raises CancelledError, an Exception, never plait's own Cancelled."""

    def body():
        with ThreadGroup() as group:
            future = wait_parked(group.spawn(sleep_forever))
            assert future.cancel()
            with pytest.raises(concurrent.futures.CancelledError):
                future.result()
            with pytest.raises(concurrent.futures.CancelledError):
                future.exception()
        assert future.cancelled()
        assert future.cancel()
        assert not issubclass(concurrent.futures.CancelledError, Cancelled)

    run_anywhere(where, body)


def test_cancel_of_one_child_is_no_error_for_the_group():
    """future.cancel() cancels that child alone."""
    with ThreadGroup() as group:
        one, other = group.spawn(sleep_forever), group.spawn(sleep_forever)
        wait_parked(one)
        wait_parked(other)
        one.cancel()
        until(one.done)
        assert not other.done()
        other.cancel()
    assert group.exception is None


def test_cancel_before_the_start():
    """A child cancelled before it starts never runs, and its function and arguments are released."""

    class Thing:
        def __call__(self, argument):
            ran.append(argument)

    ran = []

    def body():
        thing, argument = Thing(), Thing()
        seen = weakref.ref(thing), weakref.ref(argument)
        with ThreadGroup() as group:
            future = group.spawn(thing, argument)
            # With several carriers another may have stolen it: then it has run by now.
            is_first = future.cancel() and not ran
            del thing, argument
        return future, seen, is_first

    for _ in range(50):
        ran.clear()
        future, seen, is_first = run_in_vthread(body)
        if future.cancelled():
            break
    assert future.cancelled()
    assert ran == []
    collect(lambda: seen[0]() is None and seen[1]() is None)


def test_cancel_after_the_end():
    """A call that is over cannot be cancelled."""
    with ThreadGroup() as group:
        future = group.spawn(int)
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result() == 0


def test_reason_that_cannot_be_said():
    """A reason whose `str` fails is said by its class: whoever asks for the outcome is told of the cancel."""

    class Unsaid:
        def __str__(self):
            raise Oops

    with ThreadGroup() as group:
        future = wait_parked(group.spawn(sleep_forever))
        group.cancel(Unsaid())
    with pytest.raises(concurrent.futures.CancelledError) as caught:
        future.result()
    assert str(caught.value) == f"{future!r} was cancelled (Unsaid (which has no str))"


def test_cancelled_child_that_returns_all_the_same():
    """A child that finishes in spite of its cancel has a result: a value is never thrown away."""

    def stubborn():
        try:
            time.sleep(3600)
        except Cancelled:
            return "value"

    with ThreadGroup() as group:
        future = wait_parked(group.spawn(stubborn))
        future.cancel()
    assert future.result() == "value"
    assert not future.cancelled()


def test_arguments_and_context_are_released_at_the_end():
    """A finished future holds the result alone: neither arguments nor context."""

    class Thing:
        pass

    variable = contextvars.ContextVar("variable")

    def body():
        argument, value = Thing(), Thing()
        seen = weakref.ref(argument), weakref.ref(value)
        variable.set(value)
        with ThreadGroup() as group:
            future = group.spawn(id, argument)
            until(future.done)
        return future, seen

    future, seen = contextvars.Context().run(run_in_vthread, body)
    collect(lambda: seen[0]() is None and seen[1]() is None)
    assert future.done()


def test_collector_does_not_visit_unfinished_threads():
    """They are in use by all means. Afterwards a future in a cycle is found like everything else."""
    gate = threading.Event()
    with ThreadGroup() as group:
        future = group.spawn(gate.wait)
        assert not gc.is_tracked(future)
        assert not gc.is_tracked(wait_parked(future))
        gate.set()
    assert gc.is_tracked(future)
    result = group_of_itself()
    assert gc.is_tracked(result)
    seen = weakref.ref(result)
    del result
    collect(lambda: seen() is None)


def group_of_itself():
    """A future whose result holds the future."""
    found = []
    with ThreadGroup() as group:
        found.append(group.spawn(lambda: found))
    return found[0]


def test_failed_future_is_no_cycle():
    """Raising a failure through result() leaves no reference cycle behind."""
    gc.collect()
    gc.disable()
    try:

        def body():
            seen = []
            with pytest.raises(ExceptionGroup), ThreadGroup() as group:
                future = group.spawn(fail, Oops())
                seen.append(weakref.ref(future))
            try:
                future.result()
            except Oops:
                pass
            return seen[0]

        seen = body()
        # The exception's traceback holds frames, which must not hold the future.
        del body
        gc.collect()
        assert seen() is None
    finally:
        gc.enable()


def test_wait_for_ones_own_outcome():
    """A thread that waits for itself gets an error at once."""
    own = []

    def wait_for_myself():
        until(lambda: own)
        with pytest.raises(RuntimeError, match="cannot wait for its own outcome"):
            own[0].result()

    with ThreadGroup() as group:
        own.append(group.spawn(wait_for_myself))


@pytest.mark.parametrize("wait", [concurrent.futures.wait, lambda own: list(concurrent.futures.as_completed(own))])
def test_wait_for_ones_own_outcome_among_others(wait):
    """The functions of concurrent.futures say so, too; but not to a callback, which runs when the outcome is there."""
    own, told = [], []

    def wait_for_myself():
        until(lambda: own)
        with pytest.raises(RuntimeError, match=r"^<Future of .* running> cannot wait for its own outcome$"):
            wait([group.spawn(int), own[0]])

    def wait_at_the_end(future):
        wait([future])
        told.append(future)

    with ThreadGroup(timeout=10) as group:
        future = group.spawn(wait_for_myself)
        future.add_done_callback(wait_at_the_end)
        own.append(future)
    assert told == own


def test_waiters_of_every_kind_are_all_told():
    """Any number of threads, virtual and platform, may wait for one future; one cancelled among them changes nothing."""
    gate = threading.Event()
    with ThreadGroup() as group:
        future = group.spawn(gate.wait)
        waiters = [wait_parked(group.spawn(future.result), WaitReason.FUTURE) for _ in range(10)]
        waiters[3].cancel()
        until(waiters[3].done)
        with platform_thread(future.result) as one, platform_thread(future.result, 20) as two:
            gate.set()
        assert one == two == [(None, True)]
    assert [waiter.cancelled() for waiter in waiters] == [n == 3 for n in range(10)]


# ---- concurrent.futures


def test_it_is_a_concurrent_future():
    """isinstance says so, and its outcome is set by nobody else."""
    with ThreadGroup() as group:
        future = group.spawn(int)
        assert isinstance(future, concurrent.futures.Future)
        assert isinstance(future, Future)
        until(future.done)
        advice = "for an outcome that you set, make a concurrent.futures.Future"
        for call in (lambda: future.set_result(1), lambda: future.set_exception(Oops())):
            with pytest.raises(RuntimeError) as caught:
                call()
            assert str(caught.value) == f"the outcome of {future!r} is set by the call that it stands for: {advice}"
        with pytest.raises(RuntimeError) as caught:
            future.set_running_or_notify_cancel()
        assert str(caught.value) == f"{future!r} is started by plait: {advice}"


@WHERE
def test_wait(where):
    """concurrent.futures.wait works in all three modes."""

    def body():
        gates = [threading.Event() for _ in range(3)]
        with ThreadGroup() as group:
            futures = [group.spawn(gate.wait) for gate in gates]
            done, _ = concurrent.futures.wait(futures, timeout=0.005)
            assert done == set()
            group.spawn(gates[1].set)
            done, pending = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED)
            assert done == {futures[1]}
            assert len(pending) == 2
            group.spawn(gates[0].set)
            group.spawn(gates[2].set)
            done, pending = concurrent.futures.wait(futures)
            assert len(done) == 3
        assert concurrent.futures.wait(futures).done == set(futures)

    run_anywhere(where, body)


def test_wait_for_the_first_exception():
    """FIRST_EXCEPTION sees a failure, also on a platform thread outside the group."""
    with pytest.raises(ExceptionGroup), ThreadGroup() as group:
        futures = [group.spawn(sleep_forever)]
        wait_parked(futures[0])

        def outside():
            return concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)

        futures.append(
            group.spawn(lambda: until(lambda: futures[-1]._condition and futures[-1]._waiters) and fail(Oops()))
        )
        with platform_thread(outside) as outcome:
            until(lambda: outcome)
    assert futures[1] in outcome[0][1].done


@WHERE
def test_as_completed(where):
    """concurrent.futures.as_completed gives futures in the order in which they end, finished ones included."""

    def body():
        gates = [threading.Event() for _ in range(4)]
        order = [2, 0, 3, 1]

        def open_next(number):
            if number < len(order):
                gates[order[number]].set()

        with ThreadGroup() as group:
            futures = [group.spawn(lambda n=n: gates[n].wait() and n) for n in range(4)]
            open_next(0)
            seen = []
            for future in concurrent.futures.as_completed(futures, timeout=20):
                seen.append(future.result())
                open_next(len(seen))
        assert seen == order
        assert {future.result() for future in concurrent.futures.as_completed(futures)} == {0, 1, 2, 3}

    run_anywhere(where, body)


def test_as_completed_reports_cancelled_ones():
    """A cancelled future completes, too."""
    with ThreadGroup() as group:
        future = wait_parked(group.spawn(sleep_forever))
        group.spawn(future.cancel)
        assert list(concurrent.futures.as_completed([future])) == [future]
    assert future.cancelled()


def test_add_done_callback_before_and_after_the_end():
    """Callbacks added before the end run on the finishing thread, in order; later ones at once."""
    gate = threading.Event()
    calls = []
    with ThreadGroup() as group:
        future = group.spawn(gate.wait)
        future.add_done_callback(lambda f: calls.append((1, f, f.done(), current_thread())))
        future.add_done_callback(lambda f: calls.append((2, f, f.done(), current_thread())))
        gate.set()
    assert calls == [(1, future, True, future), (2, future, True, future)]
    future.add_done_callback(lambda f: calls.append(f))
    assert calls[2] is future


def test_done_callback_that_raises(caplog):
    """What a callback raises is logged, and no concern of the others."""
    calls = []
    with ThreadGroup() as group:
        gate = threading.Event()
        future = group.spawn(gate.wait)
        future.add_done_callback(lambda f: fail(Oops("callback")))
        future.add_done_callback(calls.append)
        gate.set()
    assert calls == [future]
    [record] = caplog.records
    assert record.getMessage() == f"exception calling callback for {future!r}"
    future.add_done_callback(lambda f: fail(Oops("late callback")))
    assert "late callback" in caplog.text


def test_done_callback_called_at_once_may_be_interrupted():
    """A callback that is called at once is part of what the caller does: an interrupt or a cancel of it passes through."""
    with ThreadGroup() as group:
        future = group.spawn(int)
    for kind in KeyboardInterrupt, SystemExit, Cancelled:
        with pytest.raises(kind):
            future.add_done_callback(lambda f: fail(kind()))


def test_done_callback_may_park():
    """A callback runs on a virtual thread that may park: the group waits for it, too."""
    calls = []
    with ThreadGroup() as group:
        gate = threading.Event()
        future = group.spawn(gate.wait)
        future.add_done_callback(lambda f: (time.sleep(0.005), calls.append(f)))
        gate.set()
    assert calls == [future]


def test_wrap_future_under_asyncio():
    """asyncio.wrap_future awaits a virtual thread from an event loop on a platform thread."""

    async def main():
        values = [await asyncio.wrap_future(group.spawn(pow, 2, n)) for n in range(5)]
        slow = group.spawn(time.sleep, 0.005)
        await asyncio.wait_for(asyncio.wrap_future(slow), 20)
        return values

    with ThreadGroup() as group:
        assert group.spawn(int).result() == 0
        with platform_thread(lambda: asyncio.run(main())) as outcome:
            until(lambda: outcome)
    assert outcome == [(None, [1, 2, 4, 8, 16])]


@WHERE
def test_wrapped_future_on_the_loop_of_a_cancelled_thread(where):
    """An outcome that is there comes into the loop, whose next wait is ended by the cancel."""
    seen = []

    async def wait(done, group):
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context))
        wrapped = asyncio.wrap_future(done)
        group.cancel()
        seen.append(await wrapped)
        await asyncio.sleep(3600)

    def body():
        with ThreadGroup() as group:
            done = group.spawn(int)
            until(done.done)
            asyncio.run(wait(done, group))

    run_anywhere(where, body)
    assert seen == [0]


def test_cancelling_a_wrapped_future_cancels_the_child():
    """Cancelling asyncio's side cancels the virtual thread."""
    children = []

    async def main():
        children.append(wait_parked(group.spawn(sleep_forever)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(children[0]), 0.01)

    with ThreadGroup() as group:
        with platform_thread(lambda: asyncio.run(main())) as outcome:
            until(lambda: outcome)
    assert outcome == [(None, None)]
    assert children[0].cancelled()


def test_result_is_a_cancel_point():
    """A thread that waits for a future is interrupted by its own cancellation, and the future goes on."""
    gate = threading.Event()
    with ThreadGroup() as group:
        future = group.spawn(gate.wait)
        with pytest.raises(TimeoutError), timeout(0.005):
            future.result()
        waiter = wait_parked(group.spawn(future.result))
        waiter.cancel()
        until(waiter.done)
        assert not future.done()
        gate.set()
    assert future.result() is True


def test_completed_wait_is_delivered():
    """A result that has come is delivered, even to a thread that is cancelled before it runs again (I5)."""
    got = []

    def waiter(future):
        got.append(future.result())
        time.sleep(0)
        got.append("went on")

    def body():
        gate = threading.Event()
        with ThreadGroup() as group:
            future = group.spawn(gate.wait)
            child = wait_parked(group.spawn(waiter, future), WaitReason.FUTURE)
            future.add_done_callback(lambda f: child.cancel())  # right after the waiters were woken
            gate.set()
        return child

    run_in_vthread(body)
    assert got[0] is True  # with several carriers the waiter may have gone on before the cancel


def test_many_futures_racing_with_their_watchers():
    """A watcher that comes while a future ends is never forgotten."""

    def body():
        with ThreadGroup() as group:
            for _ in range(300):
                future = group.spawn(time.sleep, 0)
                calls = []
                group.spawn(future.add_done_callback, calls.append)
                assert future.result(20) is None
                until(lambda: calls == [future])

    body()
    run_in_vthread(body)


def test_callback_that_spawns_into_its_own_full_group():
    """A callback runs as a member of the group: it hands its slot over like any other."""
    with ThreadGroup(max_concurrency=1) as group:
        spawned = []
        gate = threading.Event()
        first = group.spawn(gate.wait)
        first.add_done_callback(lambda _: spawned.append(ThreadGroup.current.spawn(int)))
        gate.set()
        until(lambda: spawned)
        assert spawned[0].group is group
    assert spawned[0].result() == 0
    assert group.available == 1


def test_callback_that_waits_is_cancelled_with_the_group(caplog):
    """A callback that waits for ever ends with its group, as clean-up does, within the grace."""
    seen = []

    def wait_for_ever(future):
        try:
            time.sleep(3600)
        except Cancelled as cancelled:
            seen.append(cancelled.source)
            raise

    with ThreadGroup(grace=0.02) as group:
        thread = group.spawn(time.sleep, 3600)
        thread.add_done_callback(wait_for_ever)
        wait_parked(thread, WaitReason.SLEEP)
        group.cancel()
    assert seen == [group]
    assert thread.cancelled()
    assert "exception calling callback" in caplog.text


@pytest.mark.parametrize("timeout", ["1", None, True])
def test_wrong_timeout_of_result(timeout):
    """A timeout is a number of seconds; one that is past does not wait."""
    with ThreadGroup() as group:
        waiting = group.spawn(time.sleep, 3600)
        if timeout is not None:
            with pytest.raises(TypeError, match=f"^timeout must be a number of seconds, not {timeout!r}$"):
                waiting.result(timeout)
        with pytest.raises(TimeoutError):
            waiting.result(-1)
        waiting.cancel()


def test_end_without_grace_while_the_condition_is_held():
    """A thread that ends cancelled, with no grace left, waits nevertheless for who looks at its future just then."""
    held, go, gate = threading.Event(), threading.Event(), threading.Event()

    def look(future):
        with future._condition:  # as the functions of concurrent.futures do
            held.set()
            go.wait()

    with ThreadGroup() as others:
        with ThreadGroup(grace=0.0) as group:
            future = group.spawn(gate.wait)
            others.spawn(look, future)
            held.wait()
            wait_parked(future)
            group.cancel()
            wait_parked(future, WaitReason.LOCK)
            go.set()
        assert others.spawn(int).result() == 0  # its carrier goes on
    assert future.cancelled()
    assert concurrent.futures.wait([future]).done == {future}
