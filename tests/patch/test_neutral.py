"""On platform threads the leaves behave as before: the same calls, with plait at work and without it."""

import copy
import inspect
import io
import pickle
import queue
import subprocess
import threading
import types
import zipfile
from unittest import mock

import pytest
from patch.helpers import CERTIFICATE, on_virtual, run_python

import plait
from plait.patch import _registry

CALLS = """
import multiprocessing, os, queue, select, selectors, signal, socket, ssl, subprocess, threading, time, warnings
from contextlib import suppress

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads

def described(fn):
    started = time.monotonic()
    try:
        result = "returned", fn()
    except Exception as error:
        result = "raised", type(error).__name__, str(error)
    return result, time.monotonic() - started > 0.09

def held(lock):
    lock.acquire()
    return lock

def elsewhere(fn):
    box = []
    thread = threading.Thread(target=lambda: box.append(described(fn)))
    thread.start()
    thread.join()
    return box[0][0]

near, far = socket.socketpair()
late, _keep = socket.socketpair()
late.settimeout(0.1)
soon, _keep2 = socket.socketpair()
soon.setblocking(False)
gone = socket.socket()
gone.close()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
listener = socket.create_server(("127.0.0.1", 0))
listener.settimeout(0.1)
closed_port = socket.create_server(("127.0.0.1", 0))
nobody = closed_port.getsockname()
closed_port.close()
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(os.environ["CERTIFICATE"])
client = ssl.create_default_context(cafile=os.environ["CERTIFICATE"])
def encrypted(timeout):
    one, other = socket.socketpair()
    box = []
    thread = threading.Thread(target=lambda: box.append(server.wrap_socket(other, server_side=True)))
    thread.start()
    one = client.wrap_socket(one, server_hostname="localhost")
    thread.join()
    one.settimeout(timeout)
    return one, box[0]
tls, tls_end = encrypted(None)
tls_late, tls_quiet = encrypted(0.1)
tls_soon, tls_keep = encrypted(0)
silent, silent_end = socket.socketpair()
silent = client.wrap_socket(silent, server_hostname="localhost", do_handshake_on_connect=False)
silent.settimeout(0.1)
reader, writer = os.pipe()
lock, rlock, free, free_r = held(threading.Lock()), held(threading.RLock()), threading.Lock(), threading.RLock()
condition, event, full = threading.Condition(), threading.Event(), queue.Queue(1)
full.put(1)
simple = queue.SimpleQueue()
poll = select.poll()
poll.register(near, select.POLLIN)
epoll = select.epoll()
epoll.register(near, select.EPOLLIN)

def hit(signum, frame):
    raise InterruptedError("a signal")
signal.signal(signal.SIGALRM, hit)

def under_alarm(fn):
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        return fn()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

other = threading.Thread(target=lambda: time.sleep(900), daemon=True)
other.start()
context = multiprocessing.get_context("fork")
sem, zero, shared = context.BoundedSemaphore(1), context.Semaphore(0), context.RLock()

def child():
    return os.spawnv(os.P_NOWAIT, "/bin/sh", ["sh", "-c", "sleep 0.1; exit 3"])

def late_run():
    with subprocess.Popen(["sleep", "9"]) as process:
        try:
            process.wait(0.1)
        finally:
            process.kill()

def refused(method):
    with socket.socket() as sock:
        return getattr(sock, method)(nobody)

class Index:
    def __index__(self):
        return 0

calls = {
    "sleep": lambda: time.sleep(0.1), "sleep 0": lambda: time.sleep(0), "sleep index": lambda: time.sleep(Index()),
    "sleep -1": lambda: time.sleep(-1), "sleep text": lambda: time.sleep("x"), "sleep none": lambda: time.sleep(),
    "sleep long": lambda: time.sleep(1e300), "sleep signal": lambda: under_alarm(lambda: time.sleep(20)),
    "lock late": lambda: lock.acquire(timeout=0.1), "lock now": lambda: lock.acquire(False),
    "lock wrong": lambda: lock.acquire(False, 1), "lock negative": lambda: lock.acquire(timeout=-2),
    "lock long": lambda: lock.acquire(timeout=1e100), "lock keyword": lambda: lock.acquire(wrong=1),
    "lock many": lambda: lock.acquire(1, 2, 3), "lock signal": lambda: under_alarm(lock.acquire),
    "lock free": lambda: (free.acquire(), free.locked(), free.release(), free.locked()),
    "lock with": lambda: free.__enter__(), "lock with end": lambda: free.__exit__(None, None, None),
    "lock release": lambda: free.release(), "lock repr": lambda: repr(free)[:16],
    "rlock again": lambda: (rlock.acquire(), rlock.acquire(False), rlock.release(), rlock.release()),
    "rlock elsewhere": lambda: elsewhere(lambda: rlock.acquire(timeout=0.1)),
    "rlock release elsewhere": lambda: elsewhere(rlock.release), "rlock release": lambda: free_r.release(),
    "rlock owned": lambda: (rlock._is_owned(), free_r._is_owned(), elsewhere(rlock._is_owned)),
    "rlock save": lambda: free_r._release_save(), "rlock wrong": lambda: rlock.acquire(False, 1),
    "rlock elsewhere negative": lambda: elsewhere(lambda: rlock.acquire(timeout=-2)),
    "condition": lambda: condition.wait(), "condition late": lambda: condition.__enter__() and condition.wait(0.1),
    "event": lambda: event.wait(0.1), "event now": lambda: event.wait(0),
    "queue": lambda: queue.Queue().get(timeout=0.1), "queue full": lambda: full.put(1, timeout=0.1),
    "queue negative": lambda: full.get(timeout=-1), "queue now": lambda: full.put_nowait(1),
    "simple": lambda: simple.get(timeout=0.1), "simple now": lambda: simple.get_nowait(),
    "simple negative": lambda: simple.get(timeout=-1), "simple wrong": lambda: simple.get(1, 2, 3),
    "simple long": lambda: simple.get(timeout=1e100), "simple put": lambda: simple.put(1) or simple.get(),
    "simple signal": lambda: under_alarm(simple.get),
    **{
        f"{name} {which}": (lambda sock=sock, call=call: call(sock))
        for which, sock in (("late", late), ("soon", soon), ("gone", gone))
        for name, call in {
            "recv": lambda s: s.recv(1), "recv_into": lambda s: s.recv_into(bytearray(1)),
            "recvfrom": lambda s: s.recvfrom(1), "recvmsg": lambda s: s.recvmsg(1),
            "recvfrom_into": lambda s: s.recvfrom_into(bytearray(1)),
            "recvmsg_into": lambda s: s.recvmsg_into([bytearray(1)]),
            "recv 0": lambda s: s.recv(0), "recv -1": lambda s: s.recv(-1), "recv text": lambda s: s.recv("x"),
            "recv none": lambda s: s.recv(), "recv_into bytes": lambda s: s.recv_into(b"x"),
            "send": lambda s: s.send(b"x"), "send text": lambda s: s.send("x"), "sendall": lambda s: s.sendall(b"xyz"),
            "sendall none": lambda s: s.sendall(), "sendmsg": lambda s: s.sendmsg([b"x", b"y"]),
            "sendto": lambda s: s.sendto(b"x"), "sendto 5": lambda s: s.sendto(b"x", 5),
            "send signal": lambda s: under_alarm(lambda: s.sendall(bytes(1000))),
        }.items()
    },
    "recv": lambda: (far.send(b"hello"), near.recv(2), near.recv(9)),
    "recv flags": lambda: (far.send(b"hello"), near.recv(2, socket.MSG_PEEK), near.recv(9)),
    "recv dontwait": lambda: near.recv(1, socket.MSG_DONTWAIT),
    "recv signal": lambda: under_alarm(lambda: near.recv(1)),
    "udp": lambda: (udp.sendto(b"hello", udp.getsockname()), udp.recvfrom(9)[0]),
    "udp name": lambda: (udp.sendto(b"hello", ("localhost", udp.getsockname()[1])), udp.recv(9)),
    "accept": listener.accept, "connect": lambda: refused("connect"), "connect_ex": lambda: refused("connect_ex"),
    "connect wrong": lambda: gone.connect(5), "connect again": lambda: near.connect("x"),
    "connection": lambda: socket.create_connection(("localhost", listener.getsockname()[1])).close(),
    "accepted": lambda: listener.accept()[0].close(), "close": lambda: gone.close(),
    "getaddrinfo": lambda: socket.getaddrinfo("127.0.0.1", 80), "getaddrinfo name": lambda: socket.getaddrinfo("localhost", "http"),
    "getaddrinfo keywords": lambda: socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM),
    "getaddrinfo bad": lambda: socket.getaddrinfo("no-such-host.invalid", 80, flags=socket.AI_NUMERICHOST),
    "getaddrinfo wrong": lambda: socket.getaddrinfo(5, 80), "getaddrinfo none": lambda: socket.getaddrinfo(),
    "gethostbyname": lambda: socket.gethostbyname("localhost"), "gethostbyname wrong": lambda: socket.gethostbyname(5),
    "getnameinfo": lambda: socket.getnameinfo(("127.0.0.1", 80), 3),
    "tls": lambda: (tls.sendall(b"hello"), tls_end.recv(2), tls_end.read(9), tls_end.pending()),
    "tls into": lambda: (tls_end.send(b"hello"), tls.recv_into(bytearray(9)), tls.write(b"x"), tls_end.recv(1)),
    "tls late": lambda: tls_late.recv(1), "tls soon": lambda: tls_soon.recv(1), "tls 0": lambda: tls.recv(0),
    "tls -1": lambda: tls.recv(-1), "tls text": lambda: tls.send("x"), "tls into bytes": lambda: tls.recv_into(b"x"),
    "tls late send": lambda: tls_late.sendall(bytes(1 << 24)), "tls soon send": lambda: tls_soon.send(bytes(1 << 24)),
    "tls signal": lambda: under_alarm(lambda: tls.recv(1)), "tls handshake": silent.do_handshake,
    "tls late unwrap": tls_late.unwrap, "tls soon unwrap": tls_soon.unwrap, "tls mode": lambda: os.get_blocking(tls.fileno()),
    "tls end": lambda: (tls_end.close(), tls.recv(1), tls.recv(1)), "tls gone": lambda: tls.sendall(b"x"),
    "select": lambda: select.select([near], [], [], 0.1), "select -1": lambda: select.select([], [], [], -1),
    "select text": lambda: select.select([], [], [], "x"), "select bad": lambda: select.select([-1], [], []),
    "select w": lambda: len(select.select([], [near], [])[1]), "select none": lambda: select.select(),
    "select signal": lambda: under_alarm(lambda: select.select([near], [], [])),
    "poll": lambda: poll.poll(100), "poll 0": lambda: poll.poll(0), "poll text": lambda: poll.poll("x"),
    "epoll": lambda: epoll.poll(0.1), "epoll 0": lambda: epoll.poll(0), "epoll wrong": lambda: epoll.poll(0, 0),
    "read": lambda: (os.write(writer, b"hello"), os.read(reader, 2), os.read(reader, 9)),
    "read bad": lambda: os.read(-1, 1), "read -1": lambda: os.read(reader, -1), "read text": lambda: os.read("x", 1),
    "read signal": lambda: under_alarm(lambda: os.read(reader, 1)),
    "write bad": lambda: os.write(-1, b"x"), "write text": lambda: os.write(writer, "x"),
    "write strided": lambda: os.write(writer, memoryview(b"abcd")[::2]),
    "ident": lambda: (threading.get_ident() == threading.main_thread().ident, threading.current_thread().name),
    "ident elsewhere": lambda: elsewhere(lambda: threading.current_thread().name != "MainThread"),
    "join": lambda: threading.current_thread().join(),
    "join late": lambda: other.join(0.1), "join text": lambda: other.join("x"),
    "waitpid": lambda: os.waitpid(child(), 0)[1], "wait": lambda: (child(), os.wait()[1])[1],
    "wait3": lambda: (child(), os.wait3(0)[1])[1], "wait4": lambda: os.wait4(child(), 0)[1],
    "waitid": lambda: tuple(os.waitid(os.P_PID, child(), os.WEXITED))[2:],
    "waitpid none": lambda: os.waitpid(-1, 0), "waitpid text": lambda: os.waitpid("x", 0),
    "waitid none": lambda: os.waitid(os.P_ALL, 0, os.WEXITED), "wait3 none": lambda: os.wait3(0),
    "system": lambda: os.system("sleep 0.1; exit 3"), "system wrong": lambda: os.system(5),
    "run": lambda: subprocess.run(["sh", "-c", "sleep 0.1; echo hello"], capture_output=True),
    "run late": late_run, "run nothing": lambda: subprocess.run(["/none"]),
    "sem": lambda: (sem.acquire(), sem._semlock._is_mine(), sem.release(), sem._semlock._is_mine()),
    "sem late": lambda: zero.acquire(timeout=0.1), "sem now": lambda: zero.acquire(False),
    "sem text": lambda: zero.acquire(True, "x"), "sem many": lambda: zero.acquire(1, 2, 3),
    "sem signal": lambda: under_alarm(zero.acquire), "sem release": lambda: sem.release(),
    "mp rlock": lambda: (shared.acquire(), shared.acquire(), shared._semlock._count(), shared.release(), shared.release()),
    "mp rlock release": lambda: shared.release(), "mp rlock with": lambda: shared.__enter__() and repr(shared),
    "mp rlock elsewhere": lambda: elsewhere(lambda: (shared.acquire(timeout=0.1), shared._semlock._is_mine())),
    "pause": lambda: under_alarm(signal.pause), "sigtimedwait": lambda: signal.sigtimedwait([signal.SIGUSR1], 0.1),
    "sigwait wrong": lambda: signal.sigwait([0]), "sigwaitinfo text": lambda: signal.sigwaitinfo("x"),
    "sigwaitinfo signal": lambda: under_alarm(lambda: signal.sigwaitinfo([signal.SIGUSR1])),
}
waiting = " ".join('''
accept, condition late, epoll, event, join late, lock late, lock signal, mp rlock elsewhere, pause, poll, queue, queue full,
read signal, recv late, recv signal, recv_into late, recvfrom late, recvfrom_into late, recvmsg late, recvmsg_into late,
rlock elsewhere, run, run late, select, select signal, sem late, sem signal, sigtimedwait, sigwaitinfo signal, simple,
simple signal, sleep, sleep signal, system, tls handshake, tls late, tls late send, tls late unwrap, tls signal, wait, wait3,
wait4, waitid, waitpid
'''.split()).split(", ")
assert calls.keys() >= {*waiting}
for name, call in calls.items():
    result, has_waited = described(call)
    print(name, result, has_waited if name in waiting else "")  # others may take long, too, on a busy machine
with suppress(OSError):
    os.close(reader)
"""

AT_WORK = """
import threading, time, plait
plait.patch.install()
_stop = threading.Event()
_tickers = [plait.spawn(_stop.wait) for _ in range(3)]
_queue = __import__("queue").SimpleQueue()
_tickers.append(plait.spawn(_queue.get))
while not all(ticker.waits_for for ticker in _tickers):
    time.sleep(0.001)
"""

END = """
_stop.set()
_queue.put(1)
"""


def test_platform_threads_see_no_difference():
    """Results, exceptions, texts, timeouts and signals of each leaf are those of a process without plait."""
    without = run_python(CALLS, CERTIFICATE=str(CERTIFICATE))
    with_plait = run_python(AT_WORK + CALLS + END, CERTIFICATE=str(CERTIFICATE))
    assert len(without.splitlines()) > 120
    assert with_plait.splitlines() == without.splitlines()


def _diverted():
    """The functions of Python that are leaves."""
    return [function for function, ways in _registry._ways.items() if ways]


LOOKS = {
    "name": lambda function: (function.__name__, function.__qualname__, function.__module__, function.__doc__),
    "kind": lambda function: (inspect.isfunction(function), inspect.isroutine(function), callable(function)),
    "signature": inspect.signature,
    "annotations": lambda function: function.__annotations__,
    "defaults": lambda function: (function.__defaults__, function.__kwdefaults__),
    "source": inspect.getsource,
    "dictionary": vars,
    "code": lambda function: (function.__code__, function.__globals__ is function.__globals__, function.__closure__),
    "text": lambda function: repr(function).partition(" at ")[0],
    "copy": lambda function: copy.copy(function) is copy.deepcopy(function) is function,
}


@pytest.mark.parametrize("look", LOOKS)
def test_diverted_functions_look_as_they_did(look):
    """Whatever is asked of a method that is written in Python."""
    found = [each for each in _diverted() if each.__name__ != "_find_and_load" or look != "source"]  # it is frozen
    assert len(found) > 15
    looks = [LOOKS[look](function) for function in found]
    plait.patch.uninstall()
    try:
        assert not _diverted()
        assert [LOOKS[look](function) for function in found] == looks
    finally:
        plait.patch.install()


@pytest.mark.parametrize("look", sorted(LOOKS.keys() - {"source", "code"}))
def test_replaced_init_looks_as_it_did(look):
    """From the outside: calls of `__init__` are inlined, so it is another function."""
    now = threading._DummyThread.__dict__["__init__"]
    patches = [patch for family in _registry._patches.values() for patch in family]
    (place,) = next(patch for patch in patches if "_DummyThread" in patch.name)._places.values()
    assert now is place.placed is not place.original
    assert LOOKS[look](now) == LOOKS[look](place.original)


def test_replaced_functions_are_pickled_by_name():
    """As any function."""
    assert pickle.loads(pickle.dumps(queue.Queue.get)) is queue.Queue.get


@pytest.mark.parametrize("where", ["virtual", "platform"])
def test_replaced_functions_bind_in_other_classes(where):
    """A class may have one under another name."""

    class Archive(zipfile.ZipFile):
        finish = zipfile.ZipFile.close

    class Line(queue.Queue):
        take, take_now = queue.Queue.get, staticmethod(queue.Queue.get)

    def body():
        archive, line = Archive(io.BytesIO(), "w"), Line()
        archive.finish()
        line.put(1)
        line.put(2)
        return archive.fp, line.take(), line.take_now(line, block=False)

    assert (on_virtual(body) if where == "virtual" else body()) == (None, 1, 2)


@pytest.mark.parametrize("where", ["virtual", "platform"])
def test_mocks_of_replaced_methods(where):
    """A mock made with the specification of one is called with self, and the method is back in its place after it."""

    def body():
        before = threading.Thread.start, queue.Queue.get, subprocess.Popen._wait
        with mock.patch.object(threading.Thread, "start", autospec=True) as start:
            thread = threading.Thread()
            thread.start()
            start.assert_called_once_with(thread)
        with mock.patch.object(queue.Queue, "get", autospec=True, side_effect=lambda self, *args: self.maxsize):
            assert queue.Queue(3).get() == 3
        with mock.patch.object(subprocess.Popen, "_wait", autospec=True, side_effect=lambda self, timeout: 7):
            process = subprocess.Popen(["true"])
            assert process.wait() == 7
        assert before == (threading.Thread.start, queue.Queue.get, subprocess.Popen._wait)
        return process.wait()

    assert (on_virtual(body) if where == "virtual" else body()) == 0
    assert isinstance(threading.Thread.start, types.FunctionType)
