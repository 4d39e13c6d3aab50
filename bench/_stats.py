"""Medians, spreads, and ratios between contenders of the same round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench._model import Contender, Metric
    from bench._runner import Outcome


@dataclass(frozen=True)
class Spread:
    """The median of some figures, with the smallest and the largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of ``values``, of which there is at least one."""
        return cls(statistics.median(values), min(values), max(values))


def figures(outcome: Outcome, metric: Metric, contender: Contender) -> Spread | None:
    """Return what a contender reached over all rounds, or None if it was in none, or failed in one."""
    if contender.name in outcome.failed:
        return None
    values = [turn.samples[contender.name][metric.name] for turn in outcome.rounds if contender.name in turn.samples]
    return Spread.of(values) if values else None


def advantage(outcome: Outcome, metric: Metric, ours: Contender, peer: Contender) -> Spread | None:
    """Return how many times better ``ours`` is than ``peer``, round by round; below 1 it is worse.

    None if the two have not met in any round, or one of them failed.
    """
    if ours.name in outcome.failed or peer.name in outcome.failed:
        return None
    ratios = []
    for turn in outcome.rounds:
        if ours.name in turn.samples and peer.name in turn.samples:
            mine, theirs = turn.samples[ours.name][metric.name], turn.samples[peer.name][metric.name]
            ratios.append(_ratio(theirs, mine) if metric.is_lower_better else _ratio(mine, theirs))
    return Spread.of(ratios) if ratios else None


def _ratio(dividend: float, divisor: float) -> float:
    """Divide; a figure of zero, possible in a quick run, is no reason to stop."""
    return dividend / divisor if divisor else float("inf")
