"""Subprocess-heavy code: many threads that run programs, talk to them, lose patience with them, and are cancelled."""

import concurrent.futures
import gc
import multiprocessing
import os
import platform
import subprocess
import sys
import time

import pytest
from libraries.test_stdlib import Canary
from patch.helpers import carriers, on_virtual, wait_parked, wait_until
from support import descriptors

from plait import Cancelled, ThreadGroup, gather, move_on_after
from plait.testing import every_park

MANY = 200

# What the tests show, in the words of docs/libraries.md.
TRIED = {
    "test_many_at_a_time": "200 at work",
    "test_failure_in_the_middle": "canary and failure",
    "test_cancel_at_any_moment": "cancel",
    "test_cancel_at_each_park": "swept",
}


def _children():
    """The processes that this one has started and not waited for, by pid."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
        except FileNotFoundError:  # that thread has ended
            continue
    return found


@pytest.fixture(autouse=True)
def note(request):
    """Puts facts in the report, as the tests on real servers do (test_servers.py); adds others."""

    def note(**facts):
        request.node.user_properties.extend((name, str(value)) for name, value in facts.items())

    tried = TRIED.get(request.node.originalname)
    if tried is not None:
        interpreter = f"CPython {platform.python_version()}"
        note(library="subprocess", version=interpreter, server="cat, sh, sleep", tried=tried)
        note(interpreter=interpreter, carriers=carriers())
    return note


@pytest.fixture(autouse=True)
def leaves_no_process():
    """Neither a process nor a zombie outlives a test."""
    before = _children()
    yield
    wait_until(lambda: _children() <= before)


def _echo(number):
    return subprocess.run(["cat"], input=b"%d\n" % number, capture_output=True, check=True).stdout


def test_many_at_a_time():
    """Two hundred threads each run a program and talk to it, and a canary ticks while they do; no descriptor is left open."""
    before = descriptors()
    with ThreadGroup(timeout=20) as group:
        canary = Canary(group)
        with ThreadGroup(max_concurrency=40) as workers:
            echoes = [workers.spawn(_echo, number) for number in range(MANY)]
            while canary.ticks <= 3:  # a fast machine has run two hundred before the canary's turn has come so often
                echoes.append(workers.spawn(_echo, len(echoes)))
        canary.stop()
    assert [echo.result() for echo in echoes] == [b"%d\n" % number for number in range(len(echoes))]
    assert descriptors().keys() == before.keys()


def test_failure_in_the_middle():
    """One failure ends two hundred waits for as many programs, which are killed, within the grace."""
    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup() as group:
            canary = Canary(group)
            program = subprocess.Popen(["sleep", "60"])
            waits = [group.spawn(program.wait, timeout) for timeout in (None, 60) * (MANY // 2 - 20)]
            runs = [group.spawn(subprocess.run, ["sleep", "60"], capture_output=True, check=False) for _ in range(40)]

            def are_done():
                return all(thread.done() for thread in (failure, *waits, *runs))

            try:
                wait_until(lambda: len(_children()) >= 41)
                wait_parked(*waits, *runs)
                ticks = canary.ticks
                wait_until(lambda: canary.ticks > ticks + 2)
                started = time.monotonic()
                failure = group.spawn(subprocess.run, ["false"], check=True)
                wait_until(are_done)
            except Cancelled:  # so is the body, and who has not been told yet shall not see the end of the program
                wait_until(are_done)
                raise
            finally:
                program.kill()
                program.wait()
    assert time.monotonic() - started < 4
    assert [type(error) for error in caught.value.exceptions] == [subprocess.CalledProcessError]
    assert all(thread.cancelled() for thread in (*waits, *runs))


def test_cancel_at_any_moment():
    """Runs that are cancelled after this or that many milliseconds leave neither process nor descriptor."""
    before = descriptors()

    def run(patience):
        with move_on_after(patience):
            subprocess.run(["sh", "-c", "echo begun; exec cat"], stdin=never, capture_output=True, check=False)
            return "ended"
        return "cancelled"

    never, keep = os.pipe()
    try:
        with ThreadGroup(max_concurrency=10) as group:
            runs = [group.spawn(run, number * 0.0005) for number in range(60)]
    finally:
        os.close(never)
        os.close(keep)
    assert {run.result() for run in runs} == {"cancelled"}
    wait_until(lambda: descriptors().keys() == before.keys())


def test_timeouts():
    """Programs that take too long are killed when their time is over, others in the same group are not."""

    def run(number):
        try:
            subprocess.run(["sleep", "60" if number % 2 else "0"], timeout=0.3 if number % 2 else 60, check=True)
        except subprocess.TimeoutExpired:
            return "late"
        return "ended"

    with ThreadGroup(max_concurrency=20) as group:
        runs = [group.spawn(run, number) for number in range(20)]
    assert [run.result() for run in runs] == ["ended", "late"] * 10


def test_pipeline():
    """Programs that are connected by pipes, with threads that feed the first and read the last."""

    def pipeline():
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            subprocess.Popen(["cat"], **pipe) as first,
            subprocess.Popen(["tr", "a", "b"], stdin=first.stdout, stdout=subprocess.PIPE) as last,
        ):
            first.stdout.close()
            os.set_blocking(last.stdout.fileno(), True)

            def feed():
                os.write(first.stdin.fileno(), b"a" * 200_000)
                first.stdin.close()

            def drain():
                parts = []
                while part := os.read(last.stdout.fileno(), 1 << 16):
                    parts.append(part)
                return b"".join(parts)

            return gather(feed, drain)[1]

    assert on_virtual(pipeline) == b"b" * 200_000


def _square(number):
    return number * number


def test_process_pools():
    """`ProcessPoolExecutor` and `multiprocessing.Pool`, used by many threads at a time; a cancel leaves them usable."""
    context = multiprocessing.get_context("fork")

    def use():
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor, context.Pool(2) as pool:
            with ThreadGroup() as group:
                canary = Canary(group)
                squares = [group.spawn(lambda n: executor.submit(_square, n).result(), number) for number in range(50)]
                squares += [group.spawn(pool.apply, _square, (number,)) for number in range(50)]
                wait_until(lambda: all(square.done() for square in squares))
                late = [
                    group.spawn(pool.apply, time.sleep, (0.2,)),
                    group.spawn(executor.submit(time.sleep, 0.2).result),
                ]
                wait_parked(*late)
                for waiter in late:
                    waiter.cancel()
                wait_until(lambda: all(waiter.done() for waiter in late))
                canary.stop()
            assert canary.ticks
            assert pool.apply(_square, (3,)) == executor.submit(_square, 3).result() == 9
            return [square.result() for square in squares]

    with ThreadGroup() as group:
        used = group.spawn(use)
    assert used.result() == [number * number for number in range(50)] * 2


PROGRAM = """
import multiprocessing, os, sys, time
import plait
from plait import ThreadGroup

def serve(connection, lock, numbers):
    for number in iter(connection.recv, None):
        with lock:
            connection.send(number * 2)
    numbers.put("bye")

def talk(context):
    near, far = context.Pipe()
    lock, numbers = context.Lock(), context.Queue()
    server = context.Process(target=serve, args=(far, lock, numbers))
    server.start()
    with lock:
        near.send(1)
        is_held = not near.poll(0.05)
    got = [near.recv()]
    for number in range(2, 5):
        near.send(number)
        got.append(near.recv())
    near.send(None)
    bye = numbers.get()
    server.join()
    numbers.close()
    numbers.join_thread()
    return is_held, got, bye, server.exitcode

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ThreadGroup() as group:
        talks = [group.spawn(talk, context) for _ in range(3)]
    with ThreadGroup() as group:
        manager = group.spawn(context.Manager).result()
        shared = manager.dict()
        for number in range(5):
            group.spawn(shared.__setitem__, number, number)
    print([talk.result() for talk in talks] == [(True, [2, 4, 6, 8], "bye", 0)] * 3, len(shared))
    manager.shutdown()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    """Processes started each way, with pipes, locks, queues and a manager, by virtual threads."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(path), method],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True 5\n", "", 0)


def _talk():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.communicate(b"x" * 200_000, timeout=60) == (b"x" * 200_000, b"")
        except BaseException:
            process.kill()
            raise


def _talk_with_limit():
    subprocess.run(["sh", "-c", "cat; exit 3"], input=b"hello", capture_output=True, check=False, timeout=60)


@pytest.mark.parametrize("code", [_talk, _talk_with_limit])
def test_cancel_at_each_park(code, note):
    """Cancelled at each place where it waits, code that talks to a program leaves none behind, and no descriptor."""
    before = descriptors().keys()

    def sweep():
        for attempt, scope in enumerate(every_park(), 1):
            with scope:
                code()
            wait_until(lambda: _children() <= children)
        return attempt

    children = _children()
    note(attempts=on_virtual(sweep))
    gc.collect()
    wait_until(lambda: descriptors().keys() <= before)
