"""docs/leaves.md says of each leaf what the code says."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import plait

PAGE = (Path(__file__).parents[2] / "docs/leaves.md").read_text()
ADVICE = "the table in docs/leaves.md is old: run scripts/leaves with Python 3.13"


@pytest.mark.skipif(sys.version_info[:2] != (3, 13), reason="the table is written with 3.13")
def test_every_leaf_is_on_the_page():
    """Each leaf of this interpreter is in the row of its file, with the first paragraph of that."""
    plait.patch.install()
    rows = {row.split(" | ")[-1].strip(" |`"): row for row in PAGE.splitlines() if row.startswith("| ")}
    for leaf in plait.patch.status().values():
        file = leaf.file.rpartition("/")[2]
        row = rows.get(file, "")
        assert f"`{leaf.name}`" in row, f"{leaf.name}: {ADVICE}"
        module = importlib.import_module(leaf.file.removesuffix(".py").replace("/", "."))
        assert f"| {' '.join(module.__doc__.split(chr(10) * 2)[0].split())} |" in row, f"{file}: {ADVICE}"


def test_what_blocks_in_the_standard_library_is_on_the_page():
    """sqlite3 waits for the locks of other connections in C: said with its reason, and with the way out."""
    _, _, blocking = PAGE.partition("## What stays uncooperative")
    (row,) = (line for line in blocking.splitlines() if line.startswith("| `sqlite3`"))
    assert "`offload`" in row
