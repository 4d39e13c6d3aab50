"""Threads that have ended and are used again: nobody can tell them from new ones."""

from __future__ import annotations

import contextvars
import gc
import os
import sys
import threading
import time
import weakref

import pytest
from support import collect, run_in_vthread, until

from plait import Future, ThreadGroup, move_on_after
from plait._core import _carrier, current_thread, runtime

CARRIERS = int(os.environ.get("PLAIT_CARRIERS") or 0)
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
IS_COMPILED = not _carrier.__file__.endswith(".py")

kept_here = pytest.mark.skipif(
    not IS_COMPILED or not (HAS_GIL or CARRIERS == 1),
    reason="frames of Python know each thread; and without a GIL one that another carrier takes over is not kept",
)


def attributes(thread):
    """All that a thread has, by name, of whatever class."""
    names = {
        name
        for cls in type(thread).__mro__
        for name, value in vars(cls).items()
        if type(value).__name__ in ("getset_descriptor", "member_descriptor") and not name.startswith("__")
    }
    names -= {"cancel_reason", "ident", "name", "spawn_site"}  # made of the others, or of its address and its number
    found = {name: getattr(thread, name, None) for name in names}
    return {name: "itself" if value is thread else value for name, value in found.items()}


def spares():
    """How many threads the carriers keep."""
    return sum(carrier._spares.size() for carrier in runtime.carriers)


def no_spares():
    """From now on none is kept that ended before."""
    for carrier in runtime.carriers:
        while carrier._spares.take() is not None:
            pass


# ---- lives


def nothing(group):
    """A call that returns at once."""
    group.spawn(int)


def value(group):
    """A result."""
    group.spawn(list, "abc")


def failure(group):
    """An exception."""
    group.spawn(int, "x")


def waits(group):
    """Parks, with and without a limit, which comes first and does not."""
    event = threading.Event()

    def wait():
        event.wait(0.001)
        event.wait(10)
        time.sleep(0)

    group.spawn(wait)
    group.spawn(event.set)


def cancelled(group):
    """Cancelled in a wait, with clean-up that waits."""

    def clean_up():
        try:
            time.sleep(10)
        finally:
            time.sleep(0.001)

    future = group.spawn(clean_up)
    until(lambda: future.waits_for is not None)
    future.cancel()


def never_begun(group):
    """Cancelled before it starts."""
    group.spawn(int).cancel()


def scopes(group):
    """Scopes and a group of its own."""

    def nest():
        with move_on_after(0.001), ThreadGroup() as inner:
            inner.spawn(time.sleep, 10)

    group.spawn(nest)


def lock_left(group):
    """A lock that it never releases."""
    lock = threading.RLock()
    group.spawn(lock.acquire)


def identity(group):
    """A record of `threading`, thread-locals, variables."""
    local, variable = threading.local(), contextvars.ContextVar("variable")

    def use():
        threading.current_thread().name = "changed"
        local.value = 1
        variable.set(1)

    group.spawn(use)


def daemon(group):
    """One that nobody waits for."""
    group.spawn_daemon(time.sleep, 10)


def options(group):
    """A name and a context."""
    group.spawn_with({"name": "given", "context": contextvars.copy_context()}, int)


def watched(group):
    """Callbacks, and a thread that waits for the result."""
    future = group.spawn(time.sleep, 0.001)
    future.add_done_callback(repr)
    group.spawn(future.result)


def limited(group):
    """A full group of its own, whose slot it lends."""

    def spawn_there():
        with ThreadGroup(max_concurrency=1) as inner:
            inner.spawn(lambda: inner.spawn(int).result())

    group.spawn(spawn_there)


LIVES = [
    nothing, value, failure, waits, cancelled, never_begun, scopes, lock_left, identity, daemon, options, watched, limited,
]  # fmt: skip


class Keeping:
    """A group, with all that is spawned there."""

    def __init__(self, group):
        self._group = group
        self.futures = []

    def spawn(self, fn, *args):
        self.futures.append(self._group.spawn(fn, *args))
        return self.futures[-1]

    def spawn_daemon(self, fn, *args):
        self.futures.append(self._group.spawn_daemon(fn, *args))

    def spawn_with(self, options, fn):
        self.futures.append(self._group.options(**options).spawn(fn))


@pytest.mark.parametrize("life", LIVES)
def test_nothing_of_a_life_is_left(life):
    """Whatever a thread has been through: blank, and prepared for another call, it is as a new one is."""

    def live():
        with ThreadGroup(on_error=lambda *_: "ignore") as group:
            keeping = Keeping(group)
            life(keeping)
        return keeping.futures

    used = run_in_vthread(live)
    assert used
    context = contextvars.Context()
    with ThreadGroup() as group:
        fresh = Future.__new__(Future)
        fresh.begin()
        fresh.prepare(int, (), None, context, group, None)
        for thread in used:
            until(lambda thread=thread: thread.stack is None and thread.context is None)
            thread.blank(None)
            thread.prepare(int, (), None, context, group, None)
            assert not thread.done()
            after, before = attributes(thread), attributes(fresh)
            del after["spawn_offset"], before["spawn_offset"]  # written where it is queued
            assert after == before
            assert thread.number() != fresh.number()


@kept_here
def test_thread_that_nobody_knows_is_used_again():
    """A call whose future nobody keeps leaves its thread to another, which is another future."""

    def body():
        no_spares()
        seen = []
        for _ in range(3):
            with ThreadGroup() as group:
                group.spawn(lambda: seen.append((id(current_thread()), current_thread().name)))
            until(lambda: spares() == 1)
        return seen

    seen = run_in_vthread(body)
    if CARRIERS <= 1:
        assert len({number for number, _ in seen}) == 1
    assert len({name for _, name in seen}) == 3


@kept_here
@pytest.mark.parametrize("how", ["reference", "weak reference", "attribute", "identity"])
def test_thread_that_somebody_knows_is_left_alone(how):
    """It is not used again: a reference, weak or not, an attribute, or what somebody keeps by its identity would show it."""
    kept = []

    def remember(thread):
        if how == "reference":
            kept.append(thread)
        elif how == "weak reference":
            kept.append(weakref.ref(thread))
        elif how == "attribute":
            thread.mark = kept
        else:
            threading.get_ident()

    def body():
        no_spares()
        with ThreadGroup() as group:
            future = group.spawn(lambda: remember(current_thread()))
            ended = weakref.ref(future) if how == "reference" else None
            del future
        with ThreadGroup() as group:
            group.spawn(int)
        until(lambda: spares() == 1)
        return ended

    ended = run_in_vthread(body)
    if how == "reference":
        assert kept[0] is ended()
        assert kept[0].result() is None
    elif how == "weak reference":
        until(lambda: kept[0]() is None)


@kept_here
def test_variables_are_those_of_the_spawner():
    """A context that is used again is an empty one, and is used where the spawner has no variables, either."""
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    def child(new):
        seen.append(variable.get())
        variable.set(new)

    def body():
        no_spares()
        for new in ("first", "second"):
            with ThreadGroup() as group:
                group.spawn(child, new)
            until(lambda: spares() == 1)
        variable.set("spawner's")
        with ThreadGroup() as group:
            group.spawn(child, "third")
        assert variable.get() == "spawner's"
        with ThreadGroup() as group:
            group.spawn(int)
            group.spawn(child, "fourth")

    contextvars.Context().run(run_in_vthread, body)
    assert seen == ["none", "none", "spawner's", "spawner's"]


@kept_here
def test_variables_set_at_the_very_end_are_nobodys():
    """A finalizer that runs once the thread has let go of everything may set one: its context is not used again then."""
    variable = contextvars.ContextVar("variable", default="none")
    seen = []

    class Late:
        def __init__(self):
            self.me = self

        def __del__(self):
            variable.set("leaked")

    def former():
        threading.get_ident()  # so Python code runs at the end
        Late()

    def body():
        gc.collect()
        gc.disable()
        gc.set_threshold(1)
        try:
            future = group.spawn(former)
            future.add_done_callback(lambda _: gc.enable())
            until(future.done)
            del future
            until(lambda: gc.isenabled())
            gc.disable()
            for _ in range(3):
                group.spawn(lambda: seen.append(variable.get()))
        finally:
            gc.set_threshold(*threshold)
            gc.enable()

    threshold = gc.get_threshold()
    with ThreadGroup() as group:
        group.spawn(body)
    assert seen == ["none"] * 3


@kept_here
def test_context_that_was_given_is_not_used_again():
    """Whoever has given it may look into it at any time."""
    variable = contextvars.ContextVar("variable")
    given = contextvars.Context()

    def body():
        no_spares()
        with ThreadGroup() as group:
            group.options(context=given).spawn(int)
        until(lambda: spares() == 1)
        with ThreadGroup() as group:
            group.spawn(variable.set, "another's")

    contextvars.Context().run(run_in_vthread, body)
    assert variable not in given


@kept_here
def test_what_a_thread_had_is_let_go():
    """Kept is the thread, not its function, its arguments, its result or its group."""

    class Thing:
        pass

    gone = []

    def body():
        no_spares()
        thing = Thing()
        with ThreadGroup() as group:
            gone.extend([weakref.ref(thing), weakref.ref(group)])
            group.spawn(lambda argument: argument, thing)
            del thing
        del group
        until(lambda: spares() == 1)

    run_in_vthread(body)
    collect(lambda: all(reference() is None for reference in gone))


@kept_here
def test_no_more_are_kept_than_some():
    """What very many had at a time is given back, but for some thousands a carrier."""

    def body():
        no_spares()
        with ThreadGroup() as group:
            for _ in range(20_000):
                group.spawn(int)

    run_in_vthread(body)
    until(lambda: spares() >= 16_384)
    assert spares() <= 16_384 * len(runtime.carriers)


@kept_here
def test_spawning_from_other_kernel_threads_takes_them_too():
    """Any thread may spawn: each spare thread is taken once."""

    def spawn_many():
        for _ in range(20):
            with ThreadGroup() as group:
                for _ in range(100):
                    futures = [group.spawn(int, "7"), group.spawn(int, "8")]
                    if [future.result() for future in futures] != [7, 8]:
                        return False
        return True

    answers = []
    spawners = [threading.Thread(target=lambda: answers.append(spawn_many())) for _ in range(3)]
    for spawner in spawners:
        spawner.start()
    for spawner in spawners:
        spawner.join()
    assert answers == [True] * 3
