"""Everything at once, over several carriers: nothing is lost, doubled, or left hanging."""

from __future__ import annotations

import sys

import pytest
from support import run_program

pytestmark = pytest.mark.stress

CARRIERS = pytest.mark.parametrize("carriers", [1, 4])


@CARRIERS
def test_spawn_and_cancel_storm(carriers):
    """Children of both fates, cancelled by virtual and platform threads while they start, run and park."""
    out, _ = run_program(
        """
        import random, sys, threading, time, plait
        sys.setswitchinterval(1e-5)
        random.seed(7)
        counts = {"ran": 0, "cancelled": 0}
        lock = threading.Lock()
        def child(kind):
            if kind == 0:
                time.sleep(3600)
            elif kind == 1:
                time.sleep(0)
            elif kind == 2:
                with lock:
                    time.sleep(0)
            elif kind == 3:
                with plait.move_on_after(0.001):
                    time.sleep(3600)
            return kind
        def storm(rounds):
            for _ in range(rounds):
                with plait.ThreadGroup() as group:
                    futures = [group.spawn(child, random.randrange(5)) for _ in range(20)]
                    for future in random.sample(futures, 10):
                        future.cancel()
                    if random.random() < 0.5:
                        time.sleep(0)
                    group.cancel()
                assert all(future.done() for future in futures)
                assert len(group) == 0 and group.exception is None
        threads = [threading.Thread(target=storm, args=(60,)) for _ in range(3)]
        for thread in threads: thread.start()
        with plait.ThreadGroup() as group:
            for _ in range(5):
                group.spawn(storm, 60)
        for thread in threads: thread.join()
        print("done")
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "done\n"


@CARRIERS
def test_park_and_unpark_storm(carriers):
    """Tokens through queues, events, locks, mutexes and futures, between virtual and platform threads: none is lost."""
    out, _ = run_program(
        """
        import queue, sys, threading, time, plait
        sys.setswitchinterval(1e-5)
        COUNT = 400
        def pump(get, put):
            for _ in range(COUNT):
                put(get())
        queues = [queue.SimpleQueue() for _ in range(4)] + [queue.Queue(2) for _ in range(4)]
        total = plait.Mutex(0)
        lock = threading.RLock()
        plain = [0]
        def add():
            for _ in range(COUNT):
                total.update(lambda v: v + 1)
                with lock, lock:
                    seen = plain[0]
                    time.sleep(0)
                    plain[0] = seen + 1
        def source(q):
            for n in range(COUNT):
                q.put(n)
        def sink(q, seen):
            for _ in range(COUNT):
                seen.append(q.get())
        seen = []
        threads = [threading.Thread(target=pump, args=(queues[2].get, queues[3].put)),
                   threading.Thread(target=pump, args=(queues[5].get, queues[6].put)),
                   threading.Thread(target=add)]
        for thread in threads: thread.start()
        with plait.ThreadGroup() as group:
            group.spawn(source, queues[0])
            for n in (0, 1, 3, 4, 6):
                group.spawn(pump, queues[n].get, queues[n + 1].put)
            group.spawn(sink, queues[7], seen)
            for _ in range(3):
                group.spawn(add)
        for thread in threads: thread.join()
        print(seen == list(range(COUNT)), total.into_inner() == 4 * COUNT, plain[0] == 4 * COUNT)
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "True True True\n"


@CARRIERS
def test_values_survive_cancellation(carriers):
    """Consumers that are cancelled all the time lose no item (I5, rule 5)."""
    out, _ = run_program(
        """
        import queue, random, sys, threading, time, plait
        sys.setswitchinterval(1e-5)
        random.seed(3)
        items = queue.SimpleQueue()
        got = []
        COUNT = 3000
        def consume():
            while True:
                got.append(items.get())
        def produce():
            for n in range(COUNT):
                items.put(n)
                if n % 7 == 0:
                    time.sleep(0)
        producer = threading.Thread(target=produce)
        producer.start()
        with plait.ThreadGroup() as group:
            group.spawn(produce)
            limit = time.monotonic() + 40
            while len(got) < 2 * COUNT and time.monotonic() < limit:
                with plait.ThreadGroup() as consumers:
                    futures = [consumers.spawn(consume) for _ in range(4)]
                    time.sleep(0.0005)
                    consumers.cancel()
        producer.join()
        print(len(got), sorted(got) == sorted(list(range(COUNT)) * 2))
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "6000 True\n"


@CARRIERS
def test_limit_storm(carriers):
    """Slots under fire: spawners of all kinds, members that spawn, cancels; the limit holds and no slot is lost."""
    out, _ = run_program(
        """
        import random, sys, threading, time, plait
        from plait._core._atomics import Counter
        sys.setswitchinterval(1e-5)
        random.seed(5)
        working, most = Counter(), [0]
        def work(group, depth):
            most[0] = max(most[0], working.add(1))
            try:
                time.sleep(0)
            finally:
                working.add(-1)
            if depth:
                group.spawn(work, group, depth - 1)
        def spawner(group):
            for _ in range(40):
                future = group.spawn(work, group, 2)
                if random.random() < 0.2:
                    future.cancel()
        for _ in range(10):
            with plait.ThreadGroup() as others, plait.ThreadGroup(max_concurrency=3) as group:
                threads = [threading.Thread(target=spawner, args=(group,)) for _ in range(2)]
                for thread in threads: thread.start()
                spawners = [others.spawn(spawner, group) for _ in range(3)]
                for one in spawners[:1]:
                    one.cancel()
                for thread in threads: thread.join()
                for one in spawners[1:]:
                    one.result()
            assert group.available == 3, group.available
        print(most[0] <= 3)
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "True\n"


@CARRIERS
def test_threads_and_loops_of_platform_threads(carriers):
    """Twenty platform threads that each open groups, time limits and wait natively, again and again."""
    out, _ = run_program(
        """
        import os, sys, threading, time, plait
        sys.setswitchinterval(1e-5)
        done = []
        def work():
            reader, writer = os.pipe()
            for n in range(15):
                with plait.move_on_after(0.001):
                    os.read(reader, 1)
                with plait.ThreadGroup() as group:
                    future = group.spawn(time.sleep, 0.0005)
                    group.spawn(os.write, writer, b"x")
                    assert os.read(reader, 1) == b"x"
                    future.result()
            os.close(reader)
            os.close(writer)
            done.append(1)
        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(done))
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert out == "20\n"


@CARRIERS
def test_collector_storm(carriers):
    """Garbage whose finalizers lock and spawn, collected at any moment: while threads park, switch, begin and end."""
    out, _ = run_program(
        """
        import gc, sys, threading, time, plait
        gc.set_threshold(50, 2, 2)
        from plait._default import default_group
        lock = threading.RLock()  # never held across a wait: a finalizer cannot park for it
        finalized = []
        class Cycle:
            def __init__(self):
                self.me = self
            def __del__(self):
                with lock:
                    finalized.append(1)
                if len(finalized) % 50 == 0:
                    default_group().spawn(int)
        def work():
            for _ in range(100):
                Cycle()
                time.sleep(0)
                with lock:
                    Cycle()
                with plait.ThreadGroup() as group:
                    group.spawn(Cycle)
        with plait.ThreadGroup() as group:
            for _ in range(10):
                group.spawn(work)
        gc.collect()
        print(len(finalized))
        """,
        PLAIT_CARRIERS=carriers,
        seconds=50,
    )
    assert int(out) > 2900  # the last ones may still be at hand on some stack


def test_what_suspended_frames_alone_keep_alive():
    """Free-threaded 3.14: what only a parked thread's frames refer to, such as its class, survives collections."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("builds with a GIL count every reference: only free-threaded ones need the collector to see frames")
    out, _ = run_program(
        """
        import gc, sys, threading, time, types, plait
        assert not sys._is_gil_enabled()
        gate = threading.Event()
        def make(n):
            class Local:
                def run(self, gate):
                    def inner():
                        gate.wait()
                        return n
                    helper = types.FunctionType(inner.__code__, {"x": n, **globals()}, "h", None, inner.__closure__)
                    del inner
                    gate.wait()
                    return helper() + type(self).offset()
                @staticmethod
                def offset():
                    return 1
            return Local().run
        with plait.ThreadGroup() as group:
            futures = []
            for n in range(300):
                run = make(n)
                futures.append(group.spawn(run, gate))
                del run
            while not all(future.waits_for and future.is_waiting() for future in futures):
                time.sleep(0.001)
            for _ in range(20):
                gc.collect()
                [type("Other", (), {"f": lambda self: None}) for _ in range(200)]
            gate.set()
        print([future.result() for future in futures] == [n + 1 for n in range(300)])
        """,
        seconds=50,
    )
    assert out == "True\n"
