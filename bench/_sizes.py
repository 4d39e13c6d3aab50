"""Run the same work at growing sizes, in one process: what it costs per thread, and how that grows.

A cost that grows with the number of threads shows in the ratio of the largest size to the smallest, and that ratio is
worth more than two figures from two processes. The smaller sizes are repeated, so that each has a fair span of time.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from bench._model import Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: The sizes that a case may give among its params, from the smallest up.
SIZES = ("few", "more", "many", "most")
#: Runs of the smallest size before the clock counts.
WARM_UP = 2


def size_metrics(*sizes: str) -> tuple[Metric, ...]:
    """Return a figure for each of these sizes, and how much the last costs over the first."""
    costs = tuple(Metric(size, "ns per thread") for size in sizes)
    return (*costs, Metric("growth", f"times the cost at {sizes[-1]} over {sizes[0]}", is_compared=False, decimals=2))


def measure(run: Callable[[int], int], params: Params, report: Report) -> None:
    """Call ``run(size)``, which returns the nanoseconds that count, for every size, and report the costs."""
    costs = {}
    for _ in range(WARM_UP):
        run(params[SIZES[0]])
    for name, size in _sizes(params):
        gc.collect()
        times = _times(params, size)
        costs[name] = sum(run(size) for _ in range(times)) / (times * size)
    report(_with_growth(costs))


async def measure_async(run: Callable[[int], Awaitable[int]], params: Params, report: Report) -> None:
    """Do as ``measure`` does, for work that is awaited."""
    costs = {}
    for _ in range(WARM_UP):
        await run(params[SIZES[0]])
    for name, size in _sizes(params):
        gc.collect()
        times = _times(params, size)
        costs[name] = sum([await run(size) for _ in range(times)]) / (times * size)
    report(_with_growth(costs))


def _sizes(params: Params) -> list[tuple[str, int]]:
    return [(name, params[name]) for name in SIZES if name in params]


def _times(params: Params, size: int) -> int:
    """Return how often a size is run: until ``total`` threads are done, once at least."""
    return max(1, params["total"] // size)


def _with_growth(costs: dict[str, float]) -> dict[str, float]:
    figures = list(costs.values())
    return {**costs, "growth": figures[-1] / figures[0]}
