"""The memory for the frames of stacks: used again, given back when many have ended, and no condition of running."""

from __future__ import annotations

import pytest
from support import run_program

PARK = """
        import gc, os, time, plait
        from plait._native import chunk_counts
        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        def wait():  # a frame of Python, to have memory for
            time.sleep(3600)
        def park(count):
            with plait.ThreadGroup() as group:
                futures = [group.spawn(wait) for _ in range(count)]
                while not all(future.waits_for and future.is_waiting() for future in futures):
                    time.sleep(0.001)
                found = resident()
                group.cancel()
            return found
"""


def test_chunks_are_used_again():
    """Stacks that have ended leave their memory to those that come; more are taken only for more stacks at a time."""
    out, _ = run_program(f"""{PARK}
        park(3000)
        used, free = chunk_counts()
        for _ in range(3):
            park(2000)
        assert chunk_counts()[0] == used, (used, chunk_counts())
        print(used >= 3000, free >= 1000)
    """)
    assert out == "True True\n"


def test_memory_of_many_stacks_is_given_back():
    """Many parked threads hold memory; a moment after their end the process has given much of it back."""
    out, _ = run_program(f"""{PARK}
        park(10)
        before = resident()
        many = park(20_000) - before
        gc.collect()
        after = resident() - before
        print(many - after > 20_000 * 1_200)  # of the 2 KiB for the frames of each; where the rest stays is the allocator's
    """)
    assert out == "True\n"


@pytest.mark.parametrize("limit", ["4 << 30", "2 << 30"])
def test_little_address_space(limit):
    """Under a limit of address space stacks are made as CPython does it."""
    out, _ = run_program(
        f"""{PARK}
        import resource
        resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
        park(500)
        print(chunk_counts())
    """,
        PLAIT_CARRIERS=1,
    )
    assert out == "(0, 0)\n"


def test_deep_stacks_and_forks():
    """Deep recursion takes larger pieces from CPython; a forked child goes on with the memory that it has inherited."""
    out, _ = run_program(f"""{PARK}
        def deep(n):
            return deep(n - 1) + 1 if n else 0
        park(600)
        pid = os.fork()
        with plait.ThreadGroup() as group:
            futures = [group.spawn(deep, 500) for _ in range(50)]
        assert [future.result() for future in futures] == [500] * 50
        park(600)
        if pid:
            print(os.waitpid(pid, 0)[1])
    """)
    assert out == "0\n"
