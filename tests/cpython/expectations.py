"""The tests that are not expected to pass on a virtual thread: expectations.txt, read.

One line an exclusion, four fields with two spaces or more between them:

    test_module.Class.test  versions  how  reason

versions: `all`, or some of `3.12`, `3.12+`, `3.11-3.13`, `3.14t`, with commas and without blanks. A number means the ordinary
build and the free-threaded one, `3.14t` the latter alone. how: `fails`, or `hangs` for what does not come to an end or
ends the process: such a test is run on demand only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name("expectations.txt")
_VERSION = re.compile(r"3\.(\d+)(t?)(\+|-3\.(\d+))?")


@dataclass(frozen=True)
class Exclusion:
    """One line."""

    test: str
    versions: str
    how: str
    reason: str

    def is_in(self, module: str) -> bool:
        """Whether the test is one of `module`, as regrtest names it; `test_package.test_module` will do."""
        return self.test.startswith(f"{module}.")

    def holds_for(self, minor: int, *, is_free_threaded: bool) -> bool:
        """Whether it is meant for 3.`minor`."""
        return any(_covers(version, minor, is_free_threaded=is_free_threaded) for version in self.versions.split(","))


def _covers(version: str, minor: int, *, is_free_threaded: bool) -> bool:
    if version == "all":
        return True
    parts = _VERSION.fullmatch(version)
    assert parts is not None
    first = int(parts[1])
    if parts[2] and not is_free_threaded:
        return False
    if parts[3] is None:
        return minor == first
    return first <= minor and (parts[3] == "+" or minor <= int(parts[4]))


def read(path: Path = _FILE) -> list[Exclusion]:
    """All exclusions, in the order of the file.

    Raises:
        ValueError: a line is not laid out as above, or a test has two lines for one version.
    """
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = re.split(r" {2,}", line.strip(), maxsplit=3)
        if len(fields) != 4 or fields[2] not in {"fails", "hangs"}:
            raise ValueError(f"{path.name}:{number}: expected `test  versions  fails|hangs  reason`, not {line!r}")
        if not all(version == "all" or _VERSION.fullmatch(version) for version in fields[1].split(",")):
            raise ValueError(f"{path.name}:{number}: {fields[1]!r} names no versions: write all, 3.12, 3.12+ or 3.14t")
        found.append(Exclusion(*fields))
    return found
