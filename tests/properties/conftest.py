"""Random programs run with threads that take turns often."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def short_turns():
    """Let another thread run every microsecond or so: orders of events come about that are rare otherwise."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
