"""Out of memory: who asks for it is told, no child is lost, and none outlives its block."""

from __future__ import annotations

import time
import weakref

import pytest
from support import collect, run_anywhere, run_program, wait_parked

from plait import GroupClosed, ThreadGroup
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


def test_function_that_needs_all_memory():
    """Its failure is settled without any more: the memory is out until its traceback is gone."""
    out, _ = run_program(
        """
        import resource
        from plait import ThreadGroup
        def eat():
            kept, place, size = [None] * 3_000_000, 0, 1 << 20
            while True:
                try:
                    kept[place] = bytearray(size)
                    place += 1
                except MemoryError:
                    if size == 1:
                        raise
                    size >>= 1
        with ThreadGroup() as group:
            group.spawn(int)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000, resource.RLIM_INFINITY))
        try:
            with ThreadGroup(on_error=lambda *_: "ignore") as group:
                future = group.spawn(eat)
        except* MemoryError:
            pass  # there may be none to ask what to do about it: then it is the group's
        print(type(future.exception()).__name__)
        """
    )
    assert out == "MemoryError\n"


@WHERE
def test_what_could_not_be_spawned_is_let_go(where):
    """A group that has ended takes no thread, and nothing is left of the attempt."""

    class Thing:
        pass

    def body():
        with ThreadGroup() as group:
            pass
        things = [Thing() for _ in range(10)]
        references = [weakref.ref(thing) for thing in things]
        for thing in things:
            with pytest.raises(GroupClosed):
                group.spawn(print, thing)
        del thing, things
        return references

    references = run_anywhere(where, body)
    collect(lambda: not any(reference() for reference in references))
