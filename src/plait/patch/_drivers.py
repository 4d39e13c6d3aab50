"""Drivers written in C that offer a hook where they wait: psycopg2 and psycopg 3. Patched when they are imported.

psycopg 3 waits in one function, which its connections look up in `psycopg.waiting` at each wait; written in C it blocks.
Where something may park, the one that psycopg has in Python takes its place: it stands on `select.epoll`, a leaf. A cancel
is treated as psycopg treats Ctrl-C: the query is cancelled on the server, and the connection is usable after that. Its
pool knows failures as `Exception` alone, and is told of `Cancelled`.

psycopg2 has one wait callback a process, and with it the whole process is in another mode: each query is sent
asynchronously, and the callback waits. That costs every thread COPY, large objects, and connections that threads share
while they are at work. So the callback is not set when the driver is imported, but when something that may park first
connects, asks for a cursor, executes or ends a transaction; a program that uses the driver on platform threads alone
keeps all of it. A callback that the program has set itself is left alone, and what it sets later is. COPY does not set
it: without the callback it waits in C, with it it is refused. See docs/adr/0013.
"""

from __future__ import annotations

from contextlib import suppress
from types import FunctionType
from typing import TYPE_CHECKING, Any

from plait._core import READ, WRITE, Counter, Parker, runtime, wait_descriptor
from plait._errors import Cancelled
from plait._native import cooperative, original
from plait._originals import make_poll, poll_poll
from plait.patch._late import late_leaves
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plait.patch._registry import Patch

# ---- psycopg 3


def _undiverted(wait: Any) -> Any:
    """One of psycopg's functions, which are leaves under several names if they are in Python."""
    return original(wait) if isinstance(wait, FunctionType) else wait


def _waiting(module: Any) -> Sequence[ClassPatch]:
    native, portable = _undiverted(module.wait), _undiverted(getattr(module, "wait_epoll", module.wait_selector))
    parks = Counter()

    def wait(*args: Any, **kwargs: Any) -> Any:
        me: Parker | None = cooperative()
        if me is None:
            return native(*args, **kwargs)
        before = me.park_count
        try:
            return portable(*args, **kwargs)
        finally:
            parks.add(me.park_count - before)

    wait.__doc__ = native.__doc__
    return [ClassPatch("psycopg.waiting.wait", wait, parks)]


def _interrupted(module: Any) -> Sequence[ClassPatch]:
    """What cancels a query, for connections: to Ctrl-C we add a cancel."""
    known = getattr(module, "_INTERRUPTED", None)
    if known is None:  # an older one: the connection is closed by whoever finds it at work
        return []
    kinds = (*(known if isinstance(known, tuple) else (known,)), Cancelled)
    return [ClassPatch("psycopg.connection._INTERRUPTED", kinds)]


def _failures(module: Any) -> Sequence[ClassPatch]:
    """After what a pool takes a waiter off its list again: one that was cancelled would be given a connection."""
    kinds = (module.CLIENT_EXCEPTIONS, Cancelled)
    return [ClassPatch("psycopg_pool.pool.CLIENT_EXCEPTIONS", kinds)]


# ---- psycopg2

# What may be the first that a virtual thread does with a connection or a cursor that others have made.
_PSYCOPG2_METHODS = (
    "connection.cursor",
    "connection.commit",
    "connection.rollback",
    "cursor.execute",
    "cursor.executemany",
    "cursor.callproc",
)
_POLL_OK, _POLL_READ = 0, 1  # what connection.poll() says; POLL_WRITE is 2, and an error is raised


class _WaitCallback:
    """The wait callback of psycopg2: a patch, put in place in two steps."""

    name = "psycopg2 wait callback"

    def __init__(self, module: Any) -> None:
        self._module = module
        self._parks = Counter()
        self._is_wanted = False  # written under install_lock
        self._is_set = False  # it has been, or the program had one of its own: not again before it is taken back

    def put(self) -> None:
        """See `Patch`."""
        self._is_wanted = True

    def take(self) -> None:
        """See `Patch`."""
        self._is_wanted = self._is_set = False
        if self._module.get_wait_callback() == self.wait:
            self._module.set_wait_callback(None)

    @property
    def is_in_place(self) -> bool:
        """See `Patch`."""
        return self._is_wanted

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        return self._parks.value()

    def first(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A leaf that sets the callback, once, and then does what it has always done."""

        def leaf(*args: Any, **kwargs: Any) -> Any:
            if self._is_wanted and not self._is_set:
                self._is_set = True
                if self._module.get_wait_callback() is None:
                    self._module.set_wait_callback(self.wait)
            return call(*args, **kwargs)

        return leaf

    def wait(self, connection: Any) -> None:
        """Wait until what `connection` does is done. On whatever thread that is."""
        me: Parker | None = cooperative()
        before = 0 if me is None else me.park_count
        try:
            while (state := connection.poll()) != _POLL_OK:
                events = READ if state == _POLL_READ else WRITE
                if me is None:
                    poll = make_poll()
                    poll.register(connection.fileno(), events)
                    poll_poll(poll)
                else:
                    wait_descriptor(me, connection.fileno(), events)
        except Cancelled:
            # psycopg2 closes the connection now; the server would go on with the query nevertheless.
            with suppress(Exception):
                runtime.offload.call(me, connection.cancel)  # type: ignore[arg-type]
            raise
        finally:
            if me is not None:
                self._parks.add(me.park_count - before)


def _psycopg2(module: Any) -> Sequence[Patch]:
    callback = _WaitCallback(module)
    leaves: list[Patch] = [
        callback,
        Leaf("psycopg2.connect", module._connect, callback.first(original(module._connect))),  # noqa: SLF001
    ]
    for name in _PSYCOPG2_METHODS:
        kind, method = name.split(".")
        call = getattr(module, kind).__dict__[method]
        leaves.append(Leaf(f"psycopg2.{name}", call, callback.first(original(call))))
    return leaves


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    return [
        *late_leaves("psycopg.waiting", ["psycopg.waiting.wait"], _waiting),
        *late_leaves("psycopg.connection", ["psycopg.connection._INTERRUPTED"], _interrupted),
        *late_leaves("psycopg_pool.pool", ["psycopg_pool.pool.CLIENT_EXCEPTIONS"], _failures),
        *late_leaves(
            "psycopg2._psycopg",
            [_WaitCallback.name, "psycopg2.connect", *(f"psycopg2.{name}" for name in _PSYCOPG2_METHODS)],
            _psycopg2,
        ),
    ]
