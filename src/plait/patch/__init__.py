"""The leaves of the standard library, made cooperative in place.

A leaf is a function or method that really enters the kernel or really waits. Each is replaced where CPython looks it up
at every call, so whatever is built on it follows: modules imported before, sockets and locks made before, bound methods
kept from before. Whatever others have put under its name, a mock or a wrapper, goes on as it was put there, in front
of the leaf. On platform threads that have no scope of plait's open a leaf behaves as ever.

One file a family; each has `leaves()`. This file installs them when the runtime starts, unless `PLAIT_PATCH=0`.
"""

from __future__ import annotations

import os

from plait._core import runtime
from plait.patch import (
    _blocks,
    _buffered,
    _closing,
    _conditions,
    _connections,
    _console,
    _decimals,
    _descriptors,
    _drivers,
    _endings,
    _eventfds,
    _filelocks,
    _files,
    _hashes,
    _identity,
    _imports,
    _locks,
    _looks,
    _loops,
    _managers,
    _messages,
    _names,
    _opening,
    _polling,
    _processes,
    _queues,
    _rlocks,
    _semaphores,
    _signals,
    _sockets,
    _threads,
    _time,
    _tls,
    _virtual,
)
from plait.patch._late import catch_up
from plait.patch._registry import put_all, take_all
from plait.patch._status import LeafStatus, PatchStatus, current_status

__all__ = ("LeafStatus", "PatchStatus", "install", "status", "uninstall")

_families = (
    _hashes,
    _time,
    _locks,
    _rlocks,
    _conditions,
    _looks,
    _threads,
    _identity,
    _imports,
    _queues,
    _sockets,
    _connections,
    _tls,
    _names,
    _polling,
    _closing,
    _descriptors,
    _blocks,
    _eventfds,
    _opening,
    _files,
    _buffered,
    _endings,
    _filelocks,
    _console,
    _processes,
    _semaphores,
    _messages,
    _managers,
    _signals,
    _loops,
    _drivers,
    _decimals,
)


def install(*, virtual_threads: bool = False) -> None:
    """Make the leaves cooperative; harmless if they are. Any thread; happens by itself at the first spawn.

    All of them, or none; but for methods in Python that plait has never seen, since others had put something in their
    places: `status` says so, and the next call finds those that are there by then. With `PLAIT_PATCH=0` in the environment it does not happen by itself: virtual threads run, but
    every blocking call in them blocks its carrier, and with it all threads of that carrier, until it returns. What is
    plait's own (groups, futures, channels, mutexes, `plait.lowlevel`) parks as ever. If another thread is just importing a
    module that has leaves, such as `ssl`, that is waited for.

    Args:
        virtual_threads: Whether each `threading.Thread` that is started from now on, of whatever class, runs on a virtual
            thread, as a `plait.Thread` does: what `python -m plait --virtual-threads` does to a program.

    Raises:
        RuntimeError: somebody else has changed the method table entry of a leaf.

    Example:
        >>> import plait
        >>> plait.patch.install()
        >>> plait.patch.status()["time.sleep"].is_patched
        True
    """
    put_all((*_families, _virtual) if virtual_threads else _families)
    catch_up()


def uninstall() -> None:
    """Put the originals back; harmless if they are. Any thread.

    Threads parked in a leaf come out of it as ever. Those that wait for a lock or a queue look at it every 10 ms, since
    nobody tells them any more; and if a descriptor is closed while others wait in it, they are not told either, no more
    than kernel threads are.

    Every leaf is then what it was, the very same object with the very same C function behind it. What others have put
    in front of one stays there. Virtual threads that go on running block their
    carriers from here on, and have the identity of their carrier, so that an RLock that one of them holds is not its own
    any more: meant for tests, and for a program's end.
    """
    take_all()


def status() -> PatchStatus:
    """What is patched, by which file, and how often it has parked: a record a leaf, by name. Any thread; never waits.

    Before the first `install` there is nothing in it.

    Example:
        >>> import plait
        >>> plait.patch.install()
        >>> print(plait.patch.status()["select.select"])  # doctest: +ELLIPSIS
        select.select: patched by plait/patch/_polling.py, has parked ... times
        >>> table = str(plait.patch.status())
    """
    return current_status()


def _install_unless_told_otherwise() -> None:
    if os.environ.get("PLAIT_PATCH", "1") != "0":
        install()


runtime.on_start.append(_install_unless_told_otherwise)
