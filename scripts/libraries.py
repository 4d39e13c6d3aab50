#!/usr/bin/env python3
"""Makes docs/libraries.md, the table of libraries that were tried on real servers, from reports of those tests.

    scripts/test
    scripts/libraries.py .venv-test/*/results/servers-*.xml .venv-test/*/results/carriers-[12].xml > docs/libraries.md
    scripts/libraries.py --check REPORT...      # says what is not in the page any more, or not as it says

The reports are pytest's JUnit XML; what tests/libraries notes of a test is among its properties. What needs no server is in
the ordinary runs.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

PAGE = Path(__file__).resolve().parent.parent / "docs" / "libraries.md"

HEAD = """\
# Libraries

Plain blocking libraries, unmodified as they come from PyPI or with CPython, on virtual threads and real servers.
This page is made by `scripts/libraries.py` from the reports of `scripts/test`; do not edit it.

What was run with each, and must hold:

* **200 at work**: 200 virtual threads use the library through a pool of four connections, with every answer checked, while other threads on every carrier tick every 5 ms.
* **canary**: the server keeps silent, the caller waits inside of the library, and the other threads go on ticking; then the caller is cancelled, and the pool is whole.
* **failure**: one call fails with the library's own error, and all who wait for the server or for a place in the pool are interrupted within two seconds, or, where the library cancels on the server first, within its grace; the pool is whole.
* **cancel**: 200 threads at work are cancelled, some while they are being answered; the pool is whole.
* **swept**: three concurrent uses are cancelled at the first place where any of them waits, then at the second, and so on (`plait.testing.every_park`); after each, the pool is whole. Once more with a new client each time, from connect to close, on the main thread and on a virtual one. The number is how many attempts that took, in all runs together.

*The pool is whole* when all its places can be had at once and each serves, and no lock in the client is held. Databases are asked for more: a transaction that was cut short has left nothing.

"""


class Row:
    """What was seen of a library."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.version = facts["version"]
        self.server = facts["server"]
        self.remark = facts.get("remark", "")
        self.tried: dict[str, set[str]] = {}  # what was run -> outcomes
        self.attempts = 0

    def add(self, facts: dict[str, str], outcome: str) -> None:
        """One test."""
        for what in facts["tried"].removesuffix(" from connect to close").split(" and "):
            self.tried.setdefault(what, set()).add(outcome)
        self.attempts += int(facts.get("attempts", 0))

    def outcome(self, what: str) -> str:
        """What came of it: the worst of all runs."""
        seen = self.tried.get(what, {"not run"})
        worst = next((each for each in ("failed", "not run", "passed") if each in seen), "not run")
        return f"{worst}, {self.attempts}" if what == "swept" and worst == "passed" else worst


def read(paths: list[str]) -> tuple[dict[str, Row], set[str]]:
    """All rows in the order of the tests, and what the reports were made with."""
    rows: dict[str, Row] = {}
    made_with = set()
    for path in paths:
        for case in ET.parse(path).iter("testcase"):
            facts = {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
            if "library" not in facts:
                continue
            bad = case.find("failure") is not None or case.find("error") is not None
            outcome = "failed" if bad else "not run" if case.find("skipped") is not None else "passed"
            rows.setdefault(facts["library"], Row(facts)).add(facts, outcome)
            made_with.add((facts["interpreter"], facts["carriers"]))
    return rows, {f"{interpreter} with {number} carrier{'s'[: number != '1']}" for interpreter, number in made_with}


def page(rows: dict[str, Row], made_with: set[str]) -> str:
    """The page."""
    tried = list(dict.fromkeys(what for row in rows.values() for what in row.tried))
    lines = [HEAD, f"Last made on {', and on '.join(sorted(made_with))}.\n\n"]
    lines.append("| library | version | server | " + " | ".join(tried) + " | remark |\n")
    lines.append("|---" * (len(tried) + 4) + "|\n")
    for name, row in rows.items():
        cells = [name, row.version, row.server, *map(row.outcome, tried), row.remark]
        lines.append("| " + " | ".join(cells) + " |\n")
    return "".join(lines)


def outcomes(text: str) -> set[tuple[str, ...]]:
    """The lines of the table without what changes from run to run: versions, and how many attempts a sweep took."""
    found = set()
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [re.sub(r"[\d.]+", "", cell).strip(" ,") for cell in line.strip("|").split(" | ")]
            found.add((cells[0], *cells[2:]))
    return found


def main() -> int:
    """Print the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the outcomes with those in the page")
    parser.add_argument("reports", nargs="+", help="JUnit XML of pytest --servers")
    arguments = parser.parse_args()
    text = page(*read(arguments.reports))
    if not arguments.check:
        sys.stdout.write(text)
        return 0
    differences = outcomes(text) ^ outcomes(PAGE.read_text())
    for cells in sorted(differences):
        print("not as in", PAGE.name, "|", " | ".join(cells), file=sys.stderr)
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
