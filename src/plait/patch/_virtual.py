"""`--virtual-threads`: every `threading.Thread` that is started runs on a virtual thread, whatever its class.

`ThreadPoolExecutor`, `socketserver.ThreadingMixIn`, `threading.Timer` and whatever else starts such threads follow. The
methods of `threading.Thread` itself are replaced, so subclasses that were made before follow, too; a thread that was
started before stays what it is. `_thread.start_new_thread` is left alone: it is what plait's own kernel threads are
started with, and who calls it wants one.

Some threads stay real: those by which `multiprocessing` and `ProcessPoolExecutor` keep their processes going. They hold
locks of other processes and must move on even while a carrier is busy. They are known by the function that they run, and
by nothing else: a thread of the program's that is given a queue, or runs its `get`, is as virtual as any. So do the
workers of `InterpreterPoolExecutor`: what runs in another interpreter is not plait's.

Django's development server runs the program once more, and again after each change of its files. It makes
up the command for that from `__main__` and `sys.argv`, where the program finds what `python` itself would have left, and of
plait nothing. What the process was really run with is in `sys.orig_argv`; werkzeug's reloader looks there by itself.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

from plait import _threads
from plait._threads import is_virtual
from plait.patch import _threads as _kernel_threads
from plait.patch._late import late_leaves
from plait.patch._registry import ALWAYS, ClassPatch, beneath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.patch._registry import Patch

# What threads run that keep processes going: module and name.
_KEEPERS = frozenset(
    {
        ("multiprocessing.managers", "Server.accepter"),
        ("multiprocessing.managers", "Server.handle_request"),
        ("multiprocessing.pool", "Pool._handle_results"),
        ("multiprocessing.pool", "Pool._handle_tasks"),
        ("multiprocessing.pool", "Pool._handle_workers"),
        ("multiprocessing.queues", "Queue._feed"),
        ("multiprocessing.resource_sharer", "_ResourceSharer._serve"),
    }
)
_KEEPER_CLASS = ("concurrent.futures.process", "_ExecutorManagerThread")
_WORKER = ("concurrent.futures.thread", "_worker")
_OF_INTERPRETERS = "concurrent.futures.interpreter"

_RELOADER = "django.utils.autoreload"
_COMMAND = "get_child_arguments"

_join = beneath("threading.Thread.join")
_after_fork = beneath("threading.Thread._after_fork")
_set_tstate_lock = beneath("threading.Thread._set_tstate_lock")
_set_os_name = beneath("threading.Thread._set_os_name")


def stays_real(thread: Any) -> bool:
    """Whether this is one of the threads that keep processes or interpreters going."""
    cls: type = type(thread)
    if cls is not threading.Thread:
        return (cls.__module__, cls.__qualname__) == _KEEPER_CLASS
    target = thread._target  # noqa: SLF001 - Thread's own
    name = (getattr(target, "__module__", None), getattr(target, "__qualname__", None))
    if name != _WORKER:
        return name in _KEEPERS
    # A worker of an executor: its second argument is what makes those of other interpreters different.
    return any(type(arg).__module__ == _OF_INTERPRETERS for arg in thread._args)  # noqa: SLF001


def start(self: Any) -> None:
    """Start the thread's activity, on a virtual thread. See `threading.Thread.start`."""
    # Who has run has lost what `stays_real` looks at, and is refused like any other that was started.
    if self.__dict__.get("_initialized") and not self._started.is_set() and stays_real(self):
        _kernel_threads.start(self)
    else:
        _threads.start(self)


def join(self: Any, timeout: float | None = None) -> None:
    """Wait until the thread terminates. See `threading.Thread.join`."""
    if is_virtual(self):
        _threads.join(self, timeout)
    else:
        _join(self, timeout)


def after_fork(self: Any, new_ident: int | None = None) -> None:
    """`threading.Thread._after_fork`, from 3.13 on."""
    if is_virtual(self):
        _threads.after_fork(self, new_ident)
    else:
        _after_fork(self, new_ident)


def set_tstate_lock(self: Any) -> None:
    """`threading.Thread._set_tstate_lock`, up to 3.12: a virtual thread has one."""
    if not is_virtual(self):
        _set_tstate_lock(self)


def set_os_name(self: Any) -> None:
    """`threading.Thread._set_os_name`, from 3.14 on: the kernel thread is not a virtual thread's to name."""
    if not is_virtual(self):
        _set_os_name(self)


def command_of_this_process() -> list[str]:
    """What runs the program once more as it was run: `get_child_arguments` of Django's reloader."""
    return [sys.executable, *sys.orig_argv[1:]]


def _reloader(module: Any) -> Sequence[ClassPatch]:
    if not hasattr(module, _COMMAND):
        return []
    return [ClassPatch(f"virtual {_RELOADER}.{_COMMAND}", command_of_this_process, when=ALWAYS)]


def leaves() -> Sequence[Patch]:
    """What this file makes virtual."""
    methods = {
        "start": start,
        "join": join,
        "_after_fork": after_fork,
        "_set_tstate_lock": set_tstate_lock,
        "_set_os_name": set_os_name,
    }
    return [
        *(
            ClassPatch(f"virtual threading.Thread.{name}", replacement, when=ALWAYS)
            for name, replacement in methods.items()
            if name in threading.Thread.__dict__
        ),
        *late_leaves(_RELOADER, [f"virtual {_RELOADER}.{_COMMAND}"], _reloader),
    ]
