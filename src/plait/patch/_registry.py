"""What is patched: one record a leaf, and the only place that writes into other modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait import _native
from plait._core import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

COOPERATIVE, IDENTITY, ALWAYS = range(3)  # when a replacement is called: see leaf.c


@dataclass(slots=True)
class Leaf:
    """One function or method of CPython, and what becomes of it."""

    name: str  # as people know it
    target: object  # the builtin function or method descriptor
    replacement: Callable[..., Any] | None  # called instead, with the same arguments (self first)
    after: Callable[[Any], None] | None = None  # called with self after a success, while anybody waits in the lot
    when: int = COOPERATIVE
    number: int | None = field(default=None, init=False)  # in the native table; None: not installed


@dataclass(slots=True)
class ClassPatch:
    """One attribute of a Python class that is replaced as usual."""

    name: str
    cls: type
    attribute: str
    replacement: Callable[..., Any]
    original: Any = field(default=None, init=False)


install_lock = Lock()  # "plait.patch install"


def method(cls: type, name: str) -> object | None:
    """The method descriptor `name` of a builtin class; None where this version has none."""
    return cls.__dict__.get(name)


def put(patch: Leaf | ClassPatch) -> None:
    """Install one. The caller holds the install lock."""
    if isinstance(patch, Leaf):
        if patch.number is None:
            patch.number = _native.install(patch.target, patch.replacement, patch.after, patch.when)
    elif patch.original is None:
        patch.original = patch.cls.__dict__[patch.attribute]
        setattr(patch.cls, patch.attribute, patch.replacement)


def take(patch: Leaf | ClassPatch) -> None:
    """Put the original back, where the place still holds ours. The caller holds the install lock."""
    if isinstance(patch, Leaf):
        if patch.number is not None:
            _native.uninstall(patch.number)
            patch.number = None
    elif patch.original is not None:
        if patch.cls.__dict__.get(patch.attribute) is patch.replacement:
            setattr(patch.cls, patch.attribute, patch.original)
        patch.original = None


def is_in_place(patch: Leaf | ClassPatch) -> bool:
    """Whether it is installed."""
    return patch.number is not None if isinstance(patch, Leaf) else patch.original is not None
