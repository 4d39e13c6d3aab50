"""depths: what a call costs at each depth of calls, of which the worst counts.

CPython keeps the frames of a thread in chunks of memory. A call whose frame does not fit in what is left of a chunk gets a new one,
and gives it back when it returns: a loop just before the end of a chunk may pay for that with each call. The smaller the chunks,
the more memory is saved by parked threads, and the more often a program meets an end.

A function is called in a loop at each depth from 1 to 200. ``worst`` is what a call costs at the worst depth, ``call`` at the
median one. At each depth the fastest of several loops counts, for a machine that is busy elsewhere knows no depth.
"""

from __future__ import annotations

import statistics
import threading
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Callable


def leaf(first: int, second: int) -> int:
    """Compute a little, in a frame that is larger than that of ``at_depth``, so that no end of a chunk falls between two."""
    third = fourth = fifth = sixth = seventh = eighth = ninth = tenth = first
    return third + fourth + fifth + sixth + seventh + eighth + ninth + tenth + second


def time_calls(calls: int) -> int:
    """Call in a loop, and return the nanoseconds that it took."""
    start = perf_counter_ns()
    for _ in range(calls):
        leaf(1, 2)
    return perf_counter_ns() - start


def at_depth(depth: int, run: Callable[[int], int], calls: int) -> int:
    """Call down to a depth, and run there."""
    return at_depth(depth - 1, run, calls) if depth > 1 else run(calls)


def measure(params: Params, report: Report) -> None:
    """Go through the depths, several times."""
    fastest = {depth: float("inf") for depth in range(1, params["depths"] + 1)}
    for _ in range(params["blocks"]):
        for depth, before in fastest.items():
            fastest[depth] = min(before, at_depth(depth, time_calls, params["calls"]) / params["calls"])
    report({"worst": max(fastest.values()), "call": statistics.median(fastest.values())})


def run_plait(params: Params, report: Report) -> None:
    """Call on a virtual thread."""
    from plait import ThreadGroup

    with ThreadGroup() as group:
        group.spawn(measure, params, report).result()


def run_gevent(params: Params, report: Report) -> None:
    """Call in a greenlet."""
    import gevent

    gevent.spawn(measure, params, report).get()


def run_threads(params: Params, report: Report) -> None:
    """Call on an OS thread."""
    thread = threading.Thread(target=measure, args=(params, report))
    thread.start()
    thread.join()


BENCHMARK = Benchmark(
    name="depths",
    cases=(
        Case(
            name="1 to 200",
            title="a function is called at depths from 1 to {depths}",
            params={"depths": 200, "calls": 500, "blocks": 20},
            quick={"depths": 20, "calls": 100, "blocks": 3},
        ),
    ),
    metrics=(
        Metric("worst", "ns per call at the worst depth"),
        Metric("call", "at the median depth", is_compared=False),
    ),
    contenders=(
        Contender("plait", "plait", run_plait, "on a virtual thread"),
        Contender("gevent", "gevent", run_gevent, "in a greenlet"),
        Contender("threads", None, run_threads, "on an OS thread"),
    ),
    environment={"PLAIT_CARRIERS": "1"},
)
