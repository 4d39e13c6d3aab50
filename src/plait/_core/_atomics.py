"""The only locks and shared cells that the core may use, and the order in which its locks nest.

Everything here but `Queue` is a full fence where it changes something: see the header of `_native.pyx`. Two kinds of
container are shared without a lock: `Queue` (put and take) and `dict` (item access), which are safe on their own on
every build; nothing relies on two such steps happening together.
"""

from __future__ import annotations

import os

from plait._native import Counter, Flag, Lock, Queue, Rundown, WaitWord, count_fork

__all__ = ("LOCK_ORDER", "Counter", "Flag", "Lock", "Queue", "Rundown", "WaitWord")

# Outermost first. A thread that holds a lock may take only one that stands further down; what is not named is a leaf:
# nothing is taken while it is held.
LOCK_ORDER = (
    "plait.patch install",
    "runtime start",
    "group members",
    "future watchers",
    "parking lot",
    "wait-for graph",
    "readers and writers",
    "lookout",
    "channel",  # select holds those of several: it takes them in the order of their addresses, so no circle can close
)

# Before whatever else plait does in a forked child: modules further up are imported later, and called later.
os.register_at_fork(after_in_child=count_fork)
