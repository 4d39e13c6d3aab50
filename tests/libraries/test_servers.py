"""Libraries, unmodified, on real servers: two hundred threads at work, failures, cancels, and a cancel at each place."""

from __future__ import annotations

import gc
import platform
import threading
import time
from contextlib import contextmanager
from importlib import metadata
from types import BuiltinFunctionType, FunctionType, ModuleType

import libraries.databases  # noqa: F401 - adds to the table
import pytest
from libraries.clients import CLIENTS
from patch.helpers import carriers, wait_parked, wait_until
from support import run_anywhere

from plait import ThreadGroup, _originals
from plait.testing import every_park

# A library that is cancelled inside of its connect() leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MANY = 200
SIZE = 4


class Canaries:
    """Two threads for each carrier that tick every 5 ms while the block runs, and count."""

    def __init__(self, group):
        self.ticks = [0] * 2 * carriers()
        self._group = group
        self._is_over = False

    def __enter__(self):
        for place in range(len(self.ticks)):
            self._group.spawn(self._tick, place)
        return self

    def __exit__(self, *error):
        self._is_over = True

    def _tick(self, place):
        while not self._is_over:
            time.sleep(0.005)
            self.ticks[place] += 1


@pytest.fixture(scope="session", params=CLIENTS.values(), ids=CLIENTS)
def row(request, server_of):
    """A library, and the server that it is tried on."""
    cls = request.param
    for module in cls.needs:
        pytest.importorskip(module, reason=f"{module} is not installed: pip install --group libraries")
    return cls, server_of(cls.kind)


@pytest.fixture
def note(request):
    """Puts a fact in the report, from which scripts/libraries.py makes the table in the docs."""

    def note(name, value):
        request.node.user_properties.append((name, str(value)))

    return note


@pytest.fixture
def make(row, request, note):
    """Makes clients of a library; what is tried is noted."""
    cls, server = row
    note("interpreter", f"CPython {platform.python_version()}")
    note("carriers", carriers())
    note("library", cls.title)
    version = metadata.version(cls.distribution) if cls.distribution else f"CPython {platform.python_version()}"
    note("version", version)
    note("server", f"{server.kind.name} {server.version}")
    note("remark", cls.remark)
    note("tried", request.function.__doc__.partition(":")[0])

    @contextmanager
    def make(size=SIZE, *, is_fresh=False):
        client = cls(server, size)
        try:
            if not is_fresh:
                client.prepare()
            yield client
        finally:
            client.close()
            gc.collect()

    return make


def locks_of(thing):
    """All locks that `thing` is made of, and those inside of what it is made of; each with the way to it."""
    locks = (type(_originals.allocate_lock()), type(threading.RLock()))
    others = (FunctionType, BuiltinFunctionType, ModuleType, type, threading.Thread)  # not made for it, or with it
    seen, left = set(), [(thing, type(thing).__name__)]
    while left:
        thing, way = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, locks):
            yield thing, way
        elif isinstance(thing, threading.Condition):
            left.append((thing._lock, f"{way}._lock"))  # its waiters' locks are held while they wait
        elif isinstance(thing, (dict, list, tuple, set)) or (
            hasattr(thing, "__dict__") and not isinstance(thing, others)
        ):
            left.extend((part, f"{way} > {type(part).__name__}") for part in gc.get_referents(thing))


def verify_whole(client):
    """No lock is held, and each place of the pool serves, all of them at once."""

    def take(lock, way):
        assert lock.acquire(timeout=5), f"{lock!r} is held: {way}"
        lock.release()

    with ThreadGroup() as group:
        for lock, way in locks_of(client):
            group.spawn(take, lock, way)

    if client.loses_places:
        client.renew()
    barrier = threading.Barrier(SIZE)

    def use(number):
        with client.hold():
            barrier.wait()
        client.work(number)

    with ThreadGroup(timeout=20) as group:
        for number in range(SIZE):
            group.spawn(use, number)


def test_at_work(make):
    """200 at work: through a pool of four, while canaries tick."""
    with make() as client, ThreadGroup() as group, Canaries(group) as canaries:

        def work(number):
            client.work(number)
            while min(canaries.ticks) < 3:  # one turn in two hundred, if all have something to do
                client.work(number)

        futures = [group.spawn(work, number) for number in range(MANY)]
        for future in futures:
            future.result()


def test_canary(make):
    """canary: ticks while the server keeps silent."""
    with make() as client:
        client.work(0)
        with ThreadGroup() as group, Canaries(group) as canaries:
            waiting = group.spawn(client.wait)
            wait_parked(waiting)
            before = list(canaries.ticks)
            wait_until(lambda: all(now >= then + 5 for now, then in zip(canaries.ticks, before, strict=True)))
            waiting.cancel()
            wait_until(waiting.done)
            assert waiting.cancelled()
        verify_whole(client)


def test_failure(make):
    """failure: interrupts those who wait for the server or for a connection, and the pool is whole."""
    with make() as client, make(1, is_fresh=True) as other:
        client.work(0)
        failed = []
        with pytest.raises(ExceptionGroup) as caught:
            with ThreadGroup() as group:
                waiting = [group.spawn(client.wait) for _ in range(3 * SIZE)]
                wait_parked(*waiting)
                failing = group.spawn(other.fail)
                failing.add_done_callback(lambda _: failed.append(time.monotonic()))
        assert time.monotonic() - failed[0] < client.soon
        assert isinstance(failing.exception(), client.error)
        errors = [error for error in caught.value.exceptions if not isinstance(error, client.forgives)]
        assert errors == [failing.exception()]
        verify_whole(client)


def test_cancel(make):
    """cancel: of 200 at work, and the pool is whole."""
    with make() as client:
        done = []

        def work(number):
            while True:
                client.work(number)
                done.append(number)

        try:
            with ThreadGroup() as group:
                for number in range(MANY):
                    group.spawn(work, number)
                wait_until(lambda: len(done) >= 2 * SIZE)
                group.cancel()
                cancelled = time.monotonic()
        except* client.forgives:
            pass
        assert time.monotonic() - cancelled < client.soon
        verify_whole(client)


def sweep(where, client, load, check):
    """Cancel `load()` at each park in turn, and `check()` after each; how many attempts that took."""

    def body():
        attempts = 0
        for attempt in every_park():
            try:
                with attempt:
                    try:
                        load()
                    except* client.forgives:
                        pass
                check()
            except BaseException as error:
                error.add_note(f"{attempt!r}: {attempt.cancel_reason if attempt.was_reached else 'not reached'}")
                raise
            attempts += 1
            assert attempts < 500
        return attempts

    return run_anywhere(where, body)


def test_sweep(make, note):
    """swept: a transaction of three threads on four connections, cancelled at each park."""
    with make() as client:

        def load():
            with ThreadGroup() as group:
                for number in range(3):
                    group.spawn(client.work, number)

        note("attempts", sweep("virtual", client, load, lambda: verify_whole(client)))


@pytest.mark.parametrize("where", ["main", "virtual"])
def test_sweep_of_a_connection(make, where, note):
    """swept from connect to close: a client that is new each time, on the main thread and on a virtual one."""
    with make() as client:

        def load():
            with make(1, is_fresh=True) as fresh:
                fresh.work(0)

        note("attempts", sweep(where, client, load, lambda: client.work(0)))
