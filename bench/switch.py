"""switch: what it costs to let another thread run, and to be let run again.

Two threads yield to each other. The trap: a yield with nobody else to run returns at once and costs next to nothing,
so the clock must not run before both have started, and a runtime that lets one of them yield to itself measures
nothing. So the two meet first, and then take turns for a while on the record: if they did not alternate, the
contender has failed.

plait runs this on one carrier: two threads on two carriers have nobody to yield to.

The yardstick is greenlet, which plait switches with: the same two Python functions, where the pause is a C function that
calls PyGreenlet_Switch and nothing else; and, in the row named ``-bare``, two loops in C without any Python frame, of
which there is nothing to save at a switch.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench import _switch
from bench._loops import on_asyncio, on_uvloop
from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Turns of each player on the record before the clock starts, and the share of them that must change the player.
RECORDED = 100
ALTERNATING = 0.9
#: trio shuffles those who are ready: both get their turn before either gets another, but now and then one ends a pair of
#: turns and begins the next. Each of its yields goes through the scheduler all the same.
SHUFFLED = 0.5


class Pair:
    """Two players, numbered 0 and 1, who yield to each other: each calls ``play``, then one of us calls ``time``."""

    def __init__(self, yields: int) -> None:
        self.yields = yields
        self.present: set[int] = set()
        self.turns: list[int] = []
        self.start = 0
        self.end = 0

    def play(self, player: int, pause: Callable[[float], object]) -> None:
        """Meet the other, take turns on the record, then yield against the clock with ``pause(0)``."""
        self.present.add(player)
        while len(self.present) < 2:
            pause(0)
        for _ in range(RECORDED):
            self.turns.append(player)
            pause(0)
        self.start = self.start or perf_counter_ns()
        for _ in range(self.yields):
            pause(0)
        self.end = perf_counter_ns()

    async def play_async(self, player: int, pause: Callable[[float], Awaitable[object]]) -> None:
        """Do as ``play`` does, where a pause is awaited."""
        self.present.add(player)
        while len(self.present) < 2:
            await pause(0)
        for _ in range(RECORDED):
            self.turns.append(player)
            await pause(0)
        self.start = self.start or perf_counter_ns()
        for _ in range(self.yields):
            await pause(0)
        self.end = perf_counter_ns()

    def time(self, share: float = ALTERNATING) -> float:
        """Return the nanoseconds per yield. Raises RuntimeError if too few turns changed the player."""
        changes = sum(left != right for left, right in zip(self.turns, self.turns[1:], strict=False))
        if changes < share * (2 * RECORDED - 1):
            raise RuntimeError(
                f"the two threads changed turns {changes} times in {2 * RECORDED} yields:"
                " this is no measure of a switch (are they on two carriers? set PLAIT_CARRIERS=1)"
            )
        return (self.end - self.start) / (2 * self.yields)


def run_plait(params: Params, report: Report) -> None:
    """Yield with time.sleep(0), which on a virtual thread lets the next one run."""
    from plait import ThreadGroup

    def body() -> None:
        pair = Pair(params["yields"])
        with ThreadGroup() as group:
            group.spawn(pair.play, 0, time.sleep)
            group.spawn(pair.play, 1, time.sleep)
        report({"time": pair.time()})

    with ThreadGroup() as group:
        group.spawn(body).result()


async def measure_asyncio(params: Params, report: Report) -> None:
    """Yield with asyncio.sleep(0) on whichever loop is running."""
    pair = Pair(params["yields"])
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.play_async(0, asyncio.sleep))
        group.create_task(pair.play_async(1, asyncio.sleep))
    report({"time": pair.time()})


def run_gevent(params: Params, report: Report) -> None:
    """Yield with gevent.sleep(0), which goes by way of the hub."""
    import gevent

    pair = Pair(params["yields"])
    gevent.joinall([gevent.spawn(pair.play, player, gevent.sleep) for player in (0, 1)], raise_error=True)
    report({"time": pair.time()})


def run_eventlet(params: Params, report: Report) -> None:
    """Yield with eventlet.sleep(0), which goes by way of the hub."""
    import eventlet

    pair = Pair(params["yields"])
    for thread in [eventlet.spawn(pair.play, player, eventlet.sleep) for player in (0, 1)]:
        thread.wait()
    report({"time": pair.time()})


def run_greenlet(params: Params, report: Report) -> None:
    """Yield with PyGreenlet_Switch."""
    from greenlet import greenlet

    native, pair = _switch.load(), Pair(params["yields"])
    players = [greenlet(functools.partial(pair.play, player, native.pause)) for player in (0, 1)]
    native.pair(*players)
    for player in players:  # the first starts the second; whoever ends returns to here, and lets the other end
        while not player.dead:
            player.switch()
    report({"time": pair.time()})


def run_greenlet_bare(params: Params, report: Report) -> None:
    """Let two loops in C switch to each other."""
    native = _switch.load()
    native.race(2 * RECORDED)
    report({"time": native.race(2 * params["yields"]) / (2 * params["yields"])})


def run_trio(params: Params, report: Report) -> None:
    """Yield with trio.sleep(0), which is a checkpoint."""
    import trio

    async def body() -> None:
        pair = Pair(params["yields"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.play_async, 0, trio.sleep)
            nursery.start_soon(pair.play_async, 1, trio.sleep)
        report({"time": pair.time(SHUFFLED)})

    trio.run(body)


def run_threads(params: Params, report: Report) -> None:
    """Hand over between two OS threads by a pair of locks, since an OS thread's yield need not switch at all."""
    yields = params["os_yields"]
    mine, theirs = threading.Lock(), threading.Lock()
    theirs.acquire()

    def hand_over(own: threading.Lock, other: threading.Lock, times: int) -> None:
        for _ in range(times):
            own.acquire()
            other.release()

    elapsed = 0
    for times in (RECORDED, yields):
        partner = threading.Thread(target=hand_over, args=(theirs, mine, times))
        partner.start()
        start = perf_counter_ns()
        hand_over(mine, theirs, times)
        partner.join()
        elapsed = perf_counter_ns() - start
    report({"time": elapsed / (2 * yields)})


BENCHMARK = Benchmark(
    name="switch",
    cases=(
        Case(
            name="two threads",
            title="two started threads yield to each other",
            params={"yields": 50_000, "os_yields": 10_000},
            quick={"yields": 1_000, "os_yields": 500},
        ),
    ),
    metrics=(Metric("time", "ns per yield"),),
    contenders=(
        Contender("plait", "plait", run_plait, "time.sleep(0) on a virtual thread"),
        Contender("asyncio", None, on_asyncio(measure_asyncio), "asyncio.sleep(0)"),
        Contender("uvloop", "uvloop", on_uvloop(measure_asyncio), "asyncio.sleep(0)"),
        Contender("gevent", "gevent", run_gevent, "gevent.sleep(0)"),
        Contender("eventlet", "eventlet", run_eventlet, "eventlet.sleep(0)"),
        Contender("trio", "trio", run_trio, "trio.sleep(0), a checkpoint"),
        Contender(
            "greenlet",
            "greenlet",
            run_greenlet,
            "PyGreenlet_Switch and nothing else, called from the same functions",
            prepare=_switch.prepare,
        ),
        Contender(
            "greenlet-bare",
            "greenlet",
            run_greenlet_bare,
            "PyGreenlet_Switch in a loop in C, without Python frames",
            prepare=_switch.prepare,
        ),
        Contender("threads", None, run_threads, "two OS threads that hand over by a pair of locks"),
    ),
    environment={"PLAIT_CARRIERS": "1"},
)
