"""timers: what a sleep costs when very many go on at a time.

So many threads sleep again and again, a million times together, for times that are all different and far shorter than it
takes to serve all of them once: the time that passes is the work, not the sleep. Each sleep puts a timer among all the
others and takes it out. Starting the threads counts: it is done once for a hundred sleeps, for ten, or for one.

OS threads sleep in the kernel, and their number is another: they are few here, and do as many sleeps together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

#: Seconds: all sleeps lie between these two.
SHORTEST, LONGEST = 0.0001, 0.001
#: The golden ratio's fraction: its multiples are spread evenly, whatever their number.
SPREAD = 0.6180339887498949


def spans(number: int, times: int) -> Iterator[float]:
    """Return the sleeps of thread ``number``, in seconds."""
    for turn in range(times):
        yield SHORTEST + (LONGEST - SHORTEST) * ((number * times + turn) * SPREAD % 1.0)


def sleep_often(number: int, times: int, sleep: Callable[[float], object]) -> None:
    """Do what one thread does."""
    for span in spans(number, times):
        sleep(span)


async def sleep_often_async(number: int, times: int, sleep: Callable[[float], Awaitable[object]]) -> None:
    """Do as ``sleep_often`` does, where a sleep is awaited."""
    for span in spans(number, times):
        await sleep(span)


def run_plait(params: Params, report: Report) -> None:
    """Sleep on virtual threads."""
    from plait import ThreadGroup

    def body() -> None:
        start = perf_counter_ns()
        with ThreadGroup() as group:
            for number in range(params["threads"]):
                group.spawn(sleep_often, number, params["times"], time.sleep)
        report({"time": (perf_counter_ns() - start) / (params["threads"] * params["times"])})

    with ThreadGroup() as group:
        group.spawn(body).result()


async def measure_asyncio(params: Params, report: Report) -> None:
    """Sleep in tasks of whichever loop is running."""
    start = perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for number in range(params["threads"]):
            group.create_task(sleep_often_async(number, params["times"], asyncio.sleep))
    report({"time": (perf_counter_ns() - start) / (params["threads"] * params["times"])})


def run_gevent(params: Params, report: Report) -> None:
    """Sleep in greenlets."""
    import gevent

    start = perf_counter_ns()
    gevent.joinall(
        [gevent.spawn(sleep_often, number, params["times"], gevent.sleep) for number in range(params["threads"])],
        raise_error=True,
    )
    report({"time": (perf_counter_ns() - start) / (params["threads"] * params["times"])})


def run_eventlet(params: Params, report: Report) -> None:
    """Sleep in green threads."""
    import eventlet

    start = perf_counter_ns()
    pool = eventlet.GreenPool(params["threads"])
    for number in range(params["threads"]):
        pool.spawn_n(sleep_often, number, params["times"], eventlet.sleep)
    pool.waitall()
    report({"time": (perf_counter_ns() - start) / (params["threads"] * params["times"])})


def run_trio(params: Params, report: Report) -> None:
    """Sleep in trio's tasks."""
    import trio

    async def body() -> None:
        start = perf_counter_ns()
        async with trio.open_nursery() as nursery:
            for number in range(params["threads"]):
                nursery.start_soon(sleep_often_async, number, params["times"], trio.sleep)
        report({"time": (perf_counter_ns() - start) / (params["threads"] * params["times"])})

    trio.run(body)


def run_threads(params: Params, report: Report) -> None:
    """Sleep on fewer OS threads, more often."""
    threads = params["os_threads"]
    times = params["threads"] * params["times"] // threads
    start = perf_counter_ns()
    workers = [threading.Thread(target=sleep_often, args=(number, times, time.sleep)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report({"time": (perf_counter_ns() - start) / (threads * times)})


BENCHMARK = Benchmark(
    name="timers",
    cases=(
        Case(
            name="short sleeps",
            title="{threads:,} threads sleep {times} times each, for 0.1 to 1 ms",
            params={"threads": 10_000, "times": 100, "os_threads": 500},
            quick={"threads": 200, "times": 20, "os_threads": 50},
        ),
        Case(
            name="100,000 at a time",
            title="{threads:,} threads sleep {times} times each, for 0.1 to 1 ms",
            params={"threads": 100_000, "times": 10, "os_threads": 500},
            quick={"threads": 500, "times": 5, "os_threads": 50},
        ),
        Case(
            name="1,000,000 at a time",
            title="{threads:,} threads sleep once, for 0.1 to 1 ms",
            params={"threads": 1_000_000, "times": 1, "os_threads": 500},
            quick={"threads": 1_000, "times": 1, "os_threads": 50},
        ),
    ),
    metrics=(Metric("time", "ns per sleep"),),
    contenders=(
        Contender("plait", "plait", run_plait, "time.sleep on virtual threads"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "asyncio.sleep"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "asyncio.sleep"),
        Contender("gevent", "gevent", run_gevent, "gevent.sleep"),
        Contender("eventlet", "eventlet", run_eventlet, "eventlet.sleep"),
        Contender("trio", "trio", run_trio, "trio.sleep"),
        Contender("threads", None, run_threads, "500 OS threads that do as many sleeps"),
    ),
    environment={"PLAIT_CARRIERS": "1"},
)
