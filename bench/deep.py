"""deep: what it costs to let others run, far down in calls.

1,000 threads, each under 30 calls of Python, yield in turns. A program does not wait where it starts: it waits in a driver,
under a library, under a handler. asyncio goes through the coroutines of all these calls to resume the one that waits; a
virtual thread is resumed where it stands, but what is on its stack has to be kept.

The clock runs from the moment when all have arrived at their depth until the last has yielded for the last time.
"""

from __future__ import annotations

import asyncio
import time
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Crowd:
    """Threads that yield to each other, each at the same depth."""

    def __init__(self, params: Params) -> None:
        self.threads, self.depth, self.times = params["threads"], params["depth"], params["times"]
        self.arrived = 0
        self.start = self.end = 0

    def descend(self, depth: int, pause: Callable[[float], object]) -> None:
        """Call down to the depth, wait there until all have arrived, and yield against the clock."""
        if depth:
            self.descend(depth - 1, pause)
            return
        self.arrived += 1
        while self.arrived < self.threads:
            pause(0)
        self.start = self.start or perf_counter_ns()
        for _ in range(self.times):
            pause(0)
        self.end = perf_counter_ns()

    async def descend_async(self, depth: int, pause: Callable[[float], Awaitable[object]]) -> None:
        """Do as ``descend`` does, where a pause is awaited."""
        if depth:
            await self.descend_async(depth - 1, pause)
            return
        self.arrived += 1
        while self.arrived < self.threads:
            await pause(0)
        self.start = self.start or perf_counter_ns()
        for _ in range(self.times):
            await pause(0)
        self.end = perf_counter_ns()

    def figures(self) -> dict[str, float]:
        """Return the nanoseconds per yield."""
        return {"time": (self.end - self.start) / (self.threads * self.times)}


def run_plait(params: Params, report: Report) -> None:
    """Yield with time.sleep(0)."""
    from plait import ThreadGroup

    crowd = Crowd(params)
    with ThreadGroup() as group:
        for _ in range(crowd.threads):
            group.spawn(crowd.descend, crowd.depth, time.sleep)
    report(crowd.figures())


async def measure_asyncio(params: Params, report: Report) -> None:
    """Yield with asyncio.sleep(0) on whichever loop is running."""
    crowd = Crowd(params)
    async with asyncio.TaskGroup() as group:
        for _ in range(crowd.threads):
            group.create_task(crowd.descend_async(crowd.depth, asyncio.sleep))
    report(crowd.figures())


def run_gevent(params: Params, report: Report) -> None:
    """Yield with gevent.sleep(0)."""
    import gevent

    crowd = Crowd(params)
    greenlets = [gevent.spawn(crowd.descend, crowd.depth, gevent.sleep) for _ in range(crowd.threads)]
    gevent.joinall(greenlets, raise_error=True)
    report(crowd.figures())


def run_eventlet(params: Params, report: Report) -> None:
    """Yield with eventlet.sleep(0)."""
    import eventlet

    crowd = Crowd(params)
    for thread in [eventlet.spawn(crowd.descend, crowd.depth, eventlet.sleep) for _ in range(crowd.threads)]:
        thread.wait()
    report(crowd.figures())


def run_trio(params: Params, report: Report) -> None:
    """Yield with trio.sleep(0)."""
    import trio

    async def body() -> None:
        crowd = Crowd(params)
        async with trio.open_nursery() as nursery:
            for _ in range(crowd.threads):
                nursery.start_soon(crowd.descend_async, crowd.depth, trio.sleep)
        report(crowd.figures())

    trio.run(body)


BENCHMARK = Benchmark(
    name="deep",
    cases=(
        Case(
            name="1,000 at depth 30",
            title="{threads:,} threads yield in turns, each under {depth} calls",
            params={"threads": 1_000, "depth": 30, "times": 100},
            quick={"threads": 100, "times": 5},
        ),
    ),
    metrics=(Metric("time", "ns per yield"),),
    contenders=(
        Contender("plait", "plait", run_plait, "time.sleep(0) on a virtual thread"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "asyncio.sleep(0) under as many coroutines"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "the same"),
        Contender("gevent", "gevent", run_gevent, "gevent.sleep(0)"),
        Contender("eventlet", "eventlet", run_eventlet, "eventlet.sleep(0)"),
        Contender("trio", "trio", run_trio, "trio.sleep(0) under as many coroutines"),
    ),
    environment={"PLAIT_CARRIERS": "1"},
)
