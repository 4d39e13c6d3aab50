"""Run a benchmark: rounds in alternating order, each contender of a round in its own process."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from bench._disturbance import Observer, Processors
from bench._facts import is_installed
from bench._process import Child, ContenderError
from bench._programs import MissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench._model import Benchmark, Case, Contender, Params, Sample

T = TypeVar("T")

#: Seconds that a child may take in a quick run.
QUICK_LIMIT = 10


@dataclass(frozen=True)
class Round:
    """One turn of every contender, in the order in which they came."""

    order: list[str]
    samples: dict[str, Sample]
    #: The cores that others on this machine kept busy during each contender's turn, where the system tells.
    bystanders: dict[str, float]
    #: How much slower than ever a processor was before or after it, where that can be seen.
    slowness: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """All that one case of a benchmark brought."""

    benchmark: Benchmark
    case: Case
    params: Params
    limit: int
    contenders: list[Contender]
    rounds: list[Round] = field(default_factory=list)
    #: The contenders without figures, and why. A failed one is left out of the rounds after its failure.
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was measured, with the sizes of this run."""
        return self.case.title.format(**self.params)

    @property
    def remark(self) -> str:
        """What the reader must know about the means of measuring."""
        return self.benchmark.remark() if self.benchmark.remark is not None else ""


def alternating(items: Sequence[T], turn: int) -> list[T]:
    """Return the order of a turn: each starts with the next item, and every other one goes backwards.

    So over the rounds nobody is always first, nor always next to the same neighbour.
    """
    start = turn % len(items) if items else 0
    order = [*items[start:], *items[:start]]
    return order if turn % 2 == 0 else order[:1] + order[:0:-1]


def run_case(
    benchmark: Benchmark, case: Case, contenders: Sequence[Contender], *, rounds: int, retries: int, quick: bool
) -> Outcome:
    """Run one case of a benchmark for so many rounds, telling on stderr how it goes.

    A turn that others disturb is repeated up to ``retries`` times, and the least disturbed one counts.
    """
    limit = min(benchmark.limit, QUICK_LIMIT) if quick else benchmark.limit
    outcome = Outcome(benchmark, case, case.sized(quick=quick), limit, list(contenders))
    processors = Processors()
    for contender in contenders:
        if (lack := _lack(case, contender)) is not None:
            outcome.skipped[contender.name] = f"{lack}, skipped"
            _tell(f"{contender.name}: {lack}, skipped")
    for turn in range(rounds):
        able = [item for item in contenders if item.name not in outcome.skipped and item.name not in outcome.failed]
        order = alternating(able, turn)
        outcome.rounds.append(Round([item.name for item in order], {}, {}))
        for contender in order:
            _run_turn(outcome, contender, retries, processors)
        _tell(f"{benchmark.name} {case.name}, round {turn + 1} of {rounds}: {_brief(outcome)}")
    return outcome


def _lack(case: Case, contender: Contender) -> str | None:
    """Say what a contender needs that is not here, if anything."""
    if not is_installed(contender.package):
        return "not installed"
    if not is_installed(case.package):
        return f"{case.package} not installed"
    try:
        if contender.prepare is not None:
            contender.prepare()
    except MissingError as error:
        return str(error)
    return None


def _run_turn(outcome: Outcome, contender: Contender, retries: int, processors: Processors) -> None:
    """Let one contender have its turn in the last round."""
    current = outcome.rounds[-1]
    least = None
    for _ in range(1 + retries):
        observer = Observer(processors)
        try:
            sample = _measure(outcome, contender)
        except ContenderError as error:
            current.samples.pop(contender.name, None)
            outcome.failed[contender.name] = f"failed in round {len(outcome.rounds)}: {error}"
            _tell(f"{contender.name}: failed: {error}\n{error.said}".rstrip())
            return
        seen = observer.seen()
        if least is None or seen.extent < least:
            least = seen.extent
            current.samples[contender.name] = sample
            if seen.cores is not None:
                current.bystanders[contender.name] = seen.cores
            if seen.slowness is not None:
                current.slowness[contender.name] = seen.slowness
        if least <= 1:
            return


def _measure(outcome: Outcome, contender: Contender) -> Sample:
    """Run one contender in a process of its own."""
    benchmark, params = outcome.benchmark, outcome.params
    with Child(benchmark.name, contender.name, params, limit=outcome.limit, defaults=benchmark.environment) as child:
        return benchmark.measure(child, params)


def _brief(outcome: Outcome) -> str:
    """Return the headline figures of the last round in the order in which they were measured."""
    last, metric = outcome.rounds[-1], outcome.benchmark.metrics[0]
    seen = [(name, last.samples[name][metric.name]) for name in last.order if name in last.samples]
    return ", ".join(f"{name} {value:,.{metric.decimals}f}" for name, value in seen)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
