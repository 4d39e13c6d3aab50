"""Read what runs have written with ``--json``, as if they had just been made."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench._model import Benchmark, Case, Contender, Metric
from bench._report import SCHEMA
from bench._runner import Outcome, Round

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class ResultsError(Exception):
    """A file is none that can be read; the message says why."""


@dataclass(frozen=True)
class Run:
    """What one command has measured."""

    path: Path
    facts: Mapping[str, str]
    command: str
    outcomes: list[Outcome]

    @property
    def python(self) -> str:
        """The interpreter's minor version, with a t for a free-threaded build."""
        found = re.match(r"(\d+\.\d+)\S* \((free-threaded)?", self.facts["python"])
        assert found is not None
        return found[1] + ("t" if found[2] else "")


def read_run(path: Path) -> Run:
    """Return the run in a file. Raises ResultsError if there is none, or a quick one, whose figures mean nothing."""
    run = json.loads(path.read_text(encoding="utf-8"))
    if run.get("schema") != SCHEMA:
        raise ResultsError(f"{path}: expected a run with schema {SCHEMA}, not {run.get('schema')}: run it again")
    if run["quick"]:
        raise ResultsError(f"{path} is of a quick run, whose figures mean nothing")
    return Run(path, run["facts"], run["command"], [_outcome(each) for each in run["benchmarks"]])


def _outcome(found: Mapping[str, Any]) -> Outcome:
    """Return a case with its figures. Its benchmark cannot be run again: it only says what was measured."""
    contenders = tuple(Contender(**each, run=_cannot_run) for each in found["contenders"])
    case = Case(found["case"], found["title"], found["params"])
    benchmark = Benchmark(
        found["benchmark"],
        (case,),
        tuple(Metric(**each) for each in found["metrics"]),
        contenders,
        remark=(lambda: str(found["remark"])) if found["remark"] else None,
    )
    rounds = [Round(**each) for each in found["rounds"]]
    return Outcome(benchmark, case, case.params, 0, list(contenders), rounds, found["skipped"], found["failed"])


def _cannot_run(_params: object, _report: object) -> None:
    raise ResultsError("a contender that was read from a file cannot be run")
