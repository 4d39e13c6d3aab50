"""`os.wait*`, `os.system` and `subprocess` on virtual threads."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from patch.helpers import child, described, is_parked, on_virtual, run_python, wait_parked, wait_until

import plait
from plait import ThreadGroup, move_on_after, offload, offload_statistics
from plait._core import WaitReason

WAITS = {
    "waitpid": lambda pid: os.waitpid(pid, 0)[1],
    "waitpid of a group": lambda pid: os.waitpid(-pid, 0)[1],
    "waitpid stopped": lambda pid: os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)[1],
    "wait4": lambda pid: os.wait4(pid, 0)[1],
    "waitid": lambda pid: tuple(os.waitid(os.P_PID, pid, os.WEXITED)[1:]),
    "waitid of a group": lambda pid: tuple(os.waitid(os.P_PGID, pid, os.WEXITED)[1:]),
    "waitid twice": lambda pid: (
        tuple(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)[1:]),
        tuple(os.waitid(os.P_PID, pid, os.WEXITED)[1:]),
    ),
}


def _start(code):
    return os.posix_spawn("/bin/sh", ["sh", "-c", code], os.environ, setpgroup=0)


def _forget(popen):
    """Somebody else has taken its status."""
    popen.returncode = 0


# ---- os.wait* ----


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("code", ["exit 3", "kill -9 $$"])
def test_status_is_that_of_a_platform_thread(name, code):
    """What a wait says of a child that has ended, and of one that ends later, is the same on every thread."""

    def run(delay):
        return WAITS[name](_start(f"sleep {delay}; {code}"))

    expected = run(0)
    assert on_virtual(run, 0) == expected
    assert on_virtual(run, 0.05) == expected


def test_any_child_even_one_started_later():
    """A wait for any child hears of a child that another thread starts meanwhile."""
    code = """
        import os, subprocess, threading, time, plait
        def spawn(code):
            return os.spawnv(os.P_NOWAIT, "/bin/sh", ["sh", "-c", code])
        waits = {
            "wait": lambda: os.wait(), "wait3": lambda: os.wait3(0)[:2], "wait4": lambda: os.wait4(-1, 0)[:2],
            "waitpid": lambda: os.waitpid(-1, 0), "own group": lambda: os.waitpid(0, 0),
            "waitid": lambda: (lambda found: (found.si_pid, found.si_status << 8))(os.waitid(os.P_ALL, 0, os.WEXITED)),
        }
        for name, wait in waits.items():
            first = spawn("exec sleep 60")
            with plait.ThreadGroup() as group:
                waiters = [group.spawn(wait) for _ in range(2)]
                while not all(waiter.waits_for and waiter.is_waiting() for waiter in waiters):
                    time.sleep(0.001)
                second = spawn("exit 5")
                plait.as_completed(waiters).__next__()
                os.kill(first, 9)
            found = {waiter.result() for waiter in waiters}
            assert (second, 5 << 8) in found and {pid for pid, _ in found} == {first, second}, (name, found)
            try:
                with plait.ThreadGroup() as group:
                    group.spawn(wait)
            except* ChildProcessError:
                print(name)
    """
    assert run_python(code).split("\n")[:-1] == ["wait", "wait3", "wait4", "waitpid", "own group", "waitid"]


def test_cancelled_waits_take_nothing():
    """Waits that are cancelled, of one child or of any of a group, leave its status to who asks next."""
    with child() as process, ThreadGroup() as group:
        waiters = [group.spawn(os.waitpid, pid, 0) for pid in (process.pid, -process.pid) * 5]
        wait_parked(*waiters)
        for waiter in waiters:
            waiter.cancel()
        wait_until(lambda: all(waiter.done() for waiter in waiters))
        process.kill()
        assert group.spawn(os.waitpid, process.pid, 0).result() == (process.pid, signal.SIGKILL)
        _forget(process)


def test_end_that_meets_a_cancel():
    """A child that ends as its waiter is cancelled: either the waiter has its status, or it is there for the next."""
    outcomes = set()
    for number in range(40):
        with child() as process, ThreadGroup() as group:
            got = []
            waiter = group.spawn(lambda pid: got.append(os.waitpid(pid, 0)), process.pid)
            wait_parked(waiter)
            ends = [process.kill, waiter.cancel]
            for end in ends if number % 2 else reversed(ends):
                end()
            wait_until(waiter.done)
            if not got:
                got.append(os.waitpid(process.pid, 0))
            outcomes.add(waiter.cancelled())
            _forget(process)
            assert got == [(process.pid, signal.SIGKILL)]
    assert outcomes


def test_waits_that_do_not_wait():
    """WNOHANG is no cancel point, and does not park."""

    def ask(process):
        with move_on_after(0):
            running = os.waitpid(process.pid, os.WNOHANG), os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG)
            process.kill()
            while not (status := os.wait4(process.pid, os.WNOHANG)[1]):
                pass
            return running, status
        raise AssertionError

    with child() as process:
        assert on_virtual(ask, process) == (((0, 0), None), signal.SIGKILL)
        _forget(process)


def test_child_that_nobody_can_take():
    """Where ended children are dropped at once, a wait says so when the child has ended, and `subprocess` takes it for 0."""
    former = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with ThreadGroup() as group:
            pids = [_start("exec sleep 60") for _ in range(2)]
            process = subprocess.Popen(["sleep", "60"])
            waits = [(os.waitpid, pids[0], 0), (os.waitpid, pids[1], os.WUNTRACED), (process.wait,), (process.wait, 60)]
            waiters = [group.spawn(described, *wait) for wait in waits]
            wait_parked(*waiters)
            for pid in (*pids, process.pid):
                os.kill(pid, signal.SIGKILL)
    finally:
        signal.signal(signal.SIGCHLD, former)
    gone = ("raised", "ChildProcessError", "[Errno 10] No child processes")
    assert [waiter.result() for waiter in waiters] == [gone, gone, ("returned", 0), ("returned", 0)]


def test_refusals():
    """What the kernel or CPython refuses is refused in the same words."""
    nobody = 2**22 + 5  # more than there can be
    calls = [
        lambda: os.waitpid(nobody, 0),
        lambda: os.waitpid("x", 0),
        lambda: os.waitpid(1 << 40, 0),
        lambda: os.waitpid(nobody, 1 << 20),
        lambda: os.wait4(nobody, 0),
        lambda: os.wait4(pid=nobody, options=0),
        lambda: os.wait3(1 << 20),
        lambda: os.waitid(os.P_PID, nobody, os.WEXITED),
        lambda: os.waitid(99, 1, os.WEXITED),
        lambda: os.waitid(os.P_PID, os.getpid(), 0),
        lambda: os.waitid(os.P_PIDFD, 10**6, os.WEXITED),
        lambda: os.system(5),
        lambda: os.system("a\0b"),
    ]
    for call in calls:
        assert on_virtual(described, call) == described(call)


def test_descriptor_in_non_blocking_mode():
    """A pidfd that shall not wait does not."""
    with child() as process:
        fd = os.pidfd_open(process.pid, os.O_NONBLOCK)
        try:
            with pytest.raises(BlockingIOError):
                on_virtual(os.waitid, os.P_PIDFD, fd, os.WEXITED)
        finally:
            os.close(fd)


@pytest.mark.parametrize("options", [os.WEXITED, os.WEXITED | os.WSTOPPED], ids=["ends", "stops"])
def test_descriptor_that_is_closed_meanwhile(options):
    """A wait for a pidfd goes on when the caller's descriptor is closed, as in the kernel."""
    with child() as process, ThreadGroup() as group:
        fd = os.pidfd_open(process.pid)
        waiter = group.spawn(os.waitid, os.P_PIDFD, fd, options)
        wait_parked(waiter)
        os.close(fd)
        process.kill()
        assert waiter.result().si_pid == process.pid
        _forget(process)


def test_without_descriptors_for_processes(monkeypatch):
    """Where no pidfd is to be had, kernel threads wait: one for all who wait for the same."""

    def refuse(pid):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with child() as process, child() as other, ThreadGroup() as group:
        monkeypatch.setattr(os, "pidfd_open", refuse)
        waiters = [group.spawn(os.waitpid, process.pid, 0), group.spawn(other.wait), group.spawn(other.wait)]
        late = group.spawn(described, other.wait, 0.05)
        assert late.result()[1] == "TimeoutExpired"
        wait_parked(*waiters)
        process.kill()
        other.kill()
        assert [waiter.result() for waiter in waiters] == [(process.pid, 9), -9, -9]
        _forget(process)


def test_system_and_spawn_and_popen():
    """What is made of these waits works: `os.system`, `os.spawnv`, `os.popen`, `pty.spawn`."""
    assert on_virtual(os.system, "exit 3") == 3 << 8
    assert on_virtual(os.spawnv, os.P_WAIT, "/bin/sh", ["sh", "-c", "exit 4"]) == 4

    def read_and_close():
        pipe = os.popen("echo hello; exit 5")
        return pipe.read(), pipe.close()

    assert on_virtual(read_and_close) == ("hello\n", 5 << 8)
    code = """
        import pty, plait
        with plait.ThreadGroup() as group:
            status = group.spawn(pty.spawn, ["sh", "-c", "exit 6"])
        print(status.result())
    """
    assert run_python(code) == f"{6 << 8}\n"


def test_many_commands_leave_the_pool_alone():
    """More `os.system` than there are workers run at the same time, and the pool is there for others."""
    reader, writer = os.pipe()
    command = f"cat < /dev/fd/{reader}; exit 3"
    os.set_inheritable(reader, True)
    try:
        with ThreadGroup() as group:
            commands = [group.spawn(os.system, command) for _ in range(140)]
            wait_parked(*commands)
            wait_until(lambda: offload_statistics().queued == 0)
            assert group.spawn(offload, int, "7").result() == 7
            assert offload_statistics().workers - offload_statistics().idle <= 4
            commands[0].cancel()
            wait_until(commands[0].done)
            wait_until(lambda: offload_statistics().queued == 0)
            assert offload_statistics().abandoned == 1
            os.close(writer)
            writer = -1
        assert {command.result() for command in commands[1:]} == {3 << 8}
        wait_until(lambda: offload_statistics().abandoned == 0)
    finally:  # or the commands would go on, and the process be deaf to Ctrl-C
        os.close(reader)
        if writer >= 0:
            os.close(writer)


# ---- subprocess ----


def test_timeout_of_wait_is_exact():
    """`wait(timeout)` ends in time, and hears of the end at once: it does not look every now and then."""

    def wait(process):
        started = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            process.wait(0.06)
        assert str(caught.value) == "Command '['cat']' timed out after 0.06 seconds"
        return time.monotonic() - started

    with child() as process, ThreadGroup() as group:
        assert group.spawn(wait, process).result() >= 0.06
        waiter = group.spawn(process.wait, 60)
        wait_until(lambda: is_parked(waiter) and waiter.waits_for is WaitReason.PROCESS)
        process.kill()
        assert waiter.result() == -9


def test_many_wait_for_one_process():
    """Threads of both kinds wait for one Popen, some with a limit; one is cancelled at once, the others get the status."""
    with child() as process, ThreadGroup() as group:
        outcome = []
        platform = threading.Thread(target=lambda: outcome.append(process.wait()))
        platform.start()
        wait_until(process._waitpid_lock.locked)
        waiters = [group.spawn(process.wait, timeout) for timeout in (None, None, 60, None, 60)]
        wait_parked(*waiters)
        waiters[1].cancel()
        wait_until(waiters[1].done)  # though the platform thread holds the lock
        assert waiters[1].cancelled()
        assert group.spawn(process.poll).result() is None
        process.kill()
        platform.join()
        assert {waiter.result() for waiter in waiters if waiter is not waiters[1]} == {-9}
        assert outcome == [-9]


def test_run_that_is_cancelled_leaves_no_process():
    """The failure of a sibling kills what `subprocess.run` runs, and takes its status, within the grace."""
    pids = []

    def run():
        def note():  # in the child
            os.write(writer, b"%d\n" % os.getpid())

        subprocess.run(["sleep", "60"], capture_output=True, check=False, preexec_fn=note)

    def fail(runner):
        pids.append(int(os.read(reader, 100)))
        wait_parked(runner)
        raise OSError

    reader, writer = os.pipe()
    try:
        started = time.monotonic()
        with pytest.raises(ExceptionGroup):
            with ThreadGroup() as group:
                runner = group.spawn(run)
                group.spawn(fail, runner)
        assert time.monotonic() - started < 4
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)
    finally:
        os.close(reader)
        os.close(writer)


def test_start_that_is_cancelled_leaves_no_process():
    """A cancel while the child has not yet loaded its program: the child is killed, and nobody has to wait for it."""
    reader, writer = os.pipe()
    never, keep = os.pipe()

    def wait_in_the_child():
        os.write(writer, b"%d\n" % os.getpid())
        os.read(never, 1)

    try:
        with ThreadGroup() as group:
            starter = group.spawn(subprocess.Popen, ["sleep", "60"], preexec_fn=wait_in_the_child)
            pid = int(os.read(reader, 100))
            wait_parked(starter)
            starter.cancel()
        assert starter.cancelled()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    finally:
        for fd in (reader, writer, never, keep):
            os.close(fd)


def test_cancelled_before_it_starts():
    """A thread that is cancelled starts no process."""
    started = []
    with ThreadGroup() as group:

        def start():
            group.cancel()
            started.append(subprocess.Popen(["sleep", "60"]))

        starter = group.spawn(start)
    assert starter.cancelled()
    assert not started


def test_program_that_does_not_exist():
    """The child's failure to load it is raised as ever."""
    run = lambda: subprocess.run(["/no/such/program"], check=False)  # noqa: E731
    assert on_virtual(described, run) == described(run)


def test_communicate_moves_much():
    """More than pipes hold goes in, and comes out of both ends."""
    code = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data); sys.stderr.buffer.write(data)"
    data = bytes(range(256)) * 2000

    def talk(timeout):
        with subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            return process.communicate(data, timeout)

    with ThreadGroup() as group:
        talks = [group.spawn(talk, timeout) for timeout in (None, 60)]
    assert [talk.result() for talk in talks] == [(data, data)] * 2


def test_timeout_of_run():
    """`run(timeout=...)` kills the process, and waits for it."""

    def run():
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            subprocess.run(["sh", "-c", "echo begun; exec sleep 60"], capture_output=True, timeout=0.3, check=False)
        return caught.value.stdout

    assert on_virtual(run) in (b"begun\n", None)


def test_function_called_in_the_child():
    """`preexec_fn` runs in the forked child, where the virtual thread goes on as the only one."""

    def run():
        return subprocess.run(
            ["sh", "-c", "ulimit -n; pwd"], capture_output=True, text=True, check=True, preexec_fn=lambda: os.chdir("/")
        ).stdout.split()[1]

    with ThreadGroup() as group:
        runs = [group.spawn(run) for _ in range(5)]
    assert {run.result() for run in runs} == {"/"}


def test_a_fork_makes_the_virtual_thread_the_main_thread():
    """In a child that a virtual thread has forked, `threading` takes it for the main thread, and complains of nothing."""
    code = """
        import os, sys, threading, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        def fork():
            pid = os.fork()
            if not pid:
                ok = threading.current_thread() is threading.main_thread() and threading.active_count() == 1
                threading._shutdown()  # as `multiprocessing` does
                os._exit(0 if ok else 1)
            return os.waitpid(pid, 0)[1]
        with plait.ThreadGroup() as group:
            status = group.spawn(fork)
        print(status.result())
    """
    assert run_python(code) == "0\n"


def test_a_forked_process_waits_for_its_threads():
    """A process of `multiprocessing` waits at its end for threads that are no daemons, and its virtual threads run meanwhile."""
    code = """
        import multiprocessing, threading, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        def linger():
            time.sleep(0.05)
            with plait.ThreadGroup() as group:
                square = group.spawn(pow, 7, 2)
            print(square.result(), flush=True)
        def work():
            threading.Thread(target=linger).start()
        def fork():
            process = context.Process(target=work)
            process.start()
            process.join()
            return process.exitcode
        print(plait.spawn(fork).result())
    """
    assert run_python(code) == "49\n0\n"


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_forked_process_hears_signals(is_alone):
    """What a handler raises is raised in the virtual thread that has forked, whatever it waits for there, and with whom."""
    code = f"""
        import multiprocessing, os, queue, signal, sys, threading, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        held = threading.Lock()
        held.acquire()
        reader, writer = os.pipe()
        waits = [
            lambda: time.sleep(60),
            lambda: os.read(reader, 1),
            held.acquire,
            threading.Event().wait,
            queue.SimpleQueue().get,
            lambda: plait.spawn(time.sleep, 60).result(),
        ]
        class Told(Exception):
            pass
        def tell(*_):
            raise Told
        def work(wait, begun):
            signal.signal(signal.SIGUSR1, tell)
            if not {is_alone}:
                plait.spawn(time.sleep, 60)  # it is the last to park, and the carrier sleeps on its stack
            try:
                os.write(begun, b"x")
                wait()
            except Told:
                os._exit(7)
        def start(*call):
            process = context.Process(target=work, args=call)
            process.start()
            return process.pid
        def fork(*call):
            pid = os.fork()
            if not pid:
                work(*call)
                os._exit(1)
            return pid
        def run(begin, wait):
            has_begun, begun = os.pipe()
            pid = begin(wait, begun)
            os.read(has_begun, 1)
            while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                os.kill(pid, signal.SIGUSR1)  # one that comes just before a wait does not end it: likewise in CPython
                time.sleep(0.01)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(*(plait.spawn(run, begin, wait).result() for begin in (start, fork) for wait in waits))
    """
    assert run_python(code) == " ".join("7" * 12) + "\n"


@pytest.mark.parametrize("is_virtual", [False, True])
def test_a_process_of_multiprocessing_is_outside_of_all_scopes(is_virtual):
    """What its parent was in the middle of, cancelled or not, does not concern it: no limit, no cancel, no group."""
    code = f"""
        import multiprocessing, os, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context("fork")
        def work():
            time.sleep(0.001)
            with plait.timeout(60):
                with plait.ThreadGroup() as group:
                    square = group.spawn(pow, 7, 2)
                time.sleep(0.001)
            later = plait.spawn(pow, 2, 3)
            seen = plait.cancelled(), plait.current_deadline(), square.result(), later.result(), type(later.group).__name__
            os.write(1, (" ".join(map(str, seen)) + "\\n").encode())  # at a time: there are two such processes
        def body():
            with plait.move_on_after(3600), plait.ThreadGroup() as group:
                processes = [context.Process(target=work)]
                processes[0].start()
                group.cancel()
                try:
                    time.sleep(60)
                finally:
                    processes.append(context.Process(target=work))
                    processes[1].start()
                    for process in processes:
                        process.join()
                    print(*(process.exitcode for process in processes))
        if {is_virtual}:
            plait.spawn(body).result()
        else:
            body()
    """
    outside = f"False {plait.current_deadline()} 49 8 DefaultGroup\n"
    assert run_python(code) == 2 * outside + "0 0\n"


@pytest.mark.parametrize("where", ["body()", "plait.spawn(body).result()"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_start_of_a_process_is_no_cancel_point(method, where):
    """The process gets the whole of its message, however large, and its parent knows who it is."""
    code = f"""
        import multiprocessing, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)
        context = multiprocessing.get_context({method!r})
        def body():
            process = context.Process(target=len, args=(b"x" * 1_000_000,))
            with plait.ThreadGroup() as group:
                group.cancel()
                process.start()
                steps.append(process.pid is not None)
                plait.checkpoint()
                steps.append("not cancelled")
            process.join()
            return process.exitcode
        steps = []
        print({where}, steps)
    """
    assert run_python(code) == "0 [True]\n"


def test_process_that_was_started_with_patience_has_none():
    """What its parent was about, to start it, is not what it is about."""
    code = """
        import multiprocessing, sys, warnings, plait
        from plait._core import current_thread
        warnings.simplefilter("ignore", DeprecationWarning)
        def patience():
            sys.exit(current_thread().patient_since != 0)
        def body():
            process = multiprocessing.get_context("fork").Process(target=patience)
            process.start()
            process.join()
            return process.exitcode
        with plait.ThreadGroup() as group:
            print(body(), group.spawn(body).result())
    """
    assert run_python(code) == "0 0\n"


def test_names_for_other_processes_are_made_as_a_whole():
    """Whoever makes shared memory, or a lock for a process that is not forked, is not cancelled before its tracker knows."""
    code = """
        import multiprocessing, plait
        from multiprocessing import shared_memory
        def body():
            made = []
            with plait.ThreadGroup() as group:
                group.cancel()
                made.append(shared_memory.SharedMemory(create=True, size=1000))
                made.append(multiprocessing.get_context("spawn").Lock())
                plait.checkpoint()
                made.append("not cancelled")
            made[0].close()
            made[0].unlink()
            return len(made)
        print(body(), plait.spawn(body).result())
    """
    assert run_python(code) == "2 2\n"
