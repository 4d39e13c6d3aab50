"""The failure of a sibling interrupts whoever sits in a leaf, a group's body on the main thread included."""

import queue
import threading
import time

import pytest
from patch.helpers import is_parked, run_python, wait_parked, wait_until
from patch.rare_leaves import LEAVES, PATIENT
from support import until

from plait import ThreadGroup
from plait._core import WaitReason, current_thread

SOON = 0.1  # seconds from the failure to the end of the block
TIMES = 3  # a loaded machine may be late once; the quickest of so many counts


class Boom(Exception):
    """What the sibling raises."""


@pytest.mark.parametrize("name", LEAVES)
def test_failure_interrupts_a_sibling_in_a_leaf(name):
    """A child that fails gets its sibling out of the leaf, at once, and the block raises that one failure."""
    assert min([interrupt_sibling(name) for _ in range(TIMES)]) < SOON


def interrupt_sibling(name):
    failed_at = []

    def fail(sitter):
        wait_parked(sitter)
        failed_at.append(time.monotonic())
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup() as group, LEAVES[name](group) as sitting:
            sitter = group.spawn(sitting.block)
            group.spawn(fail, sitter)
            # Cancelled, too, the body would end the sitter's wait before that has heard of its cancel.
            until(sitter.done)
    seconds = time.monotonic() - failed_at[0]
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    assert sitter.cancelled() or name in PATIENT | {"mutex"}  # whose holder was interrupted, too
    return seconds


@pytest.mark.parametrize("name", LEAVES)
def test_failure_interrupts_the_body_on_a_platform_thread(name):
    """A child that fails gets the body out of the leaf where the main thread waits, at once, and the block raises."""
    assert threading.current_thread() is threading.main_thread()
    assert min([interrupt_body(name) for _ in range(TIMES)]) < SOON


def interrupt_body(name):
    failed_at = []

    def fail(body):
        wait_until(lambda: is_parked(body))
        failed_at.append(time.monotonic())
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup() as group, LEAVES[name](group) as sitting:
            if name == "future_of_a_child":
                wait_parked(*group.members())
            group.spawn(fail, current_thread())
            sitting.block()
            time.sleep(3600)  # those who got what they waited for, from a holder that was interrupted, too
    seconds = time.monotonic() - failed_at[0]
    assert [type(error) for error in caught.value.exceptions] == [Boom]
    return seconds


@pytest.mark.parametrize("name", LEAVES)
def test_interrupted_leaf_works_again(name):
    """A wait that was cut short leaves nothing behind: the same leaf can be waited for again."""
    with ThreadGroup() as group, LEAVES[name](group) as sitting:
        first = group.spawn(sitting.block)
        wait_parked(first)
        first.cancel()
        if name in PATIENT:
            wait_parked(first)  # patient: the holder is about to give it back
        else:
            wait_until(first.done)
            assert first.cancelled()
        second = group.spawn(sitting.block)
        wait_parked(second)
        if sitting.release is None:
            second.cancel()
        else:
            sitting.release()
        wait_until(second.done)


def test_lock_wait_that_outlasts_the_grace_is_interrupted():
    """Waiting for a lock is patient for as long as the grace, and no longer."""
    lock = threading.Lock()
    with lock:
        with pytest.raises(ExceptionGroup):
            with ThreadGroup(grace=0.2) as group:
                waiter = group.spawn(lock.acquire)
                wait_parked(waiter)
                started_at = time.monotonic()
                group.spawn(_fail)
    assert waiter.cancelled()
    assert time.monotonic() - started_at >= 0.2


def _fail():
    raise Boom


def test_notification_that_meets_a_cancel_goes_to_another_waiter():
    """An item put into a queue just after a getter was cancelled is not lost: another getter gets it."""
    numbers = queue.Queue()

    def body(group):
        first = group.spawn(numbers.get)
        wait_parked(first)
        second = group.spawn(numbers.get)
        wait_parked(second)
        first.cancel()
        numbers.put("item")
        wait_until(first.done)
        if first.cancelled():
            assert second.result(5) == "item"
        else:
            assert first.result() == "item"
            second.cancel()

    with ThreadGroup() as group:
        group.spawn(body, group)


def test_semaphore_release_that_meets_a_cancel_goes_to_another_waiter():
    """A semaphore released just after a waiter was cancelled lets another one in."""
    semaphore = threading.Semaphore(0)

    def body(group):
        first = group.spawn(semaphore.acquire)
        wait_parked(first)
        second = group.spawn(semaphore.acquire)
        wait_parked(second)
        first.cancel()
        semaphore.release()
        wait_until(first.done)
        if first.cancelled():
            assert second.result(5)
        else:
            assert first.result()
            second.cancel()

    with ThreadGroup() as group:
        group.spawn(body, group)


def _parked_for(reason, thread):
    wait_until(lambda: is_parked(thread) and thread.waits_for is reason)
    return thread


def test_notification_that_finds_a_waiter_on_its_way_out():
    """A notification given to a waiter that was cancelled, and wants its lock back, completes its wait."""
    condition = threading.Condition(threading.Lock())
    notified = []

    def wait():
        with condition:
            notified.append(condition.wait())
        time.sleep(0)

    def body(group):
        first = _parked_for(WaitReason.CONDITION, group.spawn(wait))
        second = _parked_for(WaitReason.CONDITION, group.spawn(wait))
        with condition:
            first.cancel()
            _parked_for(WaitReason.LOCK, first)
            condition.notify()
        wait_until(first.done)
        assert first.cancelled()  # at the next cancel point
        assert notified == [True]
        assert is_parked(second)
        second.cancel()
        wait_until(second.done)
        assert notified == [True]
        with condition:
            assert not condition._waiters

    with ThreadGroup() as group:
        group.spawn(body, group)


def test_item_that_finds_a_getter_on_its_way_out():
    """An item put into a queue while a cancelled getter wants the queue's lock back is taken, by it or by another."""
    numbers = queue.Queue()
    got = []

    def take():
        got.append(numbers.get())

    def body(group):
        first = _parked_for(WaitReason.CONDITION, group.spawn(take))
        second = _parked_for(WaitReason.CONDITION, group.spawn(take))
        with numbers.mutex:
            first.cancel()
            _parked_for(WaitReason.LOCK, first)
            numbers._put(1)
            numbers.not_empty.notify()
        wait_until(first.done)
        wait_until(lambda: got == [1])
        second.cancel()

    with ThreadGroup() as group:
        group.spawn(body, group)


@pytest.mark.parametrize(
    "wait",
    [
        "os.read(os.pipe()[0], 10)",
        "socket.socketpair()[0].recv(10)",
        "queue.Queue().get()",
        "threading.Event().wait()",
        "time.sleep(3600)",
        "select.select([os.pipe()[0]], [], [])",
    ],
)
@pytest.mark.parametrize("is_body", [False, True], ids=["child", "body"])
def test_program_ends_though_a_thread_waits_for_ever(wait, is_body):
    """One thread waits for what never comes, another raises: the block raises within a moment, the process exits."""
    code = f"""
        import os, queue, select, socket, threading, time
        from plait import ThreadGroup

        def wait():
            ends = socket.socketpair()  # kept open
            {wait}

        def fail():
            time.sleep(0.02)
            global failed_at
            failed_at = time.monotonic()
            raise ValueError("boom")

        try:
            with ThreadGroup() as group:
                group.spawn(fail)
                {"wait()" if is_body else "group.spawn(wait)"}
        except ExceptionGroup as error:
            print(error.exceptions, time.monotonic() - failed_at < 1)
    """
    assert run_python(code) == "(ValueError('boom'),) True\n"
