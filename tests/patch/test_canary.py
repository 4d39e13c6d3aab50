"""A thread that ticks every 5 ms keeps ticking while others sit in a leaf."""

import time

import pytest
from patch.helpers import carriers, wait_parked, wait_until
from patch.rare_leaves import LEAVES

import plait
from plait import ThreadGroup


@pytest.mark.parametrize("name", LEAVES)
def test_canary_ticks_while_another_thread_sits_in_a_leaf(name):
    """On every carrier a ticking thread goes on while others wait in the leaf, and they all come out of it."""
    plait.patch.install()
    is_over = []
    ticks = [0] * 2 * carriers()

    def tick(place):
        while not is_over:
            time.sleep(0.005)
            ticks[place] += 1

    with ThreadGroup() as group:
        for place in range(len(ticks)):
            group.spawn(tick, place)
        with LEAVES[name](group) as sitting:
            sitter = group.spawn(sitting.block)
            wait_parked(sitter)
            before = list(ticks)
            try:
                wait_until(lambda: all(now >= then + 5 for now, then in zip(ticks, before, strict=True)), 10)
            finally:
                if sitting.release is None:
                    sitter.cancel()
                else:
                    sitting.release()
                wait_until(sitter.done)
                is_over.append(True)
    assert sitter.cancelled() is (sitting.release is None)
    if not sitter.cancelled():
        sitter.result()
