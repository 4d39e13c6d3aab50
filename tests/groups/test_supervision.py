"""on_error: what becomes of a child that fails, and of its group."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest
from support import run_anywhere, until, wait_parked

from plait import Cancelled, ThreadGroup
from plait._core import WaitReason

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    """A failure of these tests."""


def fail(error):
    raise error


# ---- collect


@WHERE
def test_collect_lets_all_run(where):
    """With "collect" a failure cancels nobody; the block raises all failures at its end."""

    def body():
        gate = threading.Event()
        first, second = Oops("first"), Oops("second")
        with pytest.raises(ExceptionGroup) as caught:
            with ThreadGroup(on_error="collect") as group:
                waiting = group.spawn(gate.wait)
                failed = group.spawn(fail, first)
                until(failed.done)
                assert group.exception is first
                assert group.spawn(pow, 2, 3).result() == 8
                group.spawn(fail, second)
                gate.set()
        assert caught.value.exceptions == (first, second)
        assert waiting.result() is True
        assert failed.exception() is first

    run_anywhere(where, body)


def test_collect_takes_the_body_for_a_member():
    """An error of the body does not cancel the children either."""
    gate = threading.Event()
    error = Oops("body")

    def open_gate():
        until(lambda: group.exception is error)
        gate.set()

    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup(on_error="collect") as group:
            child = group.spawn(gate.wait)
            group.spawn(open_gate)
            raise error
    assert caught.value.exceptions == (error,)
    assert child.result() is True


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_what_is_no_exception_cancels_in_any_case(error):
    """SystemExit of a child ends everything, collected or not."""
    with pytest.raises(type(error)) as caught:
        with ThreadGroup(on_error="collect") as group:
            other = group.spawn(time.sleep, 3600)
            group.spawn(fail, error)
    assert caught.value is error
    assert other.cancelled()


# ---- a function that decides


@WHERE
def test_cancel(where):
    """An answer "cancel" is what happens without a function."""
    error = Oops()
    asked = []

    def decide(future, exception):
        asked.append((future, exception, threading.current_thread().name))
        return "cancel"

    def body():
        asked.clear()
        with pytest.raises(ExceptionGroup) as caught:
            with ThreadGroup(on_error=decide) as group:
                other = group.spawn(time.sleep, 3600)
                failed = group.options(name="failing").spawn(fail, error)
        assert caught.value.exceptions == (error,)
        assert other.cancelled()
        assert asked == [(failed, error, "failing")]

    run_anywhere(where, body)


@WHERE
def test_ignore(where):
    """An answer "ignore" leaves the failure to the future; the group goes on and ends well."""
    error = Oops()

    def body():
        with ThreadGroup(on_error=lambda future, exception: "ignore") as group:
            failed = group.spawn(fail, error)
            until(failed.done)
            assert group.exception is None
            fine = group.spawn(pow, 2, 3)
        assert failed.exception() is error
        assert fine.result() == 8

    run_anywhere(where, body)


@WHERE
def test_restart(where):
    """An answer "restart" calls the function again, with its arguments, on the same thread and for the same future."""

    def body():
        attempts = []

        def flaky(limit, *, step):
            attempts.append((limit, step, threading.get_ident()))
            if len(attempts) < limit:
                raise Oops(len(attempts))
            return "fine"

        with ThreadGroup(max_concurrency=1, on_error=lambda future, exception: "restart") as group:
            future = group.spawn(flaky, 3, step=1)
            assert future.result() == "fine"
        assert attempts == [(3, 1, future.ident)] * 3
        assert group.available == 1
        assert future.exception() is None

    run_anywhere(where, body)


def test_restarts_let_others_run():
    """A call that fails at once, again and again, does not keep its neighbours from running."""

    def neighbour():
        for _ in range(3):
            time.sleep(0)
        return "done"

    with ThreadGroup(on_error=lambda future, exception: "restart") as group:
        group.spawn(fail, Oops())
        assert group.spawn(neighbour).result() == "done"
        group.cancel()


def test_restarts_let_time_pass():
    """Nor does it keep the group's time from passing."""
    with pytest.raises(TimeoutError):
        with ThreadGroup(timeout=0.05, on_error=lambda future, exception: "restart") as group:
            group.spawn(fail, Oops())


def test_restarts_keep_the_context():
    """A restarted call goes on with the context variables of its thread."""
    var = contextvars.ContextVar("var", default=0)
    seen = []

    def count():
        seen.append(var.get())
        var.set(var.get() + 1)
        if len(seen) < 3:
            raise Oops

    with ThreadGroup(on_error=lambda future, exception: "restart") as group:
        group.spawn(count)
    assert seen == [0, 1, 2]
    assert var.get() == 0


def test_function_may_wait_and_is_cancelled_with_the_group():
    """A pause before the next attempt is cut short when the group is cancelled; what was to be put right stays quiet."""
    error = Oops()

    def later(future, exception):
        time.sleep(3600)
        return "restart"

    for cancel in (lambda group, child: group.cancel(), lambda group, child: child.cancel()):
        with ThreadGroup(on_error=later) as group:
            child = wait_parked(group.spawn(fail, error), WaitReason.SLEEP)
            cancel(group, child)
        assert child.exception() is error


def test_failure_that_was_to_be_put_right_beside_another():
    """In a group that fails for another reason it is raised with that."""
    first, second = Oops("first"), Oops("second")
    asked = []

    def later(future, exception):
        asked.append(exception)
        if exception is second:
            return "cancel"
        time.sleep(3600)

    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup(on_error=later) as group:
            wait_parked(group.spawn(fail, first), WaitReason.SLEEP)
            group.spawn(fail, second)
    assert caught.value.exceptions == (second, first)


def test_function_that_swallows_the_cancel_restarts_nothing():
    """A cancelled thread does not run again, whatever the function answers."""
    error = Oops()
    runs = []

    def stubborn(future, exception):
        try:
            time.sleep(3600)
        except Cancelled:
            pass
        return "restart"

    def work():
        runs.append(1)
        raise error

    with ThreadGroup(on_error=stubborn) as group:
        child = wait_parked(group.spawn(work), WaitReason.SLEEP)
        group.cancel()
    assert child.exception() is error
    assert runs == [1]


def clean_up_badly(error):
    try:
        time.sleep(3600)
    finally:
        raise error


@pytest.mark.parametrize("answer", ["ignore", "restart", "cancel"])
def test_function_is_asked_about_cancelled_threads(answer):
    """What fails in a group that is cancelled quietly is asked about, too: no answer depends on which of them was first."""
    asked = []
    error = Oops()

    def decide(future, exception):
        time.sleep(0)  # a wait, as clean-up
        asked.append(exception)
        return answer

    def body():
        with ThreadGroup(on_error=decide) as group:
            child = wait_parked(group.spawn(clean_up_badly, error))
            group.cancel()
        return child

    if answer == "cancel":
        with pytest.raises(ExceptionGroup) as caught:
            body()
        assert caught.value.exceptions == (error,)
    else:
        assert body().exception() is error
    assert asked == [error]


def test_function_may_wait_about_who_swallowed_its_cancel():
    """Also if the thread has dropped what it was told before it failed."""
    error = Oops()

    def decide(future, exception):
        time.sleep(0.001)
        return "cancel"

    def swallow_and_fail():
        try:
            time.sleep(3600)
        except Cancelled:
            pass
        raise error

    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup(on_error=decide) as group:
            wait_parked(group.spawn(swallow_and_fail))
            group.cancel()
    assert caught.value.exceptions == (error,)


@pytest.mark.parametrize("answer", ["ignore", "restart"])
def test_failure_and_cancel_at_the_same_time(answer):
    """A child that fails just when its group, or it alone, is cancelled: the block ends quietly, whoever was first."""
    for cancel in (lambda group, child: group.cancel(), lambda group, child: child.cancel()):
        for _ in range(50):
            with ThreadGroup(on_error=lambda future, exception: answer) as group:
                child = group.spawn(fail, Oops())
                cancel(group, child)


def test_failure_of_the_function():
    """What the function itself raises fails the group, beside what it was asked about."""
    error, own = Oops("child"), Oops("on_error")

    def broken(future, exception):
        raise own

    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup(on_error=broken) as group:
            other = group.spawn(time.sleep, 3600)
            group.spawn(fail, error)
    assert caught.value.exceptions == (own, error)
    assert other.cancelled()


@pytest.mark.parametrize("answer", [None, True, "retry", 3])
def test_wrong_answer(answer):
    """An answer that is none says which there are."""
    error = Oops()
    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup(name="mine", on_error=lambda future, exception: answer) as group:
            group.spawn(fail, error)
    wrong, kept = caught.value.exceptions
    assert kept is error
    assert type(wrong) is ValueError
    assert str(wrong) == (
        f'the on_error function of <ThreadGroup \'mine\'> must answer "cancel", "ignore" or "restart", not {answer!r}'
    )


@pytest.mark.parametrize("on_error", [None, "ignore", 3, ["cancel"]])
def test_wrong_on_error(on_error):
    """on_error is one of two words, or a function."""
    with pytest.raises(TypeError) as caught:
        ThreadGroup(on_error=on_error)
    assert str(caught.value) == (
        f'on_error must be "cancel", "collect" or a function (future, exception), not {on_error!r}'
    )


def test_restarted_many_times_leaves_nothing():
    """Restarts pile up nothing: neither errors nor slots."""
    left = [2000]

    def flaky():
        left[0] -= 1
        if left[0]:
            raise Oops
        return "done"

    with ThreadGroup(max_concurrency=2, on_error=lambda future, exception: "restart") as group:
        assert group.spawn(flaky).result() == "done"
    assert group.statistics().failures == 0
    assert group.available == 2
