"""Runs one of CPython's test modules as `python -m test` does, and says test by test what came of it.

    python worker.py MODE EVENTS SELECTION MODULE

MODE is `plain` (without plait), `neutral` (plait is installed and at work, the tests run on the main thread as ever),
`inside` (each test runs on a virtual thread: setUp, the method, tearDown and clean-ups) or `elsewhere` (without plait, each
on an ordinary thread: what fails there as well is no matter of ours). EVENTS is the descriptor of a
pipe that gets a line of JSON for each beginning and end. SELECTION is a file of JSON: {"only": [ids] or null, "without":
[ids]}; with it a run goes on behind a test that has ended the process.

Events are written by the main thread, between the tests, so that no leaf of plait's is involved.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import signal
import sys
import time
import traceback
import unittest
from collections import deque
from concurrent.futures import Future
from contextlib import suppress

_ROUND = 0.05  # seconds: a signal that another kernel thread gets does not wake the main thread, so it looks by itself
_LONGEST_TEXT = 6000  # characters of a traceback that are kept: its end

_LOOPBACK = ("test_socketserver",)  # say that they need a network, and keep to the loopback interface

_write = os.write  # before anything is installed
_clock = time.monotonic


class Recorder:
    """What stands between unittest and its tests."""

    def __init__(self, events: int, only: list[str] | None, without: list[str]) -> None:
        self._events = events
        self._pid = os.getpid()  # forked children of a test inherit us, and have nothing to say
        self._only = None if only is None else set(only)
        self._without = set(without)
        self._seen: dict[str, int] = {}  # how often each id has come
        self._current: str | None = None  # the test that runs
        self._outcomes: list[tuple[str, str, str]] = []  # of that test: (kind, what, text)
        self.call = self.call_here

    # ---- a test

    def call_here(self, original, case, result):
        """Run `case` on this thread."""
        original(case, result)

    def call_inside(self, original, case, result):
        """Run `case` on a virtual thread of its own."""
        _service.run(original, case, result)

    def call_elsewhere(self, original, case, result):
        """Run `case` on an ordinary thread of its own."""
        import threading

        raised = []

        def run():
            try:
                original(case, result)
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, name=f"test {case.id()}", daemon=False)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]

    def put(self) -> None:
        """Stand between unittest and its tests from here on."""
        original = unittest.TestCase.__call__

        def call(case, result=None, *args):
            if self._current is not None or os.getpid() != self._pid or not isinstance(result, unittest.TestResult):
                return original(case, result, *args)  # a test of tests, or a forked child
            return self._run(original, case, result)

        unittest.TestCase.__call__ = call
        for kind, name in (
            ("fail", "addFailure"),
            ("error", "addError"),
            ("skip", "addSkip"),
            ("expected failure", "addExpectedFailure"),
            ("unexpected success", "addUnexpectedSuccess"),
            ("subtest", "addSubTest"),
        ):
            setattr(unittest.TestResult, name, self._noting(kind, getattr(unittest.TestResult, name)))

    def _run(self, original, case, result):
        name = self._id(case)
        if name in self._without or (self._only is not None and name not in self._only):
            return
        self._current = name
        self._outcomes = []
        self._say(event="begin", id=name)
        began = _clock()
        try:
            self.call(original, case, result)
        except BaseException as error:  # also KeyboardInterrupt: the others are to run
            self._outcomes.append(("error", type(error).__name__, _text(error)))
        took = _clock() - began
        outcomes, self._outcomes = self._outcomes, []
        self._current = None
        self._say(event="end", id=name, outcomes=outcomes, seconds=round(took, 3))

    def _id(self, case) -> str:
        name = case.id().removeprefix("test.")
        self._seen[name] = count = self._seen.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    # ---- what unittest says of it

    def _noting(self, kind, original):
        def add(result, test, *args):
            if os.getpid() == self._pid:
                self._note(kind, test, args)
            return original(result, test, *args)

        return add

    def _note(self, kind, test, args) -> None:
        if kind == "subtest":
            error = args[1]
            if error is None:
                return
            kind = "fail" if issubclass(error[0], test.failureException) else "error"
        elif kind == "skip":
            self._append(test, ("skip", args[0], ""))
            return
        else:
            error = args[0] if args else None
        self._append(test, (kind, error[0].__name__, _text(error[1])) if error else (kind, "", ""))

    def _append(self, test, outcome) -> None:
        if self._current is not None:
            self._outcomes.append(outcome)
        else:  # setUpClass or setUpModule
            self._say(event="outside", id=test.id().removeprefix("test."), outcomes=[outcome])

    def _say(self, **event) -> None:
        line = json.dumps(event).encode() + b"\n"
        while line:
            line = line[_write(self._events, line) :]


class Service:
    """The main thread while a test runs on a virtual one: it makes the calls that CPython takes from no other thread.

    A test that installs a signal handler is then about what comes of it, on a virtual thread. The handlers run in the main
    thread, as ever. What they raise is raised there, and reaches no test: it is cancelled.
    """

    _SIGNALS = ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")

    def __init__(self) -> None:
        self._jobs = deque()  # what the main thread is to call; each can be called again
        self._bell = None  # rings when there is one, and at the end of the test
        self._user = None  # the virtual thread that is served
        self._pid = os.getpid()

    def put(self) -> None:
        """Offer the calls."""
        self._numbers = [signal.Signals[name] for name in self._SIGNALS]
        for name in ("signal", "set_wakeup_fd"):
            setattr(signal, name, self._offered(getattr(signal, name)))

    def run(self, fn, *args) -> None:
        """Run `fn` on a virtual thread, and serve it until it is over. The main thread."""
        import queue

        import plait

        before = {number: signal.getsignal(number) for number in self._numbers}
        self._jobs = deque()
        self._bell = bell = queue.SimpleQueue()
        test = plait.spawn(self._use, fn, *args)
        test.add_done_callback(bell.put)
        raised = None
        is_over = False
        while not is_over:
            try:
                while self._jobs or not test.done():
                    if self._jobs:
                        self._jobs[0]()
                        self._jobs.popleft()
                    else:
                        with suppress(queue.Empty):
                            bell.get(timeout=_ROUND)
                is_over = True
            except BaseException as error:  # a handler's, between any two instructions: nothing may be lost by it
                raised = raised or error
                test.cancel()
        self._user = None
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        if raised is not None:
            raise raised
        test.result()

    def _use(self, fn, *args) -> None:
        from plait._core import current_thread

        self._user = current_thread()
        fn(*args)

    def _offered(self, original):
        @functools.wraps(original)
        def call(*args, **kwargs):
            from plait._core import current_thread

            # In a forked child the one thread that there is is the main thread.
            if self._user is None or current_thread() is not self._user or os.getpid() != self._pid:
                return original(*args, **kwargs)
            answer = Future()

            def job():
                if answer.done():
                    return
                try:
                    result = original(*args, **kwargs)
                except Exception as error:
                    answer.set_exception(error)
                else:
                    answer.set_result(result)

            self._jobs.append(job)
            self._bell.put(None)
            return answer.result()

        call.__module__ = "signal"  # as the public ones say
        return call


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-_LONGEST_TEXT:]


_service = Service()


def start_plait():
    """Install the leaves, and keep a few virtual threads parked; call the result to let them go."""
    import queue
    import threading

    import plait
    from plait._core import runtime

    plait.patch.install()
    plait.spawn(int).result()
    for pool in (runtime.offload, runtime.offload_for_programs):
        pool.keep_one()  # tests count threads, and wait for those that were started meanwhile: a worker would be one for 10 s
        while not pool.counts().idle:
            time.sleep(0.001)
    is_over, numbers = threading.Event(), queue.SimpleQueue()
    parked = [plait.spawn(is_over.wait) for _ in range(3)]
    parked.append(plait.spawn(numbers.get))
    while not all(future.waits_for for future in parked):
        time.sleep(0.001)

    def stop() -> None:
        is_over.set()
        numbers.put(None)
        for future in parked:
            future.result()

    return stop


def main() -> None:
    mode, events, selection, module = sys.argv[1:]
    with open(selection) as file:
        chosen = json.load(file)
    os.set_inheritable(int(events), False)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # it is ignored in what a shell has put into the background
    recorder = Recorder(int(events), chosen["only"], chosen["without"])
    recorder.put()
    pid = os.getpid()
    stop = None
    if mode in {"neutral", "inside"}:
        stop = start_plait()
    if mode != "neutral":
        recorder.call = getattr(recorder, f"call_{mode}", recorder.call)
    if mode == "inside":
        _service.put()
    resources = ["-u", "network"] if module in _LOOPBACK else []
    sys.argv = ["test", *resources, module]
    sys.path[0] = os.getcwd()  # as with -m: this file's directory is nobody's business
    try:
        runpy.run_module("test", run_name="__main__", alter_sys=True)
    finally:
        if stop is not None and os.getpid() == pid:
            stop()


if __name__ == "__main__":
    main()
