"""The servers of benchmarks whose contender is the client: in C, as cheap as can be, so that they are not the limit."""

from __future__ import annotations

import json
import subprocess
import time
from time import perf_counter
from typing import TYPE_CHECKING, Self

from bench._model import Metric
from bench._process import processor_seconds
from bench._programs import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from bench._model import Sample

#: What ``Server.watch`` measures.
METRICS = (
    Metric("throughput", "requests per second", is_lower_better=False),
    Metric("cpu", "us of the client per request", decimals=2),
    Metric("client busy", "%", is_compared=False),
    Metric("server busy", "%", is_compared=False),
)


class Server:
    """A server at work on a port of 127.0.0.1, ended when its ``with`` block is left or this process ends."""

    def __init__(self, source: str, *arguments: str) -> None:
        self._process = subprocess.Popen([*command(source), *arguments], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port: int = json.loads(self._process.stdout.readline())["port"]

    def __enter__(self) -> Self:
        """Return the server; it is ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def watch(self, fetch_all: Callable[[int], int], *, requests: int, size: int) -> Sample:
        """Call ``fetch_all(port)``, which returns how many bytes it got in so many requests, and measure that.

        Raises RuntimeError if these are not ``size`` for each request.
        """
        server, own, start = processor_seconds(self._process.pid), time.process_time(), perf_counter()
        got = fetch_all(self.port)
        elapsed = perf_counter() - start
        own, server = time.process_time() - own, processor_seconds(self._process.pid) - server
        if got != requests * size:
            raise RuntimeError(f"the server sent {got} bytes, expected {size} in each of {requests} requests")
        return {
            "throughput": requests / elapsed,
            "cpu": own / requests * 1e6,
            "client busy": own / elapsed * 100,
            "server busy": server / elapsed * 100,
        }
