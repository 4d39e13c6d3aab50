"""What a cancel shall not tear apart within the grace: functions that are no cancel points, though they wait.

They are patient, as mutual exclusion is (design §3.2, rule 4): a cancel that comes while they are at work is kept for the
next point after them, unless the grace is over before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from plait._core import Parker, Scope, be_patient
from plait._native import around, cooperative

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")


def patient(function: F, *, hears_own_scopes: bool = False) -> F:
    """`function`, patient. What it opens itself, if it is to be cancelled there as ever, is not concerned.

    Where nothing may park it is `function` alone, and nowhere does it add a frame.
    """
    return around(function, _begin_outside if hears_own_scopes else _begin, _end)


def _begin() -> tuple[Parker, float, Scope | None]:
    me: Parker = cooperative()
    return (me, *be_patient(me, None))


def _begin_outside() -> tuple[Parker, float, Scope | None]:
    me: Parker = cooperative()
    return (me, *be_patient(me, me.scope))


def _end(before: tuple[Parker, float, Scope | None]) -> None:
    me, since, scope = before
    me.patient_since = since
    me.patient_for = scope
