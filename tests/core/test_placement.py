"""Where what a platform thread spawns is queued: in turn, or together where it comes in masses and never waits."""

import threading
from collections import Counter as Multiset
from itertools import pairwise

import pytest
from support import run_program

from plait import ThreadGroup
from plait._core._placement import Placement
from plait._native._native import Counter

CARRIERS = 2
FEW = 64 * CARRIERS
SPAWN = 1e-6  # seconds that a spawn takes


class Group:
    """What a group tells of its children, on a clock of its own."""

    def __init__(self):
        self.placement = Placement(Counter(), CARRIERS)
        self.moment = 1.0
        self.inside = 1  # the body
        self.waited = 0

    def spawn(self, *, waits, ends, spawner=7, every=SPAWN):
        """The turn of a thread that waits, or ends, or both, before the next is spawned."""
        self.moment += every
        turn = self.placement.next_turn(self.inside, self.waited, spawner, self.moment)
        self.waited += waits
        self.inside += not ends
        return turn

    def spawn_many(self, count, **how):
        return [self.spawn(**how) for _ in range(count)]


def changes(turns):
    return sum(after != before for before, after in pairwise(turns))


@pytest.mark.parametrize("ends", [True, False])
def test_few_go_in_turn_whatever_becomes_of_them(ends):
    assert changes(Group().spawn_many(FEW, waits=False, ends=ends)) == FEW - 1


@pytest.mark.parametrize("ends", [True, False])
def test_what_waits_goes_in_turn(ends):
    """Also where as many end as come: connections that are made anew, or no more at a time than may be at work."""
    assert changes(Group().spawn_many(10_000, waits=True, ends=ends)) == 9_999


def test_those_that_come_together_go_in_turn():
    """Who may have only so many at work, and waits for slots, spawns several at once when it goes on."""
    group = Group()
    turns = []
    for _ in range(100):
        turns.append(group.spawn(waits=True, ends=True))
        turns += group.spawn_many(FEW - 1, waits=False, ends=True)
    assert changes(turns) == len(turns) - 1


def test_what_never_waits_goes_where_the_last_one_went():
    group = Group()
    first = group.spawn_many(FEW, waits=False, ends=True)
    assert set(group.spawn_many(10_000, waits=False, ends=True)) == {first[-1]}


def test_a_carrier_that_is_asleep_may_find_many():
    """They are there before it is: nothing is known of them yet, and it will do them all."""
    group = Group()
    first = group.spawn_many(FEW, waits=False, ends=True)
    for _ in range(100):
        assert set(group.spawn_many(100, waits=False, ends=False)) == {first[-1]}
        group.inside -= 100


def test_what_a_carrier_cannot_keep_up_with_goes_in_turn():
    group = Group()
    turns = group.spawn_many(10_000, waits=False, ends=False)
    assert changes(turns[1_001:]) == len(turns[1_001:]) - 1


def test_those_that_were_there_before_are_no_backlog():
    group = Group()
    group.inside = 100_000
    assert changes(group.spawn_many(10_000, waits=False, ends=True)) == FEW - 1


def test_those_that_were_there_before_and_have_left_are_none_either():
    group = Group()
    group.inside = 100_000
    group.spawn_many(FEW, waits=False, ends=True)
    group.inside = 0
    turns = group.spawn_many(10_000, waits=False, ends=False)
    assert changes(turns[1_002:]) == len(turns[1_002:]) - 1


@pytest.mark.parametrize(("pause", "spawner"), [(0.002, 7), (SPAWN, 8)])
def test_another_burst(pause, spawner):
    """After a pause, or of another platform thread: few workers after many that were gone at once are spread."""
    group = Group()
    group.spawn_many(1_000, waits=False, ends=True)
    turns = [group.spawn(waits=False, ends=False, spawner=spawner, every=pause)]
    turns += group.spawn_many(FEW - 1, waits=False, ends=False, spawner=spawner)
    assert changes(turns) == FEW - 1


def test_one_by_one_goes_in_turn():
    assert changes(Group().spawn_many(1_000, waits=False, ends=True, every=0.002)) == 999


def test_groups_take_turns():
    """One with few children does not begin where another has begun."""
    turns = Counter()
    assert [Placement(turns, 2).next_turn(1, 0, 7, 1.0) for _ in range(4)] == [1, 2, 3, 4]


def test_the_carriers_of_masses_and_of_workers():
    """The runtime goes by it, but with a GIL. Any pause begins another burst, so some of the masses may go in turn, too."""
    out, _ = run_program(
        """
        import threading, plait
        from itertools import pairwise
        from plait import _originals
        from plait._core import current_thread, runtime
        from plait._core._runtime import has_gil
        done = threading.Event()
        with plait.ThreadGroup() as group:
            chosen = [runtime.carrier_for(current_thread(), group) for _ in range(10_000)]
            changes = sum(after is not before for before, after in pairwise(chosen))
            print(changes < 5_000 if not has_gil() else changes == 9_999)
            workers = []
            for _ in range(400):
                workers.append(group.spawn(done.wait))
                while group.ever_listed < len(workers):
                    _originals.sleep(0.0001)
            numbers = [worker.carrier.number for worker in workers]
            print(sorted(set(numbers)), min(map(numbers.count, numbers)) > 50)
            done.set()
        """,
        PLAIT_CARRIERS=4,
    )
    assert out == "True\n[0, 1, 2, 3] True\n"


def test_platform_threads_that_spawn_into_a_new_group_together():
    """Each child runs once, whoever comes first."""
    done = Multiset()
    for number in range(200):
        together = threading.Barrier(8)
        with ThreadGroup() as group:

            def spawn(group=group, together=together, number=number):
                together.wait()
                futures.extend([group.spawn(lambda: number) for _ in range(5)])

            futures = []
            spawners = [threading.Thread(target=spawn) for _ in range(8)]
            for spawner in spawners:
                spawner.start()
            for spawner in spawners:
                spawner.join()
        done.update(future.result() for future in futures)
    assert set(done.values()) == {40}
