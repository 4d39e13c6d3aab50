"""WaitWord and the other cells: exactly one winner."""

from __future__ import annotations

import threading

import pytest

from plait._core._atomics import Counter, Flag, Lock, Rundown, WaitWord
from plait._native import outcomes

RUNNING, WAITING, SHIELDED, WOKEN, TIMED_OUT, INTERRUPTED = (
    outcomes[name] for name in ("RUNNING", "WAITING", "SHIELDED", "WOKEN", "TIMED_OUT", "INTERRUPTED")
)


@pytest.fixture
def word():
    word = WaitWord()
    yield word
    word.disarm()


def race(count, attempt):
    """The outcomes of `attempt` on `count` platform threads at once."""
    barrier = threading.Barrier(count)
    found = []

    def run(number):
        barrier.wait()
        found.append(attempt(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_epochs_count_up(word):
    """Each wait has an epoch of its own."""
    epochs = []
    for _ in range(5):
        epochs.append(word.arm())
        word.disarm()
    assert epochs == list(range(epochs[0], epochs[0] + 5))


@pytest.mark.parametrize("outcome", [WOKEN, TIMED_OUT])
@pytest.mark.parametrize("shielded", [False, True])
def test_first_claim_wins(word, outcome, shielded):
    """Of two claims the first wins, and the owner is told which."""
    epoch = word.arm(shielded)
    assert word.is_waiting()
    assert word.waits(epoch)
    assert word.claim(epoch, outcome)
    assert not word.claim(epoch, WOKEN)
    assert not word.claim(epoch, TIMED_OUT)
    assert not word.interrupt()
    assert not word.is_waiting()
    assert word.disarm() == outcome
    assert word.state() == RUNNING


def test_stale_claim_fails(word):
    """A claim for an earlier wait fails, and leaves the present one alone."""
    old = word.arm()
    word.disarm()
    new = word.arm()
    assert not word.claim(old, WOKEN)
    assert not word.waits(old)
    assert word.waits(new)
    assert word.disarm() == WAITING


def test_claim_after_the_end_fails(word):
    """Nobody claims a wait that its owner has ended."""
    epoch = word.arm()
    assert word.disarm() == WAITING
    assert not word.claim(epoch, WOKEN)
    assert not word.interrupt()


def test_interrupt(word):
    """A canceller ends a plain wait and leaves a shielded one alone."""
    word.arm()
    assert word.interrupt()
    assert word.disarm() == INTERRUPTED
    word.arm(True)
    assert not word.interrupt()
    assert word.disarm() == SHIELDED
    assert not word.interrupt()


def test_one_winner_among_many_threads():
    """Wakers, timers and cancellers on many threads: exactly one of them wins, every time."""
    for _ in range(100):
        word = WaitWord()
        epoch = word.arm()
        word_state = race(
            6, lambda n: (word.interrupt() if n % 3 == 2 else word.claim(epoch, (WOKEN, TIMED_OUT)[n % 3]), n % 3)
        )
        winners = [kind for won, kind in word_state if won]
        assert len(winners) == 1
        assert word.disarm() == (WOKEN, TIMED_OUT, INTERRUPTED)[winners[0]]


def test_settle():
    """An outcome is stored once, for good."""
    word = WaitWord()
    assert not word.is_settled()
    word.settle()
    assert word.is_settled()


def test_flag_has_one_taker():
    """Of many takers one gets what was raised once."""
    for _ in range(50):
        flag = Flag()
        assert not flag.take()
        flag.set()
        assert sorted(race(4, lambda n: flag.take())) == [False, False, False, True]
    flag.set()
    flag.clear()
    assert not flag.take()


def test_rundown_closes_once():
    """The last one out closes it, and nobody gets in after that."""
    for _ in range(50):
        rundown = Rundown()
        entered = [rundown.enter() for _ in range(3)]
        assert entered == [True] * 3
        assert rundown.count() == 4
        assert sorted(race(4, lambda n: rundown.leave())) == [False, False, False, True]
        assert not rundown.enter()
        assert rundown.count() == 0
    rundown.reset()
    assert rundown.enter()


def test_counter_loses_nothing():
    """Many threads add to one number."""
    counter = Counter()
    race(4, lambda n: [counter.add(1) for _ in range(1000)] and None)
    race(4, lambda n: [counter.add(-1) for _ in range(500)] and None)
    assert counter.value() == 2000
    assert counter.add(-2001) == -1


def test_lock_excludes():
    """One at a time holds the core's lock; it is released on the way of an exception, too."""
    lock = Lock()
    total = [0]

    def add(n):
        for _ in range(2000):
            with lock:
                total[0] += 1

    race(4, add)
    assert total == [8000]
    with pytest.raises(ZeroDivisionError), lock:
        1 / 0  # noqa: B018
    with lock:
        pass
