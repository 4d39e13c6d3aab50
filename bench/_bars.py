"""The bars that plait has set itself, and what runs have shown of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench._stats import Spread, advantage, figures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench._results import Run
    from bench._runner import Outcome

KIB = 1_024
GIB = 2**30


@dataclass(frozen=True)
class Bar:
    """What a figure has to reach: so many times better than a peer's, or so much itself."""

    benchmark: str
    case: str
    metric: str
    #: The peer, or None where the figure itself counts.
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    #: The row of ours.
    ours: str = "plait"

    def is_met_by(self, seen: Spread) -> bool:
        """Return whether the median reaches it."""
        return (self.at_least is None or seen.median >= self.at_least) and (
            self.at_most is None or seen.median <= self.at_most
        )

    def seen_in(self, outcome: Outcome) -> Spread | None:
        """Return what there is to compare with it, if both took part and none failed."""
        metric = next(each for each in outcome.benchmark.metrics if each.name == self.metric)
        rows = {each.name: each for each in outcome.contenders}
        if self.ours not in rows or (self.over is not None and self.over not in rows):
            return None
        if self.over is None:
            return figures(outcome, metric, rows[self.ours])
        return advantage(outcome, metric, rows[self.ours], rows[self.over])


#: A raw switch may be 1.6 times as fast, no more.
SWITCH = 1 / 1.6
#: Reading what is in the page cache may take a fifth longer than a plain loop, no more.
LOOP = 1 / 1.2
#: Nanoseconds a call that a patched leaf may add on a platform thread.
NEUTRAL = 20

BARS = (
    Bar("spawn", "groups of 1,000", "time", "asyncio", at_least=10),
    Bar("spawn", "groups of 1,000", "time", "uvloop", at_least=7),
    Bar("spawn", "groups of 1,000", "time", "asyncio", at_least=5, ours="plait-main"),
    Bar("spawn", "one group of 100,000", "time", "asyncio", at_least=7),
    Bar("switch", "two threads", "time", "uvloop", at_least=2.5),
    Bar("switch", "two threads", "time", "greenlet", at_least=SWITCH),
    Bar("switch", "two threads", "time", "greenlet-bare", at_least=SWITCH),
    Bar("deep", "1,000 at depth 30", "time", "asyncio", at_least=1),
    Bar("depths", "1 to 200", "worst", "threads", at_least=0.9),
    Bar("echo", "1 KiB x 100", "throughput", "uvloop-protocol", at_least=1),
    Bar("echo", "1 KiB x 100", "throughput", "c-epoll", at_least=0.75),
    Bar("echo", "1 KiB x 100", "throughput", "uvloop-streams", at_least=1.5),
    Bar("echo", "1 KiB x 100", "throughput", "gevent", at_least=3),
    Bar("churn", "1 KiB", "throughput", "uvloop-streams", at_least=1.5),
    Bar("timers", "short sleeps", "time", "asyncio", at_least=3),
    Bar("timers", "100,000 at a time", "time", "asyncio", at_least=3),
    Bar("timers", "1,000,000 at a time", "time", "asyncio", at_least=3),
    Bar("parked", "event", "memory", at_most=6 * KIB),
    Bar("parked", "sleep", "memory", at_most=6 * KIB),
    Bar("parked", "a million", "memory", at_most=7 * GIB / 1_000_000),
    Bar("waves", "event", "again", at_most=1.05),
    Bar("waves", "a million", "again", at_most=1.05),
    Bar("cancel", "sleep", "many", "asyncio", at_least=4),
    Bar("cancel", "event", "many", "asyncio", at_least=4),
    Bar("limited", "return", "most", "asyncio", at_least=2),
    Bar("limited", "yield", "most", "asyncio", at_least=2),
    Bar("files", "warm", "time", "loop", at_least=LOOP),
    Bar("neutral", "lock", "extra", at_most=NEUTRAL),
    Bar("neutral", "lock beside a wait", "extra", at_most=NEUTRAL),
    Bar("neutral", "recv", "extra", at_most=NEUTRAL),
    Bar("neutral_files", "calls", "more", at_most=NEUTRAL, ours="plait-pread"),
    Bar("neutral_files", "calls", "more", at_most=NEUTRAL, ours="plait-read"),
    Bar("neutral_files", "calls", "more", at_most=NEUTRAL, ours="plait-write"),
    Bar("neutral_files", "calls", "more", at_most=NEUTRAL, ours="plait-line"),
    Bar("scale_spawn", "groups of 1,000", "time", "plait-one", at_least=1),
    Bar("scale_spawn", "from the main thread", "time", "plait-one", at_least=1),
    Bar("scale_spawn", "one group of 100,000", "time", "plait-one", at_least=1),
    Bar("scale", "150 us", "speed-up", "threads", at_least=0.95),
)


def seen(bar: Bar, runs: Sequence[Run]) -> Iterator[tuple[Run, Spread]]:
    """Go through the runs that have something to compare with a bar."""
    for run in runs:
        for outcome in run.outcomes:
            if (outcome.benchmark.name, outcome.case.name) == (bar.benchmark, bar.case):
                spread = bar.seen_in(outcome)
                if spread is not None:
                    yield run, spread
