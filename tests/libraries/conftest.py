"""The tests on real servers have a run of their own: `pytest --servers tests/libraries`, which runs no others."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from libraries.daemons import started

SERVERS = {"test_servers.py", "test_web.py"}


def pytest_ignore_collect(collection_path, config):
    """The tests on real servers are in the run with --servers, and no others are."""
    if collection_path.suffix == ".py" and (collection_path.name in SERVERS) is not config.getoption("--servers"):
        return True
    return None


@pytest.fixture(scope="session")
def server_of():
    """A running server of a kind: it is started when it is first asked for, and ends after the last test."""
    running = {}
    with ExitStack() as stack:

        def server_of(kind):
            if kind.name not in running:
                running[kind.name] = stack.enter_context(started(kind))
            return running[kind.name]

        yield server_of
