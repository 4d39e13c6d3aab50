"""How the loops of others are started: one coroutine, or a contender that is a coroutine function."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from bench._model import Params, Report

    #: What a contender does, as a coroutine function.
    Main = Callable[[Params, Report], Coroutine[Any, Any, None]]


def run_on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """Run it on uvloop's loop, as ``asyncio.run`` does on asyncio's own."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def on_asyncio(main: Main) -> Callable[[Params, Report], None]:
    """Return a contender that runs ``main`` on asyncio's own loop."""

    def run(params: Params, report: Report) -> None:
        asyncio.run(main(params, report))

    return run


def on_uvloop(main: Main) -> Callable[[Params, Report], None]:
    """Return a contender that runs ``main`` on uvloop's loop."""

    def run(params: Params, report: Report) -> None:
        run_on_uvloop(main(params, report))

    return run
