"""Runs one of CPython's test modules in processes of its own, until each of its tests has a result.

A test that hangs has a result as well: the process is ended (its stacks go to the log), and another one runs what is
left. So it is with a test that ends the process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_WORKER = Path(__file__).with_name("worker.py")
_MARK = "PLAIT_CPYTHON_TESTS"  # in the environment of all that a run starts, to find what it has left behind
_MOST_ENDS = 25  # processes of one run that may be ended by their tests, before it is given up
PASSED = "pass"  # the result of a test that does


@dataclass
class Results:
    """What came of the tests of one module."""

    outcomes: dict[str, str] = field(default_factory=dict)  # by id: "pass", "skip", "fail AssertionError", "hangs", ...
    texts: dict[str, str] = field(default_factory=dict)  # by id: tracebacks, reasons
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)  # what is to be said of the run as a whole

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Results:
        """What `save` has written."""
        return cls(**json.loads(path.read_text()))


def run(
    python: str,
    mode: str,
    module: str,
    log: Path,
    *,
    limit: float,
    only: list[str] | None = None,
    without: list[str] = (),
) -> Results:
    """The results of `module` in `mode` (see worker.py); of the tests in `only`, if given, and of none in `without`."""
    results = Results()
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        for _ in range(_MOST_ENDS):
            selection = {"only": only, "without": [*without, *results.outcomes]}
            if _Process(python, mode, module, output, limit, results).run(selection):
                break
        else:
            results.notes.append(
                f"{module} ({mode}): given up after {_MOST_ENDS} processes that did not come to their end"
            )
    results.seconds = round(time.monotonic() - began, 1)
    return results


class _Process:
    """One process, from its start to its end."""

    def __init__(self, python: str, mode: str, module: str, output, limit: float, results: Results) -> None:
        self._python = python
        self._mode = mode
        self._module = module
        self._output = output
        self._limit = limit
        self._results = results
        self._running: str | None = None  # the test that has begun and not ended
        self._has_hung = False

    def run(self, selection) -> bool:
        """Run what is selected, add to the results; whether it came to its end."""
        mark = uuid.uuid4().hex
        with tempfile.TemporaryDirectory(prefix="plait-cpython-") as scratch:
            chosen = Path(scratch, "selection.json")
            chosen.write_text(json.dumps(selection))
            reader, writer = os.pipe()
            process = subprocess.Popen(
                [self._python, "-X", "faulthandler", str(_WORKER), self._mode, str(writer), str(chosen), self._module],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[writer],
                start_new_session=True,
                cwd=scratch,
                env={**os.environ, _MARK: mark, "TMPDIR": scratch},
            )
            os.close(writer)
            try:
                with open(reader, "rb", buffering=0) as events:
                    self._follow(process, events)
            finally:
                _end_all(process, mark)
        return self._is_over(process.returncode)

    def _follow(self, process: subprocess.Popen, events) -> None:
        """Read events until there are no more, or until none has come for too long."""
        rest = b""
        while True:
            ready, _, _ = select.select([events], [], [], self._limit)
            if not ready:
                self._has_hung = True
                _let_say_where(process)
                return
            data = events.read(1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        try:  # the pipe is closed: by the process's end, or by a test
            process.wait(self._limit)
        except subprocess.TimeoutExpired:
            self._has_hung = True
            _let_say_where(process)

    def _take(self, event) -> None:
        name = event["id"]
        match event["event"]:
            case "begin":
                self._running = name
            case "end":
                self._running = None
                self._results.outcomes[name] = _summary(event["outcomes"])
                self._keep_texts(name, event)
            case "outside":
                if any(kind != "skip" for kind, _, _ in event["outcomes"]):
                    self._results.outcomes[name] = _summary(event["outcomes"])
                    self._keep_texts(name, event)

    def _keep_texts(self, name, event) -> None:
        if texts := [text or what for _, what, text in event["outcomes"] if text or what]:
            self._results.texts[name] = "\n".join(texts)

    def _is_over(self, status: int) -> bool:
        """Give what was running its result; whether nothing is left to run."""
        how = "hangs" if self._has_hung else f"ends the process with status {status}"
        if self._running is not None:
            self._results.outcomes[self._running] = how
            return False
        if self._has_hung:
            self._results.outcomes["(the end)"] = "hangs"
        elif status not in (0, 2, 3, 4, 5):  # regrtest's: passed, failed, environment changed, nothing ran
            self._results.outcomes["(the end)"] = how
        return True


def _summary(outcomes) -> str:
    """One word or two for what unittest was told of a test."""
    kinds = sorted(
        {kind if kind in {"skip", "expected failure"} else f"{kind} {what}".strip() for kind, what, _ in outcomes}
    )
    bad = [kind for kind in kinds if kind not in {"skip", "expected failure"}]
    return ", ".join(bad or kinds[:1]) or PASSED


def _let_say_where(process: subprocess.Popen) -> None:
    """Have faulthandler print the stacks, which ends the process."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGABRT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _end_all(process: subprocess.Popen, mark: str) -> None:
    """End the process and whatever it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wanted = f"{_MARK}={mark}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as environment:
                is_ours = wanted in environment.read().split(b"\0")
            if is_ours:
                os.kill(int(entry), signal.SIGKILL)
        except OSError:  # it has gone, or is somebody else's
            continue


if __name__ == "__main__":
    sys.exit("this is no program: see scripts/cpython-tests")
