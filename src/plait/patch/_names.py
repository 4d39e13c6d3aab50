"""Name resolution: `getaddrinfo` and its kin run on a worker; numbers need no worker.

What is still being looked up when its caller is cancelled goes on, and the answer is dropped. Services and protocols
(`getservbyname` and its kin) are looked up in local tables, and are no leaves.
"""

from __future__ import annotations

import _socket
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core import Parker, check_entry, runtime
from plait._native import builtin, cooperative
from plait.patch._registry import ClassPatch, Leaf

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPECIAL_HOSTS = ("", b"", "<broadcast>", b"<broadcast>")  # which C knows without looking them up


def is_numeric(host: Any) -> bool:
    """Whether `host` is an address already, in digits."""
    if host is None:
        return True
    if isinstance(host, bytes):
        try:
            host = host.decode("ascii")
        except UnicodeDecodeError:
            return False
    if not isinstance(host, str):
        return False
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


def lookup(*args: Any) -> list[Any]:
    """`getaddrinfo(*args)` on a worker, while the calling thread parks."""
    found: list[Any] = runtime.offload.call(cooperative(), _originals.getaddrinfo, *args)
    return found


def numeric(family: int, address: Any) -> Any:
    """An internet address whose host is a name, with the name looked up: C would wait for that inside."""
    if family not in (_socket.AF_INET, _socket.AF_INET6) or not isinstance(address, tuple) or not address:
        return address
    host = bytes(address[0]) if isinstance(address[0], bytearray) else address[0]
    if not isinstance(host, (str, bytes)) or host in _SPECIAL_HOSTS or is_numeric(host):
        return address
    if "\0" in host if isinstance(host, str) else b"\0" in host:
        return address  # the original refuses it
    try:
        found = lookup(host, None, family)
    except (UnicodeError, ValueError):
        return address  # so does it here
    return (found[0][4][0], *address[1:])


def getaddrinfo(
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[Any]:
    """`socket.getaddrinfo`, underneath."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)
    if is_numeric(host):
        return _originals.getaddrinfo(host, port, family, type, proto, flags)
    return lookup(host, port, family, type, proto, flags)


def _elsewhere(name: str) -> Leaf:
    """A leaf that always runs on a worker."""

    def leaf(*args: Any) -> Any:
        return runtime.offload.call(cooperative(), getattr(_originals, name), *args)

    return Leaf(f"socket.{name}", builtin(_socket, name), leaf)


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    others = ("gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")
    return [
        Leaf("socket.getaddrinfo", builtin(_socket, "getaddrinfo"), getaddrinfo),
        *(_elsewhere(name) for name in others),
    ]
