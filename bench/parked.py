"""parked: how much memory a thread holds that does nothing but wait.

100,000 threads are started inside one group and wait: in one case for an event that is never set, in another in a
sleep of an hour. In a third case they wait for the event below 30 more functions, or coroutines that await each other: their frames
are a part of what is held. In a fourth they are 1,000,000 that wait for the event. Each counts itself just before it waits, so that memory is read only when all have started and
parked; a thread that was spawned but never ran would look very cheap. Then the process ends without ceremony.

The figure is the growth of the resident set by /proc/self/statm, divided by the number of threads: all that the
thread, its stack, its group and its wait hold in user space. The kernel's part of an OS thread (its kernel stack and
its task, over 16 KiB) is not in it. OS threads are 2,000 only, and the greenlets of gevent and eventlet, which hold too much
for a million of them, 100,000 in every case. What is left when the threads have ended is the question of ``waves``.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

#: Seconds between two looks at the count, and before memory is read, for the last one to park.
LOOK = 0.01
SETTLE = 0.2


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Meter:
    """Counts the threads that are about to park, and weighs them when all have."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._tickets = itertools.count(1)
        self._arrived = 0
        gc.collect()
        self._before = resident()

    def arrive(self) -> None:
        """Count the calling thread."""
        ticket = next(self._tickets)  # atomic on every build
        if ticket == self.threads:
            self._arrived = ticket

    def is_complete(self) -> bool:
        """Return whether all have arrived."""
        return self._arrived == self.threads

    def count_anew(self) -> None:
        """Forget who has arrived."""
        self._tickets, self._arrived = itertools.count(1), 0

    def per_thread(self) -> float:
        """Return the memory that has been added, per thread."""
        gc.collect()
        return (resident() - self._before) / self.threads

    def weigh(self, report: Report) -> None:
        """Report the memory per thread, and end the process: taking down so many threads is no part of this."""
        report({"memory": self.per_thread()})
        os._exit(0)


def at_depth(depth: int, call: Callable[[], object]) -> Callable[[], object]:
    """Return what calls ``call`` below so many functions of Python."""
    return functools.partial(descend, depth, call) if depth else call


def descend(depth: int, call: Callable[[], object]) -> object:
    """Call ``call`` below ``depth`` functions, this one among them."""
    return descend(depth - 1, call) if depth > 1 else call()


async def descend_async(depth: int, call: Callable[[], Awaitable[object]]) -> object:
    """Do as ``descend`` does, where each awaits the next."""
    return await (descend_async(depth - 1, call) if depth > 1 else call())


def at_depth_async(
    depth: int, call: Callable[[], Coroutine[Any, Any, object]]
) -> Callable[[], Coroutine[Any, Any, object]]:
    """Do as ``at_depth`` does, for coroutines."""
    return functools.partial(descend_async, depth, call) if depth else call


def watch(meter: Meter, report: Report, pause: Callable[[float], object]) -> None:
    """Wait until all are parked, and weigh them."""
    while not meter.is_complete():
        pause(LOOK)
    pause(SETTLE)
    meter.weigh(report)


async def watch_async(meter: Meter, report: Report, pause: Callable[[float], Awaitable[object]]) -> None:
    """Do as ``watch`` does, where a pause is awaited."""
    while not meter.is_complete():
        await pause(LOOK)
    await pause(SETTLE)
    meter.weigh(report)


def run_plait(params: Params, report: Report) -> None:
    """Park virtual threads, spawned from inside one."""
    from plait import ThreadGroup

    seconds, event = params["sleep"], threading.Event()

    def sleep() -> None:
        meter.arrive()
        time.sleep(seconds)

    def wait() -> None:
        meter.arrive()
        event.wait()

    park = at_depth(params["depth"], sleep if seconds else wait)

    def body() -> None:
        with ThreadGroup() as group:
            for _ in range(meter.threads):
                group.spawn(park)
            watch(meter, report, time.sleep)

    with ThreadGroup() as group:  # the runtime has started before the first look at the memory
        group.spawn(time.sleep, 0).result()
    meter = Meter(params["threads"])
    with ThreadGroup() as group:
        group.spawn(body).result()


async def park_tasks(params: Params, report: Report) -> None:
    """Park asyncio's tasks, on whichever loop is running."""
    seconds, loop = params["sleep"], asyncio.get_running_loop()

    async def sleep() -> None:
        meter.arrive()
        await asyncio.sleep(seconds)

    async def wait() -> None:
        meter.arrive()
        await loop.create_future()

    park = at_depth_async(params["depth"], sleep if seconds else wait)
    meter = Meter(params["threads"])
    async with asyncio.TaskGroup() as group:
        for _ in range(meter.threads):
            group.create_task(park())
        await watch_async(meter, report, asyncio.sleep)


def run_gevent(params: Params, report: Report) -> None:
    """Park greenlets."""
    import gevent
    import gevent.event
    import gevent.pool

    seconds, event, group = params["sleep"], gevent.event.Event(), gevent.pool.Group()

    def sleep() -> None:
        meter.arrive()
        gevent.sleep(seconds)

    def wait() -> None:
        meter.arrive()
        event.wait()

    park = at_depth(params["depth"], sleep if seconds else wait)
    gevent.spawn(gevent.sleep, 0).join()
    meter = Meter(params["greenlets"])
    for _ in range(meter.threads):
        group.spawn(park)
    watch(meter, report, gevent.sleep)


def run_eventlet(params: Params, report: Report) -> None:
    """Park eventlet's green threads."""
    import eventlet
    import eventlet.event

    seconds, event = params["sleep"], eventlet.event.Event()

    def sleep() -> None:
        meter.arrive()
        eventlet.sleep(seconds)

    def wait() -> None:
        meter.arrive()
        event.wait()

    park = at_depth(params["depth"], sleep if seconds else wait)
    eventlet.sleep(0)
    meter = Meter(params["greenlets"])
    pool = eventlet.GreenPool(meter.threads)
    for _ in range(meter.threads):
        pool.spawn_n(park)
    watch(meter, report, eventlet.sleep)


def run_trio(params: Params, report: Report) -> None:
    """Park trio's tasks."""
    import trio

    seconds = params["sleep"]

    async def body() -> None:
        event = trio.Event()

        async def sleep() -> None:
            meter.arrive()
            await trio.sleep(seconds)

        async def wait() -> None:
            meter.arrive()
            await event.wait()

        park = at_depth_async(params["depth"], sleep if seconds else wait)
        meter = Meter(params["threads"])
        async with trio.open_nursery() as nursery:
            for _ in range(meter.threads):
                nursery.start_soon(park)
            await watch_async(meter, report, trio.sleep)

    trio.run(body)


def run_threads(params: Params, report: Report) -> None:
    """Park OS threads."""
    seconds, event = params["sleep"], threading.Event()

    def sleep() -> None:
        meter.arrive()
        time.sleep(seconds)

    def wait() -> None:
        meter.arrive()
        event.wait()

    park = at_depth(params["depth"], sleep if seconds else wait)
    meter = Meter(params["os_threads"])
    for _ in range(meter.threads):
        threading.Thread(target=park, daemon=True).start()
    watch(meter, report, time.sleep)


BENCHMARK = Benchmark(
    name="parked",
    cases=(
        Case(
            name="event",
            title="{threads:,} threads wait for an event",
            params={"threads": 100_000, "greenlets": 100_000, "os_threads": 2_000, "sleep": 0, "depth": 0},
            quick={"threads": 1_000, "greenlets": 1_000, "os_threads": 100},
        ),
        Case(
            name="sleep",
            title="{threads:,} threads sleep for an hour",
            params={"threads": 100_000, "greenlets": 100_000, "os_threads": 2_000, "sleep": 3_600, "depth": 0},
            quick={"threads": 1_000, "greenlets": 1_000, "os_threads": 100},
        ),
        Case(
            name="at depth 30",
            title="{threads:,} threads wait for an event, each below {depth} functions",
            params={"threads": 100_000, "greenlets": 100_000, "os_threads": 2_000, "sleep": 0, "depth": 30},
            quick={"threads": 1_000, "greenlets": 1_000, "os_threads": 100},
        ),
        Case(
            name="a million",
            title="{threads:,} threads wait for an event",
            params={"threads": 1_000_000, "greenlets": 100_000, "os_threads": 2_000, "sleep": 0, "depth": 0},
            quick={"threads": 1_000, "greenlets": 1_000, "os_threads": 100},
        ),
    ),
    metrics=(Metric("memory", "bytes of RSS per thread"),),
    contenders=(
        Contender("plait", "plait", run_plait, "threading.Event.wait, time.sleep"),
        Contender("asyncio", None, on_asyncio(park_tasks), "a future of its own, asyncio.sleep"),
        Contender("uvloop", "uvloop", on_uvloop(park_tasks), "a future of its own, asyncio.sleep"),
        Contender("gevent", "gevent", run_gevent, "gevent.event.Event.wait, gevent.sleep; never more than 100,000"),
        Contender("eventlet", "eventlet", run_eventlet, "eventlet.event.Event.wait, eventlet.sleep; as gevent"),
        Contender("trio", "trio", run_trio, "trio.Event.wait, trio.sleep"),
        Contender("threads", None, run_threads, "the same; fewer, and without the kernel's part"),
    ),
    limit=300,
)
