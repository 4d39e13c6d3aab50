"""Every interleaving of a model: a depth-first search over the orders in which its actors may take their steps.

A *world* has `actors`, stacks of their own that give way before every atomic step; `state()`, by which one that was seen
is known again; and `check()`, called when nobody can go on, which raises `Lost` if that is bad.
"""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import greenlet

import plait._core


class Lost(AssertionError):
    """There is something to do, and everybody sleeps on."""


class Actor(greenlet.greenlet):
    """One thread of a model. Its steps set `at`, where it is, and `needs`, what must be true before it can go on."""

    def __init__(self, act):
        super().__init__(act)
        self.at = "start"
        self.needs = None

    def can_run(self):
        return not self.dead and (self.needs is None or self.needs())


def load_source(name):
    """The Python source of a module of the core, whether or not what is installed was compiled from it."""
    source = Path(plait._core.__file__).parent / f"{name}.py"
    spec = spec_from_file_location(f"plait{name}_source", source)
    module = module_from_spec(spec)
    SourceFileLoader(spec.name, str(source)).exec_module(module)
    return module


def explore(build):
    """Run the worlds that `build()` makes in every order of their steps; the number of states."""
    seen = set()
    todo = [[]]
    while todo:
        choices = todo.pop()
        options = _run(build(), choices, seen)
        path = choices + [0] * (len(options) - len(choices))
        for depth in range(len(choices), len(options)):
            todo.extend([*path[:depth], choice] for choice in range(1, options[depth]))
    return len(seen)


def _run(world, choices, seen):
    """One run along `choices`, then always the first; how many could run at each new point. Stops at a known state."""
    options = []
    for depth in range(10_000):
        if depth >= len(choices):
            state = world.state()
            if state in seen:
                break
            seen.add(state)
        able = [actor for actor in world.actors if actor.can_run()]
        if not able:
            world.check()
            break
        choice = choices[depth] if depth < len(choices) else 0
        options.append(len(able))
        able[choice].switch()
    else:
        raise AssertionError("a run that does not end")
    for actor in world.actors:
        if not actor.dead:
            actor.throw()
    return options
