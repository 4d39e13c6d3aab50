"""Write the page of docs/benchmarks from what runs have written with ``--json``.

    python -m bench all --json 3.13.json
    python -m bench.instructions --json instructions.json
    python -m bench.publish docs/benchmarks 3.13.json instructions.json

Each file is a run, or the counts of ``bench.instructions``. They are copied to ``results/``, under their own names. The page,
README.md, has the bars and what was seen of them, the cases where plait loses, a table and a plot for each case of each
run, and the machine, the versions and the command of each run. Without files the page is made anew from those in ``results/``.

What a page of tables cannot say is written by hand, in ``notes/``: ``notes/bars.md`` comes below the bars,
``notes/instructions.md`` below the counts, and ``notes/NAME.md`` below the tables of the benchmark of that name.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench._bars import BARS, Bar, seen
from bench._model import BENCHMARKS, load_benchmark
from bench._plots import draw
from bench._report import as_number, as_times, disturbance, losses, rows_of_ours
from bench._results import ResultsError, Run, read_run
from bench._stats import Spread, advantage, figures
from bench.instructions import PARTS, REST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench._model import Contender, Metric
    from bench._runner import Outcome

RESULTS, PLOTS, NOTES = "results", "plots", "notes"
#: Percent of a core from which on a side of a connection is at its limit.
SATURATED = 90

INTRODUCTION = """# Benchmarks

plait beside its peers, measured by [`bench/`](../../bench). Each contender of each round is a process of its own; contenders come
in alternating order, and a ratio is one between two contenders of the same round. The tables show medians, with the smallest and the
largest; a ratio above 1 means that plait is better. Compare ratios, and only within a run: machines differ, and one machine
differs from hour to hour. With `--retries` a turn that others disturb is repeated, whoever's it is, and the least disturbed one
counts: others are processes, and whoever shares a core with one of our processors, which shows by a loop that is timed there
before and after the turn.

plait is measured as it is installed. Nothing of it is switched off for a benchmark, no path in it is there for one, and nothing is
set but the number of carriers (`PLAIT_CARRIERS`: one, where its peers have one kernel thread); WSGI alone asks for plait by
`patch.install(virtual_threads=True)`, as `python -m plait` does.

This page is written by `python -m bench.publish`, all but the notes, which are in [`notes/`](notes)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description="Write the page of docs/benchmarks.")
    parser.add_argument("directory", type=Path, help="where to write it, such as docs/benchmarks")
    parser.add_argument("files", type=Path, nargs="*", help="what runs have written with --json")
    options = parser.parse_args(arguments)
    results = options.directory / RESULTS
    for place in (results, options.directory / PLOTS, options.directory / NOTES):
        place.mkdir(parents=True, exist_ok=True)
    try:
        for path in options.files:
            _keep(path, results)
        files = sorted(results.glob("*.json"))
        runs = [read_run(path) for path in files if not _is_count(path)]
    except ResultsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for plot in (options.directory / PLOTS).iterdir():
        plot.unlink()
    counts = [json.loads(path.read_text(encoding="utf-8")) for path in files if _is_count(path)]
    parts = list(page(options.directory, runs, counts))
    (options.directory / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


def page(directory: Path, runs: Sequence[Run], counts: Sequence[Any]) -> Iterator[str]:
    """Go through the paragraphs, tables and headings of the page."""
    yield INTRODUCTION
    yield "## The bars"
    yield bars_table(runs)
    yield from _note(directory, "bars")
    if counts:
        yield "## Instructions"
        yield (
            "What callgrind counts of a spawn (and its finish), a yield to another thread, a round trip of 1 KiB between two "
            "virtual threads, both sides of it, and the cancel of a thread that sleeps, with its spawn and its stack; and the "
            "kernel's share of the processor time, which callgrind does not see. "
            "`python -m bench.instructions` compares with [the recorded counts](../../bench/instructions.json)."
        )
        yield counts_table(counts)
        yield from _note(directory, "instructions")
    yield "## Where plait loses"
    for run in runs:
        yield f"{run.python}, [`{run.path.name}`]({RESULTS}/{run.path.name}):"
        yield "\n".join(
            re.sub(r"^  ", "* ", line) if line.startswith("  ") else f"{line}\n"
            for line in losses(run.outcomes).split("\n")
        )
    for name in BENCHMARKS:
        cases = [
            (run, outcome)
            for run in runs
            for outcome in run.outcomes
            if outcome.benchmark.name == name and outcome.rounds
        ]
        if cases:
            yield f"## {name}"
            yield _question(name)
            for run, outcome in cases:
                yield from case_parts(directory, run, outcome)
            yield from _note(directory, name)
    yield "## The runs"
    for run in runs:
        yield f"### {run.path.stem}"
        yield "\n".join(
            [f"* {name}: {value}" for name, value in run.facts.items()]
            + [f"* command: `{run.command}`", f"* [everything that was measured]({RESULTS}/{run.path.name})"]
        )


def bars_table(runs: Sequence[Run]) -> str:
    """Return a row for each bar and each run that has something to compare with it."""
    rows = [["what", "beside", "the bar", "seen (min .. max)", "Python", ""]]
    for bar in BARS:
        what = [f"{bar.benchmark} ({bar.case}), {bar.ours}, {bar.metric}", bar.over or "", _bar_text(bar)]
        found = [
            [*what, _seen_text(bar, spread), run.python, "met" if bar.is_met_by(spread) else "**missed**"]
            for run, spread in seen(bar, runs)
        ]
        rows += found or [[*what, "not measured", "", ""]]
    return _markdown(rows)


def counts_table(counts: Sequence[Any]) -> str:
    """Return a row for each operation on each build."""
    rows = [["build", "", "instructions", *(f"of {part}" for part in (*PARTS, REST)), "kernel's time"]]
    for found in counts:
        for name, each in found["counts"].items():
            total = each["instructions"]
            parts = [f"{part:,.0f} ({part / total * 100:.0f} %)" for part in each["parts"].values()]
            rows.append([found["build"], name, f"{total:,.0f}", *parts, f"{each['kernel_percent']:.0f} %"])
    return _markdown(rows)


def case_parts(directory: Path, run: Run, outcome: Outcome) -> Iterator[str]:
    """Go through what there is to say of a case: the table, the plot, the notes of the contenders."""
    yield f"### {outcome.case.name}, Python {run.python}"
    yield f"{outcome.title[0].upper()}{outcome.title[1:]}. Median of {len(outcome.rounds)} rounds."
    yield case_table(outcome)
    sentences = [_saturation(outcome), outcome.remark, disturbance(outcome)]
    if any(sentences):
        yield " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences if text)
    name = f"{outcome.benchmark.name}-{outcome.case.name}-{run.path.stem}".replace(",", "").replace(" ", "-")
    if draw(outcome, directory / PLOTS, name):
        yield f"![{outcome.benchmark.name}: {outcome.title}]({PLOTS}/{name}.svg)"


def case_table(outcome: Outcome) -> str:
    """Return a row for each contender."""
    compared = [metric for metric in outcome.benchmark.metrics if metric.is_compared]
    explaining = [metric for metric in outcome.benchmark.metrics if not metric.is_compared]
    ours = rows_of_ours(outcome)
    head = [""]
    for metric in compared:
        head += [f"{metric.unit} (min .. max)", *(f"{mine.name} is" for mine in ours)]
    rows = [[*head, *(f"{metric.name}, {metric.unit}" for metric in explaining), ""]]
    for contender in outcome.contenders:
        reason = outcome.skipped.get(contender.name) or outcome.failed.get(contender.name)
        cells = [f"**{contender.name}**" if contender.is_plait else contender.name]
        for metric in compared:
            cells.append(_figure_text(outcome, metric, contender, spread=True))
            cells += ["" if contender.is_plait else _ratio_text(outcome, metric, mine, contender) for mine in ours]
        cells += [_figure_text(outcome, metric, contender) for metric in explaining]
        rows.append([*cells, reason or contender.note])
    return _markdown(rows)


def _figure_text(outcome: Outcome, metric: Metric, contender: Contender, *, spread: bool = False) -> str:
    found = figures(outcome, metric, contender)
    if found is None:
        return ""
    extent = f" ({as_number(found.low, metric)} .. {as_number(found.high, metric)})" if spread else ""
    return as_number(found.median, metric) + extent


def _ratio_text(outcome: Outcome, metric: Metric, mine: Contender, peer: Contender) -> str:
    ratio = advantage(outcome, metric, mine, peer)
    return "" if ratio is None else f"{as_times(ratio.median)}x ({as_times(ratio.low)} .. {as_times(ratio.high)})"


def _bar_text(bar: Bar) -> str:
    if bar.at_least is not None:
        return f"at least {bar.at_least:.4g}x"
    unit = next(metric.unit for metric in load_benchmark(bar.benchmark).metrics if metric.name == bar.metric)
    return f"at most {bar.at_most:,.5g} {unit}"


def _seen_text(bar: Bar, spread: Spread) -> str:
    if bar.at_least is not None:
        return f"{as_times(spread.median)}x ({as_times(spread.low)} .. {as_times(spread.high)})"
    return f"{spread.median:,.5g} ({spread.low:,.5g} .. {spread.high:,.5g})"


def _saturation(outcome: Outcome) -> str:
    """Say which side of the connections was at its limit, where the case has two."""
    sides = [metric for metric in outcome.benchmark.metrics if metric.name.endswith(" busy")]
    if not sides:
        return ""
    found: dict[str, list[str]] = {}
    for contender in outcome.contenders:
        shares = {metric.name: figures(outcome, metric, contender) for metric in sides}
        busy = [name.removesuffix(" busy") for name, share in shares.items() if share and share.median >= SATURATED]
        if any(shares.values()):
            found.setdefault(" and ".join(busy) or "neither side", []).append(contender.name)
    return "saturated: " + "; ".join(f"{side}, with {', '.join(names)}" for side, names in found.items())


def _question(name: str) -> str:
    """Return what the benchmark's module says of it."""
    said = (importlib.import_module(f"bench.{name}").__doc__ or "").strip().partition(": ")[2]
    return said[:1].upper() + said[1:]


def _note(directory: Path, name: str) -> Iterator[str]:
    path = directory / NOTES / f"{name}.md"
    if path.exists():
        yield path.read_text(encoding="utf-8").strip()


def _is_count(path: Path) -> bool:
    return "counts" in json.loads(path.read_text(encoding="utf-8"))


def _keep(path: Path, results: Path) -> None:
    """Copy a file to the results, if it is one of those that can be read."""
    if not _is_count(path):
        read_run(path)
    if path.resolve().parent != results.resolve():
        shutil.copyfile(path, results / path.name)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table, the first as its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
