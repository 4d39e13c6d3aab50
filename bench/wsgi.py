"""wsgi: a hello from the standard library's own web server.

``wsgiref``'s server with ``socketserver.ThreadingMixIn``, unchanged: it accepts on the main thread and starts a
``threading.Thread`` for each connection, which is good for one request. What differs is what such a thread is. Under plait it
is a virtual thread, as ``python -m plait --virtual-threads`` has it; under gevent and eventlet, which patch the process, a
greenlet; otherwise an OS thread.

A hundred clients in one process (``_load.c``), each of which connects, sends a GET, reads the page to the end of the
connection, compares it, and connects anew. ``busy`` and ``fairness`` are as in ``echo``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench._load import describe_clients, drive, message_of
from bench._model import Benchmark, Case, Contender, Metric, Params, Report, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench._process import Child


def serve(params: Params, report: Report) -> None:
    """Say hello with a ``threading.Thread`` per connection, whatever that is in this process."""
    import socketserver
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    hello = message_of(params["size"])

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True
        request_queue_size = 1024  # it is 5, which is fewer than there are clients

    class Handler(WSGIRequestHandler):
        disable_nagle_algorithm = True  # it sends a head in many parts, and each would wait for the last one's receipt

        def log_message(self, format: str, *arguments: object) -> None:
            """Write no line per request."""

    def application(
        _environ: object, start_response: Callable[[str, list[tuple[str, str]]], object]
    ) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(hello)))])
        return [hello]

    with Server(("127.0.0.1", 0), Handler) as server:
        server.set_app(application)
        report({"port": server.server_port})
        server.serve_forever()


def run_plait(params: Params, report: Report) -> None:
    """Do as ``python -m plait --virtual-threads`` does."""
    import plait

    plait.patch.install(virtual_threads=True)
    serve(params, report)


def run_gevent(params: Params, report: Report) -> None:
    """Serve in greenlets, in a process that is patched."""
    import gevent.monkey

    gevent.monkey.patch_all()
    serve(params, report)


def run_eventlet(params: Params, report: Report) -> None:
    """Serve in green threads, in a process that is patched."""
    import eventlet

    eventlet.monkey_patch()
    serve(params, report)


def measure(child: Child, params: Params) -> Sample:
    """Let the clients loose on a server."""
    return drive(child, params, "get")


BENCHMARK = Benchmark(
    name="wsgi",
    cases=(
        Case(
            name="hello",
            title="{connections} clients, each connection is good for one page of {size:,} bytes",
            params={"connections": 100, "size": 13, "warm_up_ms": 500, "duration_ms": 3_000},
            quick={"connections": 20, "warm_up_ms": 100, "duration_ms": 300},
        ),
    ),
    metrics=(
        Metric("throughput", "requests per second", is_lower_better=False),
        Metric("cpu", "us of the server per request", decimals=1),
        Metric("server busy", "%", is_compared=False),
        Metric("clients busy", "%", is_compared=False),
        Metric("fairness", "%", is_compared=False),
    ),
    contenders=(
        Contender("plait", "plait", run_plait, "python -m plait --virtual-threads: a virtual thread per connection"),
        Contender("gevent", "gevent", run_gevent, "monkey.patch_all: a greenlet per connection"),
        Contender("eventlet", "eventlet", run_eventlet, "monkey_patch: a green thread per connection"),
        Contender("threads", None, serve, "an OS thread per connection"),
    ),
    measure=measure,
    remark=describe_clients,
    limit=60,
)
