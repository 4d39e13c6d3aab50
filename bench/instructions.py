"""instructions: how many instructions an operation takes, which a noisy machine cannot disturb.

    python -m bench.instructions                 # count, and compare with bench/instructions.json
    python -m bench.instructions --allow 2       # by more than 2 percent, instead of 5
    python -m bench.instructions --record        # write what was counted to bench/instructions.json
    python -m bench.instructions --json counts.json

It ends with 1 if a count has grown, and with 2 if there is no valgrind, or no record of this Python's minor version.

Counted are spawn (and finish), switch (a yield to another thread), echo (a round trip of 1 KiB between two virtual threads, both
sides of it) and cancel (of a thread that sleeps, with its spawn and its stack), on one carrier. The programs are in ``_counted``.
Each runs under callgrind twice, a few times and more times: what the second took more, divided by what it did more, is free of
starting and ending. Two counts of one build differ by less than half a percent. Those of two builds of CPython differ by far
more, so a count is kept for each minor version with the build that it came from.

What callgrind counts is the user's part: interpreter, greenlet (the switch), plait, and the rest (the C library, the loader).
Beside it stands the kernel's share of the processor time, of the same programs without callgrind.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench._process import ROOT, has_gil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RECORD = Path(__file__).with_suffix(".json")
OPERATIONS = ("spawn", "switch", "echo", "cancel")
#: How often an operation is done under callgrind: a few times, and more times.
FEW, MORE = 2_000, 6_000
#: And without it, for the kernel's share: so often that starting and ending is little beside it.
TIMED_FEW, TIMED_MORE = 2_000, {"spawn": 1_000_000, "switch": 1_000_000, "echo": 100_000, "cancel": 200_000}
#: Percent by which a count may grow.
ALLOWED = 5.0
#: The parts, and how to tell them by the path of an object file. The first that matches counts.
PARTS = {
    "greenlet": re.compile(r"/_greenlet[.\w-]*$"),
    "interpreter": re.compile(r"/(lib)?python[\d.]*t?(\.so[\d.]*)?$|/lib-dynload/"),
    "plait": re.compile(r"/plait/.*\.so$"),
}
REST = "the rest"


@dataclass(frozen=True)
class Count:
    """What an operation takes."""

    instructions: float
    #: By part.
    parts: Mapping[str, float]
    #: Of the processor time.
    kernel_percent: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return 1 if a count has grown, 2 if there is nothing to compare with."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description="Count instructions.")
    parser.add_argument(
        "--allow", type=float, default=ALLOWED, metavar="PERCENT", help=f"growth allowed (default: {ALLOWED:g})"
    )
    parser.add_argument("--record", action="store_true", help=f"write the counts to bench/{RECORD.name}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to FILE, as JSON")
    options = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        sys.stderr.write("instructions are counted by callgrind, which is part of valgrind: there is none here\n")
        return 2
    counts = {operation: count(operation) for operation in OPERATIONS}
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    before = recorded.get(version(), {"build": build(), "counts": {}})
    sys.stdout.write(table(counts, before["counts"]) + "\n")
    if options.json is not None:
        whole = {"build": build(), "counts": {name: vars(each) for name, each in counts.items()}}
        options.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    if options.record:
        recorded[version()] = {
            "build": build(),
            "counts": {name: round(each.instructions) for name, each in counts.items()},
        }
        RECORD.write_text(json.dumps(dict(sorted(recorded.items())), indent=2) + "\n", encoding="utf-8")
        return 0
    if before["build"] != build():
        sys.stdout.write(f"\nrecorded on another build: {before['build']}\nthis one is: {build()}\n")
    grown = [
        f"{name} has grown by {growth:.1f} %: {before['counts'][name]:,} -> {counts[name].instructions:,.0f}"
        for name, growth in growths(counts, before["counts"]).items()
        if growth > options.allow
    ]
    if grown:
        sys.stdout.write("\n" + "\n".join(grown) + f"\nallowed are {options.allow:g} %\n")
        return 1
    unknown = [name for name in counts if not before["counts"].get(name)]
    if unknown:
        sys.stderr.write(f"nothing is recorded of {', '.join(unknown)} on {version()}: count with --record first\n")
        return 2
    return 0


def version() -> str:
    """Return the interpreter's minor version, with a t for a free-threaded build."""
    return f"{sys.version_info.major}.{sys.version_info.minor}{'' if has_gil() else 't'}"


def build() -> str:
    """Say what the counts depend on, besides plait."""
    greenlet = importlib.metadata.version("greenlet")
    return (
        f"CPython {platform.python_version()} ({platform.python_compiler()}), greenlet {greenlet}, {platform.machine()}"
    )


def count(operation: str) -> Count:
    """Count the instructions of an operation."""
    few, more = (_instructions(operation, times) for times in (FEW, MORE))
    parts = {part: (more[part] - few[part]) / (MORE - FEW) for part in (*PARTS, REST)}
    return Count(sum(parts.values()), parts, _kernel_percent(operation))


def growths(counts: Mapping[str, Count], recorded: Mapping[str, float]) -> dict[str, float]:
    """Return by how many percent each count is larger than the recorded one."""
    return {name: (each.instructions / recorded[name] - 1) * 100 for name, each in counts.items() if recorded.get(name)}


def table(counts: Mapping[str, Count], recorded: Mapping[str, float]) -> str:
    """Return a row per operation."""
    growth = growths(counts, recorded)
    rows = [["", "instructions", "recorded", "growth", *(f"of {part}" for part in (*PARTS, REST)), "kernel's time"]]
    for name, each in counts.items():
        row = [name, f"{each.instructions:,.0f}"]
        row += [f"{recorded[name]:,}", f"{growth[name]:+.1f} %"] if name in growth else ["none", ""]
        row += [f"{part:,.0f} ({part / each.instructions * 100:.0f} %)" for part in each.parts.values()]
        rows.append([*row, f"{each.kernel_percent:.0f} %"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _command(operation: str, times: int) -> list[str]:
    return [sys.executable, "-m", "bench._counted", operation, str(times)]


def _environment() -> dict[str, str]:
    """Return what makes two runs alike."""
    return {**os.environ, "PLAIT_CARRIERS": "1", "PYTHONHASHSEED": "0"}


def _instructions(operation: str, times: int) -> Counter[str]:
    """Run a program under callgrind, and return the instructions by part."""
    with tempfile.TemporaryDirectory(prefix="plait-bench-") as directory:
        found = Path(directory) / "callgrind.out"
        fixed = ["setarch", "-R"] if shutil.which("setarch") else []  # addresses are the same in every run
        subprocess.run(
            [*fixed, "valgrind", "--tool=callgrind", f"--callgrind-out-file={found}", *_command(operation, times)],
            cwd=ROOT,
            env=_environment(),
            check=True,
            stderr=subprocess.DEVNULL,
        )
        instructions: Counter[str] = Counter()
        for path, cost in _costs(found.read_text(encoding="utf-8", errors="replace").splitlines()):
            instructions[next((part for part, form in PARTS.items() if form.search(path)), REST)] += cost
        return instructions


def _costs(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Go through callgrind's file: yield the path of an object file and what was spent in it, again and again.

    A name is written out where it comes first, and is a number in parentheses from there on. A line of costs that follows
    ``calls=`` is what was spent in another function, and is counted there.
    """
    names: dict[str, str] = {}
    place = ""
    is_of_callee = False
    for line in lines:
        if named := re.match(r"(c?ob)=(\(\d+\))(?: (.+))?", line):
            names[named[2]] = named[3] or names[named[2]]
            if named[1] == "ob":
                place = names[named[2]]
        elif line.startswith("calls="):
            is_of_callee = True
        elif re.match(r"[+\-*\d]", line):
            if not is_of_callee:
                yield place, int(line.split()[1])
            is_of_callee = False


def _kernel_percent(operation: str) -> float:
    """Return the kernel's share of the processor time of an operation."""
    (few_user, few_kernel), (user, kernel) = (_times(operation, each) for each in (TIMED_FEW, TIMED_MORE[operation]))
    more_user, more_kernel = (
        user - few_user,
        max(0.0, kernel - few_kernel),
    )  # less in the kernel is chance, and means none
    return more_kernel / (more_user + more_kernel) * 100


def _times(operation: str, times: int) -> tuple[float, float]:
    """Return the seconds that a program spent for itself and in the kernel."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(_command(operation, times), cwd=ROOT, env=_environment(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
