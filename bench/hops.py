"""hops: what it costs to hand a value from one thread to another.

*There and back*: two threads and two queues; a value goes to the other side and comes back, so each hop wakes somebody who
waits. *In a row*: one thread puts, another takes, with room for a hundred between them, so most hops wake nobody.

A hop is a put and the get of the same value.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol

from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Callable


class Line(Protocol):
    """Where values go through."""

    def put(self, value: int, /) -> Any:
        """Put one in, as soon as there is room."""

    def get(self) -> Any:
        """Take the first out, as soon as there is one."""


class Both:
    """The two parts of one run, and the clock."""

    def __init__(self, make: Callable[[], Line], params: Params) -> None:
        self.near, self.far = make(), make()
        self.hops = params["hops"]
        self.is_return = bool(params["returns"])
        self.start = self.end = 0

    def parts(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what the two threads do."""
        return (self.serve, self.echo) if self.is_return else (self.feed, self.drain)

    def serve(self) -> None:
        """Send a value, and wait until it comes back."""
        self.start = perf_counter_ns()
        for value in range(self.hops // 2):
            self.near.put(value)
            self.far.get()
        self.end = perf_counter_ns()

    def echo(self) -> None:
        """Send back what comes."""
        for _ in range(self.hops // 2):
            self.far.put(self.near.get())

    def feed(self) -> None:
        """Put all in."""
        self.start = perf_counter_ns()
        for value in range(self.hops):
            self.near.put(value)

    def drain(self) -> None:
        """Take all out."""
        for _ in range(self.hops):
            self.near.get()
        self.end = perf_counter_ns()

    def figures(self) -> dict[str, float]:
        """Return the nanoseconds a hop."""
        return {"time": (self.end - self.start) / self.hops}


class BothAsync(Both):
    """The same where puts and gets are awaited."""

    async def serve_async(self) -> None:
        """Do as ``serve`` does."""
        self.start = perf_counter_ns()
        for value in range(self.hops // 2):
            await self.near.put(value)
            await self.far.get()
        self.end = perf_counter_ns()

    async def echo_async(self) -> None:
        """Do as ``echo`` does."""
        for _ in range(self.hops // 2):
            await self.far.put(await self.near.get())

    async def feed_async(self) -> None:
        """Do as ``feed`` does."""
        self.start = perf_counter_ns()
        for value in range(self.hops):
            await self.near.put(value)

    async def drain_async(self) -> None:
        """Do as ``drain`` does."""
        for _ in range(self.hops):
            await self.near.get()
        self.end = perf_counter_ns()

    def parts_async(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return what the two tasks do."""
        return (self.serve_async, self.echo_async) if self.is_return else (self.feed_async, self.drain_async)


def run_on_plait(make: Callable[[], Line], params: Params, report: Report) -> None:
    """Hand over between two virtual threads."""
    from plait import ThreadGroup

    both = Both(make, params)
    with ThreadGroup() as group:
        for part in both.parts():
            group.spawn(part)
    report(both.figures())


def run_plait(params: Params, report: Report) -> None:
    """Hand over by the standard library's queue."""
    run_on_plait(lambda: queue.Queue(params["room"]), params, report)


def run_plait_simple(params: Params, report: Report) -> None:
    """Hand over by the queue that is written in C, and has no bound."""
    run_on_plait(queue.SimpleQueue, params, report)


def run_plait_channel(params: Params, report: Report) -> None:
    """Hand over by a channel."""
    from plait import Channel

    class Hop(Channel[int]):
        put = Channel.send
        get = Channel.recv

    run_on_plait(lambda: Hop(params["room"]), params, report)


async def measure_asyncio(params: Params, report: Report) -> None:
    """Hand over between two tasks of whichever loop is running."""
    both = BothAsync(lambda: asyncio.Queue(params["room"]), params)
    async with asyncio.TaskGroup() as group:
        for part in both.parts_async():
            group.create_task(part())
    report(both.figures())


def run_gevent(params: Params, report: Report) -> None:
    """Hand over between two greenlets."""
    import gevent
    import gevent.queue

    both = Both(lambda: gevent.queue.Queue(params["room"]), params)
    gevent.joinall([gevent.spawn(part) for part in both.parts()], raise_error=True)
    report(both.figures())


def run_eventlet(params: Params, report: Report) -> None:
    """Hand over between two green threads."""
    import eventlet
    import eventlet.queue

    both = Both(lambda: eventlet.queue.LightQueue(params["room"]), params)
    for thread in [eventlet.spawn(part) for part in both.parts()]:
        thread.wait()
    report(both.figures())


def run_trio(params: Params, report: Report) -> None:
    """Hand over by trio's memory channels."""
    import trio

    class Hop:
        def __init__(self) -> None:
            send, receive = trio.open_memory_channel[int](params["room"])
            self.put, self.get = send.send, receive.receive

    async def body() -> None:
        both = BothAsync(Hop, params)
        async with trio.open_nursery() as nursery:
            for part in both.parts_async():
                nursery.start_soon(part)
        report(both.figures())

    trio.run(body)


def run_threads(params: Params, report: Report) -> None:
    """Hand over between two OS threads."""
    both = Both(lambda: queue.Queue(params["room"]), {**params, "hops": params["os_hops"]})
    workers = [threading.Thread(target=part) for part in both.parts()]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    report(both.figures())


BENCHMARK = Benchmark(
    name="hops",
    cases=(
        Case(
            name="there and back",
            title="a value goes to another thread and comes back",
            params={"hops": 100_000, "os_hops": 20_000, "room": 1, "returns": 1},
            quick={"hops": 2_000, "os_hops": 500},
        ),
        Case(
            name="in a row",
            title="values go to another thread, with room for 100 between them",
            params={"hops": 200_000, "os_hops": 50_000, "room": 100, "returns": 0},
            quick={"hops": 2_000, "os_hops": 500},
        ),
    ),
    metrics=(Metric("time", "ns per hop"),),
    contenders=(
        Contender("plait", "plait", run_plait, "queue.Queue"),
        Contender("plait-simple", "plait", run_plait_simple, "queue.SimpleQueue, which has no bound"),
        Contender("plait-channel", "plait", run_plait_channel, "Channel"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "asyncio.Queue"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "asyncio.Queue"),
        Contender("gevent", "gevent", run_gevent, "gevent.queue.Queue"),
        Contender("eventlet", "eventlet", run_eventlet, "eventlet.queue.LightQueue"),
        Contender("trio", "trio", run_trio, "a memory channel"),
        Contender("threads", None, run_threads, "queue.Queue between OS threads"),
    ),
    environment={"PLAIT_CARRIERS": "1"},
)
