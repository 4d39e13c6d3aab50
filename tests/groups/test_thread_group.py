"""ThreadGroup: a block whose threads end with it, and fail together."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import math
import re
import signal
import sys
import threading
import time
import warnings
import weakref

import pytest
from support import (
    collect,
    handler_during,
    is_parked,
    platform_thread,
    run_anywhere,
    run_in_vthread,
    until,
    wait_parked,
)

import plait
from plait import (
    Cancelled,
    GroupClosed,
    GroupFailed,
    ThreadGroup,
    TimeoutDoesNotReachChild,
    move_on_after,
    shield,
)
from plait._core import INTERRUPTED, WaitReason, current_thread
from plait._default import default_group

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    """A failure of these tests."""


def fail(error):
    raise error


def sleep_forever():
    time.sleep(3600)


# ---- the join


@WHERE
def test_block_waits_for_its_children(where):
    """No child outlives its block (I1)."""

    def body():
        done = []
        with ThreadGroup() as group:
            for number in range(20):
                group.spawn(lambda n=number: (time.sleep(0.001 * (n % 3)), done.append(n)))
        assert sorted(done) == list(range(20))
        assert len(group) == 0

    run_anywhere(where, body)


def test_block_waits_for_children_of_children():
    """A child spawned by a child into the same group is waited for, too."""
    done = []

    def spawn_next(depth):
        time.sleep(0)
        done.append(depth)
        if depth:
            ThreadGroup.current.spawn(spawn_next, depth - 1)

    with ThreadGroup() as group:
        group.spawn(spawn_next, 10)
    assert done == list(range(10, -1, -1))


def test_empty_group_ends_at_once():
    """A group without children is over when its body is."""
    with ThreadGroup() as group:
        assert group
        assert len(group) == 0
    assert group.exception is None


def test_result_after_the_block_never_waits():
    """After the block every future is done (I8)."""
    with ThreadGroup() as group:
        futures = [group.spawn(pow, 2, n) for n in range(50)]
    assert all(future.done() for future in futures)
    assert [future.result(0) for future in futures] == [2**n for n in range(50)]


def test_spawn_from_a_foreign_platform_thread():
    """Any thread may spawn into an open group."""
    with ThreadGroup() as group, platform_thread(group.spawn, pow, 2, 5) as outcome:
        until(lambda: outcome)
    error, future = outcome[0]
    assert error is None
    assert future.result() == 32


# ---- failure


@WHERE
def test_failure_cancels_siblings_and_the_body(where):
    """One child fails: the siblings are cancelled where they wait, the body too, and the block raises."""

    def body():
        seen = []
        with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
            siblings = [group.spawn(sleep_forever) for _ in range(5)]
            for sibling in siblings:
                wait_parked(sibling, WaitReason.SLEEP)
            group.spawn(fail, Oops("first"))
            try:
                time.sleep(3600)
            except Cancelled as cancelled:
                seen.append(cancelled)
                raise
        assert [type(error) for error in caught.value.exceptions] == [Oops]
        assert all(sibling.cancelled() for sibling in siblings)
        assert seen[0].source is group
        assert group.exception is caught.value.exceptions[0]

    run_anywhere(where, body)


WAITS = {
    "sleep": lambda g: time.sleep(3600),
    "lock": lambda g: g["lock"].acquire(),
    "event": lambda g: threading.Event().wait(),
    "condition": lambda g: _wait_condition(),
    "semaphore": lambda g: threading.Semaphore(0).acquire(),
    "future": lambda g: g["sleeper"].result(),
    "mutex": lambda g: g["mutex"].lock().__enter__(),
}


def _wait_condition():
    condition = threading.Condition()
    with condition:
        condition.wait()


@pytest.mark.parametrize("kind", WAITS)
def test_failure_interrupts_the_body_wherever_it_waits(kind):
    """A body on the main thread is woken from each kind of wait by a failing child."""
    mutex = plait.Mutex(0)
    things = {"lock": threading.Lock(), "mutex": mutex}
    with pytest.raises(ExceptionGroup, match="failed"), ThreadGroup(grace=0.05) as group:
        things["sleeper"] = group.spawn(sleep_forever)
        things["lock"].acquire()
        holding = mutex.try_lock()
        owner = current_thread()

        def fail_when_parked():
            until(lambda: is_parked(owner))
            raise Oops

        group.spawn(fail_when_parked)
        try:
            WAITS[kind](things)
        finally:
            with holding:
                pass


@WHERE
def test_failure_of_the_body_cancels_the_children(where):
    """The body is a member: its failure cancels the children and is in the group that leaves."""

    def body():
        error = Oops("body")
        with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
            child = wait_parked(group.spawn(sleep_forever))
            raise error
        assert caught.value.exceptions == (error,)
        assert child.cancelled()

    run_anywhere(where, body)


def test_cancel_reaches_a_child_on_its_way_into_its_first_wait():
    """A cancel between a child's look at its scopes and its listing is not lost: it looks again when it is listed."""
    outcomes = []

    def wait(group):
        me = current_thread()
        me.arm()
        group.cancel("just now")  # what another thread might do at this instant: it does not find the child yet
        me.enlist()
        outcomes.append(me.withdraw())

    with ThreadGroup() as group:
        group.spawn(wait, group)
    assert outcomes == [INTERRUPTED]


def test_place_of_a_cancel_is_where_it_was_called():
    """The name of who cancels may be a property, and spawn and cancel itself: the line is that of the cancel."""

    class Named(threading.Thread):
        is_cancelling = False

        @property
        def name(self):
            if self.is_cancelling:
                self.is_cancelling = False
                group.spawn(int)
            return "named"

        def run(self):
            current_thread()
            self.is_cancelling = True
            victim.cancel()

    told = []

    def wait():
        try:
            time.sleep(3600)
        except Cancelled as error:
            told.append(str(error))
            raise

    with ThreadGroup() as group:
        victim = wait_parked(group.spawn(wait))
        canceller = Named()
        canceller.start()
        canceller.join()
    line = inspect.getsourcelines(Named.run)[1] + 3
    assert told[0].endswith(f"on 'named' at {__file__}:{line})")


def test_every_failure_is_in_the_group_once():
    """What children and body raise is in the exception group, each by identity once."""
    shared = Oops("shared")
    gate = threading.Event()

    def fail_after_cancel(error):
        try:
            gate.wait()
        finally:
            raise error

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        for error in (shared, shared, ValueError("other")):
            wait_parked(group.spawn(fail_after_cancel, error))
        first = group.spawn(fail, KeyError("first"))
        with pytest.raises(KeyError):
            until(first.done)
            raise first.exception(0) from None
        raise shared
    assert [type(error) for error in caught.value.exceptions].count(Oops) == 1
    assert {type(error) for error in caught.value.exceptions} == {Oops, ValueError, KeyError}
    assert type(caught.value.exceptions[0]) is KeyError


def test_body_that_raises_a_childs_exception_from_its_future():
    """A child's exception that leaves the body through result() is one failure, not two."""
    error = Oops()
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        future = group.spawn(fail, error)
        until(future.done)
        raise future._error
    assert caught.value.exceptions == (error,)


def test_base_exception_of_a_child_leaves_in_a_base_exception_group():
    """A BaseExceptionGroup where an ExceptionGroup cannot hold what failed."""

    class Grave(BaseException):
        pass

    with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
        group.spawn(fail, Grave())
    assert not isinstance(caught.value, ExceptionGroup)
    assert type(caught.value.exceptions[0]) is Grave


@WHERE
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_leave_bare(where, kind):
    """Raised by the body they leave bare, once the children have ended."""

    def body():
        error = kind()
        with pytest.raises(kind) as caught, ThreadGroup() as group:
            child = wait_parked(group.spawn(sleep_forever))
            raise error
        assert caught.value is error
        assert child.cancelled()

    run_anywhere(where, body)


def test_system_exit_of_a_child_leaves_bare_with_a_note_of_the_rest():
    """SystemExit of a child leaves bare; what else failed is noted on it."""

    def clean_up():
        try:
            time.sleep(3600)
        finally:
            raise Oops("clean-up")

    with pytest.raises(SystemExit) as caught, ThreadGroup() as group:
        wait_parked(group.spawn(clean_up))
        group.spawn(fail, SystemExit(3))
    assert caught.value.code == 3
    assert "clean-up" in caught.value.__notes__[-1]


def test_handled_exception_in_the_body_is_no_failure():
    """What the body handles does not concern the group."""
    with ThreadGroup() as group:
        try:
            raise Oops
        except Oops:
            pass
        group.spawn(int)
    assert group.exception is None


def test_reason_of_the_cancellation_names_the_child_that_failed():
    """Cancelled says which child failed, by its function's name, and how."""
    reasons = []

    def divide():
        raise ZeroDivisionError

    def wait():
        try:
            time.sleep(3600)
        except Cancelled as cancelled:
            reasons.append(str(cancelled))
            raise

    with pytest.raises(ExceptionGroup), ThreadGroup(name="sums") as group:
        wait_parked(group.spawn(wait))
        group.spawn(divide)
    assert re.search(
        r"divide-\d+' failed: ZeroDivisionError \(by <ThreadGroup 'sums'>, on '.*divide-\d+'\)", reasons[0]
    ), reasons


# ---- refused spawns


def test_spawn_into_a_failed_group_from_inside_is_cancelled():
    """Threads inside a failed group get its Cancelled from spawn, each time, and nothing starts (I7)."""
    ran = []
    with pytest.raises(ExceptionGroup), ThreadGroup() as group:
        until(group.spawn(fail, Oops()).done)
        for _ in range(2):
            with pytest.raises(Cancelled):
                group.spawn(ran.append, 1)
    assert ran == []


def test_spawn_into_a_failed_group_from_outside_names_the_first_failure():
    """Threads outside get GroupFailed, chained to the first failure."""
    error = Oops("first")
    ran = []

    def hold_open():
        try:
            time.sleep(3600)
        finally:
            release.wait()

    release = threading.Event()

    def outsider(group):
        until(lambda: group.exception is not None)
        with pytest.raises(GroupFailed) as caught:
            group.spawn(ran.append, 1)
        assert re.fullmatch(
            r"<ThreadGroup 'group-\d+'> was cancelled \('fail-\d+' failed: Oops\): nothing can be spawned into it any more",
            str(caught.value),
        )
        assert caught.value.__cause__ is error
        release.set()

    def body(group):
        with group:
            wait_parked(group.spawn(hold_open))
            group.spawn(fail, error)

    group = ThreadGroup()
    with ThreadGroup() as other:
        other.spawn(outsider, group)
        with pytest.raises(ExceptionGroup):
            body(group)
    assert ran == []


def test_spawn_into_a_cancelled_group_from_outside():
    """A group that was cancelled quietly refuses outsiders as well, without a cause."""
    group = ThreadGroup()
    is_open = threading.Event()
    cancelled = threading.Event()

    def body():
        with group:
            is_open.set()
            try:
                time.sleep(3600)
            finally:
                cancelled.wait()

    with platform_thread(body) as outcome:
        is_open.wait()
        group.cancel("enough")
        with pytest.raises(GroupFailed, match="enough") as caught:
            group.spawn(int)
        assert caught.value.__cause__ is None
        cancelled.set()
    assert outcome == [(None, None)]


def test_spawn_after_exit():
    """After the block spawn raises GroupClosed, however the block ended."""
    with ThreadGroup(name="done") as group:
        pass
    with pytest.raises(GroupClosed) as caught:
        group.spawn(int)
    assert str(caught.value) == (
        "<ThreadGroup 'done'> has ended: nothing can be spawned into it any more. Spawn inside its block, or into one "
        "further out"
    )
    with pytest.raises(ExceptionGroup), ThreadGroup() as failed:
        failed.spawn(fail, Oops())
    with pytest.raises(GroupClosed):
        failed.spawn(int)
    cancelled = ThreadGroup()
    with cancelled:
        cancelled.cancel()
    with pytest.raises(GroupClosed):
        run_in_vthread(cancelled.spawn, int)


def test_child_of_a_cancelled_group_that_has_not_started_never_runs():
    """An accepted spawn whose scope is cancelled first never runs, and its arguments are released (I2)."""

    class Argument:
        pass

    ran = []

    def body():
        argument = Argument()
        seen = weakref.ref(argument)
        with ThreadGroup() as group:
            future = group.spawn(ran.append, argument)
            del argument
            group.cancel()
        return future, seen

    # On one carrier nobody else runs before the body parks; on several, another may be quick enough to steal the child.
    for _ in range(100):
        ran.clear()
        future, seen = run_in_vthread(body)
        if future.cancelled():
            break
    assert future.cancelled()
    assert ran == []
    collect(lambda: seen() is None)


# ---- cancel


@WHERE
def test_cancel_is_quiet(where):
    """After group.cancel() the block ends without an error."""

    def body():
        with ThreadGroup() as group:
            child = wait_parked(group.spawn(sleep_forever))
            group.cancel("seen enough")
        assert child.cancelled()
        assert group.exception is None

    run_anywhere(where, body)


@WHERE
def test_cancel_by_a_child_ends_the_body_quietly(where):
    """A child that cancels its group ends the body's wait, and the block's rest is skipped."""

    def body():
        reached = []
        with ThreadGroup() as group:
            group.spawn(group.cancel)
            time.sleep(3600)
            reached.append(1)
        assert reached == []

    run_anywhere(where, body)


def test_failure_during_a_quiet_cancel_is_not_lost():
    """What a child raises while it is cancelled leaves through the group (I6)."""

    def clean_up_badly():
        try:
            time.sleep(3600)
        finally:
            raise Oops

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        wait_parked(group.spawn(clean_up_badly))
        group.cancel()
    assert type(caught.value.exceptions[0]) is Oops


def test_cancel_from_a_platform_thread():
    """Any thread may cancel."""
    with ThreadGroup() as group:
        wait_parked(group.spawn(sleep_forever))
        with platform_thread(group.cancel):
            pass


def test_cancel_twice_and_after_the_end_is_harmless():
    """Only the first cancel counts; afterwards there is nothing to cancel."""
    with ThreadGroup() as group:
        child = wait_parked(group.spawn(sleep_forever))
        group.cancel("one")
        group.cancel("two")
    group.cancel("three")
    assert child.cancelled()


# ---- nesting


def test_outer_cancel_reaches_the_children_of_inner_groups():
    """Cancelling a group reaches every level below it."""
    leaves = []

    def nest(depth):
        if not depth:
            leaves.append(current_thread())
            time.sleep(3600)
        with ThreadGroup() as inner:
            inner.spawn(nest, depth - 1)
            inner.spawn(nest, depth - 1)

    with ThreadGroup() as group:
        group.spawn(nest, 4)
        until(lambda: len(leaves) == 16 and all(map(is_parked, leaves)))
        group.cancel()
    assert all(leaf.cancelled() for leaf in leaves)


def test_failure_of_an_inner_group_stays_inside_if_it_is_handled():
    """An inner group's failure is the outer's only if it leaves the inner's block unhandled."""
    with ThreadGroup() as outer:
        sibling = wait_parked(outer.spawn(sleep_forever))
        with pytest.raises(ExceptionGroup), ThreadGroup() as inner:
            inner.spawn(fail, Oops())
        assert not sibling.done()
        outer.cancel()


def test_outer_cancel_while_joining_an_inner_group():
    """A body that waits at the end of an inner block leaves it as soon as the outer is cancelled."""
    owner = current_thread()

    def cancel_when_joining(group):
        until(lambda: is_parked(owner, WaitReason.GROUP))
        group.cancel()

    reached = []
    with ThreadGroup() as outer:
        outer.spawn(cancel_when_joining, outer)
        with ThreadGroup() as inner:
            child = inner.spawn(sleep_forever)
        reached.append(1)
    assert child.cancelled()
    assert reached == []


@pytest.mark.parametrize("kind", ["timeout", "quiet"])
def test_outer_cancel_while_joining_after_the_group_s_own(kind):
    """The body was told of its own group's end, and an outer cancel comes during the join: nothing goes on behind the block."""
    owner = current_thread()
    reached = []

    def clean_up():
        try:
            sleep_forever()
        finally:
            until(lambda: is_parked(owner, WaitReason.GROUP))
            outer.cancel()

    with ThreadGroup() as outer:
        with ThreadGroup(timeout=3600) as inner:
            wait_parked(inner.spawn(clean_up))
            if kind == "timeout":
                inner.scope.set_deadline(time.monotonic())
            else:
                inner.cancel()
            sleep_forever()
        reached.append(1)
    assert reached == []


# ---- timeout=


@WHERE
def test_timeout_leaves_as_a_bare_timeout_error(where):
    """A group's own timeout leaves as TimeoutError, and its children are cancelled."""

    def body():
        with (
            pytest.raises(TimeoutError, match=r"^<ThreadGroup 'slow'> has not ended within 0\.02 seconds$"),
            ThreadGroup(timeout=0.02, name="slow") as group,
        ):
            child = group.spawn(sleep_forever)
        assert child.cancelled()

    run_anywhere(where, body)


def test_interrupt_beside_a_failure_without_a_repr():
    """KeyboardInterrupt leaves bare, and tells of the others, whatever their classes do."""

    class Mute(Exception):
        def __repr__(self):
            raise Oops

    def body():
        with ThreadGroup(name="mute") as group:
            group.spawn(fail, Mute())
            try:
                time.sleep(3600)
            finally:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        body()
    assert caught.value.__notes__ == ["<ThreadGroup 'mute'> also failed with Mute (which has no repr)"]


def test_timeout_with_failures_is_among_them():
    """If children fail as well, the TimeoutError is in the exception group with them."""

    def clean_up_badly():
        try:
            time.sleep(3600)
        finally:
            raise Oops

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup(timeout=3600) as group:
        wait_parked(group.spawn(clean_up_badly))
        group.scope.set_deadline(time.monotonic())
    assert sorted(type(error).__name__ for error in caught.value.exceptions) == ["Oops", "TimeoutError"]


def test_timeout_that_does_not_pass_leaves_no_trace():
    """A group that ends in time ends as any other."""
    with ThreadGroup(timeout=3600) as group:
        future = group.spawn(int)
    assert future.result() == 0


def test_timeout_zero():
    """With no time at all, nothing can be spawned."""
    with pytest.raises(TimeoutError), ThreadGroup(timeout=0) as group:
        group.spawn(int)


# ---- context variables


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@WHERE
def test_context_is_the_spawners_at_spawn(where):
    """A child's context is its spawner's at spawn, and its changes do not flow back (I9)."""

    def change():
        before = VARIABLE.get()
        VARIABLE.set("child")
        return before

    def body():
        VARIABLE.set("one")
        with ThreadGroup() as group:
            first = group.spawn(change)
            VARIABLE.set("two")
            second = group.spawn(change)
        assert (first.result(), second.result()) == ("one", "two")
        assert VARIABLE.get() == "two"

    contextvars.copy_context().run(run_anywhere, where, body)


# ---- ThreadGroup.current


def test_current_is_the_innermost_open_group():
    """current: the innermost group this thread has open; in a child that opened none, its own; else the default."""
    assert ThreadGroup.current is default_group()
    with ThreadGroup() as outer:
        assert ThreadGroup.current is outer
        with move_on_after(60), ThreadGroup() as inner:
            assert ThreadGroup.current is inner
            assert inner.spawn(lambda: ThreadGroup.current).result() is inner
        with ThreadGroup():
            assert outer.spawn(lambda: ThreadGroup.current).result() is outer
        assert ThreadGroup.current is outer
        assert plait.spawn(lambda: ThreadGroup.current).result() is outer
    assert ThreadGroup.current is default_group()


def test_current_is_not_inherited_by_platform_threads():
    """current is a stack on the thread: a platform thread started inside sees the default group."""
    with ThreadGroup(), platform_thread(lambda: ThreadGroup.current) as outcome:
        pass
    assert outcome == [(None, default_group())]


@WHERE
def test_current_in_coroutines_is_that_of_their_loops_thread(where):
    """A task sees what is open on the thread that runs its loop, wherever it was made; a thread that it waits for does not."""

    async def current():
        return ThreadGroup.current

    async def main():
        return [
            await current(),
            await asyncio.create_task(current()),
            await asyncio.to_thread(lambda: ThreadGroup.current),
        ]

    def body():
        with ThreadGroup() as group:
            assert asyncio.run(main()) == [group, group, default_group()]

    run_anywhere(where, body)


# ---- what a group shows


def test_name_len_and_exception():
    """A group shows its name, the number of its unfinished children and the first failure."""
    with ThreadGroup(name="crawler") as group:
        assert group.name == "crawler"
        assert "crawler" in repr(group)
        assert (group.limit, group.available) == (None, None)
        futures = [group.spawn(sleep_forever) for _ in range(3)]
        assert len(group) == 3
        futures[0].cancel()
        until(futures[0].done)
        until(lambda: len(group) == 2)
        assert group.exception is None
        group.cancel()
    assert len(group) == 0
    assert re.fullmatch(r"group-\d+", ThreadGroup().name)


def test_limit_and_available():
    """A group with a limit shows it, and how many could be spawned without waiting."""
    with ThreadGroup(max_concurrency=3) as group:
        assert (group.limit, group.available) == (3, 3)
        wait_parked(group.spawn(sleep_forever))
        assert group.available == 2
        group.cancel()
    assert group.available == 3


def test_future_shows_the_functions_name():
    """A future's repr names its function, before and after the end."""

    def work():
        time.sleep(3600)

    with ThreadGroup() as group:
        future = group.spawn(work)
        wait_parked(future)
        running = repr(future)
        name = future.name
        group.cancel()
    assert re.search(r"work-\d+' running", running)
    assert name in repr(future)
    assert "cancelled" in repr(future)
    with ThreadGroup() as group:
        future = group.spawn(int)
    assert re.search(r"int-\d+' finished", repr(future)), repr(future)


def test_what_escapes_says_how_many_have_failed_and_where():
    """The exception group counts the failures, and names the group."""
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup(name="mine", on_error="collect") as group:
        for _ in range(3):
            group.spawn(fail, Oops())
    assert caught.value.message == "3 failed in <ThreadGroup 'mine'>"


def test_exception_of_a_signal_handler_during_the_join():
    """It is a failure like others, and cancels the children; KeyboardInterrupt and SystemExit alone leave bare."""
    error, own = Oops("handler"), Oops("child")
    owner = current_thread()

    def strike(number, frame):
        raise error

    def clean_up_badly():
        try:
            time.sleep(3600)
        finally:
            raise own

    def ring():
        until(lambda: is_parked(owner, WaitReason.GROUP))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with platform_thread(ring), pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
            wait_parked(group.spawn(clean_up_badly))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(caught.value.exceptions) == {error, own}


def test_handler_that_fails_again_and_again_during_the_join():
    """The first failure is the group's; none of them takes the children's grace, or leaves a child behind."""
    errors = []

    def handle():
        errors.append(Oops())
        raise errors[-1]

    def work():
        try:
            time.sleep(3600)
        finally:
            until(lambda: len(errors) == 4)
            time.sleep(0.001)
            cleaned.append(1)

    cleaned = []
    with (
        handler_during(WaitReason.GROUP, handle, times=4),
        pytest.raises(ExceptionGroup) as caught,
        ThreadGroup() as group,
    ):
        wait_parked(group.spawn(work))
    assert cleaned
    assert caught.value.exceptions == (errors[0],)


def test_interrupt_after_the_failure_of_a_handler():
    """Ctrl-C during the join leaves bare, though a handler has failed there before, which is noted on it."""
    errors = [Oops("tick"), KeyboardInterrupt()]

    def handle():
        raise errors.pop(0)

    def work():
        try:
            time.sleep(3600)
        finally:
            until(lambda: not errors)

    with (
        handler_during(WaitReason.GROUP, handle, times=2),
        pytest.raises(KeyboardInterrupt) as caught,
        ThreadGroup(name="mine") as group,
    ):
        wait_parked(group.spawn(work))
    assert caught.value.__notes__ == ["<ThreadGroup 'mine'> also failed with Oops('tick')"]


LOOKS = {"look": plait.checkpoint, "wait": lambda: plait.offload(int), "spawn": lambda: plait.spawn(int)}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("which", ["inner", "outer"])
def test_handler_that_is_cancelled_during_the_join(look, which):
    """The Cancelled that a handler gets there ends the handler alone: the block waits on, and ends as it would have."""
    told = []
    beyond = []

    def handle():
        try:
            LOOKS[look]()
        except Cancelled:
            told.append(1)
            raise

    def work():
        try:
            time.sleep(3600)
        finally:
            until(lambda: len(told) == 4)
            time.sleep(0.001)
            beyond.append("clean-up")

    with handler_during(WaitReason.GROUP, handle, times=4), ThreadGroup() as outer:
        with ThreadGroup() as inner:
            child = wait_parked(inner.spawn(work))
            {"inner": inner, "outer": outer}[which].cancel()
        assert child.done()
        beyond.append("block")
    assert beyond == (["clean-up", "block"] if which == "inner" else ["clean-up"])


# ---- misuse


@pytest.mark.parametrize("thing", [None, 3, "print", [print]])
def test_spawn_of_something_that_is_not_callable(thing):
    """Spawning what cannot be called fails at the spawn, and says so."""
    with ThreadGroup() as group:
        for spawn in (group.spawn, plait.spawn):
            with pytest.raises(TypeError) as caught:
                spawn(thing)
            assert (
                str(caught.value)
                == f"spawn needs something to call, not {thing!r}: write spawn(fn, x), not spawn(fn(x))"
            )
    assert group.exception is None


@WHERE
def test_coroutine_functions_are_pointed_out(where):
    """What `async def` makes of a call would never run: the thread fails, and says what to write."""

    async def fetch():
        raise AssertionError("run")

    def body():
        for call in (fetch, lambda: fetch(), functools.partial(fetch)):
            with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
                group.spawn(call)
            [error] = caught.value.exceptions
            assert type(error) is TypeError
            assert re.fullmatch(
                r"\S+ has returned a coroutine that nobody runs: a virtual thread calls plain functions\. Write `def` for "
                r"`async def` and wait without `await`, or have asyncio\.run\(\) called with it",
                str(error),
            )
        begun = begin(generator_based())
        with ThreadGroup() as group:
            assert group.spawn(lambda: begun).result() is begun
        begun.close()

    async def generator_based():
        await Pause()

    class Pause:
        def __await__(self):
            yield

    def begin(coroutine):
        coroutine.send(None)
        return coroutine

    run_anywhere(where, body)


def test_options_of_a_group_have_names():
    """ThreadGroup(3), as pools are written, says how to write it."""
    with pytest.raises(TypeError) as caught:
        ThreadGroup(3)
    assert str(caught.value) == (
        "ThreadGroup takes its options by name: write ThreadGroup(max_concurrency=3), not ThreadGroup(3)"
    )


def test_futures_are_not_made_by_hand():
    """Future() says where futures come from."""
    with pytest.raises(TypeError) as caught:
        plait.Future()
    assert str(caught.value) == (
        "plait's futures are made by spawn(): one that you resolve yourself is concurrent.futures.Future()"
    )


def test_entering_a_group_twice():
    """A group is used once: entering it again says so, while it is open and afterwards."""
    with ThreadGroup(name="once") as group:
        with pytest.raises(RuntimeError) as inside:
            group.__enter__()
        assert group.spawn(int).result() == 0
    with pytest.raises(RuntimeError) as afterwards, group:
        raise AssertionError("entered")
    for caught in (inside, afterwards):
        assert str(caught.value) == "<ThreadGroup 'once'> was entered before: a group is used once, make a new one"


def test_spawn_before_enter():
    """Spawning before the block has begun says how to begin it."""
    with pytest.raises(RuntimeError, match=r"has not begun: spawn inside `with ThreadGroup\(\) as group:`"):
        ThreadGroup().spawn(int)


@pytest.mark.parametrize("what", ["timeout", "grace"])
@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, -math.inf])
def test_a_time_that_is_negative_or_nan(what, seconds):
    """A negative time, or none at all, is refused by name and value."""
    with pytest.raises(ValueError, match=f"{what} must be 0 or more seconds, not {seconds}"):
        ThreadGroup(**{what: seconds})


@pytest.mark.parametrize("what", ["timeout", "grace"])
@pytest.mark.parametrize("seconds", ["5", True, [], 1j])
def test_a_time_of_the_wrong_type(what, seconds):
    """What is not a number of seconds is refused by name and value."""
    with pytest.raises(TypeError, match=f"{what} must be a number of seconds, not {re.escape(repr(seconds))}"):
        ThreadGroup(**{what: seconds})


@pytest.mark.parametrize("limit", [0, -1])
def test_max_concurrency_below_one(limit):
    """With a limit below one nothing could ever run."""
    with pytest.raises(ValueError, match=f"max_concurrency must be at least 1, not {limit}"):
        ThreadGroup(max_concurrency=limit)


@pytest.mark.parametrize("limit", [True, "x", 2.0])
def test_max_concurrency_of_the_wrong_type(limit):
    """A limit is a whole number."""
    with pytest.raises(
        TypeError, match=f"max_concurrency must be a whole number, a Limiter, or None, not {re.escape(repr(limit))}"
    ):
        ThreadGroup(max_concurrency=limit)


def test_max_concurrency_beyond_all_bounds():
    """A limit that no machine can count to is refused by name; a time that long is no limit."""
    with pytest.raises(ValueError, match=f"^max_concurrency must be at most {sys.maxsize}, not {sys.maxsize + 1}$"):
        ThreadGroup(max_concurrency=sys.maxsize + 1)
    with ThreadGroup(max_concurrency=sys.maxsize, timeout=10**400, grace=10**400) as group:
        assert group.spawn(int).result() == 0


def test_name_of_the_wrong_type():
    """A name is a string."""
    with pytest.raises(TypeError) as caught:
        ThreadGroup(name=3)
    assert str(caught.value) == "name must be a string or None, not 3"


def test_grace_of_a_cancel_is_checked():
    """cancel() refuses a wrong grace, and then has not cancelled."""
    with ThreadGroup() as group:
        with pytest.raises(ValueError, match="grace must be 0 or more seconds"):
            group.cancel(grace=-1)
        with pytest.raises(TypeError, match="grace must be a number of seconds"):
            group.cancel(grace="1")
        assert group.spawn(int).result() == 0


def test_exit_on_another_thread():
    """Ending a block on another thread than began it names both."""
    with ThreadGroup(name="mine") as group:
        with platform_thread(group.__exit__, None, None, None) as outcome:
            pass
        error, _ = outcome[0]
        assert type(error) is RuntimeError
        assert re.fullmatch(
            r"the block of <ThreadGroup 'mine'> must end on the thread that began it, and after the scopes inside it: it was "
            r"begun by <platform thread 'MainThread'>, and the innermost scope of <platform thread 'Thread-\d+.*'> is None",
            str(error),
        )
        assert group.spawn(int).result() == 0


@pytest.mark.parametrize(
    "inner",
    [lambda: move_on_after(60), lambda: shield(timeout=60), lambda: ThreadGroup(name="inner")],
    ids=["limit", "shield", "group"],
)
def test_scope_left_open_inside(inner):
    """A scope that a suspended generator holds open ends with the block around it, and so do all children."""

    def suspended():
        with inner():
            yield spawn_here()

    def spawn_here():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TimeoutDoesNotReachChild)
            return ThreadGroup.current.spawn(time.sleep, 3600)

    generator = suspended()
    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup() as group:
            outer = group.spawn(time.sleep, 3600)
            child = next(generator)
    error = caught.value
    while isinstance(error, ExceptionGroup):
        [error] = error.exceptions
    assert type(error) is RuntimeError
    assert "after the scopes inside it" in str(error)
    assert outer.cancelled()
    assert child.cancelled()
    assert current_thread().scope is None
    with pytest.raises(RuntimeError):
        generator.close()


def test_generator_that_is_closed_inside_its_block():
    """Closing a generator ends its block, children joined, and close() gets its GeneratorExit back."""

    def suspended():
        with ThreadGroup() as group:
            yield group.spawn(time.sleep, 3600)

    generator = suspended()
    child = next(generator)
    generator.close()
    assert child.cancelled()
    assert current_thread().scope is None


def test_error_of_the_body_with_a_scope_left_open_inside():
    """What the body raised is not hidden by a scope that it has left open."""
    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup() as group:
            child = group.spawn(time.sleep, 3600)
            move_on_after(60).__enter__()
            raise KeyError
    assert [type(error) for error in caught.value.exceptions] == [KeyError]
    assert child.cancelled()
    assert current_thread().scope is None


def test_arguments_are_keyword_only():
    """A group takes its settings by name."""
    with pytest.raises(TypeError):
        ThreadGroup(8)


def test_spawn_passes_arguments_on():
    """All arguments go to the function, whatever their names."""

    def show(*args, **kwargs):
        return args, kwargs

    with ThreadGroup() as group:
        future = group.spawn(show, 1, 2, fn=3, self=4, timeout=5)
    assert future.result() == ((1, 2), {"fn": 3, "self": 4, "timeout": 5})


# ---- where it came from


def test_failure_says_where_its_thread_was_spawned():
    """Each child's error carries a note with the thread's name and the line of its spawn, from whatever thread."""
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        line = inspect.currentframe().f_lineno + 1
        future = group.spawn(fail, Oops("first"))
    [error] = caught.value.exceptions
    assert error.__notes__ == [f"on {future.name!r}, spawned at {__file__}:{line}"]
    assert future.spawn_site == f"{__file__}:{line}"

    def nested():
        with ThreadGroup() as inner:
            inner.spawn(fail, Oops("second"))

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.spawn(nested)
    [outer] = caught.value.exceptions
    [inner] = outer.exceptions
    assert outer.__notes__[-1].startswith("on 'test_failure_says_where_its_thread_was_spawned.<locals>.nested-")
    assert inner.__notes__[-1].startswith("on 'fail-")


def test_error_that_takes_no_note():
    """An error whose class refuses notes fails its group as any other."""

    class Bare(Exception):
        def add_note(self, note):
            raise RuntimeError(note)

    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.spawn(fail, Bare())
    assert [type(error) for error in caught.value.exceptions] == [Bare]


@pytest.mark.parametrize("way", ["generator", "enter", "failure"])
def test_scope_left_open_by_a_child(way):
    """A child that ends inside a block which it has opened fails in words, and that block ends with it."""
    inside = []

    def suspended():
        with ThreadGroup(name="left open") as inner:
            inside.append(inner.spawn(time.sleep, 3600))
            yield inner

    def work():
        if way == "generator":
            return next(kept)
        inner = ThreadGroup(name="left open").__enter__()
        inside.append(inner.spawn(time.sleep, 3600))
        if way == "failure":
            raise Oops
        return inner

    kept = suspended()
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.options(name="careless").spawn(work)
    assert inside[0].cancelled()
    [error] = caught.value.exceptions
    while isinstance(error, ExceptionGroup):
        [error] = error.exceptions
    if way == "failure":
        assert type(error) is Oops
    else:
        assert str(error) == (
            "<Future of 'careless' running> has ended inside <ThreadGroup 'left open'>, which it has opened and not closed: "
            "leave each block in the function that enters it, and do not return a generator that is suspended inside one"
        )
    if way == "generator":
        with pytest.raises(RuntimeError, match="must end on the thread that began it"):
            kept.close()
