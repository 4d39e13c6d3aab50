"""shares: where the time goes that a server takes for a request, when it does nothing but send back what it got.

The server and the clients are those of ``echo``, with 100 connections and 1 KiB. While they are at work ``perf record`` looks
again and again, by the clock, where the server is; by the object files of its samples the processor time of a request is
shared out: to the kernel, to the interpreter, to greenlet (the switch), to the C library, and to the server's own code,
which is plait, uvloop, gevent or the loop in C. The samples are of the connecting and the warm-up, too; the time is not, and is
longer than ``echo`` measures it without ``perf``.
"""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import echo
from bench._load import describe_clients, drive
from bench._model import Benchmark, Case, Contender, Metric, Params, Sample
from bench._process import Child, ContenderError
from bench._programs import MissingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The parts of the time, and how to tell them by the path of an object file. The first that matches counts.
PARTS = {
    "kernel": re.compile(r"^\[(kernel|guest)[\w.]*\]$|\.ko(\.\w+)?$|^bpf_"),
    "interpreter": re.compile(r"/(lib)?python[\d.]*t?d?(\.so[\d.]*)?$|/lib-dynload/"),
    "greenlet": re.compile(r"/_greenlet[.\w-]*$"),
    "C library": re.compile(r"/(libc|libm|libpthread|ld-linux)[.\w-]*$|^\[vdso\]"),
}
REST = "its own code"
#: Looks in a second. No whole number of milliseconds lies between two, so that they keep no step with a timer.
FREQUENCY = 1_999
RECORD = ("perf", "record", "--quiet", "--event", "cpu-clock:uk", "--freq", str(FREQUENCY), "--output")


@functools.cache
def find_perf() -> None:
    """Find out whether ``perf`` works here. Raises MissingError if it does not."""
    if shutil.which("perf") is None:
        raise MissingError("no perf")
    with tempfile.TemporaryDirectory(prefix="plait-bench-") as directory:
        command = [*RECORD, str(Path(directory) / "perf.data"), "true"]
        tried = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if tried.returncode != 0:
        said = tried.stderr.strip().splitlines() or [f"status {tried.returncode}"]
        raise MissingError(f"perf does not work here ({said[0].strip()})")


def measure(child: Child, params: Params) -> Sample:
    """Let the clients loose on a server, and look where it is meanwhile."""
    with tempfile.TemporaryDirectory(prefix="plait-bench-") as directory:
        found = Path(directory) / "perf.data"
        cpu = drive(child, params, "echo", _recording(child.pid, found))["cpu"]
        script = ["perf", "script", "--input", str(found), "--fields", "ip,dso"]
        said = subprocess.run(script, check=True, capture_output=True, text=True, errors="replace")
    samples = shared_out(said.stdout.splitlines())
    if not samples["kernel"]:  # for others than the superuser it leaves that out, and does not say so
        raise ContenderError("perf may not look into the kernel")
    return {"cpu": cpu, **{part: cpu * samples[part] / samples.total() for part in (*PARTS, REST)}}


def shared_out(lines: Iterable[str]) -> Counter[str]:
    """Count samples by part. A line is an address, and the path of an object file in parentheses."""
    samples: Counter[str] = Counter()
    for line in lines:
        if (place := re.search(r"\((.+)\)$", line.rstrip())) is not None:
            samples[next((part for part, form in PARTS.items() if form.search(place[1])), REST)] += 1
    return samples


@contextmanager
def _recording(pid: int, found: Path) -> Iterator[None]:
    """Have ``perf`` look at a process, and write what it has seen when the block is left."""
    perf = subprocess.Popen([*RECORD, str(found), "--pid", str(pid)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    if not found.exists():
        raise ContenderError(f"perf has ended with {perf.returncode}")


def _with_perf(contender: Contender) -> Contender:
    """Return a contender that needs ``perf`` besides."""

    def prepare() -> None:
        find_perf()
        if contender.prepare is not None:
            contender.prepare()

    return replace(contender, prepare=prepare)


_SERVERS = ("plait", "asyncio-protocol", "uvloop-protocol", "uvloop-streams", "gevent", "c-epoll")

BENCHMARK = Benchmark(
    name="shares",
    cases=(
        Case(
            name="1 KiB x 100",
            title="{connections:,} connections, each with one message of {size:,} bytes in flight",
            params={"connections": 100, "size": 1_024, "warm_up_ms": 500, "duration_ms": 3_000},
            quick={"connections": 20, "warm_up_ms": 100, "duration_ms": 300},
        ),
    ),
    metrics=(
        Metric("cpu", "us of the server per request", decimals=2),
        *(Metric(part, "us", is_compared=False, decimals=2) for part in (*PARTS, REST)),
    ),
    contenders=tuple(_with_perf(each) for each in echo.CONTENDERS if each.name in _SERVERS),
    measure=measure,
    remark=describe_clients,
    limit=60,
)
