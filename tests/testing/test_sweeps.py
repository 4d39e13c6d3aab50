"""Code that people have, cancelled at each place where it waits: it never hangs, and leaves nothing locked or lost.

Each sweep runs a small workload again and again, cancelled at its first park, its second, and so on until it comes to
its end. What the workload shares (a pool, a handler, a connection) lives through the whole sweep, so what an attempt
breaks shows in the next one at the latest; after each attempt its locks must be free and it must serve.

With a grace of 0 clean-up may not wait, so what has to wait for a lock in order to give something back cannot be swept so.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import os
import queue
import socket
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress

import pytest
from libraries.servers import http_server
from support import run_anywhere, until

from plait import ThreadGroup, move_on_after, offload, offload_statistics, shield
from plait._originals import sleep
from plait.testing import every_park

pytestmark = pytest.mark.slow
WHERE = pytest.mark.parametrize("where", ["main", "virtual"])
GRACE = pytest.mark.parametrize("grace", [0, 5.0])


def sweep(where, code, check, *, grace=5.0):
    """Cancel `code()` at each park in turn, and `check()` what it has left; how many attempts that took.

    At least one more than `code()` sleeps; what waits for the kernel or for a lock may have it at once.
    """

    def body():
        attempts = 0
        for attempt in every_park(grace=grace):
            try:
                with attempt:
                    code()
                check()
            except BaseException as error:
                error.add_note(f"{attempt!r}: {attempt.cancel_reason if attempt.was_reached else 'not reached'}")
                raise
            attempts += 1
            assert attempts < 1000
        return attempts

    return run_anywhere(where, body)


def is_free(lock):
    """Whether a thread that holds nothing can have `lock` now."""
    taken = []

    def take():
        if lock.acquire(blocking=False):
            lock.release()
            taken.append(True)

    with ThreadGroup() as group:
        group.spawn(take)
    return bool(taken)


def nap():
    time.sleep(0.0001)


# ---- pools


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # urllib3's, if it is cancelled in connect()
@WHERE
@pytest.mark.parametrize("path", ["echo", "slow/0.001", "big"])
def test_urllib3(where, path):
    """A pool of urllib3 keeps its size and serves, whatever was cancelled: connecting, sending, reading, or queueing."""
    urllib3 = pytest.importorskip("urllib3")
    size = 2
    with http_server() as server:
        host, port = server.server_address
        with urllib3.HTTPConnectionPool(host, port, maxsize=size, block=True, retries=False) as pool:

            def get(text):
                # Who is cancelled while it queues puts a connection back that it has not got (`urlopen`, its `finally`),
                # and urllib3 complains if that is one too many.
                with suppress(urllib3.exceptions.FullPoolError):
                    return pool.request("GET", f"/{path}/{text}", timeout=30).data

            def load():
                with ThreadGroup() as group:
                    for number in range(4):
                        group.spawn(get, number)

            def check():
                assert is_free(pool.pool.mutex)
                assert pool.pool.qsize() == size
                held = [pool._get_conn(timeout=1) for _ in range(size)]  # each slot has a connection that works
                for connection in held:
                    pool._put_conn(connection)
                with ThreadGroup() as group:
                    answers = [group.spawn(pool.request, "GET", f"/echo/{number}") for number in range(2 * size)]
                assert [answer.result().data for answer in answers] == [b"%d" % number for number in range(2 * size)]

            assert sweep(where, load, check) > 1
    gc.collect()


@WHERE
@pytest.mark.parametrize("kind", [queue.Queue, queue.LifoQueue])
def test_pool_on_a_queue(where, kind):
    """A pool of things in a queue loses none: who is cancelled has got one and gives it back, or has got none."""
    size = 2
    pool = kind(size)
    for thing in range(size):
        pool.put(thing)

    @contextmanager
    def borrowed():
        thing = pool.get()
        try:
            yield thing
        finally:
            pool.put(thing)

    def use():
        for _ in range(2):
            with borrowed():
                nap()

    def load():
        with ThreadGroup() as group:
            for _ in range(4):
                group.spawn(use)

    def check():
        assert is_free(pool.mutex)
        assert not pool.not_empty._waiters
        assert not pool.not_full._waiters
        things = [pool.get_nowait() for _ in range(size)]
        assert pool.empty()
        assert sorted(things) == list(range(size))
        for thing in things:
            pool.put_nowait(thing)

    assert sweep(where, load, check) > 5


@WHERE
@GRACE
def test_pipeline_of_queues(where, grace):
    """Producers and consumers around bounded queues: what was put and not taken is there, once."""
    first, second = queue.Queue(1), queue.SimpleQueue()
    put, taken = [], []

    def produce(number):
        item = object()
        first.put(item)
        put.append(item)
        nap()

    def consume():
        while (item := first.get()) is not None:
            second.put(item)
            taken.append(second.get())

    def load():
        put.clear()
        taken.clear()
        with ThreadGroup() as group:
            group.spawn(consume)
            with ThreadGroup() as producers:
                for number in range(4):
                    producers.spawn(produce, number)
            first.put(None)

    def check():
        assert is_free(first.mutex)
        left = []
        for each in (first, second):
            with suppress(queue.Empty):
                while True:
                    left.append(each.get_nowait())
        came = [item for item in [*taken, *left] if item is not None]
        assert len(set(came)) == len(came)
        assert set(put) <= set(came)

    assert sweep(where, load, check, grace=grace) > 4


# ---- logging


class PipeStream:
    """A stream over a pipe with little room."""

    def __init__(self):
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)

    def write(self, text):
        rest = text.encode()
        while rest:
            rest = rest[os.write(self.writing, rest) :]

    def close(self):
        os.close(self.writing)


class SocketStream:
    """A stream over a socket with little room."""

    def __init__(self):
        self.writing, self.peer = socket.socketpair()
        self.writing.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.reading = os.dup(self.peer.fileno())
        self.peer.close()

    def write(self, text):
        self.writing.sendall(text.encode())

    def close(self):
        self.writing.close()


@WHERE
@GRACE
@pytest.mark.parametrize("kind", [PipeStream, SocketStream])
def test_logging(where, grace, kind):
    """A handler whose stream waits: its lock is free afterwards, what was logged arrived once, and it logs on."""
    stream = kind()
    received = bytearray()

    def read():
        while data := os.read(stream.reading, 1 << 16):
            received.extend(data)
            sleep(0.0002)  # the pipe fills up meanwhile

    reader = threading.Thread(target=read)
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("swept")
    logger.addHandler(handler)
    serial = iter(range(1 << 30))
    done = []

    def log():
        for _ in range(2):
            text = f"<{next(serial)}:{'x' * 10_000}>"
            logger.warning(text)
            done.append(text.encode())

    def load():
        received.clear()
        done.clear()
        with ThreadGroup() as group:
            for _ in range(3):
                group.spawn(log)

    def check():
        assert is_free(handler.lock)
        assert is_free(logging._lock)
        last = f"<{next(serial)}:last>"
        logger.warning(last)
        until(lambda: received.endswith(last.encode() + b"\n"))
        assert [received.count(text) for text in done] == [1] * len(done)

    reader.start()
    try:
        assert sweep(where, load, check, grace=grace) > 1
    finally:
        stream.close()
        reader.join()
        os.close(stream.reading)


# ---- sqlite3


@WHERE
@pytest.mark.parametrize("is_long", [False, True])
def test_sqlite(where, is_long, tmp_path):
    """Transactions on a shared connection, through offload: each is done or not done, and the connection serves."""
    lock = threading.Lock()
    with sqlite3.connect(tmp_path / "data.db", check_same_thread=False, isolation_level=None) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE account (name TEXT PRIMARY KEY, sum INTEGER)")
        connection.executemany("INSERT INTO account VALUES (?, ?)", [("a", 100), ("b", 100)])
        wait = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 30000) SELECT max(x) FROM n"

        def execute(sql, *values):
            return offload(lambda: connection.execute(sql, values).fetchall(), on_cancel=connection.interrupt)

        def transfer():
            with lock:
                try:
                    execute("BEGIN")
                    execute("UPDATE account SET sum = sum - 1 WHERE name = 'a'")
                    if is_long:
                        execute(wait)
                    execute("UPDATE account SET sum = sum + 1 WHERE name = 'b'")
                    execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK") if connection.in_transaction else None
                    raise

        def load():
            with ThreadGroup() as group:
                for _ in range(2):
                    group.spawn(transfer)

        def check():
            assert is_free(lock)
            assert not connection.in_transaction
            assert execute("SELECT sum(sum) FROM account") == [(200,)]
            assert offload_statistics().abandoned == 0

        assert sweep(where, load, check) > 1
    connection.close()


# ---- groups


@WHERE
@GRACE
@pytest.mark.parametrize("limit", [None, 1, 2])
def test_nested_groups(where, grace, limit):
    """Groups in groups: all threads have ended, and each has cleaned up."""
    inside = []
    futures = []

    def leaf():
        inside.append("leaf")
        try:
            nap()
        finally:
            inside.pop()

    def branch():
        inside.append("branch")
        try:
            with ThreadGroup(max_concurrency=limit) as group:
                futures.extend(group.spawn(leaf) for _ in range(3))
                nap()
        finally:
            inside.pop()

    def load():
        futures.clear()
        with ThreadGroup(max_concurrency=limit) as group:
            futures.extend(group.spawn(branch) for _ in range(3))
            futures.append(group.spawn(recurse, group, 3))

    def recurse(group, depth):
        if depth:
            futures.append(group.spawn(recurse, group, depth - 1))  # a member's slot goes to its child
            nap()

    def check():
        assert inside == []
        assert all(future.done() for future in futures)
        failed = [future for future in futures if not future.cancelled() and future.exception() is not None]
        assert failed == []

    assert sweep(where, load, check, grace=grace) > 5


@WHERE
def test_daemons_limits_and_shields(where):
    """Daemons, time limits, shields and futures on the way: each block ends, and what is shielded is whole."""
    halves = [0, 0]

    def commit():
        with shield(timeout=60):
            halves[0] += 1
            nap()
            halves[1] += 1

    def work():
        with move_on_after(3600):
            nap()
            commit()

    def load():
        with ThreadGroup() as group:
            group.spawn_daemon(time.sleep, 3600)
            first = group.spawn(work)
            second = group.spawn(lambda: first.result())
            with move_on_after(0.0005):
                time.sleep(3600)
            second.result()

    def check():
        assert halves[0] == halves[1]

    assert sweep(where, load, check) > 3


# ---- threading


@WHERE
@GRACE
@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_condition(where, grace, kind):
    """A buffer on a Condition: its lock is free, nobody waits, and it goes on working."""
    condition = threading.Condition(kind())
    buffer = []
    inside = []

    @contextmanager
    def critical():
        with condition:
            inside.append(1)
            try:
                yield
            finally:
                inside.pop()

    def put(item):
        with condition:
            condition.wait_for(lambda: len(buffer) < 1)
            buffer.append(item)
            nap()
            condition.notify_all()

    def get():
        with condition:
            condition.wait_for(lambda: buffer)
            nap()
            item = buffer.pop()
            condition.notify_all()
            return item

    def load():
        with ThreadGroup() as group:
            for item in range(4):
                group.spawn(put, item)
                group.spawn(get)

    def check():
        assert is_free(condition)
        assert not condition._waiters
        buffer.clear()
        with ThreadGroup() as group:
            group.spawn(put, "after")
            item = group.spawn(get)
        assert item.result() == "after"

    assert sweep(where, load, check, grace=grace) > 5


@WHERE
@pytest.mark.parametrize("kind", [threading.Semaphore, threading.BoundedSemaphore])
def test_semaphore(where, kind):
    """A semaphore has as many slots afterwards as before."""
    size = 2
    slots = kind(size)

    def use():
        with slots:
            nap()
        with slots:
            nap()

    def load():
        with ThreadGroup() as group:
            for _ in range(5):
                group.spawn(use)

    def check():
        assert slots._value == size
        assert is_free(slots._cond)
        assert not slots._cond._waiters

    assert sweep(where, load, check) > 5


@WHERE
@GRACE
def test_barrier(where, grace):
    """A barrier whose parties were cancelled can be reset, and lets all pass."""
    parties = 4
    barrier = threading.Barrier(parties)
    passed = []

    def meet():
        nap()
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
            passed.append(1)

    def load():
        passed.clear()
        with ThreadGroup() as group:
            for _ in range(parties):
                group.spawn(meet)

    def check():
        assert is_free(barrier._cond)
        assert not barrier._cond._waiters
        barrier.reset()
        load()
        assert len(passed) == parties

    assert sweep(where, load, check, grace=grace) > 3


@WHERE
@GRACE
@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_locks(where, grace, kind):
    """Locks taken in turn, one inside the other, with parks while they are held: all are free afterwards."""
    outer, inner = kind(), kind()

    def use():
        with outer:
            nap()
            with inner:
                nap()

    def load():
        with ThreadGroup() as group:
            for _ in range(4):
                group.spawn(use)

    def check():
        assert is_free(outer)
        assert is_free(inner)

    assert sweep(where, load, check, grace=grace) > 5


# ---- processes


def check_no_process_is_left():
    until(lambda: not multiprocessing.active_children())


@WHERE
def test_process(where):
    """A process that shares a lock and a queue with who waits for it runs to its end, and is joined in clean-up."""
    context = multiprocessing.get_context("fork")

    def work(lock, results):
        with lock:
            results.put(os.getpid())

    def load():
        lock, results = context.Lock(), context.SimpleQueue()
        process = context.Process(target=work, args=(lock, results))
        process.start()
        try:
            with lock:
                nap()
            assert results.get() == process.pid
        finally:
            process.join()
            assert process.exitcode == 0
            assert lock.acquire(timeout=0)
            results.close()

    assert sweep(where, load, check_no_process_is_left) > 1


@WHERE
def test_pool_of_processes(where):
    """A pool of processes leaves none behind. Its end must not be torn apart, as `multiprocessing` has it."""
    context = multiprocessing.get_context("fork")

    def load():
        pool = context.Pool(2)
        try:
            assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
        finally:
            with shield(timeout=30):
                pool.terminate()
                pool.join()

    assert sweep(where, load, check_no_process_is_left) > 2
