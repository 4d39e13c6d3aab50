"""Endings: `close` of files that are made of other files, and finalizers: no cancel points, and not torn apart.

What they have to write first, or to take away, may wait. A cancel there would lose the end of an archive, or leave a
temporary directory behind. (What ends by a call of `__del__`, or a bare callback of a weak reference, nobody can see.)
"""

from __future__ import annotations

import io
import weakref
from typing import TYPE_CHECKING, Any

from plait._native import original
from plait.patch._late import late_leaves
from plait.patch._patience import patient
from plait.patch._registry import ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from plait.patch._registry import Patch

_METHODS = {  # by module and class
    "gzip": {"GzipFile": "close"},
    "bz2": {"BZ2File": "close"},
    "lzma": {"LZMAFile": "close"},
    "zipfile": {"ZipFile": "close", "_ZipWriteFile": "close"},
    "tarfile": {"TarFile": "close", "_Stream": "close"},
    "tempfile": {"TemporaryDirectory": "cleanup"},
    "multiprocessing.util": {"Finalize": "__call__"},
}


def _patch(prefix: str, cls: type, name: str) -> Patch:
    return ClassPatch(f"{prefix}.{cls.__name__}.{name}", cls, name, patient(cls.__dict__[name]))


def _patches_of(module: Any) -> Iterable[Patch]:
    for cls, name in _METHODS[module.__name__].items():
        yield _patch(module.__name__, getattr(module, cls), name)


def leaves() -> Sequence[Patch]:
    """What this file changes."""
    text_close: Any = method(io.TextIOWrapper, "close")
    found: list[Patch] = [
        _patch("weakref", weakref.finalize, "__call__"),
        Leaf("io.TextIOWrapper.close", text_close, patient(original(text_close))),
    ]
    for module, methods in _METHODS.items():
        found += late_leaves(module, [f"{module}.{cls}.{name}" for cls, name in methods.items()], _patches_of)
    return found
