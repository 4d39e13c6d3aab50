"""Slots: they go from hand to hand."""

from __future__ import annotations

import threading

from support import until, wait_parked

from plait import ThreadGroup
from plait._core import Slots, WaitReason, current_thread
from plait._core._lookout import Lookout


def test_count():
    """So many can be taken, and come back."""
    slots = Slots(2)
    assert slots.count_free() == 2
    assert slots.try_take()
    assert slots.try_take()
    assert not slots.try_take()
    assert slots.count_free() == 0
    slots.give()
    assert slots.count_free() == 1
    assert slots.try_take()


def test_handed_to_the_first_who_waits():
    """A slot that is released while somebody waits is never free: nobody overtakes."""
    slots = Slots(1)
    assert slots.try_take()
    with ThreadGroup() as group:
        waiters = [wait_parked(group.spawn(lambda: slots.take(current_thread())), WaitReason.SLOT) for _ in range(4)]
        for waiter in waiters:
            slots.give()
            assert not slots.try_take()
            until(waiter.done)
        slots.give()
    assert slots.count_free() == 1


def test_take_back_goes_before_all_others():
    """A member that wants its slot back comes first."""
    slots = Slots(1)
    assert slots.try_take()
    order = []

    def take(how, name):
        how(current_thread())
        order.append(name)
        slots.give()

    with ThreadGroup() as group:
        for number in range(3):
            wait_parked(group.spawn(take, slots.take, number), WaitReason.SLOT)
        wait_parked(group.spawn(take, slots.take_back, "member"), WaitReason.SLOT)
        slots.give()
    assert order == ["member", 0, 1, 2]
    assert slots.count_free() == 1


def test_take_back_outlasts_a_cancel():
    """A holder that is cancelled goes on only with its slot, as long as the grace lasts."""
    slots = Slots(1)
    assert slots.try_take()
    with ThreadGroup(grace=3600) as group:
        holder = wait_parked(group.spawn(lambda: slots.take_back(current_thread())), WaitReason.SLOT)
        group.cancel()
        wait_parked(holder, WaitReason.SLOT)
        assert slots.count_waiting() == 1
        slots.give()
        until(holder.done)
    assert slots.count_free() == 0


def test_take_back_ends_with_the_grace():
    """Once the grace is over a holder goes on with a slot that there is not; whoever gives one back pays for it."""
    slots = Slots(1)
    assert slots.try_take()
    with ThreadGroup(grace=0) as group:
        holder = wait_parked(group.spawn(lambda: slots.take_back(current_thread())), WaitReason.SLOT)
        group.cancel()
        until(holder.done)
    assert (slots.count_free(), slots.count_taken(), slots.count_waiting()) == (0, 2, 0)
    with ThreadGroup() as group:
        taker = wait_parked(group.spawn(lambda: slots.take(current_thread())), WaitReason.SLOT)
        slots.give()
        assert slots.count_taken() == 1
        assert not taker.done()
        slots.give()
        assert taker.result()
    assert slots.count_taken() == 1


def test_more_and_fewer_slots():
    """More slots serve those who wait; of fewer, those that are taken stay taken."""
    slots = Slots(1)
    assert slots.try_take()
    with ThreadGroup() as group:
        takers = [wait_parked(group.spawn(lambda: slots.take(current_thread())), WaitReason.SLOT) for _ in range(3)]
        slots.resize(3)
        assert takers[0].result()
        assert takers[1].result()
        assert wait_parked(takers[2]) and slots.count_waiting() == 1
        slots.resize(1)
        for _ in range(2):
            slots.give()
            assert not takers[2].done()
        slots.give()
        assert takers[2].result()
    assert (slots.count_taken(), slots.get_limit()) == (1, 1)


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
            slots.give()
            until(lambda: first.done())
            canceller.join()
            if not first.cancelled():
                assert not second.done()
                slots.give()
            until(second.done)
        assert slots.count_free() == 0


def test_what_is_heeded_during_a_search_is_watched():
    """The lookout takes off what needs no search, not what has come to need one meanwhile."""
    lookout = Lookout()
    heeding = []

    class Slots:
        is_needed = True

        def is_search_needed(self):
            if not heeding:
                return self.is_needed
            answer, self.is_needed = self.is_needed, True  # and in this moment somebody comes to need one
            heeder = heeding.pop()
            heeder.start()
            heeder.join(0.1)  # it may have to wait for the search to end
            return answer

        def survey(self):
            return set(), []

    slots = Slots()
    lookout.heed(slots)
    slots.is_needed = False
    heeder = threading.Thread(target=lookout.heed, args=(slots,))
    heeding.append(heeder)
    lookout.search_again(1)
    heeder.join()
    assert slots in lookout._watched
