"""spawn: what it costs to start a thread that does nothing, and to see it finished.

Groups of 1,000: open a group, spawn, leave the group, until 100,000 are done. One group: the same with all 100,000 in it,
three times. The clock runs over all of it, opening and joining the groups included. Every contender spawns from inside its runtime (for plait: from inside a virtual
thread), as a program does that fans out; ``plait-main`` is the same from the main thread, where each group also wakes
a carrier and waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def trivial() -> None:
    """Do nothing."""


async def trivial_async() -> None:
    """Do nothing."""


def measure(run_group: Callable[[int], None], params: Params, report: Report) -> None:
    """Call ``run_group(size)`` until so many are done, and report the time that each took."""
    size = params["group"]
    for _ in range(params["warm_up"]):
        run_group(size)
    groups = max(1, params["total"] // size)
    start = perf_counter_ns()
    for _ in range(groups):
        run_group(size)
    report({"time": (perf_counter_ns() - start) / (groups * size)})


async def measure_async(run_group: Callable[[int], Awaitable[None]], params: Params, report: Report) -> None:
    """Do as ``measure`` does, for groups that are awaited."""
    size = params["group"]
    for _ in range(params["warm_up"]):
        await run_group(size)
    groups = max(1, params["total"] // size)
    start = perf_counter_ns()
    for _ in range(groups):
        await run_group(size)
    report({"time": (perf_counter_ns() - start) / (groups * size)})


def plait_group(size: int) -> None:
    """Spawn and join with plait."""
    from plait import ThreadGroup

    with ThreadGroup() as group:
        for _ in range(size):
            group.spawn(trivial)


def run_plait(params: Params, report: Report) -> None:
    """Spawn from inside a virtual thread."""
    from plait import ThreadGroup

    with ThreadGroup() as group:
        group.spawn(measure, plait_group, params, report).result()


def run_plait_main(params: Params, report: Report) -> None:
    """Spawn from the main thread."""
    measure(plait_group, params, report)


async def asyncio_group(size: int) -> None:
    """Spawn and join with an asyncio.TaskGroup."""
    async with asyncio.TaskGroup() as group:
        for _ in range(size):
            group.create_task(trivial_async())


async def measure_asyncio(params: Params, report: Report) -> None:
    """Spawn on whichever loop is running."""
    await measure_async(asyncio_group, params, report)


def run_gevent(params: Params, report: Report) -> None:
    """Spawn from inside a greenlet."""
    import gevent
    import gevent.pool

    def gevent_group(size: int) -> None:
        group = gevent.pool.Group()
        for _ in range(size):
            group.spawn(trivial)
        group.join()

    gevent.spawn(measure, gevent_group, params, report).get()


def run_eventlet(params: Params, report: Report) -> None:
    """Spawn from inside a green thread."""
    import eventlet

    def eventlet_group(size: int) -> None:
        pool = eventlet.GreenPool(size)
        for _ in range(size):
            pool.spawn_n(trivial)
        pool.waitall()

    eventlet.spawn(measure, eventlet_group, params, report).wait()


def run_trio(params: Params, report: Report) -> None:
    """Spawn in trio's nurseries."""
    import trio

    async def trio_group(size: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(trivial_async)

    trio.run(measure_async, trio_group, params, report)


def run_threads(params: Params, report: Report) -> None:
    """Start and join OS threads."""

    def thread_group(size: int) -> None:
        threads = [threading.Thread(target=trivial) for _ in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    measure(thread_group, {**params, "group": params["os_group"], "total": params["os_total"]}, report)


BENCHMARK = Benchmark(
    name="spawn",
    cases=(
        Case(
            name="groups of 1,000",
            title="spawn and finish functions that do nothing, in groups of {group:,}",
            params={"group": 1_000, "total": 100_000, "os_group": 1_000, "os_total": 10_000, "warm_up": 5},
            quick={"total": 3_000, "os_total": 1_000, "warm_up": 1},
        ),
        Case(
            name="one group of 100,000",
            title="spawn and finish functions that do nothing, in one group of {group:,}",
            params={"group": 100_000, "total": 300_000, "os_group": 10_000, "os_total": 10_000, "warm_up": 1},
            quick={"group": 3_000, "total": 3_000, "os_group": 1_000, "os_total": 1_000},
        ),
    ),
    metrics=(Metric("time", "ns per thread"),),
    contenders=(
        Contender("plait", "plait", run_plait, "ThreadGroup.spawn from inside a virtual thread"),
        Contender("plait-main", "plait", run_plait_main, "the same from the main thread"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "TaskGroup.create_task"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "TaskGroup.create_task"),
        Contender("gevent", "gevent", run_gevent, "gevent.pool.Group.spawn"),
        Contender("eventlet", "eventlet", run_eventlet, "GreenPool.spawn_n and waitall"),
        Contender("trio", "trio", run_trio, "nursery.start_soon"),
        Contender("threads", None, run_threads, "threading.Thread, started and joined; fewer of them"),
    ),
)
