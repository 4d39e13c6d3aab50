"""Endings: `close` of files that are made of other files, finalizers, and the report of what those raise that nobody can be
given: no cancel points, and not torn apart.

What they have to write first, or to take away, may wait. A cancel there would lose the end of an archive, leave a
temporary directory behind, or be reported in place of a failure, which is nowhere then. (What ends by a call of
`__del__`, or a bare callback of a weak reference, nobody can see.)
"""

from __future__ import annotations

import _io
import sys
import weakref  # noqa: F401 - whose finalizers are leaves
from typing import TYPE_CHECKING, Any

from plait._native import original
from plait.patch._late import late_leaves
from plait.patch._patience import patient
from plait.patch._registry import ClassPatch, Leaf, beneath, method

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
_report = sys.__unraisablehook__


_finalize = ClassPatch("weakref.finalize.__call__", patient(beneath("weakref.finalize.__call__")))


def _names_of(module: str) -> list[str]:
    return [f"{module}.{cls}.{name}" for cls, name in _METHODS[module].items()]


def _patches_of(module: Any) -> Iterable[Patch]:
    for name in _names_of(module.__name__):
        yield ClassPatch(name, patient(beneath(name)))


def leaves() -> Sequence[Patch]:
    """What this file changes."""
    text_close: Any = method(_io.TextIOWrapper, "close")
    found: list[Patch] = [
        _finalize,
        Leaf("io.TextIOWrapper.close", text_close, patient(original(text_close))),
        Leaf(
            "sys.__unraisablehook__", _report, patient(original(_report))
        ),  # a hook of the program's is its own affair
    ]
    for module in _METHODS:
        found += late_leaves(module, _names_of(module), _patches_of)
    return found
