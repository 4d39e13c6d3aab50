"""The standard library's own programs, unmodified, on virtual threads."""

import concurrent.futures
import gc
import http.client
import io
import json
import logging
import logging.handlers
import os
import queue
import socket
import socketserver
import threading
import time
import urllib.error
import urllib.request
import weakref

import pytest
from libraries.servers import http_server
from patch.helpers import on_virtual, wait_parked, wait_until
from support import NO_GIL

from plait import Mutex, ThreadGroup

MANY = 200


def _get(url, timeout=None):
    with urllib.request.urlopen(url, timeout=timeout) as response:
        return response.read()


class Canary:
    """A virtual thread that ticks every 5 ms while the block runs, and counts."""

    def __init__(self, group):
        self.ticks = 0
        self._is_over = False
        self._future = group.spawn(self._tick)

    def _tick(self):
        while not self._is_over:
            time.sleep(0.005)
            self.ticks += 1

    def stop(self):
        self._is_over = True


# ---- urllib, http ----


def test_urllib_many():
    """Two hundred urlopens at once, every body right, while a canary ticks."""
    with http_server() as server, ThreadGroup() as group:
        canary = Canary(group)
        futures = [group.spawn(_get, f"{server.url}/slow/0.02/{number}") for number in range(MANY)]
        assert [future.result() for future in futures] == [f"0.02/{number}".encode() for number in range(MANY)]
        canary.stop()
    assert canary.ticks > 3


def test_the_promised_program():
    """The program of the design: a group with a limit, urlopen, a mutex around a dict."""

    def store(results, url):
        body = _get(url)
        with results.lock() as pages:
            pages[url] = body

    results = Mutex({})
    with http_server() as server:
        urls = [f"{server.url}/echo/{number}" for number in range(50)]
        with ThreadGroup(max_concurrency=8) as group:
            for url in urls:
                group.spawn(store, results, url)
        assert server.connections == 50
    assert results.into_inner() == {url: url.rpartition("/")[2].encode() for url in urls}


def test_urllib_failure_cancels_the_others():
    """One URL that fails cancels those that would wait for ever; the server can be used afterwards."""
    with http_server() as server:
        started = time.monotonic()
        with pytest.raises(ExceptionGroup) as caught:
            with ThreadGroup() as group:
                futures = [group.spawn(_get, f"{server.url}/never") for _ in range(20)]
                wait_parked(*futures)
                started = time.monotonic()
                group.spawn(_get, "http://127.0.0.1:1/")
        assert time.monotonic() - started < 2
        assert [type(error) for error in caught.value.exceptions] == [urllib.error.URLError]
        assert on_virtual(_get, f"{server.url}/echo/x") == b"x"


def test_urllib_timeout():
    """urlopen's timeout is a timeout."""
    with http_server() as server, pytest.raises(TimeoutError):
        on_virtual(_get, f"{server.url}/never", 0.05)


def test_http_client_keeps_alive():
    """Connections of http.client serve many requests each."""
    with http_server() as server:

        def ask(number):
            connection = http.client.HTTPConnection(*server.server_address, timeout=20)
            for turn in range(5):
                connection.request("POST", "/echo", json.dumps([number, turn]))
                assert json.load(connection.getresponse()) == [number, turn]
            connection.close()

        with ThreadGroup() as group:
            for number in range(40):
                group.spawn(ask, number)
        assert server.connections == 40


def test_http_server_inside_a_virtual_thread():
    """serve_forever runs on a virtual thread, and its requests on platform threads of its own."""
    with ThreadGroup() as group, http_server(group.spawn) as server:
        futures = [group.spawn(_get, f"{server.url}/big") for _ in range(5)]
        assert [len(future.result()) for future in futures] == [1 << 20] * 5


def test_server_of_virtual_threads():
    """A socketserver whose requests run on virtual threads: one method changed."""

    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                time.sleep(0.001)
                self.wfile.write(line.upper())

    with ThreadGroup() as group:

        class Server(socketserver.TCPServer):
            request_queue_size = 256

            def process_request(self, request, client_address):
                group.spawn(self._work, request, client_address)

            def _work(self, request, client_address):
                self.finish_request(request, client_address)
                self.shutdown_request(request)

        with Server(("127.0.0.1", 0), Echo) as server:
            group.spawn(server.serve_forever, 0.01)

            def visit(number):
                with socket.create_connection(server.server_address) as sock, sock.makefile("rw") as stream:
                    for turn in range(3):
                        print(f"line {number} {turn}", file=stream, flush=True)
                        assert stream.readline() == f"LINE {number} {turn}\n"

            visits = [group.spawn(visit, number) for number in range(100)]
            for visited in visits:
                visited.result()
            server.shutdown()


@pytest.mark.parametrize(
    "cls", [socketserver.TCPServer, socketserver.ThreadingTCPServer, socketserver.ThreadingUDPServer]
)
def test_socketserver(cls):
    """The plain and the threading servers, served from a virtual thread, asked by virtual threads."""
    is_udp = issubclass(cls, socketserver.UDPServer)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            if is_udp:
                data, sock = self.request
                sock.sendto(data.upper(), self.client_address)
            else:
                self.request.sendall(self.request.recv(100).upper())

    class Server(cls):
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as server, ThreadGroup() as group:
        group.spawn(server.serve_forever, 0.01)

        def ask(number):
            kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.settimeout(20)
                sock.connect(server.server_address)
                sock.send(b"hello %d" % number)
                return sock.recv(100)

        futures = [group.spawn(ask, number) for number in range(30)]
        assert [future.result() for future in futures] == [b"HELLO %d" % number for number in range(30)]
        server.shutdown()


def test_finished_threads_are_let_go():
    """What a thread returned is let go with its future: no idle stack keeps the last thread that it saw."""

    class Result:
        pass

    def work(number):
        time.sleep(0.001 * (number % 3))
        return Result()

    def run():
        with ThreadGroup() as group:
            return [weakref.ref(group.spawn(work, number)) for number in range(50)]

    futures = run()
    gc.collect()
    wait_until(lambda: _are_gone(futures), 5)


def _are_gone(references):
    """Whether nothing is left of what these weak references are for."""
    if NO_GIL:  # what another thread has let go of is freed when its maker next runs Python, or by the collector
        gc.collect()
    return not any(reference() for reference in references)


def test_finished_threads_are_let_go_before_their_timeouts():
    """A wait that ended long before its timeout does not keep the thread until the timeout would have come."""

    class Result:
        pass

    def work():
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(3600)
            far.sendall(b"x")
            near.recv(10)
            event = threading.Event()
            threading.Timer(0.01, event.set).start()
            assert event.wait(3600)
        return Result()

    def run():
        with ThreadGroup() as group:
            return [weakref.ref(group.spawn(work)) for _ in range(10)]

    futures = run()
    gc.collect()
    wait_until(lambda: _are_gone(futures), 5)


# ---- queue, logging ----


def test_workers_and_a_queue():
    """The textbook's worker pool: a queue, a few workers, join, an end mark each."""
    numbers, squares = queue.Queue(10), queue.SimpleQueue()

    def work():
        while (number := numbers.get()) is not None:
            squares.put(number * number)
            numbers.task_done()

    with ThreadGroup() as group:
        for _ in range(5):
            group.spawn(work)
        for number in range(300):
            numbers.put(number)
        numbers.join()
        for _ in range(5):
            numbers.put(None)
    assert sorted(squares.get() for _ in range(squares.qsize())) == [number * number for number in range(300)]


class PipeStream(io.TextIOBase):
    """A stream over a pipe, unbuffered, so a handler may park half-way through a record."""

    def __init__(self, fd):
        self._fd = fd

    def write(self, text):
        for place in range(0, len(text), 7):
            os.write(self._fd, text[place : place + 7].encode())
        return len(text)


def test_logging_through_one_handler():
    """Two hundred virtual threads log through one handler into a full pipe: no record is lost or torn."""
    reader, writer = os.pipe()
    logger = logging.Logger("one handler")
    handler = logging.StreamHandler(PipeStream(writer))
    handler.setFormatter(logging.Formatter("%(threadName)s|%(message)s"))
    logger.addHandler(handler)

    def log(number):
        for turn in range(5):
            logger.info("record %d of %d %s", turn, number, "x" * 100)

    def collect():
        with open(reader, "rb", buffering=0, closefd=False) as raw:
            text = b""
            while part := os.read(raw.fileno(), 500):
                text += part
        return text.decode().splitlines()

    with ThreadGroup() as group:
        lines = group.spawn(collect)
        with ThreadGroup() as loggers:
            futures = [loggers.spawn(log, number) for number in range(MANY)]
        os.close(writer)
    expected = {
        f"{futures[number].name}|record {turn} of {number} {'x' * 100}" for number in range(MANY) for turn in range(5)
    }
    assert sorted(lines.result()) == sorted(expected)
    os.close(reader)
    handler.close()


def test_logging_through_a_queue():
    """QueueHandler and QueueListener, whose thread is a platform thread."""
    records = queue.SimpleQueue()
    stream = io.StringIO()
    listener = logging.handlers.QueueListener(records, logging.StreamHandler(stream))
    logger = logging.Logger("through a queue")
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    with ThreadGroup() as group:
        for number in range(100):
            group.spawn(logger.info, "record %d", number)
    on_virtual(listener.stop)
    assert sorted(stream.getvalue().splitlines()) == sorted(f"record {number}" for number in range(100))


# ---- concurrent.futures ----


def test_executor_used_from_virtual_threads():
    """submit, map, wait, as_completed, shutdown and the with block of a ThreadPoolExecutor."""

    def slow_square(number):
        time.sleep(0.002)
        return number * number

    def body(start):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert pool.submit(slow_square, start).result() == start * start
            assert list(pool.map(slow_square, range(5))) == [0, 1, 4, 9, 16]
            futures = [pool.submit(slow_square, number) for number in range(5)]
            done, pending = concurrent.futures.wait(futures, timeout=20)
            assert (len(done), len(pending)) == (5, 0)
            futures = [pool.submit(slow_square, number) for number in range(5)]
            assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 1, 4, 9, 16]
            future = pool.submit(int, "x")
            assert isinstance(future.exception(), ValueError)
        with pytest.raises(RuntimeError):
            pool.submit(int)

    with ThreadGroup() as group:
        for start in range(10):
            group.spawn(body, start)


def test_executor_shared_with_platform_threads():
    """One pool, many users of both kinds; then it is still usable after a cancelled group."""
    is_over = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with ThreadGroup() as group:
            futures = [group.spawn(lambda n=n: pool.submit(pow, n, 2).result()) for n in range(100)]
            assert [future.result() for future in futures] == [n * n for n in range(100)]
        with pytest.raises(ExceptionGroup), ThreadGroup() as group:
            waiters = [group.spawn(pool.submit(is_over.wait).result) for _ in range(4)]
            wait_parked(*waiters)
            group.spawn(int, "x")
        is_over.set()
        assert on_virtual(lambda: list(pool.map(int, "123"))) == [1, 2, 3]


@pytest.mark.parametrize("when", ["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
def test_functions_of_concurrent_futures_take_ours(when):
    """wait and as_completed take what spawn returns, beside an executor's futures."""

    def work(number):
        time.sleep(0.002 * number)
        return number

    with concurrent.futures.ThreadPoolExecutor(2) as pool, ThreadGroup() as group:
        futures = [group.spawn(work, number) for number in range(5)] + [pool.submit(work, 9)]
        done, _ = concurrent.futures.wait(futures, timeout=20, return_when=when)
        assert done
        assert sorted(f.result() for f in concurrent.futures.as_completed(futures, timeout=20)) == [0, 1, 2, 3, 4, 9]
        assert on_virtual(lambda: {f.result() for f in concurrent.futures.as_completed(futures)}) == {0, 1, 2, 3, 4, 9}


def test_server_is_asked_from_both_kinds_of_threads():
    """Platform threads of an executor and virtual threads are clients of one server at once."""
    with http_server() as server, concurrent.futures.ThreadPoolExecutor(5) as pool, ThreadGroup() as group:
        mine = [group.spawn(_get, f"{server.url}/echo/{number}") for number in range(50)]
        theirs = [pool.submit(_get, f"{server.url}/echo/{number}") for number in range(50)]
        assert [f.result() for f in mine] == [f.result() for f in theirs]
        wait_until(lambda: all(f.done() for f in mine))
