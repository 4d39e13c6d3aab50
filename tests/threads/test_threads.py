"""plait.Thread: a `threading.Thread` in all that can be seen, on a virtual thread."""

import contextvars
import gc
import os
import sys
import threading
import time

import pytest
from patch.helpers import run_python, wait_parked, wait_until
from support import run_anywhere

import plait
from plait import Thread, ThreadGroup, _native
from plait._core import VirtualThread
from plait._default import default_group

EVERYWHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def _kernel_threads():
    return len(os.listdir("/proc/self/task"))


@EVERYWHERE
def test_life_of_a_thread(where):
    """Before, during and after its run a thread says of itself what a `threading.Thread` says."""
    gate, seen = threading.Event(), []

    def run(*args, **kwargs):
        seen.extend([args, kwargs, threading.current_thread(), threading.get_ident(), _native.current()])
        gate.wait()

    def body():
        thread = Thread(target=run, name="worker", args=(1,), kwargs={"key": 2})
        assert repr(thread) == "<Thread(worker, initial)>"
        assert not thread.is_alive()
        assert thread.ident is None
        thread.start()
        assert thread.is_alive()
        assert thread.ident % 2 == 1
        assert repr(thread) == f"<Thread(worker, started {thread.ident})>"
        assert thread in threading.enumerate()
        wait_until(lambda: len(seen) == 5)
        assert thread.native_id in map(int, os.listdir("/proc/self/task"))
        thread.join(0.001)
        assert thread.is_alive()
        thread.join(-1)
        gate.set()
        thread.join()
        thread.join()
        assert not thread.is_alive()
        assert thread not in threading.enumerate()
        assert repr(thread) == f"<Thread(worker, stopped {thread.ident})>"
        return thread

    thread = run_anywhere(where, body)
    assert seen[:4] == [(1,), {"key": 2}, thread, thread.ident]
    assert isinstance(seen[4], VirtualThread)
    assert seen[4].name == "worker"


@EVERYWHERE
def test_misuse(where):
    """Misuse is refused in the words of `threading`."""

    def body():
        thread = Thread(target=lambda: None)
        with pytest.raises(RuntimeError, match="cannot join thread before it is started"):
            thread.join()
        thread.start()
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="threads can only be started once"):
            thread.start()

        class Careless(Thread):
            def __init__(self):
                pass

        with pytest.raises(RuntimeError, match=r"thread.__init__\(\) not called"):
            Careless().start()
        with pytest.raises(RuntimeError, match=r"Thread.__init__\(\) not called"):
            Careless().join()

        said = []

        def join_oneself():
            with pytest.raises(RuntimeError, match="cannot join current thread"):
                threading.current_thread().join()
            said.append(True)

        oneself = Thread(target=join_oneself)
        oneself.start()
        oneself.join()
        assert said

    run_anywhere(where, body)


def test_subclass_with_a_run_of_its_own():
    """`run` of a subclass is what runs; thread-locals are the thread's own."""
    local = threading.local()
    local.value = "outside"

    class Worker(Thread):
        result = None

        def run(self):
            assert not hasattr(local, "value")
            local.value = self.name
            time.sleep(0.001)
            self.result = local.value

    workers = [Worker(name=f"worker {n}") for n in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.result for worker in workers] == [worker.name for worker in workers]
    assert local.value == "outside"


def test_many_threads_need_no_more_kernel_threads():
    """A thousand of them at a time are at work on the carriers."""
    gate = threading.Event()
    threads = [Thread(target=gate.wait) for _ in range(1000)]
    before = _kernel_threads()
    for thread in threads:
        thread.start()
    wait_until(lambda: all(thread.native_id is not None for thread in threads))
    assert _kernel_threads() <= before  # an idle worker of the tests before may have ended
    assert len({thread.ident for thread in threads}) == 1000
    assert threading.active_count() >= 1000
    gate.set()
    for thread in threads:
        thread.join()


def test_failure_goes_to_the_hook(monkeypatch):
    """What a thread raises goes to `threading.excepthook`, with the thread; nothing else hears of it."""
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fail():
        raise KeyError("boom")

    thread = Thread(target=fail)
    thread.start()
    thread.join()
    (args,) = told
    assert (args.exc_type, args.thread) == (KeyError, thread)
    quiet = Thread(target=sys.exit)
    quiet.start()
    quiet.join()
    assert not quiet.is_alive()
    told.clear()
    gc.collect()


def test_belongs_to_no_group():
    """A thread outlives the group that it is started in, and that group's cancel; it spawns into the default group."""
    gate, groups = threading.Event(), []

    def run():
        groups.append(ThreadGroup.current)
        gate.wait()
        groups.append(plait.spawn(int).group)

    with ThreadGroup() as group:
        thread = group.spawn(lambda: (made := Thread(target=run), made.start())[0]).result()
        group.cancel()
    wait_until(lambda: len(groups) == 1)
    assert thread.is_alive()
    assert not thread.daemon
    gate.set()
    thread.join()
    assert groups == [default_group(), default_group()]


def test_context_is_the_one_that_any_thread_starts_with():
    """A new thread's context variables are those of a new `threading.Thread`."""
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("here")
    seen = []
    for cls in (threading.Thread, Thread):
        thread = cls(target=lambda: seen.append(variable.get()))
        thread.start()
        thread.join()
    assert seen[0] == seen[1]


def test_failure_of_a_sibling_interrupts_join():
    """Who joins is interrupted at once when its group fails; the thread goes on."""
    gate = threading.Event()
    thread = Thread(target=gate.wait)
    thread.start()
    failed_at = []

    def fail(joiner):
        wait_parked(joiner)
        failed_at.append(time.monotonic())
        raise KeyError

    with pytest.raises(ExceptionGroup):
        with ThreadGroup() as group:
            joiner = group.spawn(thread.join)
            group.spawn(fail, joiner)
    assert time.monotonic() - failed_at[0] < 1
    assert joiner.cancelled()
    assert thread.is_alive()
    gate.set()
    thread.join()


def test_join_is_a_cancel_point_even_when_it_need_not_wait():
    """It looks at the scopes of its thread on entry."""
    thread = Thread(target=int)
    thread.start()
    thread.join()
    went_on = []
    with plait.move_on_after(0) as scope:
        thread.join()
        went_on.append(True)
    assert scope.cancelled_caught
    assert not went_on


def test_start_is_no_cancel_point():
    """A cancelled thread may still start others, to clean up."""
    ran = []
    with plait.move_on_after(0):
        thread = Thread(target=lambda: ran.append(True))
        thread.start()
    thread.join()
    assert ran


def test_a_thread_started_on_a_virtual_thread_is_no_daemon():
    """What a virtual thread of a group starts is waited for at the end of the process, of either kind."""
    with ThreadGroup() as group:
        daemons = group.spawn(
            lambda: (threading.current_thread().daemon, threading.Thread().daemon, Thread().daemon)
        ).result()
    assert daemons == (False, False, False)


def test_exit_waits_for_threads_but_not_for_daemons():
    """The process ends when the last thread that is no daemon does, those that were started meanwhile included."""
    code = """
        import threading, time
        from plait import Thread
        def child():
            time.sleep(0.02)
            print("child")
        def parent():
            time.sleep(0.02)
            Thread(target=child).start()
            print("parent")
        def daemon():
            try:
                time.sleep(3600)
            finally:
                print("never")
        Thread(target=daemon, daemon=True).start()
        Thread(target=parent).start()
        print("main")
    """
    assert run_python(code) == "main\nparent\nchild\n"


def test_no_thread_starts_once_the_process_has_waited():
    """A thread that the process does not wait for is refused then, in the words of `threading`."""
    code = """
        import threading
        from plait import Thread
        def late():
            threading.main_thread().join()
            try:
                Thread(target=int).start()
            except RuntimeError as error:
                print(error)
        Thread(target=int).start()
        threading.Thread(target=late).start()
    """
    assert run_python(code) == "can't create new thread at interpreter shutdown\n"


def test_exit_handlers_start_threads():
    """Handlers of `atexit` start and join threads, whether they were registered before or after the first one."""
    code = """
        import atexit
        from plait import Thread
        def late(when):
            for is_daemon in (False, True):
                thread = Thread(target=print, args=(when, is_daemon), daemon=is_daemon)
                thread.start()
                thread.join()
        atexit.register(late, "before")
        Thread(target=int).start()
        atexit.register(late, "after")
    """
    assert run_python(code) == "after False\nafter True\nbefore False\nbefore True\n"


def test_daemons_run_on_while_exit_handlers_run():
    """Handlers of `atexit` get their answers from daemons, and locks that these have for a moment."""
    code = """
        import atexit, queue, threading, time
        jobs, lock = queue.Queue(), threading.Lock()
        def stop():
            jobs.put("last job")
            jobs.join()
        def save():
            with lock:
                print("saved")
        atexit.register(stop)
        atexit.register(save)
        from plait import Thread
        def serve():
            while True:
                print(jobs.get())
                jobs.task_done()
        def hold(is_held):
            while True:
                with lock:
                    is_held.set()
                    time.sleep(0.005)
                time.sleep(0.001)
        is_held = threading.Event()
        Thread(target=serve, daemon=True).start()
        Thread(target=hold, args=(is_held,), daemon=True).start()
        is_held.wait()
    """
    assert run_python(code) == "saved\nlast job\n"


def test_logging_of_a_daemon_at_exit():
    """`logging.shutdown` gets the lock of a handler in which a daemon waits."""
    code = """
        import logging, threading, time
        from plait import Thread
        is_at_work = threading.Event()
        class Slow(logging.Handler):
            def emit(self, record):
                is_at_work.set()
                time.sleep(0.005)
        log = logging.getLogger()
        log.addHandler(Slow())
        def work():
            while True:
                log.warning("tick")
        Thread(target=work, daemon=True).start()
        is_at_work.wait()
        print("main is over")
    """
    assert run_python(code) == "main is over\n"


def test_fork_of_a_thread():
    """In the child of a fork the others are not alive; the one that has forked is the main thread."""
    code = """
        import os, threading
        from plait import Thread
        gate = threading.Event()
        other = Thread(target=gate.wait)
        other.start()
        def fork():
            pid = os.fork()
            if not pid:
                other.join()
                me = threading.current_thread()
                os.write(1, f"{other.is_alive()} {me is forker} {me is threading.main_thread()} {me.is_alive()} "
                            f"{threading.active_count()}\\n".encode())
                os._exit(0)
            os.waitpid(pid, 0)
        forker = Thread(target=fork)
        forker.start()
        forker.join()
        pid = os.fork()
        if not pid:
            other.join()
            mine = Thread(target=os.write, args=(1, b"child\\n"))
            mine.start()
            mine.join()
            os._exit(mine.is_alive())
        assert os.waitpid(pid, 0)[1] == 0
        gate.set()
    """
    assert run_python(code, PYTHONWARNINGS="ignore::DeprecationWarning") == "False True True True 1\nchild\n"


def test_started_while_a_module_is_imported(tmp_path):
    """A module that starts a thread, which imports another, does not deadlock; one that joins it there does neither."""
    (tmp_path / "starts_a_thread.py").write_text(
        "import plait\nfound = []\n"
        "def work():\n    import also_imported\n    found.append(also_imported.value)\n"
        "thread = plait.Thread(target=work)\nthread.start()\nthread.join()\n"
    )
    (tmp_path / "also_imported.py").write_text("import time\ntime.sleep(0.01)\nvalue = 5\n")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import starts_a_thread
        print(starts_a_thread.found)
    """
    assert run_python(code) == "[5]\n"


def test_without_the_patch():
    """A thread cannot run without an identity of its own, and says so."""
    code = """
        import sys, threading
        from plait import Thread
        threading.excepthook = print
        thread = Thread(target=print, args=("never",), name="worker")
        def look(future):
            print(type(future.exception()).__name__, str(future.exception()).partition(":")[0])
        import plait
        plait.excepthook = lambda thread, error: sys.stdout.write(str(error).partition(": ")[2] + "\\n")
        thread.start()
        thread.join()
        sys.stdout.write(f"{thread.is_alive()}\\n")
    """
    said = (
        "the leaves of the standard library are not patched (PLAIT_PATCH=0, or plait.patch.uninstall()), so it has no "
        "identity of its own"
    )
    # The thread is over for `join` before its failure is reported.
    assert sorted(run_python(code, PLAIT_PATCH="0").splitlines()) == sorted([said, "False"])
