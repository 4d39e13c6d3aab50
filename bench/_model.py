"""The words of the benchmarks: what is measured, on whom, and in which figures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from bench._process import Child

#: Every benchmark, in the order in which ``all`` runs them. Each is a module with a ``BENCHMARK``.
BENCHMARKS = (
    "spawn",
    "limited",
    "cancel",
    "switch",
    "deep",
    "depths",
    "parked",
    "waves",
    "timers",
    "locks",
    "hops",
    "echo",
    "shares",
    "churn",
    "fanout",
    "http",
    "wsgi",
    "files",
    "scale",
    "scale_spawn",
    "neutral",
    "neutral_files",
)

#: The sizes of one case: counts, bytes, milliseconds.
Params = Mapping[str, int]
#: What one contender measured in one round, by the name of the metric.
Sample = Mapping[str, float]
#: How a contender hands over its sample. It is called once.
Report = Callable[[Sample], None]


@dataclass(frozen=True)
class Metric:
    """A figure that every contender of a benchmark reports."""

    name: str
    unit: str
    is_lower_better: bool = True
    #: A metric that is not compared is shown beside the others to explain them, and nobody wins or loses by it.
    is_compared: bool = True
    decimals: int = 0


@dataclass(frozen=True)
class Contender:
    """One way of doing the job: a row of the table."""

    name: str
    #: The package that must be importable, or None where the standard library does it.
    package: str | None
    #: Runs in the child. A server reports its port and then serves until it is ended.
    run: Callable[[Params, Report], None]
    #: What exactly it does, where the name does not tell.
    note: str = ""
    #: Finds or builds what it needs beyond the package. Raises MissingError where that cannot be had.
    prepare: Callable[[], object] | None = None
    #: Whether a row of plait's is there for its other rows to be compared with, as a peer is.
    is_yardstick: bool = False

    @property
    def is_plait(self) -> bool:
        """Whether this row is ours; all other rows are peers."""
        return self.package == "plait" and not self.is_yardstick


@dataclass(frozen=True)
class Case:
    """One setting of a benchmark: a table of its own."""

    name: str
    #: A sentence for the table, with the sizes as fields of a format.
    title: str
    params: Params
    #: The sizes for ``--quick``, where they differ.
    quick: Params = field(default_factory=dict)
    #: The package that this setting is about, or None. Without it there is no table.
    package: str | None = None

    def sized(self, *, quick: bool) -> Params:
        """Return the sizes to run with."""
        return {**self.params, **self.quick} if quick else self.params


def read_report(child: Child, _params: Params) -> Sample:
    """Let a child do its job to the end, and return what it reported."""
    sample = child.read_report()
    child.wait_ended()
    return sample


@dataclass(frozen=True)
class Benchmark:
    """A question, the contenders that answer it, and how the answer is measured."""

    name: str
    cases: tuple[Case, ...]
    metrics: tuple[Metric, ...]
    contenders: tuple[Contender, ...]
    #: Turns a started child into a sample. The default reads the child's own report.
    measure: Callable[[Child, Params], Sample] = read_report
    #: Environment variables that the benchmark needs, unless the user has set them.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Says what the reader must know about the means of measuring, if there is anything to say.
    remark: Callable[[], str] | None = None
    #: Seconds after which a child is ended, whatever it does.
    limit: int = 120

    def case(self, name: str) -> Case:
        """Return the case of that name."""
        return next(case for case in self.cases if case.name == name)

    def contender(self, name: str) -> Contender:
        """Return the contender of that name."""
        return next(contender for contender in self.contenders if contender.name == name)


def load_benchmark(name: str) -> Benchmark:
    """Import the benchmark of that name."""
    return cast("Benchmark", importlib.import_module(f"bench.{name}").BENCHMARK)
