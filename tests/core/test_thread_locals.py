"""What CPython keeps for each thread is kept for each virtual thread."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import sys
import threading
import time
import weakref

import pytest
from support import collect, until

from plait import ThreadGroup

LOCAL = threading.local()
VARIABLE = contextvars.ContextVar("VARIABLE")


def interleaved(set_own, get, count=10):
    """What `count` threads see of what each has set by itself, after all the others have."""
    ready = []

    def run(number):
        set_own(number)
        ready.append(number)
        until(lambda: len(ready) == count)
        seen = []
        for _ in range(5):
            time.sleep(0)
            seen.append(get())
        time.sleep(0.001)
        seen.append(get())
        return seen

    with ThreadGroup() as group:
        futures = [group.spawn(run, number) for number in range(count)]
    return [set(future.result()) for future in futures]


def test_threading_local():
    """threading.local is the virtual thread's own, across every wait."""
    assert interleaved(lambda n: setattr(LOCAL, "n", n), lambda: LOCAL.n) == [{n} for n in range(10)]
    assert not hasattr(LOCAL, "n")


def test_threading_local_of_the_spawner_is_not_seen():
    """A virtual thread begins with blank locals, whatever stack it gets."""
    LOCAL.mine = 1
    try:
        with ThreadGroup() as group:
            futures = [group.spawn(lambda: (hasattr(LOCAL, "mine"), setattr(LOCAL, "mine", 2))) for _ in range(20)]
        assert not any(future.result()[0] for future in futures)
        assert LOCAL.mine == 1
    finally:
        del LOCAL.mine


def test_locals_are_dropped_at_the_end():
    """What a thread has in its locals dies with it."""

    class Thing:
        pass

    def work():
        thing = LOCAL.thing = Thing()
        time.sleep(0)
        return weakref.ref(thing)

    with ThreadGroup() as group:
        future = group.spawn(work)
    collect(lambda: future.result()() is None)


def test_destructor_of_a_local_may_park():
    """A destructor that the end of a thread sets off still runs on it, and the group waits for it."""
    trace = []

    class Thing:
        def __del__(self):
            time.sleep(0.002)
            trace.append(threading.current_thread().name)

    def work():
        LOCAL.thing = Thing()

    with ThreadGroup() as group:
        group.spawn(work)
    assert len(trace) == 1


def test_subclass_of_local_with_arguments():
    """A local whose class has an __init__ is made anew for each thread."""

    class Numbered(threading.local):
        def __init__(self, start):
            self.number = start

    local = Numbered(7)
    local.number = 8
    assert interleaved(lambda n: setattr(local, "number", local.number + n), lambda: local.number) == [
        {7 + n} for n in range(10)
    ]
    assert local.number == 8


def test_contextvars():
    """Context variables are the virtual thread's own."""
    assert interleaved(VARIABLE.set, VARIABLE.get) == [{n} for n in range(10)]
    assert VARIABLE.get(None) is None


def test_context_run_across_a_wait():
    """A context entered with run() stays the thread's while it waits, and may be another's at another time."""

    def work(number):
        context = contextvars.copy_context()

        def inside():
            VARIABLE.set(number)
            time.sleep(0.001)
            return VARIABLE.get()

        return context.run(inside), VARIABLE.get(None)

    with ThreadGroup() as group:
        futures = [group.spawn(work, number) for number in range(10)]
    assert [future.result() for future in futures] == [(n, None) for n in range(10)]


def test_decimal_context():
    """The decimal context is the virtual thread's own."""

    def set_precision(number):
        decimal.setcontext(decimal.Context(prec=5 + number))

    assert interleaved(set_precision, lambda: decimal.getcontext().prec) == [{5 + n} for n in range(10)]
    assert decimal.getcontext().prec == 28


def test_handled_exception():
    """sys.exception() and a bare raise belong to the virtual thread."""
    ready = []

    def work(number):
        try:
            raise KeyError(number)
        except KeyError:
            ready.append(number)
            until(lambda: len(ready) == 10)
            time.sleep(0.001)
            return sys.exc_info()[1].args[0]

    with ThreadGroup() as group:
        futures = [group.spawn(work, number) for number in range(10)]
    assert [future.result() for future in futures] == list(range(10))
    assert sys.exc_info()[1] is None


def test_identity():
    """get_ident and current_thread tell virtual threads apart, and the record goes with the thread."""
    before = set(threading._active)
    ready = []

    def work():
        idents = {threading.get_ident(), threading.current_thread().ident}
        ready.append(1)
        until(lambda: len(ready) == 10)
        idents.add(threading.get_ident())
        return idents, threading.current_thread().name

    with ThreadGroup() as group:
        futures = [group.spawn(work) for _ in range(10)]
    idents = [future.result()[0] for future in futures]
    assert all(len(one) == 1 for one in idents)
    assert len(set.union(*idents)) == 10
    assert [future.result()[1] for future in futures] == [future.name for future in futures]
    assert set(threading._active) == before


def test_running_loop_of_asyncio():
    """Event loops run side by side on virtual threads: each sees its own as the running one."""

    async def main(number):
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        for _ in range(3):
            await asyncio.sleep(0.001)
            time.sleep(0)  # gives way inside a running loop
            assert asyncio.get_running_loop() is loop
            assert asyncio.current_task() is task
        return number

    def run(number):
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        result = asyncio.run(main(number))
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return result

    with ThreadGroup() as group:
        futures = [group.spawn(run, number) for number in range(5)]
        others = [group.spawn(asyncio._get_running_loop) for _ in range(20)]
    assert [future.result() for future in futures] == list(range(5))
    assert {other.result() for other in others} == {None}


def test_async_generator_hooks():
    """The hooks for asynchronous generators are the virtual thread's own."""

    def set_hooks(number):
        sys.set_asyncgen_hooks(firstiter=lambda generator: number)

    assert interleaved(set_hooks, lambda: sys.get_asyncgen_hooks().firstiter(None)) == [{n} for n in range(10)]
    assert sys.get_asyncgen_hooks().firstiter is None
    with ThreadGroup() as group:
        assert group.spawn(sys.get_asyncgen_hooks).result().firstiter is None


def test_recursion_depth():
    """A thread's recursion limit counts its own frames, not those of who ran before on its stack or spawned it."""

    def depth_left():
        def down(n):
            try:
                return down(n + 1)
            except RecursionError:
                return n

        return down(0)

    def deep(n):
        if n:
            return deep(n - 1)
        with ThreadGroup() as group:
            return group.spawn(depth_left).result()

    with ThreadGroup() as group:
        shallow = group.spawn(depth_left).result()
        below = group.spawn(deep, 200).result()
    assert abs(shallow - below) < 60
