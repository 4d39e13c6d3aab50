"""Spawning with options: what `ThreadGroup.options(...)` gives, with the same ways to spawn as the group itself."""

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from plait._offload import call_on, check_executor
from plait._spawning import checked, name_of, spawn, spawn_daemon, try_spawn
from plait._starts import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from plait._futures import Future
    from plait._groups import ThreadGroup
    from plait._starts import Started

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


class Options:
    """A group, and what is special about the threads that are spawned through here. Made by `ThreadGroup.options`.

    May be used any number of times, by any thread, while the group is open.
    """

    __slots__ = ("_context", "_group", "_name", "_on")

    def __init__(self, group: ThreadGroup, name: str | None, context: Context | None, on: Executor | None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {name!r}")
        if context is not None and not isinstance(context, Context):
            raise TypeError(
                f"context must be a contextvars.Context or None, not {context!r}: contextvars.copy_context()"
            )
        if on is not None:
            check_executor(on, "on")
        self._group = group
        self._name = None if name is None else str.__str__(name)  # a subclass may print itself as it likes, or fail
        self._context = context
        self._on = on

    def spawn(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `ThreadGroup.spawn`, with these options."""
        return spawn(self._group, self._placed(fn, "spawn"), args, kwargs, self._name, self._context)

    def try_spawn(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T] | None:
        """As `ThreadGroup.try_spawn`, with these options."""
        return try_spawn(self._group, self._placed(fn, "try_spawn"), args, kwargs, self._name, self._context)

    def spawn_daemon(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `ThreadGroup.spawn_daemon`, with these options."""
        return spawn_daemon(self._group, self._placed(fn, "spawn_daemon"), args, kwargs, self._name, self._context)

    @overload
    def start(self, fn: Callable[Concatenate[Started[V], P], Any], /, *args: P.args, **kwargs: P.kwargs) -> V: ...

    @overload
    def start(
        self, fn: Callable[Concatenate[Callable[[V], None], P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> V: ...

    @overload
    def start(
        self, fn: Callable[Concatenate[Callable[[], None], P], Any], /, *args: P.args, **kwargs: P.kwargs
    ) -> None: ...

    def start(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As `ThreadGroup.start`, with these options. An executor must be one of threads: `started` works in this process."""
        fn = self._placed(checked(fn, "start"), "start")
        return start(self._group, fn, args, kwargs, self._name, self._context)

    def _placed(self, fn: Callable[P, T], caller: str) -> Callable[P, T]:
        """`fn` where it shall run: here, or on the executor, while the thread waits for it."""
        executor = self._on
        if executor is None:
            return fn
        called = checked(fn, caller)

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return call_on(executor, called, args, kwargs)

        call.__qualname__ = name_of(fn)  # the thread is called so
        return call
