"""fanout: what a request costs to a client that has very many to make, each on a connection of its own.

A group of ten thousand members, a thousand at work at a time. Each member connects over loopback, sends a message of 1 KiB,
reads it back, compares it, and closes. The contender is the client; the server is a bare epoll loop in C, which is
cheaper than any of them. Connections are opened as one opens them there: by ``create_connection`` where it is blocking
code, which looks up the address first, though it is a number.

Beside the requests per second stands the processor time that the client spent on each. ``busy`` is the share of a core
that each side used.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from bench._load import message_of
from bench._loops import run_on_uvloop
from bench._model import Benchmark, Case, Contender, Params, Report
from bench._programs import command
from bench._server import METRICS, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

#: What a client is ready to receive at once.
BUFFER = 65_536


def fetch(connect: Callable[[tuple[str, int]], Any], port: int, message: bytes) -> int:
    """Make one request with plain blocking calls; return how many bytes came back. Raises RuntimeError for others."""
    with connect(("127.0.0.1", port)) as connection:
        connection.sendall(message)
        answer = b""
        while len(answer) < len(message) and (data := connection.recv(BUFFER)):
            answer += data
    return checked(answer, message)


def checked(answer: bytes, message: bytes) -> int:
    """Return the size of an answer. Raises RuntimeError if it is not the message."""
    if answer != message:
        raise RuntimeError("the server sent back something else than it got")
    return len(answer)


def measure(fetch_all: Callable[[int, bytes], int], params: Params, report: Report) -> None:
    """Call ``fetch_all(port, message)``, which returns how many bytes came back in all, and report the figures."""
    message = message_of(params["size"])
    with Server("peers/echo.c") as server:
        report(
            server.watch(lambda port: fetch_all(port, message), requests=params["requests"], size=params["size"]),
        )


def run_plait(params: Params, report: Report) -> None:
    """Fetch on virtual threads, spawned by the main thread."""
    from plait import ThreadGroup

    def fetch_all(port: int, message: bytes) -> int:
        with ThreadGroup(max_concurrency=params["at_a_time"]) as group:
            futures = [group.spawn(fetch, socket.create_connection, port, message) for _ in range(params["requests"])]
        return sum(future.result() for future in futures)

    measure(fetch_all, params, report)


def run_plait_inside(params: Params, report: Report) -> None:
    """Fetch on virtual threads, spawned by one of them."""
    from plait import ThreadGroup

    with ThreadGroup() as group:
        group.spawn(run_plait, params, report).result()


async def fetch_async(limit: asyncio.Semaphore, port: int, message: bytes) -> int:
    """Make one request with asyncio's streams, when it may."""
    async with limit:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(message)
        await writer.drain()
        answer = await reader.readexactly(len(message))
        writer.close()
        await writer.wait_closed()
    return checked(answer, message)


def measure_asyncio(run: Callable[[Coroutine[Any, Any, None]], None], params: Params, report: Report) -> None:
    """Fetch in tasks of the loop that ``run`` starts."""

    def fetch_all(port: int, message: bytes) -> int:
        tasks = []

        async def body() -> None:
            limit = asyncio.Semaphore(params["at_a_time"])
            async with asyncio.TaskGroup() as group:
                for _ in range(params["requests"]):
                    tasks.append(group.create_task(fetch_async(limit, port, message)))  # noqa: PERF401

        run(body())
        return sum(task.result() for task in tasks)

    measure(fetch_all, params, report)


def run_asyncio(params: Params, report: Report) -> None:
    """Fetch on asyncio's own loop."""
    measure_asyncio(asyncio.run, params, report)


def run_uvloop(params: Params, report: Report) -> None:
    """Fetch on uvloop's loop."""
    measure_asyncio(run_on_uvloop, params, report)


def run_gevent(params: Params, report: Report) -> None:
    """Fetch in greenlets of a pool."""
    import gevent.pool
    import gevent.socket

    def fetch_all(port: int, message: bytes) -> int:
        pool = gevent.pool.Pool(params["at_a_time"])
        fetches = [pool.spawn(fetch, gevent.socket.create_connection, port, message) for _ in range(params["requests"])]
        return sum(each.get() for each in fetches)

    measure(fetch_all, params, report)


def run_eventlet(params: Params, report: Report) -> None:
    """Fetch in green threads of a pool."""
    import eventlet
    import eventlet.green.socket

    def fetch_all(port: int, message: bytes) -> int:
        pool = eventlet.GreenPool(params["at_a_time"])
        fetches = [
            pool.spawn(fetch, eventlet.green.socket.create_connection, port, message) for _ in range(params["requests"])
        ]
        return sum(each.wait() for each in fetches)

    measure(fetch_all, params, report)


def run_trio(params: Params, report: Report) -> None:
    """Fetch in trio's tasks."""
    import trio

    def fetch_all(port: int, message: bytes) -> int:
        sizes: list[int] = []

        async def fetch_one(limit: trio.CapacityLimiter) -> None:
            async with limit, await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(message)
                answer = b""
                while len(answer) < len(message) and (data := await stream.receive_some(BUFFER)):
                    answer += data
            sizes.append(checked(answer, message))

        async def body() -> None:
            limit = trio.CapacityLimiter(params["at_a_time"])
            async with trio.open_nursery() as nursery:
                for _ in range(params["requests"]):
                    nursery.start_soon(fetch_one, limit)

        trio.run(body)
        return sum(sizes)

    measure(fetch_all, params, report)


def run_threads(params: Params, report: Report) -> None:
    """Fetch on a pool of OS threads."""

    def fetch_all(port: int, message: bytes) -> int:
        with ThreadPoolExecutor(params["at_a_time"]) as pool:
            fetches = [pool.submit(fetch, socket.create_connection, port, message) for _ in range(params["requests"])]
        return sum(each.result() for each in fetches)

    measure(fetch_all, params, report)


_SERVER = partial(command, "peers/echo.c")

BENCHMARK = Benchmark(
    name="fanout",
    cases=(
        Case(
            name="many requests",
            title="{requests:,} requests of {size:,} bytes, each on a new connection, {at_a_time:,} at a time",
            params={"requests": 10_000, "at_a_time": 1_000, "size": 1_024},
            quick={"requests": 500, "at_a_time": 100},
        ),
    ),
    metrics=METRICS,
    contenders=(
        Contender("plait", "plait", run_plait, "ThreadGroup(max_concurrency=1000), from the main thread", _SERVER),
        Contender("plait-inside", "plait", run_plait_inside, "the same, from a virtual thread", _SERVER),
        Contender("asyncio", None, run_asyncio, "TaskGroup, Semaphore(1000), open_connection", _SERVER),
        Contender("uvloop", "uvloop", run_uvloop, "TaskGroup, Semaphore(1000), open_connection", _SERVER),
        Contender("gevent", "gevent", run_gevent, "Pool(1000)", _SERVER),
        Contender("eventlet", "eventlet", run_eventlet, "GreenPool(1000)", _SERVER),
        Contender("trio", "trio", run_trio, "a nursery, CapacityLimiter(1000), open_tcp_stream", _SERVER),
        Contender("threads", None, run_threads, "ThreadPoolExecutor(1000)", _SERVER),
    ),
    remark=lambda: "the server is in C, and not counted",
)
