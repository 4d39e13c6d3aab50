"""cancel: what it costs to cancel a group whose threads are all parked, until the last has ended.

So many threads are started inside one group and wait, each for an event of its own or in a sleep of an hour. Each
counts itself just before it waits. When all are parked the group is cancelled by its own means, and the clock runs from
there until its block has been left: every thread has been woken, has unwound and is gone. Starting them does not count.

The three sizes are measured in one process, one after the other; growth is the cost per thread at the largest over
that at the smallest. OS threads cannot be cancelled, so there are none here.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Params, Report
from bench._sizes import measure, measure_async, size_metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Seconds between two looks at the count, and before the cancel, for the last one to park.
LOOK = 0.001
SETTLE = 0.01


class StopTasksError(Exception):
    """What asyncio's body raises: a TaskGroup has no other means to cancel its tasks."""


class Muster:
    """Counts the threads that are about to park."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._tickets = itertools.count(1)
        self._arrived = 0

    def arrive(self) -> None:
        """Count the calling thread."""
        ticket = next(self._tickets)  # atomic on every build
        if ticket == self.threads:
            self._arrived = ticket

    def is_complete(self) -> bool:
        """Return whether all have arrived."""
        return self._arrived == self.threads

    def wait(self, pause: Callable[[float], object]) -> None:
        """Wait until all are parked."""
        while not self.is_complete():
            pause(LOOK)
        pause(SETTLE)

    async def wait_async(self, pause: Callable[[float], Awaitable[object]]) -> None:
        """Do as ``wait`` does, where a pause is awaited."""
        while not self.is_complete():
            await pause(LOOK)
        await pause(SETTLE)


def run_plait(params: Params, report: Report) -> None:
    """Cancel a group of virtual threads with its method, from its body inside a virtual thread."""
    from plait import ThreadGroup

    seconds = params["sleep"]

    def run(size: int) -> int:
        muster = Muster(size)

        def sleep() -> None:
            muster.arrive()
            time.sleep(seconds)

        def wait(event: threading.Event) -> None:
            muster.arrive()
            event.wait()

        with ThreadGroup() as group:
            for _ in range(size):
                if seconds:
                    group.spawn(sleep)
                else:
                    group.spawn(wait, threading.Event())
            muster.wait(time.sleep)
            start = perf_counter_ns()
            group.cancel()
        return perf_counter_ns() - start

    with ThreadGroup() as group:
        group.spawn(measure, run, params, report).result()


async def cancel_tasks(params: Params, report: Report) -> None:
    """Cancel an asyncio.TaskGroup by raising in its body, on whichever loop is running."""
    seconds = params["sleep"]

    async def run(size: int) -> int:
        muster, start = Muster(size), 0

        async def sleep() -> None:
            muster.arrive()
            await asyncio.sleep(seconds)

        async def wait(event: asyncio.Event) -> None:
            muster.arrive()
            await event.wait()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(size):
                    group.create_task(sleep() if seconds else wait(asyncio.Event()))
                await muster.wait_async(asyncio.sleep)
                start = perf_counter_ns()
                raise StopTasksError
        except* StopTasksError:
            end = perf_counter_ns()
        return end - start

    await measure_async(run, params, report)


def run_gevent(params: Params, report: Report) -> None:
    """Kill a pool's greenlets, from inside a greenlet."""
    import gevent
    import gevent.event
    import gevent.pool

    seconds = params["sleep"]

    def run(size: int) -> int:
        muster, group = Muster(size), gevent.pool.Group()

        def sleep() -> None:
            muster.arrive()
            gevent.sleep(seconds)

        def wait(event: gevent.event.Event) -> None:
            muster.arrive()
            event.wait()

        for _ in range(size):
            if seconds:
                group.spawn(sleep)
            else:
                group.spawn(wait, gevent.event.Event())
        muster.wait(gevent.sleep)
        start = perf_counter_ns()
        group.kill()
        return perf_counter_ns() - start

    gevent.spawn(measure, run, params, report).get()


def run_trio(params: Params, report: Report) -> None:
    """Cancel a nursery's scope."""
    import trio

    seconds = params["sleep"]

    async def run(size: int) -> int:
        muster = Muster(size)

        async def sleep() -> None:
            muster.arrive()
            await trio.sleep(seconds)

        async def wait(event: trio.Event) -> None:
            muster.arrive()
            await event.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(size):
                if seconds:
                    nursery.start_soon(sleep)
                else:
                    nursery.start_soon(wait, trio.Event())
            await muster.wait_async(trio.sleep)
            start = perf_counter_ns()
            nursery.cancel_scope.cancel()
        return perf_counter_ns() - start

    trio.run(measure_async, run, params, report)


BENCHMARK = Benchmark(
    name="cancel",
    cases=(
        Case(
            name="sleep",
            title="cancel {few:,} (few), {more:,} (more) and {many:,} (many) threads that sleep for an hour",
            params={"few": 1_000, "more": 10_000, "many": 100_000, "total": 20_000, "sleep": 3_600},
            quick={"few": 100, "more": 300, "many": 1_000, "total": 300},
        ),
        Case(
            name="event",
            title="cancel {few:,} (few), {more:,} (more) and {many:,} (many) threads that wait, each for its own event",
            params={"few": 1_000, "more": 10_000, "many": 100_000, "total": 20_000, "sleep": 0},
            quick={"few": 100, "more": 300, "many": 1_000, "total": 300},
        ),
    ),
    metrics=size_metrics("few", "more", "many"),
    contenders=(
        Contender("plait", "plait", run_plait, "ThreadGroup.cancel; time.sleep, threading.Event.wait"),
        Contender(
            "asyncio",
            None,
            on_asyncio(cancel_tasks),
            "an exception in the TaskGroup's body; asyncio.sleep, asyncio.Event.wait",
        ),
        Contender("uvloop", "uvloop", on_uvloop(cancel_tasks), "the same"),
        Contender("gevent", "gevent", run_gevent, "gevent.pool.Group.kill; gevent.sleep, gevent.event.Event.wait"),
        Contender("trio", "trio", run_trio, "nursery.cancel_scope.cancel; trio.sleep, trio.Event.wait"),
    ),
)
