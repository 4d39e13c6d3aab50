"""Carriers: threads run, nobody starves, unstarted threads are stolen."""

from __future__ import annotations

import gc
import os
import socket
import sys
import threading
import time

import greenlet
import pytest
from support import run_in_vthread, run_program, until, wait_parked

import plait
from plait import ThreadGroup
from plait._core import current_thread, runtime
from plait._core._carrier import Carrier
from plait._core._continuation import Stack
from plait._core._runtime import Runtime
from plait._core._watch import Watch
from plait._native import kernel_ident
from plait._originals import monotonic

CARRIERS = int(os.environ.get("PLAIT_CARRIERS") or 0)


def test_number_of_carriers():
    """PLAIT_CARRIERS says how many there are; the default is one where there is a GIL."""
    if CARRIERS:
        assert len(runtime.carriers) == CARRIERS
    out, _ = run_program(
        "import plait; from plait._core import runtime; plait.spawn(int).result(); print(len(runtime.carriers))",
        PLAIT_CARRIERS="",
    )
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert int(out) == (1 if has_gil else len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("wrong", ["0", "x", "-1", "1.5"])
def test_wrong_number_of_carriers_in_the_environment(wrong):
    """A value of PLAIT_CARRIERS that is no number from 1 up is refused by name and value."""
    out, _ = run_program(
        """
        import plait
        try:
            plait.spawn(int)
        except ValueError as error:
            print(error)
        """,
        PLAIT_CARRIERS=wrong,
    )
    assert out == f"PLAIT_CARRIERS must be a whole number from 1 up, not {wrong!r}\n"


def test_configure_carriers():
    """configure() comes before the environment, and only before the start."""
    out, _ = run_program(
        """
        import plait
        from plait._core import runtime
        plait.configure(carriers=3)
        plait.spawn(int).result()
        print(len(runtime.carriers))
        plait.configure(carriers=3)
        try:
            plait.configure(carriers=2)
        except RuntimeError as error:
            print(error)
        """,
        PLAIT_CARRIERS=1,
    )
    assert out.splitlines() == [
        "3",
        "the runtime has started with 3 carriers: call plait.configure(carriers=...) before the first spawn",
    ]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="^carriers must be at least 1") as caught:
            plait.configure(carriers=wrong)
        assert str(caught.value) == f"carriers must be at least 1, not {wrong}: with none nothing could ever run"
    for wrong in ("2", True, 1.5):
        with pytest.raises(TypeError) as caught:
            plait.configure(carriers=wrong)
        assert str(caught.value) == f"carriers must be a whole number from 1 up, not {wrong!r}"


def test_virtual_threads_run_on_carriers():
    """Virtual threads run on kernel threads of ours, never on the main thread, and stay where they started."""
    mine = kernel_ident()

    def where():
        seen = set()
        for _ in range(20):
            seen.add((kernel_ident(), current_thread().carrier.number))
            time.sleep(0)
        return seen

    with ThreadGroup() as group:
        futures = [group.spawn(where) for _ in range(50)]
    assert all(len(future.result()) == 1 for future in futures)
    kernel_threads = {place for future in futures for place in future.result()}
    assert len(kernel_threads) <= len(runtime.carriers)
    assert mine not in {ident for ident, _ in kernel_threads}


def test_carriers_are_daemons():
    """No carrier keeps the process alive, nor shows among threading's threads."""
    with ThreadGroup() as group:
        group.spawn(int)
    assert all(thread is threading.main_thread() or thread.daemon for thread in threading.enumerate())


def test_started_in_order_of_spawn():
    """On one carrier threads start in the order in which they were spawned."""
    order = []

    def body():
        with ThreadGroup() as group:
            for number in range(100):
                group.spawn(order.append, number)

    run_in_vthread(body)
    if len(runtime.carriers) == 1:
        assert order == list(range(100))
    assert sorted(order) == list(range(100))


def test_spinning_yielder_starves_nobody():
    """A thread that only yields lets unstarted threads, timers, I/O and calls from elsewhere have their turn."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadGroup() as group:
        stop = []

        def spin():
            while not stop:
                time.sleep(0)

        for _ in range(2 * len(runtime.carriers)):
            group.spawn(spin)
        reader = group.spawn(ours.recv, 1)
        sleeper = group.spawn(time.sleep, 0.002)
        started = [group.spawn(int) for _ in range(20)]
        until(lambda: all(future.done() for future in [*started, sleeper]))
        wait_parked(reader)
        theirs.send(b"x")
        assert reader.result(20) == b"x"
        stop.append(1)


def test_threads_that_spawn_for_ever_starve_nobody():
    """A chain of unstarted threads that never ends lets parked threads have their turn."""
    with ThreadGroup() as group:
        stop = []

        def chain():
            if not stop:
                group.spawn(chain)

        for _ in range(2 * len(runtime.carriers)):
            group.spawn(chain)
        sleepers = [group.spawn(time.sleep, 0.001 * n) for n in range(5)]
        until(lambda: all(sleeper.done() for sleeper in sleepers))
        stop.append(1)


def test_stack_is_reused():
    """A thread that ends hands its stack to the next unstarted one: spawns in a row need one stack."""

    def body():
        stacks = set()
        with ThreadGroup() as group:
            for _ in range(200):
                group.spawn(lambda: stacks.add(id(current_thread().stack)))
        return stacks

    assert isinstance(run_in_vthread(lambda: current_thread().stack), Stack)
    assert len(run_in_vthread(body)) <= 2 * len(runtime.carriers) + 2


def test_unstarted_threads_are_stolen():
    """While one carrier computes in C without the GIL, others take the threads that have not started."""
    out, _ = run_program(
        """
        import threading, plait
        from plait import _originals
        from plait._core import current_thread
        gate = _originals.allocate_lock()
        gate.acquire()
        done = []
        def body():
            with plait.ThreadGroup() as group:
                def block():  # starts first, and holds its kernel thread until others have worked
                    _originals.lock_acquire(gate, True, 15)
                    return current_thread().carrier.number
                def work(n):
                    done.append(current_thread().carrier.number)
                    if len(done) == 20:
                        _originals.lock_release(gate)
                blocked = group.spawn(block)
                for n in range(20):
                    group.spawn(work, n)
            return blocked.result()
        with plait.ThreadGroup() as group:
            blocked = group.spawn(body)
        print(len(done), blocked.result() in done)
        """,
        PLAIT_CARRIERS=4,
    )
    assert out == "20 False\n"


@pytest.mark.parametrize("carriers", [2, 3, 4])
def test_who_keeps_its_carrier_is_helped(carriers):
    """Threads that wait for each other on kernel threads of their own all get one, whatever the others were just at."""
    out, _ = run_program(
        """
        import plait
        from plait import _originals
        from plait._core import runtime
        def hold(gates, place):  # lets the one before go on when the one behind has
            if place < len(gates) - 1:
                assert _originals.lock_acquire(gates[place + 1], True, 20)
            _originals.lock_release(gates[place])
        def body(count):
            for pause in [0, 0.0001, 0.0003, 0.001, 0.003, 0.01] * 3:
                _originals.sleep(pause)
                gates = [_originals.allocate_lock() for _ in range(count)]
                for gate in gates:
                    _originals.lock_acquire(gate)
                with plait.ThreadGroup() as group:
                    for place in range(1, count):
                        group.spawn(hold, gates, place)
                    hold(gates, 0)
        with plait.ThreadGroup() as group:
            group.spawn(body, len(runtime.carriers))
        print("helped")
        """,
        PLAIT_CARRIERS=carriers,
    )
    assert out == "helped\n"


def test_several_carriers_are_all_used():
    """Threads spawned from platform threads are spread over the carriers."""
    out, _ = run_program(
        """
        import threading, plait
        from plait import _originals
        from plait._core import current_thread
        seen = set()
        def work():
            seen.add(current_thread().carrier.number)
            while len(seen) < 4:
                _originals.sleep(0.001)  # holds its kernel thread until all four are at work
        with plait.ThreadGroup() as group:
            for _ in range(40):
                group.spawn(work)
        print(sorted(seen))
        """,
        PLAIT_CARRIERS=4,
    )
    assert out == "[0, 1, 2, 3]\n"


def test_spawn_from_a_finalizer_at_the_first_start():
    """A runtime that first starts inside a garbage collection parks as usual afterwards."""
    out, _ = run_program("""
        import gc, time, plait
        class Cycle:
            def __del__(self):
                plait.spawn(int)
        cycle = Cycle()
        cycle.me = cycle
        del cycle
        gc.collect()
        with plait.move_on_after(0.01) as scope:
            time.sleep(1)
        print(scope.cancelled_caught)
    """)
    assert out == "True\n"


def test_first_spawns_at_the_same_time():
    """Many platform threads that spawn first, together, find one runtime that works."""
    out, _ = run_program(
        """
        import threading, time, plait
        barrier = threading.Barrier(8)
        from plait._core import runtime
        def first():
            barrier.wait()
            with plait.ThreadGroup() as group:
                futures = [group.spawn(time.sleep, 0.001) for _ in range(20)]
        threads = [threading.Thread(target=first) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(runtime.carriers))
    """,
        PLAIT_CARRIERS=2,
    )
    assert out == "2\n"


def test_carriers_that_do_not_stop_are_waited_for_together(monkeypatch):
    """At the end of the process each carrier is asked to stop, and those that compute hold it up once, not one by one."""
    monkeypatch.setattr("plait._core._runtime._PATIENCE", 0.05, raising=False)
    watch = Watch(3)
    ending = Runtime()
    ending._carriers = carriers = [Carrier(number, watch) for number in range(3)]  # which come to nothing
    start = monotonic()
    ending.halt()
    assert monotonic() - start < 1
    assert [carrier.calls.size() for carrier in carriers] == [1, 1, 1]
    for carrier in carriers:
        carrier.poller.close()


def test_started_by_a_handler_in_the_middle_of_the_start():
    """A signal handler that comes while the carriers are made may start them; those made first are given up."""
    out, _ = run_program(
        """
        import os, plait
        from plait._core import runtime
        get, seen = os.environ.get, []
        def handle_and_get(name, default=None):
            if name == "PLAIT_CARRIERS" and not seen:
                seen.append(name)
                seen.append(plait.spawn(pow, 2, 3).result())
            return get(name, default)
        os.environ.get = handle_and_get
        with plait.ThreadGroup() as group:
            future = group.spawn(int)
        found = set()
        for fd in range(3, 100):
            try:
                kind = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue
            found.update([fd] if kind == "anon_inode:[eventpoll]" else [])
        print(seen, future.carrier in runtime.carriers, len(found))
        """,
        PLAIT_CARRIERS=2,
    )
    assert out == "['PLAIT_CARRIERS', 8] True 2\n"


def test_stacks_that_have_ended_do_not_keep_each_other():
    """Each ends into the next, and the first is known to a stack that is kept: in the end all would be freed in one go.

    A hundred thousand overflowed the C stack. A stack that waits keeps the one that was gone to then, and no more.
    """
    event = threading.Event()

    def wave():
        with ThreadGroup() as group:
            for waiter in [group.spawn(event.wait) for _ in range(1_000 * len(runtime.carriers))]:
                wait_parked(waiter)
            event.set()

    run_in_vthread(wave)
    gc.collect()
    ended = [each for each in gc.get_objects() if type(each) is greenlet.greenlet and each.dead]
    assert len(ended) <= 300 * len(runtime.carriers)
