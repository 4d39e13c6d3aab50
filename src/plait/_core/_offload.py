"""Calls that cannot be made to park, run on an elastic pool of platform threads while the caller parks.

A worker is started when a job finds none idle, up to a limit; beyond it jobs queue. A worker that has had nothing to do
for a while ends. Workers carry no context of whoever first needed them: each starts from an empty one.

    Caller: 1. makes the job  2. arms, stores (me, epoch) in it  3. queues it  4. parks until `done` is raised
    Worker: 1. runs the job, stores the outcome  2. raises `done` [fence]  3. unparks the epoch
A caller that is cancelled leaves: the call goes on by itself and its outcome is given to `abandoned`, or dropped.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any

from plait import _originals
from plait._core._atomics import Lock
from plait._core._cancel import check_entry
from plait._core._parking import TIMED_OUT, Parker, WaitReason, park
from plait._originals import lock_acquire, lock_release

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_WORKERS = 128
_PATIENCE = 10.0  # seconds that an idle worker waits for another job


class _Job:
    """One call."""

    __slots__ = ("abandoned", "args", "epoch", "error", "fn", "is_done", "is_left", "result", "who")

    def __init__(self, who: Parker, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.who = who
        self.fn = fn
        self.args = args
        self.epoch = 0  # the caller's present wait
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_done = False  # under the pool's lock
        self.is_left = False  # the caller has gone. Under the pool's lock
        self.abandoned: Callable[[Any], None] | None = None  # what to do with a result that nobody awaits

    def run(self) -> None:
        try:
            self.result = Context().run(self.fn, *self.args)
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self.error = error


class Offload:
    """The pool. Any thread submits."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._jobs: deque[_Job] = deque()  # under _lock
        self._idle: list[Any] = []  # gates of idle workers, last idle first out. Under _lock
        self._workers = 0  # under _lock

    def call(
        self,
        me: Parker,
        fn: Callable[..., Any],
        *args: Any,
        deadline: float | None = None,
        abandoned: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run `fn(*args)` on a worker and park until it is done. A cancel point.

        Raises what the call raises; `TimeoutError` when the instant `deadline` comes first. On either kind of leaving
        the call goes on, and its result goes to `abandoned`.
        """
        if me.scope is not None:
            check_entry(me)
        job = _Job(me, fn, args)
        job.abandoned = abandoned
        is_queued = False
        try:
            while True:
                epoch = me.arm()
                with self._lock:
                    job.epoch = epoch
                    is_done = job.is_done
                if is_done:
                    me.withdraw()
                    break
                if not is_queued:
                    is_queued = True
                    self._submit(job)
                if park(me, epoch, WaitReason.OFFLOAD, deadline) == TIMED_OUT:
                    raise TimeoutError("timed out")
        except BaseException:
            with self._lock:
                job.is_left = True
                is_done = job.is_done
            if is_done and job.error is None and abandoned is not None:
                abandoned(job.result)
            raise
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # the traceback holds this frame, which holds the job
        return job.result

    def _submit(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            gate = self._idle.pop() if self._idle else None
            is_new = gate is None and self._workers < _MOST_WORKERS
            if is_new:
                self._workers += 1
        if gate is not None:
            lock_release(gate)
        elif is_new:
            try:
                _originals.start_new_thread(self._work, ())
            except BaseException:
                with self._lock:
                    self._workers -= 1
                    if self._workers:
                        return  # an existing worker will come to it
                    self._jobs.remove(job)
                raise

    def _work(self) -> None:
        gate = _originals.allocate_lock()
        lock_acquire(gate)
        while True:
            with self._lock:
                job = self._jobs.popleft() if self._jobs else None
                if job is None:
                    self._idle.append(gate)
            if job is not None:
                job.run()
                self._deliver(job)
                job = None
                continue
            if not lock_acquire(gate, True, _PATIENCE):
                with self._lock:
                    if gate in self._idle:
                        self._idle.remove(gate)
                        self._workers -= 1
                        return
                lock_acquire(gate)  # a submitter has chosen this worker meanwhile

    def _deliver(self, job: _Job) -> None:
        with self._lock:
            job.is_done = True
            is_left = job.is_left
            epoch = job.epoch
        if not is_left:
            job.who.unpark(epoch)
        elif job.error is None and job.abandoned is not None:
            job.abandoned(job.result)
