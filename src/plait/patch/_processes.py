"""`os.wait*` and `os.system`, and what `subprocess` needs beside them: waiting for processes.

The end of one process is told by a descriptor for it (pidfd), which the reactor waits for. Only the caller itself takes the
status of a child, with a call that does not wait, so no cancel can lose it.

For *any* child, for those of a process group, and for children that stop or go on, there is no such descriptor; nor is there a
list of the children that would hold all that C libraries and `posix_spawn` start meanwhile. There a kernel thread waits,
with WNOWAIT: it hears of a child without taking anything, and one does for all who wait for the same (`_watches.py`).

`subprocess.Popen` waits on its own terms: without a limit it holds a lock meanwhile, for which `wait` of others would have
to wait patiently; with one it looks every 50 ms. Here it does neither. And its start, from the fork until the program is
loaded, is no cancel point: nobody could end a child of which nobody has heard.

A child process of `multiprocessing` that is forked inside a block never comes to the end of that block. So it is outside
of it from the start: the time limit that its parent had, or the failure of its parent's siblings, does not concern it. Who
forks by `os.fork` goes on inside the block, in both processes.

To start such a process is no cancel point, nor torn apart within the grace: it would get half of the message that says what
it is. Nor is what lies between the making of a name in /dev/shm and its being told to the process that takes away what its
owners have left (the resource tracker): nobody would.
"""

from __future__ import annotations

import os
import posix
import signal
import subprocess
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from plait._core import (
    READ,
    Counter,
    Parker,
    WaitReason,
    check_entry,
    leave_all_scopes,
    now,
    runtime,
    wait_descriptor,
)
from plait._errors import Cancelled
from plait._native import builtin, cooperative
from plait._originals import os_close, os_system, os_wait3, os_wait4, os_waitid, os_waitpid
from plait.patch._late import late_leaves
from plait.patch._patience import patient
from plait.patch._registry import ALWAYS, ClassPatch, Leaf, beneath
from plait.patch._watches import wait_watching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plait.patch._registry import Patch

_execute_child = beneath("subprocess.Popen._execute_child")  # forks
_popen_wait = beneath("subprocess.Popen._wait")  # what wait() and communicate() end in
_parks = Counter()  # in `popen_wait`


# ---- os.wait* ----


def _await(
    me: Parker,
    ask: Callable[[], Any],
    is_empty: Callable[[Any], bool],
    open_one: Callable[[], int] | None,
    states: int,
    whom: tuple[int, int],
) -> Any:
    """What `ask()` finds, as soon as it finds something; it does not wait, and may raise.

    `open_one()` makes a descriptor for the one process that `ask` asks about, whose end is all that counts. If there is
    none, it is about `states`, as waitid(2) names them, of the children `whom` it names in the same way.
    """
    if me.scope is not None:
        check_entry(me)
    found = ask()
    while is_empty(found):
        fd = _opened(open_one)
        if fd is None:
            return _await_told(me, ask, is_empty, states, whom)
        try:
            found = ask()  # the process may have ended, and the number have become another's
            if is_empty(found):
                wait_descriptor(me, fd, READ, None, None, WaitReason.PROCESS)
                found = ask()
        finally:
            os_close(fd)
    return found


def _opened(open_one: Callable[[], int] | None) -> int | None:
    if open_one is not None:
        with suppress(OSError):  # there is no such process any more, or no descriptor to be had
            return open_one()
    return None


def _await_told(
    me: Parker,
    ask: Callable[[], Any],
    is_empty: Callable[[Any], bool],
    states: int,
    whom: tuple[int, int],
    deadline: float | None = None,
) -> Any:
    """What `ask()` finds when a kernel thread has heard of `states` of `whom`; None if the instant `deadline` comes first."""
    outcome: list[tuple[Any, OSError | None]] = []

    def attempt() -> bool:
        try:
            found = ask()
        except OSError as error:
            outcome.append((None, error))
            return True
        if is_empty(found):
            return False
        outcome.append((found, None))
        return True

    call = partial(os_waitid, *whom, states | os.WNOWAIT)
    if not wait_watching(me, (*whom, states), call, attempt, WaitReason.PROCESS, deadline):
        return None
    found, error = outcome.pop()
    if error is None:
        return found
    try:
        raise error
    finally:
        del error  # its traceback holds this frame


def _is_nobody(found: tuple[Any, ...]) -> bool:
    pid: int = found[0]
    return pid == 0


def _is_none(found: object) -> bool:
    return found is None


def _wait_for(call: Callable[..., Any], args: tuple[int, ...], pid: int, options: int) -> Any:
    """`call(*args, options)`, whose `pid` and `options` are those of waitpid(2)."""
    if options & os.WNOHANG or not -(2**31) < pid < 2**31:
        return call(*args, options)  # does not wait, or refuses
    states = os.WEXITED
    if options & os.WUNTRACED:
        states |= os.WSTOPPED
    if options & os.WCONTINUED:
        states |= os.WCONTINUED
    if pid > 0:
        whom = os.P_PID, pid
    elif pid == -1:
        whom = os.P_ALL, 0
    else:
        whom = os.P_PGID, -pid or os.getpgrp()
    open_one = partial(os.pidfd_open, pid) if pid > 0 and states == os.WEXITED else None
    return _await(cooperative(), partial(call, *args, options | os.WNOHANG), _is_nobody, open_one, states, whom)


def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    """`os.waitpid`."""
    if not isinstance(pid, int) or not isinstance(options, int):
        return os_waitpid(pid, options)  # converts, or refuses
    status: tuple[int, int] = _wait_for(os_waitpid, (pid,), pid, options)
    return status


def wait() -> tuple[int, int]:
    """`os.wait`."""
    return waitpid(-1, 0)


def wait3(options: int) -> tuple[int, int, Any]:
    """`os.wait3`."""
    if not isinstance(options, int):
        return os_wait3(options)
    status: tuple[int, int, Any] = _wait_for(os_wait3, (), -1, options)
    return status


def wait4(pid: int, options: int) -> tuple[int, int, Any]:
    """`os.wait4`."""
    if not isinstance(pid, int) or not isinstance(options, int):
        return os_wait4(pid, options)
    status: tuple[int, int, Any] = _wait_for(os_wait4, (pid,), pid, options)
    return status


def waitid(idtype: int, ident: int, options: int, /) -> Any:
    """`os.waitid`."""
    if not all(isinstance(number, int) for number in (idtype, ident, options)) or options & os.WNOHANG:
        return os_waitid(idtype, ident, options)  # does not wait, converts, or refuses
    me: Parker = cooperative()
    states = options & (os.WEXITED | os.WSTOPPED | os.WCONTINUED)
    if idtype != os.P_PIDFD:
        ask = partial(os_waitid, idtype, ident, options | os.WNOHANG)
        open_one = partial(os.pidfd_open, ident) if idtype == os.P_PID and states == os.WEXITED else None
        return _await(me, ask, _is_none, open_one, states, (idtype, ident))
    if not os.get_blocking(ident):
        return os_waitid(idtype, ident, options)  # raises BlockingIOError
    own = os.dup(ident)  # the kernel holds it, too: who closes the other meanwhile changes nothing
    try:
        ask = partial(os_waitid, os.P_PIDFD, own, options | os.WNOHANG)
        open_one = partial(os.dup, own) if states == os.WEXITED else None
        return _await(me, ask, _is_none, open_one, states, (os.P_PID, _process_of(own)))
    finally:
        os_close(own)


def _process_of(fd: int) -> int:
    """Whom a descriptor is for; 0 if that is over."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        fields = dict(line.split(":", 1) for line in file)
    return max(int(fields.get("Pid", "0")), 0)


def system(command: Any) -> int:
    """`os.system`, on a worker: the C library waits inside it. If its caller is cancelled, the command goes on by itself."""
    # And the process goes on ignoring SIGINT and SIGQUIT, as system(3) has it do while it waits. That cannot be taken back
    # from outside: the C library counts who waits, of whom others may be.
    status: int = runtime.offload.call(cooperative(), os_system, command, is_apart=True)
    return status


# ---- subprocess ----


def execute_child(self: Any, *args: Any, **kwargs: Any) -> None:
    """`subprocess.Popen._execute_child`: starts the program. If that is cancelled half-way, there is no process after it."""
    me: Parker | None = cooperative()
    if me is not None and me.scope is not None:
        check_entry(me)
    try:
        _execute_child(self, *args, **kwargs)
    except Cancelled:
        if getattr(self, "pid", None) is not None and self.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)
            self._wait(None)
        raise


def popen_wait(self: Any, timeout: float | None) -> int | None:
    """`subprocess.Popen._wait`. Nothing is held while it waits."""
    me: Parker | None = cooperative()
    if me is None or self.returncode is not None:
        returncode: int | None = _popen_wait(self, timeout)
        return returncode
    if me.scope is not None:
        check_entry(me)
    deadline = None if timeout is None else now() + timeout
    before = me.park_count
    try:
        if not _is_over(self) and not _await_end(me, self, deadline):
            raise subprocess.TimeoutExpired(self.args, timeout)  # type: ignore[arg-type]
    finally:
        _parks.add(me.park_count - before)
    return self.returncode


def _await_end(me: Parker, popen: Any, deadline: float | None) -> bool:
    """Park until the process has ended, and its status is taken; False if the instant `deadline` comes first."""
    while True:
        try:
            fd = os.pidfd_open(popen.pid)
        except ProcessLookupError:  # somebody else has taken it
            return _is_over_for_good(popen)
        except OSError:  # no descriptor to be had
            ask = partial(_is_over, popen)
            return bool(_await_told(me, ask, _is_false, os.WEXITED, (os.P_PID, popen.pid), deadline))
        try:
            if _is_over(popen):  # the number may have become another's
                return True
            if not wait_descriptor(me, fd, READ, deadline, None, WaitReason.PROCESS):
                return _is_over(popen)
        finally:
            os_close(fd)
        if _is_over_for_good(popen):
            return True


def _is_false(found: bool) -> bool:  # noqa: FBT001 - an answer
    return not found


def _is_over(popen: Any) -> bool:
    """Whether the process has ended, and its status is taken; now or before."""
    if popen._waitpid_lock.acquire(False):  # noqa: SLF001 - as Popen's own methods do
        try:
            _take_status(popen)
        finally:
            popen._waitpid_lock.release()  # noqa: SLF001
    return popen.returncode is not None


def _is_over_for_good(popen: Any) -> bool:
    """As `_is_over`; a platform thread that holds the lock while it waits for the process is about to give it back."""
    with popen._waitpid_lock:  # noqa: SLF001
        _take_status(popen)
    return popen.returncode is not None


def _take_status(popen: Any) -> None:
    if popen.returncode is None:
        pid, status = popen._try_wait(os.WNOHANG)  # noqa: SLF001
        if pid == popen.pid:
            popen._handle_exitstatus(status)  # noqa: SLF001


# ---- multiprocessing

_BOOTSTRAP = "multiprocessing.process.BaseProcess._bootstrap"
_START = "multiprocessing.process.BaseProcess.start"
_TELLING = ("_send", "ensure_running")  # methods of the resource tracker
_SHARED_MEMORY = "multiprocessing.shared_memory.SharedMemory.__init__"


def _children(_: Any) -> Sequence[ClassPatch]:
    run = beneath(_BOOTSTRAP)  # what a child process does, and then it ends

    def bootstrap(self: Any, *args: Any, **kwargs: Any) -> Any:
        leave_all_scopes()
        return run(self, *args, **kwargs)

    return [
        ClassPatch(_BOOTSTRAP, bootstrap, when=ALWAYS),
        ClassPatch(_START, patient(beneath(_START), hears_own_scopes=True)),
    ]


def _tracker_leaf(name: str) -> str:
    return f"multiprocessing.resource_tracker.ResourceTracker.{name}"


def _trackers(_: Any) -> Sequence[ClassPatch]:
    return [ClassPatch(name, patient(beneath(name))) for name in map(_tracker_leaf, _TELLING)]


def _shared_memories(module: Any) -> Sequence[ClassPatch]:
    make = patient(module.SharedMemory.__init__)

    @wraps(module.SharedMemory.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)

    return [ClassPatch(_SHARED_MEMORY, init)]


def leaves() -> Sequence[Patch]:
    """What this file makes cooperative."""
    return [
        Leaf("os.wait", builtin(posix, "wait"), wait),
        Leaf("os.wait3", builtin(posix, "wait3"), wait3),
        Leaf("os.wait4", builtin(posix, "wait4"), wait4),
        Leaf("os.waitid", builtin(posix, "waitid"), waitid),
        Leaf("os.waitpid", builtin(posix, "waitpid"), waitpid),
        Leaf("os.system", builtin(posix, "system"), system),
        ClassPatch("subprocess.Popen._execute_child", execute_child),
        ClassPatch("subprocess.Popen._wait", popen_wait, _parks),
        *late_leaves("multiprocessing.process", [_BOOTSTRAP, _START], _children),
        *late_leaves("multiprocessing.resource_tracker", map(_tracker_leaf, _TELLING), _trackers),
        *late_leaves("multiprocessing.shared_memory", [_SHARED_MEMORY], _shared_memories),
    ]
