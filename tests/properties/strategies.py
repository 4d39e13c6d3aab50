"""Strategies that draw programs of `trees.py`, and how many are run.

    PLAIT_EXAMPLES=5000 python -m pytest --timeout=0 -o faulthandler_timeout=0 tests/properties

runs so many others in each test.
"""

from __future__ import annotations

import os

from hypothesis import Phase, settings
from hypothesis import strategies as st
from properties.trees import (
    ANY,
    DEFAULT,
    Await,
    Block,
    CancelBlock,
    CancelThread,
    Fail,
    Finally,
    Forever,
    Get,
    Hold,
    Interrupt,
    Limit,
    Nap,
    Outside,
    Program,
    Put,
    Set,
    Spawn,
    Try,
)

EXAMPLES = int(os.environ.get("PLAIT_EXAMPLES", "0"))


def examples(count):
    """Settings to run `count` programs, the same ones each time.

    What depends on the order in which threads run need not fail again, so nothing is shrunk or tried anew: the failure
    prints the program.
    """
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.explicit, Phase.generate),
    )


# What steps there are, and how often each is drawn: those that have no steps inside, those that have, and last ones.
SIMPLE = {"nap": 5, "set": 2, "await": 3, "cancel block": 1, "cancel thread": 2, "put": 1, "get": 1, "interrupt": 0}
NESTED = {"spawn": 24, "block": 6, "limit": 3, "try": 3, "bare": 1, "finally": 2, "hold": 1, "outside": 1}
LAST = {"none": 6, "fail": 2, "crash": 1, "forever": 3}
HOW = ("spawn", "spawn", "spawn", "try", "daemon", "start", "named", "context")
LIMITS = (None, None, 1, 2, "shared")
POLICIES = ("cancel", "cancel", "collect", "ignore", "restart", "broken")


@st.composite
def programs(draw, weights=None, limits=LIMITS, policies=POLICIES, grace=20, size=20, least=6, where=None, **options):
    """A program with at most `size` threads and blocks. `weights` changes how often a step is drawn."""
    weights = {**SIMPLE, **NESTED, **LAST, **(weights or {})}
    simple = [kind for kind in SIMPLE for _ in range(weights[kind])]
    nested = simple + [kind for kind in NESTED for _ in range(weights[kind])]
    last = [kind for kind in LAST for _ in range(weights[kind])]
    left = size

    def steps(depth, most=4, least=1):
        first = [step(depth) for _ in range(draw(st.integers(least, most)))]
        match draw(st.sampled_from(last)):
            case "fail":
                first.append(Fail())
            case "crash":
                first.append(Fail(is_crash=True))
            case "forever":
                # A lock is waited for until the grace is over.
                ways = ("sleep", "event", "permit", "pipe", "lock") if grace < 1000 else ("sleep", "event", "permit")
                first.append(Forever(draw(st.sampled_from(ways))))
        return tuple(first)

    def step(depth):
        nonlocal left
        kind = draw(st.sampled_from(nested if depth and left > 0 else simple))
        match kind:
            case "nap":
                return Nap(draw(st.sampled_from((0, 0, 0, 0.3, 2))))
            case "set":
                return Set()
            case "await":
                return Await(draw(st.integers(0, 9)), draw(st.booleans()))
            case "cancel block":
                return CancelBlock(draw(st.integers(0, ANY + 7)))
            case "interrupt":
                return Interrupt()
            case "cancel thread":
                return CancelThread(draw(st.integers(0, 9)))
            case "put":
                return Put(draw(st.integers(0, 1)), draw(st.none() | st.integers(0, 9)))
            case "get":
                return Get(draw(st.integers(0, 1)))
            case "hold":
                return Hold(draw(st.integers(0, 4)), steps(0, 2))
            case "spawn":
                left -= 1
                into = draw(st.sampled_from((0, 0, 0, 0, 0, 1, 2, DEFAULT, *range(ANY, ANY + 6))))
                return Spawn(steps(depth - 1), draw(st.sampled_from(HOW)), into)
            case "block":
                left -= 1
                return block(depth - 1)
            case "limit":
                name = draw(st.sampled_from(("move_on_after", "timeout", "shield")))
                return Limit(name, draw(st.sampled_from((0, 1, 3, 60_000, 60_000))), steps(depth - 1, 3))
            case "try" | "bare":
                return Try(steps(depth - 1, 3), kind == "bare")
            case "finally":
                # With much grace a clean-up that waits for ever does so for long.
                return Finally(steps(depth - 1, 3), steps(0, 2) if grace < 1000 else (Nap(0.3),))
            case "outside":
                left -= 1
                first = ()
                if draw(st.booleans()):
                    which = draw(st.integers(ANY, ANY + 3))
                    first = (CancelBlock(which), Spawn((), draw(st.sampled_from(HOW)), which))
                return Outside((*first, *steps(depth - 1, 3)))

    def block(depth, least=1):
        limit = draw(st.sampled_from(limits))
        timeout = draw(st.sampled_from((None, None, None, None, None, 60_000, 60_000, 60_000, 3, 1)))
        return Block(steps(depth, least + 4, least), limit, timeout, grace, draw(st.sampled_from(policies)))

    kind = where or draw(st.sampled_from(("main", "platform", "virtual")))
    return Program(block(4, least), kind, **options)
