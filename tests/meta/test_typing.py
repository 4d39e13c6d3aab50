"""What type checkers make of the public names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
from collections.abc import Callable
from itertools import count

from plait import Mutex, Started, ThreadGroup, deadline, move_on_after, pmap, shield, timeout


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



def one_in_time() -> int:
    with timeout(5):
        return 1


def one_before(at: float) -> int:
    with deadline(at):
        return 1


def one_in_peace() -> int:
    with shield(timeout=5):
        return 1


def one_of_a_group() -> int:
    with ThreadGroup() as group:
        return group.spawn(int).result()


def one_of_a_lock(values: Mutex[int]) -> int:
    with values.lock() as value:
        return value


def one_or_none() -> int | None:
    with move_on_after(5):
        return 1
    return None  # reached: move_on_after swallows


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
    _check(program, "--strict", "--warn-unreachable")


@pytest.mark.slow
def test_programs_of_the_readme(tmp_path):
    """mypy finds nothing in them, though they say nothing of types."""
    pytest.importorskip("mypy")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    for number, block in enumerate(blocks):
        program = tmp_path / f"readme_{number}.py"
        program.write_text(block)
        _check(program, "--config-file=", "--check-untyped-defs", "--disable-error-code=var-annotated")


def _check(program, *options):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--no-warn-unused-configs", str(program)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
