"""The clock of the core: monotonic seconds."""

from __future__ import annotations

from plait._native._native import now

__all__ = ("LONGEST_WAIT", "now")

# A wait that ends later than this is cut into pieces by whoever hands it to the kernel.
LONGEST_WAIT = 1_000_000.0
