"""install, uninstall, status, and the native table under them."""

import _queue
import _socket
import _thread
import importlib
import os
import queue
import select
import socket
import sys
import threading
import time

import pytest
from patch.helpers import PlatformCall, is_parked, on_virtual, run_python, wait_parked, wait_until

import plait
from plait import ThreadGroup, _native
from plait._core import current_thread

TARGETS = {
    "time.sleep": time.sleep,
    "_thread.lock.acquire": _thread.LockType.__dict__["acquire"],
    "_thread.RLock.acquire": _thread.RLock.__dict__["acquire"],
    "_thread.get_ident": _thread.get_ident,
    "queue.SimpleQueue.get": _queue.SimpleQueue.__dict__["get"],
    "socket.socket.recv": _socket.socket.__dict__["recv"],
    "socket.getaddrinfo": _socket.getaddrinfo,
    "select.select": select.select,
    "select.epoll.poll": select.epoll.__dict__["poll"],
    "os.read": os.read,
}


@pytest.fixture
def uninstalled():
    """The leaves as CPython made them, for the length of a test."""
    plait.patch.uninstall()
    yield
    plait.patch.install()


def _found():
    return {
        "time.sleep": time.sleep,
        "_thread.lock.acquire": _thread.LockType.__dict__["acquire"],
        "_thread.RLock.acquire": _thread.RLock.__dict__["acquire"],
        "_thread.get_ident": _thread.get_ident,
        "queue.SimpleQueue.get": _queue.SimpleQueue.__dict__["get"],
        "socket.socket.recv": _socket.socket.__dict__["recv"],
        "socket.getaddrinfo": _socket.getaddrinfo,
        "select.select": select.select,
        "select.epoll.poll": select.epoll.__dict__["poll"],
        "os.read": os.read,
    }


def test_objects_stay_the_same():
    """Installing and uninstalling changes no Python object: the functions and descriptors are the very same."""
    assert all(_found()[name] is target for name, target in TARGETS.items())
    plait.patch.uninstall()
    assert all(_found()[name] is target for name, target in TARGETS.items())
    plait.patch.install()
    assert all(_found()[name] is target for name, target in TARGETS.items())
    assert set(TARGETS) <= set(plait.patch.status())


def test_status():
    """`status` says of each leaf whether it is cooperative."""
    assert all(plait.patch.status().values())
    plait.patch.uninstall()
    assert plait.patch.status()
    assert not any(plait.patch.status().values())
    plait.patch.uninstall()  # harmless
    plait.patch.install()
    plait.patch.install()  # harmless
    assert all(plait.patch.status().values())


def test_uninstalled_leaves_work(uninstalled):
    """Without the patch platform threads find everything as it was."""
    near, far = socket.socketpair()
    with near, far:
        call = PlatformCall(near.recv, 5)
        time.sleep(0)
        far.send(b"hello")
        assert call.result() == b"hello"
    lock = threading.RLock()
    with lock, lock:
        assert lock._is_owned()
        assert not PlatformCall(lock.acquire, False).result()
    assert threading.get_ident() == threading.main_thread().ident
    assert PlatformCall(threading.current_thread).result().name.startswith("Thread-")


def test_uninstalled_leaves_block_their_carrier(uninstalled):
    """Without the patch a sleep on a virtual thread is the original's: nothing parks."""
    waits = []

    def body():
        me = plait._core.current_thread()
        time.sleep(0.001)
        waits.append(me._is_listed)

    on_virtual(body)
    assert waits == [False]


def test_many_cycles_of_install_and_uninstall():
    """Hundreds of cycles, while threads use the leaves, leave everything at work."""
    is_over = []

    def use():
        lock = threading.Lock()
        numbers = _queue.SimpleQueue()
        while not is_over:
            with lock:
                numbers.put(1)
            numbers.get()
            time.sleep(0)

    calls = [PlatformCall(use) for _ in range(2)]
    try:
        for _ in range(200):
            plait.patch.uninstall()
            plait.patch.install()
    finally:
        is_over.append(True)
    for call in calls:
        call.result()
    assert all(plait.patch.status().values())
    assert on_virtual(lambda: time.sleep(0.001)) is None


def test_original_is_the_original():
    """`original` gives a callable of the same kind and name, which waits for real."""
    call = _native.original(time.sleep)
    assert type(call) is type(time.sleep)
    assert call is not time.sleep
    assert call.__name__ == "sleep"
    assert call.__doc__ == time.sleep.__doc__
    method = _native.original(_thread.LockType.acquire)
    lock = threading.Lock()
    assert method(lock) is True
    assert method(lock, False) is False
    with pytest.raises(TypeError):
        method(5)


def test_original_of_a_function_of_python():
    """It is another function of the same code, which stays one when the function is diverted; `undivert` takes that back."""

    def add(one, two=2, *, three=3):
        return one + two + three + four

    four = 4
    plain = _native.original(add)
    _native.divert(add, lambda *args: args, None)
    try:
        assert add(1) == (1,)
        assert plain(1) == plain(1, three=3) == 10
        assert (plain.__name__, plain.__qualname__, plain.__code__) == (add.__name__, add.__qualname__, add.__code__)
        _native.divert(add, lambda *args: args, plain)
        assert add(1) == 10
        assert on_virtual(add, 1) == (1,)
    finally:
        _native.undivert(add)
    assert add(1) == on_virtual(add, 1) == 10
    _native.undivert(plain)
    assert plain(1) == 10


@pytest.mark.parametrize("target", [len, time.sleep, str.upper])
def test_install_twice(target):
    """A leaf can be installed once at a time."""
    was_installed = target is time.sleep
    number = None if was_installed else _native.install(target, target, None, None, 0)
    try:
        with pytest.raises(RuntimeError, match="is installed already"):
            _native.install(target, target, None, None, 0)
    finally:
        if number is not None:
            assert _native.uninstall(number) is True
            assert _native.uninstall(number) is False
    assert len("abc") == 3
    assert "abc".upper() == "ABC"


@pytest.mark.parametrize("target", [test_status, 5, None, dict, object()])
def test_install_of_something_else(target):
    """Only functions and methods written in C can be leaves in C; and of other things than functions there is no original."""
    with pytest.raises(TypeError, match="builtin function or a method descriptor"):
        _native.install(target, None, None, None, 0)
    if target is not test_status:
        with pytest.raises(TypeError, match="builtin function or a method descriptor"):
            _native.original(target)


def test_key_that_is_no_member():
    """The key of a leaf in the parking lot is a member of its objects."""
    with pytest.raises(TypeError, match="the key of a leaf is a member"):
        _native.install(str.split, None, print, "handle", 0)


@pytest.mark.parametrize("number", [-1, 10**6])
def test_uninstall_of_what_is_not_there(number):
    """An unknown number is an error."""
    with pytest.raises(IndexError, match="no such leaf"):
        _native.uninstall(number)


def test_replacement_sees_the_arguments():
    """A replacement gets self and all arguments, and its result and its exceptions are the call's."""
    seen = []

    def replacement(*args, **kwargs):
        seen.append((args, kwargs))
        if "raise" in args:
            raise ValueError("from the replacement")
        return "replaced"

    number = _native.install(str.split, replacement, None, None, 0)
    try:
        assert "a b".split() == ["a", "b"]  # on a platform thread

        def body():
            with pytest.raises(ValueError, match="from the replacement"):
                "a".split("raise")
            return "a b".split(), "a b".split(" ", maxsplit=1), str.split("x")

        assert on_virtual(body) == ("replaced",) * 3
    finally:
        _native.uninstall(number)
    assert seen == [(("a", "raise"), {}), (("a b",), {}), (("a b", " "), {"maxsplit": 1}), (("x",), {})]
    assert on_virtual("a b".split) == ["a", "b"]


def test_nothing_happens_by_import_alone():
    """`import plait` patches nothing and starts nothing; the first spawn does; PLAIT_PATCH=0 forbids it."""
    code = """
        import threading, sys, time
        count = threading.active_count()
        import plait
        print(dict(plait.patch.status()), threading.active_count() - count, "asyncio" in sys.modules, "ssl" in sys.modules)
        with plait.ThreadGroup() as group:
            group.spawn(time.sleep, 0.001)
        print(any(plait.patch.status().values()))
    """
    assert run_python(code) == "{} 0 False False\nTrue\n"
    assert run_python(code, PLAIT_PATCH="0") == "{} 0 False False\nFalse\n"


def test_uninstall_before_asyncio_is_imported():
    """What is imported after `uninstall` is left alone."""
    code = """
        import plait
        plait.patch.install()
        plait.patch.uninstall()
        import asyncio
        print(any(plait.patch.status().values()))
        plait.patch.install()
        print(all(plait.patch.status().values()), "asyncio running loop" in plait.patch.status())
    """
    assert run_python(code) == "False\nTrue True\n"


def test_uninstall_while_threads_are_parked():
    """Threads that are parked in a leaf come out of it when what they wait for happens."""
    near, far = socket.socketpair()
    event = threading.Event()
    with near, far, ThreadGroup() as group:
        futures = [group.spawn(near.recv, 1), group.spawn(event.wait), group.spawn(time.sleep, 0.01)]

        wait_parked(*futures[:2])
        plait.patch.uninstall()
        try:
            far.send(b"x")
            assert futures[0].result(5) == b"x"
        finally:
            plait.patch.install()
        event.set()
    assert futures[1].result() is True


def test_hashes_of_builtins():
    """They are what they were, so that keys are found again: functions, and methods that are bound to an object."""
    code = """
        import os, select, threading, time
        lock = threading.Lock()
        keys = [time.sleep, os.read, select.select, lock.release, len, [].append, os.open]
        hashes, asked = list(map(hash, keys)), type(len).__hash__
        import plait
        for _ in range(2):
            plait.patch.install()
            assert list(map(hash, keys)) == hashes == list(map(asked, keys))
            assert lock.release == lock.release and hash(lock.release) == hashes[3] and os.open in os.supports_dir_fd
            plait.patch.uninstall()
            assert list(map(hash, keys)) == hashes == list(map(asked, keys))
        print(asked is type(len).__hash__)
    """
    assert run_python(code) == "True\n"


def _held(lock):
    lock.acquire()
    return lock


UNTOLD = {
    "lock": lambda: (_held(threading.Lock()), lambda lock: lock.acquire(), lambda lock: lock.release()),
    "lock with a timeout": lambda: (
        _held(threading.Lock()),
        lambda lock: lock.acquire(timeout=20),
        lambda lock: lock.release(),
    ),
    "RLock": lambda: (_held(threading.RLock()), lambda lock: lock.acquire(), lambda lock: lock.release()),
    "SimpleQueue": lambda: (queue.SimpleQueue(), lambda box: box.get(), lambda box: box.put(True)),
}


@pytest.mark.parametrize("where", ["virtual", "platform"])
@pytest.mark.parametrize("name", UNTOLD)
def test_uninstall_while_others_wait_for_what_is_freed_afterwards(name, where):
    """Nobody tells them any more: they find out by themselves."""
    thing, wait, free = UNTOLD[name]()
    box, parked = [], []

    def body():
        with ThreadGroup():
            parked.append(current_thread())
            box.append(wait(thing))

    with ThreadGroup() as group:
        call = group.spawn(body) if where == "virtual" else PlatformCall(body)
        wait_until(lambda: parked and is_parked(parked[0]))
        plait.patch.uninstall()
        try:
            free(thing)
            wait_until(lambda: box)
        finally:
            plait.patch.install()
        call.result()
    assert box == [True]


def test_limit_of_a_wait_that_goes_on_after_uninstall():
    """It is kept, though the wait looks again and again meanwhile."""
    lock = _held(threading.Lock())
    with ThreadGroup() as group:
        future = group.spawn(lock.acquire, timeout=0.2)
        wait_parked(future)
        plait.patch.uninstall()
        try:
            wait_until(future.done)
        finally:
            plait.patch.install()
    assert future.result() is False


class Secretive(socket.socket):
    """A socket that does not tell what it is asked."""

    def fileno(self):
        raise AssertionError("asked")

    gettimeout = fileno


def test_words_of_a_socket():
    """Descriptor and timeout are what the socket says; here they are read from it without asking."""
    with socket.socket(socket.AF_UNIX) as sock, Secretive(fileno=os.dup(sock.fileno())) as secretive:
        for timeout in (None, 0, 1e-9, 0.25, 1.5, 1e9):
            sock.settimeout(timeout)
            secretive.settimeout(timeout)
            assert _native.socket_fd(sock) == sock.fileno()
            assert _native.socket_timeout(sock) == pytest.approx(sock.gettimeout())
            assert _native.socket_timeout(secretive) == _native.socket_timeout(sock)
        assert _native.socket_fd(secretive) > sock.fileno()
    assert _native.socket_fd(sock) == -1


def test_what_is_no_socket_is_asked():
    """Anything else with these methods is asked."""

    class Other:
        def fileno(self):
            return 7

        def gettimeout(self):
            return 2.5

    assert _native.socket_fd(Other()) == 7
    assert _native.socket_timeout(Other()) == 2.5
    with pytest.raises(AttributeError):
        _native.socket_fd(object())
    with pytest.raises(AttributeError):
        _native.socket_timeout(object())


def test_other_interpreters_see_the_originals():
    """What runs in another interpreter is none of ours, on the kernel thread of a virtual one either."""
    run_python("""
        import queue, sys, threading, warnings, plait
        try:
            import _interpreters
        except ImportError:
            import _xxsubinterpreters as _interpreters
        run = getattr(_interpreters, "exec", None) or _interpreters.run_string
        config = {"isolated": False} if sys.version_info < (3, 12) else {}  # no threads otherwise
        code = '''if True:
            import os, select, threading, time
            lock = threading.RLock()
            def body():
                with lock:
                    time.sleep(0.001)
            thread = threading.Thread(target=body)
            with lock:
                thread.start()
                time.sleep(0.001)
            thread.join()
            reader, writer = os.pipe()
            os.write(writer, b"x")
            assert select.select([reader], [], [], 1)[0] == [reader]
            assert os.read(reader, 1) == b"x"
            os.close(reader)
            os.close(writer)
        '''

        def body():
            number = _interpreters.create(**config)
            try:
                assert not run(number, code)
            finally:
                _interpreters.destroy(number)

        waiting = plait.spawn(queue.SimpleQueue().get)  # somebody is parked in the lot
        while not waiting.waits_for:
            pass
        with plait.ThreadGroup() as group:
            group.spawn(body)
        body()
        waiting.cancel()
    """)


def test_another_import_of_a_module_sees_the_originals():
    """A second `_queue` has a SimpleQueue of its own over the same method table: it works, though it blocks."""
    kept = sys.modules.pop("_queue")
    try:
        again = importlib.import_module("_queue")
    finally:
        sys.modules["_queue"] = kept
    assert again.SimpleQueue is not _queue.SimpleQueue
    numbers = again.SimpleQueue()
    numbers.put(1)
    assert on_virtual(numbers.get) == 1
    with pytest.raises(again.Empty):
        on_virtual(numbers.get, timeout=0.001)
    with pytest.raises(TypeError):
        on_virtual(_queue.SimpleQueue.get, numbers)


def test_condition_that_goes_on_after_uninstall():
    """Who waits for a Condition over an RLock has it again by the name that it is known by then, and gives it back."""
    condition = threading.Condition()

    def wait():
        with condition:
            return condition.wait()

    with ThreadGroup() as group:
        future = group.spawn(wait)
        wait_parked(future)
        plait.patch.uninstall()
        try:
            with condition:
                condition.notify_all()
            wait_until(future.done)
            assert condition.acquire(blocking=False)
            condition.release()
        finally:
            plait.patch.install()
    assert future.result() is True
