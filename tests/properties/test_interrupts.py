"""I10: KeyboardInterrupt is raised in the main thread alone; see test_groups.py.

The main thread runs the outermost block. Children, platform threads and the block itself send it SIGINT at any moment;
its handler raises up to two times, since the third leaves even children that do not end.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from properties.guarantees import check
from properties.strategies import examples, programs
from properties.trees import run

pytestmark = [
    pytest.mark.filterwarnings("ignore::plait.CancelledSwallowed", "ignore::plait.TimeoutDoesNotReachChild"),
    pytest.mark.slow,
]

WEIGHTS = {"interrupt": 3, "cancel block": 0, "hold": 0, "put": 0, "get": 0, "nap": 8, "spawn": 48}


@pytest.mark.parametrize("times", [1, 2])
@examples(80)
@given(program=programs(WEIGHTS, least=3, where="main"))
def test_interrupts_reach_the_main_thread_alone(times, program):
    """Each leaves the block as it is, after all children have ended."""
    world = run(program.interrupted(times))
    check(world, "I1", "I10")
