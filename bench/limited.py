"""limited: what a spawn costs in a group that lets only so many of its threads be at work at a time.

Up to a million threads, of which 1,000 may be at work. Each does the smallest work: in one case it returns, in the
other it lets others run first (``sleep(0)``), so that the limit is reached all the time. The clock runs from before the
first spawn until the block has been left.

plait has the limit in the group: ``spawn`` waits for a slot. The tasks of asyncio and trio are made at once, as people
write it, and each waits for a semaphore (a ``CapacityLimiter``); in the rows named ``-first`` the spawner waits for the
semaphore before it makes the task, which gives it back, so that there are never more tasks than the limit.

The sizes are measured in one process, one after the other; growth is the cost per thread at the largest over that at
the smallest.
"""

from __future__ import annotations

import asyncio
import time
from time import perf_counter_ns

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Params, Report
from bench._sizes import measure, measure_async, size_metrics


def trivial() -> None:
    """Do nothing."""


def run_plait(params: Params, report: Report) -> None:
    """Spawn from inside a virtual thread into a group with a limit."""
    from plait import ThreadGroup

    limit = params["limit"]

    def lets_others_run() -> None:
        time.sleep(0)

    work = lets_others_run if params["yields"] else trivial

    def run(size: int) -> int:
        start = perf_counter_ns()
        with ThreadGroup(max_concurrency=limit) as group:
            for _ in range(size):
                group.spawn(work)
        return perf_counter_ns() - start

    with ThreadGroup() as group:
        group.spawn(measure, run, params, report).result()


async def limit_tasks(params: Params, report: Report) -> None:
    """Make all tasks at once; each waits for the semaphore. On whichever loop is running."""
    limit, yields = params["limit"], params["yields"]

    async def work(semaphore: asyncio.Semaphore) -> None:
        async with semaphore:
            if yields:
                await asyncio.sleep(0)

    async def run(size: int) -> int:
        start = perf_counter_ns()
        semaphore = asyncio.Semaphore(limit)
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(work(semaphore))
        return perf_counter_ns() - start

    await measure_async(run, params, report)


async def limit_spawner(params: Params, report: Report) -> None:
    """Wait for the semaphore before each task is made."""
    limit, yields = params["limit"], params["yields"]

    async def work(semaphore: asyncio.Semaphore) -> None:
        try:
            if yields:
                await asyncio.sleep(0)
        finally:
            semaphore.release()

    async def run(size: int) -> int:
        start = perf_counter_ns()
        semaphore = asyncio.Semaphore(limit)
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                await semaphore.acquire()
                group.create_task(work(semaphore))
        return perf_counter_ns() - start

    await measure_async(run, params, report)


def run_gevent(params: Params, report: Report) -> None:
    """Spawn from inside a greenlet into a pool, which waits for room."""
    import gevent
    import gevent.pool

    limit = params["limit"]

    def lets_others_run() -> None:
        gevent.sleep(0)

    work = lets_others_run if params["yields"] else trivial

    def run(size: int) -> int:
        start = perf_counter_ns()
        pool = gevent.pool.Pool(limit)
        for _ in range(size):
            pool.spawn(work)
        pool.join()
        return perf_counter_ns() - start

    gevent.spawn(measure, run, params, report).get()


def run_trio(params: Params, report: Report) -> None:
    """Start all tasks at once; each waits for the limiter."""
    import trio
    import trio.lowlevel

    limit, yields = params["limit"], params["yields"]

    async def work(limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            if yields:
                await trio.lowlevel.checkpoint()

    async def run(size: int) -> int:
        start = perf_counter_ns()
        limiter = trio.CapacityLimiter(limit)
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                nursery.start_soon(work, limiter)
        return perf_counter_ns() - start

    trio.run(measure_async, run, params, report)


def run_trio_first(params: Params, report: Report) -> None:
    """Wait for a semaphore before each task is started."""
    import trio
    import trio.lowlevel

    limit, yields = params["limit"], params["yields"]

    async def work(semaphore: trio.Semaphore) -> None:
        try:
            if yields:
                await trio.lowlevel.checkpoint()
        finally:
            semaphore.release()

    async def run(size: int) -> int:
        start = perf_counter_ns()
        semaphore = trio.Semaphore(limit)
        async with trio.open_nursery() as nursery:
            for _ in range(size):
                await semaphore.acquire()
                nursery.start_soon(work, semaphore)
        return perf_counter_ns() - start

    trio.run(measure_async, run, params, report)


BENCHMARK = Benchmark(
    name="limited",
    cases=(
        Case(
            name="return",
            title="{few:,} (few) to {most:,} (most) threads that do nothing, {limit:,} at a time",
            params={"few": 1_000, "more": 10_000, "many": 100_000, "most": 1_000_000}
            | {"total": 50_000, "limit": 1_000, "yields": 0},
            quick={"few": 100, "more": 300, "many": 1_000, "most": 2_000, "total": 300, "limit": 50},
        ),
        Case(
            name="yield",
            title="{few:,} (few) to {most:,} (most) threads that let others run once, {limit:,} at a time",
            params={"few": 1_000, "more": 10_000, "many": 100_000, "most": 1_000_000}
            | {"total": 50_000, "limit": 1_000, "yields": 1},
            quick={"few": 100, "more": 300, "many": 1_000, "most": 2_000, "total": 300, "limit": 50},
        ),
    ),
    metrics=size_metrics("few", "more", "many", "most"),
    contenders=(
        Contender("plait", "plait", run_plait, "ThreadGroup(max_concurrency=...).spawn"),
        Contender("asyncio", None, on_asyncio(limit_tasks), "TaskGroup.create_task, each in a Semaphore"),
        Contender("asyncio-first", None, on_asyncio(limit_spawner), "Semaphore.acquire, then TaskGroup.create_task"),
        Contender("uvloop", "uvloop", on_uvloop(limit_tasks), "as asyncio"),
        Contender("gevent", "gevent", run_gevent, "gevent.pool.Pool.spawn"),
        Contender("trio", "trio", run_trio, "nursery.start_soon, each in a CapacityLimiter"),
        Contender("trio-first", "trio", run_trio_first, "Semaphore.acquire, then nursery.start_soon"),
    ),
    limit=300,
)
