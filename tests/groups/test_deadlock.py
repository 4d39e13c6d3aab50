"""Circles of waits among mutexes and reader-writer locks, and holders that have ended."""

from __future__ import annotations

import re
import sys
import textwrap
import threading

import pytest
from support import PATIENCE, is_parked, me, platform_thread, run_in_vthread, run_program, until, wait_parked

from plait import DeadlockError, Mutex, RWLock, ThreadGroup, _deadlock, _holding, move_on_after
from plait._core import WaitReason
from plait._deadlock import Wait, begin_wait, end_wait

WAITS = (WaitReason.MUTEX, WaitReason.READ_LOCK, WaitReason.WRITE_LOCK)
KINDS = pytest.mark.parametrize("kinds", ["virtual", "platform", "mixed"])


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    """No wait stays registered; and threads here wait with locks in hand, however slow the machine is."""
    monkeypatch.setattr(_holding, "LONG", 3600)
    yield
    assert not _deadlock._waits


def kind_of(kinds, number):
    return ("virtual", "platform")[number % 2] if kinds == "mixed" else kinds


class Cast:
    """Threads that each take locks one after the other, as they are told; their outcomes."""

    def __init__(self, group):
        self.group = group
        self.threads = []
        self.actors = []

    def add(self, kind, *blocks):
        actor = Actor(blocks)
        self.actors.append(actor)
        if kind == "virtual":
            self.group.spawn(actor.play)
        else:
            thread = threading.Thread(target=actor.play)
            thread.start()
            self.threads.append(thread)
        return actor

    def join(self):
        until(lambda: all(actor.is_done for actor in self.actors), "the end of all")
        for thread in self.threads:
            thread.join(PATIENCE)


class Actor:
    def __init__(self, blocks):
        self.blocks = blocks  # what makes a block, in turn
        self.permits = threading.Semaphore(0)
        self.allowed = self.entered = 0
        self.is_done = False
        self.error = None
        self.thread = None

    def play(self):
        self.thread = me()
        try:
            self.take(0)
        except DeadlockError as error:
            self.error = error
        finally:
            self.is_done = True

    def take(self, number):
        self.permits.acquire()
        if number == len(self.blocks):
            return
        with self.blocks[number]():
            self.entered += 1
            self.take(number + 1)

    def step(self):
        """Let it take the next lock, or leave all; and wait until it has it, waits for it, or is done."""
        self.allowed += 1
        self.permits.release()
        until(lambda: self.is_done or self.entered == self.allowed or self.is_waiting(), "the next step")
        return self

    def is_waiting(self):
        return self.thread is not None and self.thread.waits_for in WAITS and is_parked(self.thread)

    def finish(self):
        self.permits.release(len(self.blocks) + 1 - self.allowed)


@KINDS
@pytest.mark.parametrize("length", [2, 3, 7])
def test_circle_of_mutexes(kinds, length):
    """The one who would close a circle gets DeadlockError at once, and nobody else; the others go on once it lets go."""
    mutexes = [Mutex(n) for n in range(length)]
    with ThreadGroup() as group:
        cast = Cast(group)
        actors = [cast.add(kind_of(kinds, n), mutexes[n].lock, mutexes[(n + 1) % length].lock) for n in range(length)]
        for actor in actors:
            actor.step()
        for actor in actors[:-1]:
            assert actor.step().is_waiting()
        closer = actors[-1].step()
        assert closer.is_done
        assert closer.error is not None
        for actor in actors:
            actor.finish()
        cast.join()
    assert [actor.error for actor in actors[:-1]] == [None] * (length - 1)
    assert all(mutex.try_lock() for mutex in mutexes)
    lines = str(closer.error).splitlines()
    assert len(lines) == length + 2
    assert re.fullmatch(r"<.*> would close a circle of threads that wait for each other:", lines[0])
    assert lines[-1] == "  Take these locks in the same order everywhere, or only try to take the second"


def test_message_names_threads_and_sites():
    """Who waits for what where, and who took that where, in the order of the circle: the closer first."""
    first, second = Mutex(1), Mutex(2)
    made = sys._getframe().f_lineno - 1
    lines = {}
    ready = threading.Event()

    def other():
        with second.lock():
            lines["took"] = sys._getframe().f_lineno - 1
            ready.wait()
            lines["waits"] = sys._getframe().f_lineno + 1
            with first.lock():
                pass

    with ThreadGroup() as group:
        with first.lock():
            mine = sys._getframe().f_lineno - 1
            future = group.spawn(other)
            until(second._holders)
            ready.set()
            wait_parked(future, WaitReason.MUTEX)
            with pytest.raises(DeadlockError) as raised:
                second.update(abs)
            closed = sys._getframe().f_lineno - 1
        future.result()
    place = re.escape(__file__)
    main, virtual = r"<platform thread 'MainThread'>", rf"<virtual thread '{re.escape(future.name)}'>"
    one, two = rf"Mutex-\d+ \(made at {place}:{made}\)", rf"Mutex-\d+ \(made at {place}:{made}\)"
    assert re.fullmatch(
        rf"{main} would close a circle of threads that wait for each other:\n"
        rf"  {main} waits at {place}:{closed} for {two}, which {virtual} took at {place}:{lines['took']}\n"
        rf"  {virtual} waits at {place}:{lines['waits']} for {one}, which {main} took at {place}:{mine}\n"
        rf"  Take these locks in the same order everywhere, or only try to take the second",
        str(raised.value),
    )
    numbers = re.findall(r"for Mutex-(\d+)", str(raised.value))
    assert numbers == [str(second._number), str(first._number)]


@KINDS
@pytest.mark.parametrize(("hold", "ask"), [("read", "write"), ("write", "read"), ("write", "write")])
def test_circle_of_mutex_and_rwlock(kinds, hold, ask):
    """Circles go through reader-writer locks as well, and say which way they are held and asked for."""
    mutex, lock = Mutex(0), RWLock(0)
    with ThreadGroup() as group:
        cast = Cast(group)
        one = cast.add(kind_of(kinds, 0), getattr(lock, hold), mutex.lock).step()
        two = cast.add(kind_of(kinds, 1), mutex.lock, getattr(lock, ask)).step()
        assert one.step().is_waiting()
        assert two.step().is_done
        one.finish()
        cast.join()
    assert one.error is None
    way = {"read": "reading", "write": "writing"}[hold]
    assert re.search(rf"waits at .* to {ask} RWLock-\d+ \(made at .*\), which .* took for {way} at", str(two.error))
    assert not lock.is_locked


def test_circle_through_one_of_many_readers():
    """A writer waits for all readers, so one that waits for it is enough; the others can be at work."""
    mutex, lock = Mutex(0), RWLock(0)
    with ThreadGroup() as group:
        cast = Cast(group)
        readers = [cast.add("virtual", lock.read).step() for _ in range(3)]
        one = cast.add("virtual", lock.read, mutex.lock).step()
        two = cast.add("virtual", mutex.lock, lock.write).step()
        assert two.step().is_waiting()
        assert one.step().is_done
        assert "to write RWLock" in str(one.error)
        for actor in (*readers, two):
            actor.finish()
        cast.join()
    assert two.error is None


def test_circle_through_a_reader_behind_a_writer():
    """A reader that a waiting writer keeps out waits for the readers inside; with one of them it can close a circle."""
    mutex, lock = Mutex(0), RWLock(0)
    with ThreadGroup() as group:
        cast = Cast(group)
        inside = cast.add("virtual", lock.read, mutex.lock).step()
        holder = cast.add("virtual", mutex.lock, lock.read).step()
        writer = cast.add("virtual", lock.write)
        assert writer.step().is_waiting()
        assert inside.step().is_waiting()
        assert holder.step().is_done
        assert re.search(r"to read RWLock-\d+ .*, which .* took for reading at", str(holder.error))
        for actor in cast.actors:
            actor.finish()
        cast.join()
    assert inside.error is None
    assert writer.error is None


def test_reader_that_was_let_in_is_no_longer_in_the_way():
    """When the writer in front gives up, the readers behind it hold the lock, and later waits are judged by that."""
    mutex, lock = Mutex(0), RWLock(0)
    with ThreadGroup() as group:
        cast = Cast(group)
        inside = cast.add("virtual", lock.read, mutex.lock).step()
        holder = cast.add("virtual", mutex.lock, lock.read).step()
        writer = group.spawn(lock.replace, 1)
        wait_parked(writer, WaitReason.WRITE_LOCK)
        assert holder.step().is_waiting()
        writer.cancel()
        until(lambda: holder.entered == 2)
        assert inside.step().is_waiting()
        for actor in cast.actors:
            actor.finish()
        cast.join()
    assert inside.error is holder.error is None


def test_chain_is_no_circle():
    """Waits that lead to somebody at work are waits; and who holds nothing can always wait."""
    mutexes = [Mutex(n) for n in range(5)]
    with ThreadGroup() as group:
        cast = Cast(group)
        chain = [cast.add("virtual", mutexes[n].lock, mutexes[n + 1].lock).step() for n in range(4)]
        head = cast.add("virtual", mutexes[4].lock).step()
        for actor in chain:
            assert actor.step().is_waiting()
        waiters = [cast.add("virtual", mutex.lock).step() for mutex in mutexes]
        assert all(waiter.is_waiting() for waiter in waiters)
        for actor in cast.actors:
            actor.finish()
        assert head
        cast.join()
    assert not any(actor.error for actor in cast.actors)


def test_waits_with_a_timeout_count():
    """Such a circle would end by itself, with nothing gained; it is reported like any other."""
    one, two = Mutex(1), Mutex(2)
    with ThreadGroup() as group:
        cast = Cast(group)
        other = cast.add("virtual", two.lock, lambda: one.lock(3600)).step()
        with one.lock():
            other.step()
            with pytest.raises(DeadlockError, match="would close a circle"):
                two.lock(3600).__enter__()
            assert two.try_lock() is None
        other.finish()
        cast.join()
    assert other.error is None


def test_member_that_gave_up_opens_the_circle():
    """A wait that was cancelled, or has timed out, is over for others, too."""
    one, two = Mutex(1), Mutex(2)
    gave_up = threading.Event()

    def other():
        with two.lock():
            with move_on_after(0.005) as scope:
                one.update(abs)
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError):
                one.lock(0.001).__enter__()
            gave_up.set()
            until(lambda: is_parked(main, WaitReason.MUTEX))

    main = me()
    with ThreadGroup() as group, one.lock():
        group.spawn(other)
        gave_up.wait()
        assert two.update(abs) == 2


def test_lock_that_changes_hands():
    """Who waits for a lock waits for whoever holds it now."""
    one, two = Mutex(1), Mutex(2)
    with ThreadGroup() as group:
        cast = Cast(group)
        waiter = cast.add("virtual", two.lock, one.lock).step()
        first = one.try_lock()
        assert waiter.step().is_waiting()
        # Barging, in the main thread: released and taken again before the waiter is there.
        with first:
            pass
        if (mine := one.try_lock()) is not None:
            with mine, pytest.raises(DeadlockError, match="would close a circle"):
                two.update(abs)
        waiter.finish()
        cast.join()
    assert waiter.error is None


def end_holding(block):
    """Enter and end: what only a mistake does."""
    block.__enter__()


def leave_elsewhere(block):
    """Leave a block whose thread has gone."""
    with pytest.raises(RuntimeError, match="has left a block"):
        block.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["mutex", "read", "write"])
def test_holder_that_has_ended(kind):
    """Waiting for what a virtual thread took with it is an error at once; it says who it was, and where it took it."""
    shared = Mutex(0) if kind == "mutex" else RWLock(0)
    block = shared.lock() if kind == "mutex" else getattr(shared, kind)()
    line = end_holding.__code__.co_firstlineno + 2
    with ThreadGroup() as group:
        future = group.spawn(end_holding, block)
    verb, took = {
        "mutex": ("for", "took"),
        "read": ("to write", "took for reading"),
        "write": ("to write", "took for writing"),
    }[kind]
    with pytest.raises(DeadlockError) as raised:
        shared.replace(1)
    assert re.fullmatch(
        rf"<platform thread 'MainThread'> would wait for ever, at .*test_deadlock.py:\d+, {verb} (Mutex|RWLock)-\d+ \(made at .*\): "
        rf"<virtual thread '{re.escape(future.name)}'> {took} at .*test_deadlock.py:{line}, and has ended without letting it go. "
        r"Take locks in a `with` block, which lets go however it is left",
        str(raised.value),
    )
    # It is not lost for good: leaving the block, wherever, frees it.
    leave_elsewhere(block)
    assert shared.replace(1) == 0


@pytest.mark.parametrize("kind", ["mutex", "read", "write"])
def test_holder_that_ends_while_others_wait(kind):
    """All who wait already are told when it ends, virtual and platform threads."""
    shared = Mutex(0) if kind == "mutex" else RWLock(0)
    block = shared.lock() if kind == "mutex" else getattr(shared, kind)()
    gate = threading.Event()

    def hold():
        block.__enter__()
        gate.wait()

    def wait(use):
        with pytest.raises(DeadlockError, match="and has ended without letting it go") as raised:
            use()
        told.append(raised.value)

    told = []
    uses = [lambda: shared.replace(1), shared.into_inner]
    if kind == "write":
        uses.append(shared.read().__enter__)
    with ThreadGroup() as group:
        wait_parked(group.spawn(hold), WaitReason.CONDITION)
        waiters = [group.spawn(wait, use) for use in uses * 2]
        with platform_thread(wait, uses[0]), platform_thread(wait, uses[1]):
            until(lambda: len(_deadlock._waits) == len(waiters) + 2)
            for waiter in waiters:
                until(lambda: is_parked(waiter) and waiter.waits_for in WAITS)
            gate.set()
            until(lambda: len(told) == len(waiters) + 2, "all told")
    leave_elsewhere(block)


def test_reader_that_ends_keeps_out_readers_behind_a_writer_no_longer():
    """The writer is told and gives up, and so the readers behind it enter."""
    lock = RWLock(0)
    gate = threading.Event()

    block = lock.read()

    def hold():
        block.__enter__()
        gate.wait()

    def read():
        with lock.read() as value:
            return value

    with ThreadGroup() as group:
        wait_parked(group.spawn(hold), WaitReason.CONDITION)
        writer = group.spawn(lambda: pytest.raises(DeadlockError, lock.replace, 1))
        wait_parked(writer, WaitReason.WRITE_LOCK)
        reader = wait_parked(group.spawn(read), WaitReason.READ_LOCK)
        gate.set()
        writer.result(PATIENCE)
        assert reader.result(PATIENCE) == 0
    leave_elsewhere(block)


def test_callbacks_of_a_settled_thread_may_lock():
    """A thread that has settled still runs its callbacks: they may hold a lock, and others wait for it as ever."""
    mutex = Mutex(0)
    gate = threading.Event()
    inside = threading.Event()

    def call_back(future):
        with mutex.lock():
            inside.set()
            gate.wait()

    with ThreadGroup() as group:
        start = threading.Event()
        future = group.spawn(start.wait)
        future.add_done_callback(call_back)
        start.set()
        inside.wait()
        assert future.is_settled()
        waiter = wait_parked(group.spawn(mutex.replace, 1), WaitReason.MUTEX)
        gate.set()
        assert waiter.result() == 0


def test_lock_let_go_by_a_callback():
    """What a thread holds when it settles may still be let go by its callbacks."""
    mutex = Mutex(0)
    block = mutex.lock()
    gate = threading.Event()

    def hold():
        block.__enter__()
        gate.wait()

    with ThreadGroup() as group:
        future = wait_parked(group.spawn(hold), WaitReason.CONDITION)
        future.add_done_callback(lambda f: block.__exit__(None, None, None))
        waiter = wait_parked(group.spawn(mutex.replace, 1), WaitReason.MUTEX)
        gate.set()
        assert waiter.result() == 0


def test_wait_within_a_wait():
    """A signal handler may wait while its thread waits already: its wait is the one that counts, then the first again."""
    main, one, two = me(), Mutex(1), RWLock(2)
    outer, inner = Wait(main, one, True, None, -1), Wait(main, one, True, None, -1)
    with two.write():
        for wait in (outer, inner):
            assert not begin_wait(wait)
            assert _deadlock._waits == {main: wait}
        end_wait(inner)
        assert _deadlock._waits == {main: outer}
        end_wait(outer)
        end_wait(outer)
        assert not _deadlock._waits


STORM = """
    import random, sys, threading, time, plait
    from plait import _deadlock
    sys.setswitchinterval(1e-5)
    locks = [plait.Mutex([]) for _ in range(4)] + [plait.RWLock([]) for _ in range(3)]
    deadlocks, counts = [], dict.fromkeys(range(len(locks)), 0)
    inside = [[] for _ in locks]
    def enter(n, rng):
        if n < 4:
            kind = rng.randrange(3)
            return (locks[n].lock() if kind else locks[n].guard()), True
        is_writer = rng.random() < 0.5
        return (locks[n].write() if is_writer else locks[n].read()), is_writer
    def nest(order, rng):
        if not order:
            if rng.random() < 0.5:
                time.sleep(0)
            return
        n = order[0]
        block, is_writer = enter(n, rng)
        with block:
            mark = (is_writer, object())
            inside[n].append(mark)
            try:
                assert not is_writer or len(inside[n]) == 1, "not alone"
                assert not any(other for other, _ in inside[n] if not is_writer), "beside a writer"
                if rng.random() < 0.3:
                    time.sleep(0)
                nest(order[1:], rng)
            finally:
                inside[n].remove(mark)
    def work(seed, rounds):
        rng = random.Random(seed)
        for _ in range(rounds):
            order = rng.sample(range(len(locks)), rng.randrange(1, 5))
            if IN_ORDER:
                order.sort()
            try:
                if rng.random() < 0.3:
                    with plait.move_on_after(rng.choice([0.0001, 0.001])):
                        nest(order, rng)
                else:
                    nest(order, rng)
            except plait.DeadlockError as error:
                deadlocks.append(str(error))
    threads = [threading.Thread(target=work, args=(n, 1000)) for n in range(3)]
    for thread in threads: thread.start()
    with plait.ThreadGroup() as group:
        for n in range(10):
            group.spawn(work, 10 + n, 1000)
    for thread in threads: thread.join()
    print(len(deadlocks) > 0, _deadlock._waits, any(lock.is_locked for lock in locks), inside == [[]] * len(locks))
    for text in deadlocks:
        lines = text.splitlines()
        holds = [line.split(", which ")[1].split(" took")[0] for line in lines[1:-1]]
        waits = [line.strip().split(" waits at ")[0] for line in lines[1:-1]]
        assert len(lines) >= 4 and holds == waits[1:] + waits[:1], text
"""


@pytest.mark.stress
@pytest.mark.parametrize("carriers", [1, 2, 4])
def test_random_orders_never_hang(carriers):
    """Locks taken in any order, by virtual and platform threads, some of them cancelled: every circle is answered."""
    out, _ = run_program("IN_ORDER = False\n" + textwrap.dedent(STORM), PLAIT_CARRIERS=carriers, seconds=50)
    assert out == "True {} False True\n"


@pytest.mark.stress
@pytest.mark.parametrize("carriers", [1, 2, 4])
def test_one_order_is_never_a_circle(carriers):
    """Locks taken in the same order everywhere: nobody is ever told of a circle."""
    out, _ = run_program("IN_ORDER = True\n" + textwrap.dedent(STORM), PLAIT_CARRIERS=carriers, seconds=50)
    assert out == "False {} False True\n"


@pytest.mark.stress
def test_one_error_for_each_circle():
    """Two threads that take two mutexes in opposite orders, many times over: one error for each time they cross."""
    one, two = Mutex(0), Mutex(0)
    crossed = []

    def cross(mine, others):
        for turn in range(300):
            gates[turn].wait()
            try:
                with mine.lock():
                    gates[turn].wait()
                    with others.lock():
                        pass
            except DeadlockError:
                crossed.append(turn)
            gates[turn].wait()

    gates = [threading.Barrier(2) for _ in range(300)]
    with ThreadGroup() as group, platform_thread(cross, one, two):
        group.spawn(cross, two, one)
    assert crossed == list(range(300))


def test_in_a_forked_child_nobody_waits():
    """Waits of threads that are not there are forgotten."""
    out, _ = run_program("""
        import os, threading, plait
        from plait import _deadlock
        mutex = plait.Mutex(0)
        with mutex.lock():
            thread = threading.Thread(target=mutex.replace, args=(1,))
            thread.start()
            while not _deadlock._waits:
                pass
            if os.fork() == 0:
                print(_deadlock._waits, flush=True)
                os._exit(0)
            os.wait()
        thread.join()
    """)
    assert out == "{}\n"


@pytest.mark.parametrize("where", ["main", "virtual"])
@pytest.mark.parametrize("lock", ["plait.Mutex(0).lock", "plait.RWLock(0).write"])
def test_lock_that_a_thread_of_the_parents_holds(where, lock):
    """In a forked child nobody ever lets it go: who wants it is told so. What the one who has forked holds is its own."""
    out, _ = run_program(f"""
        import os, threading, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        def hold():
            with lock():
                held.set()
                gate.wait()
        def fork():
            with mine():
                child = os.fork()
                if child:
                    return os.waitpid(child, 0)[1]
                try:
                    with plait.ThreadGroup() as group:
                        waits = group.spawn(lambda: mine().__enter__())
                        while not waits.waits_for:
                            plait.checkpoint()
                        waits.cancel()
                    lock().__enter__()
                except plait.DeadlockError as error:
                    print(error, flush=True)
                    os._exit(0)
                finally:
                    os._exit(1)
        lock, mine = {lock}, {lock}
        held, gate = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        print(fork() if {where!r} == "main" else plait.spawn(fork).result())
        gate.set()
        holder.join()
    """)
    text, status = out.splitlines()
    assert "would wait for ever, at " in text
    assert text.endswith(
        ", in the process that has forked this one, and lets it go there. Fork while no other thread holds it, or make "
        "another one here"
    )
    assert status == "0"


def test_in_a_forked_child_an_rwlock_goes_to_who_is_there():
    """Threads of the parent's that waited for it are not in its queues any more."""
    out, _ = run_program("""
        import os, threading, warnings, plait
        from plait import _deadlock
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        lock = plait.RWLock(0)
        with lock.write():
            threads = [threading.Thread(target=wait) for wait in (lambda: lock.replace(1), lambda: lock.read().__enter__())]
            for thread in threads:
                thread.start()
            while len(_deadlock._waits) < 2:
                pass
            child = os.fork()
        if not child:
            lock.replace(2)
            with lock.read() as value:
                os._exit(value != 2)
        print(os.waitpid(child, 0)[1])
    """)
    assert out == "0\n"


def test_ended_thread_that_let_go():
    """A thread that ends after it let go of everything is not looked at again."""
    mutex = Mutex(0)

    def body():
        mutex.update(abs)
        return me()

    with ThreadGroup() as group:
        future = group.spawn(body)
    assert not future.is_ended()
    assert future.holds == 0
    assert run_in_vthread(lambda: me().holds) == 0
