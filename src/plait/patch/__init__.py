"""The leaves of the standard library, made cooperative in place.

A leaf is a function or method that really enters the kernel or really waits. Each is replaced where CPython looks it up
at every call, so whatever is built on it follows: modules imported before, sockets and locks made before, bound methods
kept from before. On platform threads that have no scope of plait's open a leaf behaves as ever.

One file a family; each has `leaves()`. This file installs them when the runtime starts, unless `PLAIT_PATCH=0`.
"""

from __future__ import annotations

import os

from plait._core import runtime
from plait.patch import (
    _conditions,
    _descriptors,
    _identity,
    _locks,
    _looks,
    _loops,
    _names,
    _polling,
    _queues,
    _rlocks,
    _sockets,
    _threads,
    _time,
)
from plait.patch._registry import put_all, states, take_all

__all__ = ("install", "status", "uninstall")

_families = (
    _time,
    _locks,
    _rlocks,
    _conditions,
    _looks,
    _threads,
    _identity,
    _queues,
    _sockets,
    _names,
    _polling,
    _descriptors,
    _loops,
)


def install() -> None:
    """Make the leaves cooperative; harmless if they are. Any platform thread; happens by itself at the first spawn.

    Example:
        >>> import plait
        >>> plait.patch.install()
        >>> plait.patch.status()["time.sleep"]
        True
    """
    put_all(_families)


def uninstall() -> None:
    """Put the originals back. Threads that are parked in a leaf stay parked until what they wait for happens.

    Virtual threads that go on running block their carriers from here on: meant for tests, and for a program's end.
    """
    take_all()


def status() -> dict[str, bool]:
    """For each leaf, by name, whether it is cooperative now."""
    return states()


def _install_unless_told_otherwise() -> None:
    if os.environ.get("PLAIT_PATCH", "1") != "0":
        install()


runtime.on_start.append(_install_unless_told_otherwise)
