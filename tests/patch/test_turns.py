"""A virtual thread that goes from leaf to leaf, and never has to wait, gives way to others after a turn."""

import asyncio
import concurrent.futures
import os
import queue
import select
import socket
import threading
import time
from contextlib import suppress

import pytest
from patch.helpers import carriers, wait_until
from support import run_program

from plait import Cancelled, ThreadGroup, timeout


def _recv():
    near, far = socket.socketpair()
    near.setblocking(False)

    def look():
        with suppress(BlockingIOError):
            near.recv(1)

    return look, (near, far)


def _taken_lock(**how):
    lock = threading.Lock()
    lock.acquire()
    return lambda: lock.acquire(**how), ()


def _empty_queue(**how):
    values = queue.Queue()

    def look():
        with suppress(queue.Empty):
            values.get(**how)

    return look, ()


def _unset_future():
    future = concurrent.futures.Future()

    def look():
        with suppress(concurrent.futures.TimeoutError):
            future.result(timeout=0)

    return look, ()


def _file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(65_536))
    file = path.open("rb", buffering=0)

    def read():
        file.seek(0)
        file.read(65_536)

    return read, (file,)


LOOKS = {
    "sched_yield": lambda _: (os.sched_yield, ()),
    "select": lambda _: (lambda: select.select([], [], [], 0), ()),
    "poll": lambda _: (lambda: select.poll().poll(0), ()),
    "socket that does not block": lambda _: _recv(),
    "lock": lambda _: _taken_lock(blocking=False),
    "lock with no time": lambda _: _taken_lock(timeout=0),
    "get_nowait": lambda _: _empty_queue(block=False),
    "get with no time": lambda _: _empty_queue(timeout=0),
    "event": lambda _: (lambda event=threading.Event(): event.wait(0), ()),  # noqa: B008 - one for all looks
    "future": lambda _: _unset_future(),
    "file in the page cache": _file,
    "free lock": lambda _: (lambda lock=threading.Lock(): lock.acquire() and lock.release(), ()),  # noqa: B008
    "asyncio": lambda _: (lambda: asyncio.run(asyncio.sleep(0)), ()),
}


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("other", ["asleep", "not begun"])
def test_polling_lets_others_run(name, other, tmp_path):
    """Whoever it waits for in this way runs, whether it has begun, and sleeps, or has not."""
    look, files = LOOKS[name](tmp_path)
    said = []

    def poll():
        while not said:
            look()

    def say():
        if other == "asleep":
            time.sleep(0.001)
        said.append(name)

    with ThreadGroup(timeout=30) as group:
        if other == "asleep":
            group.spawn(say)
        group.spawn(poll)
        if other == "not begun":
            group.spawn(say)
    for file in files:
        file.close()
    assert said


def test_failure_reaches_who_never_waits(tmp_path):
    """A sibling's failure, and a time limit, end a thread that reads and reads what is there."""
    read, files = _file(tmp_path)
    began = threading.Event()

    def go_on():
        began.set()
        while True:
            read()

    def fail():
        began.wait()
        time.sleep(0.001)
        raise ValueError("enough")

    with pytest.raises(ExceptionGroup, match="1 failed"), ThreadGroup() as group:
        group.spawn(go_on)
        group.spawn(fail)
    with pytest.raises(TimeoutError), timeout(0.001):
        go_on()
    for file in files:
        file.close()


def test_spawner_that_waits_for_a_slot_is_not_forgotten():
    """Who waits until it may spawn more goes behind what it has spawned; it has its turn nevertheless."""
    spawned = []

    def poll():
        while len(spawned) < 3:
            os.sched_yield()
            time.monotonic()

    with ThreadGroup(timeout=30) as outer:
        outer.spawn(poll)
        with ThreadGroup(max_concurrency=1) as group:
            for number in range(3):
                group.spawn(spawned.append, number)
    assert spawned == [0, 1, 2]


@pytest.mark.skipif(carriers() > 1, reason="on carriers of their own they need not take turns")
def test_who_waits_does_not_give_way():
    """A turn begins afresh with each wait: those who take turns by waiting keep their order."""
    order = []
    gate = threading.Lock()
    both = threading.Barrier(2)

    def work(name):
        both.wait()
        for _ in range(200):
            with gate:
                order.append(name)
            time.sleep(0)

    with ThreadGroup() as group:
        group.spawn(work, "a")
        group.spawn(work, "b")
    assert order in (["a", "b"] * 200, ["b", "a"] * 200)


def test_sched_yield_is_a_cancel_point():
    """On a virtual thread, and in a block on a platform thread."""
    told = []

    def loop():
        try:
            while True:
                os.sched_yield()
        except Cancelled:
            told.append("virtual")
            raise

    with ThreadGroup() as group:
        future = group.spawn(loop)
        wait_until(future.running)
        future.cancel()
    with pytest.raises(TimeoutError), timeout(0.001):
        while True:
            os.sched_yield()
    assert told == ["virtual"] or future.cancelled()


def test_sched_yield_elsewhere():
    """It is the original where no block is open."""
    out, err = run_program("import os, plait; plait.patch.install(); print(os.sched_yield())")
    assert (out, err) == ("None\n", "")
