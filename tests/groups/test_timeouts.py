"""timeout and move_on_after: limits on everything inside a block."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial

import pytest
from support import run_anywhere, run_in_vthread, run_program, until, wait_parked

from plait import (
    Cancelled,
    ThreadGroup,
    cancelled,
    checkpoint,
    deadline,
    gather,
    move_on_after,
    pmap,
    race,
    shield,
    timeout,
)
from plait._core import current_thread, runtime
from plait._originals import monotonic

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@WHERE
def test_timeout_raises(where):
    """A block that is not done in time raises TimeoutError at its wait."""

    def body():
        with pytest.raises(TimeoutError, match=r"not done within 0\.01 seconds"), timeout(0.01):
            time.sleep(3600)
        assert current_thread().scope is (None if where != "virtual" else current_thread())
        time.sleep(0)  # and the thread may go on to wait

    run_anywhere(where, body)


@WHERE
def test_move_on_after_does_not_raise(where):
    """A block that is cut short ends quietly; cancelled_caught says so."""

    def body():
        reached = []
        with move_on_after(0.01) as scope:
            assert not scope.cancelled_caught
            time.sleep(3600)
            reached.append(1)
        assert scope.cancelled_caught
        assert reached == []
        with move_on_after(3600) as scope:
            time.sleep(0)
        assert not scope.cancelled_caught

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("outer_is_first", [True, False])
def test_only_the_scope_that_expired_converts(where, outer_is_first):
    """Of nested limits the one whose time is up turns the cancellation into its outcome; others let it pass."""

    def body():
        trace = []
        outer, inner = (0.01, 3600) if outer_is_first else (3600, 0.01)
        with move_on_after(outer) as outside:
            with move_on_after(inner) as inside:
                time.sleep(3600)
            trace.append("between")
        assert inside.cancelled_caught is not outer_is_first
        assert outside.cancelled_caught is outer_is_first
        assert trace == ([] if outer_is_first else ["between"])

    run_anywhere(where, body)


@WHERE
def test_nested_timeouts_name_their_own_seconds(where):
    """The TimeoutError is the one of the limit that has passed."""

    def body():
        with pytest.raises(TimeoutError, match=r"within 0\.01 seconds"), timeout(0.01), timeout(3600):
            time.sleep(3600)
        with timeout(3600), pytest.raises(TimeoutError, match=r"within 0\.01 seconds"), timeout(0.01):
            time.sleep(3600)

    run_anywhere(where, body)


def test_both_expired_the_outer_one_wins():
    """If both have expired by the next cancel point the outer one converts."""
    with pytest.raises(TimeoutError, match=r"within 0 seconds"), timeout(0), move_on_after(0) as inside:
        time.sleep(3600)
    assert not inside.cancelled_caught


@WHERE
def test_no_time_at_all(where):
    """timeout(0) is up at once: the first cancel point raises, even if it would not wait."""

    def body():
        for instant in (lambda: time.sleep(0), lambda: queue.SimpleQueue().get(timeout=1)):
            with pytest.raises(TimeoutError), timeout(0):
                instant()
        with move_on_after(0) as scope:
            time.sleep(3600)
        assert scope.cancelled_caught

    run_anywhere(where, body)


@WHERE
def test_time_up_without_a_cancel_point(where):
    """A block that never waits is not cut short: there is nothing to convert."""

    def body():
        with timeout(0):
            pass
        with move_on_after(0) as scope:
            done = 1 + 1
        assert done == 2
        assert not scope.cancelled_caught
        time.sleep(0)

    run_anywhere(where, body)


@WHERE
def test_other_exceptions_pass(where):
    """What the block raises by itself leaves as it is, time up or not."""

    def body():
        error = KeyError("mine")
        for scope in (timeout(0), move_on_after(0), timeout(3600)):
            with pytest.raises(KeyError) as caught, scope:
                raise error
            assert caught.value is error

    run_anywhere(where, body)


def test_limit_around_a_group_reaches_its_children():
    """A limit around a group cancels the children; the TimeoutError is bare."""
    with pytest.raises(TimeoutError), timeout(3600) as limit, ThreadGroup() as group:
        children = [group.spawn(time.sleep, 3600) for _ in range(3)]
        limit.reschedule(0.01)
    assert all(child.cancelled() for child in children)
    with move_on_after(0.01) as scope, ThreadGroup() as group:
        group.spawn(time.sleep, 3600)
    assert scope.cancelled_caught


def test_limit_in_a_child_is_its_own():
    """A limit that a child sets concerns neither siblings nor body."""
    with ThreadGroup() as group:

        def limited():
            with move_on_after(0.005) as scope:
                time.sleep(3600)
            return scope.cancelled_caught

        children = [group.spawn(limited) for _ in range(10)]
        sibling = group.spawn(time.sleep, 0.02)
    assert all(child.result() for child in children)
    assert not sibling.cancelled()


def test_group_cancel_passes_a_limit_inside():
    """A limit does not convert the cancellation of the group around it."""
    after = []

    def limited():
        with move_on_after(3600) as scope:
            try:
                time.sleep(3600)
            finally:
                after.append(scope)
        after.append("went on")

    with ThreadGroup() as group:
        child = wait_parked(group.spawn(limited))
        group.cancel()
    assert child.cancelled()
    assert not after[0].cancelled_caught
    assert len(after) == 1


def test_cancelled_of_a_limit_names_its_reason_and_source():
    """Inside, the cancellation is a Cancelled that carries why and from where."""
    with pytest.raises(TimeoutError), timeout(0.005) as scope:
        try:
            time.sleep(3600)
        except Cancelled as cancelled:
            assert cancelled.source is scope
            assert cancelled.reason == "deadline passed"
            assert "deadline passed (by timeout(0.005))" in str(cancelled)
            raise


def test_reason_of_a_limit_handed_on_to_another_cancel():
    """Whatever its reason, a cancel is one, and not by time: also where there is a limit, and it has passed."""
    reasons = []
    with suppress(TimeoutError), timeout(0):
        try:
            checkpoint()
        except Cancelled as cancelled:
            reasons.append(cancelled.reason)
            raise
    with ThreadGroup() as group:
        child = group.spawn(threading.Event().wait)
        group.cancel(*reasons)
    assert child.cancelled()
    with ThreadGroup(timeout=3600) as group:
        group.scope.deadline = 1e-9  # has passed, and nobody has looked
        group.cancel(*reasons)


def test_wait_after_a_limit_that_has_passed_is_as_ever():
    """Nothing of an expired limit remains on the thread."""

    def body():
        for _ in range(3):
            with move_on_after(0.001):
                time.sleep(3600)
            with move_on_after(3600) as scope:
                time.sleep(0.001)
            assert not scope.cancelled_caught

    body()
    run_in_vthread(body)


@WHERE
def test_used_once(where):
    """Entering a limit again says to make a new one."""

    def body():
        for scope in (timeout(60), move_on_after(60)):
            with scope, pytest.raises(RuntimeError) as inside:
                scope.__enter__()
            with pytest.raises(RuntimeError) as afterwards, scope:
                raise AssertionError("entered")
            for caught in (inside, afterwards):
                assert str(caught.value) == f"{scope!r} was entered before: a time limit is used once, make a new one"

    run_anywhere(where, body)


@pytest.mark.parametrize("make", [timeout, move_on_after])
def test_wrong_seconds(make):
    """A limit must be a number of seconds from 0 up."""
    name = make.__name__
    for wrong in (-1, float("nan")):
        with pytest.raises(ValueError, match=f"{name} must be 0 or more seconds, not {wrong}"):
            make(wrong)
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match=f"{name} must be a number of seconds, not {wrong!r}"):
            make(wrong)


def test_infinite_seconds():
    """No limit at all is a limit, too."""
    with timeout(float("inf")):
        time.sleep(0.001)
    with ThreadGroup(timeout=float("inf")) as group:
        group.spawn(int)


def test_leaving_on_another_thread_or_out_of_order():
    """Scopes are left where and in the order in which they were entered; else an error names both."""
    outer, inner = move_on_after(60), move_on_after(61)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError) as caught:
        outer.__exit__(None, None, None)
    assert str(caught.value) == (
        "the block of move_on_after(60) must end after the scopes inside it, which end with it now: move_on_after(61) was "
        "left open. Leave a scope before each yield, or close the generator that is suspended inside"
    )
    for ended in (inner, outer):
        with pytest.raises(RuntimeError) as caught:
            ended.__exit__(None, None, None)
        assert str(caught.value) == (
            "scopes must be closed in the reverse order of opening, by the thread that opened them: "
            f"{ended!r} is not the innermost scope of <platform thread 'MainThread'>, None is"
        )
    with pytest.raises(RuntimeError) as caught:
        move_on_after(1).__exit__(None, None, None)
    assert str(caught.value) == "move_on_after(1) is not open: write `with`, which enters it and leaves it, once"


def test_thousand_limits_that_never_pass():
    """Limits that are left in time are swept out of the timers, not kept until they are due."""

    def body():
        carrier = current_thread().carrier
        for _ in range(1000):
            with timeout(3600):
                time.sleep(0)
        return len(carrier.timers)

    assert run_in_vthread(body) < 200


def test_limit_wakes_a_thread_that_waits_for_a_platform_thread():
    """A limit ends a wait for something that a platform thread would have done."""
    event = threading.Event()
    with ThreadGroup() as group:
        waiter = group.spawn(lambda: _limited(event))
        until(waiter.done)
    assert waiter.result() == "late"


def _limited(event):
    try:
        with timeout(0.005):
            event.wait()
    except TimeoutError:
        return "late"


# ---- whose clock it is


@contextmanager
def all_carriers_busy():
    """Virtual threads keep every carrier at work, with no point at which another could run, until the block is over."""
    busy, is_over = set(), []

    def work():
        busy.add(current_thread().carrier)
        end = monotonic() + 60
        while not is_over and monotonic() < end:
            pass

    with ThreadGroup() as group:
        while len(busy) < len(runtime.carriers):
            before = len(busy)
            thread = group.spawn(work)
            until(lambda: len(busy) > before or thread.done())  # noqa: B023 - in this round
        try:
            yield
        finally:
            is_over.append(1)


LIMITED = {
    "timeout": lambda: timeout(0.01),
    "deadline": lambda: deadline(time.monotonic() + 0.01),
    "group": lambda: ThreadGroup(timeout=0.01),
}


@pytest.mark.parametrize("where", ["main", "platform"])
@pytest.mark.parametrize("limit", LIMITED)
def test_limit_of_a_platform_thread_needs_no_carrier(where, limit):
    """While a platform thread waits it sees to its limits itself, whatever keeps the carriers busy."""

    def body():
        with all_carriers_busy():
            began = monotonic()
            with pytest.raises(TimeoutError), LIMITED[limit]():
                queue.Queue().get()
            assert monotonic() - began < 30

    run_anywhere(where, body)


@pytest.mark.parametrize("limit", [lambda: timeout(3600), lambda: ThreadGroup(timeout=3600)], ids=["timeout", "group"])
def test_timer_that_is_late_finds_a_limit_moved(limit):
    """A carrier may hear of a new deadline, or that there is none, after it has called for the old one."""
    with limit() as block:
        scope = getattr(block, "scope", block)
        scope.expire(0)
        time.sleep(0)
        assert scope.cancelled_at is None
    scope.expire(0)
    assert scope.cancelled_at is None


@WHERE
@pytest.mark.parametrize("limit", [timeout, move_on_after, lambda span: deadline(time.monotonic() + span)])
def test_end_of_a_limit_is_no_cancel_point(where, limit):
    """What the block has waited for is complete: a cancel that has come meanwhile is noticed at the next wait."""
    items = queue.SimpleQueue()
    got = []

    def body():
        items.put("item")
        with move_on_after(3600) as around:
            with limit(3600):
                item = items.get()
                around.cancel_scope("enough", None)
            got.append(item)
            time.sleep(0)
            got.append("reached")

    run_anywhere(where, body)
    assert got == ["item"]


def _suspended_inside(block):
    """A generator that is suspended inside `block`."""

    def generate():
        with block:
            yield

    generator = generate()
    next(generator)
    return generator


def _close(generator):
    """Close it, whose block has been ended from outside."""
    with pytest.raises(RuntimeError, match="reverse order"):
        generator.close()


BLOCKS = pytest.mark.parametrize(
    "make",
    [
        lambda: timeout(3600),
        lambda: move_on_after(3600),
        lambda: deadline(time.monotonic() + 3600),
        lambda: shield(timeout=3600),
    ],
)


@WHERE
@BLOCKS
@pytest.mark.filterwarnings("ignore::plait.YieldInsideScope")
def test_block_that_ends_before_those_inside(where, make):
    """It ends those that were left open with itself, and says so: nothing stays open in the thread."""

    def body():
        around = current_thread().scope
        inner = timeout(60)
        with pytest.raises(RuntimeError) as caught, make() as block:
            block = block or current_thread().scope
            generators = [_suspended_inside(shield(timeout=60)), _suspended_inside(inner)]
        assert str(caught.value) == (
            f"the block of {block!r} must end after the scopes inside it, which end with it now: timeout(60) was left open. "
            "Leave a scope before each yield, or close the generator that is suspended inside"
        )
        assert current_thread().scope is around
        for generator in generators:
            _close(generator)

    run_anywhere(where, body)


@BLOCKS
@pytest.mark.filterwarnings("ignore::plait.YieldInsideScope")
def test_group_left_open_in_a_block(make):
    """Its children have ended with the block, and what the group raises leaves it."""
    group = ThreadGroup()
    with pytest.raises(ExceptionGroup) as caught, make():
        generator = _suspended_inside(group)
        child = group.spawn(time.sleep, 3600)
    assert [type(error) for error in caught.value.exceptions] == [RuntimeError]
    assert child.cancelled()
    assert current_thread().scope is None
    with pytest.raises(RuntimeError, match="must end on the thread that began it"):
        generator.close()


@BLOCKS
def test_error_of_a_block_that_ends_before_those_inside(make):
    """What the body raises is not hidden by that."""
    with pytest.raises(ZeroDivisionError), make():
        generator = _suspended_inside(timeout(60))
        1 / 0  # noqa: B018 - the error
    assert current_thread().scope is None
    _close(generator)


@WHERE
def test_time_limit_that_strikes_with_a_block_left_open_inside(where):
    """It is the limit's own end, whatever was left open."""

    def body():
        with pytest.raises(TimeoutError), timeout(0.01):
            inner = timeout(3600)
            inner.__enter__()
            time.sleep(3600)
        assert current_thread().scope is (None if where != "virtual" else current_thread())

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("limit", LIMITED)
def test_limit_of_a_thread_that_never_has_to_wait(where, limit):
    """Each cancel point looks at the clock: no timer comes while a thread finds all that it asks for."""
    ready = threading.Event()
    ready.set()

    def body():
        with pytest.raises(TimeoutError), LIMITED[limit]():
            while True:
                ready.wait()

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("limit", LIMITED)
def test_limit_of_a_computation(where, limit):
    """`checkpoint` and `cancelled` look at the clock, too, whatever keeps the carriers busy."""

    def body():
        with pytest.raises(TimeoutError), LIMITED[limit]():
            while not cancelled():
                pass
            checkpoint()

    if where == "virtual":
        run_anywhere(where, body)
        return
    with all_carriers_busy():
        run_anywhere(where, body)


def test_limit_from_an_instant_long_ago():
    """Any number is an instant."""
    for instant in (0, 0.0, -1, -float("inf")):
        with pytest.raises(TimeoutError), deadline(instant):
            checkpoint()


@WHERE
@pytest.mark.parametrize(
    "limit",
    [
        lambda: timeout(3600),
        lambda: move_on_after(3600),
        lambda: deadline(time.monotonic() + 3600),
        lambda: shield(timeout=3600),
    ],
)
def test_block_left_by_another_thread(where, limit):
    """It is refused, by a sentence, and the block goes on."""

    def leave(block):
        with pytest.raises(
            RuntimeError, match=r"must be left by the thread that entered it, .*, not by .*: write `with`"
        ):
            block.__exit__(None, None, None)

    def body():
        with limit() as block:
            with ThreadGroup() as group:
                group.spawn(leave, block)
            assert current_thread().scope is block

    run_anywhere(where, body)


def test_cancel_that_comes_at_the_end_of_a_limit(monkeypatch):
    """The limit has found that the Cancelled is its own; a cancel just then is told at the next cancel point, as any other."""
    told = []
    items = queue.SimpleQueue()
    items.put("item")

    class Limit(move_on_after):
        def rest_of(self, error):
            rest = super().rest_of(error)
            if error is not None:
                group.cancel()
            return rest

    def child():
        with Limit(0.001):
            time.sleep(3600)
        with pytest.raises(Cancelled) as caught:
            items.get()  # which need not wait
        told.append(caught.value.reason)
        time.sleep(0.001)  # in clean-up, for it was told once

    with ThreadGroup() as group:
        group.spawn(child)
    assert told == ["the group was cancelled"]


@pytest.mark.parametrize("kind", [timeout, move_on_after])
def test_limit_that_was_moved_is_called_by_the_new_one(kind):
    """What messages say of it is what holds."""
    with kind(3600) as limit:
        assert limit.reschedule(7200)
        assert repr(limit) == f"{kind.__name__}(7200)"
        assert limit.reschedule(None)
        assert repr(limit) == f"{kind.__name__}(inf)"


@pytest.mark.parametrize("where", ["main", "virtual"])
def test_limit_in_a_forked_child(where):
    """Both processes go on inside the block, and its time is up in both."""
    out, _ = run_program(f"""
        import os, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        def fork():
            with plait.move_on_after(0.05) as limit, plait.timeout(3600):
                child = os.fork()
                time.sleep(3600)
            with plait.move_on_after(0.001):
                time.sleep(3600)
            if not child:
                os._exit(not limit.cancelled_caught)
            return os.waitpid(child, 0)[1]
        print(fork() if {where!r} == "main" else plait.spawn(fork).result())
    """)
    assert out == "0\n"


@pytest.mark.parametrize("where", ["main", "virtual"])
@pytest.mark.parametrize(
    ("block", "renew"),
    [
        ("plait.timeout(3600)", "limit.reschedule(0.03)"),
        ("plait.move_on_after(3600)", "limit.reschedule(0.03)"),
        ("plait.ThreadGroup(timeout=3600)", "limit.scope.set_deadline(time.monotonic() + 0.03)"),
    ],
)
def test_limit_of_another_thread_in_a_forked_child(where, block, renew):
    """Whoever has opened the block: its time is up in the child, too, for the thread that has forked inside."""
    out, err = run_program(f"""
        import os, threading, time, warnings, plait
        from contextlib import suppress
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        go = threading.Event()
        def fork():
            with plait.shield(timeout=3600):
                go.wait()
                child = os.fork()
                if child:
                    return os.waitpid(child, 0)[1]
            try:
                with plait.ThreadGroup() as below:
                    below.spawn(time.sleep, 3600)
            except plait.Cancelled as told:
                os._exit(told.reason != "deadline passed")
            finally:
                os._exit(2)
        def body():
            with suppress(TimeoutError), {block} as limit, plait.ThreadGroup() as group:
                forker = group.spawn(fork)
                with plait.shield(timeout=3600):
                    {renew}
                    go.set()
                    print(forker.result())
        body() if {where!r} == "main" else plait.spawn(body).result()
    """)
    assert out == "0\n", err


def test_limit_of_a_platform_thread_that_computes_in_a_forked_child():
    """A carrier of the child sees to those below the limit."""
    out, _ = run_program("""
        import os, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        with plait.timeout(3600), plait.move_on_after(0.05) as limit:
            child = os.fork()
            with plait.ThreadGroup() as group:
                sleeper = group.spawn(time.sleep, 3600)
                while not sleeper.done():
                    pass
        if not child:
            os._exit(not limit.cancelled_caught)
        print(os.waitpid(child, 0)[1])
    """)
    assert out == "0\n"


def _left_for_clean_up(graces, ready=None):
    """Wait until it is cancelled, and put down for how long it may clean up."""
    try:
        if ready is not None:
            ready.set()
        time.sleep(3600)
    finally:
        graces.append(current_thread().delivery.until - monotonic())


def _fail_after(ready):
    ready.wait()
    raise ZeroDivisionError


def _cut_by_timeout(graces):
    with suppress(TimeoutError), timeout(0.01):
        _left_for_clean_up(graces)


def _cut_by_move_on_after(graces):
    with shield(timeout=3600), move_on_after(0.01):
        _left_for_clean_up(graces)


def _cut_by_deadline(graces):
    with suppress(TimeoutError), timeout(3600), deadline(time.monotonic()):
        _left_for_clean_up(graces)


def _cut_in_gather(graces):
    ready = threading.Event()
    with pytest.raises(ZeroDivisionError):
        gather(partial(_left_for_clean_up, graces, ready), partial(_fail_after, ready))


def _cut_in_race(graces):
    ready = threading.Event()
    race(partial(_left_for_clean_up, graces, ready), ready.wait)


def _cut_in_pmap(graces):
    ready = threading.Event()
    calls = [partial(_left_for_clean_up, graces, ready), partial(_fail_after, ready)]
    with pytest.raises(ZeroDivisionError):
        list(pmap(lambda call: call(), calls))


@pytest.mark.parametrize("grace", [0.5, 60])
@pytest.mark.parametrize(
    "cut",
    [_cut_by_timeout, _cut_by_move_on_after, _cut_by_deadline, _cut_in_gather, _cut_in_race, _cut_in_pmap],
)
def test_clean_up_has_the_grace_of_the_group_around(cut, grace):
    """A block that has no grace of its own grants that of the block it is opened in."""
    graces = []
    with ThreadGroup(grace=grace) as group:
        group.spawn(cut, graces)
    [left] = graces
    assert left <= grace
    assert left > 5 or grace < 5


@WHERE
def test_clean_up_in_no_group(where):
    """Where no block says otherwise it has five seconds."""
    graces = []

    def body():
        with move_on_after(0.01):
            _left_for_clean_up(graces)

    run_anywhere(where, body)
    assert 0 < graces[0] <= 5
