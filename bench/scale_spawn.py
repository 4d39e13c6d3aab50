"""scale_spawn: whether a second carrier makes spawning slower, on a free-threaded build.

Threads that do nothing, as in ``spawn``: in groups of 1,000 from inside and from the main thread, and 100,000 in one group. So little work is not worth a second carrier, and who wakes one for it
loses: the row of plait on two carriers is there to show that it does not. The yardstick is plait on one.

Builds with a GIL have one carrier, and are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench._model import Benchmark, Case, Contender, Metric, Params, Report
from bench.scale import need_carriers
from bench.spawn import measure, plait_group

if TYPE_CHECKING:
    from collections.abc import Callable


def on_carriers(carriers: int) -> Callable[[Params, Report], None]:
    """Return a contender that spawns with so many carriers: from inside a virtual thread, or from the main thread."""

    def run(params: Params, report: Report) -> None:
        import plait

        plait.configure(carriers=carriers)
        if params["from_main"]:
            measure(plait_group, params, report)
            return
        with plait.ThreadGroup() as group:
            group.spawn(measure, plait_group, params, report).result()

    return run


BENCHMARK = Benchmark(
    name="scale_spawn",
    cases=(
        Case(
            name="groups of 1,000",
            title="spawn and finish functions that do nothing, in groups of {group:,}",
            params={"group": 1_000, "total": 200_000, "warm_up": 5, "from_main": 0},
            quick={"total": 3_000, "warm_up": 1},
        ),
        Case(
            name="from the main thread",
            title="spawn and finish functions that do nothing, in groups of {group:,}, from the main thread",
            params={"group": 1_000, "total": 200_000, "warm_up": 5, "from_main": 1},
            quick={"total": 3_000, "warm_up": 1},
        ),
        Case(
            name="one group of 100,000",
            title="spawn and finish functions that do nothing, in one group of {group:,}",
            params={"group": 100_000, "total": 300_000, "warm_up": 1, "from_main": 0},
            quick={"group": 3_000, "total": 3_000},
        ),
    ),
    metrics=(Metric("time", "ns per thread"),),
    contenders=(
        Contender("plait", "plait", on_carriers(2), "on two carriers", prepare=need_carriers),
        Contender("plait-one", "plait", on_carriers(1), "on one", is_yardstick=True, prepare=need_carriers),
    ),
)
