"""http: what a GET costs to a client that is written with a library of blocking code.

A hundred workers fetch a page of 1 KiB from one server, again and again, over connections that are kept: through the
standard library's ``http.client``, a connection for each worker, or through urllib3, where they share a pool. The
contender is the client; the server is a bare epoll loop in C, which is cheaper than any of them. Every page is compared
with what it should be.

asyncio and uvloop run no such library. In their place stands a GET written by hand on asyncio's streams, which reads a
status, a length and the page, and does nothing else of what a library does: it is the same in both tables.

Beside the requests per second stands the processor time that the client spent on each. ``busy`` is the share of a core
that each side used.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from bench._load import message_of
from bench._loops import run_on_uvloop
from bench._model import Benchmark, Case, Contender, Params, Report
from bench._programs import command
from bench._server import METRICS, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    #: What a worker does: so many requests. Returns how many bytes of pages it got.
    Worker = Callable[[int], int]


def checked(status: int, page: bytes, expected: bytes) -> int:
    """Return the size of a page. Raises RuntimeError if it is another than it should be."""
    if status != 200 or page != expected:
        raise RuntimeError(f"the server sent another page than it should: status {status}, {len(page)} bytes")
    return len(page)


def prepare_http_client(port: int, params: Params) -> Worker:
    """Return a worker with a connection of its own."""
    import http.client

    expected = message_of(params["size"])

    def work(times: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        size = 0
        for _ in range(times):
            connection.request("GET", "/")
            response = connection.getresponse()
            size += checked(response.status, response.read(), expected)
        connection.close()
        return size

    return work


def prepare_urllib3(port: int, params: Params) -> Worker:
    """Return a worker that shares a pool with the others."""
    import urllib3

    expected = message_of(params["size"])
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=params["workers"], block=True)

    def work(times: int) -> int:
        size = 0
        for _ in range(times):
            response = pool.request("GET", "/")
            size += checked(response.status, response.data, expected)
        return size

    return work


#: What a case fetches with, by its number among the params.
PREPARE = (prepare_http_client, prepare_urllib3)


def measure(fetch_all: Callable[[int], int], params: Params, report: Report) -> None:
    """Call ``fetch_all(port)``, which returns how many bytes of pages came in all, and report the figures."""
    requests = params["workers"] * params["times"]
    with Server("peers/page.c", str(params["size"])) as server:
        report(server.watch(fetch_all, requests=requests, size=params["size"]))


def measure_workers(run: Callable[[Worker, int], list[int]], params: Params, report: Report) -> None:
    """Call ``run(worker, times)``, which has every worker do its requests and returns what each got."""

    def fetch_all(port: int) -> int:
        return sum(run(PREPARE[params["library"]](port, params), params["times"]))

    measure(fetch_all, params, report)


def run_plait(params: Params, report: Report) -> None:
    """Fetch on virtual threads."""
    from plait import ThreadGroup

    def run(worker: Worker, times: int) -> list[int]:
        with ThreadGroup() as group:
            futures = [group.spawn(worker, times) for _ in range(params["workers"])]
        return [future.result() for future in futures]

    measure_workers(run, params, report)


async def fetch_by_hand(port: int, times: int, expected: bytes) -> int:
    """Do what a worker does, with asyncio's streams."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    size = 0
    for _ in range(times):
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: identity\r\n\r\n")
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        start, *fields = head.split(b"\r\n")
        length = next(int(field[15:]) for field in fields if field.lower().startswith(b"content-length:"))
        size += checked(int(start.split()[1]), await reader.readexactly(length), expected)
    writer.close()
    await writer.wait_closed()
    return size


def measure_by_hand(run: Callable[[Coroutine[Any, Any, None]], None], params: Params, report: Report) -> None:
    """Fetch in tasks of the loop that ``run`` starts."""

    def fetch_all(port: int) -> int:
        sizes = []

        async def body() -> None:
            expected = message_of(params["size"])
            fetches = [fetch_by_hand(port, params["times"], expected) for _ in range(params["workers"])]
            sizes.extend(await asyncio.gather(*fetches))

        run(body())
        return sum(sizes)

    measure(fetch_all, params, report)


def run_asyncio(params: Params, report: Report) -> None:
    """Fetch by hand on asyncio's own loop."""
    measure_by_hand(asyncio.run, params, report)


def run_uvloop(params: Params, report: Report) -> None:
    """Fetch by hand on uvloop's loop."""
    measure_by_hand(run_on_uvloop, params, report)


def run_gevent(params: Params, report: Report) -> None:
    """Fetch in greenlets, in a process that is patched."""
    import gevent.monkey

    gevent.monkey.patch_all(ssl=False)  # it warns that ssl is there already, and nobody needs it here

    def run(worker: Worker, times: int) -> list[int]:
        fetches = [gevent.spawn(worker, times) for _ in range(params["workers"])]
        gevent.joinall(fetches, raise_error=True)
        return [each.value for each in fetches]

    measure_workers(run, params, report)


def run_eventlet(params: Params, report: Report) -> None:
    """Fetch in green threads, in a process that is patched."""
    import eventlet

    eventlet.monkey_patch()

    def run(worker: Worker, times: int) -> list[int]:
        fetches = [eventlet.spawn(worker, times) for _ in range(params["workers"])]
        return [each.wait() for each in fetches]

    measure_workers(run, params, report)


def run_threads(params: Params, report: Report) -> None:
    """Fetch on OS threads."""

    def run(worker: Worker, times: int) -> list[int]:
        sizes: list[int] = []
        threads = [threading.Thread(target=lambda: sizes.append(worker(times))) for _ in range(params["workers"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sizes

    measure_workers(run, params, report)


_SERVER = partial(command, "peers/page.c")
_TITLE = "{workers} workers get a page of {size:,} bytes {times} times each, through "
_SIZES = {"workers": 100, "times": 200, "size": 1_024}
_QUICK = {"workers": 20, "times": 10}

BENCHMARK = Benchmark(
    name="http",
    cases=(
        Case(name="http.client", title=f"{_TITLE}http.client", params={**_SIZES, "library": 0}, quick=_QUICK),
        Case(
            name="urllib3",
            title=f"{_TITLE}a pool of urllib3",
            params={**_SIZES, "library": 1},
            quick=_QUICK,
            package="urllib3",
        ),
    ),
    metrics=METRICS,
    contenders=(
        Contender("plait", "plait", run_plait, "the library on virtual threads", _SERVER),
        Contender("asyncio-by-hand", None, run_asyncio, "no library: a GET written on streams", _SERVER),
        Contender("uvloop-by-hand", "uvloop", run_uvloop, "no library: a GET written on streams", _SERVER),
        Contender("gevent", "gevent", run_gevent, "the library in greenlets, monkey.patch_all", _SERVER),
        Contender("eventlet", "eventlet", run_eventlet, "the library in green threads, monkey_patch", _SERVER),
        Contender("threads", None, run_threads, "the library on OS threads", _SERVER),
    ),
    remark=lambda: "the server is in C, and not counted",
)
