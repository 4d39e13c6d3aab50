"""The only locks and shared cells that the core may use, and the order in which its locks nest.

Everything here is a full fence where it changes something: see the header of `_native.pyx`. Two kinds of container are
shared without a lock: `collections.deque` (append and popleft) and `dict` (item access), which CPython makes safe on
their own on every build; nothing relies on two such steps happening together.
"""

from __future__ import annotations

from plait._native import Counter, Flag, Lock, Rundown, WaitWord

__all__ = ("LOCK_ORDER", "Counter", "Flag", "Lock", "Rundown", "WaitWord")

# Outermost first. A thread that holds a lock may take only one that stands further down; what is not named is a leaf:
# nothing is taken while it is held.
LOCK_ORDER = (
    "plait.patch install",
    "runtime start",
    "group members",
    "future watchers",
    "parking lot",
)
