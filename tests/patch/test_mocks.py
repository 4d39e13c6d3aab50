"""What others put in the place of a leaf keeps its effect, and the leaf beneath is patched, whenever it was put there."""

import os
import time
from unittest import mock

import pytest
from patch.helpers import run_python

from plait import _native

_FUNCTIONS = (
    "time.sleep",
    "os.read",
    "os.write",
    "os.open",
    "os.close",
    "os.system",
    "os.waitpid",
    "select.select",
    "socket.getaddrinfo",
    "fcntl.flock",
    "builtins.input",
)
_METHODS = (
    "threading.Event.wait",
    "threading.Condition.wait",
    "threading.Semaphore.acquire",
    "threading.Thread.start",
    "threading.Thread._delete",
    "queue.Queue.get",
    "subprocess.Popen._wait",
    "weakref.finalize.__call__",
)
_USE = """
def use():
    begin = time.perf_counter()
    time.sleep(0.01)
    event, numbers, waiting = threading.Event(), queue.Queue(), threading.Event()
    def serve():
        waiting.set()
        numbers.put(event.wait(10))
    thread = threading.Thread(target=serve)
    thread.start()
    waiting.wait()
    event.set()
    thread.join()
    output = subprocess.run(["echo", "x"], capture_output=True).stdout
    return time.perf_counter() - begin >= 0.01, numbers.get(), output
def unpatched():
    return [name for name, leaf in plait.patch.status().items() if not leaf]
def on_virtual(fn):
    with plait.ThreadGroup() as group:
        return group.spawn(fn).result()
"""
_HEAD = f"""
import os, queue, subprocess, sys, threading, time
from contextlib import ExitStack
from unittest import mock
{_USE}
"""


@pytest.mark.parametrize("is_imported", [True, False], ids=["imported before", "imported under them"])
@pytest.mark.parametrize("names", [_FUNCTIONS, ("subprocess.Popen",), ("os.fsync",)])
def test_mocks_of_builtins_at_the_first_group(names, is_imported):
    """All leaves are in place after it, and while they are there they are called."""
    code = f"""{_HEAD}
if {is_imported}:
    import plait
with ExitStack() as stack:
    mocks = {{name: stack.enter_context(mock.patch(name)) for name in {names!r}}}
    import plait
    mocks[{names[0]!r}].return_value = "mocked"
    module, _, name = {names[0]!r}.rpartition(".")
    print(on_virtual(lambda: getattr(sys.modules[module], name)(5)), getattr(sys.modules[module], name)(5))
"""
    if names == ("subprocess.Popen",) and not is_imported:
        code += "print(unpatched())\nplait.patch.install()\n"
    code += "print(unpatched(), on_virtual(use), use())\n"
    used = (True, True, b"x\n")
    expected = ["mocked mocked", f"[] {used} {used}"]
    if names == ("subprocess.Popen",) and not is_imported:
        expected.insert(1, "['subprocess.Popen._execute_child', 'subprocess.Popen._wait']")
    assert run_python(code).splitlines() == expected


@pytest.mark.parametrize("when", ["at the first group", "before", "imported under them"])
def test_mocks_of_methods(when):
    """They are called, on every thread. When they are gone the leaves are there; if plait has not seen them, once installed."""
    code = f"""{_HEAD}
when = {when!r}
if when != "imported under them":
    import plait
if when == "before":
    plait.patch.install()
with ExitStack() as stack:
    mocks = {{name: stack.enter_context(mock.patch(name)) for name in {_METHODS!r}}}
    import plait
    on_virtual(int)
    called = threading.Thread(target=print, args=("started",)).start, threading.Event().wait, queue.Queue().get
    for call in called:
        call()
    on_virtual(lambda: [call() for call in called])
    print([mock.call_count for name, mock in mocks.items() if name in
        ("threading.Thread.start", "threading.Event.wait", "queue.Queue.get")])
missing = unpatched()
plait.patch.install()
print(sorted(missing), unpatched(), on_virtual(use), use())
"""
    used = (True, True, b"x\n")
    missing = sorted(_METHODS) if when == "imported under them" else []
    assert run_python(code).splitlines() == ["[2, 2, 2]", f"{missing} [] {used} {used}"]


@pytest.mark.parametrize("is_first", [True, False], ids=["before the import", "after the import"])
@pytest.mark.parametrize("says", [True, False], ids=["with a way back", "without"])
def test_wrappers_of_methods(is_first, says):
    """A wrapper is called on every thread, and the leaf beneath parks; when it is gone the leaf is as before."""
    code = f"""{_HEAD}
from functools import wraps
if not {is_first}:
    import plait
seen = []
def wrapped(call):
    def wrapper(*args, **kwargs):
        seen.append(threading.current_thread().name)
        return call(*args, **kwargs)
    return wraps(call)(wrapper) if {says} else wrapper
plain = threading.Event.wait
threading.Event.wait = wrapped(plain)
import plait
with plait.ThreadGroup() as group:
    event = threading.Event()
    waiting = group.spawn(event.wait, 10)
    while not waiting.is_waiting():
        time.sleep(0.001)
    event.set()
event.wait()
print(waiting.result(), len(seen), plait.patch.status()["threading.Event.wait"])
threading.Event.wait = plain
plait.patch.install()
print(unpatched())
plait.patch.uninstall()
print(threading.Event.wait is plain)
"""
    is_seen = says or not is_first
    state = "patched by plait/patch/_conditions.py, has parked 1 times"
    if not is_seen:
        state = "not patched by plait/patch/_conditions.py, has parked 0 times"
    assert run_python(code).splitlines() == [f"True 2 threading.Event.wait: {state}", "[]", "True"]


def test_names_that_were_taken_before_are_leaves():
    """A method is a leaf under whatever name it was kept before plait was there, and as it was when it is taken back."""
    code = f"""{_HEAD}
class Custom:
    take = queue.Queue.get
    def __getattr__(self, name):
        return getattr(numbers, name)
numbers, get = queue.Queue(), queue.Queue.get
import plait
with plait.ThreadGroup() as group:
    takers = [group.spawn(get, numbers), group.spawn(Custom().take)]
    while not all(taker.is_waiting() for taker in takers):
        time.sleep(0.001)
    numbers.put(1)
    numbers.put(1)
plait.patch.uninstall()
print([taker.result() for taker in takers], get is queue.Queue.get, type(get).__name__)
"""
    assert run_python(code, PLAIT_CARRIERS="1").splitlines() == ["[1, 1] True function"]


@pytest.mark.parametrize("is_first", [True, False], ids=["before the import", "after the import"])
def test_gevent_in_one_process(is_first):
    """Its replacements of modules' functions are in nobody's way: groups run, and what plait finds of CPython's is patched."""
    pytest.importorskip("gevent")
    code = f"""
if not {is_first}:
    import plait
from gevent import monkey
monkey.patch_all()
import plait
with plait.ThreadGroup() as group:
    print(group.spawn(int).result())
print(plait.patch.status()["time.sleep"].is_patched)
"""
    assert run_python(code).splitlines() == ["0", "True"]


def test_builtin_behind_a_mock():
    """It is the very function where that stands under its name; else another one over the same entry of the table."""
    sleep = time.sleep
    assert _native.builtin(time, "sleep") is sleep
    with mock.patch("time.sleep"):
        found = _native.builtin(time, "sleep")
    assert type(found) is type(sleep)
    assert (found.__name__, found.__module__, found.__self__) == ("sleep", "time", time)
    assert found.__doc__ == sleep.__doc__


def test_builtin_that_is_not_there():
    """What a module does not bring is looked up in it as any other attribute."""
    assert _native.builtin(os, "read") is os.read
    with pytest.raises(AttributeError, match="has no attribute 'slumber'"):
        _native.builtin(time, "slumber")
