"""The end of the process: something is done after all that `atexit` calls, and before CPython stops other threads.

`atexit` calls last what was registered first, so whatever is registered in the middle of a program is not the last. But
it holds what it calls until everything has been called, and then lets go of all of it at once. CPython marks the
interpreter as ending only after that. So what is to be last is done by the finalizer of an object that `atexit` alone
holds:

    atexit:    1. calls what is registered  2. lets go of that, and of what was registered meanwhile
    Farewell:  in 1. registers another of its kind, which is not called any more; in 2. both are finalized, and act

The other one is made by the thread that lets go of it. On builds without a GIL an object that another thread has made is
finalized when that thread next runs code of Python, which may never be. To act twice does no harm.

`atexit` also forgets or calls all that it holds where the process goes on: `multiprocessing` has its forked children do
so. What tells the end is that `threading` has shut down, which comes before, in the process that has registered us: a
child may be forked by a handler. Where the process goes on, `threading` registers us anew when it shuts down: in the middle
of 2. that would be without end up to 3.13.

From 3.15 on CPython begins anew with `threading` if a handler of `atexit` has started a thread. We act in the first round.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Farewell:
    """What `atexit` holds, and nobody else. See the header."""

    _process = 0  # that of nobody, until it is complete: Ctrl-C may come while it is made

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._process = os.getpid()

    def __call__(self) -> None:
        """`atexit` has come to it: others are yet to be called."""
        atexit.register(Farewell(self._act))

    def __del__(self) -> None:
        if os.getpid() != self._process:
            return
        if threading._SHUTTING_DOWN:  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other sign of the end
            self._act()
        else:
            threading._register_atexit(at_the_very_end, self._act)  # type: ignore[attr-defined]  # noqa: SLF001


def at_the_very_end(act: Callable[[], None]) -> None:
    """Have `act()` called when the process ends, after all that `atexit` calls. It may be called twice."""
    atexit.register(Farewell(act))
