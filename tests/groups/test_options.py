"""options: names and contexts of spawned threads."""

from __future__ import annotations

import concurrent.futures
import contextvars
import copy
import pickle
import threading
import time
import warnings

import pytest
from support import run_anywhere, run_program, until, wait_parked

from plait import RebindAfterSpawn, ThreadGroup
from plait._core import WaitReason

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


@WHERE
def test_name(where):
    """A name is what the thread is called, everywhere."""

    def body():
        with ThreadGroup() as group:
            reader = group.options(name="reader")
            future = reader.spawn(lambda: threading.current_thread().name)
            assert future.result() == "reader"
            assert future.name == "reader"
            assert reader.try_spawn(int).name == "reader"
            assert reader.spawn_daemon(time.sleep, 3600).name == "reader"
            assert reader.start(lambda started: started(threading.current_thread().name)) == "reader"
            assert group.spawn(int).name.startswith("int-")

    run_anywhere(where, body)


def test_name_in_the_note_of_a_failure():
    """The note on a failure names the thread as it was named."""
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.options(name="reader").spawn(int, "x")
    [error] = caught.value.exceptions
    assert error.__notes__[0].startswith("on 'reader', spawned at ")
    assert __file__ in error.__notes__[0]


@WHERE
def test_context(where):
    """A context is used as it is: what the thread sets there is there after it."""
    var = contextvars.ContextVar("var", default="outside")

    def work():
        seen = var.get()
        var.set("set by the thread")
        return seen

    def body():
        context = contextvars.copy_context()
        context.run(var.set, "inside")
        with ThreadGroup() as group:
            assert group.options(context=context).spawn(work).result() == "inside"
        assert context[var] == "set by the thread"
        assert var.get() == "outside"

    run_anywhere(where, body)


@WHERE
def test_on_an_executor(where):
    """The call runs on the executor; result, failure, name and cancellation are those of a thread of the group."""

    def body():
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
            with ThreadGroup() as group:
                elsewhere = group.options(on=pool)
                future = elsewhere.spawn(lambda: threading.current_thread().name)
                assert future.result().startswith("pool")
                assert elsewhere.spawn(pow, 2, exp=3).result() == 8
                assert elsewhere.spawn(pow, 2, exp=3).name.startswith("pow-")
                assert elsewhere.start(lambda started: started("ready")) == "ready"
            with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
                group.options(on=pool).spawn(int, "x")
                group.spawn(time.sleep, 3600)
            assert [type(error) for error in caught.value.exceptions] == [ValueError]
            gate = threading.Event()
            with ThreadGroup() as group:
                running = group.options(on=pool).spawn(gate.wait)
                until(running.running)
                queued = wait_parked(group.options(on=pool).spawn(int), WaitReason.OFFLOAD)
                queued.cancel()
                until(queued.done)
                gate.set()
            assert queued.cancelled()

    run_anywhere(where, body)


@pytest.mark.slow
def test_on_processes():
    """A pool of processes does the work of a limited group."""
    out, _ = run_program(
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from plait import RebindAfterSpawn, ThreadGroup

        if __name__ == "__main__":
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                with ThreadGroup(max_concurrency=2) as group:
                    futures = [group.options(on=pool).spawn(pow, number, 2) for number in range(5)]
                print([future.result() for future in futures])
                try:
                    with ThreadGroup() as group:
                        group.options(on=pool).start(print)
                except* TypeError as caught:
                    print(caught.exceptions[0])
        """
    )
    assert out == "[0, 1, 4, 9, 16]\nstarted() works in this process only: start() needs an executor of threads\n"


@pytest.mark.parametrize("way", [copy.copy, pickle.dumps])
def test_started_stays_in_its_process(way):
    """What a thread calls to say that it is ready goes to no other process, and has no copy."""
    with ThreadGroup() as group:
        started = group.start(lambda started: started(started))
    with pytest.raises(TypeError) as caught:
        way(started)
    assert str(caught.value) == "started() works in this process only: start() needs an executor of threads"


def test_options_hold_the_limit():
    """A limit holds for threads that are spawned with options as for others."""
    gate = threading.Event()
    with ThreadGroup(max_concurrency=1) as group, ThreadGroup() as others:
        named = group.options(name="n")
        named.spawn(gate.wait)
        assert named.try_spawn(int) is None
        waiting = wait_parked(others.spawn(named.spawn, int), WaitReason.SLOT)
        gate.set()
        assert waiting.result().name == "n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": 3}, "name must be a string or None, not 3"),
        ({"on": 3}, "on must be a concurrent.futures.Executor, something with a method submit(fn, ...), not 3"),
        ({"context": {}}, "context must be a contextvars.Context or None, not {}: contextvars.copy_context()"),
    ],
)
def test_wrong_options(options, sentence):
    """A wrong option is named, with what was expected."""
    with ThreadGroup() as group:
        with pytest.raises(TypeError) as caught:
            group.options(**options)
        assert str(caught.value) == sentence


def test_options_need_something_to_call():
    """Each way to spawn points out a call in place of a function."""
    with ThreadGroup() as group:
        options = group.options(name="x")
        for way in ("spawn", "try_spawn", "spawn_daemon"):
            with pytest.raises(TypeError) as caught:
                getattr(options, way)(3)
            assert str(caught.value) == f"{way} needs something to call, not 3: write {way}(fn, x), not {way}(fn(x))"


def test_context_that_is_in_use():
    """A second thread in one context fails, in words, and nothing else is harmed."""
    context = contextvars.copy_context()
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup(on_error="collect") as group:
        shared = group.options(name="second", context=context)
        gate = threading.Event()
        first = wait_parked(shared.spawn(gate.wait))
        second = shared.spawn(int)
        until(second.done)
        gate.set()
        assert first.result() is True
        context.run(lambda: until(group.options(name="third", context=context).spawn(int).done))
    assert [str(error) for error in caught.value.exceptions] == [
        f"the context given for {name!r} is in use: one thread at a time can be in a context; give it one of its own, "
        "context.copy()"
        for name in ("second", "third")
    ]
    with ThreadGroup() as group:
        assert group.options(context=context).spawn(pow, 2, 3).result() == 8


def test_executor_that_does_not_outlive_the_block():
    """The thread that waits for the call submits it: where the executor is shut down by then, the error says so."""
    pool = concurrent.futures.ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(ExceptionGroup) as caught, ThreadGroup() as group:
        group.options(on=pool).spawn(pow, 2, 3)
    [error] = caught.value.exceptions
    assert str(error) == "cannot schedule new futures after shutdown"
    assert error.__notes__[0] == (
        "the thread that waits for a call submits it, once it runs: open an executor that a group's threads use outside the "
        "group's block, so that it outlives them"
    )

    def refuse():
        raise RuntimeError("cannot schedule new futures after shutdown")

    with (
        pytest.raises(ExceptionGroup) as caught,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        ThreadGroup() as group,
    ):
        group.options(on=pool).spawn(refuse)  # of the call itself
    [error] = caught.value.exceptions
    assert not any("outlives" in note for note in error.__notes__)


def test_variables_of_a_call_on_an_executor(monkeypatch):
    """In development mode the variables of a function for an executor are looked at, too."""
    monkeypatch.setattr("plait._spawning.is_development", True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, ThreadGroup() as group:
        gate = threading.Event()
        value = 1
        first = group.options(on=pool).spawn(gate.wait)
        wait_parked(first, WaitReason.OFFLOAD)  # the pool has it: several carriers begin the two in any order
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            future = group.options(on=pool).spawn(lambda: value)
            value = 2
            gate.set()
            assert future.result() == 2
    assert [warning.category for warning in caught] == [RebindAfterSpawn]
