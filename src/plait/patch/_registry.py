"""What is patched: one record a leaf, and the only place that writes into other modules.

What stands under a leaf's name when it is installed may be anything: a mock, or a wrapper, of a test or for good. So no leaf
is looked for under its name. A function written in C is taken from the table of its module (`builtin()`), and one in Python
is known from the import of plait (`beneath()`), under what it was wrapped in by then. Where that could not be seen, and has
no way back to what it hides, the leaf is left out, which its status says; the next install looks again.

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
from plait._native import divert, kernel_ident, original, undivert

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


# ---- methods and functions that CPython has in Python

_LAYERS = 10  # of wrappers, around one function
_known: dict[str, FunctionType] = {}  # by name, as they were found first. Written at imports, and under install_lock
_ways: dict[
    FunctionType, list[ClassPatch]
] = {}  # whose replacements it has, the last one that which is called. Likewise


def _owner(name: str) -> Any:
    """The class or module of this name; None if there is none, or something else stands there now."""
    parts = name.split(".")
    end = len(parts)
    while end and ".".join(parts[:end]) not in sys.modules:
        end -= 1
    module = found = sys.modules.get(".".join(parts[:end]))
    for part in parts[end:]:
        found = getattr(found, part, None)
    if found is module:
        return found if isinstance(found, ModuleType) else None
    if not isinstance(found, type):
        return None
    return found if (found.__module__, found.__qualname__) == (".".join(parts[:end]), ".".join(parts[end:])) else None


def _is_function(found: object) -> bool:
    """Whether it is one itself, and not something that only says so, as wrappers do."""
    return issubclass(type(found), FunctionType)


def _genuine(name: str) -> FunctionType | None:
    """CPython's own function of this name, under what others have wrapped it in; None if it cannot be seen."""
    owner_name, _, attribute = name.rpartition(".")
    owner = _owner(owner_name)
    if owner is None:
        return None
    module = owner if isinstance(owner, ModuleType) else sys.modules.get(owner.__module__)
    found = owner.__dict__.get(attribute)
    for _ in range(_LAYERS):
        if _is_function(found) and found.__globals__ is vars(module):
            return found  # type: ignore[no-any-return]
        found = getattr(found, "__wrapped__", None)
    return None


def _seen(name: str) -> FunctionType | None:
    """The function of this name: as it is now, if it was made by the same lines as the one that is known; else that."""
    known, found = _known.get(name), _genuine(name)
    if found is not None and (known is None or found.__code__ == known.__code__):
        return found
    return known


class _Hidden:
    """A function that could not be seen when plait was imported. It is by the time that anybody calls it here."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return original(_known[self._name])(*args, **kwargs)


def beneath(name: str) -> Any:
    """What the function of CPython's with this name does when it is no leaf: for replacements, which call it.

    Who asks while plait is imported finds the function itself, if its module is there. From then on it is known, whatever
    others put in its place.
    """
    found = _seen(name)
    if found is None:
        return _Hidden(name)
    _known[name] = found
    return original(found)


def _point(function: FunctionType, ways: list[ClassPatch]) -> None:
    """Have the function go the last of its ways."""
    if ways:
        divert(function, ways[-1].replacement, ways[-1].plain(function))
    else:
        undivert(function)


_INHERITED: Any = object()


def _like(found: FunctionType, does: FunctionType) -> FunctionType:
    """A function that does what `does` does, and looks like `found`."""
    made = FunctionType(does.__code__, does.__globals__, found.__name__, found.__defaults__, does.__closure__)
    update_wrapper(made, found)
    del made.__wrapped__  # type: ignore[attr-defined]  # nobody shall unwrap it; below, if `found` has one itself
    made.__dict__.update(found.__dict__)
    made.__kwdefaults__ = found.__kwdefaults__
    return made


@dataclass(slots=True)
class _Place:
    """Where an attribute is replaced."""

    original: Any  # what was found there
    placed: Any  # and what stands there instead


@dataclass(slots=True, eq=False)
class ClassPatch:
    """A method or function that CPython, or a driver, has in Python; or another value in a class or module.

    A function stays where and what it is, and is called elsewhere (`_native/diverted.c`). So it is as with leaves in C: it
    makes no difference under what names it is known, nor by whom it is wrapped; and who has put something else in its
    place, such as a mock, has that called, and has taken the place of a leaf that goes on being one.

    What is no function, an `__init__`, or inherited, is replaced as usual, in its class or module. What others put there is
    left alone; when it is gone, the next install sees to it.

    If the module is loaded again, what is there then is one more to be changed; the former keeps ours, too.
    """

    name: str  # of module, class and attribute; whatever stands before it, and a space, is left out
    replacement: Any
    counter: Counter | None = None  # where the replacement counts its parks, if those are not another leaf's
    when: int = COOPERATIVE  # or ALWAYS. Of what is no function of Python, always
    _functions: dict[FunctionType, Any] = field(default_factory=dict, init=False)  # each with a copy that is no leaf
    _places: dict[type | ModuleType, _Place] = field(default_factory=dict, init=False)  # kept when they are taken out

    def put(self) -> None:
        """See `Patch`."""
        found = self._function()
        if found is not None and found not in self._functions:
            self._functions[found] = original(found)
            _known.setdefault(self._path(), found)
        for function in self._functions:
            ways = _ways.setdefault(function, [])
            if self not in ways:
                ways.append(self)
            _point(function, ways)
        if not self._functions:
            self._replace()

    def take(self) -> None:
        """See `Patch`."""
        for function in self._functions:
            ways = _ways.get(function, [])
            if self in ways:
                ways.remove(self)
                _point(function, ways)
        for owner, place in self._places.items():
            if owner.__dict__.get(self._attribute()) is place.placed:
                if place.original is _INHERITED:
                    delattr(owner, self._attribute())
                else:
                    setattr(owner, self._attribute(), place.original)

    @property
    def is_in_place(self) -> bool:
        """See `Patch`. So it is beneath another of ours, and where others have hidden the function from sight."""
        found = self._function()
        if found is not None:
            return self in _ways.get(found, ())
        owner = _owner(self._path().rpartition(".")[0])
        place = self._places.get(owner)
        return place is not None and owner.__dict__.get(self._attribute()) is place.placed

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        return None if self.counter is None else self.counter.value()

    def plain(self, function: FunctionType) -> Any:
        """What is called instead of the replacement where nothing may park; None: nothing."""
        return self._functions[function] if self.when == COOPERATIVE else None

    def _path(self) -> str:
        return self.name.rpartition(" ")[2]

    def _attribute(self) -> str:
        return self.name.rpartition(".")[2]

    def _function(self) -> FunctionType | None:
        """The function that is to be diverted; None if there is none. Calls of an `__init__` are inlined whatever it is."""
        return None if self._attribute() == "__init__" else _seen(self._path())

    def _replace(self) -> None:
        """Put the replacement in the place of what is no function, unless that is others'."""
        owner = _owner(self._path().rpartition(".")[0])
        if owner is None:
            return
        found = owner.__dict__.get(self._attribute(), _INHERITED)
        place = self._places.get(owner)
        if place is None:
            if isinstance(owner, type) and found is not _INHERITED and self._attribute() != "__init__":
                return  # where a function was
            is_compiled = not _is_function(found) or not _is_function(self.replacement)
            place = _Place(found, self.replacement if is_compiled else _like(found, self.replacement))
            self._places[owner] = place
        elif found is not place.original:
            return
        setattr(owner, self._attribute(), place.placed)


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
    new: list[str] = []
    with install_lock:
        try:
            for family in families:
                name = family.__name__
                if name not in _patches:
                    made = family.leaves()
                    _patches.setdefault(name, made)  # a handler may have come between, and made its own
                    new.append(name)
                for patch in _patches[name]:
                    if not patch.is_in_place:
                        patch.put()
                        done.append(patch)
        except BaseException:
            for patch in reversed(done):
                patch.take()
            for name in new:
                del _patches[name]
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
