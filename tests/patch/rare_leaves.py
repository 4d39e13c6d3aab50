"""The table of all leaves, with the rarer ones that helpers.py leaves out, and where each patched leaf is in it."""

from __future__ import annotations

import builtins
import fcntl
import io
import multiprocessing
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile

from patch.helpers import (
    LEAVES,
    PATIENCE,
    Sitting,
    _fifo,
    _held,
    _pipe_file,
    _to_the_end,
    _waiting_for_a_child,
    drain,
    fill,
    fill_pipe,
    leaf,
)

from plait import shield

__all__ = ("LEAVES", "NEVER", "PATIENT", "WAITS")

PATIENT = {"lock", "rlock"}  # cancelled, they wait on for a holder that is about to give it back

# Leaf, and where a test waits in it. Those of Buffered files are added below.
WAITS = {
    "time.sleep": "sleep",
    "_thread.lock.acquire": "lock_acquire",
    "_thread.lock.acquire_lock": "lock_acquire_lock",
    "_thread.lock.__enter__": "lock",
    "_thread.RLock.acquire": "rlock_acquire",
    "_thread.RLock.__enter__": "rlock",
    "threading.Condition.wait": "condition",
    "threading.Condition.wait_for": "condition_wait_for",
    "threading.Event.wait": "event",
    "threading.Semaphore.acquire": "semaphore",
    "threading.Semaphore.__enter__": "semaphore_enter",
    "threading.Barrier.wait": "barrier",
    "threading.Thread._wait_for_tstate_lock": "thread_join",
    "_thread._ThreadHandle.join": "thread_join",
    "queue.Queue.get": "queue_get",
    "queue.Queue.join": "queue_join",
    "queue.SimpleQueue.get": "simple_queue",
    "socket.socket.accept": "accept",
    "socket.socket.bind": "bind",
    "socket.socket.connect": "connect",
    "socket.socket.connect_ex": "connect_ex",
    "select.select": "select_select",
    "select.poll.poll": "select_poll",
    "select.epoll.poll": "select_epoll",
    "ssl.SSLSocket.read": "tls_read",
    "ssl.SSLSocket.write": "tls_write",
    "ssl.SSLSocket.do_handshake": "tls_handshake",
    "ssl.SSLSocket.unwrap": "tls_unwrap",
    "os.read": "read_pipe",
    "os.write": "write_pipe",
    "os.open": "os_open_fifo",
    "io.FileIO.__init__": "open_fifo_to_read",
    "io.FileIO.read": "read_raw_file",
    "io.FileIO.readall": "readall_raw_file",
    "io.FileIO.readinto": "read_buffered_file",
    "io.FileIO.write": "write_raw_file",
    "io.BufferedReader.__next__": "iterate_buffered_file",
    "fcntl.fcntl": "fcntl_lock",
    "os.lockf": "os_lockf",
    "os.eventfd_read": "eventfd_read",
    "os.eventfd_write": "eventfd_write",
    "multiprocessing.connection.Connection._recv_bytes": "receive_message",
    "multiprocessing.connection.Connection._send_bytes": "send_message",
    "multiprocessing.SemLock.acquire": "multiprocessing_semaphore",
    "multiprocessing.SemLock.__enter__": "multiprocessing_lock",
    "subprocess.Popen._wait": "popen_wait",
    "input": "input",
    **{f"fcntl.{name}": name for name in ("flock", "lockf")},
    **{f"os.{name}": name for name in ("sendfile", "splice", "system", "wait", "wait3", "wait4", "waitid", "waitpid")},
    **{f"os.{name}": name for name in ("readv", "preadv", "writev", "pwritev")},
    **{f"signal.{name}": name for name in ("pause", "sigtimedwait", "sigwait", "sigwaitinfo")},
    **{
        f"socket.{name}": name
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo")
    },
    **{
        f"socket.socket.{name}": name
        for name in (
            "recv",
            "recv_into",
            "recvfrom",
            "recvfrom_into",
            "recvmsg",
            "recvmsg_into",
            "send",
            "sendall",
            "sendmsg",
            "sendto",
        )
    },
}

_ENDS = "ends the waits of others, and never waits itself"
_IDENTITY = "says who a thread is, or is handed a thread: no wait"
_DISK = "waits for the disk alone: on a worker, for as long as the disk takes, which no test can choose"
_STARTS = [
    "multiprocessing.process.BaseProcess.start",
    "multiprocessing.managers.BaseManager.start",
    "multiprocessing.shared_memory.SharedMemory.__init__",
    *(f"multiprocessing.resource_tracker.ResourceTracker.{name}" for name in ("_send", "ensure_running")),
]
_ENDINGS = (
    *(
        f"{name}.close"
        for name in ("io.TextIOWrapper", "gzip.GzipFile", "bz2.BZ2File", "lzma.LZMAFile", "zipfile.ZipFile")
    ),
    *(f"{name}.close" for name in ("zipfile._ZipWriteFile", "tarfile.TarFile", "tarfile._Stream")),
    *("tempfile.TemporaryDirectory.cleanup", "weakref.finalize.__call__", "multiprocessing.util.Finalize.__call__"),
    "sys.__unraisablehook__",
)
_DRIVER = "a driver's, which need not be installed: tests/patch/test_drivers.py"

# Leaf, and why no test makes it wait.
NEVER = {
    **dict.fromkeys([f"_thread.lock.{name}" for name in ("release", "release_lock", "__exit__")], _ENDS),
    **dict.fromkeys([f"_thread.RLock.{name}" for name in ("release", "__exit__", "_release_save")], _ENDS),
    **dict.fromkeys([f"multiprocessing.SemLock.{name}" for name in ("release", "__exit__")], _ENDS),
    **dict.fromkeys([f"queue.SimpleQueue.{name}" for name in ("put", "put_nowait")], _ENDS),
    **dict.fromkeys([f"ssl.SSLSocket.{name}" for name in ("settimeout", "setblocking")], "waits for an attempt alone"),
    "os.sched_yield": "lets others run, and waits for nothing",
    "socket.socket.close": _ENDS,
    **dict.fromkeys(["os.close", "os.closerange", "socket.close", "io.FileIO.close", "select.epoll.close"], _ENDS),
    "os.dup2": "waits for a worker that uses the number, and for nothing else: tests/patch/test_workers.py",
    "mmap.mmap.flush": _DISK,
    "threading.Thread._delete": _ENDS,
    **dict.fromkeys([f"_thread.RLock.{name}" for name in ("_is_owned", "_recursion_count")], _IDENTITY),
    "multiprocessing.SemLock._is_mine": _IDENTITY,
    "_thread.get_ident": _IDENTITY,
    "signal.pthread_kill": _IDENTITY,
    "time.pthread_getcpuclockid": _IDENTITY,
    "threading._DummyThread.__init__": _IDENTITY,
    "asyncio running loop": _IDENTITY,
    "asyncio.futures._copy_future_state": "asks for an outcome that is there: tests/groups/test_futures.py",
    "_pydecimal.getcontext": "no wait",
    "decimal.getcontext": "no wait",
    "types.BuiltinFunctionType.__hash__": "no wait",
    "multiprocessing.managers.BaseProxy._callmethod": "sends and receives, by leaves of their own: test_managers.py",
    "importlib._bootstrap._find_and_load": "what the module waits for: test_imports.py",
    **dict.fromkeys(_ENDINGS, "what they end waits in leaves of its own: test_endings.py"),
    "_thread.RLock._acquire_restore": "the end of Condition.wait, which nothing interrupts: the caller counts on the lock",
    "threading.Thread.start": "no cancel point: waits for the thread's first step alone",
    "subprocess.Popen._execute_child": "no cancel point: waits until the program is loaded",
    "multiprocessing.process.BaseProcess._bootstrap": "all of a child process: not in this one",
    **dict.fromkeys(_STARTS, "what they do waits in leaves of its own: test_processes.py, test_managers.py"),
    "socket.socket.sendmsg_afalg": "the kernel's own ciphers, which have no peer that could make it wait",
    **dict.fromkeys([f"os.{name}" for name in ("sync", "fsync", "fdatasync", "ftruncate", "posix_fallocate")], _DISK),
    **dict.fromkeys([f"os.{name}" for name in ("pread", "pwrite", "copy_file_range")], _DISK),
    "io.FileIO.truncate": _DISK,
    "io.BufferedRandom.__next__": "of a file that can seek, and so has no other side that could make it wait",
    **dict.fromkeys(["psycopg.waiting.wait", "psycopg2 wait callback", "psycopg2.connect"], _DRIVER),
    **dict.fromkeys(
        [
            "psycopg2.connection.cursor",
            "psycopg2.connection.commit",
            "psycopg2.connection.rollback",
            "psycopg2.cursor.execute",
            "psycopg2.cursor.executemany",
            "psycopg2.cursor.callproc",
            "psycopg.connection._INTERRUPTED",
        ],
        _DRIVER,
    ),
    "psycopg_pool.pool.CLIENT_EXCEPTIONS": _DRIVER,
}


# ---- threads ----


def _holding(name, make, block):
    def case(group):
        lock = make()
        is_over = _held(group, lock)
        yield Sitting(lambda: block(lock), is_over.set)

    PATIENT.add(name)
    case.__name__ = name
    return leaf(case)


def _take(acquire):
    def block(lock):
        acquire(lock)
        lock.release()

    return block


_holding("lock_acquire", threading.Lock, _take(lambda lock: lock.acquire()))
_holding("lock_acquire_lock", threading.Lock, _take(lambda lock: lock.acquire_lock()))
_holding("rlock_acquire", threading.RLock, _take(lambda lock: lock.acquire()))
_holding("multiprocessing_lock", multiprocessing.get_context("fork").Lock, _take(lambda lock: lock.__enter__()))


@leaf
def condition_wait_for(group):
    condition, news = threading.Condition(), []

    def block():
        with condition:
            condition.wait_for(lambda: news)

    def release():
        with condition:
            news.append(1)
            condition.notify_all()

    yield Sitting(block, release)


@leaf
def semaphore_enter(group):
    semaphore = threading.Semaphore(0)

    def block():
        with semaphore:
            pass

    yield Sitting(block, semaphore.release)


@leaf
def barrier(group):
    barrier = threading.Barrier(2)

    def block():
        if barrier.broken:  # by who was interrupted in it
            barrier.reset()
        barrier.wait()

    yield Sitting(block, barrier.wait)


@leaf
def queue_join(group):
    numbers = queue.Queue()
    numbers.put(1)
    yield Sitting(numbers.join, numbers.task_done)


# ---- sockets, pipes and files ----


@leaf
def sendto(group):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        far.bind("")
        fill(near)
        yield Sitting(lambda: near.sendto(b"x", far.getsockname()), lambda: drain(far, until=lambda: True))


@leaf
def connect_ex(group):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind("")
        listener.listen(0)
        other.connect(listener.getsockname())  # and the backlog is full
        with socket.socket(socket.AF_UNIX) as near:

            def block():
                assert near.connect_ex(listener.getsockname()) == 0

            yield Sitting(block, lambda: listener.accept()[0].close())


@leaf
def sendfile(group):
    near, far = socket.socketpair()
    with near, far, TemporaryFile() as file:
        file.write(b"x")
        file.flush()
        fill(near)
        yield Sitting(lambda: os.sendfile(near.fileno(), file.fileno(), 0, 1), lambda: drain(far, until=lambda: True))


@contextmanager
def _pipe():
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def _scattering(name, *at):
    def case(group):
        with _pipe() as (reader, writer):
            yield Sitting(lambda: getattr(os, name)(reader, [bytearray(10)], *at), lambda: os.write(writer, b"x"))

    case.__name__ = name
    return leaf(case)


_scattering("readv")
_scattering("preadv", -1)  # at the file's position: of a pipe there is no other


if hasattr(os, "readinto"):  # from 3.14 on
    WAITS["os.readinto"] = "readinto"

    @leaf
    def readinto(group):
        with _pipe() as (reader, writer):
            yield Sitting(lambda: os.readinto(reader, bytearray(10)), lambda: os.write(writer, b"x"))


def _gathering(name, *at):
    def case(group):
        with _pipe() as (reader, writer):
            fill_pipe(writer)
            yield Sitting(lambda: getattr(os, name)(writer, [b"x"], *at), lambda: os.read(reader, 1 << 16))

    case.__name__ = name
    return leaf(case)


_gathering("writev")
_gathering("pwritev", -1)


@leaf
def os_open_fifo(group):
    with _fifo() as path:
        others = []

        def release():
            others.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

        try:
            yield Sitting(lambda: os.close(os.open(path, os.O_RDONLY)), release)
        finally:
            for fd in others:
                os.close(fd)


def _wanting_a_locked_file(block):
    set_now, write = 37, fcntl.F_WRLCK  # F_OFD_SETLK: such a lock is in the way even of its own process
    unlock = fcntl.F_UNLCK

    def change(file, kind):
        fcntl.fcntl(file, set_now, struct.pack("hhqqixxxx", kind, 0, 0, 0, 0))

    with TemporaryFile() as holder, open(f"/proc/self/fd/{holder.fileno()}", "r+b") as file:
        change(holder, write)
        yield Sitting(lambda: block(file), lambda: change(holder, unlock))


@leaf
def lockf(group):
    yield from _wanting_a_locked_file(lambda file: fcntl.lockf(file, fcntl.LOCK_EX))


@leaf
def os_lockf(group):
    yield from _wanting_a_locked_file(lambda file: os.lockf(file.fileno(), os.F_LOCK, 0))


@leaf
def input(group):  # noqa: A001 - its name
    usual = sys.stdin
    with _pipe_file("r") as (file, far):
        sys.stdin = file
        try:
            yield Sitting(builtins.input, lambda: os.write(far, b"x\n"))
        finally:
            sys.stdin = usual


# ---- Buffered files: a method waits for its turn while another one waits in the raw file ----


class _Slow(io.RawIOBase):
    """A raw file in which the first who enters waits until the event is set."""

    def __init__(self):
        self.is_entered, self.is_over = threading.Event(), threading.Event()

    def readable(self):
        return True

    def writable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=0):
        return 0

    def truncate(self, size=None):
        return 0

    def readinto(self, buffer):
        self._wait()
        buffer[:1] = b"\n"
        return 1

    def write(self, data):
        self._wait()
        return len(data)

    def _wait(self):
        if not self.is_entered.is_set():
            self.is_entered.set()
            self.is_over.wait(PATIENCE)


_ARGUMENTS = {
    "read": (1,),
    "read1": (1,),
    "readinto": (bytearray(1),),
    "readinto1": (bytearray(1),),
    "write": (b"x",),
    "seek": (0,),
}
_READS = ("read", "read1", "readinto", "readinto1", "readline", "peek")
_WRITES = ("write", "flush")
_BOTH = ("seek", "truncate", "detach", "close")


def _taking_turns(cls, method):
    def case(group):
        raw = _Slow()
        file = cls(raw)

        def hold():
            if cls is io.BufferedReader:
                file.read(1)
            else:
                file.write(b"x")
                file.flush()

        group.spawn(hold)
        raw.is_entered.wait()

        def block():
            with suppress(ValueError, io.UnsupportedOperation):  # truncate of a reader, or after a detach
                getattr(file, method)(*_ARGUMENTS.get(method, ()))

        try:
            yield Sitting(block, raw.is_over.set)
        finally:
            raw.is_over.set()

    case.__name__ = f"turn_at_{cls.__name__}_{method}"
    PATIENT.add(case.__name__)
    WAITS[f"io.{cls.__name__}.{method}"] = case.__name__
    return leaf(case)


for _cls, _methods in {
    io.BufferedReader: (*_READS, *_BOTH),
    io.BufferedWriter: (*_WRITES, *_BOTH),
    io.BufferedRandom: (*_READS, *_WRITES, *_BOTH),
}.items():
    for _method in _methods:
        _taking_turns(_cls, _method)


# ---- processes and signals ----


def _until_it_comes(wait):
    """Wait for any child until it is the one."""

    def block(process):
        while wait()[0] != process.pid:
            pass

    return block


_waiting_for_a_child("wait", _until_it_comes(os.wait))
_waiting_for_a_child("wait3", _until_it_comes(lambda: os.wait3(0)))


@leaf
def system(group):
    reader, writer = os.pipe()
    with open(writer, "wb") as end, open(reader, "rb"):
        yield Sitting(lambda: os.system(f"cat /proc/{os.getpid()}/fd/{reader}"), end.close)  # noqa: S605 - a test


@leaf
def subprocess_run(group):
    with _pipe() as (reader, writer):
        yield Sitting(
            lambda: subprocess.run(["head", "-c1"], stdin=reader, stdout=subprocess.DEVNULL, check=True),
            lambda: os.write(writer, b"x"),
        )


@leaf
def process_join(group):
    with _pipe() as (reader, writer):
        process = multiprocessing.get_context("fork").Process(target=os.read, args=(reader, 1), daemon=True)
        process.start()
        try:
            with _to_the_end(process.join) as join:
                yield Sitting(join, lambda: os.write(writer, b"x"))
        finally:
            process.kill()
            with shield(timeout=PATIENCE):
                process.join()
            process.close()


@leaf
def sigwaitinfo(group):
    yield Sitting(lambda: signal.sigwaitinfo({signal.SIGRTMIN + 3}), None)


@leaf
def sigtimedwait(group):
    yield Sitting(lambda: signal.sigtimedwait({signal.SIGRTMIN + 3}, 3600), None)
