"""Calls of `multiprocessing`'s managers through their proxies: who gives up an answer gives up its connection, too.

A call is a request and its answer, over a connection that a thread keeps for all proxies of a manager. Who is cancelled
while the manager is at work would leave the answer in the connection, for the thread's next call to take as its own. So
such a call drops the connection, and the next one makes another: the manager's thread at the other end finds nobody to
answer to, and ends. A call that had not begun to ask, or has its answer, keeps it: an RLock of the manager's is owned by
that thread.

The start of a manager is no cancel point, nor torn apart within the grace. A manager whose address did not come even then
is killed: nobody could call it, and its parent would wait for it at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait._errors import Cancelled
from plait._native import cooperative
from plait.patch._late import late_leaves
from plait.patch._messages import tally
from plait.patch._patience import patient
from plait.patch._registry import ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch

_MODULE = "multiprocessing.managers"
_CALL = f"{_MODULE}.BaseProxy._callmethod"
_START = f"{_MODULE}.BaseManager.start"


def _leaves(_: Any) -> Sequence[ClassPatch]:
    call = beneath(_CALL)  # the one door of all calls

    def call_method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if cooperative() is None:
            return call(self, *args, **kwargs)
        before = tally.owed
        try:
            return call(self, *args, **kwargs)
        except BaseException:
            if tally.owed != before:
                tally.owed = before
                _drop_connection(self)
            raise

    start = patient(beneath(_START), hears_own_scopes=True)

    def start_manager(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            start(self, *args, **kwargs)
        except Cancelled:
            _kill_server(self)
            raise

    return [ClassPatch(_CALL, call_method), ClassPatch(_START, start_manager)]


def _drop_connection(proxy: Any) -> None:
    """Nobody takes what may yet come through the connection of the calling thread to the manager of `proxy`."""
    connection = vars(proxy._tls).pop("connection", None)  # noqa: SLF001 - where managers keep it
    if connection is not None:
        connection.close()


def _kill_server(manager: Any) -> None:
    """Whose address did not come."""
    process = getattr(manager, "_process", None)
    if process is not None and process.pid is not None:
        process.kill()


def leaves() -> Sequence[Patch]:
    """What this file changes."""
    return late_leaves(_MODULE, [_CALL, _START], _leaves)
