"""The parent's side of a child: started with its environment, bounded in time, always ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from bench._model import Params, Sample

ROOT = Path(__file__).resolve().parent.parent


#: The line of a traceback that names the exception, within an exception group's frame or not.
EXCEPTION = re.compile(
    r"^[ |]*((?!Traceback)[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Group|Cancelled|Failed)\b.*)"
)


class ContenderError(Exception):
    """A contender could not do the job; the message is for the table, all that it said to stderr for the curious."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


def has_gil() -> bool:
    """Return whether this interpreter was built with a GIL."""
    return not sysconfig.get_config_var("Py_GIL_DISABLED")


def processor_seconds(pid: int) -> float:
    """Return the processor seconds that a process has spent: what clock_getcpuclockid(3) is for."""
    return time.clock_gettime((~pid << 3) | 2)


def child_environment(defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a child: the user's, completed by ``defaults`` and the bench's own.

    One carrier is plait's default on a GIL build; it is set all the same, so that the header can state it.
    """
    own = {"PLAIT_CARRIERS": "1"} if has_gil() else {}
    return {**own, **defaults, **os.environ}


class Child:
    """A contender at work in a fresh interpreter, ended when its ``with`` block is left."""

    def __init__(
        self, benchmark: str, contender: str, params: Params, *, limit: int, defaults: Mapping[str, str]
    ) -> None:
        job = json.dumps({"benchmark": benchmark, "contender": contender, "params": params, "limit": limit})
        self.limit = limit
        # A file, not a pipe: a child that complains at length must not wait for a reader.
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench._child", job],
            cwd=ROOT,
            env=child_environment(defaults),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def __enter__(self) -> Self:
        """Return the child; it is already running."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the child, if it has not ended by itself."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()

    @property
    def pid(self) -> int:
        """The process that does the work."""
        return self._process.pid

    def read_report(self) -> Sample:
        """Wait for the next report. Raises ContenderError if the child ends without one.

        The wait is bounded by the child's own alarm.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return cast("Sample", json.loads(line))
        status = self._process.wait()
        raise ContenderError(self._cause(status), self.said())

    def wait_ended(self) -> None:
        """Wait for the child to end by itself. Raises ContenderError if it does not end well."""
        status = self._process.wait()
        if status != 0:
            raise ContenderError(f"{self._cause(status)}, after its report", self.said())

    def said(self) -> str:
        """Return what the child has written to stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read()

    def state(self) -> str:
        """Say what is the matter with a child that somebody else had trouble with."""
        try:
            return self._cause(self._process.wait(timeout=0.5))
        except subprocess.TimeoutExpired:
            return self.complaint() or "the server is still running"

    def complaint(self) -> str:
        """Return the last exception that the child has named on stderr, else its last line there, if any."""
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        named = [found[1] for line in lines if (found := EXCEPTION.match(line))]
        return (named or lines or [""])[-1]

    def _cause(self, status: int) -> str:
        """Say in a few words why the child ended."""
        if status == -signal.SIGALRM:
            return f"not done after {self.limit} s"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return self.complaint() or f"exit status {status} without a report"
