"""Leaves of modules that the program may import later, or never: put in place when it does, by watching the import.

Importing them here would cost every program what few need. A finder stands in front of the others while such leaves are
wanted; it knows one module, finds it by the others, and has it loaded by the loader that they name. What is made of its
spec and is not the module that others import, such as a copy that `runpy` runs, is left alone.

A finder that the program puts before ours may find the module by itself, and then nobody tells us. So whoever asks whether
such a leaf is in place looks whether the module has come, and the next `install()` sees to it. It does so, too, for a module
that was loaded again: that has a spec of its own, and its leaves are made anew; those of before are kept, to be taken back.

An import that is under way has passed by our finder before that was there, and nobody would tell us of its end:

    Importer:  1. takes the module's import lock   2. asks the finders   3. loads the module   4. gives the lock back
    Installer: 1. puts the finder there, under the install lock   2. gives that back   3. takes the import lock, and gives it
               back   4. looks whether the module has come
The import lock orders the two: either the importer's third step is over when the installer looks, or its second has found
the finder. The installer must not wait with the install lock held, for which the importer of another such module may wait.
Where the importer is the installer itself (a signal handler, in the middle of the import, has made the first spawn), or
waits for it, the module is not there yet when it looks, and the import lock is not free: then that tells of its release.

A module that `importlib.util.LazyLoader` is to load has not come until it is used, and is not touched by us before: its
attributes would load it. If its spec was made before our finder was there, its loader is replaced as that would have done.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from typing import TYPE_CHECKING, Any

from plait.patch._registry import install_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from plait.patch._registry import Patch

_importing: Any = importlib._bootstrap  # noqa: SLF001 - where the import locks are
_arrivals: list[_Arrival] = []  # all of them, once the first install has made them. Under install_lock


def _spec_of(module: object) -> Any:
    """Its spec, if it has one; a module that is to be loaded when it is used is not loaded."""
    try:
        return object.__getattribute__(module, "__spec__")
    except AttributeError:
        return None


def _is_lazy(module: object) -> bool:
    """Whether it is still to be loaded, when it is used."""
    importing: Any = sys.modules.get("importlib.util")
    return importing is not None and type(module) is importing._LazyModule  # noqa: SLF001 - there is no other sign


class _Arrival(MetaPathFinder):
    """The import of one module."""

    def __init__(self, module: str, make: Callable[[Any], Iterable[Patch]]) -> None:
        self._module = module
        self._make = make
        self._wanted: set[str] = set()  # leaves to be put in place then. Under install_lock, as is all below
        self.leaves: dict[str, Patch] | None = None  # by name, once the module is there
        self._spec: ModuleSpec | None = None  # by which it was loaded that has these leaves
        self._former: list[Patch] = []  # those of a module that was loaded before it

    def want(self, name: str) -> None:
        """Put the leaf `name` in place as soon as the module has come: at once, if it came while nobody was watching."""
        self._wanted.add(name)
        if self.has_come():
            module = sys.modules[self._module]
            if self.leaves is None or self._spec is not _spec_of(module):
                self.settle(module, self.look_at(module))
            elif name in self.leaves:
                self.leaves[name].put()
        elif self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def forgo(self, name: str) -> None:
        """Do not; and take it back where it was put."""
        for leaf in (*self._former, *(self.leaves or {}).values()):
            if leaf.name == name:
                leaf.take()
        self._wanted.discard(name)
        if not self._wanted and self in sys.meta_path:
            sys.meta_path.remove(self)

    def wants(self, name: str) -> bool:
        """Whether it will be put in place."""
        return name in self._wanted

    def has_come(self) -> bool:
        """Whether the module is there as a whole."""
        module = sys.modules.get(self._module)
        return module is not None and not _is_lazy(module) and not getattr(_spec_of(module), "_initializing", False)

    def catch_up(self) -> None:
        """See to an import that had begun before our finder was there. The caller does not hold the install lock."""
        if self not in sys.meta_path:
            return
        # An import lock is there for as long as anybody has it, or waits for it. None is made for nothing: a Ctrl-C that comes
        # when CPython drops one is lost.
        is_under_way = self._module in _importing._module_locks  # noqa: SLF001 - as is all of this
        if is_under_way:
            _importing._lock_unlock_module(self._module)  # noqa: SLF001 - as whoever finds a module that is half loaded
        with install_lock:
            if not self.has_come() and (is_under_way or _is_lazy(sys.modules.get(self._module))):
                self._be_told()
            if self.has_come() and self in sys.meta_path:
                module = sys.modules[self._module]
                self.settle(module, self.look_at(module))

    def _be_told(self) -> None:
        """Have those tell us of the module's end who do not ask our finder."""
        module = sys.modules.get(self._module)
        lock = _importing._get_module_lock(self._module)  # noqa: SLF001 - see above
        if _is_lazy(module):
            spec = _spec_of(module)
            if not isinstance(spec.loader, _ArrivalLoader):
                spec.loader = _ArrivalLoader(self, spec.loader)
        elif lock.owner is not None:
            lock.release = partial(self._release, lock)

    def _release(self, lock: Any) -> None:
        """Give an import lock of this module back, after its leaves are in place, if it has come."""
        module = sys.modules.get(self._module)
        has_come = self.has_come()
        if has_come or module is None:  # else the lock is given back by who has taken it once more, and loads on
            lock.__dict__.pop("release", None)
        try:
            if has_come:
                self.complete(sys.modules[self._module])
        finally:
            type(lock).release(lock)

    def look_at(self, module: ModuleType) -> dict[str, Patch]:
        """Make the leaves of the module, which has come."""
        return {leaf.name: leaf for leaf in self._make(module)}

    def settle(self, module: ModuleType, leaves: dict[str, Patch]) -> None:
        """These are the leaves: put in place those that are wanted. What is in place already is as good."""
        known = self.leaves or {}
        kept = {name: leaf for name, leaf in known.items() if leaf.is_in_place}
        self._former += [leaf for name, leaf in known.items() if name not in kept]
        self.leaves = leaves = {**leaves, **kept}
        self._spec = _spec_of(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in self._wanted & leaves.keys():
            leaves[name].put()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Only for this module: the spec that would be found, loaded by us."""
        if name != self._module:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _ArrivalLoader(self, spec.loader)
                return spec
        return None

    def complete(self, module: ModuleType) -> None:
        """The module has been loaded: put its leaves in place, unless that is no longer wanted, or it is a copy."""
        if sys.modules.get(self._module) is module:
            install_lock.run(partial(self.settle, module, self.look_at(module)))


class _ArrivalLoader(Loader):
    """The module's own loader, for all that others ask of it; and who says that the module has come."""

    def __init__(self, arrival: _Arrival, loader: Loader) -> None:
        self._arrival = arrival
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__.get("_loader"), name)  # not yet there in a copy that is being made

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the real loader does; then the leaves are put in place."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._arrival.complete(module)


class _LateLeaf:
    """One leaf of such a module."""

    def __init__(self, name: str, arrival: _Arrival) -> None:
        self.name = name
        self._arrival = arrival

    def _leaf(self) -> Patch | None:
        leaves = self._arrival.leaves
        return None if leaves is None else leaves.get(self.name)

    def put(self) -> None:
        """See `Patch`."""
        self._arrival.want(self.name)

    def take(self) -> None:
        """See `Patch`."""
        self._arrival.forgo(self.name)

    @property
    def is_in_place(self) -> bool:
        """See `Patch`. That it will be as soon as there is something to change counts."""
        leaf = self._leaf()
        if leaf is not None:
            return leaf.is_in_place
        return self._arrival.leaves is None and self._arrival.wants(self.name) and not self._arrival.has_come()

    @property
    def parks(self) -> int | None:
        """See `Patch`."""
        leaf = self._leaf()
        return 0 if leaf is None else leaf.parks


def late_leaves(module: str, names: Iterable[str], make: Callable[[Any], Iterable[Patch]]) -> Sequence[Patch]:
    """The leaves `names` of `module`. `make` makes them of the imported module; what it leaves out stays as it is."""
    arrival = _Arrival(module, make)
    _arrivals.append(arrival)
    if arrival.has_come():
        arrival.settle(sys.modules[module], arrival.look_at(sys.modules[module]))
    return [_LateLeaf(name, arrival) for name in names]


def catch_up() -> None:
    """After an install: put in place what waits for an import that was under way just then. Without the install lock."""
    for arrival in _arrivals:  # which only grows
        arrival.catch_up()
