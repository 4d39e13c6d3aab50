"""Say what was measured: a table per metric, the sentences where plait loses, and JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from bench._stats import Spread, advantage, figures

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench._model import Contender, Metric
    from bench._runner import Outcome

#: The version of the JSON's form; it grows by one when a reader of the old form would stumble.
SCHEMA = 2


def header(facts: Mapping[str, str]) -> str:
    """Return the facts, one a line."""
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def tables(outcome: Outcome) -> str:
    """Return a table for each compared metric of an outcome, under one headline, with the notes below."""
    parts = [f"{outcome.benchmark.name}: {outcome.title}"]
    compared = [metric for metric in outcome.benchmark.metrics if metric.is_compared]
    explaining = [metric for metric in outcome.benchmark.metrics if not metric.is_compared]
    for position, metric in enumerate(compared):
        parts.append(_table(outcome, metric, [] if position else explaining))
    notes = [f"  {contender.name}: {contender.note}" for contender in outcome.contenders if contender.note]
    notes += [f"  {sentence}" for sentence in (outcome.remark, disturbance(outcome)) if sentence]
    return "\n\n".join(parts) + "\n" + "".join("\n" + note for note in notes)


def losses(outcomes: Sequence[Outcome]) -> str:
    """Return a sentence for each comparison that plait loses and each job that it could not do."""
    lost, failed = [], []
    met = 0
    for outcome in outcomes:
        where = f"  {outcome.benchmark.name} ({outcome.case.name})"
        failed += [
            f"{where}: {each.name} {outcome.failed[each.name]}"
            for each in rows_of_ours(outcome)
            if each.name in outcome.failed
        ]
        for metric in outcome.benchmark.metrics:
            for mine, peer in meetings(outcome):
                ratio = advantage(outcome, metric, mine, peer) if metric.is_compared else None
                met += ratio is not None
                if ratio is not None and ratio.median < 1:
                    lost.append(f"{where}, {metric.name}: {_verdict(mine, ratio)}, against {peer.name}")
    lines = [f"Where plait failed ({len(failed)}):", *failed] if failed else []
    if lost:
        lines += [f"Where plait loses ({len(lost)} of {met} comparisons):", *lost]
    elif met:
        lines.append(f"plait loses none of the {met} comparisons above.")
    else:
        lines.append("plait met no peer in this run: there is nothing to compare.")
    return "\n".join(lines)


def as_json(facts: Mapping[str, str], command: str, outcomes: Sequence[Outcome], *, quick: bool) -> dict[str, object]:
    """Return everything that was measured, raw and summarised, as an object for ``json.dump``."""
    return {
        "schema": SCHEMA,
        "facts": dict(facts),
        "command": command,
        "quick": quick,
        "benchmarks": [_outcome_as_json(outcome) for outcome in outcomes],
    }


def _outcome_as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "benchmark": outcome.benchmark.name,
        "case": outcome.case.name,
        "title": outcome.title,
        "params": dict(outcome.params),
        "metrics": [dataclasses.asdict(metric) for metric in outcome.benchmark.metrics],
        "contenders": [
            {"name": each.name, "package": each.package, "note": each.note, "is_yardstick": each.is_yardstick}
            for each in outcome.contenders
        ],
        "remark": outcome.remark,
        "skipped": outcome.skipped,
        "failed": outcome.failed,
        "rounds": [dataclasses.asdict(turn) for turn in outcome.rounds],
        "figures": {
            metric.name: {
                contender.name: dataclasses.asdict(spread)
                for contender in outcome.contenders
                if (spread := figures(outcome, metric, contender)) is not None
            }
            for metric in outcome.benchmark.metrics
        },
        "advantage": {
            metric.name: [
                {"of": ours.name, "over": peer.name, **dataclasses.asdict(ratio)}
                for ours, peer in meetings(outcome)
                if (ratio := advantage(outcome, metric, ours, peer)) is not None
            ]
            for metric in outcome.benchmark.metrics
            if metric.is_compared
        },
    }


def disturbance(outcome: Outcome) -> str:
    """Say how busy others kept the machine, and how slow its processors were, since that explains a wide spread."""
    said = []
    if cores := [value for turn in outcome.rounds for value in turn.bystanders.values()]:
        spread = Spread.of(cores)
        said.append(
            f"other processes meanwhile: {spread.median:.2f} cores busy ({spread.low:.2f} .. {spread.high:.2f})"
        )
    if slowness := [value for turn in outcome.rounds for value in turn.slowness.values()]:
        spread = Spread.of(slowness)
        said.append(f"processors {spread.median:.2f} times as slow as at best ({spread.low:.2f} .. {spread.high:.2f})")
    return "; ".join(said)


def rows_of_ours(outcome: Outcome) -> list[Contender]:
    """Return the rows of ours."""
    return [contender for contender in outcome.contenders if contender.is_plait]


def meetings(outcome: Outcome) -> list[tuple[Contender, Contender]]:
    """Return each row of ours with each peer."""
    peers = [contender for contender in outcome.contenders if not contender.is_plait]
    return [(mine, peer) for mine in rows_of_ours(outcome) for peer in peers]


def _table(outcome: Outcome, metric: Metric, explaining: Sequence[Metric]) -> str:
    """Return the table of one metric: a row per contender, a verdict per row of ours."""
    ours = rows_of_ours(outcome)
    better = "lower" if metric.is_lower_better else "higher"
    caption = f"  {metric.name}: {metric.unit}, {better} is better; median of {len(outcome.rounds)} rounds"
    head = ["", metric.unit, "min .. max", *(f"{other.name}, {other.unit}" for other in explaining)]
    head += [f"ratio (min .. max) of {mine.name}" for mine in ours]
    rows = [head]
    for contender in outcome.contenders:
        reason = outcome.skipped.get(contender.name) or outcome.failed.get(contender.name)
        spread = figures(outcome, metric, contender)
        if reason is not None or spread is None:
            rows.append([contender.name, reason or "no figure"])
            continue
        row = [contender.name, as_number(spread.median, metric)]
        row.append(f"{as_number(spread.low, metric)} .. {as_number(spread.high, metric)}")
        for other in explaining:
            explanation = figures(outcome, other, contender)
            row.append("" if explanation is None else as_number(explanation.median, other))
        if not contender.is_plait:
            ratios = ((mine, advantage(outcome, metric, mine, contender)) for mine in ours)
            row += ["" if ratio is None else _verdict(mine, ratio, spread=True) for mine, ratio in ratios]
        rows.append(row)
    return caption + "\n" + _aligned(rows, left={0, *range(len(head) - len(ours), len(head))})


def _aligned(rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """Return rows as lines with aligned columns: those in ``left`` at their left edge, the others at their right.

    A row of two cells under a head of more is a remark: it runs across the columns and does not widen them.
    """
    width = len(rows[0])
    whole = [row for row in rows if len(row) > 2 or width == 2]
    widths = [max((len(row[at]) for row in whole if at < len(row)), default=0) for at in range(width)]
    lines = []
    for row in rows:
        if row not in whole:
            lines.append(f"  {row[0]:<{widths[0]}}  {row[1]}")
            continue
        cells = [f"{cell:<{widths[at]}}" if at in left else f"{cell:>{widths[at]}}" for at, cell in enumerate(row)]
        lines.append("  " + "  ".join(cells).rstrip())
    lines.insert(1, "  " + "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def _verdict(ours: Contender, ratio: Spread, *, spread: bool = False) -> str:
    """Say in words who is ahead, and by how much."""
    outcome = "wins" if ratio.median >= 1 else "loses"
    doubt = " within the noise" if ratio.low < 1 <= ratio.high and spread else ""
    extent = f" ({as_times(ratio.low)} .. {as_times(ratio.high)})" if spread and ratio.low != ratio.high else ""
    return f"{ours.name} {outcome}{doubt}: {as_times(ratio.median)}x{extent}"


def as_times(ratio: float) -> str:
    """Return a ratio with two decimals below 10 and one above, rounded down: nobody wins by rounding."""
    if math.isinf(ratio):
        return "inf"
    scale = 100 if ratio < 10 else 10
    return f"{math.floor(ratio * scale) / scale:.{2 if scale == 100 else 1}f}"


def as_number(value: float, metric: Metric) -> str:
    return f"{value:,.{metric.decimals}f}"
