"""What is patched: one record a leaf, and the only place that writes into other modules.

Installing is all or nothing: if one leaf cannot be put in place, those that were put before it are taken back.

What is done under the install lock is in part Python's code, so a signal handler may run in the middle of it, and that may
import, ask for the status, or install. So the lock knows its owner, who may take it again. A module that arrives then may
be the very one whose leaves are being looked at: what it brings waits until the owner is about to give the lock back.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import update_wrapper
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from plait import _native
from plait._core import Counter, Lock, lot_set_told
from plait._native import divert, kernel_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

COOPERATIVE, IDENTITY, ALWAYS, GATED, CLOSING = range(5)  # when a replacement is called: see leaf.c


class Patch(Protocol):
    """A change to CPython that can be taken back. The caller of its methods holds the install lock."""

    @property
    def name(self) -> str:
        """As people know it."""

    def put(self) -> None:
        """Put it in place; harmless if it is."""

    def take(self) -> None:
        """Put the original back, where the place still holds ours."""

    @property
    def is_in_place(self) -> bool:
        """Whether it is in place now."""

    @property
    def parks(self) -> int | None:
        """How often it has parked; None if it does so in other leaves alone, or not at all."""


@dataclass(slots=True)
class Leaf:
    """One function or method of CPython, and what becomes of it."""

    name: str  # as people know it
    target: object  # the builtin function or method descriptor
    replacement: Callable[..., Any] | None  # called instead, with the same arguments (self first)
    after: Callable[..., None] | None = None  # called with self after a success, while anybody waits for it in the lot
    when: int = COOPERATIVE
    key: object = None  # the member of self that is its key in the lot; None: its address is. Closing: see leaf.c
    attempt: object = None  # the method that takes self, a lock, if it is called with False: tried first, in C
    number: int | None = field(default=None, init=False)  # in the native table; None: not installed
    _last: int | None = field(default=None, init=False)  # the number, kept when it is taken out again

    def put(self) -> None:
        """See `Patch`."""
        if self.number is None:
            self.number = self._last = _native.install(
                self.target, self.replacement, self.after, self.key, self.when, self.attempt
            )

    def take(self) -> None:
        """See `Patch`."""
        if self.number is not None:
            _native.uninstall(self.number)
            self.number = None

    @property
    def is_in_place(self) -> bool:
        """See `Patch`."""
        return self.number is not None

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        if self.when == CLOSING or (self.replacement is None and self.when != GATED):
            return None
        return 0 if self._last is None else _native.parks(self._last)


_INHERITED: Any = object()
_beneath: dict[FunctionType, FunctionType] = {}  # what was found where a function of ours was made. Under install_lock


def _stand_in(found: Any, replacement: Any, when: int) -> Any:
    """What is put in the place of `found`: for a function of Python one that is like it, except that it is called elsewhere."""
    if not isinstance(found, FunctionType):
        return replacement
    if found.__name__ == "__init__":  # its calls are inlined whatever it is, so it is like that from the outside alone
        return _like(found, replacement) if isinstance(replacement, FunctionType) else replacement  # that: compiled
    made = _like(found, found)
    divert(made, replacement, found if when == COOPERATIVE else None)
    _beneath[made] = found
    return made


def _like(found: FunctionType, does: FunctionType) -> FunctionType:
    """A function that does what `does` does, and looks like `found`."""
    made = FunctionType(does.__code__, does.__globals__, found.__name__, found.__defaults__, does.__closure__)
    update_wrapper(made, found)
    del made.__wrapped__  # type: ignore[attr-defined]  # nobody shall unwrap it; below, if `found` has one itself
    made.__dict__.update(found.__dict__)
    made.__kwdefaults__ = found.__kwdefaults__
    return made


def _is_made_again(found: Any, original: Any) -> bool:
    """Whether `found` is a function that was made by the same lines as `original`: its module was loaded again."""
    return (
        isinstance(found, FunctionType)
        and isinstance(original, FunctionType)
        and found not in _beneath
        and found.__code__ == original.__code__
    )


def _present(cls: type | ModuleType) -> type | ModuleType:
    """`cls`; or, if its module has been loaded again, what is there now in its place."""
    if isinstance(cls, ModuleType):
        return sys.modules.get(cls.__name__, cls)
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    is_same = isinstance(found, type) and (found.__module__, found.__qualname__) == (cls.__module__, cls.__qualname__)
    return found if is_same else cls


@dataclass(slots=True)
class _Place:
    """Where an attribute is replaced."""

    original: Any  # what was found there
    placed: Any  # and what stands there instead


@dataclass(slots=True)
class ClassPatch:
    """One attribute of a Python class, or of a module, that is replaced as usual; or a method that it inherits, covered.

    A function is replaced by one that looks the same (`_native/diverted.c`), so whoever copies it into another class,
    asks for its signature or makes a mock of it finds what he has always found. What is put over ours by others, such as
    a mock, is left alone. If the module is loaded again its new class is another place; the old one keeps ours, too.
    """

    name: str
    cls: type | ModuleType
    attribute: str
    replacement: Any
    counter: Counter | None = None  # where the replacement counts its parks, if those are not another leaf's
    when: int = COOPERATIVE  # or ALWAYS. Of what is no function of Python, always
    _places: dict[type | ModuleType, _Place] = field(default_factory=dict, init=False)  # kept when they are taken out

    def put(self) -> None:
        """See `Patch`."""
        self.cls = _present(self.cls)
        found = self.cls.__dict__.get(self.attribute, _INHERITED)
        place = self._places.get(self.cls)
        if place is None or (found is not place.original and _is_made_again(found, place.original)):
            place = self._places[self.cls] = _Place(found, _stand_in(found, self.replacement, self.when))
        elif found is not place.original:
            return  # others'
        setattr(self.cls, self.attribute, place.placed)

    def take(self) -> None:
        """See `Patch`."""
        for cls, place in self._places.items():
            if cls.__dict__.get(self.attribute) is place.placed:
                if place.original is _INHERITED:
                    delattr(cls, self.attribute)
                else:
                    setattr(cls, self.attribute, place.original)

    @property
    def is_in_place(self) -> bool:
        """See `Patch`. So it is beneath another of ours."""
        cls = _present(self.cls)
        place = self._places.get(cls)
        found: Any = cls.__dict__.get(self.attribute)
        while place is not None and found is not None:
            if found is place.placed:
                return True
            found = _beneath.get(found) if isinstance(found, FunctionType) else None
        return False

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        return None if self.counter is None else self.counter.value()


class _InstallLock:
    """The lock under which leaves are changed. Its owner, a kernel thread, may take it again; nothing parks meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()  # "plait.patch install"
        self._owner = 0  # written by who has the lock: who finds another's number here is not the owner
        self._depth = 0  # how often the owner has taken it
        self._last: list[Callable[[], object]] = []  # what the owner does before it gives it back

    def __enter__(self) -> None:
        if not self._is_mine():
            self._lock.__enter__()
            self._owner = kernel_ident()
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        try:
            while self._depth == 1 and self._last:
                self._last.pop(0)()
        finally:
            self._depth -= 1
            if not self._depth:
                self._owner = 0
                self._lock.__exit__(None, None, None)

    def run(self, act: Callable[[], object]) -> None:
        """Call `act` under the lock: now, or, if the caller is the owner, when that is about to give it back."""
        if self._is_mine():
            self._last.append(act)
        else:
            with self:
                act()

    def forget_others(self) -> None:
        """No other thread has it: in a child process after fork."""
        if not self._is_mine():
            self._owner = self._depth = 0
            self._last.clear()

    def _is_mine(self) -> bool:
        return self._owner == kernel_ident()


install_lock = _InstallLock()
os.register_at_fork(after_in_child=install_lock.forget_others)


def method(cls: type, name: str) -> object | None:
    """The method descriptor `name` of a builtin class; None where this version has none."""
    return cls.__dict__.get(name)


class Family(Protocol):
    """A module of leaves."""

    __name__: str

    def leaves(self) -> Sequence[Patch]:
        """What it makes cooperative, made once."""


_patches: dict[str, Sequence[Patch]] = {}  # by family, made at the first install. Under install_lock


def put_all(families: Iterable[Family]) -> None:
    """Put everything in place that is not: all of it, or none."""
    done: list[Patch] = []
    with install_lock:
        try:
            for family in families:
                name = family.__name__
                if name not in _patches:
                    made = family.leaves()
                    _patches.setdefault(name, made)  # a handler may have come between, and made its own
                for patch in _patches[name]:
                    if not patch.is_in_place:
                        patch.put()
                        done.append(patch)
        except BaseException:
            for patch in reversed(done):
                patch.take()
            raise
        lot_set_told(True)


def take_all() -> None:
    """Put all originals back, the last first."""
    with install_lock:
        for patches in reversed(list(_patches.values())):
            for patch in reversed(patches):
                patch.take()
        lot_set_told(False)


def leaves_by_family() -> dict[str, list[tuple[str, bool, int | None]]]:
    """By the name of its family: name, whether it is in place, and how often it has parked, of each leaf."""
    with install_lock:
        return {
            family: [(patch.name, patch.is_in_place, patch.parks) for patch in patches]
            for family, patches in list(_patches.items())  # a handler may install meanwhile
        }
