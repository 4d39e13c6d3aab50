"""The public names, their documentation and its examples."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from pathlib import Path

import pytest

import plait
import plait.debug
import plait.patch
import plait.testing

PUBLIC = {name: value for name, value in vars(plait).items() if not name.startswith("_")}
OURS = {name: value for name, value in PUBLIC.items() if not inspect.ismodule(value)}
TESTING = {name: value for name, value in vars(plait.testing).items() if not name.startswith("_")}
DEBUG = {name: value for name, value in vars(plait.debug).items() if not name.startswith("_")}
ROOT = Path(__file__).parents[2]


def members(cls):
    """The public methods and properties that a class of ours defines, in whichever of our classes."""
    for name, value in inspect.getmembers(cls):
        if name.startswith("_"):
            continue
        for base in cls.__mro__:
            if name in vars(base):
                if base.__module__.startswith("plait._") and not base.__module__.startswith("plait._core"):
                    yield name, value
                break


def test_public_names():
    """What can be imported from plait is what is meant to be."""
    assert set(OURS) == {
        "Cancelled",
        "YieldInsideScope",
        "TimeoutDoesNotReachChild",
        "RebindAfterSpawn",
        "Limiter",
        "GroupStatistics",
        "CancelledSwallowed",
        "Channel",
        "ChannelClosed",
        "DeadlockError",
        "Future",
        "GroupClosed",
        "GroupFailed",
        "HeldWhileParked",
        "InternalError",
        "Mutex",
        "OffloadStatistics",
        "PoisonedError",
        "RWLock",
        "Selected",
        "Started",
        "Thread",
        "ThreadGroup",
        "VirtualThreadPoolExecutor",
        "as_completed",
        "cancelled",
        "checkpoint",
        "configure",
        "current_deadline",
        "deadline",
        "excepthook",
        "gather",
        "move_on_after",
        "offload",
        "offload_statistics",
        "pmap",
        "race",
        "select",
        "shield",
        "spawn",
        "timeout",
        "writable",
    }
    assert PUBLIC["patch"] is plait.patch
    assert set(TESTING) == {"cancel_at_park", "every_park"}
    assert set(DEBUG) == {"Pin", "PinWatch"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", plait.__version__)


@pytest.mark.parametrize("name", sorted(OURS | TESTING | DEBUG))
def test_docstrings(name):
    """Every public name, and every public method, has a docstring whose first line is a sentence."""
    value = (OURS | TESTING | DEBUG)[name]
    documented = [(name, value)]
    if inspect.isclass(value):
        documented += [(f"{name}.{member}", what) for member, what in members(value)]
    for place, what in documented:
        if not callable(what) and not isinstance(what, property):  # slots, and ThreadGroup.current
            continue
        doc = inspect.getdoc(what)
        assert doc, place
        assert re.search(r"[.:;]$", doc.strip().splitlines()[0]) or len(doc.splitlines()) > 1, place


@pytest.mark.parametrize("name", sorted(OURS | TESTING | DEBUG))
def test_examples_run(name):
    """The examples in the docstrings do what they say."""
    found = doctest.DocTestFinder(recurse=True).find((OURS | TESTING | DEBUG)[name], name, globs={})
    runner = doctest.DocTestRunner(verbose=False)
    for test in found:
        output = []
        runner.run(test, out=output.append)
        assert runner.summarize(verbose=False).failed == 0, "".join(output)


@pytest.mark.parametrize(
    "name", ["ThreadGroup", "Future", "timeout", "move_on_after", "Mutex", "RWLock", "Channel", "spawn", "configure"]
)
def test_has_an_example(name):
    """The names that people use first show how."""
    assert "Example:" in OURS[name].__doc__
    assert ">>>" in OURS[name].__doc__


def test_example_of_patch():
    """So does plait.patch."""
    failed, tried = doctest.testmod(plait.patch)
    assert (failed, tried > 0) == (0, True)


def test_names_say_where_they_come_from():
    """Public classes and functions are plait's own."""
    for name, value in OURS.items():
        assert value.__module__.split(".")[0] == "plait", name


@pytest.mark.parametrize("page", ["README.md"])
def test_python_blocks_compile(page):
    """The Python programs on the page compile, and import only what exists."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        tree = ast.parse(block)
        compile(block, page, "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "plait":
                for name in node.names:
                    assert hasattr(plait, name.name), name.name


def test_program_of_the_readme_runs(tmp_path):
    """The first program of the README downloads what a server has."""
    import http.server
    import threading
    from functools import partial

    block = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL).group(1)
    for number in range(20):
        (tmp_path / str(number)).write_text(f"page {number}")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        try:
            urls = [f"http://127.0.0.1:{server.server_port}/{number}" for number in range(20)]
            space = {}
            exec(block, space)
            expected = {url: f"page {number}".encode() for number, url in enumerate(urls)}
            assert space["download_all"](urls) == expected
            assert space["download_all_futures"](urls) == expected
        finally:
            server.shutdown()
            thread.join()
