"""Draw what a case has brought: a bar for each contender, as PNG and as SVG. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench._stats import figures

if TYPE_CHECKING:
    from pathlib import Path

    from bench._runner import Outcome

OURS, PEERS = "#1f6f8b", "#b8b8b8"
#: From this ratio of the longest bar to the shortest on, the axis is logarithmic.
WIDE = 30
#: Inches.
WIDTH, PER_ROW, AROUND = 4.8, 0.28, 1.0

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "plait"  # the same figures give the same file
mpl.rcParams["font.size"] = 9


def draw(outcome: Outcome, directory: Path, name: str) -> bool:
    """Draw the compared metrics, side by side, into two files of that name. Return whether there was anything to draw."""
    metrics = [metric for metric in outcome.benchmark.metrics if metric.is_compared]
    rows = [each for each in outcome.contenders if figures(outcome, metrics[0], each) is not None]
    if not rows:
        return False
    size = (WIDTH * len(metrics), PER_ROW * len(rows) + AROUND)
    figure, axes = plt.subplots(1, len(metrics), figsize=size, squeeze=False, layout="constrained")
    for axis, metric in zip(axes[0], metrics, strict=True):
        spreads = [spread for each in rows if (spread := figures(outcome, metric, each)) is not None]
        medians = [spread.median for spread in spreads]
        below = [spread.median - spread.low for spread in spreads]
        above = [spread.high - spread.median for spread in spreads]
        axis.barh(
            [each.name for each in rows],
            medians,
            xerr=(below, above),
            color=[OURS if each.is_plait else PEERS for each in rows],
            error_kw={"elinewidth": 0.8, "ecolor": "#404040"},
        )
        axis.invert_yaxis()
        if max(medians) > WIDE * min(medians) > 0:
            axis.set_xscale("log")
        label = f"{metric.name}: " if len(metrics) > 1 else ""
        axis.set_xlabel(f"{label}{metric.unit} ({'lower' if metric.is_lower_better else 'higher'} is better)")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{outcome.benchmark.name}: {outcome.title}", wrap=True)
    figure.savefig(directory / f"{name}.png", dpi=110, metadata={"Software": None})
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return True
