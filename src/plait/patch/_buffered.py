"""Buffered files (`BufferedReader`, `BufferedWriter`, `BufferedRandom`), and with them `print` and text files: one at a
time.

CPython keeps others out of such an object with a lock that is keyed by the kernel thread and waits in C. Whoever can
park takes a turn at the object first, before the gate that gate.c describes, where also the protocol is; so CPython's
lock never has to wait, and never takes two virtual threads of one carrier for one. Who finds nobody there is not seen
here: taking a turn, the call and giving it back are C. The wait for a turn is mutual exclusion: patient, and no cancel
point on entry. What waits inside is the raw file, a leaf of its own.

A flush that is cancelled leaves in the buffer what it has not written, and CPython counts what it has: a raw write that
is cancelled half-way says how much. `close` is no cancel point: a cancel that comes while it flushes is kept for the next
one, and the rest is written within the grace. Then it is given up, the file closed, and `Cancelled` raised.
"""

from __future__ import annotations

import _io
import io
import os
from typing import TYPE_CHECKING, Any

from plait._core import Parker, WaitReason, current_thread, lot_wait, lot_wake_one, patiently, sleep
from plait._errors import InternalError
from plait._native import (
    cooperative,
    gate_fits,
    gate_forget,
    gate_is_held,
    gate_iteration,
    gate_open,
    gate_owner,
    gate_try,
    kernel_ident,
    original,
)
from plait.patch._patience import patient
from plait.patch._registry import GATED, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch

_READING = ("read", "read1", "readinto", "readinto1", "readline", "peek")
_WRITING = ("write", "flush")
_EITHER = ("seek", "truncate", "detach", "close")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.05  # seconds


def wait(file: Any) -> Parker | None:
    """It is somebody's turn at `file`: take the next one; whose that is, or None if the caller goes in without."""
    me = current_thread()  # a platform thread, too: CPython's lock would not be left to who has the turn
    if gate_is_held(file, me):
        return None
    is_mine: bool | None = False

    def attempt() -> bool:
        nonlocal is_mine
        is_mine = gate_try(file)
        return is_mine is not False

    while not is_mine:
        lot_wait(me, id(file), attempt, WaitReason.FILE, None, True)
        if is_mine is None:
            if cooperative() is None:
                return None  # a kernel thread waits for another: CPython's lock is for both
            is_mine = patiently(me, _try_behind_stranger, file)
    return me


def _try_behind_stranger(file: Any) -> bool | None:
    """Try to take the turn when the kernel thread that is inside has come out, which the gate does not know of."""
    pause = _FIRST_PAUSE
    while (is_mine := gate_try(file)) is None:
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return is_mine


def wake(file: Any) -> None:
    """A turn at `file` is over, or the last one without a turn has come out."""
    lot_wake_one(id(file))


class _Iteration:
    """`for line in file` on objects of exactly this class, which does not call `readline` by name."""

    def __init__(self, cls: type) -> None:
        self.name = f"io.{cls.__name__}.__next__"
        self.is_in_place = False
        self.parks: int | None = None  # the raw file's
        self._cls = cls

    def put(self) -> None:
        """See `Patch`."""
        gate_iteration(self._cls, self._cls.__dict__["__next__"], True)
        self.is_in_place = True

    def take(self) -> None:
        """See `Patch`."""
        gate_iteration(self._cls, self._cls.__dict__["__next__"], False)
        self.is_in_place = False


class _Probe(io.RawIOBase):
    """A raw file that looks at the words of the object that reads it."""

    buffered: Any = None
    owner = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.owner = gate_owner(self.buffered)
        return 0


def check_layout() -> None:
    """Look whether a Buffered object is what gate.c takes it for."""
    probe = _Probe()
    buffered = probe.buffered = _io.BufferedReader(probe)
    original(method(_io.BufferedReader, "read"))(buffered, 1)
    is_known = gate_fits(buffered) and probe.owner == kernel_ident() and not gate_owner(buffered)
    probe.buffered = None
    if not is_known:
        raise InternalError(
            "the Buffered objects of this interpreter are laid out in an unknown way: plait cannot run on it"
        )


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    check_layout()
    gate_open(wait, wake)
    found: list[Patch] = [_Iteration(_io.BufferedReader), _Iteration(_io.BufferedRandom)]
    for cls, names in {
        _io.BufferedReader: (*_READING, *_EITHER),
        _io.BufferedWriter: (*_WRITING, *_EITHER),
        _io.BufferedRandom: (*_READING, *_WRITING, *_EITHER),
    }.items():
        for name in names:
            target = method(cls, name)
            leaf: Any = None
            if name == "close" and cls is not _io.BufferedReader:
                leaf = patient(original(target))
            found.append(Leaf(f"io.{cls.__name__}.{name}", target, leaf, when=GATED))
    return found


os.register_at_fork(after_in_child=gate_forget)
