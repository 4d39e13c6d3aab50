"""locks: what it costs to take a lock and to give it back, wanted by others or not.

100 threads count one number up under one lock. *Free*: they do nothing else, so among virtual threads of one carrier, as
among tasks, nobody ever finds the lock taken, while OS threads may. *Wanted*: each lets others run while it has the lock, so
that all others wait for it, and every time it is given back there is somebody to wake.

A count that is not the sum of all has not been under a lock, and the contender has failed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager


class Counter:
    """A number under a lock, and the clock."""

    def __init__(self, params: Params) -> None:
        self.threads, self.times = params["threads"], params["times"]
        self.is_wanted = bool(params["wanted"])
        self.value = 0
        self.start = perf_counter_ns()

    def count(self, lock: AbstractContextManager[Any], pause: Callable[[float], object]) -> None:
        """Count up under the lock, again and again."""
        for _ in range(self.times):
            with lock:
                value = self.value
                if self.is_wanted:
                    pause(0)
                self.value = value + 1

    async def count_async(
        self, lock: AbstractAsyncContextManager[Any], pause: Callable[[float], Awaitable[object]]
    ) -> None:
        """Do as ``count`` does, where the lock and the pause are awaited."""
        for _ in range(self.times):
            async with lock:
                value = self.value
                if self.is_wanted:
                    await pause(0)
                self.value = value + 1

    def figures(self) -> dict[str, float]:
        """Return the nanoseconds per count. Raises RuntimeError if some got lost."""
        elapsed, total = perf_counter_ns() - self.start, self.threads * self.times
        if self.value != total:
            raise RuntimeError(f"counted to {self.value} instead of {total}: the lock did not keep others out")
        return {"time": elapsed / total}


def run_plait(params: Params, report: Report) -> None:
    """Count under the standard library's lock, on virtual threads."""
    from plait import ThreadGroup

    def body() -> None:
        lock, counter = threading.Lock(), Counter(params)
        with ThreadGroup() as group:
            for _ in range(counter.threads):
                group.spawn(counter.count, lock, time.sleep)
        report(counter.figures())

    with ThreadGroup() as group:
        group.spawn(body).result()


def run_plait_rlock(params: Params, report: Report) -> None:
    """Count under the standard library's reentrant lock, on virtual threads."""
    from plait import ThreadGroup

    def body() -> None:
        lock, counter = threading.RLock(), Counter(params)
        with ThreadGroup() as group:
            for _ in range(counter.threads):
                group.spawn(counter.count, lock, time.sleep)
        report(counter.figures())

    with ThreadGroup() as group:
        group.spawn(body).result()


async def measure_asyncio(params: Params, report: Report) -> None:
    """Count under asyncio's lock, on whichever loop is running."""
    lock, counter = asyncio.Lock(), Counter(params)
    async with asyncio.TaskGroup() as group:
        for _ in range(counter.threads):
            group.create_task(counter.count_async(lock, asyncio.sleep))
    report(counter.figures())


def run_gevent(params: Params, report: Report) -> None:
    """Count under gevent's semaphore of one."""
    import gevent
    import gevent.lock

    lock, counter = gevent.lock.BoundedSemaphore(1), Counter(params)
    greenlets = [gevent.spawn(counter.count, lock, gevent.sleep) for _ in range(counter.threads)]
    gevent.joinall(greenlets, raise_error=True)
    report(counter.figures())


def run_eventlet(params: Params, report: Report) -> None:
    """Count under eventlet's semaphore of one."""
    import eventlet
    import eventlet.semaphore

    lock, counter = eventlet.semaphore.BoundedSemaphore(1), Counter(params)
    for thread in [eventlet.spawn(counter.count, lock, eventlet.sleep) for _ in range(counter.threads)]:
        thread.wait()
    report(counter.figures())


def run_trio(params: Params, report: Report) -> None:
    """Count under trio's lock, which is a checkpoint even if it is free."""
    import trio

    async def body() -> None:
        lock, counter = trio.Lock(), Counter(params)
        async with trio.open_nursery() as nursery:
            for _ in range(counter.threads):
                nursery.start_soon(counter.count_async, lock, trio.sleep)
        report(counter.figures())

    trio.run(body)


def run_threads(params: Params, report: Report) -> None:
    """Count on OS threads."""
    lock, counter = threading.Lock(), Counter({**params, "times": params["os_times"]})
    workers = [threading.Thread(target=counter.count, args=(lock, time.sleep)) for _ in range(counter.threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report(counter.figures())


BENCHMARK = Benchmark(
    name="locks",
    cases=(
        Case(
            name="free",
            title="{threads} threads count up under a lock that they find free",
            params={"threads": 100, "times": 5_000, "os_times": 2_000, "wanted": 0},
            quick={"threads": 20, "times": 50, "os_times": 50},
        ),
        Case(
            name="wanted",
            title="{threads} threads count up under a lock that all others wait for",
            params={"threads": 100, "times": 1_000, "os_times": 100, "wanted": 1},
            quick={"threads": 20, "times": 50, "os_times": 20},
        ),
    ),
    metrics=(Metric("time", "ns per count"),),
    contenders=(
        Contender("plait", "plait", run_plait, "threading.Lock"),
        Contender("plait-rlock", "plait", run_plait_rlock, "threading.RLock"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "asyncio.Lock"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "asyncio.Lock"),
        Contender("gevent", "gevent", run_gevent, "gevent.lock.BoundedSemaphore of one"),
        Contender("eventlet", "eventlet", run_eventlet, "eventlet.semaphore.BoundedSemaphore of one"),
        Contender("trio", "trio", run_trio, "trio.Lock, a checkpoint"),
        Contender("threads", None, run_threads, "threading.Lock between OS threads"),
    ),
)
