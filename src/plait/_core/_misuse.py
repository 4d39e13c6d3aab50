"""Scopes that do not reach what they seem to: warned about where it shows.

Two traps. A time limit around a spawn does not limit the spawned thread, which belongs to its group: told by the scopes
between the spawner and the group. And a generator that is suspended inside a scope leaves that scope open in whoever
runs it: told by the frame that has opened the scope, which has nobody behind it while its generator is suspended. It is
looked at where it does harm: when something is opened or spawned inside, and when a cancel strikes.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

from plait._errors import TimeoutDoesNotReachChild, YieldInsideScope
from plait._native._native import caller_code

if TYPE_CHECKING:
    from types import FrameType

    from plait._core._tree import Scope, Victim

_SUSPENDABLE = 0x20 | 0x80 | 0x200  # co_flags of generators, coroutines and asynchronous generators

# Those who run a generator as one block: what is open at its yield belongs around whatever they run meanwhile. Modules;
# or a whole package, as pluggy, which runs the hook wrappers of pytest, in a module of another name now and then.
_BLOCK_MAKERS = {"contextlib", "_pytest.fixtures", "pytest_asyncio.plugin", "pluggy"}


def suspendable_caller() -> FrameType | None:
    """The frame of the innermost function of Python, if that is a generator which may be suspended among others' work."""
    code = caller_code()
    if code is None or not code.co_flags & _SUSPENDABLE:
        return None
    frame = sys._getframe()  # noqa: SLF001 - of whoever called us: compiled functions have none
    behind = frame.f_back
    while behind is not None and behind.f_code.co_flags & _SUSPENDABLE:  # that delegates to it, by `yield from`
        behind = behind.f_back
    if behind is not None:
        module = str(behind.f_globals.get("__name__"))
        if module in _BLOCK_MAKERS or module.partition(".")[0] in _BLOCK_MAKERS:
            return None
    return frame


def check_openers(me: Victim) -> None:
    """Warn about each scope of `me` that a suspended generator has left open, once. Calling thread only."""
    scope = me.scope
    while scope is not None and scope is not me:
        if scope.opener is not None:
            _check_opener(scope)
        scope = scope.parent


def check_reach(me: Victim, target: Scope) -> None:
    """`me`, inside scopes of its own, starts something under `target`: warn if a time limit of its own does not reach it."""
    check_openers(me)
    scope = me.scope
    while scope is not None and scope is not me and scope is not target:
        if scope.is_time_limit:
            warnings.warn(
                f"{scope!r} does not limit what is spawned inside it into {target!r}, which lies outside. Open the group "
                f"inside the time limit, give the group a timeout, or put the limit into the function that is spawned",
                TimeoutDoesNotReachChild,
                stacklevel=1,
            )
            return
        scope = scope.parent


def _check_opener(scope: Scope) -> None:
    frame = scope.opener
    assert frame is not None
    if frame.f_back is not None or is_outermost(frame):
        return
    scope.opener = None
    code = frame.f_code
    warnings.warn(
        f"{scope!r} is open in {code.co_qualname}, {code.co_filename}:{frame.f_lineno}, which is suspended there: whoever "
        f"runs it is inside that scope meanwhile, with its time limit and its cancels. Leave the scope before each yield, "
        f"or hand the values over through pmap or a Channel",
        YieldInsideScope,
        stacklevel=1,
    )


def is_outermost(frame: FrameType) -> bool:
    """Whether the calling thread began with `frame`."""
    if caller_code() is None:
        return False
    above = sys._getframe()  # noqa: SLF001 - as above
    while above.f_back is not None:
        above = above.f_back
    return above is frame
