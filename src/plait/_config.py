"""Settings of the process."""

from __future__ import annotations

from plait._core import runtime


def configure(*, carriers: int | None = None) -> None:
    """Change settings of this process. Any thread; never waits.

    Args:
        carriers: How many kernel threads run virtual threads. Only before the first of them starts. The default is
            one on builds with a GIL, else as many as there are cores; the environment's `PLAIT_CARRIERS` comes before
            that, and this before both.

    Raises:
        TypeError, ValueError: not a whole number from 1 up.
        RuntimeError: the carriers run already.

    Example:
        >>> import plait
        >>> plait.configure()
    """
    if carriers is not None:
        runtime.configure_carriers(carriers)
