"""neutral: what a call on a platform thread pays because plait has patched it.

A leaf that is called on a platform thread outside of plait's scopes runs the original, behind a test of one word. The
promise is 20 ns a call at most. So little drowns in the difference between two processes; therefore plait's process
calls leaf and original in turns, block by block, and reports the median of the differences beside the time itself. The
original is the same kind of object as the leaf, a bound method of C, over a copy of the method table that nobody patches.

Meanwhile plait is at work: its carrier runs, and a virtual thread waits on it. Where that waits for another lock, each
release on a platform thread has to find out whether its own is the one that is waited for: a case by itself.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time
from itertools import repeat
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Make the method of that name of that object, as the leaf or as the original.
    Bind = Callable[[Any, str], Callable[..., Any]]
    #: So many calls: how many there were in truth, and the nanoseconds they took.
    Block = Callable[[int], int]


def prepare_lock(bind: Bind) -> Block:
    """Take and give back a lock that nobody else wants."""
    lock = threading.Lock()
    acquire, release = bind(lock, "acquire"), bind(lock, "release")

    def run(calls: int) -> int:
        start = perf_counter_ns()
        for _ in repeat(None, calls // 2):
            acquire()
            release()
        return perf_counter_ns() - start

    return run


def prepare_recv(bind: Bind) -> Block:
    """Look at the byte that has come to a socket."""
    near, far = socket.socketpair()
    far.send(b"x")
    receive = bind(near, "recv")

    def run(calls: int, keep: Any = far) -> int:
        start = perf_counter_ns()
        for _ in repeat(None, calls):
            receive(1, socket.MSG_PEEK)
        return perf_counter_ns() - start

    return run


#: What a case calls, by its number among the params.
PREPARE = (prepare_lock, prepare_recv)


def bind_leaf(thing: Any, name: str) -> Callable[..., Any]:
    """Return the method as any program calls it."""
    method: Callable[..., Any] = getattr(thing, name)
    return method


def run_cpython(params: Params, report: Report) -> None:
    """Call in a process without plait."""
    run = PREPARE[params["leaf"]](bind_leaf)
    run(params["calls"])
    times = [run(params["calls"]) / params["calls"] for _ in range(params["blocks"])]
    report({"time": statistics.median(times), "extra": 0.0})


def run_plait(params: Params, report: Report) -> None:
    """Call leaf and original in turns, with plait at work beside."""
    import plait
    from plait._native import original

    def bind_original(thing: Any, name: str) -> Callable[..., Any]:
        target = next(cls.__dict__[name] for cls in type(thing).__mro__ if name in cls.__dict__)
        method: Callable[..., Any] = original(target).__get__(thing)
        return method

    prepare = PREPARE[params["leaf"]]
    is_over = threading.Event()
    waiter = plait.spawn(is_over.wait) if params["wanted"] else plait.spawn(time.sleep, 3_600)
    while waiter.waits_for is None:
        pass
    leaf, plain = prepare(bind_leaf), prepare(bind_original)
    times, extras = [], []
    for block in range(-1, params["blocks"]):
        order = (leaf, plain) if block % 2 else (plain, leaf)
        spans = {run: run(params["calls"]) / params["calls"] for run in order}
        if block >= 0:
            times.append(spans[leaf])
            extras.append(spans[leaf] - spans[plain])
    is_over.set()
    waiter.cancel()
    report({"time": statistics.median(times), "extra": statistics.median(extras)})


BENCHMARK = Benchmark(
    name="neutral",
    cases=(
        Case(
            name="lock",
            title="a platform thread acquires and releases a threading.Lock",
            params={"leaf": PREPARE.index(prepare_lock), "wanted": 0, "calls": 20_000, "blocks": 101},
            quick={"calls": 1_000, "blocks": 5},
        ),
        Case(
            name="lock beside a wait",
            title="the same, while a virtual thread waits for another lock",
            params={"leaf": PREPARE.index(prepare_lock), "wanted": 1, "calls": 4_000, "blocks": 101},
            quick={"calls": 1_000, "blocks": 5},
        ),
        Case(
            name="recv",
            title="a platform thread calls recv of a socket that has a byte",
            params={"leaf": PREPARE.index(prepare_recv), "wanted": 0, "calls": 10_000, "blocks": 101},
            quick={"calls": 1_000, "blocks": 5},
        ),
    ),
    metrics=(
        Metric("time", "ns per call", decimals=1),
        Metric("extra", "ns more than the original", is_compared=False, decimals=1),
    ),
    contenders=(
        Contender("plait", "plait", run_plait, "patched, and at work; extra: original and leaf in turns"),
        Contender("CPython", None, run_cpython, "a process without plait"),
    ),
    environment={"PLAIT_CARRIERS": "1"},
)
