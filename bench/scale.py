"""scale: how much sooner tasks that compute are done on two carriers, on a free-threaded build.

Tasks of 150 us each, in groups of 200. ``speed-up`` is how much sooner they are done by threads than by one thread that does
them one after the other, both measured in the same process, in turns, again and again: the median of the ratios. The peers
are bare OS threads, as many as there are carriers, each with its share of the tasks from the start, so that nobody has to
hand anything out.

Builds with a GIL have one carrier, and are skipped.
"""

from __future__ import annotations

import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._model import Benchmark, Case, Contender, Metric, Params, Report
from bench._process import has_gil
from bench._programs import MissingError

if TYPE_CHECKING:
    from collections.abc import Callable


def need_carriers() -> None:
    """Raise MissingError if this build has one carrier only."""
    if has_gil():
        raise MissingError("needs a free-threaded build")


def compute(turns: int) -> int:
    """Compute for a while."""
    value = 1
    for turn in range(turns):
        value = (value * 31 + turn) & 0xFFFF
    return value


def calibrate(nanoseconds: int) -> int:
    """Return the turns for which ``compute`` takes so long, when nobody else runs."""
    turns, spans = 1_000, []
    for _ in range(50):
        start = perf_counter_ns()
        compute(turns)
        spans.append(perf_counter_ns() - start)
    return max(1, turns * nanoseconds // min(spans))


def measure(run_tasks: Callable[[int, int], None], params: Params, report: Report) -> None:
    """Do the tasks one after the other, and by ``run_tasks(tasks, turns)``, in turns."""
    tasks, turns = params["tasks"], calibrate(params["task_us"] * 1_000)

    def one_by_one(number: int, turns: int) -> None:
        for _ in range(number):
            compute(turns)

    def time_of(run: Callable[[int, int], None]) -> int:
        start = perf_counter_ns()
        run(tasks, turns)
        return perf_counter_ns() - start

    time_of(run_tasks)
    spans = [(time_of(one_by_one), time_of(run_tasks)) for _ in range(params["blocks"])]
    report(
        {
            "speed-up": statistics.median(alone / together for alone, together in spans),
            "task": statistics.median(alone for alone, _ in spans) / tasks / 1_000,
        }
    )


def run_plait(params: Params, report: Report) -> None:
    """Do each task on a virtual thread of its own."""
    import plait

    def run_tasks(number: int, turns: int) -> None:
        with plait.ThreadGroup() as group:
            for _ in range(number):
                group.spawn(compute, turns)

    plait.configure(carriers=params["carriers"])
    with plait.ThreadGroup() as group:
        group.spawn(measure, run_tasks, params, report).result()


def run_threads(params: Params, report: Report) -> None:
    """Do the tasks on OS threads, each with its share of them."""
    carriers = params["carriers"]

    def share(number: int, turns: int) -> None:
        for _ in range(number):
            compute(turns)

    def run_tasks(number: int, turns: int) -> None:
        workers = [threading.Thread(target=share, args=(number // carriers, turns)) for _ in range(carriers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    measure(run_tasks, params, report)


def run_pool(params: Params, report: Report) -> None:
    """Do each task as a job of a pool of OS threads."""

    def run_tasks(number: int, turns: int) -> None:
        for future in [pool.submit(compute, turns) for _ in range(number)]:
            future.result()

    with ThreadPoolExecutor(params["carriers"]) as pool:
        measure(run_tasks, params, report)


BENCHMARK = Benchmark(
    name="scale",
    cases=(
        Case(
            name="150 us",
            title="{tasks} tasks that compute for {task_us} us each, by {carriers} at a time",
            params={"tasks": 200, "task_us": 150, "carriers": 2, "blocks": 25},
            quick={"tasks": 20, "blocks": 3},
        ),
    ),
    metrics=(
        Metric("speed-up", "times sooner than by one", is_lower_better=False, decimals=2),
        Metric("task", "us per task by one", is_compared=False, decimals=1),
    ),
    contenders=(
        Contender("plait", "plait", run_plait, "a virtual thread per task", prepare=need_carriers),
        Contender("threads", None, run_threads, "bare OS threads, each with its share", prepare=need_carriers),
        Contender("pool", None, run_pool, "ThreadPoolExecutor.submit", prepare=need_carriers),
    ),
)
