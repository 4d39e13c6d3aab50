"""Slots: they go from hand to hand."""

from __future__ import annotations

import threading

from support import until, wait_parked

from plait import ThreadGroup
from plait._core import WaitReason, current_thread
from plait._limits import Slots


def test_count():
    """So many can be taken, and come back."""
    slots = Slots(2)
    assert slots.available == 2
    assert slots.try_take()
    assert slots.try_take()
    assert not slots.try_take()
    assert slots.available == 0
    slots.release()
    assert slots.available == 1
    assert slots.try_take()


def test_handed_to_the_first_who_waits():
    """A slot that is released while somebody waits is never free: nobody overtakes."""
    slots = Slots(1)
    assert slots.try_take()
    with ThreadGroup() as group:
        waiters = [wait_parked(group.spawn(lambda: slots.take(current_thread())), WaitReason.SLOT) for _ in range(4)]
        for waiter in waiters:
            slots.release()
            assert not slots.try_take()
            until(waiter.done)
        slots.release()
    assert slots.available == 1


def test_take_back_goes_before_all_others():
    """A member that wants its slot back comes first."""
    slots = Slots(1)
    assert slots.try_take()
    order = []

    def take(how, name):
        how(current_thread())
        order.append(name)
        slots.release()

    with ThreadGroup() as group:
        for number in range(3):
            wait_parked(group.spawn(take, slots.take, number), WaitReason.SLOT)
        wait_parked(group.spawn(take, slots.take_back, "member"), WaitReason.SLOT)
        slots.release()
    assert order == ["member", 0, 1, 2]
    assert slots.available == 1


def test_take_back_is_not_interrupted():
    """A member that is cancelled goes on only with its slot."""
    slots = Slots(1)
    assert slots.try_take()
    with ThreadGroup() as group:
        member = wait_parked(group.spawn(lambda: slots.take_back(current_thread())), WaitReason.SLOT)
        member.cancel()
        assert member.is_waiting()
        slots.release()
        assert member.result() is None
    assert slots.available == 0


def test_slot_of_a_waiter_that_is_cancelled_goes_to_the_next():
    """Cancel and release at the same time: the slot is with one of the waiters or free, never lost."""
    for _ in range(100):
        slots = Slots(1)
        assert slots.try_take()
        with ThreadGroup() as group:
            first = wait_parked(group.spawn(lambda: slots.take(current_thread())), WaitReason.SLOT)
            second = wait_parked(group.spawn(lambda: slots.take(current_thread())), WaitReason.SLOT)
            canceller = threading.Thread(target=first.cancel)
            canceller.start()
            slots.release()
            until(lambda: first.done())
            canceller.join()
            if not first.cancelled():
                assert not second.done()
                slots.release()
            until(second.done)
        assert slots.available == 0
