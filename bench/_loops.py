"""How the loops of others are started, where that takes more than a line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


def run_on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """Run it on uvloop's loop, as ``asyncio.run`` does on asyncio's own."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
