"""Calls that cannot be made to park, run on an elastic pool of platform threads while the caller parks.

A worker is started when a job finds none idle, up to a limit; beyond it jobs queue. A worker that has had nothing to do
for a while ends. Workers carry no context of whoever first needed them: each starts from an empty one.

    Caller: 1. queues the job  2. arms, stores its epoch in the job, if that is not done  3. parks until it is
    Worker: 1. takes the job, and runs it  2. stores the outcome, then marks it done  3. unparks the epoch
Queue, mark and epoch are under the pool's lock, so either the caller's step 2 sees the mark or the worker's step 3 sees
the epoch.

A caller whose job must not be left half done waits for it, shielded, if it has begun when the cancel comes.

A caller that goes before the job is done leaves it. One that is still queued never runs. One that runs is *abandoned*:
it goes on by itself, and its outcome is given to `abandoned`, or dropped. Its worker does not count against the limit
from then on, or calls that never end would keep all others from beginning; it ends when the call does.

Some calls wait themselves, for as long as it takes: so many of them would use up the limit. They run *apart*: such a job
goes before those that wait for a worker, and its worker does not count while it runs. Some are no caller's own: what they
hear of concerns many threads, and they tell them by themselves.

The runtime has two pools, with a limit each: one for plait's own calls (names, disks), which end by themselves, and one for
those that programs offload. These may wait for any virtual thread, and so for a call of plait's own that is made there: with
one limit for all, as many of them would keep that call from beginning, and themselves from ending.

A call that somebody else runs can be waited for in the same way: a job that has begun elsewhere, which is never queued, and
which whoever runs it reports with `finish`.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any, NamedTuple

from plait import _originals
from plait._core._atomics import Lock
from plait._core._cancel import check_entry
from plait._core._cancel import retract as take_back
from plait._core._clock import LONGEST_WAIT, now
from plait._core._parking import TIMED_OUT, WOKEN, Parker, WaitReason, park, park_shielded
from plait._errors import Cancelled
from plait._native import kernel_ident
from plait._native._native import WaitWord
from plait._originals import lock_acquire, lock_release

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_WORKERS = 128
_PATIENCE = 10.0  # seconds that an idle worker waits for another job


class OffloadJob:
    """One call."""

    __slots__ = (
        "abandoned",
        "args",
        "began",
        "epoch",
        "error",
        "fn",
        "is_apart",
        "is_done",
        "is_left",
        "result",
        "who",
        "worker",
    )

    def __init__(self, who: Parker, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.who = who
        self.fn: Callable[..., Any] | None = fn  # with its arguments: until it has run, or never will
        self.args = args
        self.epoch = 0  # the caller's present wait; 0 before the first. Under the pool's lock
        self.result: Any = None  # the worker's until `is_done`, then the caller's or, if that has left, the worker's
        self.error: BaseException | None = None  # likewise
        self.began: float | None = None  # when a worker took it. Under the pool's lock
        self.worker = 0  # the kernel's identity of that worker; 0: it is none of ours. Likewise
        self.is_done = False  # likewise
        self.is_left = False  # the caller has gone. Likewise
        self.is_apart = False  # its worker does not count. Never changes once it is queued
        self.abandoned: Callable[[Any], None] | None = None  # what to do with a result that nobody awaits

    def begin_elsewhere(self) -> None:
        """Somebody else runs it: it is not queued. Its caller, before anybody can finish it."""
        self.fn = None
        self.began = now()

    def run(self) -> None:
        fn, args = self.fn, self.args
        assert fn is not None
        try:
            self.result = Context().run(fn, *args)
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            self.error = error
        finally:
            fn = None
            args = ()
            self.drop_call()

    def drop_call(self) -> None:
        """It has run, or never will. Not under the lock: what this lets go of may run code of others."""
        self.fn = None
        self.args = ()

    def outcome(self) -> Any:
        """The result, or the error raised; once. The caller's, when it is done."""
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame


class OffloadCounts(NamedTuple):
    """The pool at one instant."""

    workers: int
    idle: int
    queued: int
    abandoned: int
    abandoned_total: int


class Offload:
    """The pool. Any thread submits. An idle worker waits `patience` seconds for another job."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._lock = Lock()
        self._jobs: deque[OffloadJob] = deque()  # that nobody has begun. Under _lock
        self._idle: list[Any] = []  # gates of idle workers, last idle first out. Under _lock
        self._has_kept = False  # there is a worker that does not end. Under _lock
        self._workers = 0  # without those whose job is abandoned. Under _lock
        self._called = 0  # workers that were started or woken, and have not looked for a job since. Under _lock
        self._abandoned = 0  # jobs that run though their caller has gone. Under _lock
        self._abandoned_total = 0  # that have ever done so. Under _lock

    def call(
        self,
        me: Parker,
        fn: Callable[..., Any],
        *args: Any,
        deadline: float | None = None,
        abandoned: Callable[[Any], None] | None = None,
        is_apart: bool = False,
    ) -> Any:
        """Run `fn(*args)` on a worker and park until it is done. A cancel point.

        Raises what the call raises; `TimeoutError` when the instant `deadline` comes first. On either kind of leaving
        a call that has begun goes on, and its result goes to `abandoned`. `is_apart`: see above.
        """
        if me.scope is not None:
            check_entry(me)
        job = OffloadJob(me, fn, args)
        job.abandoned = abandoned
        job.is_apart = is_apart
        self.submit(job)
        try:
            if not self.wait(me, job, deadline):
                raise TimeoutError("timed out")
        except BaseException:
            if not self.leave(job) and job.is_done and job.error is None and abandoned is not None:
                abandoned(job.result)
            raise
        return job.outcome()

    def call_whole(self, me: Parker, fn: Callable[..., Any], *args: Any, is_apart: bool = False) -> Any:
        """As `call`, for what ends by itself and must not be left half done: once it has begun, it is waited for.

        A cancel that comes in the meantime comes at the next point; what a signal handler raises, when the call is done.
        """
        if me.scope is not None:
            check_entry(me)
        job = OffloadJob(me, fn, args)
        job.is_apart = is_apart
        self.submit(job)
        try:
            self.wait(me, job)
        except Cancelled:
            if self.retract(job) and not job.is_done:
                raise
            take_back(me)
            self._wait_shielded(me, job)
        except BaseException:
            if not self.retract(job):
                self._wait_shielded(me, job)
            raise
        return job.outcome()

    def submit(self, job: OffloadJob) -> None:
        """Queue `job`. Its caller, once; never waits."""
        with self._lock:
            if job.is_apart:
                self._jobs.appendleft(job)
            else:
                self._jobs.append(job)
            gate = self._idle.pop() if self._idle else None
            is_new = gate is None and (job.is_apart or self._workers < _MOST_WORKERS)
            if is_new:
                self._workers += 1
            if is_new or gate is not None:
                self._called += 1
        if gate is not None:
            lock_release(gate)
        elif is_new:
            self._start_worker()

    def run_apart(self, fn: Callable[..., Any], *args: Any) -> None:
        """Have `fn(*args)` run apart, however long it takes. It must not raise. Any thread; never waits."""
        job = OffloadJob(None, fn, args)  # type: ignore[arg-type]  # there is nobody to tell
        job.is_apart = True
        self.submit(job)

    def wait(self, me: Parker, job: OffloadJob, deadline: float | None = None) -> bool:
        """Park until `job` is done; False if the instant `deadline` comes first. Its caller; a cancel point."""
        while True:
            epoch = me.arm()
            with self._lock:
                job.epoch = epoch
                is_done = job.is_done
            if is_done:
                me.withdraw()
                return True
            outcome = park(me, epoch, WaitReason.OFFLOAD, deadline)
            if outcome == WOKEN:
                return True
            if outcome == TIMED_OUT:
                return False

    def _wait_shielded(self, me: Parker, job: OffloadJob) -> None:
        """As `wait`, whatever the scopes of `me` say."""
        while True:
            epoch = WaitWord.arm(me, True)
            with self._lock:
                job.epoch = epoch
                is_done = job.is_done
            if is_done:
                me.withdraw()
                return
            if park_shielded(me, epoch, WaitReason.OFFLOAD) == WOKEN:
                return

    def retract(self, job: OffloadJob) -> bool:
        """Keep `job` from running if it has not begun; whether it will not run any more. Its caller; never waits."""
        with self._lock:
            is_retracted = job.began is None and not job.is_left
            if is_retracted:
                self._retract_locked(job)
            is_over = job.is_done or job.is_left
        if is_retracted:
            job.drop_call()
        return is_over

    def leave(self, job: OffloadJob) -> bool:
        """Wait for `job` no more; whether it is abandoned, that is, runs on. Its caller, once; never waits."""
        with self._lock:
            if job.is_done or job.is_left:
                return False
            is_retracted = job.began is None
            is_new = False
            if is_retracted:
                self._retract_locked(job)
            else:
                job.is_left = True
                self._abandoned += 1
                self._abandoned_total += 1
                if job.worker and not job.is_apart:
                    self._workers -= 1
                is_new = self._call_locked()
        if is_retracted:
            job.drop_call()
        elif is_new:
            self._start_worker()
        return not is_retracted

    def finish(self, job: OffloadJob) -> bool:
        """`job` has run, and its outcome is stored: tell its caller, if that waits. Who has run it; never waits.

        Gives whether a worker who does so goes on as one of the pool.
        """
        with self._lock:
            job.is_done = True
            is_left = job.is_left
            epoch = job.epoch
            if is_left:
                self._abandoned -= 1
        if not is_left:
            if epoch:
                job.who.unpark(epoch)
        elif job.error is None and job.abandoned is not None:
            job.abandoned(job.result)
        return not is_left

    def counts(self) -> OffloadCounts:
        """The pool now. Any thread."""
        with self._lock:  # the numbers alone: making the tuple runs Python
            workers, idle, queued = self._workers, len(self._idle), len(self._jobs)
            abandoned, total = self._abandoned, self._abandoned_total
        return OffloadCounts(workers, idle, queued, abandoned, total)

    def _call_locked(self) -> bool:
        """A worker counts no more: whether another must be started, which is counted here, so that no job is left lying.

        More may have been on their way than there are workers in the pool, each for a job apart.
        """
        if len(self._jobs) <= self._called or self._workers >= _MOST_WORKERS:
            return False
        self._workers += 1
        self._called += 1
        return True

    def _retract_locked(self, job: OffloadJob) -> None:
        self._jobs.remove(job)
        job.is_left = True

    def _count_again(self) -> bool:
        """A worker has run something apart: whether it goes on as one of the pool."""
        with self._lock:
            if self._workers >= _MOST_WORKERS:
                return False
            self._workers += 1
        return True

    def _start_worker(self) -> None:
        """Start the kernel thread of a worker that is counted already."""
        try:
            _originals.start_new_thread(self._work, (self._patience,))
        except BaseException as error:  # noqa: BLE001 - raised by every job that was queued for it
            with self._lock:
                self._workers -= 1
                self._called -= 1
                if self._workers:
                    return  # an existing worker will come to them
                jobs = list(self._jobs)
                self._jobs.clear()
            for job in jobs:
                job.error = error
                self.finish(job)

    def keep_one(self) -> None:
        """Have one worker that never ends: where none can be started while the process ends, it is all there is then."""
        with self._lock:
            if self._has_kept:
                return
            self._has_kept = True
            self._workers += 1
            self._called += 1
        _originals.start_new_thread(self._work, (LONGEST_WAIT,))

    def _work(self, patience: float) -> None:
        gate = _originals.allocate_lock()
        lock_acquire(gate)
        ident = kernel_ident()
        was_called = True
        while True:
            is_new = False
            with self._lock:
                self._called -= was_called
                job = self._jobs.popleft() if self._jobs else None
                if job is None:
                    self._idle.append(gate)
                else:
                    job.began = now()
                    job.worker = ident
                    if job.is_apart:
                        self._workers -= 1
                        is_new = self._call_locked()
            was_called = False
            if is_new:
                self._start_worker()
            if job is not None:
                job.run()
                if not self.finish(job) or (job.is_apart and not self._count_again()):
                    return
                job = None
                continue
            if not lock_acquire(gate, True, patience):
                with self._lock:
                    if gate in self._idle:
                        self._idle.remove(gate)
                        self._workers -= 1
                        return
                lock_acquire(gate)  # a submitter has chosen this worker meanwhile
            was_called = True
