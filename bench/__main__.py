"""The command line: ``python -m bench all``, or the name of one benchmark."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench._disturbance import DISTURBED, SLOWED
from bench._facts import machine_facts
from bench._model import BENCHMARKS, load_benchmark
from bench._report import as_json, header, losses, tables
from bench._runner import run_case

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bench._model import Benchmark, Contender

#: Fewer rounds than this are no result.
ENOUGH = 5
QUICK_ROUNDS = 2
#: Who takes part in a quick run, unless told otherwise: those that need no installation.
QUICK_CONTENDERS = "plait,asyncio,threads"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure plait beside asyncio, uvloop, gevent, eventlet, trio and OS threads, in one run.",
    )
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"], help="what to measure")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds per benchmark (default and least: {ENOUGH})")
    parser.add_argument(
        "--retries",
        type=int,
        default=0,
        metavar="N",
        help=f"repeat a turn up to N times while others disturb it: keep more than {DISTURBED} of a core busy, or make a "
        f"processor {SLOWED * 100:.0f} %% slower; the least disturbed turn counts (default: 0)",
    )
    parser.add_argument(
        "--contenders",
        metavar="A,B",
        help="only these rows; 'asyncio' means all rows that begin with it",
    )
    parser.add_argument("--cases", metavar="A,B", help="only these cases, such as '1 KiB x 100'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to FILE, as JSON")
    parser.add_argument(
        "--quick", action="store_true", help=f"a smoke run: small sizes, {QUICK_ROUNDS} rounds, {QUICK_CONTENDERS}"
    )
    options = parser.parse_args(arguments)
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ENOUGH
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: expected at least 1")
    if options.retries < 0:
        parser.error(f"--retries {options.retries}: expected 0 or more")
    chosen = BENCHMARKS if options.benchmark == "all" else (options.benchmark,)
    options.benchmarks = [load_benchmark(name) for name in chosen]
    known = sorted({contender.name for benchmark in options.benchmarks for contender in benchmark.contenders})
    options.contenders = names_in(options.contenders, known)
    for name in options.contenders or ():
        if not any(is_meant(name, other) for other in known):
            parser.error(f"--contenders: no contender {name!r}, expected some of {', '.join(known)}")
    cases = [case.name for benchmark in options.benchmarks for case in benchmark.cases]
    options.cases = names_in(options.cases, cases)
    for name in options.cases or ():
        if name not in cases:
            parser.error(f"--cases: no case {name!r}, expected some of {', '.join(map(repr, cases))}")
    if options.contenders is None and options.quick:
        options.contenders = QUICK_CONTENDERS.split(",")
    return options


def names_in(text: str | None, known: Collection[str]) -> list[str] | None:
    """Return the names in a list with commas between them; what is known under a name with commas is one name."""
    if text is None:
        return None
    found = []
    parts = text.split(",")
    while parts:
        count = len(parts)
        while count > 1 and ",".join(parts[:count]).strip() not in known:
            count -= 1
        found.append(",".join(parts[:count]).strip())
        del parts[:count]
    return [name for name in found if name]


def is_meant(name: str, contender: str) -> bool:
    """Return whether a name given by the user stands for that contender."""
    return contender == name or contender.startswith(f"{name}-")


def select(benchmark: Benchmark, names: Sequence[str] | None) -> list[Contender]:
    """Return the contenders that take part, in the benchmark's order."""
    if names is None:
        return list(benchmark.contenders)
    return [each for each in benchmark.contenders if any(is_meant(name, each.name) for name in names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if a contender failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    facts = machine_facts()
    say(header(facts))
    if options.quick:
        say("\nA quick run, to see that everything works: its figures mean nothing.")
    elif options.rounds < ENOUGH:
        say(f"\nOnly {options.rounds} rounds instead of {ENOUGH}: do not quote these figures.")
    outcomes = []
    for benchmark in options.benchmarks:
        contenders = select(benchmark, options.contenders)
        for case in benchmark.cases:
            if options.cases is not None and case.name not in options.cases:
                continue
            outcome = run_case(
                benchmark, case, contenders, rounds=options.rounds, retries=options.retries, quick=options.quick
            )
            outcomes.append(outcome)
            say(f"\n{tables(outcome)}")
    say(f"\n{losses(outcomes)}")
    if options.json is not None:
        command = shlex.join(["python", "-m", "bench", *arguments])
        text = json.dumps(as_json(facts, command, outcomes, quick=options.quick), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
        say(f"\nwritten: {options.json}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def say(text: str) -> None:
    """Print to stdout at once, so that it stays in order with what the runner tells on stderr."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
