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
from plait.patch._registry import IDENTITY, Leaf, install_lock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from plait.patch._registry import Patch

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


class LateLeaf(MetaPathFinder, Loader):
    """The leaf of a module that is not imported yet: put in place by watching the import."""

    name = "asyncio running loop"

    def __init__(self) -> None:
        self._leaf: Leaf | None = None  # once the module is there. Under install_lock
        self._loader: Loader | None = None  # the module's own, while it loads

    # ---- the patch

    def put(self) -> None:
        """See `Patch`."""
        if self._leaf is not None:
            self._leaf.put()
        elif self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def take(self) -> None:
        """See `Patch`."""
        if self._leaf is not None:
            self._leaf.take()
        elif self in sys.meta_path:
            sys.meta_path.remove(self)

    @property
    def is_in_place(self) -> bool:
        """See `Patch`."""
        return self._leaf.is_in_place if self._leaf is not None else self in sys.meta_path

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        return None

    # ---- the import

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Only for `_asyncio`: the spec that would be found, loaded by us."""
        if name != "_asyncio":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self._loader = spec.loader
                spec.loader = self
                return spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        assert self._loader is not None
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the real loader does; then the leaf is put in place, unless that is no longer wanted."""
        assert self._loader is not None
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        with install_lock:
            self._leaf = _leaf(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._leaf.put()


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    module = sys.modules.get("_asyncio")
    return [LateLeaf() if module is None else _leaf(module)]
