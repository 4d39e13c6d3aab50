"""`Cancelled` in a group of exceptions: judged as it would be bare, wherever something leaves a scope, a group or a thread."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
import warnings
import weakref

import pytest
from support import handler_during, run_anywhere, run_in_vthread, until, wait_parked

import plait
from plait import (
    Cancelled,
    CancelledSwallowed,
    Mutex,
    PoisonedError,
    ThreadGroup,
    checkpoint,
    deadline,
    gather,
    move_on_after,
    pmap,
    race,
    shield,
    timeout,
)
from plait._core import WaitReason, current_thread, exceptions_in, without_cancelled
from plait.testing import cancel_at_park

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def sleep_forever():
    time.sleep(3600)


class Failures(BaseExceptionGroup):
    """A group that keeps its class when it is split."""

    def derive(self, errors):
        return type(self)(self.message, errors)


def by_except_star(wait=sleep_forever):
    """What `except*` makes of it, after clean-up that waits."""
    try:
        wait()
    except* Cancelled:
        time.sleep(0.0001)
        raise


def in_groups(wait=sleep_forever):
    """Groups of groups, of one class and another."""
    try:
        wait()
    except Cancelled as error:
        raise Failures("outer", [BaseExceptionGroup("inner", [error]), error]) from None


def in_asyncio(wait=sleep_forever):
    """A task that makes a plain blocking call, beside one that does not."""

    async def block():
        wait()

    async def run():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(3600))
            tasks.create_task(block())

    asyncio.run(run())


ALONE = pytest.mark.parametrize("leave", [by_except_star, in_groups, in_asyncio])


def mixed(other=None, kind=Failures, wait=sleep_forever):
    """Be cancelled, and leave by a group of that and `other` (a ValueError)."""
    try:
        wait()
    except Cancelled as error:
        failure = kind("both", [error, BaseExceptionGroup("inner", [other or ValueError("clean-up"), error])])
        failure.add_note("noted")
        raise failure from None


def mixed_by_default(wait=sleep_forever):
    """`mixed`, of the class that Python has for it."""
    mixed(kind=BaseExceptionGroup, wait=wait)


def check_rest(rest, kind=Failures):
    """`rest` is what is left of the group of `mixed`: the class, the notes and the place of it, and the other exception."""
    assert type(rest) is kind
    assert rest.message == "both"
    assert rest.__notes__[0] == "noted"
    assert rest.__context__ is None or isinstance(rest.__context__, Cancelled)  # as `from None` has left it
    assert rest.__suppress_context__
    [group] = rest.exceptions
    assert type(group) is ExceptionGroup
    assert [type(error) for error in group.exceptions] == [ValueError]
    names = []
    traceback = rest.__traceback__
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "mixed"


def can_wait():
    """The calling thread is told of nothing any more."""
    assert current_thread().delivery is None
    time.sleep(0)


# ---- a group of nothing else


@WHERE
@ALONE
def test_group_of_nothing_else_ends_a_block_as_one_that_is_bare(where, leave):
    """Quietly where the block ends quietly, and else by what it raises."""

    def body():
        def strike():
            scope.reschedule(0)
            sleep_forever()

        with move_on_after(3600) as scope:
            leave(strike)
        assert scope.cancelled_caught
        can_wait()
        with pytest.raises(TimeoutError, match=r"not done within 0 seconds"), timeout(3600) as scope:
            leave(strike)
        with pytest.raises(TimeoutError), deadline(time.monotonic() + 3600) as scope:
            leave(strike)
        with cancel_at_park(1) as attempt:
            leave()
        assert attempt.cancelled_caught
        with pytest.raises(TimeoutError, match="has not ended"), ThreadGroup(timeout=0.005):
            leave()
        with ThreadGroup() as group:
            leave(lambda: group.cancel() or sleep_forever())
        assert group.exception is None
        can_wait()

    run_anywhere(where, body)


@ALONE
def test_group_of_nothing_else_is_no_failure_of_a_thread(leave):
    """Its future is cancelled, and its group hears of nothing: quiet cancels, of one and of all; failures; daemons."""
    with ThreadGroup() as group:
        alone = group.spawn(leave)
        others = [group.spawn(leave), group.spawn_daemon(leave)]
        until(lambda: group.statistics().parked == 3)
        alone.cancel()
        until(alone.done)
        assert alone.cancelled()
        assert group.exception is None
        assert not others[0].done()
        group.cancel()
    assert all(future.cancelled() for future in others)

    error = ValueError()

    def fail():
        wait_parked(future)
        raise error

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        future = group.spawn(leave)
        group.spawn(fail)
        leave()
    assert caught.value.exceptions == (error,)
    assert future.cancelled()


@ALONE
def test_group_of_nothing_else_in_collections(leave):
    """The loser of a race, and those beside a call that fails, are no failures."""

    def parked():
        group = ThreadGroup.current
        return until(lambda: group.statistics().parked > 0)

    def fail(*_):
        parked()
        raise LookupError

    for _ in range(3):  # which of them begins first is not said
        assert race(leave, parked) is True
    with pytest.raises(LookupError):
        race(leave, fail)
    with pytest.raises(LookupError):
        gather(leave, fail)
    with pytest.raises(LookupError):
        list(pmap(lambda call: call(), [leave, fail]))


def test_group_of_nothing_else_outside_all_groups(monkeypatch):
    """Whose future was cancelled in the default group is not reported."""
    reports = []
    monkeypatch.setattr(plait, "excepthook", lambda *report: reports.append(report))
    future = wait_parked(plait.spawn(by_except_star))
    future.cancel()
    until(future.done)
    assert future.cancelled()
    assert reports == []


@WHERE
@pytest.mark.parametrize("block", [lambda: move_on_after(3600), ThreadGroup, lambda: shield(timeout=0)])
def test_group_of_nothing_else_goes_on_to_the_scope_that_was_cancelled(where, block):
    """As it is; the blocks inside let it pass, and none of them takes it for its own."""

    def body():
        seen = []
        with move_on_after(3600) as outer:
            try:
                with block() as inside:
                    outer.reschedule(0)
                    try:
                        by_except_star()
                    except BaseException as error:
                        seen.append(error)
                        raise
            except BaseException as error:
                seen.append(error)
                raise
        assert outer.cancelled_caught
        assert not getattr(inside, "cancelled_caught", False)
        assert getattr(inside, "exception", None) is None
        assert isinstance(seen[0], BaseExceptionGroup)
        assert seen[0] is seen[1]
        seen.clear()
        can_wait()

    run_anywhere(where, body)


def test_cancel_further_out_while_a_group_waits_for_its_children():
    """What was the group's own when its body ended goes on to a scope further out that was cancelled meanwhile."""
    reached = []

    def last():
        try:
            sleep_forever()
        finally:
            until(lambda: inner.joining)
            outer.cancel()

    with ThreadGroup() as outer:
        with ThreadGroup() as inner:
            wait_parked(inner.spawn(last))
            inner.cancel()
            by_except_star()
        reached.append(1)
    assert reached == []


def test_cancelled_in_a_group_that_nobody_has_cancelled_is_a_failure():
    """As one that is bare: of the body, of a child, in a scope. What was raised goes on, whole."""
    error = BaseExceptionGroup("by hand", [Cancelled("not really"), ValueError()])

    def fail():
        raise error

    with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
        future = group.spawn(fail)
    assert future.exception() is error
    assert caught.value.exceptions == (error,)
    for block in ThreadGroup(), timeout(3600), move_on_after(3600):
        with pytest.raises(BaseExceptionGroup) as caught, block:
            fail()
        assert error in (caught.value, *caught.value.exceptions)


# ---- a group of others, too


@WHERE
@pytest.mark.parametrize("kind", [timeout, move_on_after])
def test_rest_of_a_mixed_group_leaves_a_time_limit(where, kind):
    """What the clean-up has raised goes on, as any failure of clean-up does."""

    def body():
        with pytest.raises(Failures) as caught, kind(0.001) as scope:
            mixed()
        check_rest(caught.value)
        assert scope.cancelled_caught
        can_wait()

    run_anywhere(where, body)


def test_rest_keeps_its_context():
    """It is the one that the group had; what the block was left by is not shown beside a part of it."""
    with pytest.raises(ExceptionGroup) as caught, move_on_after(0.001):
        context = LookupError()
        try:
            sleep_forever()
        except Cancelled as error:
            failure = BaseExceptionGroup("both", [error, ValueError()])
        failure.__context__ = context
        raise failure
    assert caught.value.__context__ is context


@WHERE
def test_rest_of_a_mixed_group_leaves_a_group(where):
    """Among its failures, where the body has raised it."""

    def body():
        with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
            group.cancel()
            mixed()
        [rest] = caught.value.exceptions
        check_rest(rest)
        assert group.exception is rest
        can_wait()
        with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup(timeout=0.001):
            mixed()
        check_rest(caught.value.exceptions[0])
        assert type(caught.value.exceptions[1]) is TimeoutError

    run_anywhere(where, body)


def test_rest_of_a_mixed_group_is_the_failure_of_a_thread():
    """Its future has failed with it, and its group, too; also where it alone was cancelled."""
    with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
        future = wait_parked(group.spawn(mixed))
        group.cancel()
    check_rest(future.exception())
    assert "spawned at" in future.exception().__notes__[-1]
    assert not future.cancelled()
    assert caught.value.exceptions == (future.exception(),)

    with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
        future = wait_parked(group.spawn(mixed))
        future.cancel()
        by_except_star()
    check_rest(future.exception())
    assert caught.value.exceptions == (future.exception(),)


@WHERE
def test_mixed_group_goes_on_to_the_scope_that_was_cancelled(where):
    """As it is: a time limit inside lets it pass, a group inside has it among its failures, a shield hides nothing of it."""

    def body():
        seen = []
        with pytest.raises(BaseExceptionGroup) as caught, move_on_after(3600) as outer:
            try:
                with ThreadGroup(), move_on_after(3600) as inner:
                    outer.reschedule(0)
                    try:
                        mixed()
                    except BaseException as error:
                        seen.append(error)
                        raise
            except BaseException as error:
                seen += error.exceptions
                raise
        assert seen[0] is seen[1]
        assert not inner.cancelled_caught
        assert outer.cancelled_caught
        check_rest(caught.value.exceptions[0])
        seen.clear()
        can_wait()

    run_anywhere(where, body)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_in_a_mixed_group_are_kept(kind):
    """They stay where they are, among what goes on."""
    error = kind("kept")
    with pytest.raises(Failures) as caught, move_on_after(0.001):
        mixed(error)
    assert exceptions_in(caught.value) == [error]
    with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
        future = wait_parked(group.spawn(mixed, error))
        group.cancel()
    assert exceptions_in(caught.value) == [error]
    assert exceptions_in(future.exception()) == [error]


def test_mixed_group_of_who_loses_a_race_is_dropped():
    """As all that a loser raises; of the first that ends it is the outcome."""

    def win():
        return until(lambda: group.statistics().parked > 0)

    def lose():
        nonlocal group
        group = ThreadGroup.current
        mixed_by_default()

    group = ThreadGroup()
    assert race(lose, win) is True
    group = ThreadGroup()
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as outer:
        outer.spawn(race, lose)
        win()
        outer.cancel()
    assert [type(error) for error in exceptions_in(caught.value)] == [ValueError]


def test_on_error_is_asked_about_failures_alone():
    """About the rest of a mixed group, if that is an Exception, and not about a group of nothing else."""
    asked = []

    class Errors(ExceptionGroup):
        pass

    error = Errors("no Cancelled", [ValueError()])

    def fail():
        raise error

    def judge(future, failure):
        asked.append((future, failure))
        return "ignore"

    with ThreadGroup(on_error=judge) as group:
        group.spawn(fail)
        until(lambda: asked)
        futures = [wait_parked(group.spawn(work)) for work in (mixed_by_default, by_except_star)]
        group.cancel()
    assert asked[0][1] is error
    assert [future for future, _ in asked[1:]] == futures[:1]
    check_rest(asked[1][1], ExceptionGroup)
    assert futures[0].exception() is asked[1][1]
    assert futures[1].cancelled()


def test_on_error_that_is_left_by_a_group_was_overtaken():
    """It was cancelled while it waited: that is no failure of it. What else it raises is one."""

    def fail():
        raise LookupError

    for wait, failures in (by_except_star, []), (mixed, [ValueError]):
        seen = []
        try:
            with ThreadGroup(on_error=lambda future, error, wait=wait: wait()) as group:
                wait_parked(group.spawn(fail))
                group.cancel()
        except BaseExceptionGroup as error:
            seen = [type(one) for one in exceptions_in(error)]
        assert [kind for kind in seen if kind is not LookupError] == failures


# ---- who is accused


def test_who_raises_a_group_has_swallowed_nothing():
    """As long as the group is alive, what was told is: its thread cleans up, and is not told again within the grace."""
    waited = []

    def work():
        try:
            in_groups()
        finally:
            for _ in range(3):
                time.sleep(0.0001)
                waited.append(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error", CancelledSwallowed)
        with ThreadGroup() as group:
            futures = [wait_parked(group.spawn(call)) for call in (work, by_except_star, in_asyncio)]
            group.cancel()
    assert all(future.cancelled() for future in futures)
    assert waited == [1] * 3


def test_who_drops_a_group_has_swallowed_it():
    """It is told again, and accused."""

    def work():
        try:
            in_groups()
        except BaseExceptionGroup:
            pass
        sleep_forever()

    with pytest.warns(CancelledSwallowed), ThreadGroup(grace=0.02) as group:
        future = wait_parked(group.spawn(work))
        group.cancel()
    assert future.cancelled()


@pytest.mark.parametrize("leave", [in_groups, mixed])
def test_who_handles_a_failure_in_place_of_a_group_has_not_swallowed_that(leave):
    """A group raises its failures in place of what its body was told: who handles them is told again, and not accused."""

    def fail():
        try:
            sleep_forever()
        finally:
            raise OSError

    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", CancelledSwallowed)
        with ThreadGroup(grace=0.02) as outer:
            try:
                with ThreadGroup() as group:
                    wait_parked(group.spawn(fail))
                    outer.cancel()
                    leave()
            except BaseExceptionGroup as error:
                kept.append(error)
            assert kept
            sleep_forever()
    assert any(isinstance(error, OSError) for error in exceptions_in(kept[0]))


def test_iterator_left_by_a_group_raises_what_has_failed():
    """pmap, whose items end by it, has a failure that it has not raised: it is raised in place of the group."""

    def fail():
        try:
            sleep_forever()
        finally:
            raise LookupError

    def call(fn):
        failing.append(current_thread())
        fn()

    def items():
        yield fail
        wait_parked(until(lambda: failing)[0])
        scope.cancel()
        by_except_star()

    failing = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", CancelledSwallowed)
        with ThreadGroup(grace=0.02) as scope:
            with pytest.raises(LookupError):
                list(pmap(call, items(), limit=2))
            sleep_forever()


def test_poison_keeps_no_group_alive():
    """What is kept as the cause holds nothing that a thread was told: it would count as cleaning up."""
    for leave, cause in (in_groups, Cancelled), (mixed, Failures):
        mutex = Mutex(1, poison=True)
        seen = None

        def body(mutex=mutex, leave=leave):
            nonlocal seen
            with move_on_after(3600) as scope, mutex.lock():
                scope.reschedule(0)
                try:
                    leave()
                except BaseException as error:
                    seen = weakref.ref(exceptions_in(error)[0])
                    raise

        if leave is mixed:
            with pytest.raises(Failures):
                body()
        else:
            body()
        with pytest.raises(PoisonedError) as raised:
            mutex.replace(2)
        assert type(raised.value.__cause__) is cause
        assert seen is not None
        if leave is in_groups:
            gc.collect()
            assert seen() is None


# ---- what handlers and classes do


def test_signal_handler_that_is_left_by_a_group_during_a_join():
    """It was told what the block knows already: the end of the handler, and of nothing else. The rest is a failure."""
    gate = threading.Event()

    def handle():
        gate.set()
        by_except_star(checkpoint)

    def work():
        with shield(timeout=3600):
            gate.wait()

    with handler_during(WaitReason.GROUP, handle), ThreadGroup() as group:
        wait_parked(group.spawn(work))
        group.cancel()
    assert group.exception is None

    def handle_badly():
        gate.set()
        mixed(wait=checkpoint)

    gate.clear()
    with (
        pytest.raises(BaseExceptionGroup) as caught,
        handler_during(WaitReason.GROUP, handle_badly),
        ThreadGroup() as group,
    ):
        wait_parked(group.spawn(work))
        group.cancel()
    check_rest(caught.value.exceptions[0])


def fails(group, errors):
    raise LookupError("no group")


def is_told_again(group, errors):
    raise Cancelled("the grace is over")


def gives_itself(group, errors):
    return group


def raises_itself(group, errors):
    raise group


DERIVE = {
    "fails": (fails, LookupError),
    "gives no group": (lambda group, errors: None, TypeError),
    "gives itself": (gives_itself, None),
    "raises itself": (raises_itself, None),
    "is told again": (is_told_again, None),
}


@pytest.mark.parametrize("where", ["virtual", "main"])
@pytest.mark.parametrize("how", DERIVE)
def test_class_that_cannot_be_split(where, how):
    """What its derive() raises goes on in its place, with the group as the context; if it gives nothing else, the group."""
    derive, kind = DERIVE[how]

    class Odd(BaseExceptionGroup):
        pass

    Odd.derive = derive
    raised = []

    def leave():
        try:
            sleep_forever()
        except Cancelled as error:
            raised.append(Odd("odd", [error, ValueError()]))
            raise raised[-1] from None

    def check(error):
        group = raised.pop()
        assert error is group if kind is None else type(error) is kind and error.__context__ is group

    def body():
        with pytest.raises(BaseException) as caught, move_on_after(0.001):
            leave()
        check(caught.value)
        with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
            group.cancel()
            leave()
        check(caught.value.exceptions[0])

    run_anywhere(where, body)
    with pytest.raises(BaseExceptionGroup), ThreadGroup() as group:
        future = wait_parked(group.spawn(leave))
        group.cancel()
    check(future.exception())


def test_class_is_not_asked_where_there_is_nothing_to_split():
    """A group of nothing else, and one without any, are judged by what is in them."""

    class Odd(BaseExceptionGroup):
        derive = split = subgroup = exceptions = None

    assert without_cancelled(Odd("odd", [Cancelled(), BaseExceptionGroup("", [Cancelled()])])) is None
    error = Odd("odd", [ValueError(), ExceptionGroup("", [ValueError()])])
    assert without_cancelled(error) is error
    assert [type(one) for one in exceptions_in(error)] == [ValueError, ValueError]


def test_interrupt_while_a_class_is_asked_is_not_lost():
    """A Ctrl-C that comes there leaves bare, after the children have ended."""

    class Odd(BaseExceptionGroup):
        def derive(self, errors):
            signal.raise_signal(signal.SIGINT)
            return Odd(self.message, errors)

    ended = []

    def work():
        try:
            sleep_forever()
        finally:
            time.sleep(0.001)
            ended.append(1)

    with pytest.raises(KeyboardInterrupt), ThreadGroup() as group:
        wait_parked(group.spawn(work))
        group.cancel()
        try:
            sleep_forever()
        except Cancelled as error:
            raise Odd("odd", [error, ValueError()]) from None
    assert ended == [1]
    with pytest.raises(KeyboardInterrupt), move_on_after(0.001):
        try:
            sleep_forever()
        except Cancelled as error:
            raise Odd("odd", [error, ValueError()]) from None
    assert current_thread().scope is None


def test_groups_without_any_are_the_same_objects():
    """Nothing is split where there is no Cancelled, though the thread is cancelled."""
    error = ExceptionGroup("no Cancelled", [ValueError(), ExceptionGroup("inner", [ValueError()])])

    def fail():
        try:
            sleep_forever()
        finally:
            raise error

    with pytest.raises(ExceptionGroup) as caught, timeout(0.001):
        fail()
    assert caught.value is error
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        future = wait_parked(group.spawn(fail))
        group.cancel()
        fail()
    assert caught.value.exceptions == (error,)
    assert future.exception() is error


def test_group_that_is_very_deep():
    """It is looked at without recursion."""
    error = BaseExceptionGroup("", [Cancelled()])
    for _ in range(20_000):
        error = BaseExceptionGroup("", [error])
    assert run_in_vthread(without_cancelled, error) is None
