"""churn: what a server pays for a connection that is used once.

A hundred clients, each of which connects, sends one message of 1 KiB, gets it back, closes, and connects anew. The servers
are those of ``echo``, and so is the message: what a connection costs here beyond a request there is its accept, its
thread or task or callbacks, its registration, and its end.

The clients (``_load.c``) close first, so the ports that have to rest after a connection are theirs; they come from many
addresses of the loopback network, lest those run out. ``busy`` and ``fairness`` are as in ``echo``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench._load import describe_clients, drive
from bench._model import Benchmark, Case, Metric, Params, Sample
from bench.echo import CONTENDERS

if TYPE_CHECKING:
    from bench._process import Child


def measure(child: Child, params: Params) -> Sample:
    """Let the clients loose on a server."""
    return drive(child, params, "churn")


BENCHMARK = Benchmark(
    name="churn",
    cases=(
        Case(
            name="1 KiB",
            title="{connections} clients, each connection is good for one message of {size:,} bytes",
            params={"connections": 100, "size": 1_024, "warm_up_ms": 500, "duration_ms": 3_000},
            quick={"connections": 20, "warm_up_ms": 100, "duration_ms": 300},
        ),
    ),
    metrics=(
        Metric("throughput", "connections per second", is_lower_better=False),
        Metric("cpu", "us of the server per connection", decimals=2),
        Metric("server busy", "%", is_compared=False),
        Metric("clients busy", "%", is_compared=False),
        Metric("fairness", "%", is_compared=False),
    ),
    contenders=CONTENDERS,
    measure=measure,
    remark=describe_clients,
    limit=60,
)
