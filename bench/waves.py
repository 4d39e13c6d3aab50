"""waves: what is left of the memory of threads that have ended, and whether the next ones use it again.

100,000 threads, or a million, are started inside one group, and wait for an event. When all have parked, memory is read; then the event is
set, all end, the group is left, and memory is read again: what is left is what the runtime, the allocator and the kernel
did not give back. A second wave of as many threads follows, and memory is read for the third time. A runtime that gives back or
uses again what it held needs no more for the second wave than for the first.

All figures are growth of the resident set since before the first wave, divided by the number of threads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report
from bench.parked import LOOK, SETTLE, Meter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Scale(Meter):
    """Weighs several times, and lets the process go on."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.figures: dict[str, float] = {}

    def all_figures(self) -> dict[str, float]:
        """Return what to report."""
        return {**self.figures, "again": self.figures["second"] / self.figures["first"]}

    def note(self, name: str) -> None:
        """Weigh, and keep the figure under that name."""
        self.figures[name] = self.per_thread()

    def settle(self, name: str, pause: Callable[[float], object]) -> None:
        """Wait until all are parked, weigh them, and begin to count anew."""
        while not self.is_complete():
            pause(LOOK)
        pause(SETTLE)
        self.note(name)
        self.count_anew()

    async def settle_async(self, name: str, pause: Callable[[float], Awaitable[object]]) -> None:
        """Do as ``settle`` does, where a pause is awaited."""
        while not self.is_complete():
            await pause(LOOK)
        await pause(SETTLE)
        self.note(name)
        self.count_anew()


def run_plait(params: Params, report: Report) -> None:
    """Wait on virtual threads, spawned from inside one."""
    from plait import ThreadGroup

    def wait(event: threading.Event) -> None:
        scale.arrive()
        event.wait()

    def wave(name: str) -> None:
        event = threading.Event()
        with ThreadGroup() as group:
            for _ in range(scale.threads):
                group.spawn(wait, event)
            scale.settle(name, time.sleep)
            event.set()

    def body() -> None:
        wave("first")
        time.sleep(SETTLE)
        scale.note("left")
        wave("second")

    with ThreadGroup() as group:  # the runtime has started before the first look at the memory
        group.spawn(time.sleep, 0).result()
    scale = Scale(params["threads"])
    with ThreadGroup() as group:
        group.spawn(body).result()
    report(scale.all_figures())


async def measure_asyncio(params: Params, report: Report) -> None:
    """Wait in tasks of whichever loop is running."""

    async def wait(event: asyncio.Event) -> None:
        scale.arrive()
        await event.wait()

    async def wave(name: str) -> None:
        event = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(scale.threads):
                group.create_task(wait(event))
            await scale.settle_async(name, asyncio.sleep)
            event.set()

    scale = Scale(params["threads"])
    await wave("first")
    await asyncio.sleep(SETTLE)
    scale.note("left")
    await wave("second")
    report(scale.all_figures())


def run_gevent(params: Params, report: Report) -> None:
    """Wait in greenlets."""
    import gevent
    import gevent.event
    import gevent.pool

    def wait(event: gevent.event.Event) -> None:
        scale.arrive()
        event.wait()

    def wave(name: str) -> None:
        event, group = gevent.event.Event(), gevent.pool.Group()
        for _ in range(scale.threads):
            group.spawn(wait, event)
        scale.settle(name, gevent.sleep)
        event.set()
        group.join()

    gevent.spawn(gevent.sleep, 0).join()
    scale = Scale(params["greenlets"])
    wave("first")
    gevent.sleep(SETTLE)
    scale.note("left")
    wave("second")
    report(scale.all_figures())


def run_trio(params: Params, report: Report) -> None:
    """Wait in trio's tasks."""
    import trio

    async def wait(event: trio.Event) -> None:
        scale.arrive()
        await event.wait()

    async def wave(name: str) -> None:
        event = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(scale.threads):
                nursery.start_soon(wait, event)
            await scale.settle_async(name, trio.sleep)
            event.set()

    async def body() -> None:
        await wave("first")
        await trio.sleep(SETTLE)
        scale.note("left")
        await wave("second")

    scale = Scale(params["threads"])
    trio.run(body)
    report(scale.all_figures())


BENCHMARK = Benchmark(
    name="waves",
    cases=(
        Case(
            name="event",
            title="{threads:,} threads wait for an event and end, and as many follow",
            params={"threads": 100_000, "greenlets": 100_000},
            quick={"threads": 1_000, "greenlets": 1_000},
        ),
        Case(
            name="a million",
            title="{threads:,} threads wait for an event and end, and as many follow",
            params={"threads": 1_000_000, "greenlets": 100_000},
            quick={"threads": 1_000, "greenlets": 1_000},
        ),
    ),
    metrics=(
        Metric("left", "bytes of RSS per thread that has ended"),
        Metric("second", "bytes of RSS per parked thread of the second wave"),
        Metric("first", "of the first", is_compared=False),
        Metric("again", "times the first", is_compared=False, decimals=2),
    ),
    contenders=(
        Contender("plait", "plait", run_plait, "threading.Event.wait"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "asyncio.Event.wait"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "asyncio.Event.wait"),
        Contender("gevent", "gevent", run_gevent, "gevent.event.Event.wait; never more than 100,000"),
        Contender("trio", "trio", run_trio, "trio.Event.wait"),
    ),
    limit=300,
)
