"""What is patched: one record a leaf, and the only place that writes into other modules.

Installing is all or nothing: if one leaf cannot be put in place, those that were put before it are taken back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from plait import _native
from plait._core import Counter, Lock, lot_set_told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import ModuleType

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


@dataclass(slots=True)
class ClassPatch:
    """One attribute of a Python class, or of a module, that is replaced as usual; or a method that it inherits, covered.

    What is put over ours by others, such as a mock, is left alone.
    """

    name: str
    cls: type | ModuleType
    attribute: str
    replacement: Any
    counter: Counter | None = None  # where the replacement counts its parks, if those are not another leaf's
    original: Any = field(default=None, init=False)

    def put(self) -> None:
        """See `Patch`."""
        if self.original is None:
            self.original = self.cls.__dict__.get(self.attribute, _INHERITED)
            setattr(self.cls, self.attribute, self.replacement)

    def take(self) -> None:
        """See `Patch`."""
        if self.original is not None:
            if self.cls.__dict__.get(self.attribute) is self.replacement:
                if self.original is _INHERITED:
                    delattr(self.cls, self.attribute)
                else:
                    setattr(self.cls, self.attribute, self.original)
            self.original = None

    @property
    def is_in_place(self) -> bool:
        """See `Patch`."""
        return self.original is not None

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        return None if self.counter is None else self.counter.value()


install_lock = Lock()  # "plait.patch install"


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
                    _patches[name] = family.leaves()
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
        for patches in reversed(_patches.values()):
            for patch in reversed(patches):
                patch.take()
        lot_set_told(False)


def leaves_by_family() -> dict[str, list[tuple[str, bool, int | None]]]:
    """By the name of its family: name, whether it is in place, and how often it has parked, of each leaf."""
    with install_lock:
        return {
            family: [(patch.name, patch.is_in_place, patch.parks) for patch in patches]
            for family, patches in _patches.items()
        }
