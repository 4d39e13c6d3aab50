"""files: what it costs to read regular files, when they are in the page cache and when they are not.

A thousand files of a mebibyte, each opened, read with one ``os.read`` and closed, by 64 workers at a time. Warm, all are in
the page cache, and the answer is a copy in memory: concurrency can only cost. Cold, each file is dropped from the page
cache first (posix_fadvise(2)), outside the clock, and the disk has to be waited for. The files are made in the directory
that ``TMPDIR`` names: on a file system in memory cold means nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench._model import Benchmark, Case, Contender, Metric, Params, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WORKERS = 64


def make_files(directory: str, params: Params) -> list[str]:
    """Write the files, and have them on the disk."""
    paths = [str(Path(directory, str(number))) for number in range(params["files"])]
    data = os.urandom(params["size"])
    for path in paths:
        with open(path, "wb") as file:
            file.write(data)
    os.sync()
    return paths


def drop(paths: Sequence[str]) -> None:
    """Take the files out of the page cache."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_file(path: str) -> int:
    """Read one file; how long it was."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return len(os.read(fd, 1 << 20))
    finally:
        os.close(fd)


def measure(read_all: Callable[[Sequence[str]], int], params: Params, report: Report) -> None:
    """Call ``read_all(paths)`` and report the time for each file."""
    with tempfile.TemporaryDirectory() as directory:
        paths = make_files(directory, params)
        read_all(paths)  # fills the page cache, and starts what has to be started
        if params["cold"]:
            drop(paths)
        start = perf_counter_ns()
        total = read_all(paths)
        elapsed = perf_counter_ns() - start
        assert total == params["files"] * params["size"]
        report({"time": elapsed / len(paths) / 1000})


def run_plait(params: Params, report: Report) -> None:
    """Read on virtual threads."""
    from plait import ThreadGroup

    def read_all(paths: Sequence[str]) -> int:
        with ThreadGroup(max_concurrency=_WORKERS) as group:
            futures = [group.spawn(read_file, path) for path in paths]
        return sum(future.result() for future in futures)

    measure(read_all, params, report)


def run_plait_loop(params: Params, report: Report) -> None:
    """Read on one virtual thread, in a loop."""
    from plait import ThreadGroup

    with ThreadGroup() as group:
        group.spawn(measure, lambda paths: sum(map(read_file, paths)), params, report).result()


def run_loop(params: Params, report: Report) -> None:
    """Read one after the other."""
    measure(lambda paths: sum(map(read_file, paths)), params, report)


def run_pool(params: Params, report: Report) -> None:
    """Read on a pool of OS threads."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        measure(lambda paths: sum(pool.map(read_file, paths)), params, report)


def run_aiofiles(params: Params, report: Report) -> None:
    """Read with aiofiles, on asyncio's loop and its pool."""
    import aiofiles

    async def read_one(limit: asyncio.Semaphore, path: str) -> int:
        async with limit, aiofiles.open(path, "rb", buffering=0) as file:
            return len(await file.read(1 << 20))

    async def read_async(paths: Sequence[str]) -> int:
        limit = asyncio.Semaphore(_WORKERS)
        return sum(await asyncio.gather(*(read_one(limit, path) for path in paths)))

    with asyncio.Runner() as runner:
        measure(lambda paths: runner.run(read_async(paths)), params, report)


_SIZES = {"files": 1_000, "size": 1 << 20}
_QUICK = {"files": 20}

BENCHMARK = Benchmark(
    name="files",
    cases=(
        Case(
            name="warm",
            title="read {files:,} files of {size:,} bytes that are in the page cache",
            params={**_SIZES, "cold": 0},
            quick=_QUICK,
        ),
        Case(
            name="cold",
            title="read {files:,} files of {size:,} bytes that are not in the page cache",
            params={**_SIZES, "cold": 1},
            quick=_QUICK,
        ),
    ),
    metrics=(Metric("time", "us per file", decimals=1),),
    contenders=(
        Contender("plait", "plait", run_plait, "os.read on virtual threads, 64 at a time"),
        Contender("plait-loop", "plait", run_plait_loop, "os.read in a loop on one virtual thread"),
        Contender("loop", None, run_loop, "os.read in a loop"),
        Contender("threads", None, run_pool, "os.read on a pool of 64 OS threads"),
        Contender("aiofiles", "aiofiles", run_aiofiles, "aiofiles.open and read, 64 at a time"),
    ),
)
