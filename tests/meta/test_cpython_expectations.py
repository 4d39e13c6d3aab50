"""The file that says which of CPython's own tests are excluded (tests/cpython/expectations.txt)."""

from collections import Counter

import pytest
from cpython import expectations


def test_the_file_is_sound():
    """Each line can be read, and no test is excluded twice for one version."""
    found = expectations.read()
    for minor in range(11, 16):
        for is_free_threaded in (False, True):
            counts = Counter(line.test for line in found if line.holds_for(minor, is_free_threaded=is_free_threaded))
            assert not [test for test, count in counts.items() if count > 1]


@pytest.mark.parametrize(
    ("versions", "ordinary", "free_threaded"),
    [
        ("all", {11, 12, 13, 14, 15}, {14, 15}),
        ("3.12", {12}, set()),
        ("3.13+", {13, 14, 15}, {14, 15}),
        ("3.11-3.13", {11, 12, 13}, set()),
        ("3.14t", set(), {14}),
        ("3.14t+", set(), {14, 15}),
        ("3.11,3.14", {11, 14}, {14}),
    ],
)
def test_versions(versions, ordinary, free_threaded):
    """A line holds for the versions that it names."""
    line = expectations.Exclusion("test_x.C.test_y", versions, "fails", "because")
    assert line.is_in("test_x")
    assert not line.is_in("test")
    assert {n for n in range(11, 16) if line.holds_for(n, is_free_threaded=False)} == ordinary
    assert {n for n in (14, 15) if line.holds_for(n, is_free_threaded=True)} == free_threaded


@pytest.mark.parametrize(
    "line",
    [
        "test_x.C.test_y  all  fails",
        "test_x.C.test_y  all  might fail  because",
        "test_x.C.test_y  2.7  fails  because",
        "test_x.C.test_y all fails because",
    ],
)
def test_lines_that_cannot_be_read(line, tmp_path):
    """They are refused, with their number."""
    path = tmp_path / "expectations.txt"
    path.write_text(f"# comment\n\n{line}\n")
    with pytest.raises(ValueError, match=r"expectations\.txt:3: "):
        expectations.read(path)
