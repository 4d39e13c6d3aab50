"""Locks and what is built on them: between virtual threads, and between virtual and platform threads."""

import concurrent.futures
import queue
import signal
import threading
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from patch.helpers import PlatformCall, carriers, described, is_parked, on_virtual, run_python, wait_parked, wait_until

from plait import Limiter, ThreadGroup, checkpoint, timeout
from plait._core import WaitReason, current_thread
from plait._native import lock_taker
from plait._originals import sleep, take_lock


class Index:
    """Something that is only like an int."""

    def __init__(self, value):
        self._value = value

    def __index__(self):
        return self._value


@pytest.fixture(params=["virtual", "platform"])
def elsewhere(request):
    """Runs a function on another thread, of either kind; gives something with a `result()`."""
    if request.param == "platform":
        yield PlatformCall
        return
    with ThreadGroup() as group:
        yield group.spawn


# ---- Lock ----


def test_lock_is_handed_to_a_parked_thread(elsewhere):
    """A virtual thread that waits for a lock gets it when another thread, of either kind, releases it."""
    lock = threading.Lock()
    lock.acquire()
    with ThreadGroup() as group:
        waiter = group.spawn(lock.acquire)
        wait_parked(waiter)
        elsewhere(lock.release).result()
        assert waiter.result() is True
    assert lock.locked()


def test_lock_held_by_a_virtual_thread_keeps_platform_threads_out():
    """A platform thread waits for a lock that a virtual thread holds, and gets it."""
    lock, is_over = threading.Lock(), threading.Event()

    def hold():
        with lock:
            is_over.wait()

    with ThreadGroup() as group:
        wait_parked(group.spawn(hold))
        assert not lock.acquire(timeout=0.01)
        call = PlatformCall(lock.acquire)
        assert not call.is_over
        is_over.set()
        assert call.result() is True


def test_lock_excludes():
    """However many threads of both kinds count under one lock, no count is lost."""
    lock = threading.Lock()
    total = 0
    inside = 0

    def count():
        nonlocal total, inside
        for turn in range(50):
            with lock:
                inside += 1
                assert inside == 1
                seen = total
                if turn % 10 == 0:
                    time.sleep(0.0001)
                total = seen + 1
                inside -= 1

    calls = [PlatformCall(count) for _ in range(2)]
    with ThreadGroup() as group:
        for _ in range(20):
            group.spawn(count)
    for call in calls:
        call.result()
    assert total == 22 * 50


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {"blocking": False}),
        ((), {"timeout": 0}),
        ((), {"timeout": 0.02}),
        ((True, 0.02), {}),
        ((False, 1), {}),
        ((False, -1), {}),
        ((), {"timeout": -2}),
        ((), {"timeout": -0.5}),
        ((), {"timeout": 1e100}),
        ((), {"timeout": float("nan")}),
        ((), {"timeout": "x"}),
        ((), {"timeout": None}),
        ((1, 0.02), {}),
        ((), {"wrong": 1}),
        ((1, 2, 3), {}),
    ],
)
def test_acquire_of_a_held_lock(make, arguments, keywords):
    """Timeouts, trials and wrong arguments end as the original ends them."""
    lock = make()
    holder = make()
    with lock, ThreadGroup() as group:
        got = group.spawn(described, lock.acquire, *arguments, **keywords).result()
        expected = PlatformCall(lambda: described(lock.acquire, *arguments, **keywords)).result()
    if got[0] == "raised" and expected[1] == "TypeError":
        got, expected = got[:2], expected[:2]
    assert got == expected
    assert holder.acquire()


@pytest.mark.parametrize("timeout", [-1, 0, 0.02, -5, -0.5, 1e100, float("inf"), float("nan"), "x", None])
@pytest.mark.parametrize("blocking", [True, False])
def test_acquire_of_an_rlock_by_its_owner(blocking, timeout):
    """It need not wait for it, but wrong arguments are refused nevertheless."""

    def body():
        lock = threading.RLock()
        with lock:
            got = described(lock.acquire, blocking, timeout)
        if got == ("returned", True):
            lock.release()
        with pytest.raises(RuntimeError):
            lock.release()
        return got

    assert on_virtual(body) == PlatformCall(body).result()


def test_acquire_of_a_free_lock_with_arguments():
    """A free lock is taken whatever the timeout."""

    def body():
        lock = threading.Lock()
        results = []
        for arguments in ((), (True,), (False,), (True, 0), (True, 5), (True, -1)):
            results.append(lock.acquire(*arguments))
            lock.release()
        with lock as entered:
            results.append(entered)
        return results

    assert on_virtual(body) == [True] * 7


def test_release_of_a_free_lock():
    """Releasing a lock that nobody holds is the original's error."""
    assert on_virtual(described, threading.Lock().release) == described(threading.Lock().release)


def test_lock_timeout_takes_its_time():
    """A timeout is waited for, not less."""
    lock = threading.Lock()
    with lock:
        started = time.monotonic()
        assert on_virtual(lock.acquire, timeout=0.05) is False
        assert time.monotonic() - started >= 0.05


def test_waiters_get_the_lock_in_the_order_of_their_coming():
    """Those who are parked are woken in order of arrival."""
    lock = threading.Lock()
    order = []

    def take(number):
        with lock:
            order.append(number)

    lock.acquire()
    with ThreadGroup() as group:
        for number in range(10):
            wait_parked(group.spawn(take, number))
        lock.release()
    assert order == list(range(10))


# ---- Condition, Event, Semaphore, Barrier, Timer ----


@pytest.mark.parametrize("make_lock", [threading.Lock, threading.RLock])
def test_condition_notify(elsewhere, make_lock):
    """`notify` wakes so many, `notify_all` the rest."""
    condition = threading.Condition(make_lock())

    def wait():
        with condition:
            return condition.wait(20)

    def notify(count):
        with condition:
            condition.notify(count)

    with ThreadGroup() as group:
        waiters = [group.spawn(wait) for _ in range(6)]
        wait_parked(*waiters)
        elsewhere(notify, 2).result()
        wait_until(lambda: sum(waiter.done() for waiter in waiters) == 2)
        elsewhere(notify, 4).result()
    assert all(waiter.result() for waiter in waiters)


def test_condition_wait_times_out():
    """`wait` gives False after its timeout, `wait_for` the predicate's value; the lock is held again."""
    condition = threading.Condition()

    def body():
        with condition:
            results = condition.wait(0.01), condition.wait(0), condition.wait_for(lambda: 0, 0.01)
            assert condition._is_owned()
        return results

    assert on_virtual(body) == (False, False, 0)
    assert on_virtual(described, condition.wait) == described(condition.wait)
    assert on_virtual(described, condition.notify) == described(condition.notify)


def test_platform_thread_waits_on_a_condition_for_a_virtual_one():
    """A virtual thread notifies a platform thread."""
    condition = threading.Condition()
    is_waiting = threading.Event()

    def wait():
        with condition:
            is_waiting.set()
            return condition.wait(20)

    call = PlatformCall(wait)
    is_waiting.wait()

    def notify():
        with condition:
            condition.notify()

    on_virtual(notify)
    assert call.result() is True


def test_event(elsewhere):
    """An event lets everybody go, of either kind; a wait for one that is not set times out."""
    event = threading.Event()
    with ThreadGroup() as group:
        waiters = [group.spawn(event.wait) for _ in range(3)]
        late = group.spawn(event.wait, 0.01)
        wait_parked(*waiters)
        call = PlatformCall(event.wait)
        assert late.result() is False
        elsewhere(event.set).result()
        assert call.result() is True
    assert [waiter.result() for waiter in waiters] == [True] * 3


@pytest.mark.parametrize("what", ["event", "condition"])
def test_waiter_that_is_cancelled_or_late_leaves_no_trace(what):
    """Nothing of it stays on the list, where whoever notifies would find it."""
    event = threading.Event()

    def wait():
        if what == "event":
            event.wait()
        event._cond.acquire()
        event._cond.wait()

    def late():
        with event._cond:
            return event._cond.wait(0.01)

    with ThreadGroup() as group:
        assert group.spawn(event.wait, 0.01).result() is False
        assert group.spawn(late).result() is False
        waiters = [group.spawn(wait)]
        wait_parked(*waiters)
        assert len(event._cond._waiters) == 1
        group.cancel()
    assert waiters[0].cancelled()
    assert not event._cond._waiters
    assert event._cond._lock.locked() is (what == "condition")  # a Condition's is taken again


def test_event_lets_all_go_while_it_is_being_set():
    """Who waits for an event does not take its lock again, on which all of them would queue."""
    event = threading.Event()
    with ThreadGroup() as group:
        waiters = [group.spawn(event.wait) for _ in range(5)]
        wait_parked(*waiters)
        with event._cond:
            event._flag = True
            event._cond.notify_all()
            assert [waiter.result() for waiter in waiters] == [True] * 5


def test_event_that_is_set_while_a_waiter_is_cancelled():
    """Notified before it has the lock again, the wait has completed; the cancel comes at the next point."""
    event = threading.Event()
    reached = []

    def work():
        reached.append(event.wait())
        checkpoint()
        reached.append("not this")

    with ThreadGroup() as group:
        child = group.spawn(work)
        wait_parked(child)
        with event._cond:
            child.cancel()
            wait_until(lambda: is_parked(child) and child.waits_for is WaitReason.LOCK)
            event._flag = True
            event._cond.notify_all()
    assert child.cancelled()
    assert reached == [True]


def test_forked_child_sets_an_event_that_the_parent_waits_for():
    """Who waits for it is not in the child process, and does not go on there."""
    code = """
        import os, threading, warnings
        from plait import ThreadGroup

        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() with threads
        event, condition = threading.Event(), threading.Condition()

        def say():  # in one piece: both may go on at once
            os.write(1, b"went on %r\\n" % (os.getpid() == parent))

        def wait():
            event.wait()
            say()

        def notified():
            with condition:
                condition.wait()
            say()

        def fork():
            pid = os.fork()
            if not pid:
                event.set()
                with condition:
                    condition.notify_all()
                with ThreadGroup() as group:
                    group.spawn(event.wait)
                os._exit(0)
            return os.waitpid(pid, 0)[1]

        parent = os.getpid()
        with ThreadGroup() as group:
            children = [group.spawn(wait), group.spawn(notified)]
            while not all(child.is_waiting() and child.waits_for for child in children):
                pass
            assert fork() == 0
            assert group.spawn(fork).result() == 0
            event.set()
            with condition:
                condition.notify_all()
    """
    assert run_python(code) == "went on True\n" * 2


@pytest.mark.parametrize("make", [threading.Semaphore, threading.BoundedSemaphore])
def test_semaphore(make):
    """At most so many threads, of both kinds, are inside a semaphore."""
    semaphore = make(3)
    guard = threading.Lock()
    inside = most = 0

    def enter():
        nonlocal inside, most
        for _ in range(5):
            with semaphore:
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with guard:
                    inside -= 1

    calls = [PlatformCall(enter) for _ in range(3)]
    with ThreadGroup() as group:
        for _ in range(12):
            group.spawn(enter)
    for call in calls:
        call.result()
    assert most == 3
    assert on_virtual(lambda: [semaphore.acquire() for _ in range(3)] + [semaphore.acquire(timeout=0.01)])[3] is False


def test_barrier():
    """A barrier lets its parties, of both kinds, go together; a broken one tells everybody."""
    barrier = threading.Barrier(4)
    calls = [PlatformCall(barrier.wait) for _ in range(2)]
    with ThreadGroup() as group:
        futures = [group.spawn(barrier.wait) for _ in range(2)]
    assert sorted([call.result() for call in calls] + [future.result() for future in futures]) == [0, 1, 2, 3]
    assert on_virtual(described, barrier.wait, 0.01) == ("raised", "BrokenBarrierError", "")


def test_timer():
    """A Timer started from a virtual thread fires, and can be cancelled; joining it parks."""
    fired = threading.Event()

    def body():
        timer = threading.Timer(0.01, fired.set)
        timer.start()
        assert fired.wait(20)
        timer.join()
        other = threading.Timer(3600, fired.clear)
        other.start()
        other.cancel()
        other.join()

    on_virtual(body)
    assert fired.is_set()


def test_thread_is_started_and_joined_from_a_virtual_thread():
    """`threading.Thread` works from a virtual thread: started, joined with and without timeout, found dead."""
    is_over = threading.Event()

    def body():
        thread = threading.Thread(target=is_over.wait, daemon=True)
        thread.start()
        thread.join(0.01)
        assert thread.is_alive()
        assert threading.main_thread() is not threading.current_thread()
        is_over.set()
        thread.join()
        thread.join(1)
        assert not thread.is_alive()
        return described(threading.current_thread().join)[:2]

    assert on_virtual(body) in {("raised", "RuntimeError"), ("raised", "AssertionError")}  # 3.11's for dummy threads


def test_many_join_one_thread():
    """Several virtual threads and a platform thread join the same thread, and all come back."""
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait, daemon=True)
    thread.start()
    call = PlatformCall(thread.join)
    with ThreadGroup() as group:
        joins = [group.spawn(thread.join) for _ in range(5)]
        wait_parked(*joins)
        joins[0].cancel()
        wait_until(joins[0].done)
        assert joins[0].cancelled()
        assert thread.is_alive()
        with pytest.raises(TimeoutError):
            joins[1].result(0.02)
        is_over.set()
    call.result()
    assert not thread.is_alive()
    thread.join()


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
@pytest.mark.parametrize("timeout", [None, "x", 1.5, Index(0), Index(-1), Index(-2), Index(1 << 70), float("nan")])
def test_odd_timeouts_of_a_lock(make, timeout):
    """What is only like an int is a timeout, and what is none is refused in the same words: held or not."""
    free, held = make(), make()
    held.acquire()
    locks = [free] if timeout in (1.5, None) or getattr(timeout, "_value", 0) == -1 else [free, held]
    for lock in locks:
        for keywords in ({}, {"blocking": False}):
            there = PlatformCall(
                described, lambda lock=lock, keywords=keywords: _tried(lock, keywords, timeout)
            ).result()
            assert on_virtual(described, _tried, lock, keywords, timeout) == there


@pytest.mark.parametrize("timeout", [b"x", [], 1j, Index(0), 1e20, 2**63, float("inf")])
def test_odd_timeouts_of_conditions_and_events(timeout):
    """They are refused in the same words."""

    def waited():
        condition = threading.Condition()
        with condition:
            return condition.wait(timeout)

    for wait in (waited, lambda: threading.Event().wait(timeout)):
        assert on_virtual(described, wait) == PlatformCall(described, wait).result()


class Whole(Index):
    """A number of another library's: only like an int, but it can be compared."""

    def __gt__(self, other):
        return self._value > other

    def __lt__(self, other):
        return self._value < other


class Thing:
    """Something that is only like a float."""

    def __float__(self):
        return 0.01

    def __gt__(self, other):
        return float(self) > other

    def __lt__(self, other):
        return float(self) < other


class Span(float):
    """A float that claims to be another one."""

    def __float__(self):
        return 3600.0


LIMITS = [Decimal("0.01"), Fraction(1, 100), Thing(), Span(0.01), Index(0), Whole(0), Whole(-1), Whole(1 << 70), "x"]


def _waits_of_conditions(limit):
    """What each wait with a limit that is built on a Condition gives; and whether nothing is left of it."""
    condition, event, is_over, outcomes = threading.Condition(), threading.Event(), threading.Event(), []

    def tell(wait, *args):
        with condition:
            outcomes.append(described(wait, *args))
            outcomes.append((condition._is_owned(), len(condition._waiters)))

    full = queue.Queue(1)
    full.put(None)
    tell(condition.wait, limit)
    tell(condition.wait_for, lambda: False, limit)
    waits = (
        event.wait,
        lambda limit: threading.Semaphore(0).acquire(timeout=limit),
        threading.Barrier(2).wait,
        lambda limit: queue.Queue().get(timeout=limit),
        lambda limit: full.put(None, timeout=limit),
        concurrent.futures.Future().result,
        lambda limit: len(concurrent.futures.wait([concurrent.futures.Future()], limit).not_done),
        _started_thread(is_over).join,
    )
    outcomes += [described(wait, limit) for wait in waits]
    outcomes.append(len(event._cond._waiters))
    event.set()
    is_over.set()
    outcomes.append(described(event.wait, limit))
    return outcomes


def _started_thread(event):
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_of_any_class(limit):
    """What CPython refuses is refused in its words, by a Condition that has its lock and nobody on its list."""
    plain = PlatformCall(_waits_of_conditions, limit).result()

    def bound():
        with timeout(60):
            return _waits_of_conditions(limit)

    assert on_virtual(_waits_of_conditions, limit) == plain
    assert PlatformCall(bound).result() == plain


def test_notification_after_a_refused_limit():
    """It goes to who waits, not to the one whose limit was refused."""
    condition = threading.Condition()

    class Long:
        """More than zero, and no number."""

        def __gt__(self, other):
            return True

    def refused():
        with condition:
            condition.wait(Long())

    def wait():
        with condition:
            return condition.wait()

    with ThreadGroup() as group:
        assert described(on_virtual, refused)[1] == "TypeError"
        waiter = group.spawn(wait)
        wait_parked(waiter)
        with condition:
            condition.notify()
        assert waiter.result() is True


def test_limits_that_are_only_like_an_int():
    """Who waits for so long parks, and the carrier goes on."""
    condition, event, limit = threading.Condition(), threading.Event(), Whole(3600)
    thread = _started_thread(event)

    def wait():
        with condition:
            return condition.wait(limit)

    with ThreadGroup() as group:
        waiters = [group.spawn(wait), group.spawn(event.wait, limit), group.spawn(thread.join, limit)]
        wait_parked(*waiters)
        with condition:
            condition.notify()
        event.set()
        assert [waiter.result() for waiter in waiters] == [True, True, None]
    assert not thread.is_alive()


def test_refused_timeout_of_a_lock_has_one_cause():
    """Its error has come of no other."""
    for lock in (threading.Lock(), threading.RLock()):
        with pytest.raises(TypeError) as caught:
            on_virtual(lock.acquire, timeout="x")
        assert caught.value.__context__ is None


def _tried(lock, keywords, timeout):
    has_it = lock.acquire(timeout=timeout, **keywords)
    if has_it:
        lock.release()
    return has_it


# ---- queues ----


@pytest.mark.parametrize("make", [queue.Queue, queue.LifoQueue, queue.PriorityQueue, queue.SimpleQueue])
@pytest.mark.parametrize("consumer", ["virtual", "platform"])
@pytest.mark.parametrize("producer", ["virtual", "platform"])
def test_queue_moves_everything_once(make, consumer, producer):
    """Every item put arrives exactly once, whatever threads put and get."""
    items = make() if make is queue.SimpleQueue else make(3)
    with ThreadGroup() as group:
        run = {"virtual": group.spawn, "platform": PlatformCall}

        def produce(start):
            for number in range(start, start + 50):
                items.put(number)

        def consume():
            return [items.get() for _ in range(50)]

        takers = [run[consumer](consume) for _ in range(4)]
        for start in range(0, 200, 50):
            run[producer](produce, start)
        got = [number for taker in takers for number in taker.result()]
    assert sorted(got) == list(range(200))


@pytest.mark.parametrize("make", [queue.Queue, queue.SimpleQueue])
@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ((), {"timeout": 0.02}),
        ((), {"timeout": 0}),
        ((False,), {}),
        ((), {"block": False, "timeout": -1}),
        ((), {"timeout": -1}),
        ((True, 0.02), {}),
        ((True, "x"), {}),
        ((1, 2, 3), {}),
        ((), {"timeout": 1e100}),
        ((), {"timeout": float("nan")}),
        ((), {"timeout": Index(0)}),
        ((True, Index(-1)), {}),
    ],
)
def test_get_from_an_empty_queue(make, arguments, keywords):
    """Timeouts, trials and wrong arguments end as the original ends them."""
    if make is queue.Queue and "nan" in str(keywords):
        pytest.skip("the original waits for ever")
    items = make()
    got = on_virtual(described, items.get, *arguments, **keywords)
    expected = described(items.get, *arguments, **keywords)
    if expected[1] == "TypeError":
        got, expected = got[:2], expected[:2]
    assert got == expected


def test_put_into_a_full_queue():
    """`put` parks while the queue is full; `join` parks until all is done."""
    items = queue.Queue(1)
    items.put(0)
    with ThreadGroup() as group:
        assert group.spawn(described, items.put, 1, timeout=0.01).result() == ("raised", "Full", "")
        putter = group.spawn(items.put, 1)
        joiner = group.spawn(items.join)
        wait_parked(putter, joiner)
        for number in (0, 1):
            assert items.get() == number
            items.task_done()


def test_simple_queue_serves_the_parked_in_order():
    """Those who wait for a SimpleQueue are served in the order of their coming."""
    items = queue.SimpleQueue()
    with ThreadGroup() as group:
        takers = []
        for _ in range(5):
            takers.append(group.spawn(items.get))
            wait_parked(takers[-1])
        for number in range(5):
            items.put_nowait(number)
    got = [taker.result() for taker in takers]
    assert sorted(got) == list(range(5))
    assert got == sorted(got) or carriers() > 1  # those who were woken on several carriers run at once


def test_objects_made_before_install():
    """Locks, conditions, events and queues made before the runtime started, and methods taken from them, follow."""
    code = """
        import queue, threading, time
        from _thread import allocate_lock
        locks = [threading.Lock(), allocate_lock(), threading.RLock(), threading.Condition(), threading.Semaphore()]
        acquires = [lock.acquire for lock in locks]
        releases = [lock.release for lock in locks]
        event, numbers, simple = threading.Event(), queue.Queue(), queue.SimpleQueue()
        wait, get, take, put = event.wait, numbers.get, simple.get, simple.put
        for acquire in acquires:
            acquire()

        import plait
        with plait.ThreadGroup() as group:
            def cycle(acquire, release):
                acquire()
                time.sleep(0.001)
                release()
            for acquire, release in zip(acquires, releases):
                group.spawn(cycle, acquire, release)
                group.spawn(cycle, acquire, release)
            others = [group.spawn(wait), group.spawn(get), group.spawn(take)]
            time.sleep(0.02)
            for release in releases:
                release()
            event.set()
            numbers.put("a")
            put("b")
        print([other.result() for other in others])
    """
    assert run_python(code, PLAIT_CARRIERS="1") == "[True, 'a', 'b']\n"


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock, lambda: queue.SimpleQueue()])
def test_wake_that_a_signal_handler_has_come_across(make):
    """A handler waits in the middle of a wait that was just woken, and raises: the wake goes to the next."""
    waited_for = make()

    class Hup(Exception):
        """What the handler raises."""

    def get():
        if isinstance(waited_for, queue.SimpleQueue):
            waited_for.get()
        else:
            waited_for.acquire()
            waited_for.release()

    held, go = threading.Event(), threading.Event()

    def hold():
        if isinstance(waited_for, queue.SimpleQueue):
            held.set()
            go.wait()
            waited_for.put("for the main thread")  # which is gone by the time
        else:
            with waited_for:
                held.set()
                go.wait()
        over.set()

    over = threading.Event()
    nothing = Limiter(1)
    nothing.acquire()

    def handler(number, frame):
        go.set()
        while not over.is_set():
            sleep(0.001)  # no wait of plait's: leaves block here
        nothing.acquire(timeout=0.001)  # but this is one
        raise Hup

    main = current_thread()

    def ring():
        wait_until(lambda: is_parked(main))
        second.append(group.spawn(get))
        wait_parked(second[0])
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    second = []
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with ThreadGroup() as group:
            group.spawn(hold)
            held.wait()
            group.spawn(ring)
            with pytest.raises(Hup):
                get()
            second[0].result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_take_lock():
    """A free lock is taken, as by `acquire(False)`; one that is held is not."""
    lock = threading.Lock()
    assert take_lock(lock) is True
    assert lock.locked()
    assert take_lock(lock) is False
    assert lock.acquire(blocking=False) is False
    lock.release()
    assert not lock.locked()
    assert lock.acquire(blocking=False) is True
    assert take_lock(lock) is False


def test_take_lock_of_what_looks_different():
    """What is no lock as we know it is asked for."""
    calls = []
    take = lock_taker(lambda *args: calls.append(args) or True)
    other = threading.RLock()
    assert take(other) is True
    assert calls == [(other, False)]
