"""asyncio's running loop: one a virtual thread, though CPython keeps it by the kernel thread.

Whoever has a loop running is marked when the loop starts; the switch then takes loop and current task off the kernel
thread when that thread leaves it, and puts them back when it returns. Threads without a loop pay nothing. asyncio is
not imported here: if the program has not done so yet, the leaf is put in place when it does.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

from plait import _native
from plait._core import VirtualThread
from plait._native import current, mark_loop, original
from plait.patch._registry import IDENTITY, ClassPatch, Leaf, install_lock, put

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_set_loop: Any = None  # asyncio's, taken when it is there
_get_loop: Any = None
_swap_task: Any = None


def set_running_loop(loop: Any, /) -> None:
    """`_asyncio._set_running_loop`."""
    _set_loop(loop)
    if isinstance(current(), VirtualThread):
        mark_loop(loop is not None)


def _leave() -> Any:
    """Take loop and task off the kernel thread; what they were."""
    loop = _get_loop()
    task = None
    if loop is not None and _swap_task is not None:
        task = _swap_task(loop, None)
    _set_loop(None)
    return loop, task


def _enter(state: Any) -> None:
    """Put them back."""
    loop, task = state
    _set_loop(loop)
    if task is not None:
        _swap_task(loop, task)


def _leaf(module: Any) -> Leaf:
    global _set_loop, _get_loop, _swap_task  # noqa: PLW0603 - taken once
    _set_loop = original(module._set_running_loop)  # noqa: SLF001
    _get_loop = original(module._get_running_loop)  # noqa: SLF001
    # Up to 3.13 the current task is kept by loop, not by thread: there is nothing to take off.
    _swap_task = module._swap_current_task if sys.version_info >= (3, 14) else None  # noqa: SLF001
    _native.set_loop_hooks(_leave, _enter)
    return Leaf("asyncio running loop", module._set_running_loop, set_running_loop, when=IDENTITY)  # noqa: SLF001


class _Watch(MetaPathFinder, Loader):
    """Sees `_asyncio` being imported, once."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Only for `_asyncio`: the spec that would be found, loaded by us."""
        if name != "_asyncio":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return None
        self._loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the real loader does; then the leaf is put in place."""
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        leaf = _leaf(module)
        _late.append(leaf)
        with install_lock:
            put(leaf)


_late: list[Leaf | ClassPatch] = []


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    module = sys.modules.get("_asyncio")
    if module is not None:
        return [_leaf(module)]
    sys.meta_path.insert(0, _Watch())
    return _late
