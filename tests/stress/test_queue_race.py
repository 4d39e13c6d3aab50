"""A completed wait is never lost: consumers that are cancelled all the time take each item once, and leave none behind.

Items come one at a time from a virtual and from a platform thread, so that a consumer is woken for nearly each of them,
and the cancels hit consumers that wait, that have just been woken, and that are on their way to the next wait. One steady
consumer is never cancelled, and left alone with what is there at the end: if a cancelled one had kept a wake to itself,
it would wait for ever beside a queue that is not empty.
"""

from __future__ import annotations

import os
from textwrap import indent

import pytest
from support import run_program

pytestmark = pytest.mark.stress

ITEMS = int(os.environ.get("PLAIT_RACED_ITEMS", "10000"))  # of each program: 180,000 in all
CARRIERS = pytest.mark.parametrize("carriers", [1, 2, 4])
KINDS = pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])

#: What cancels consumers until all is produced.
CANCELS = {
    "future": """
        with plait.ThreadGroup() as group:
            futures = [group.spawn(consume) for _ in range(3)]
            while not is_over():
                for n in range(3):
                    futures[n].cancel()
                    futures[n] = group.spawn(consume)
                    time.sleep(0)
            group.cancel()
    """,
    "group": """
        while not is_over():
            with plait.ThreadGroup() as group:
                for _ in range(3):
                    group.spawn(consume)
                for _ in range(random.randrange(4)):
                    time.sleep(0)
                group.cancel()
    """,
    "time": """
        def consume_for_moments(seed):
            chance = random.Random(seed)
            while not is_over():
                with plait.move_on_after(chance.random() * 1e-4):
                    consume()
        with plait.ThreadGroup() as group:
            for n in range(3):
                group.spawn(consume_for_moments, n)
    """,
}


@CARRIERS
@KINDS
@pytest.mark.parametrize("cancel", CANCELS)
def test_cancelled_consumers_lose_nothing(cancel, kind, carriers):
    """Whatever cancels the consumers of a queue, each item is taken once, and a consumer that is left gets the rest."""
    out, _ = run_program(
        f"""
        import itertools, queue, random, sys, threading, time, plait
        sys.setswitchinterval(1e-5)
        random.seed(11)
        items, got = queue.{kind}(), []
        producing = [1, 1]

        def consume():
            while True:
                got.append(items.get())

        def produce(which):
            for n in range(which, {ITEMS}, 2):
                items.put(n)
                if n % 16 < 14:
                    time.sleep(0)
            producing[which] = 0

        def is_over():
            return not any(producing)

        def cancel():
            {indent(CANCELS[cancel], "    ").strip()}

        thread = threading.Thread(target=produce, args=(1,))
        thread.start()
        with plait.ThreadGroup() as group:
            steady = group.spawn(consume)
            group.spawn(produce, 0)
            group.spawn(cancel).result()
            thread.join()
            limit = time.monotonic() + 20
            while len(got) < {ITEMS} and time.monotonic() < limit:
                time.sleep(0.001)
            steady.cancel()
        print(len(got), sorted(got) == list(range({ITEMS})))
        """,
        PLAIT_CARRIERS=carriers,
        seconds=45 + ITEMS / 2_000,
    )
    assert out == f"{ITEMS} True\n"
