"""What bench/ says of itself holds together: a bar that names nothing, or a run read back wrongly, would go unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bench_is_importable(monkeypatch):
    """bench/ is a package of the repository, and not installed."""
    monkeypatch.syspath_prepend(ROOT)


def test_every_benchmark_is_whole():
    """Each benchmark has the name of its module, and names of cases, metrics and contenders that are told apart."""
    from bench._model import BENCHMARKS, load_benchmark

    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        assert benchmark.name == name
        for things in (benchmark.cases, benchmark.metrics, benchmark.contenders):
            assert things
            assert len({thing.name for thing in things}) == len(things)
        for case in benchmark.cases:
            assert case.title.format(**case.sized(quick=True)) and case.title.format(**case.sized(quick=False))


def test_every_bar_names_what_is_measured():
    """The benchmark, case, metric and rows of each bar exist."""
    from bench._bars import BARS
    from bench._model import load_benchmark

    for bar in BARS:
        benchmark = load_benchmark(bar.benchmark)
        assert bar.case in {case.name for case in benchmark.cases}, bar
        assert bar.metric in {metric.name for metric in benchmark.metrics}, bar
        assert {bar.ours, bar.over or bar.ours} <= {contender.name for contender in benchmark.contenders}, bar
        assert (bar.at_least is None) != (bar.at_most is None), bar


def test_a_run_is_read_back_as_it_was(tmp_path):
    """What --json wrote says the same when it has been read: the same tables, the same bars."""
    from bench._bars import Bar
    from bench._model import load_benchmark
    from bench._report import as_json, losses, tables
    from bench._results import ResultsError, read_run
    from bench._runner import Outcome, Round

    benchmark = load_benchmark("switch")
    case = benchmark.cases[0]
    names = ("plait", "uvloop", "greenlet")
    outcome = Outcome(benchmark, case, case.params, 1, [benchmark.contender(name) for name in names])
    for plait_time in (400.0, 500.0):
        samples = {"plait": {"time": plait_time}, "uvloop": {"time": 1_200.0}, "greenlet": {"time": 200.0}}
        outcome.rounds.append(Round(list(names), samples, {}))
    facts = {"python": "3.14.7 (free-threaded, GCC)"}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(as_json(facts, "python -m bench switch", [outcome], quick=False)))

    run = read_run(path)
    assert (run.python, run.command, run.facts) == ("3.14t", "python -m bench switch", facts)
    assert tables(run.outcomes[0]) == tables(outcome)
    assert losses(run.outcomes) == losses([outcome])
    ratio = Bar("switch", case.name, "time", "uvloop", at_least=2.5)
    assert ratio.is_met_by(ratio.seen_in(run.outcomes[0]))
    figure = Bar("switch", case.name, "time", at_most=449)
    assert not figure.is_met_by(figure.seen_in(run.outcomes[0]))

    path.write_text(json.dumps(as_json(facts, "", [outcome], quick=True)))
    with pytest.raises(ResultsError, match="quick run"):
        read_run(path)


def test_instructions_are_counted_where_they_are_spent():
    """A line of costs after calls= is what the callee spent, which is counted at the callee's own lines."""
    from bench.instructions import Count, _costs, growths

    lines = """\
events: Ir

ob=(1) /usr/lib/libpython3.13.so.1.0
fn=(1) call
16 100
+3 20
cob=(2) /src/plait/_core/_carrier.so
cfn=(2) run
calls=1 0
16 5000
ob=(2)
fn=(2)
0 5000
ob=(1)
fn=(3) other
* 7
summary: 5127""".splitlines()
    spent: dict[str, int] = {}
    for path, cost in _costs(lines):
        spent[path] = spent.get(path, 0) + cost
    assert spent == {"/usr/lib/libpython3.13.so.1.0": 127, "/src/plait/_core/_carrier.so": 5000}

    counts = {name: Count(110.0, {}, 0.0) for name in ("spawn", "switch")}
    assert growths(counts, {"spawn": 100}) == {"spawn": pytest.approx(10.0)}
