"""What bench/ says of itself holds together: a bar that names nothing, or a run read back wrongly, would go unnoticed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

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


def test_cases_are_chosen_by_name():
    """A name with a comma in it is one name, alone and among others; every case can be chosen."""
    from bench.__main__ import parse
    from bench._model import BENCHMARKS, load_benchmark

    chosen = parse(
        ["all", "--cases", "groups of 1,000, one group of 100,000,1 KiB x 100", "--contenders", "plait,asyncio"]
    )
    assert chosen.cases == ["groups of 1,000", "one group of 100,000", "1 KiB x 100"]
    assert chosen.contenders == ["plait", "asyncio"]
    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        for things, option in ((benchmark.cases, "cases"), (benchmark.contenders, "contenders")):
            names = [thing.name for thing in things]
            assert getattr(parse([name, f"--{option}", ", ".join(names)]), option) == names
            for each in names:
                assert getattr(parse([name, f"--{option}={each}"]), option) == [each]


def test_names_that_are_not_known(capsys):
    """They are said as they were given, with those that there are."""
    from bench.__main__ import parse

    for option, wrong, said in (
        (
            "--cases",
            "one group of 100,000,groups of 1",
            "no case 'groups of 1', expected some of 'groups of 1,000', 'one",
        ),
        ("--contenders", "plait,plate", "no contender 'plate', expected some of asyncio, "),
    ):
        with pytest.raises(SystemExit):
            parse(["spawn", option, wrong])
        assert f"{option}: {said}" in capsys.readouterr().err


def test_a_run_says_which_plait_it_has_measured(monkeypatch, tmp_path):
    """The commit of the tree that plait was built in, and whether what is measured differs from it."""
    from bench import _facts

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *arguments], cwd=tmp_path, check=True)

    def plait():
        return _facts.machine_facts()["packages"].partition(", ")[0]

    package = tmp_path / "src/plait/__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7.1"\n')
    found = SimpleNamespace(origin=str(package))
    monkeypatch.setattr(_facts, "ROOT", tmp_path)
    monkeypatch.setattr(_facts.importlib.util, "find_spec", lambda name: found if name == "plait" else None)
    assert plait() == "plait 7.1"  # no repository
    git("init", "-q")
    assert plait() == "plait 7.1"  # no commit
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = _facts._git("rev-parse", "--short", "HEAD")
    assert len(commit) >= 7
    assert plait() == f"plait 7.1 ({commit})"
    (tmp_path / "README.md").touch()  # is not measured
    assert plait() == f"plait 7.1 ({commit})"
    package.write_text("x = 1")
    assert plait() == f"plait 7.1 ({commit}+)"
    found.origin = "/elsewhere/plait/__init__.py"
    assert "(" not in plait()


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


@pytest.mark.parametrize(
    ("retries", "time", "slowness"), [(0, 500.0, 1.8), (1, 420.0, 1.4), (2, 400.0, 1.1), (9, 400.0, 1.1)]
)
def test_a_turn_that_others_disturb_is_repeated(retries, time, slowness, monkeypatch):
    """So often as was said, but no more than it takes; the least disturbed one counts."""
    from bench import _runner
    from bench._disturbance import Disturbance
    from bench._model import load_benchmark
    from bench._runner import Outcome, Round

    benchmark = load_benchmark("switch")
    case, plait = benchmark.cases[0], benchmark.contender("plait")
    outcome = Outcome(benchmark, case, case.params, 1, [plait], [Round(["plait"], {}, {})])
    turns = iter(
        [(500.0, Disturbance(0.1, 1.8)), (420.0, Disturbance(0.2, 1.4)), (400.0, Disturbance(0.2, 1.1)), (1.0, None)]
    )
    found = []

    def measure(*_):
        found[:] = next(turns)
        return {"time": found[0]}

    monkeypatch.setattr(_runner, "_measure", measure)
    monkeypatch.setattr(_runner, "Observer", lambda _: SimpleNamespace(seen=lambda: found[1]))
    _runner._run_turn(outcome, plait, retries, None)
    assert outcome.rounds[0].samples == {"plait": {"time": time}}
    assert outcome.rounds[0].slowness == {"plait": slowness}


def test_processors_are_timed_where_they_are_and_given_back():
    import os

    from bench._disturbance import Disturbance, Processors

    before = os.sched_getaffinity(0)
    assert Processors().slowness() >= 1
    assert os.sched_getaffinity(0) == before
    assert Disturbance(None, None).extent == 0
    assert Disturbance(0.5, 1.0).extent == 2


def test_samples_are_shared_out_by_the_object_file():
    """What is none of the known parts is the server's own code."""
    from bench.shares import REST, shared_out

    lines = """\
 ffffffff9a1 ([kernel.kallsyms])
 ffffffffc01 (/lib/modules/6.1/kernel/net/netfilter/nf_tables.ko.xz)
 ffffffffc02 (bpf_prog_6deef7357e7b4530)
 5555555 (/usr/bin/python3.13)
 5555556 (/usr/lib/libpython3.14t.so.1.0)
 7777777 (/venv/lib/python3.13/lib-dynload/_socket.cpython-313-x86_64-linux-gnu.so)
 7777778 (/venv/lib/python3.13/site-packages/greenlet/_greenlet.cpython-313-x86_64-linux-gnu.so)
 7777779 (/venv/lib/python3.13/site-packages/plait/_core/_reactor.cpython-313-x86_64-linux-gnu.so)
 777777a (/usr/lib/x86_64-linux-gnu/libc.so.6)
 777777b ([vdso])

 777777c (/tmp/a server (in C))
 777777d ([unknown])
""".splitlines()
    assert shared_out(lines) == {"kernel": 3, "interpreter": 3, "greenlet": 1, "C library": 2, REST: 3}


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


@pytest.mark.parametrize(
    ("counted", "recorded", "status", "said"),
    [
        (104, {"spawn": 100}, 0, "+4.0 %"),
        (106, {"spawn": 100}, 1, "spawn has grown by 6.0 %"),
        (100, {}, 2, "nothing is recorded of spawn"),
    ],
)
def test_instructions_tell_by_their_status(counted, recorded, status, said, monkeypatch, tmp_path, capsys):
    """A growth beyond what is allowed is 1, and so little as a missing record is no success."""
    from bench import instructions

    record = tmp_path / "instructions.json"
    record.write_text(json.dumps({instructions.version(): {"build": instructions.build(), "counts": recorded}}))
    monkeypatch.setattr(instructions, "RECORD", record)
    monkeypatch.setattr(instructions, "OPERATIONS", ("spawn",))
    parts = dict.fromkeys((*instructions.PARTS, instructions.REST), 0.0)
    monkeypatch.setattr(instructions, "count", lambda _: instructions.Count(counted, parts, 0.0))
    monkeypatch.setattr(instructions.shutil, "which", lambda _: "/usr/bin/valgrind")
    assert instructions.main([]) == status
    assert said in "".join(capsys.readouterr())
