"""echo: what a server costs per request, when it does nothing but send back what it got.

Many connections over loopback, each with one message in flight. The contender is the server; the clients are one separate
process, as cheap as can be (``_load.c``), that also checks every byte. Servers of threads are written as one writes them:
a loop of ``recv`` and ``sendall`` per connection. ``c-epoll`` is the limit: the system calls and nothing else.

The cases are a grid with its corners cut off. The number of connections varies at 1 KiB, from 1, where a round trip is
all there is, to 10,000, where most have only just begun when their turn is over; the size varies at 100 and at 1,000
connections. Left out are the small and the large message at 1 and at 10,000: there the size adds the kernel's copy, as
it does at 100, and 10,000 messages of 64 KiB fill the kernel's memory before they say anything of a server.

Beside the requests per second stands the processor time that the server spent on each: on a machine whose cores are
few or shared, that is the steadier figure. ``busy`` is the share of a core that each side used: if the clients come
near 100 %, they and not the server were the limit; if the two add up to that, they have taken turns on one core, and
each was the limit for its part. ``fairness`` is the slowest connection's share of the fastest one's requests; where a
connection has only a few requests in the whole time it says little.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING, cast

from bench._load import describe_clients, drive
from bench._loops import run_on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report, Sample
from bench._programs import become, command

if TYPE_CHECKING:
    from bench._process import Child

#: What a server is ready to receive at once.
BUFFER = 65_536


def listen(report: Report) -> socket.socket:
    """Open the server's socket and report its port; from then on clients can connect.

    Connections inherit TCP_NODELAY, which asyncio, uvloop and trio would set themselves.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    report({"port": listener.getsockname()[1]})
    return listener


def echo(connection: socket.socket) -> None:
    """Serve one connection with plain blocking calls."""
    with connection:
        while data := connection.recv(BUFFER):
            connection.sendall(data)


def run_plait(_params: Params, report: Report) -> None:
    """Serve with a virtual thread per connection."""
    from plait import ThreadGroup

    def serve(listener: socket.socket) -> None:
        with ThreadGroup() as group:
            while True:
                connection, _ = listener.accept()
                group.spawn(echo, connection)

    with ThreadGroup() as group:
        group.spawn(serve, listen(report)).result()


async def echo_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection with asyncio's streams."""
    while data := await reader.read(BUFFER):
        writer.write(data)
        await writer.drain()
    writer.close()


class EchoProtocol(asyncio.Protocol):
    """Serves one connection with callbacks."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Send back what came."""
        self.transport.write(data)


async def serve_streams(listener: socket.socket) -> None:
    """Serve with asyncio's streams on whichever loop is running."""
    server = await asyncio.start_server(echo_streams, sock=listener, backlog=1024)
    await server.serve_forever()


async def serve_protocol(listener: socket.socket) -> None:
    """Serve with callbacks on whichever loop is running."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, sock=listener, backlog=1024)
    await server.serve_forever()


def run_asyncio_streams(_params: Params, report: Report) -> None:
    """Serve with streams on asyncio's own loop."""
    asyncio.run(serve_streams(listen(report)))


def run_asyncio_protocol(_params: Params, report: Report) -> None:
    """Serve with callbacks on asyncio's own loop."""
    asyncio.run(serve_protocol(listen(report)))


def run_uvloop_streams(_params: Params, report: Report) -> None:
    """Serve with streams on uvloop's loop."""
    run_on_uvloop(serve_streams(listen(report)))


def run_uvloop_protocol(_params: Params, report: Report) -> None:
    """Serve with callbacks on uvloop's loop."""
    run_on_uvloop(serve_protocol(listen(report)))


def run_gevent(_params: Params, report: Report) -> None:
    """Serve with a greenlet per connection."""
    import gevent.server
    import gevent.socket

    listener = gevent.socket.socket(fileno=listen(report).detach())

    def handle(connection: socket.socket, _address: object) -> None:
        echo(connection)

    gevent.server.StreamServer(listener, handle).serve_forever()


def run_eventlet(_params: Params, report: Report) -> None:
    """Serve with a green thread per connection."""
    import eventlet
    import eventlet.greenio

    listener = eventlet.greenio.GreenSocket(listen(report))
    while True:
        connection, _ = listener.accept()
        eventlet.spawn_n(echo, connection)


def run_trio(_params: Params, report: Report) -> None:
    """Serve with a task per connection."""
    import trio

    listener = listen(report)

    async def body() -> None:
        streams = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        await trio.serve_listeners(handle, [streams])

    async def handle(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some(BUFFER):
            await stream.send_all(data)

    trio.run(body)


def run_threads(_params: Params, report: Report) -> None:
    """Serve with an OS thread per connection."""
    listener = listen(report)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def run_c_epoll(_params: Params, _report: Report) -> None:
    """Become the server in C, which reports its port itself."""
    become("peers/echo.c")


def run_go(_params: Params, _report: Report) -> None:
    """Become the server in Go, which reports its port itself."""
    become("peers/echo.go")


def run_java(_params: Params, _report: Report) -> None:
    """Become the server in Java, which reports its port itself."""
    become("peers/Echo.java")


def measure(child: Child, params: Params) -> Sample:
    """Let the clients loose on a server."""
    return drive(child, params, "echo")


#: The servers; other benchmarks put other clients before them.
CONTENDERS = (
    Contender("plait", "plait", run_plait, "a virtual thread per connection, plain socket.recv and sendall"),
    Contender("asyncio-streams", None, run_asyncio_streams),
    Contender("asyncio-protocol", None, run_asyncio_protocol, "callbacks, no task per connection"),
    Contender("uvloop-streams", "uvloop", run_uvloop_streams),
    Contender("uvloop-protocol", "uvloop", run_uvloop_protocol, "callbacks, no task per connection"),
    Contender("gevent", "gevent", run_gevent, "StreamServer, recv and sendall"),
    Contender("eventlet", "eventlet", run_eventlet, "a green thread per connection, recv and sendall"),
    Contender("trio", "trio", run_trio, "serve_listeners, receive_some and send_all"),
    Contender("threads", None, run_threads, "an OS thread per connection, plain socket.recv and sendall"),
    Contender(
        "c-epoll",
        None,
        run_c_epoll,
        "the limit: a bare epoll loop in C, edge-triggered",
        partial(command, "peers/echo.c"),
    ),
    Contender(
        "go",
        None,
        run_go,
        "a goroutine per connection, on all cores",
        partial(command, "peers/echo.go"),
    ),
    Contender(
        "java",
        None,
        run_java,
        "a virtual thread per connection, on all cores",
        partial(command, "peers/Echo.java"),
    ),
)

_LONG = {"warm_up_ms": 500, "duration_ms": 3_000}
#: What the many cases beside the first must make do with.
_SHORT = {"warm_up_ms": 300, "duration_ms": 1_500}
_QUICK = {"warm_up_ms": 100, "duration_ms": 300}


def _case(size: str, connections: int, window: Params = _SHORT) -> Case:
    number, unit = size.split()
    return Case(
        name=f"{size} x {connections}",
        title="{connections:,} connections, each with one message of {size:,} bytes in flight",
        params={"connections": connections, "size": int(number) * {"B": 1, "KiB": 1_024}[unit], **window},
        quick={"connections": min(connections, 20), **_QUICK},
    )


BENCHMARK = Benchmark(
    name="echo",
    cases=(
        _case("1 KiB", 100, _LONG),
        _case("1 KiB", 1),
        _case("1 KiB", 1_000),
        _case("1 KiB", 10_000, _LONG),
        _case("64 B", 100),
        _case("64 KiB", 100),
        _case("64 B", 1_000),
        _case("64 KiB", 1_000),
    ),
    metrics=(
        Metric("throughput", "requests per second", is_lower_better=False),
        Metric("cpu", "us of the server per request", decimals=2),
        Metric("server busy", "%", is_compared=False),
        Metric("clients busy", "%", is_compared=False),
        Metric("fairness", "%", is_compared=False),
    ),
    contenders=CONTENDERS,
    measure=measure,
    remark=describe_clients,
    limit=60,
)
