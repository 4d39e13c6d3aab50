"""What type checkers make of the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from collections.abc import Callable
from itertools import count

from plait import Started, ThreadGroup, pmap


def serve(started: Callable[[str], None], port: int) -> None:
    started(str(port))


def serve_by_name(started: Started[str], port: int) -> None:
    started(str(port))


def begin(started: Callable[[], None]) -> None:
    started()


with ThreadGroup() as group:
    address: str = group.start(serve, 80)
    address = group.start(serve_by_name, 80)
    address = group.options(name="server").start(serve, port=80)
    group.start(begin)
    group.start(lambda started: started())
    group.start(serve, "80")  # type: ignore[call-overload]

squares = pmap(lambda n: n * n, count(), limit=3)
first: int = next(squares)
squares.close()
"""


@pytest.mark.slow
def test_programs_of_users(tmp_path):
    """mypy accepts what the documentation shows, and infers what calls give; it refuses wrong arguments."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-configs", str(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
