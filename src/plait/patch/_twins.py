"""An object over the descriptor of a socket on which CPython does not wait by itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from plait._originals import Socket

if TYPE_CHECKING:
    from collections.abc import Iterator

_family = Socket.family.__get__
_type = Socket.type.__get__
_proto = Socket.proto.__get__
_fileno = Socket.fileno
_gettimeout = Socket.gettimeout
_settimeout = Socket.settimeout


@contextmanager
def twinned(sock: Any, timeout: float | None) -> Iterator[Any]:
    """The twin of `sock`, whose timeout is given.

    With a timeout of None that is the socket itself. With seconds the descriptor is in non-blocking mode already, but
    CPython would poll it first; an object without the timeout does not.
    """
    if timeout is None:
        yield sock
        return
    twin = Socket(_family(sock), _type(sock), _proto(sock), _fileno(sock))
    try:
        if _gettimeout(twin) is not None:  # socket.setdefaulttimeout
            _settimeout(twin, 0)
        yield twin
    finally:
        twin.detach()
