"""The rules of cancellation: when it is delivered, what clean-up may do, and what is never lost."""

from __future__ import annotations

import gc
import queue
import re
import socket
import threading
import time
import warnings
import weakref

import pytest
from support import PATIENCE, is_parked, platform_thread, run_anywhere, run_in_vthread, run_program, until, wait_parked

from plait import (
    Cancelled,
    CancelledSwallowed,
    Limiter,
    Mutex,
    ThreadGroup,
    cancelled,
    gather,
    move_on_after,
    pmap,
    race,
    shield,
)
from plait._core import WaitReason, call_deaf, current_thread, observe_parks, unobserve_parks
from plait._originals import monotonic

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def sleep_forever():
    time.sleep(3600)


def full_queue():
    items = queue.SimpleQueue()
    items.put("item")
    return items


def done_future():
    with ThreadGroup() as group:
        return group.spawn(int)


# Operations that need not wait, each a cancel point all the same.
INSTANT = {
    "sleep": lambda: time.sleep(0),
    "queue": lambda: full_queue().get(),
    "mutex": lambda: Mutex(0).update(abs),
    "future": lambda: FUTURE[0].result(),
    "spawn": lambda: ThreadGroup.current.spawn(int),
    "event": lambda: set_event().wait(),
    "semaphore": lambda: threading.Semaphore(1).acquire(),
    "semaphore block": lambda: threading.Semaphore(1).__enter__(),
    "threads' queue": lambda: full(queue.Queue()).get(),
    "join of a queue": lambda: queue.Queue().join(),
    "barrier": lambda: threading.Barrier(1).wait(),
    "condition": lambda: condition_for(lambda: True),
}
FUTURE = []


def set_event():
    event = threading.Event()
    event.set()
    return event


def full(items):
    items.put(1)
    return items


def condition_for(predicate):
    condition = threading.Condition()
    with condition:
        return condition.wait_for(predicate)


@WHERE
@pytest.mark.parametrize("kind", INSTANT)
def test_first_delivery_at_any_cancel_point(where, kind):
    """Rule 1: every cancel point looks on entry, even if it would not wait."""
    FUTURE[:] = [done_future()]

    def body():
        reached = []
        with ThreadGroup() as group:
            group.cancel("because")
            with pytest.raises(Cancelled) as caught:
                INSTANT[kind]()
            assert caught.value.source is group
            assert caught.value.reason == "because"
            reached.append(1)
        assert reached == [1]

    run_anywhere(where, body)


@WHERE
def test_end_of_a_group_is_a_cancel_point(where):
    """A thread that is cancelled is told at the end of an inner group at the latest."""

    def body():
        reached = []
        with ThreadGroup() as group:
            with ThreadGroup():
                group.cancel()
            reached.append(1)
        assert reached == []

    run_anywhere(where, body)


def test_not_cancel_points():
    """Letting go, telling others and looking are no cancel points."""
    with ThreadGroup() as group:
        lock, event, items, mutex = threading.Lock(), threading.Event(), queue.SimpleQueue(), Mutex(0)
        lock.acquire()
        holding = mutex.lock()
        holding.__enter__()
        group.cancel()
        lock.release()
        with lock:
            event.set()
        items.put(1)
        holding.__exit__(None, None, None)
        condition = threading.Condition()
        with condition:
            condition.notify_all()
        assert event.is_set()
        assert len(group) == 0
        raised = False
        try:
            time.sleep(0)
        except Cancelled:
            raised = True
            raise
    assert raised


@WHERE
def test_clean_up_may_wait_within_the_grace(where):
    """Rule 2: while the Cancelled is alive, operations may park."""

    def body():
        trace = []

        def work():
            try:
                time.sleep(3600)
            finally:
                for _ in range(3):
                    time.sleep(0.002)
                    trace.append("slept")
                items = queue.SimpleQueue()
                threading.Timer(0.002, items.put, ["item"]).start()
                trace.append(items.get())

        with move_on_after(0.005):
            work()
        assert trace == ["slept", "slept", "slept", "item"]

    run_anywhere(where, body)


def test_clean_up_in_handlers_and_context_managers():
    """Rule 2 holds in except blocks, __exit__ and generators' clean-up alike."""
    trace = []

    class Pool:
        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            time.sleep(0.001)
            trace.append("exit")

    def generate():
        try:
            yield
        finally:
            time.sleep(0.001)
            trace.append("generator")

    def work():
        with Pool():
            for _ in generate():
                try:
                    time.sleep(3600)
                except BaseException:
                    time.sleep(0.001)
                    trace.append("except")
                    raise

    with ThreadGroup() as group:
        wait_parked(group.spawn(work))
        group.cancel()
    assert sorted(trace) == ["except", "exit", "generator"]


@WHERE
def test_clean_up_is_cut_off_after_the_grace(where):
    """Rule 2: when the grace is over, the next wait, or the one at hand, is interrupted; that is not swallowing."""

    def body():
        trace = []

        def work():
            try:
                time.sleep(3600)
            finally:
                trace.append("cleaning")
                try:
                    time.sleep(3600)
                finally:
                    trace.append("cut off")

        with warnings.catch_warnings():
            warnings.simplefilter("error", CancelledSwallowed)
            with ThreadGroup(grace=0.02) as group:
                group.spawn(group.cancel)
                work()
        assert trace == ["cleaning", "cut off"]

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("has_answer", [True, False])
def test_clean_up_talks_to_a_server(where, has_answer):
    """Rule 2 over a socket: who says goodbye to a server gets its answer within the grace, and is cut off after it."""

    def serve(server):
        with server.accept()[0] as connection:
            heard.append(connection.recv(100))
            if has_answer:
                connection.sendall(b"bye")
            heard.append(connection.recv(100))  # until the other end is closed

    def talk(connection):
        try:
            time.sleep(3600)
        finally:
            try:
                connection.sendall(b"quit")
                trace.append(connection.recv(100))
            except Cancelled:
                trace.append("cut off")
                raise

    def body():
        began = monotonic()
        with socket.create_server(("127.0.0.1", 0)) as server, platform_thread(serve, server) as outcome:
            with socket.create_connection(server.getsockname()) as connection:
                with ThreadGroup(grace=PATIENCE if has_answer else 0.02) as group:
                    group.spawn(group.cancel)
                    talk(connection)
        assert outcome == [(None, None)]
        if has_answer:
            assert trace == [b"bye"]
            assert heard == [b"quit", b""]
        else:
            assert trace == ["cut off"]
            assert monotonic() - began >= 0.02

    heard, trace = [], []
    run_anywhere(where, body)


def test_grace_is_granted_once():
    """However often clean-up tries again, waits after the grace end at once."""
    trace = []

    def work():
        try:
            time.sleep(3600)
        finally:
            for _ in range(3):
                try:
                    time.sleep(3600)
                except Cancelled as cancelled:
                    trace.append(cancelled)
                    if len(trace) == 3:
                        raise

    with ThreadGroup(grace=0.01) as group:
        child = wait_parked(group.spawn(work))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CancelledSwallowed)
            group.cancel()
            until(child.done)
    assert len(trace) == 3


def test_grace_of_the_cancel_comes_before_the_groups():
    """cancel(grace=0) leaves clean-up no time."""
    trace = []

    def work():
        try:
            time.sleep(3600)
        finally:
            try:
                time.sleep(3600)
            finally:
                trace.append("cut off")

    with ThreadGroup(grace=3600) as group:
        wait_parked(group.spawn(work))
        group.cancel(grace=0)
    assert trace == ["cut off"]


def clean_up(wait, begun=None):
    """Wait until cancelled, then clean up by `wait()`, which never ends; the reason of the cancel, and the last one's."""
    try:
        sleep_forever()
    except Cancelled as first:
        if begun is not None:
            begun.append(current_thread())
        try:
            wait()
        except Cancelled as last:
            return first.reason, last.reason
    raise AssertionError("it has gone on")


def sleep_in_a_block():
    with move_on_after(3600), shield(timeout=3600):
        sleep_forever()


def sleep_in_a_group():
    with ThreadGroup(grace=3600) as group:
        group.spawn(clean_up, sleep_forever)


def wait_for_a_lock():
    lock = threading.Lock()
    with lock, lock:
        pass


CLEAN_UPS = pytest.mark.parametrize("wait", [sleep_forever, sleep_in_a_block, sleep_in_a_group, wait_for_a_lock])


@WHERE
@CLEAN_UPS
def test_second_cancel_cuts_clean_up_off(where, wait):
    """Whatever clean-up waits for, and in whatever blocks of its own; the reason stays the first one's."""

    def body():
        outcomes, begun = [], []

        def cancel_twice():
            wait_parked(owner)
            group.cancel("the first", grace=3600)
            until(lambda: len(begun) == 2)
            wait_parked(child)
            wait_parked(owner)
            group.cancel("the second", grace=0.01)

        owner = current_thread()
        with ThreadGroup() as group, platform_thread(cancel_twice):
            child = wait_parked(group.spawn(clean_up, wait, begun))
            outcomes.append(clean_up(wait, begun))
        outcomes.append(child.result())
        assert outcomes == [("the first", "the first")] * 2

    run_anywhere(where, body)


def test_second_cancel_shortens_the_grace_only():
    """The soonest end that anybody has asked for counts, be it by the first cancel."""
    ends = []

    def work():
        try:
            sleep_forever()
        finally:
            begun = monotonic()
            try:
                sleep_forever()
            finally:
                ends.append(monotonic() - begun)

    for graces in [(0.02, 3600), (3600, 0.02, 3600), (3600, 1800, 0.02), (0.02, 0.5)]:
        with ThreadGroup() as group:
            child = wait_parked(group.spawn(work))
            for grace in graces:
                group.cancel(grace=grace)
            group.cancel()
            until(child.done)
    assert len(ends) == 4
    assert all(end < 10 for end in ends)


def test_second_cancel_after_a_failure():
    """What has cancelled the group does not matter: its failure is raised, and the others have less time."""
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup(grace=3600) as group:
        begun = []
        child = wait_parked(group.spawn(clean_up, sleep_forever, begun))
        failed = group.spawn(lambda: 1 / 0)
        until(lambda: begun)
        group.cancel(grace=0)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)
    assert child.result()[1].startswith(f"{failed.name!r} failed")


def test_second_cancel_is_for_who_is_told_later_too():
    """Who was at work, and comes to a cancel point when the time is over, has none to clean up."""
    gate, is_working = threading.Event(), threading.Event()

    def work():
        call_deaf(lambda: (is_working.set(), gate.wait()))
        clean_up(sleep_forever)

    with ThreadGroup(grace=3600) as group:
        group.spawn(work)
        is_working.wait()
        group.cancel()
        group.cancel(grace=0)
        gate.set()


@WHERE
def test_second_cancel_leaves_shields_alone(where):
    """A shield that was there before the clean-up holds whatever is cancelled how often."""

    def body():
        gate = threading.Event()

        def cancel_twice():
            wait_parked(owner)
            group.cancel(grace=3600)
            group.cancel(grace=0)
            gate.set()

        owner = current_thread()
        with ThreadGroup() as group, platform_thread(cancel_twice):
            with shield(timeout=3600):
                with move_on_after(3600):
                    gate.wait()
                with move_on_after(0.001) as limit:
                    sleep_forever()
            assert limit.cancelled_caught
            with pytest.raises(Cancelled):
                sleep_forever()

    run_anywhere(where, body)


@WHERE
def test_time_limit_in_clean_up_holds(where):
    """A time limit set during clean-up ends its block, long before the grace is over."""

    def body():
        trace = []

        def work():
            try:
                time.sleep(3600)
            finally:
                with move_on_after(0.01) as scope:
                    time.sleep(1)
                    trace.append("slept on")
                trace.append(scope.cancelled_caught)

        with move_on_after(0.005):
            work()
        assert trace == [True]

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("who", ["body", "child"])
def test_time_of_a_group_in_clean_up_is_not_lost(where, who):
    """What a group in clean-up has not done in its time it says, though its owner is cancelled."""
    trace = []

    def body():
        with move_on_after(0.005) as scope:
            try:
                sleep_forever()
            finally:
                with pytest.raises(TimeoutError, match="late"), ThreadGroup(timeout=0.01, name="late") as group:
                    group.spawn(sleep_forever) if who == "child" else sleep_forever()
                time.sleep(0)
                trace.append("cleaned up")
        trace.append(scope.cancelled_caught)

    run_anywhere(where, body)
    assert trace == ["cleaned up", True]


@WHERE
def test_group_in_clean_up_works(where):
    """A group opened during clean-up runs its children; one that fails is contained in it."""

    def body():
        trace = []

        def work():
            try:
                time.sleep(3600)
            finally:
                with ThreadGroup(max_concurrency=1) as group:
                    futures = [group.spawn(lambda n: time.sleep(0.001) or n, n) for n in range(3)]
                trace.append([future.result() for future in futures])
                try:
                    with ThreadGroup() as group:
                        sibling = group.spawn(sleep_forever)
                        wait_parked(sibling)
                        group.spawn(lambda: 1 / 0)
                        sleep_forever()
                except ExceptionGroup as error:
                    trace.append((sibling.cancelled(), [type(e) for e in error.exceptions]))
                time.sleep(0.001)
                trace.append("rested")

        with move_on_after(0.005) as scope:
            work()
        assert scope.cancelled_caught
        assert trace == [[0, 1, 2], (True, [ZeroDivisionError]), "rested"]

    run_anywhere(where, body)


@WHERE
def test_groups_in_clean_up_end_with_its_grace(where):
    """What clean-up opens, however nested and patient, is cut off when the grace of the clean-up is over."""

    def body():
        trace = []
        lock = threading.Lock()

        def child():
            try:
                sleep_forever()
            except Cancelled as cancelled:
                trace.append(("child", cancelled.source is outer))
                with move_on_after(3600):
                    sleep_forever()
                raise

        def work():
            try:
                sleep_forever()
            finally:
                with move_on_after(3600), ThreadGroup(grace=3600) as group:
                    group.spawn(child)
                    with lock:
                        sleep_forever()
                trace.append("went on")

        outer = ThreadGroup(grace=0.25)  # time enough for the child to start
        with outer:
            outer.cancel()
            work()
        assert trace == [("child", True)]
        assert current_thread().delivery is None

    run_anywhere(where, body)


def test_cancelled_children_of_clean_up_are_told_again_outside():
    """What a thread had been told is as before when the scopes of its clean-up have closed."""
    trace = []

    def work():
        try:
            sleep_forever()
        except Cancelled:
            with move_on_after(0.001):
                sleep_forever()
            time.sleep(0.001)
            trace.append("may still wait")
            raise

    with ThreadGroup() as group:
        wait_parked(group.spawn(work))
        group.cancel()
    assert trace == ["may still wait"]


def test_cancel_reaches_the_children_of_a_thread_that_computes():
    """A cancel finds threads parked in a group whose owner runs on another carrier and has never parked."""
    out, _ = run_program(
        """
        import threading, time, plait
        from plait import _originals
        from plait.lowlevel import current_thread
        gate = _originals.allocate_lock()
        gate.acquire()
        ended = threading.Event()
        def leaf():
            parked.append(current_thread())
            try:
                time.sleep(3600)
            finally:
                ended.set()
        def owner():
            with plait.ThreadGroup() as group:
                group.spawn(leaf)
                _originals.lock_acquire(gate)  # holds its carrier
        parked = []
        with plait.ThreadGroup() as group:
            group.spawn(owner)
            while not (parked and parked[0].waits_for and parked[0].is_waiting()):
                _originals.sleep(0.001)
            group.cancel()
            is_free = _originals.lock_acquire(gate, False)
            while not ended.is_set():
                _originals.sleep(0.001)
            _originals.lock_release(gate)
        print(is_free, "done")
        """,
        PLAIT_CARRIERS=2,
    )
    assert out == "False done\n"


def test_swallowed_is_raised_again_and_reported_once():
    """Rule 3: swallowed, it is raised again at each operation that would park, and reported once."""
    trace = []

    def work():
        for _ in range(3):
            try:
                time.sleep(3600)
            except BaseException as error:
                trace.append(type(error))
        time.sleep(3600)
        trace.append("reached")

    with pytest.warns(CancelledSwallowed) as record, ThreadGroup() as group:
        child = wait_parked(group.spawn(work))
        group.cancel("enough")
    assert trace == [Cancelled] * 3
    assert child.cancelled()
    [swallowed] = [warning for warning in record if warning.category is CancelledSwallowed]
    assert re.fullmatch(
        r"<Future of '.*work-\d+' .*> was cancelled \(enough\), and the Cancelled that it got was swallowed; it gets another "
        r"at each operation that would park\. Let Cancelled pass: catch Exception, or raise it again after clean-up",
        str(swallowed.message),
    )
    assert swallowed.filename == __file__  # at the wait that follows


def test_swallowed_and_kept_is_reported_once_the_grace_is_over():
    """Who keeps the exception looks like clean-up, until the grace is over and it waits with nothing in hand."""
    kept = []

    def work():
        for _ in range(3):
            try:
                sleep_forever()
            except BaseException as error:
                kept.append(error)

    with pytest.warns(CancelledSwallowed) as record, ThreadGroup(grace=0.001) as group:
        wait_parked(group.spawn(work))
        group.cancel("enough")
    assert [type(error) for error in kept] == [Cancelled] * 3
    [swallowed] = [warning for warning in record if warning.category is CancelledSwallowed]
    assert "was cancelled (enough), and the Cancelled that it got was swallowed" in str(swallowed.message)
    assert swallowed.filename == __file__


REPLACING = {
    "group": lambda fail: run_beside(fail),
    "pmap": lambda fail: list(pmap(lambda call: call(), [fail])),
}


def run_beside(fail):
    with ThreadGroup() as group:
        group.spawn(fail)
        sleep_forever()


def handle(how, outer):
    """Have what fails in clean-up take the place of the Cancelled, and handle it; what was raised."""

    handler = current_thread()

    def fail():
        try:
            outer.cancel("enough")
            sleep_forever()
        finally:
            until(lambda: handler.delivery is not None or handler.scope.is_shield)  # it has been told
            raise OSError

    raised = []
    try:
        REPLACING[how](fail)
    except* OSError as error:
        raised.append(error)
    return raised


@pytest.mark.parametrize("how", REPLACING)
def test_who_handles_a_failure_in_place_of_its_cancel_has_not_swallowed_that(how):
    """A group raises its failures in place of its body's Cancelled: who handles them is told again, and not accused."""
    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", CancelledSwallowed)
        with ThreadGroup(grace=0.02) as outer:
            kept += handle(how, outer)
            sleep_forever()
    assert kept


def test_who_swallows_the_cancel_that_follows_is_accused():
    """It is told again, and now it is that one."""
    with pytest.warns(CancelledSwallowed), ThreadGroup() as outer:
        handle("group", outer)
        try:
            sleep_forever()
        except Cancelled:
            pass
        sleep_forever()


def test_swallowed_exceptions_are_freed_at_once():
    """Rule 3 rests on the exception's death: plait keeps none of those that it raises alive, not even in a cycle."""
    alive = []

    def work():
        for _ in range(3):
            try:
                time.sleep(3600)
            except Cancelled as cancelled:
                seen = weakref.ref(cancelled)
            alive.append(seen() is not None)

    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CancelledSwallowed)
            with ThreadGroup(grace=0.5) as group:
                wait_parked(group.spawn(work))
                group.cancel()
    finally:
        gc.enable()
    assert alive == [False] * 3


def test_swallowed_then_ended_without_waiting_is_not_reported():
    """A thread that swallows its Cancelled and comes to its end without another wait is done."""

    def work():
        try:
            time.sleep(3600)
        except BaseException:
            pass
        return "value"

    with ThreadGroup() as group:
        child = wait_parked(group.spawn(work))
        group.cancel()
    assert child.result() == "value"


def test_cancelled_kept_alive_elsewhere_ends_with_the_grace():
    """Keeping the exception does not extend its grace."""
    kept = []

    def work():
        try:
            time.sleep(3600)
        except Cancelled as cancelled:
            kept.append(cancelled)
        time.sleep(3600)

    with pytest.warns(CancelledSwallowed), ThreadGroup(grace=0.02) as group:
        child = wait_parked(group.spawn(work))
        group.cancel()
    assert child.cancelled()


@WHERE
@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_lock_wait_is_patient(where, make):
    """Rule 4: a wait for a plain lock is not interrupted; it gets the lock when the holder lets go (I5)."""

    def body():
        lock = make()
        held, gate = threading.Event(), threading.Event()
        me = current_thread()
        trace = []

        def hold():
            with lock:
                held.set()
                gate.wait()

        def cancel_when_waiting(group):
            until(lambda: is_parked(me, WaitReason.LOCK))
            group.cancel()
            # Parked again, or still: it waits for the lock although it is cancelled.
            until(lambda: is_parked(me, WaitReason.LOCK))
            trace.append("released")
            gate.set()

        with ThreadGroup() as others:
            others.spawn(hold)
            held.wait()
            with ThreadGroup() as group:
                others.spawn(cancel_when_waiting, group)
                with lock:
                    trace.append("locked")
                    time.sleep(0)
                    trace.append("went on")
        assert trace == ["released", "locked"]
        assert lock.acquire(False)
        lock.release()

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_lock_wait_is_interrupted_after_the_grace(where, make):
    """Rule 4: a lock wait that outlasts the grace is interrupted, so no lock can hang a group."""

    def body():
        lock = make()
        held, gate = threading.Event(), threading.Event()
        trace = []

        def hold():
            with lock:
                held.set()
                gate.wait()

        with ThreadGroup() as others:
            others.spawn(hold)
            held.wait()
            with ThreadGroup(grace=0.02) as group:
                others.spawn(group.cancel)
                try:
                    lock.acquire()
                except Cancelled:
                    trace.append("interrupted")
                    raise
                finally:
                    gate.set()
        assert trace == ["interrupted"]
        assert lock.acquire(False)
        lock.release()

    run_anywhere(where, body)


def test_lock_wait_that_begins_after_the_cancel_has_a_grace_of_its_own():
    """Rule 4: the grace of a lock wait is counted from its start, if that is later: clean-up can take locks."""
    lock = threading.Lock()
    trace = []

    def work():
        try:
            time.sleep(3600)
        finally:
            with lock:
                trace.append("locked in clean-up")

    lock.acquire()
    with ThreadGroup() as group:
        child = wait_parked(group.spawn(work))
        group.cancel()
        wait_parked(child, WaitReason.LOCK)
        lock.release()
    assert trace == ["locked in clean-up"]


def test_condition_wait_is_interrupted_at_once_and_holds_its_lock():
    """Rule 4: Condition.wait is interrupted at once, and its lock is held again when it leaves."""
    trace = []

    def work():
        with condition:
            try:
                condition.wait()
            finally:
                trace.append(condition._is_owned())

    condition = threading.Condition()
    with ThreadGroup(grace=3600) as group:
        wait_parked(group.spawn(work), WaitReason.CONDITION)
        group.cancel()
    assert trace == [True]
    assert condition.acquire(False)
    condition.release()


@pytest.mark.parametrize("where", ["platform", "virtual"])
@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_condition_wait_gets_its_lock_back_though_the_grace_is_over(where, kind):
    """A cancelled Condition.wait does not leave without its lock, which its caller is going to release."""
    condition = threading.Condition(kind())
    trace = []

    def hold(waiter, group):
        wait_parked(waiter, WaitReason.CONDITION)
        with condition:
            group.cancel(grace=0)
            wait_parked(waiter, WaitReason.LOCK)
            time.sleep(0.001)
            assert is_parked(waiter, WaitReason.LOCK)
            trace.append("held")

    def body():
        with ThreadGroup() as others, ThreadGroup() as group:
            others.spawn(hold, current_thread(), group)
            with condition:
                try:
                    condition.wait()
                finally:
                    trace.append("got")

    run_anywhere(where, body)
    assert trace == ["held", "got"]
    assert condition.acquire(False)
    condition.release()


COMPLETING = {
    "queue": (queue.SimpleQueue, lambda thing: thing.get(), lambda thing: thing.put("value")),
    "big queue": (queue.Queue, lambda thing: thing.get(), lambda thing: thing.put("value")),
    "event": (threading.Event, lambda thing: thing.wait() and "value", lambda thing: thing.set()),
    "semaphore": (
        lambda: threading.Semaphore(0),
        lambda thing: thing.acquire() and "value",
        lambda thing: thing.release(),
    ),
}


@pytest.mark.parametrize("kind", COMPLETING)
def test_completed_wait_is_delivered(kind):
    """I5: a wait that has completed is never turned into a cancellation; the cancel comes at the next point."""
    make, wait, complete = COMPLETING[kind]
    for _ in range(20):
        thing = make()
        got = []

        def work():
            got.append(wait(thing))
            time.sleep(3600)

        with ThreadGroup() as group:
            child = wait_parked(group.spawn(work))
            complete(thing)
            child.cancel()
        assert got == ["value"]
        assert child.cancelled()


@WHERE
@pytest.mark.parametrize("kind", COMPLETING)
def test_wait_that_completes_before_it_is_cancelled_has_not_been_told(where, kind):
    """I5: a wait that ends between its start and its look at the scopes has its value; the Cancelled is not counted."""
    make, wait, complete = COMPLETING[kind]
    thing = make()
    got = []

    def observe(thread, reason):
        unobserve_parks(observe)
        complete(thing)
        scope.cancel_scope("enough", scope)

    def body():
        scope.__enter__()
        observe_parks(observe)
        got.append(wait(thing))
        assert cancelled()
        with pytest.raises(Cancelled) as caught:
            time.sleep(3600)
        assert scope.__exit__(Cancelled, caught.value, None)

    scope = move_on_after(3600)
    run_anywhere(where, body)
    assert got == ["value"]


@pytest.mark.parametrize("kind", COMPLETING)
def test_cancelled_wait_takes_nothing(kind):
    """Rule 5: a wait that is cancelled did not happen: what comes later goes to the others."""
    make, wait, complete = COMPLETING[kind]
    thing = make()
    with ThreadGroup() as group:
        first = wait_parked(group.spawn(wait, thing))
        second = wait_parked(group.spawn(wait, thing))
        first.cancel()
        until(first.done)
        complete(thing)
        assert second.result(20) == "value"
    assert first.cancelled()


def test_cancel_and_completion_racing():
    """Rule 5: cancel and completion at the same time: either the waiter has the value, or the next one gets it."""

    def once():
        items = queue.SimpleQueue()
        with ThreadGroup() as group:
            child = group.spawn(items.get)
            canceller = group.spawn(child.cancel)
            putter = group.spawn(items.put, "item")
            until(lambda: canceller.done() and putter.done() and child.done())
        if child.cancelled():
            assert items.get(False) == "item"
        else:
            assert child.result() == "item"
            assert items.empty()

    for _ in range(100):
        once()
    run_in_vthread(lambda: [once() for _ in range(100)])


def test_mutex_is_interrupted_at_once():
    """A Mutex is no plain lock: waiting for it is interrupted at once, and takes nothing."""
    mutex = Mutex("value")
    with mutex.lock(), ThreadGroup(grace=3600) as group:
        child = wait_parked(group.spawn(lambda: mutex.lock().__enter__()), WaitReason.MUTEX)
        group.cancel()
        until(child.done)
    assert child.cancelled()
    assert mutex.into_inner() == "value"


def test_outer_cancel_during_clean_up_for_an_inner_one():
    """One exception is enough: cancelled further out while it unwinds, a thread leaves both blocks with it."""
    trace = []

    def work(group):
        with move_on_after(0.005) as inner:
            try:
                time.sleep(3600)
            finally:
                group.cancel()
                time.sleep(0.001)
                trace.append("cleaned up")
        trace.append("between")
        trace.append(inner)

    with ThreadGroup() as group:
        child = group.spawn(work, group)
    assert child.cancelled()
    assert trace == ["cleaned up"]


def test_cancelled_raised_by_hand_is_a_failure():
    """A Cancelled that nobody's cancellation has caused is an exception like any other."""

    def pretend():
        raise Cancelled("not really")

    with pytest.raises(BaseExceptionGroup) as caught, ThreadGroup() as group:
        group.spawn(pretend)
    assert type(caught.value.exceptions[0]) is Cancelled


def test_cancel_wakes_each_thread_once_and_a_finished_one_not_at_all():
    """Ten thousand cancels of one group cost what one does; nothing spins."""
    wakes = []

    def work():
        try:
            time.sleep(3600)
        finally:
            wakes.append(1)
            time.sleep(0.01)

    with ThreadGroup() as group:
        children = [wait_parked(group.spawn(work)) for _ in range(10)]
        for _ in range(1000):
            group.cancel()
        until(lambda: all(child.done() for child in children))
    assert len(wakes) == 10


@WHERE
def test_cancelled_says_who_and_where(where):
    """Each Cancelled names its reason and source, and the thread that has cancelled, with the place."""
    seen = []

    def work():
        try:
            sleep_forever()
        except Cancelled as cancelled:
            seen.append(cancelled)
            raise

    def body():
        seen.clear()
        name = threading.current_thread().name
        with ThreadGroup(name="mine") as group:
            wait_parked(group.spawn(work))
            group.cancel("enough")  # here
        [cancelled] = seen
        assert (cancelled.reason, cancelled.source, cancelled.thread) == ("enough", group, name)
        with open(__file__) as file:
            [line] = [
                number for number, text in enumerate(file, 1) if text.endswith('cancel("enough")  # here' + chr(10))
            ]
        assert cancelled.site == f"{__file__}:{line}"
        assert str(cancelled) == f"cancelled: enough (by <ThreadGroup 'mine'>, on {name!r} at {__file__}:{line})"

    run_anywhere(where, body)


def test_clock_that_cancels_has_no_place():
    """A cancel by time names no thread."""
    with pytest.raises(TimeoutError), ThreadGroup(name="late", timeout=0.001) as group:
        try:
            sleep_forever()
        except Cancelled as cancelled:
            assert (cancelled.reason, cancelled.source) == ("deadline passed", group)
            assert (cancelled.thread, cancelled.site) == (None, None)
            assert str(cancelled) == "cancelled: deadline passed (by <ThreadGroup 'late'>)"
            raise


def test_consumer_of_a_queue_that_is_never_empty():
    """A thread that always finds something is cancelled all the same."""
    items = queue.Queue()
    items.put(1)

    def consume():
        while True:
            items.put(items.get())

    with ThreadGroup() as group:
        consumer = group.spawn(consume)
        until(consumer.running)
        group.cancel()
    assert consumer.cancelled()


@WHERE
def test_cancelled_wait_takes_back_a_lock_of_any_class(where):
    """A cancelled Condition.wait holds its lock again, whatever that is, and however long somebody else has it."""

    class Wrapped:
        """A lock that hands on to another, as multiprocessing's does: nothing but acquire and release."""

        def __init__(self):
            self._lock = threading.Lock()

        def acquire(self, *args):
            return self._lock.acquire(*args)

        def release(self):
            self._lock.release()

        def locked(self):
            return self._lock.locked()

        __enter__ = acquire

        def __exit__(self, *exc_info):
            self.release()

    held = []

    def wait(condition):
        with condition:
            try:
                condition.wait()
            finally:
                held.append(condition._lock._lock.locked() and len(condition._waiters) == 0)

    def body():
        held.clear()
        condition = threading.Condition(Wrapped())
        with ThreadGroup(grace=0) as group:
            waiting = wait_parked(group.spawn(wait, condition))
            with shield(timeout=3600):
                condition.acquire()
                waiting.cancel()
                until(lambda: waiting.waits_for is WaitReason.LOCK and waiting.is_waiting())
                condition.release()
                until(waiting.done)
        assert held == [True]

    run_anywhere(where, body)


def test_thread_that_swallows_in_a_loop_comes_to_its_end():
    """However often it swallows its Cancelled, a loop that has an end comes to it, and what follows is run."""
    ended = []

    def swallow():
        for _ in range(1000):
            try:
                sleep_forever()
            except BaseException:
                pass
        ended.append(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CancelledSwallowed)
        with ThreadGroup() as group:
            wait_parked(group.spawn(swallow))
            group.cancel()
    assert ended == [1]


@pytest.mark.parametrize("keep", [lambda error: None, [].append], ids=["dropped", "kept"])
def test_thread_that_swallows_for_ever_burns_no_cpu(keep):
    """Whoever swallows each Cancelled in a loop gets them ever more slowly, whether it keeps them or not."""
    moments = []

    def swallow():
        while not is_over:
            moments.append(monotonic())
            try:
                sleep_forever()
            except BaseException as error:
                keep(error)

    is_over = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CancelledSwallowed)
        with ThreadGroup(grace=0) as group:
            thread = wait_parked(group.spawn(swallow))
            group.cancel()
            with shield(timeout=3600):
                until(lambda: monotonic() - moments[0] > 0.2)
            is_over.append(1)
    assert thread.done()
    spent, soonest = 0.0, 0
    while spent < moments[-1] - moments[1]:  # from when it had been told once
        spent += max(5e-5, spent / 1024)
        soonest += 1
    assert 8 < len(moments) <= soonest + 3


@pytest.mark.parametrize("kind", ["swallowed", "generator"])
def test_warnings_may_wait(kind):
    """What is done with a warning, logging say, may wait for others: no wait is announced meanwhile."""
    mutex = Mutex(0)
    shown = []

    def show(message, category, *args, **kwargs):
        with mutex.lock():
            shown.append(category)

    def swallow():
        try:
            sleep_forever()
        except BaseException:
            pass
        sleep_forever()

    def suspended():
        with move_on_after(3600):
            yield

    def inside():
        generator = suspended()
        next(generator)
        try:
            sleep_forever()
        finally:
            generator.close()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        with ThreadGroup() as group:
            thread = wait_parked(group.spawn(swallow if kind == "swallowed" else inside))
            with mutex.lock():
                thread.cancel()
                wait_parked(thread, WaitReason.MUTEX)
    assert shown


CLEAN_UPS = {
    "group": lambda: spawn_in_a_group(),
    "gather": lambda: gather(sleep_forever),
    "race": lambda: race(sleep_forever),
    "pmap": lambda: list(pmap(time.sleep, [3600])),
}


def spawn_in_a_group():
    with ThreadGroup() as group:
        group.spawn(sleep_forever)


@WHERE
@pytest.mark.parametrize("how", CLEAN_UPS)
def test_clean_up_in_threads_of_its_own_is_cut_off_after_the_grace(where, how):
    """What clean-up has spawned is cancelled when the grace is over, and the clean-up does not go on as if it were done."""
    reached = []

    def body():
        with ThreadGroup(grace=0.02) as group:
            group.cancel()
            try:
                sleep_forever()
            finally:
                CLEAN_UPS[how]()
                reached.append(1)

    run_anywhere(where, body)
    assert reached == []


@WHERE
@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_condition_wait_left_by_a_warning_holds_its_lock(where, make):
    """What a warning raises where a swallowed cancel is raised again is raised with the lock held, as all that leaves a wait."""
    kept = []

    def body():
        kept.clear()
        condition = threading.Condition(make())
        with warnings.catch_warnings():
            warnings.simplefilter("error", CancelledSwallowed)
            with ThreadGroup(grace=0.01) as group:
                group.cancel()
                try:
                    sleep_forever()
                except Cancelled as cancelled:
                    kept.append(cancelled)
                with condition:
                    with pytest.raises(CancelledSwallowed):
                        condition.wait()
                    condition.notify()  # refused without the lock
        assert not condition._waiters

    run_anywhere(where, body)


@WHERE
@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_condition_wait_of_who_hears_of_no_cancel(where, make):
    """Who hears of no cancel hears of none after the wait, either: what it does in there is not torn apart."""
    heard = []

    def write():
        condition = threading.Condition(make())
        with condition:
            condition.wait(0.001)
        heard.append(current_thread().is_deaf)

    run_anywhere(where, lambda: call_deaf(write))
    assert heard == [True]


def test_event_wait_left_by_a_warning_leaves_nothing_behind():
    """The same for an event, whose list of waiters is empty afterwards."""
    event = threading.Event()
    kept = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", CancelledSwallowed)
        with ThreadGroup(grace=0.01) as group:
            group.cancel()
            try:
                sleep_forever()
            except Cancelled as cancelled:
                kept.append(cancelled)
            with pytest.raises(CancelledSwallowed):
                event.wait()
    assert not event._cond._waiters


def test_slot_is_not_given_back_by_who_has_none():
    """A warning about a cancel in a wait for a slot may wait itself, and be woken: that is another wait."""
    mutex = threading.Lock()
    limiter = Limiter(1)

    def show(*args, **kwargs):
        shown.append(current_thread())
        with mutex:
            pass

    def swallow(other):
        try:
            sleep_forever()
        except BaseException:
            pass
        other.spawn(int)

    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        with limiter, ThreadGroup(max_concurrency=limiter) as other:
            with ThreadGroup() as group, mutex:
                thread = wait_parked(group.spawn(swallow, other))
                thread.cancel()
                wait_parked(thread, WaitReason.LOCK)
            assert thread.cancelled()
            assert limiter.available == 0
    assert shown == [thread]
    assert limiter.available == 1


@pytest.mark.parametrize("what", ["spawn", "try_spawn", "start", "inner group", "gather", "race", "pmap"])
def test_who_swallows_around_a_spawn_is_told_ever_more_slowly(what):
    """As at any other operation: it is warned once, and pauses, so that others can run."""
    over = threading.Event()
    beats = []

    def begin(group):
        if what == "inner group":
            with ThreadGroup() as inner:
                inner.spawn(int)
        elif what == "gather":
            gather(int, int)
        elif what == "race":
            race(int, int)
        elif what == "pmap":
            list(pmap(int, [1]))
        else:
            getattr(group, what)(int)

    def swallow():
        with ThreadGroup() as group:
            group.cancel()
            for _ in range(30):
                try:
                    begin(group)
                except Cancelled:
                    pass
        over.set()

    def beat():
        while not over.is_set():
            beats.append(1)
            time.sleep(0)

    with pytest.warns(CancelledSwallowed) as record, ThreadGroup() as group:
        group.spawn(swallow)
        group.spawn(beat)
    assert beats
    assert [warning.category for warning in record].count(CancelledSwallowed) == 1
