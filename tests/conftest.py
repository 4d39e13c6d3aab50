"""Every test leaves the process as it found it."""

from __future__ import annotations

import gc
import os
import threading

import pytest
from support import descriptors

import plait
from plait import ThreadGroup, _native
from plait._core import READ, current_thread, wait_descriptor
from plait._default import default_group
from plait._originals import monotonic, sleep


def pytest_addoption(parser):
    parser.addoption("--servers", action="store_true", help="the tests of libraries on real servers, and no others")


def pytest_configure(config):
    config.addinivalue_line("markers", "stress: large numbers, for many seconds; -m 'not stress' leaves them out")


def pytest_collection_modifyitems(config, items):
    """Leave out programs that run with another number of carriers than this run, which has a run of its own for them.

    So it is with the models, whose carriers are made up: they are for the run with one.
    """
    wanted = os.environ.get("PLAIT_CARRIERS", "")
    if wanted not in {"1", "2", "4"}:
        return
    other = [
        item
        for item in items
        if (hasattr(item, "callspec") and _carriers(item) not in (None, int(wanted)))
        or (wanted != "1" and item.path.parent.name == "model")
    ]
    config.hook.pytest_deselected(items=other)
    items[:] = [item for item in items if item not in set(other)]


def _carriers(item):
    return item.callspec.params.get("carriers")


@pytest.fixture(scope="session", autouse=True)
def running_runtime():
    """What the runtime opens once and keeps: the carriers' pollers, and the main thread's wake-up."""
    with ThreadGroup() as group:
        group.spawn(int)
        reader, writer = os.pipe()
        os.write(writer, b"x")
        wait_descriptor(current_thread(), reader, READ)
        os.close(reader)
        os.close(writer)


def _other_threads():
    return {thread for thread in threading.enumerate() if not thread.daemon and thread.is_alive()}


@pytest.fixture(autouse=True)
def leaves_nothing_behind(running_runtime):
    """No thread, no descriptor, no waiter, no open scope, no changed setting outlives a test."""
    threads = _other_threads()
    files = descriptors()
    hook = plait.excepthook
    patches = plait.patch.status()
    yield
    assert plait.excepthook is hook
    assert plait.patch.status() == patches
    assert current_thread().scope is None
    assert _native.current() is None

    def leaks():
        return {
            "threads": _other_threads() - threads,
            "descriptors": {fd: target for fd, target in descriptors().items() if files.get(fd) != target},
            "waiters in the lot": _native.lot_count(),
            "threads in the default group": len(default_group()),
        }

    # What ends by itself, such as a worker's descriptor, may take a moment.
    limit = monotonic() + 5
    while any(leaks().values()) and monotonic() < limit:
        gc.collect()
        sleep(0.002)
    found = {what: leak for what, leak in leaks().items() if leak}
    assert not found
