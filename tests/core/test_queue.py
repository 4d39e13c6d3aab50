"""Queue: first in, first out, from any thread."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from plait._core._atomics import Queue


def drained(queue):
    """Everything that is in it, in order."""
    found = []
    while (item := queue.take()) is not None:
        found.append(item)
    return found


def test_first_in_first_out():
    """Items come out in the order in which they went in."""
    queue = Queue()
    assert queue.size() == 0
    assert queue.take() is None
    for number in range(10):
        queue.put(number)
    assert queue.size() == 10
    assert drained(queue) == list(range(10))
    assert queue.size() == 0


@pytest.mark.parametrize("taken", [0, 1, 63, 64, 65])
def test_growing_keeps_the_order(taken):
    """It grows wherever in the ring the first item stands."""
    queue = Queue()
    for number in range(taken):
        queue.put(number)
        assert queue.take() == number
    for number in range(1000):
        queue.put(number)
    assert drained(queue) == list(range(1000))


def test_traffic():
    """It counts what has come and what has gone."""
    queue = Queue()
    for number in range(200):
        queue.put(number)
    assert queue.traffic() == 200
    for _ in range(100):
        queue.take()
    assert queue.traffic() == 300
    assert len(drained(queue)) == 100
    assert queue.take() is None
    assert queue.traffic() == 400


def test_what_was_taken_is_let_go():
    """The ring keeps nothing of what has left it."""

    class Item:
        pass

    queue = Queue()
    item = Item()
    gone = weakref.ref(item)
    queue.put(item)
    item = queue.take()
    del item
    gc.collect()
    assert gone() is None


def test_nothing_is_lost_between_threads():
    """Of what many threads put, many threads take each item once, and those of one putter in order."""
    queue = Queue()
    barrier = threading.Barrier(6)
    putters, each = 3, 2000
    taken = [[] for _ in range(3)]
    left = threading.Semaphore(0)

    def put(putter):
        barrier.wait()
        for number in range(each):
            queue.put((putter, number))
            left.release()

    def take(mine):
        barrier.wait()
        for _ in range(putters * each // len(taken)):
            left.acquire()
            mine.append(queue.take())

    threads = [threading.Thread(target=put, args=(putter,)) for putter in range(putters)]
    threads += [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item for mine in taken for item in mine) == [(p, n) for p in range(putters) for n in range(each)]
    for mine in taken:
        for putter in range(putters):
            numbers = [number for who, number in mine if who == putter]
            assert numbers == sorted(numbers)
