"""Who a virtual thread is: its identity, its record in `threading`, import locks."""

import _thread
import signal
import sys
import threading
import time

import pytest
from patch.helpers import PlatformCall, on_virtual, run_python, wait_parked

from plait import ThreadGroup, _originals
from plait._core import runtime


def test_identities_are_distinct_and_odd():
    """Each virtual thread has an identity of its own, which no kernel thread can have."""
    go = threading.Event()

    def body():
        before = threading.get_ident()
        go.wait()
        assert threading.get_ident() == before == _thread.get_ident() == threading.current_thread().ident
        return before

    with ThreadGroup() as group:
        futures = [group.spawn(body) for _ in range(100)]
        wait_parked(*futures)
        go.set()
    idents = {future.result() for future in futures}
    assert len(idents) == 100
    assert all(ident & 1 for ident in idents)
    assert threading.get_ident() not in idents


def test_platform_threads_keep_theirs():
    """Outside virtual threads nothing changes, inside a group neither."""
    mine = _originals.get_ident()
    with ThreadGroup() as group:
        assert threading.get_ident() == mine
        assert group.spawn(PlatformCall, threading.get_ident).result().result() not in {mine, None}
    assert threading.current_thread() is threading.main_thread()


def test_current_thread_has_the_name_and_goes():
    """`current_thread()` is one record with the virtual thread's name, listed until the thread ends."""
    listed = set(threading._active)
    is_over = threading.Event()

    def body():
        record = threading.current_thread()
        assert record is threading.current_thread()
        assert record in threading.enumerate()
        is_over.wait()
        return record.name, record.ident

    with ThreadGroup() as group:
        futures = [group.spawn(body) for _ in range(10)]
        wait_parked(*futures)
        assert len(set(threading._active) - listed) == 10
        is_over.set()
    names = {future.result()[0] for future in futures}
    assert names == {future.name for future in futures}
    assert len(names) == 10
    assert set(threading._active) == listed


def test_record_goes_when_the_thread_fails_or_is_cancelled():
    """However a virtual thread ends, its record goes."""
    listed = set(threading._active)

    def body():
        threading.current_thread()
        threading.Event().wait()

    def fail():
        threading.current_thread()
        raise ValueError

    with ThreadGroup() as group:
        wait_parked(group.spawn(body))
        group.cancel()
    with pytest.raises(ExceptionGroup), ThreadGroup() as group:
        group.spawn(fail)
    assert set(threading._active) == listed


def test_identity_is_not_the_carriers():
    """Two threads in turn on one stack differ; `get_native_id` is the carrier's, as it is a matter of the kernel."""
    idents = set()

    def body():
        idents.add(threading.get_ident())
        return threading.get_native_id()

    with ThreadGroup() as group:
        keep = [group.spawn(body) for _ in range(20)]
    assert len(idents) == 20
    assert len({future.result() for future in keep}) <= len(runtime.carriers)


def test_get_ident_taken_before_install():
    """`get_ident` by whatever name it was imported, and cached bound calls, follow."""
    code = """
        import threading, _thread
        from threading import get_ident, current_thread
        mine = get_ident()
        import plait
        with plait.ThreadGroup() as group:
            futures = [group.spawn(lambda: (get_ident(), _thread.get_ident(), current_thread().ident)) for _ in "ab"]
        a, b = (set(future.result()) for future in futures)
        print(len(a), len(b), a != b, mine in a | b, get_ident() == mine)
    """
    assert run_python(code) == "1 1 True False True\n"


def test_two_threads_import_one_slow_module(tmp_path):
    """The second of two virtual threads that import the same module waits for the first, and gets it whole."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.05)\nvalue = 42\n")
    sys.path.insert(0, str(tmp_path))

    def body():
        import slow_module

        return slow_module.value

    try:
        with ThreadGroup() as group:
            futures = [group.spawn(body) for _ in range(5)]
            call = PlatformCall(body)
        assert [future.result() for future in futures] == [42] * 5
        assert call.result() == 42
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("slow_module", None)


def test_two_threads_import_each_others_modules(tmp_path):
    """A circle of imports that two virtual threads enter from both ends ends as with platform threads."""
    for one, other in (("circle_a", "circle_b"), ("circle_b", "circle_a")):
        (tmp_path / f"{one}.py").write_text(f"import time\ntime.sleep(0.02)\nimport {other}\nvalue = 1\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with ThreadGroup() as group:
            for name in ("circle_a", "circle_b"):
                group.spawn(__import__, name)
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("circle_a", "circle_b"):
            assert sys.modules.pop(name).value == 1


def test_main_thread_is_no_virtual_thread():
    """A virtual thread never takes itself for the main thread."""
    assert on_virtual(lambda: threading.current_thread() is threading.main_thread()) is False


def test_threads_started_inside_are_no_daemons():
    """A platform thread that a virtual one makes is as one that the main thread makes: joined at the end of the process."""
    assert on_virtual(lambda: threading.Thread().daemon) is False
    assert on_virtual(lambda: threading.Thread(daemon=True).daemon) is True


def test_the_kernel_is_told_of_the_carrier():
    """Functions that take an identity to the kernel reach the carrier, from any thread, as long as the thread lives."""
    is_over = threading.Event()

    def body():
        ident = threading.get_ident()
        signal.pthread_kill(ident, 0)
        assert time.pthread_getcpuclockid(ident) == time.pthread_getcpuclockid(_originals.get_ident())
        record.append(ident)
        is_over.wait()

    record = []
    with ThreadGroup() as group:
        future = group.spawn(body)
        wait_parked(future)
        signal.pthread_kill(record[0], 0)
        with pytest.raises(TypeError):
            signal.pthread_kill(record[0])
        is_over.set()
    for call in (lambda ident: signal.pthread_kill(ident, 0), time.pthread_getcpuclockid):
        with pytest.raises(ProcessLookupError):
            call(record[0])


def test_a_forked_child_knows_only_itself():
    """The kernel is told of the one thread that there is; the others of the parent are no threads there."""
    run_python("""
        import os, signal, threading, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)  # fork with several threads
        is_over, idents = threading.Event(), []

        def other():
            idents.append(threading.get_ident())
            is_over.wait()

        def fork():
            me = threading.current_thread().ident  # a record, for the child
            pid = os.fork()
            if pid:
                return pid
            status = 1
            try:
                signal.pthread_kill(me, 0)
                signal.pthread_kill(idents[0], 0)
            except ProcessLookupError:
                status = 7
            finally:
                os._exit(status)

        with plait.ThreadGroup() as group:
            future = group.spawn(other)
            while not future.waits_for:
                pass
            pid = group.spawn(fork).result()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            is_over.set()
    """)
