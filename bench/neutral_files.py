"""neutral_files: what the leaves of files cost on a platform thread, where they do nothing.

The same calls in one process, with the originals and with plait's trampolines in the method tables, in turns, and the
difference of the fastest turns. Nobody competes: what is compared is plait with its absence.
"""

from __future__ import annotations

import io
import os
import tempfile
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Callable


def timed(call: Callable[[], Any], calls: int) -> float:
    """Nanoseconds for one call, the loop included."""
    start = perf_counter_ns()
    for _ in range(calls):
        call()
    return (perf_counter_ns() - start) / calls


def measure(call: Callable[[], Any], params: Params, report: Report) -> None:
    """Report the calls with and without plait, and the difference."""
    from plait import patch

    found: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * params["turns"]):
        is_patched = bool(turn % 2)
        (patch.install if is_patched else patch.uninstall)()
        found[is_patched].append(timed(call, params["calls"]))
    patch.uninstall()
    before, after = min(found[False]), min(found[True])
    report({"original": before, "patched": after, "more": max(after - before, 0.0)})


def run_raw(params: Params, report: Report) -> None:
    """A small read at an offset that stays: os.pread."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(100))
        file.flush()
        fd = file.fileno()
        measure(lambda: os.pread(fd, 10, 0), params, report)


def run_buffered_read(params: Params, report: Report) -> None:
    """A small read out of a buffer."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1 << 16))
        file.seek(0)
        reader = io.BufferedReader(io.FileIO(file.fileno(), closefd=False), 1 << 17)
        reader.peek()
        measure(lambda: reader.read(0), params, report)


def run_buffered_write(params: Params, report: Report) -> None:
    """A small write into a buffer that is flushed to nowhere."""
    with open(os.devnull, "wb", buffering=1 << 16) as file:
        measure(lambda: file.write(b"x"), params, report)


def run_iteration(params: Params, report: Report) -> None:
    """A line of a file."""
    with tempfile.TemporaryFile() as file:
        file.write(b"line\n" * (4 * params["turns"] * params["calls"]))
        file.seek(0)
        measure(file.__next__, params, report)


BENCHMARK = Benchmark(
    name="neutral_files",
    cases=(
        Case(
            name="calls",
            title="calls on a platform thread, {calls:,} a turn",
            params={"calls": 5_000, "turns": 150},
            quick={"calls": 1_000, "turns": 3},
        ),
    ),
    metrics=(
        Metric("more", "ns more per call", decimals=1),
        Metric("original", "ns, original", is_compared=False, decimals=1),
        Metric("patched", "ns, patched", is_compared=False, decimals=1),
    ),
    contenders=(
        Contender("plait-pread", "plait", run_raw, "os.pread of 10 bytes"),
        Contender("plait-read", "plait", run_buffered_read, "BufferedReader.read of nothing"),
        Contender("plait-write", "plait", run_buffered_write, "BufferedWriter.write of one byte"),
        Contender("plait-line", "plait", run_iteration, "a line of five bytes, by iteration"),
    ),
)
