"""Pins: a thread that keeps its carrier is pointed out, with what it is doing.

A call that waits where plait cannot make it park, or a long computation, holds up all other threads of its carrier. From
inside nothing is seen of that: everything just takes longer. So a kernel thread asks each carrier that is at work for a
sign of life, which it gives between two turns, and looks at the one that does not.

    Watch:   1. asks those that have answered and are not asleep   2. waits for the limit
             3. reports whom it has asked and who has not answered, once a question
    Carrier: answers between two turns
So a pin is reported when it has lasted between one and two limits; one that is over before may be missed. Carriers that
sleep are left asleep.
"""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from plait import _originals
from plait._core import check_seconds, now, runtime, stack_of_kernel_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from traceback import StackSummary
    from types import TracebackType

    from plait._core._carrier import Carrier

LIMIT = 0.1  # seconds, where nobody says otherwise

_log = logging.getLogger("plait")


@dataclass(frozen=True, slots=True)
class Pin:
    """A carrier that is held up, as `PinWatch` has found it; as text, a report for people.

    Attributes:
        carrier: The number of the carrier, from 0 up.
        seconds: For how long it has not answered.
        ready: How many threads on it could run.
        stack: Where the thread is that keeps it, outermost call first; None on builds without a GIL, where the frames
            of a running thread cannot be read.
    """

    carrier: int
    seconds: float
    ready: int
    stack: StackSummary | None

    def __str__(self) -> str:
        threads = "1 thread that is ready waits" if self.ready == 1 else f"{self.ready} threads that are ready wait"
        head = f"carrier {self.carrier} has been kept for {self.seconds:.3g} s by one thread, and {threads} for it"
        advice = (
            "plait.offload() is for calls that wait where plait cannot see it, and a process pool for computations."
        )
        if self.stack is None:
            return f"{head}. {advice}"
        return f"{head}. {advice} It is at:\n{''.join(self.stack.format()).rstrip() or '  (no function of Python)'}"


class _Question:
    """One sign of life that a carrier is asked for."""

    __slots__ = ("asked", "is_answered", "is_reported")

    def __init__(self, carrier: Carrier) -> None:
        self.asked = now()
        self.is_answered = False  # written by the carrier
        self.is_reported = False
        carrier.call(self.answer)

    def answer(self) -> None:
        """On the carrier, between two turns."""
        self.is_answered = True


class PinWatch:
    """Watches the carriers, from now on until `stop()` or the end of a `with` block, and reports each that is held up.

    Any thread, and as many watches as you like. Each is a kernel thread that looks once a `limit`, which costs some
    microseconds. On a machine that is short of processors a thread can seem to keep its carrier because neither gets on.
    In Python's development mode (`python -X dev`) there is one from the
    first spawn on, with a limit of 0.1 seconds.

    Args:
        limit: Seconds for which a thread may keep its carrier. It is reported after one to two of them, once.
        report: Called with each `Pin`, on the kernel thread of the watch. By default it goes to the logger "plait", as a
            warning. What it raises is printed.

    Raises:
        TypeError, ValueError: `limit` is no positive number of seconds.

    Example:
        >>> import threading
        >>> from plait import ThreadGroup
        >>> from plait.debug import PinWatch
        >>> is_seen, pins = threading.Event(), []
        >>> def report(pin):
        ...     pins.append(pin)
        ...     is_seen.set()
        >>> def compute():
        ...     while not pins:
        ...         pass
        >>> with PinWatch(0.01, report), ThreadGroup() as group:
        ...     thread = group.spawn(compute)
        ...     found = is_seen.wait(60)
        >>> pins[0].carrier in range(64)
        True
    """

    def __init__(self, limit: float = LIMIT, report: Callable[[Pin], object] | None = None) -> None:
        self._limit = check_seconds(limit, "limit")
        if not self._limit > 0:
            raise ValueError(f"limit must be more than 0 seconds, not {limit!r}")
        self._report = _warn if report is None else report
        self._is_over = _originals.allocate_lock()  # held until the watch shall end
        self._has_ended = _originals.allocate_lock()  # held until it has. Who waits for it parks
        _originals.lock_acquire(self._is_over)
        self._has_ended.acquire()
        self._process = os.getpid()
        _originals.start_new_thread(self._run, ())

    def stop(self) -> None:
        """End the watch; harmless if it has ended. Any thread. No report is made any more when this returns.

        Waits for a report that is being made, and so must not be called by one.
        """
        if self._process != os.getpid():  # forked meanwhile: the watch is the parent's
            return
        try:
            _originals.lock_release(self._is_over)
        except RuntimeError:  # it was stopped before
            pass
        with self._has_ended:
            pass

    def __enter__(self) -> Self:
        """The watch, which is at work already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        """What the kernel thread does."""
        questions: dict[Carrier, _Question] = {}
        try:
            while not _originals.lock_acquire(self._is_over, True, self._limit):
                for carrier, question in questions.items():
                    if not question.is_answered and not question.is_reported and runtime.is_started:
                        question.is_reported = True
                        self._tell(carrier, now() - question.asked)
                for carrier in runtime.started_carriers:
                    is_due = carrier not in questions or questions[carrier].is_answered
                    if is_due and not carrier.idler.is_asleep():
                        questions[carrier] = _Question(carrier)
            _originals.lock_release(self._is_over)
        finally:
            self._has_ended.release()

    def _tell(self, carrier: Carrier, seconds: float) -> None:
        ready = carrier.runnable.size() + carrier.unstarted.size() + carrier.spawners.size()
        pin = Pin(carrier.number, seconds, ready, stack_of_kernel_thread(carrier.ident))
        try:
            self._report(pin)
        except Exception:  # noqa: BLE001 - the watch goes on
            traceback.print_exc()


def _warn(pin: Pin) -> None:
    _log.warning("%s", pin)


_watch: PinWatch | None = None  # that of development mode


def watch_in_development() -> None:
    """Have a watch, for as long as the process lives: a step of the runtime's start, which may be repeated."""
    global _watch  # noqa: PLW0603 - one a process
    if _watch is None:
        _watch = PinWatch()


def _after_fork() -> None:
    global _watch  # noqa: PLW0603 - its kernel thread is the parent's
    _watch = None


os.register_at_fork(after_in_child=_after_fork)
