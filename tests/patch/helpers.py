"""What the tests of the leaves share: waiting for states, running on a virtual thread, and the table of all leaves."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import queue
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import Future as OrdinaryFuture
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import plait
from plait import ThreadGroup, _originals, shield
from plait._core import runtime

PATIENCE = 20.0  # seconds after which a state that should come is given up


def wait_until(condition, patience=PATIENCE):
    """Return as soon as `condition()` is true; fail if it never is. Any thread."""
    limit = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < limit, "the state never came"
        time.sleep(0.001)


def is_parked(thread):
    """Whether a virtual thread (its future) or a platform thread's record is suspended in a wait."""
    return thread.waits_for is not None and thread.is_waiting()


def wait_parked(*threads):
    """Return as soon as each of these is parked."""
    wait_until(lambda: all(map(is_parked, threads)))


def on_virtual(fn, /, *args, **kwargs):
    """The result of `fn` on a virtual thread, or what it raises, as it is."""
    with ThreadGroup(timeout=10) as group:
        future = group.spawn(outcome, fn, *args, **kwargs)
    kind, value = future.result()
    if kind == "raised":
        raise value
    return value


def outcome(fn, /, *args, **kwargs):
    """("returned", result) or ("raised", exception)."""
    try:
        return "returned", fn(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - it is what we ask for
        return "raised", error


def described(fn, /, *args, **kwargs):
    """The outcome as something that can be compared: a result, or the exception's type and text."""
    kind, value = outcome(fn, *args, **kwargs)
    return (kind, value) if kind == "returned" else (kind, type(value).__name__, str(value))


class PlatformCall:
    """A function on a thread of the operating system, begun at once."""

    def __init__(self, fn, /, *args):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(fn, *args), daemon=True)
        self._thread.start()

    def _run(self, fn, *args):
        self._outcome = outcome(fn, *args)

    @property
    def is_over(self):
        """Whether it has returned or raised."""
        return self._outcome is not None

    def result(self):
        """What it returned or raised."""
        self._thread.join(PATIENCE)
        assert self._outcome is not None, "the thread is still at work"
        kind, value = self._outcome
        if kind == "raised":
            raise value
        return value


def run_python(code, *, patience=50, **environment):
    """What a fresh interpreter prints when it runs `code`; fails if that fails or hangs."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def tcp_pair():
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


CERTIFICATE = Path(__file__).with_name("localhost.pem")  # with its key, for nothing but these tests


@cache
def server_context():
    """What a server on loopback shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@cache
def client_context():
    """What its clients believe."""
    return ssl.create_default_context(cafile=CERTIFICATE)


def tls_pair(pair=None, client=None, server=None):
    """Two ends of a TLS connection, client's and server's; over this pair of sockets, with these contexts, if given."""
    near, far = pair or socket.socketpair()
    call = PlatformCall((server or server_context()).wrap_socket, far, True)
    near = (client or client_context()).wrap_socket(near, server_hostname="localhost")
    return near, call.result()


def fill_tls(sock):
    """Send until the socket has no room for another record, and none is half sent; how much it took."""
    total = 0
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while poll.poll(0):
        total += sock.send(bytes(1 << 14))
    return total


def fill(sock):
    """Send until the socket takes nothing more, now or later; how much it took."""
    total = 0
    sock.setblocking(False)
    is_new = True
    try:
        while True:
            try:
                total += sock.send(bytes(1 << 16))
                is_new = True
            except BlockingIOError:
                if sock.family == socket.AF_UNIX or not is_new:
                    return total
                wait_until(lambda: not _unacknowledged(sock))  # a late ACK makes room
                is_new = False
    finally:
        sock.setblocking(True)


def _unacknowledged(sock):
    """How many segments of a TCP socket are on their way: tcpi_unacked."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[24:28], sys.byteorder)


def drain(sock, *, until):
    """Receive whatever comes while `until()` is false, and what is left after; how much it was."""
    total = 0
    sock.setblocking(False)
    limit = time.monotonic() + PATIENCE
    while True:
        is_last = until()
        try:
            while data := sock.recv(1 << 16):
                total += len(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        if is_last:
            return total
        assert time.monotonic() < limit, "the state never came"
        time.sleep(0.001)


def fill_pipe(fd):
    """Write until the pipe takes nothing more; how much it took."""
    os.set_blocking(fd, False)
    total = 0
    try:
        while True:
            total += os.write(fd, bytes(1 << 12))
    except BlockingIOError:
        return total
    finally:
        os.set_blocking(fd, True)


# ---- the leaves ----


@dataclass
class Sitting:
    """A call that waits in one leaf until it is let go."""

    block: object  # call it: waits
    release: object  # call it: ends the wait; None: only a cancel does


LEAVES = {}


def leaf(fn):
    """Add a context manager, called with an open group, to the table."""
    LEAVES[fn.__name__] = contextmanager(fn)
    return fn


@leaf
def sleep(group):
    yield Sitting(lambda: time.sleep(3600), None)


def _held(group, lock):
    """`lock`, held by a member of `group` until the event is set."""
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            is_over.wait()

    group.spawn(hold)
    is_held.wait()
    return is_over


@leaf
def lock(group):
    lock = threading.Lock()
    is_over = _held(group, lock)

    def block():
        with lock:
            pass

    yield Sitting(block, is_over.set)


@leaf
def rlock(group):
    lock = threading.RLock()
    is_over = _held(group, lock)

    def block():
        with lock:
            pass

    yield Sitting(block, is_over.set)


@leaf
def condition(group):
    condition = threading.Condition()

    def block():
        with condition:
            condition.wait()

    def release():
        with condition:
            condition.notify_all()

    yield Sitting(block, release)


@leaf
def event(group):
    event = threading.Event()
    yield Sitting(event.wait, event.set)


@leaf
def semaphore(group):
    semaphore = threading.Semaphore(0)
    yield Sitting(semaphore.acquire, semaphore.release)


@leaf
def queue_get(group):
    numbers = queue.Queue()
    yield Sitting(numbers.get, lambda: numbers.put(1))


@leaf
def queue_put(group):
    numbers = queue.Queue(1)
    numbers.put(1)
    yield Sitting(lambda: numbers.put(2), numbers.get)


@leaf
def simple_queue(group):
    numbers = queue.SimpleQueue()
    yield Sitting(numbers.get, lambda: numbers.put(1))


def _receiving(method, *args):
    def case(group):
        near, far = tcp_pair()
        with near, far:
            yield Sitting(lambda: getattr(near, method)(*args), lambda: far.send(b"x"))

    case.__name__ = method
    return leaf(case)


_receiving("recv", 10)
_receiving("recv_into", bytearray(10))
_receiving("recvfrom", 10)
_receiving("recvfrom_into", bytearray(10))
_receiving("recvmsg", 10)
_receiving("recvmsg_into", [bytearray(10)])


@leaf
def recv_with_timeout(group):
    near, far = tcp_pair()
    with near, far:
        near.settimeout(3600)
        yield Sitting(lambda: near.recv(1), lambda: far.send(b"x"))


@leaf
def recvfrom_udp(group):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near, socket.socket(near.family, near.type) as far:
        near.bind(("127.0.0.1", 0))
        yield Sitting(lambda: near.recvfrom(10), lambda: far.sendto(b"x", near.getsockname()))


def _sending(method, *args):
    def case(group):
        near, far = socket.socketpair()
        with near, far:
            fill(near)

            yield Sitting(lambda: getattr(near, method)(*args), lambda: drain(far, until=lambda: True))

    case.__name__ = method
    return leaf(case)


_sending("send", b"x")
_sending("sendall", b"x")
_sending("sendmsg", [b"x"])


@leaf
def tls_read(group):
    near, far = tls_pair()
    with near, far:
        yield Sitting(lambda: near.recv(10), lambda: far.send(b"x"))


@leaf
def tls_read_with_timeout(group):
    near, far = tls_pair()
    with near, far:
        near.settimeout(3600)
        yield Sitting(lambda: near.recv_into(bytearray(10)), lambda: far.send(b"x"))


@leaf
def tls_write(group):
    near, far = tls_pair()
    with near, far:
        fill_tls(near)
        yield Sitting(lambda: near.sendall(b"x"), lambda: drain(far, until=lambda: True))


@leaf
def tls_handshake(group):
    near, far = tcp_pair()
    with ExitStack() as stack:
        stack.enter_context(far)
        near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
        stack.enter_context(near)

        def release():
            stack.enter_context(PlatformCall(server_context().wrap_socket, far, True).result())

        # The method around it ends with settimeout(), which fails if the case's end has closed the socket first.
        yield Sitting(near._sslobj.do_handshake, release)


@leaf
def tls_unwrap(group):
    near, far = tls_pair()
    with near, far:
        yield Sitting(near.unwrap, far.unwrap)


@leaf
def accept(group):
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def block():
            stack.enter_context(listener.accept()[0])

        def release():
            stack.enter_context(socket.create_connection(listener.getsockname()))

        yield Sitting(block, release)


@leaf
def connect(group):
    with ExitStack() as stack:  # a Unix socket whose backlog is full
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind("")
        listener.listen(0)
        address = listener.getsockname()
        one_more = stack.enter_context(socket.socket(socket.AF_UNIX))
        one_more.setblocking(False)
        one_more.connect(address)
        near = stack.enter_context(socket.socket(socket.AF_UNIX))

        def release():
            stack.enter_context(listener.accept()[0])

        yield Sitting(lambda: near.connect(address), release)


@leaf
def read_pipe(group):
    reader, writer = os.pipe()
    try:
        yield Sitting(lambda: os.read(reader, 10), lambda: os.write(writer, b"x"))
    finally:
        os.close(reader)
        os.close(writer)


@leaf
def write_pipe(group):
    reader, writer = os.pipe()
    try:
        fill_pipe(writer)
        yield Sitting(lambda: os.write(writer, b"x"), lambda: os.read(reader, 1 << 16))
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def _pipe_file(mode, **options):
    """A file object over one end of a pipe, and the descriptor of the other."""
    reader, writer = os.pipe()
    near, far = (reader, writer) if mode.startswith("r") else (writer, reader)
    with open(near, mode, **options) as file:
        try:
            yield file, far
        finally:
            os.close(far)
            with suppress(BrokenPipeError):
                file.close()


@leaf
def read_raw_file(group):
    with _pipe_file("rb", buffering=0) as (file, far):
        yield Sitting(lambda: file.read(10), lambda: os.write(far, b"x"))


@leaf
def readall_raw_file(group):
    with _pipe_file("rb", buffering=0) as (file, far), open(os.devnull, "wb") as other:
        yield Sitting(file.readall, lambda: os.dup2(other.fileno(), far))


@leaf
def read_buffered_file(group):
    with _pipe_file("rb") as (file, far):
        yield Sitting(lambda: file.read1(10), lambda: os.write(far, b"x"))


@leaf
def iterate_buffered_file(group):
    with _pipe_file("rb") as (file, far):
        yield Sitting(lambda: next(file), lambda: os.write(far, b"x\n"))


@leaf
def read_text_file(group):
    with _pipe_file("r") as (file, far):
        yield Sitting(file.readline, lambda: os.write(far, b"x\n"))


@leaf
def write_raw_file(group):
    with _pipe_file("wb", buffering=0) as (file, far):
        fill_pipe(file.fileno())
        yield Sitting(lambda: file.write(b"x"), lambda: os.read(far, 1 << 16))


@leaf
def print_to_a_full_pipe(group):
    with _pipe_file("w") as (file, far):
        fill_pipe(file.fileno())
        yield Sitting(lambda: print("x", file=file, flush=True), lambda: os.read(far, 1 << 16))


@contextmanager
def _fifo():
    with TemporaryDirectory() as directory:
        path = os.path.join(directory, "fifo")
        os.mkfifo(path)
        yield path


def _opening(mode, other):
    with _fifo() as path, ExitStack() as stack:

        def release():
            stack.callback(os.close, os.open(path, other | os.O_NONBLOCK))

        yield Sitting(lambda: open(path, mode).close(), release)


@leaf
def open_fifo_to_read(group):
    yield from _opening("rb", os.O_WRONLY)


@leaf
def open_fifo_to_write(group):
    yield from _opening("wb", os.O_RDONLY)


def _locking(lock, unlock):
    with TemporaryFile() as holder, open(f"/proc/self/fd/{holder.fileno()}", "r+b") as file:
        lock(holder)
        yield Sitting(lambda: lock(file), lambda: unlock(holder))


@leaf
def flock(group):
    yield from _locking(lambda file: fcntl.flock(file, fcntl.LOCK_EX), lambda file: fcntl.flock(file, fcntl.LOCK_UN))


@leaf
def fcntl_lock(group):
    set_and_wait, write, unlock = 38, fcntl.F_WRLCK, fcntl.F_UNLCK  # F_OFD_SETLKW: owned by the open file

    def change(file, kind):
        fcntl.fcntl(file, set_and_wait, struct.pack("hhqqixxxx", kind, 0, 0, 0, 0))

    yield from _locking(lambda file: change(file, write), lambda file: change(file, unlock))


@leaf
def splice(group):
    reader, writer = os.pipe()
    near, far = os.pipe()
    try:
        yield Sitting(lambda: os.splice(reader, far, 10), lambda: os.write(writer, b"x"))
    finally:
        for fd in (reader, writer, near, far):
            os.close(fd)


@leaf
def read_terminal(group):
    near, far = os.openpty()
    try:
        yield Sitting(lambda: os.read(far, 10), lambda: os.write(near, b"x\n"))
    finally:
        os.close(near)
        os.close(far)


@leaf
def read_eventfd(group):
    fd = os.eventfd(0)
    try:
        yield Sitting(lambda: os.read(fd, 8), lambda: os.eventfd_write(fd, 1))
    finally:
        os.close(fd)


@leaf
def eventfd_read(group):
    fd = os.eventfd(0)
    try:
        yield Sitting(lambda: os.eventfd_read(fd), lambda: os.eventfd_write(fd, 1))
    finally:
        os.close(fd)


def _writing_to_a_full_eventfd(full, value):
    fd = os.eventfd(0)
    try:
        os.eventfd_write(fd, full)
        yield Sitting(lambda: os.eventfd_write(fd, value), lambda: os.eventfd_read(fd))
    finally:
        os.close(fd)


@leaf
def eventfd_write(group):
    yield from _writing_to_a_full_eventfd(2**64 - 2, 1)


@leaf
def eventfd_write_of_more_than_fits(group):
    yield from _writing_to_a_full_eventfd(2**64 - 10, 20)


@leaf
def preadv_with_a_flag(group):
    reader, writer = os.pipe()
    try:
        yield Sitting(lambda: os.preadv(reader, [bytearray(9)], -1, os.RWF_HIPRI), lambda: os.write(writer, b"x"))
    finally:
        os.close(reader)
        os.close(writer)


@leaf
def pwritev_with_a_flag(group):
    reader, writer = os.pipe()
    try:
        fill_pipe(writer)
        yield Sitting(lambda: os.pwritev(writer, [b"x"], -1, os.RWF_HIPRI), lambda: os.read(reader, 1 << 16))
    finally:
        os.close(reader)
        os.close(writer)


@leaf
def select_select(group):
    near, far = socket.socketpair()
    with near, far:
        yield Sitting(lambda: select.select([near], [], []), lambda: far.send(b"x"))


@leaf
def select_poll(group):
    near, far = socket.socketpair()
    with near, far:
        poll = select.poll()
        poll.register(near, select.POLLIN)
        yield Sitting(poll.poll, lambda: far.send(b"x"))


@leaf
def select_epoll(group):
    near, far = socket.socketpair()
    with near, far, select.epoll() as epoll:
        epoll.register(near, select.EPOLLIN)
        yield Sitting(epoll.poll, lambda: far.send(b"x"))


def _looking_up(name, answer, *args):
    def case(group):
        is_over = threading.Event()
        original = getattr(_originals, name)

        def slow(*args):
            is_over.wait(PATIENCE)
            return answer

        setattr(_originals, name, slow)
        try:
            yield Sitting(lambda: getattr(socket, name)(*args), is_over.set)
        finally:
            is_over.set()
            setattr(_originals, name, original)

    case.__name__ = name
    return leaf(case)


_looking_up("getaddrinfo", [(2, 1, 6, "", ("127.0.0.1", 80))], "a-slow-name.test", 80)
_looking_up("gethostbyname", "127.0.0.1", "a-slow-name.test")
_looking_up("gethostbyname_ex", ("localhost", [], ["127.0.0.1"]), "a-slow-name.test")
_looking_up("gethostbyaddr", ("localhost", [], ["127.0.0.1"]), "192.0.2.1")
_looking_up("getnameinfo", ("localhost", "http"), ("192.0.2.1", 80), 0)


@leaf
def bind(group):
    is_over = threading.Event()
    original = _originals.getaddrinfo

    def slow(host, *args):
        is_over.wait(PATIENCE)
        return original("127.0.0.1", *args)

    def block():
        with socket.socket() as sock:
            sock.bind(("a-slow-name.test", 0))

    _originals.getaddrinfo = slow
    try:
        yield Sitting(block, is_over.set)
    finally:
        is_over.set()
        _originals.getaddrinfo = original


@leaf
def thread_join(group):
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait, args=(PATIENCE,), daemon=True)
    thread.start()
    try:
        yield Sitting(thread.join, is_over.set)
    finally:
        is_over.set()


@leaf
def ordinary_future(group):
    future = OrdinaryFuture()
    yield Sitting(future.result, lambda: future.set_result(1))


@leaf
def future_of_a_child(group):
    is_over = threading.Event()
    child = group.spawn(is_over.wait)
    yield Sitting(child.result, is_over.set)


@leaf
def group_exit(group):
    is_over = threading.Event()

    def block():
        with ThreadGroup() as inner:
            inner.spawn(is_over.wait)

    yield Sitting(block, is_over.set)


@leaf
def spawn_into_a_full_group(group):
    is_over = threading.Event()

    def block():
        with ThreadGroup(max_concurrency=1) as inner:
            inner.spawn(is_over.wait)
            inner.spawn(int)

    yield Sitting(block, is_over.set)


@leaf
def mutex(group):
    mutex = plait.Mutex(0)
    is_held, is_over = threading.Event(), threading.Event()

    def hold():
        with mutex.lock():
            is_held.set()
            is_over.wait()

    group.spawn(hold)
    is_held.wait()

    def block():
        with mutex.lock():
            pass

    yield Sitting(block, is_over.set)


@contextmanager
def child(*command):
    """A process that runs `command`, else one that ends when its input does; its pid, and what ends and takes it."""
    process = subprocess.Popen(command or ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        with shield(timeout=PATIENCE):  # the group may have been cancelled just now, and nobody told yet
            process.stdin.close()
            process.wait()


@contextmanager
def _to_the_end(block):
    """`block`, and nobody is in it at the end: a wait for a process that is cancelled shall not see its end instead."""
    inside = []

    def call():
        inside.append(None)
        try:
            block()
        finally:
            inside.pop()

    try:
        yield call
    finally:
        wait_until(lambda: not inside)


def _waiting_for_a_child(name, block):
    def case(group):
        with child() as process, _to_the_end(lambda: block(process)) as wait:
            yield Sitting(wait, process.stdin.close)

    case.__name__ = name
    return leaf(case)


_waiting_for_a_child("waitpid", lambda process: os.waitpid(process.pid, 0))
_waiting_for_a_child("waitpid_of_a_group", lambda process: os.waitpid(-process.pid, 0))
_waiting_for_a_child("wait4", lambda process: os.wait4(process.pid, 0))
_waiting_for_a_child("waitid", lambda process: os.waitid(os.P_PID, process.pid, os.WEXITED))
_waiting_for_a_child("popen_wait", lambda process: process.wait())
_waiting_for_a_child("popen_wait_with_timeout", lambda process: process.wait(3600))


@leaf
def waitid_of_a_descriptor(group):
    with child() as process:
        fd = os.pidfd_open(process.pid)
        try:
            with _to_the_end(lambda: os.waitid(os.P_PIDFD, fd, os.WEXITED)) as wait:
                yield Sitting(wait, process.stdin.close)
        finally:
            os.close(fd)


@leaf
def wait_for_a_stop(group):
    with child() as process, _to_the_end(lambda: os.waitpid(process.pid, os.WUNTRACED)) as wait:
        yield Sitting(wait, lambda: process.send_signal(signal.SIGSTOP))


@leaf
def communicate(group):
    near, far = socket.socketpair()
    with near, far:

        def block():
            subprocess.run(["cat"], stdin=near, capture_output=True, check=True)

        yield Sitting(block, lambda: far.shutdown(socket.SHUT_WR))


@leaf
def multiprocessing_semaphore(group):
    semaphore = multiprocessing.get_context("fork").Semaphore(0)
    yield Sitting(semaphore.acquire, semaphore.release)


@leaf
def multiprocessing_queue(group):
    numbers = multiprocessing.get_context("fork").SimpleQueue()
    try:
        yield Sitting(numbers.get, lambda: numbers.put(1))
    finally:
        numbers.close()


@leaf
def receive_message(group):
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        yield Sitting(reader.recv, lambda: writer.send(1))


@leaf
def send_message(group):
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        fill_pipe(writer.fileno())
        yield Sitting(lambda: writer.send_bytes(b"x"), lambda: os.read(reader.fileno(), 1 << 16))


@leaf
def sigwait(group):
    yield Sitting(lambda: signal.sigwait({signal.SIGRTMIN + 3}), None)


@leaf
def pause(group):
    yield Sitting(signal.pause, None)


def carriers():
    """How many carriers run here."""
    return len(runtime.carriers)
