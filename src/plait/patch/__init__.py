"""The leaves of the standard library, made cooperative in place.

A leaf is a function or method that really enters the kernel or really waits. Each is replaced where CPython looks it up
at every call, so whatever is built on it follows: modules imported before, sockets and locks made before, bound methods
kept from before. On platform threads that have no scope of plait's open a leaf behaves as ever.

One file a family; each has `leaves()`. This file installs them when the runtime starts, unless `PLAIT_PATCH=0`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plait._core import runtime
from plait.patch import (
    _descriptors,
    _identity,
    _locks,
    _loops,
    _names,
    _polling,
    _queues,
    _rlocks,
    _sockets,
    _threads,
    _time,
)
from plait.patch._registry import Patch, install_lock

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("install", "status", "uninstall")

_families = (
    _time,
    _locks,
    _rlocks,
    _threads,
    _identity,
    _queues,
    _sockets,
    _names,
    _polling,
    _descriptors,
    _loops,
)
_patches: dict[str, Sequence[Patch]] = {}  # by family, made at the first install. Under install_lock


def install() -> None:
    """Make the leaves cooperative; harmless if they are. Any platform thread; happens by itself at the first spawn.

    Example:
        >>> import plait
        >>> plait.patch.install()
        >>> plait.patch.status()["time.sleep"]
        True
    """
    with install_lock:
        for family in _families:
            name = family.__name__.rpartition("._")[2]
            if name not in _patches:
                _patches[name] = family.leaves()
            for patch in _patches[name]:
                patch.put()


def uninstall() -> None:
    """Put the originals back. Threads that are parked in a leaf stay parked until what they wait for happens.

    Virtual threads that go on running block their carriers from here on: meant for tests, and for a program's end.
    """
    with install_lock:
        for patches in _patches.values():
            for patch in patches:
                patch.take()


def status() -> dict[str, bool]:
    """For each leaf, by name, whether it is cooperative now."""
    with install_lock:
        return {patch.name: patch.is_in_place for patches in _patches.values() for patch in patches}


def _install_unless_told_otherwise() -> None:
    if os.environ.get("PLAIT_PATCH", "1") != "0":
        install()


runtime.on_start.append(_install_unless_told_otherwise)
