"""Start: a spawn that waits until its thread says that it is ready.

Child:  1. stores the value                     2. wakes, through the lot  [fence]
Caller: 1. queues in the lot, under its lock    2. looks for the value, or for the child's end
"""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from plait._core import Flag, WaitReason, check_entry, current_thread, lend_slot, lot_wait, lot_wake_one
from plait._futures import Waiting
from plait._spawning import spawn

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from plait._futures import Future
    from plait._groups import ThreadGroup

V = TypeVar("V")


class Started(Generic[V]):
    """What the started function calls to say that it is ready, with a value for who waits. Once a call; any thread.

    Should the call be restarted, whoever has waited has the first value already: the next are taken, and dropped.
    """

    def __init__(self, wait: _Wait[V]) -> None:
        self._wait = wait
        self._first = Flag()
        self._first.set()
        self._value: V | None = None

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("started() works in this process only: start() needs an executor of threads")

    def __call__(self, value: V = None) -> None:  # type: ignore[assignment]
        """Let `start` return `value`. Never waits. Raises `RuntimeError` the second time."""
        if not self._first.take():
            raise RuntimeError(f"started() was called before, with {self._value!r}: a thread starts once")
        self._value = value
        self._wait.give(value)


class _Wait(Waiting, Generic[V]):
    """What the caller of `start` waits for, whatever the number of attempts."""

    def __init__(self) -> None:
        self._values: list[V] = []  # appended to; the first counts

    def attempt(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """One call of the function, with a `Started` of its own. The child's."""
        return fn(Started(self), *args, **kwargs)

    def give(self, value: V) -> None:
        """The thread is ready. Any thread."""
        self._values.append(value)
        lot_wake_one(id(self))

    def _look(self, child: Future[Any]) -> None:
        """The thread has ended. Its own."""
        lot_wake_one(id(self))

    def take(self, child: Future[Any]) -> V:
        """The value, once `child` has given it."""
        child.add_done_callback(self._look)
        self.waiter = me = current_thread()
        slots = lend_slot(me, child.group.slots)
        try:
            lot_wait(me, id(self), lambda: bool(self._values) or child.done() or not child.is_here(), WaitReason.START)
        except BaseException:
            child.cancel()
            raise
        finally:
            self.waiter = None
            if slots is not None:
                slots.take_back(me)
        if self._values:
            return self._values[0]
        if me.scope is not None:
            check_entry(me)  # what has failed may have cancelled the caller, too
        child.result()
        raise RuntimeError(
            f"{child!r} has ended without calling started(): nobody knows whether it was ready. Its function gets "
            f"`started` as its first argument, and calls it when others may go on"
        )


def start(
    group: ThreadGroup,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    label: str | None = None,
    context: Context | None = None,
) -> Any:
    """As `ThreadGroup.start`: a time limit of the caller does concern the child, until that has started."""
    wait: _Wait[Any] = _Wait()
    attempt = update_wrapper(
        partial(wait.attempt, fn), fn, ("__qualname__",), ()
    )  # the thread is called as the function is
    return wait.take(spawn(group, attempt, args, kwargs, label, context, is_reached=True))
