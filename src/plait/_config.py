"""Settings of the process."""

from __future__ import annotations

from typing import Never

from plait._arguments import exact, refused
from plait._core import runtime
from plait._default import set_strict


@exact
def configure(  # noqa: D417 - what it refuses is no argument of its own
    *misplaced: Never, carriers: int | None = None, strict_groups: bool | None = None, **unknown: Never
) -> None:
    """Change settings of this process. Any thread; never waits.

    Args:
        carriers: How many kernel threads run virtual threads. Only before the first of them starts. The default is
            one on builds with a GIL, else as many as there are cores; the environment's `PLAIT_CARRIERS` comes before
            that, and this before both.
        strict_groups: Whether `spawn` and `ThreadGroup.current` are errors where no group is open, instead of leading to
            the default group. At any time.

    Raises:
        TypeError, ValueError: `carriers` is no whole number from 1 up, `strict_groups` neither true nor false.
        RuntimeError: the carriers run already.

    Example:
        >>> import plait
        >>> plait.configure()
    """
    if misplaced or unknown:
        raise refused("configure", misplaced, unknown, "it takes carriers and strict_groups, by name")
    if carriers is not None:
        runtime.configure_carriers(carriers)
    if strict_groups is not None:
        if not isinstance(strict_groups, bool):
            raise TypeError(f"strict_groups must be True or False, not {strict_groups!r}")
        set_strict(strict_groups)
