"""The default group, for threads spawned outside any block, and `ThreadGroup.current`, which may lead to it.

The default group supervises: a failure goes to `plait.excepthook` and cancels nobody. It is joined when the process
shuts down, before `threading` joins the program's own threads.

A block that ends may let a signal handler run when its children are done, or while the last one ends. What is spawned
there belongs to the next group around, as after the block. So does what is spawned by a handler that runs while a block
is being entered, and may yet keep it from beginning. Of a block that ends, only the spawn itself tells: a group that looks open closes
when its last child counts itself out, and is closed for good. So who is refused looks again, and finds it skipped.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

from plait._core import Lock, VirtualThread, WaitReason, call_contained, current_thread, park_shielded, runtime
from plait._errors import GroupClosed
from plait._group_scope import GroupScope
from plait._groups import ThreadGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait._core import Scope
    from plait._futures import Future

P = ParamSpec("P")
T = TypeVar("T")

_lock = Lock()
_default: DefaultGroup | None = None  # under _lock
is_strict = False  # spawning without a group is an error. Set by `set_strict`


def _report(thread: VirtualThread, error: BaseException) -> None:
    """Report the failure of the hook, which is being handled, and then what it was called for."""
    if sys.stderr is not None:
        traceback.print_exc(file=sys.stderr)
    excepthook(thread, error)


def excepthook(future: VirtualThread, error: BaseException) -> None:
    """What happens to the failure of a thread that was spawned outside any group: a traceback on stderr.

    Assign another function to `plait.excepthook` to have it called instead, on the thread that failed.
    """
    if sys.stderr is None:  # pythonw and the like: there is nobody to tell
        return
    sys.stderr.write(
        f"Exception in {future!r}, which belongs to no group:\n{''.join(traceback.format_exception(error))}"
    )


class DefaultGroup(ThreadGroup):
    """The group of those who belong to no block. Never entered; the process is its body."""

    after_its_end: ClassVar[str] = (
        "The process is ending, and would not wait for it: open a block, `with ThreadGroup() as group:`"
    )

    def __init__(self, name: str = "default") -> None:
        super().__init__(name=name)
        self.owner = current_thread()
        # Not `atexit`, which comes after threading has waited for its threads. Threads may not be startable any more
        # when it runs (3.12); the carriers are there already, and one worker of each pool.
        try:
            self.be_joined_at_exit()
        except RuntimeError:
            raise RuntimeError(
                "the default group cannot begin any more, for the process is ending and would not wait for it: open a "
                "block, `with ThreadGroup() as group:`"
            ) from None
        if sys.version_info[:2] == (3, 12):
            runtime.offload.keep_one()
            runtime.offload_for_programs.keep_one()

    def be_joined_at_exit(self) -> None:
        """Have the process wait for it. Raises `RuntimeError` if that is ending."""
        threading._register_atexit(self.join_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001

    def child_failed(self, thread: VirtualThread, error: BaseException) -> None:
        """Report it; the others go on."""
        hook = getattr(sys.modules.get("plait"), "excepthook", excepthook)  # looked up now: it is meant to be assigned
        if hook is excepthook:
            call_contained(excepthook, thread, error)
            return
        try:
            hook(thread, error)
        except BaseException:  # noqa: BLE001 - whatever a hook raises
            # The hook's own failure is reported in its place; nothing may keep the thread from ending.
            call_contained(_report, thread, error)

    def cancel(self, reason: object = None, *, grace: float | None = None) -> None:
        """It belongs to the whole process: nobody can cancel it. Raises `RuntimeError`."""
        raise RuntimeError(
            "the default group cannot be cancelled: whatever is spawned outside of blocks is in it, and it is used until the "
            "process ends. Open a block, `with ThreadGroup() as group:`, and cancel that; or cancel single futures"
        )

    def join_at_exit(self) -> None:
        """Wait for those who are left. Ctrl-C cancels them, or whatever a signal handler raises; a second one leaves them."""
        try:
            self.wait_for_all()
        except BaseException as error:
            self.scope.cancel_scope(f"{type(error).__name__} at exit", self)
            with contextlib.suppress(KeyboardInterrupt):
                self._wait_for_children()
            if not isinstance(error, KeyboardInterrupt):
                raise

    def wait_for_all(self) -> None:
        """Close it, and wait for those who are left."""
        # Whoever made the group, it is this thread that waits. Before the body counts itself out: the last child, which
        # looks for the owner, comes after that.
        self.owner = current_thread()
        self._is_body_over = True
        if self.inside.leave():
            return
        self.dismiss_daemons()
        self._wait_for_children()

    def _wait_for_children(self) -> None:
        me = current_thread()
        while True:
            epoch = me.arm(True)
            self.joining = epoch
            if not self.inside.count():
                me.withdraw()
                return
            park_shielded(me, epoch, WaitReason.GROUP)


def _after_fork() -> None:
    """In a child process: the default group's threads are not here, and nobody waits for them."""
    if _default is not None:
        _default.abandon()


os.register_at_fork(after_in_child=_after_fork)


def default_group() -> ThreadGroup:
    """The default group of this process, made when first asked for."""
    global _default  # noqa: PLW0603 - one a process
    if _default is None:
        group = DefaultGroup()
        with _lock:
            if _default is None:
                _default = group
    return _default


def group_around() -> ThreadGroup:
    """The innermost group that the calling thread has open, else the one it was spawned in, else the default group.

    One that has not begun, or has closed, is none of them: it may be around a signal handler.
    """
    return _around(current_thread().scope)


def lasting_group_around() -> ThreadGroup:
    """As `group_around`, without those whose end the calling thread waits for: a signal handler asks, in the middle of that.

    A group which it has open stays open for as long as it is busy here.
    """
    me = current_thread()
    group = _around(me.scope)
    while group.owner is me and group.joining and not isinstance(group, DefaultGroup):
        group = _around(group.scope.parent)
    return group


def _around(scope: Scope | None) -> ThreadGroup:
    """The group of the nearest scope from `scope` upwards that is one of an open group."""
    while scope is not None:
        if isinstance(scope, GroupScope) and scope.group.owner is not None and scope.group.inside.count():
            return scope.group
        scope = scope.parent
    return default_group()


def current_group() -> ThreadGroup:
    """As `group_around`; an error if that is the default group, and groups are strict."""
    group = group_around()
    if is_strict and isinstance(group, DefaultGroup):
        raise RuntimeError(
            "there is no group here to spawn into, and plait.configure(strict_groups=True) has ruled out the default "
            "group: open a block, `with ThreadGroup() as group:`, or hand a group to this function"
        )
    return group


def set_strict(is_wanted: bool) -> None:  # noqa: FBT001 - the one thing that it sets
    """Whether spawning without a group is an error."""
    global is_strict  # noqa: PLW0603 - one a process
    is_strict = is_wanted


class _Current:
    """An attribute of a class that is computed when it is read."""

    def __get__(self, instance: object, owner: type) -> ThreadGroup:
        return current_group()


ThreadGroup.current = _Current()  # type: ignore[assignment]


def spawn(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Run `fn(*args, **kwargs)` on a virtual thread of `ThreadGroup.current`; its future.

    Any thread. With no group open and none around it, the thread belongs to the default group: its failure goes to
    `plait.excepthook`, and the process waits for it before it ends. Waits and raises as `ThreadGroup.spawn` does.

    The default group ends with the main program, as executors do: a platform thread that runs on after that, outside any
    group, gets `GroupClosed`.

    Example:
        >>> from plait import spawn
        >>> spawn(sum, [1, 2, 3]).result()
        6
    """
    while True:
        group = current_group()
        try:
            return group.spawn(fn, *args, **kwargs)
        except GroupClosed:
            if isinstance(group, DefaultGroup) or group.inside.count():
                raise
