"""Large numbers of threads and groups."""

from __future__ import annotations

import pytest
from support import run_program

pytestmark = pytest.mark.stress

RSS = """
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
"""


def test_hundred_thousand_threads_parked_at_once():
    """100,000 threads spawned from a loop inside a virtual thread are parked at once, and all end when cancelled."""
    out, _ = run_program(
        """
        import time, plait
        ended = []
        def park():
            try:
                time.sleep(3600)
            finally:
                ended.append(1)
        def spawn_all():
            with plait.ThreadGroup() as group:
                futures = [group.spawn(park) for _ in range(100_000)]
                while len(group.members()) < 100_000 or not all(future.is_waiting() for future in futures):
                    time.sleep(0.01)
                print("parked", len(group), flush=True)
                group.cancel()
            return all(future.cancelled() for future in futures)
        with plait.ThreadGroup() as group:
            future = group.spawn(spawn_all)
        print(future.result(), len(ended))
        """,
        seconds=50,
    )
    assert out == "parked 100000\nTrue 100000\n"


def test_thousand_threads_parked_deep():
    """1,000 threads are parked at once at Python depth 200, and unwind."""
    out, _ = run_program(
        """
        import time, plait
        ended = []
        def deep(n):
            if n:
                try:
                    return deep(n - 1)
                finally:
                    ended.append(n)
            time.sleep(3600)
        def spawn_all():
            with plait.ThreadGroup() as group:
                futures = [group.spawn(deep, 200) for _ in range(1000)]
                while not all(future.waits_for and future.is_waiting() for future in futures):
                    time.sleep(0.01)
                print("parked", flush=True)
                group.cancel()
        with plait.ThreadGroup() as group:
            group.spawn(spawn_all)
        print(len(ended))
        """
    )
    assert out == "parked\n200000\n"


def test_million_spawns_without_growth():
    """A million threads spawned in one group, in rounds, leave no more memory behind than the first tenth did."""
    out, _ = run_program(
        f"""
        import gc, time, plait
        {RSS.replace(chr(10), chr(10) + "        ")}
        def nothing():
            pass
        def rounds(group, count):
            for _ in range(count):
                future = None
                for _ in range(1000):
                    future = group.spawn(nothing)
                future.result()
        def work():
            with plait.ThreadGroup() as group:
                rounds(group, 100)
                gc.collect()
                before = rss()
                rounds(group, 900)
                gc.collect()
                return rss() - before
        with plait.ThreadGroup() as group:
            future = group.spawn(work)
        print(future.result())
        """,
        seconds=50,
    )
    assert int(out) < 8 * 2**20


def test_parked_threads_leave_no_memory_behind():
    """Rounds of thousands of threads that park, and groups that fail, leave nothing behind."""
    out, _ = run_program(
        f"""
        import gc, time, plait
        {RSS.replace(chr(10), chr(10) + "        ")}
        def fail(gate):
            raise ValueError
        def round():
            try:
                with plait.ThreadGroup() as group:
                    for _ in range(2000):
                        group.spawn(time.sleep, 3600)
                    time.sleep(0.001)
                    group.spawn(fail, None)
            except ExceptionGroup:
                pass
        def work():
            for _ in range(5):
                round()
            gc.collect()
            before, objects = rss(), len(gc.get_objects())
            for _ in range(10):
                round()
            gc.collect()
            return rss() - before, len(gc.get_objects()) - objects
        with plait.ThreadGroup() as group:
            future = group.spawn(work)
        print(*future.result())
        """
    )
    grown, objects = map(int, out.split())
    # 20,000 threads have come and gone in between. Each carrier keeps up to 256 idle stacks, of a few objects and a few
    # KiB; one that had little to do before may keep more afterwards.
    assert grown < 16 * 2**20
    assert objects < 5000


def test_ten_thousand_groups_one_after_the_other():
    """10,000 groups in sequence, on the main and on a virtual thread, leave nothing open."""
    out, _ = run_program("""
        import os, plait
        def sequence():
            for n in range(5000):
                with plait.ThreadGroup() as group:
                    future = group.spawn(int, n)
                assert future.result() == n
        files = None
        sequence()
        files = len(os.listdir("/proc/self/fd"))
        with plait.ThreadGroup() as group:
            group.spawn(sequence)
        print(len(os.listdir("/proc/self/fd")) - files)
    """)
    assert out == "0\n"


def test_ten_thousand_groups_nested():
    """A hundred chains of a hundred groups, each opened by a child of the last: all join, and all cancel."""
    out, _ = run_program("""
        import time, plait
        opened = []
        def chain(depth, wait):
            opened.append(1)
            with plait.ThreadGroup() as group:
                if depth:
                    group.spawn(chain, depth - 1, wait)
                elif wait:
                    time.sleep(3600)
        with plait.ThreadGroup() as group:
            for _ in range(100):
                group.spawn(chain, 99, False)
        print(len(opened), flush=True)
        with plait.ThreadGroup() as group:
            for _ in range(100):
                group.spawn(chain, 99, True)
            while len(opened) < 20_000:
                time.sleep(0.001)
            group.cancel()
        print(len(opened))
    """)
    assert out == "10000\n20000\n"


def test_chain_of_five_hundred_groups():
    """One chain of 500 groups: a failure at its end comes out of its beginning, wrapped once a level."""
    out, _ = run_program("""
        import sys, plait
        def chain(depth):
            with plait.ThreadGroup() as group:
                if depth:
                    group.spawn(chain, depth - 1)
                else:
                    raise ValueError("the end")
        error = None
        try:
            chain(499)
        except ExceptionGroup as caught:
            error = caught
        depth = 0
        while isinstance(error, ExceptionGroup):
            assert len(error.exceptions) == 1
            error = error.exceptions[0]
            depth += 1
        print(depth, repr(error))
    """)
    assert out == "500 ValueError('the end')\n"


def test_groups_nested_on_one_stack():
    """Two hundred groups open at once on one thread, a child in each: the outermost cancel ends all."""
    out, _ = run_program("""
        import time, plait
        from contextlib import ExitStack
        def body():
            with ExitStack() as stack:
                groups = [stack.enter_context(plait.ThreadGroup()) for _ in range(200)]
                children = [group.spawn(time.sleep, 3600) for group in groups]
                while not all(child.waits_for for child in children):
                    time.sleep(0.001)
                groups[0].cancel()
            return all(child.cancelled() for child in children)
        print(body())
        with plait.ThreadGroup() as group:
            print(group.spawn(body).result())
    """)
    assert out == "True\nTrue\n"
