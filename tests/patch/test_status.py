"""What is patched, how often it has parked, and that uninstalling leaves every leaf the very same object."""

import ctypes
import os
import queue
import socket
import threading
import time
import types

import pytest
from patch.helpers import PlatformCall, child, on_virtual, run_python, wait_parked, wait_until

import plait
from plait import ThreadGroup, _native
from plait.patch import _registry

_HEAD = object.__basicsize__
_WORD = ctypes.sizeof(ctypes.c_void_p)


def _entry(target):
    """Where the method table entry behind a builtin function or a method descriptor is."""
    offset = _HEAD + (3 * _WORD if isinstance(target, types.MethodDescriptorType) else 0)
    return ctypes.c_void_p.from_address(id(target) + offset).value


def _function(target):
    """The C function in that entry: PyMethodDef is the name, then `ml_meth`."""
    return ctypes.c_void_p.from_address(_entry(target) + _WORD).value


def _lead(descriptor):
    """By what function a method descriptor is called: `vectorcall`, behind the entry."""
    return ctypes.c_void_p.from_address(id(descriptor) + _HEAD + 4 * _WORD).value


def _called_by(function):
    """The C function by which a function of Python is called: the last but one of its fields."""
    return ctypes.c_void_p.from_address(id(function) + types.FunctionType.__basicsize__ - 2 * _WORD).value


def _picture():
    """Every leaf as anybody finds it: the object, where it is found, and the C function behind it."""
    found = {}
    for patches in _registry._patches.values():
        for patch in patches:
            if hasattr(patch, "_arrival"):  # of a module that comes later, or never
                patch = patch._leaf()
            if isinstance(patch, _registry.Leaf):
                target = patch.target
                if isinstance(target, types.MethodDescriptorType):
                    owner, name = target.__objclass__, target.__name__
                    assert owner.__dict__[name] is target
                    found[patch.name] = (
                        *(id(owner), name, id(owner.__dict__[name])),
                        *(_entry(target), _function(target), _lead(target)),
                    )
                else:
                    found[patch.name] = (id(target), _entry(target), _function(target))
            elif isinstance(patch, _registry.ClassPatch):
                for function in patch._functions:
                    found[patch.name] = (id(function), type(function), _called_by(function))
                for owner in patch._places:
                    name = patch.name.rpartition(".")[2]
                    found[patch.name] = (id(owner), id(owner.__dict__.get(name)))
    assert len(found) > 50
    return found


def test_uninstall_leaves_the_identical_objects():
    """Twenty times over, while threads use the leaves: each object, dictionary entry and C function is what it was."""
    is_over = []

    def use(lock):
        event, numbers = threading.Event(), queue.Queue()
        near, far = socket.socketpair()
        event.set()
        with near, far:
            while not is_over:
                with lock:
                    numbers.put(1)
                numbers.get()
                event.wait()
                near.send(b"x")
                assert far.recv(1) == b"x"
                time.sleep(0)

    calls = [PlatformCall(use, threading.RLock()) for _ in range(2)]
    with ThreadGroup() as group:
        for _ in range(2):
            group.spawn(use, threading.Lock())
        try:
            plait.patch.uninstall()
            before = _picture()
            plait.patch.install()
            patched = _picture()
            for _ in range(20):
                plait.patch.uninstall()
                assert _picture() == before
                plait.patch.install()
                assert _picture() == patched
        finally:
            plait.patch.install()
            is_over.append(True)
    for call in calls:
        call.result()
    same = {name for name in before if before[name] == patched[name]}
    assert not same


def test_status_of_a_leaf():
    """A leaf's record says by which file it is patched; it is true while it is."""
    leaf = plait.patch.status()["time.sleep"]
    assert leaf
    assert leaf.is_patched is True
    assert leaf.name == "time.sleep"
    assert leaf.file == "plait/patch/_time.py"
    assert str(leaf) == f"time.sleep: patched by plait/patch/_time.py, has parked {leaf.parks} times"
    plait.patch.uninstall()
    try:
        bare = plait.patch.status()["time.sleep"]
        assert not bare
        assert bare != leaf
        assert bare.parks == leaf.parks
        assert str(bare).startswith("time.sleep: not patched by ")
    finally:
        plait.patch.install()
    assert plait.patch.status()["time.sleep"] == leaf


def test_status_as_a_table():
    """Printed, there is a line for each leaf under a line of titles."""
    status = plait.patch.status()
    titles, *rows = str(status).splitlines()
    assert titles.split() == ["leaf", "patched", "parked", "by"]
    assert len(rows) == len(status)
    for row, leaf in zip(rows, status.values(), strict=True):
        assert row.startswith(leaf.name)
        assert row.endswith(leaf.file)
    assert str(plait.patch.PatchStatus()) == "nothing is patched, and nothing has been"


def _parks(name):
    return plait.patch.status()[name].parks


def test_parks_are_counted_exactly():
    """Each sleep of many threads on all carriers is one park; a sleep that does not wait is none."""
    before = _parks("time.sleep")

    def nap():
        for _ in range(20):
            time.sleep(0.0001)
            time.sleep(0)

    with ThreadGroup() as group:
        for _ in range(50):
            group.spawn(nap)
    assert _parks("time.sleep") - before == 50 * 20


@pytest.mark.parametrize("name", ["socket.socket.recv", "threading.Condition.wait", "_thread.RLock.acquire"])
def test_parks_of_a_leaf(name):
    """A call that waits is counted, one that need not wait is not, and neither is one on a platform thread."""
    near, far = socket.socketpair()
    condition, lock = threading.Condition(), threading.RLock()

    def wait():
        if name == "socket.socket.recv":
            assert near.recv(1) == b"x"
        elif name == "threading.Condition.wait":
            with condition:
                assert condition.wait()
        else:
            assert lock.acquire()
            lock.release()

    def let_go():
        far.send(b"x")
        with condition:
            condition.notify_all()

    with near, far:
        before = _parks(name)
        with ThreadGroup() as group:
            with lock:
                waiting = group.spawn(wait)
                wait_parked(waiting)
            let_go()
        assert _parks(name) == before + 1
        if name == "threading.Condition.wait":
            return
        far.send(b"x")
        on_virtual(wait)
        far.send(b"x")
        wait()
        assert _parks(name) == before + 1
        call = PlatformCall(wait)
        far.send(b"x")
        call.result()
        assert _parks(name) == before + 1


def test_park_of_an_open_that_waits(tmp_path):
    """An `open()` of a FIFO counts while it waits for the other side; that of any other file does not."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    before = _parks("io.FileIO.__init__")
    on_virtual(lambda: open(os.devnull, "rb").close())
    assert _parks("io.FileIO.__init__") == before
    with ThreadGroup() as group:
        opening = group.spawn(lambda: open(path, "rb").close())
        wait_parked(opening)
        opening.cancel()
        wait_until(opening.done)
    assert _parks("io.FileIO.__init__") > before


@pytest.mark.parametrize("timeout", [None, 3600])
def test_park_of_a_wait_for_a_process(timeout):
    """`Popen.wait` counts, and so does what calls it, if the process goes on."""
    before = _parks("subprocess.Popen._wait")
    with child() as process, ThreadGroup() as group:
        waiting = group.spawn(process.wait, timeout)
        wait_parked(waiting)
        process.stdin.close()
        wait_until(waiting.done)
        assert _parks("subprocess.Popen._wait") == before + 1
        on_virtual(process.wait)
    assert _parks("subprocess.Popen._wait") == before + 1


def test_park_of_a_platform_thread_in_a_scope():
    """There a park is a park, too."""
    before = _parks("time.sleep")
    with plait.timeout(60):
        time.sleep(0.001)
    assert _parks("time.sleep") == before + 1


def test_park_that_is_cancelled():
    """A park that ends with a cancel has been one."""
    before = _parks("time.sleep")
    with ThreadGroup() as group:
        sleeper = group.spawn(time.sleep, 3600)
        wait_parked(sleeper)
        sleeper.cancel()
        wait_until(sleeper.done)
    assert _parks("time.sleep") >= before + 1


def test_what_is_no_leaf_has_no_parks():
    """An unknown number is an error."""
    for number in (-1, 10**6):
        with pytest.raises(IndexError, match="no such leaf"):
            _native.parks(number)


class _Broken:
    """A patch that cannot be put in place."""

    name, is_in_place, parks = "broken", False, None

    def put(self):
        raise RuntimeError("somebody else was here")

    def take(self):
        """Nothing."""


class _Family:
    """Leaves that cannot all be put in place."""

    @staticmethod
    def leaves():
        return [_Broken()]


def test_install_is_all_or_nothing():
    """If a leaf cannot be put in place, those before it are taken back."""
    plait.patch.uninstall()
    try:
        with pytest.raises(RuntimeError, match="somebody else was here"):
            _registry.put_all((*plait.patch._families, _Family))
        assert not any(plait.patch.status().values())
    finally:
        plait.patch.install()
    assert all(plait.patch.status().values())
    assert _Family.__name__ not in _registry._patches


def test_a_table_entry_that_others_have_changed():
    """Nothing is installed over it, and the error names it; what others put over ours stays theirs."""
    code = """
        import ctypes, time, plait
        plait.patch.install()
        plait.patch.uninstall()
        word = ctypes.sizeof(ctypes.c_void_p)
        entry = ctypes.c_void_p.from_address(id(time.sleep) + object.__basicsize__).value
        function = ctypes.c_void_p.from_address(entry + word)
        original = function.value
        function.value = original + 1
        try:
            plait.patch.install()
        except RuntimeError as error:
            print(error)
        print(any(plait.patch.status().values()))
        function.value = original
        plait.patch.install()
        print(all(plait.patch.status().values()))
    """
    said = "somebody else has changed the method table entry of <built-in function sleep>"
    assert run_python(code).splitlines() == [said, "False", "True"]


def test_without_the_patch_a_blocking_call_blocks_its_carrier():
    """With PLAIT_PATCH=0 a sleep on a virtual thread keeps all others of its carrier waiting; plait's own waits park."""
    code = """
        import time
        from plait import Channel, ThreadGroup, patch
        order = []
        with ThreadGroup() as group:
            channel = Channel(1)
            group.spawn(lambda: (order.append("waits"), channel.recv(), order.append("got it")))
            group.spawn(lambda: (order.append("sleeps"), time.sleep(0.05), order.append("slept"), channel.send(1)))
            group.spawn(lambda: order.append("other"))
        print(order.index("waits") < order.index("sleeps") < order.index("slept") < order.index("other"))
        print(any(patch.status().values()))
    """
    out = run_python(code, PLAIT_PATCH="0", PLAIT_CARRIERS="1")
    assert out.splitlines() == ["True", "False"]
