"""Out of memory: who asks for it is told, no child is lost, and none outlives its block."""

from __future__ import annotations

import time

import pytest
from support import run_anywhere, wait_parked

from plait import ThreadGroup
from plait._core import current_thread

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Short(ThreadGroup):
    """A group without the memory for a step of its own, named by `missing`, when it first comes to that."""

    missing = ""

    def _ask(self, step):
        if self.missing == step:
            self.missing = ""
            raise MemoryError

    def turn_away(self):
        self._ask("turn_away")
        super().turn_away()

    def dismiss_daemons(self):
        self._ask("dismiss_daemons")
        super().dismiss_daemons()

    def _fail(self, error, reason):
        self._ask("_fail")
        super()._fail(error, reason)


def leaves(error):
    """What is in an exception group, or the exception itself."""
    return list(error.exceptions) if isinstance(error, BaseExceptionGroup) else [error]


@WHERE
@pytest.mark.parametrize("step", ["_fail", "turn_away", "dismiss_daemons"])
def test_end_of_a_block(where, step):
    """Whatever fails in it, the block waits for its children, is left, and raises."""

    def body():
        outer = current_thread().scope
        with pytest.raises((MemoryError, ExceptionGroup)) as caught:
            with Short() as group:
                child = wait_parked(
                    (group.spawn_daemon if step == "dismiss_daemons" else group.spawn)(time.sleep, 3600)
                )
                group.missing = step
                if step != "dismiss_daemons":
                    raise ValueError
        assert child.cancelled()
        assert current_thread().scope is outer
        assert MemoryError in map(type, leaves(caught.value))

    run_anywhere(where, body)


@WHERE
def test_failure_with_no_children_left(where):
    """Nor is the block left open where there is nobody to wait for."""

    def body():
        outer = current_thread().scope
        with pytest.raises(MemoryError):
            with Short() as group:
                group.missing = "_fail"
                raise ValueError
        assert current_thread().scope is outer

    run_anywhere(where, body)


@WHERE
def test_daemon_that_cannot_be_adopted(where):
    """It is not counted in: the block ends without it."""

    def body():
        with Short() as group:
            group.missing = "dismiss_daemons"
            with pytest.raises(MemoryError):
                group.spawn_daemon(int)
            assert len(group) == group.statistics().daemons == 0
            assert group.spawn(int).result() == 0

    run_anywhere(where, body)
