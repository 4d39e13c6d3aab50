"""pmap, gather, race, as_completed: many calls whose results come as if one function had made them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import queue
import threading
import time
import traceback

import pytest
from support import handler_during, run_anywhere, run_program, until, wait_parked

from plait import (
    Cancelled,
    GroupClosed,
    GroupFailed,
    ThreadGroup,
    as_completed,
    gather,
    move_on_after,
    offload,
    pmap,
    race,
    shield,
)
from plait._core import WaitReason, current_thread
from plait._originals import monotonic

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


class Oops(Exception):
    pass


class Meter:
    """How many calls are at work, and the most there have been."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = self.ended = 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *exc_info):
        with self.lock:
            self.now -= 1
            self.ended += 1


def sleep_forever(*_):
    time.sleep(3600)


# ---- gather


@WHERE
def test_gather_keeps_the_order(where):
    """Results come in the order of the functions, whenever each is done."""

    def body():
        spans = [0.01, 0.001, 0.005]
        assert gather(*(lambda s=s: time.sleep(s) or s for s in spans)) == spans
        assert gather() == []

    run_anywhere(where, body)


@WHERE
def test_gather_raises_the_first_failure_itself(where):
    """The first error is raised as it is, with a note and all failures as its cause; the others have ended."""

    def body():
        meter = Meter()

        def wait():
            with meter:
                sleep_forever()

        def fail():
            until(lambda: meter.now == 2)
            raise Oops("first")

        with pytest.raises(Oops, match="first") as caught:
            gather(wait, fail, wait)
        assert meter.ended == 2
        assert "raised by call 1 of gather" in caught.value.__notes__[0]
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert caught.value.__cause__.exceptions == (caught.value,)

    run_anywhere(where, body)


def test_gather_that_is_cancelled_quietly():
    """One whose call cancels the others while they are still being spawned has no results, and says so."""
    groups = []

    def cancel():
        groups.append(ThreadGroup.current)
        groups[0].cancel("enough")

    class Second:
        """Its thread's name is not there before the group is cancelled."""

        def __getattr__(self, name):
            until(lambda: groups and groups[0].statistics().is_cancelled)
            raise AttributeError(name)

        def __call__(self):
            raise AssertionError("called")

    with pytest.raises(concurrent.futures.CancelledError) as caught:
        gather(cancel, Second())
    assert str(caught.value) == "the gather was cancelled before all of its calls had been spawned"


# ---- race


@WHERE
def test_race_is_won_by_the_first(where):
    """The first result counts, and the others have ended when it is returned."""

    def body():
        meter = Meter()

        def slow():
            with meter:
                sleep_forever()

        def quick():
            until(lambda: meter.now == 2)
            return "quick"

        assert race(slow, quick, slow) == "quick"
        assert meter.ended == 2

    run_anywhere(where, body)


def test_race_may_be_won_by_a_failure():
    """The first that ends decides, with an error, too; errors of those who have lost are dropped."""

    def fail():
        raise Oops

    with pytest.raises(Oops):
        race(fail, sleep_forever)

    def fail_when_cancelled():
        try:
            sleep_forever()
        except Cancelled:
            raise Oops from None

    started = []

    def win():
        until(lambda: started)
        return "won"

    def lose():
        started.append(1)
        fail_when_cancelled()

    assert race(lose, win) == "won"


def test_race_whose_loser_exits():
    """What is no Exception does not vanish: who loses by SystemExit ends the race so."""
    started = []

    def lose():
        try:
            started.append(1)
            sleep_forever()
        finally:
            raise SystemExit(3)

    def win():
        until(lambda: started)
        return "won"

    with pytest.raises(SystemExit):
        race(lose, win)


def test_race_without_runners():
    """It has no outcome, and says so."""
    with pytest.raises(ValueError, match="^race needs at least one function to call$"):
        race()


@pytest.mark.parametrize("collect", [gather, race])
@pytest.mark.parametrize("wrong", [3, "fetch", [abs]])
def test_call_of_something_that_is_not_callable(collect, wrong):
    """What cannot be called is refused before anything is called, with how to write it."""
    called = []
    name = collect.__name__
    with pytest.raises(TypeError) as caught:
        collect(lambda: called.append(1), wrong)
    assert str(caught.value) == (
        f"{name} needs functions to call without arguments, not {wrong!r}: write {name}(partial(fn, x)), not {name}(fn(x))"
    )
    assert called == []


# ---- as_completed


@WHERE
def test_as_completed(where):
    """Futures come in the order in which they end, each once, of either kind."""

    def body():
        gates = [queue.SimpleQueue() for _ in range(3)]
        done_before = concurrent.futures.Future()
        done_before.set_result("done before")
        with ThreadGroup() as group:
            futures = [group.spawn(gate.get) for gate in gates]
            coming = as_completed([*futures, done_before, futures[0]])
            assert next(coming) is done_before
            for place in (2, 0, 1):
                gates[place].put(place)
                assert next(coming) is futures[place]
            assert list(coming) == []

    run_anywhere(where, body)


def test_as_completed_of_very_many():
    """What each future costs does not grow with their number. (20,000 took 17 seconds when it did.)"""
    with ThreadGroup() as group:
        futures = [group.spawn(int) for _ in range(20_000)]
        since = time.monotonic()
        assert sum(future.result() == 0 for future in as_completed(futures)) == 20_000
        assert time.monotonic() - since < 8


def test_as_completed_in_time():
    """Past its timeout it raises TimeoutError, and says how many are missing."""
    with ThreadGroup() as group:
        future = group.spawn(sleep_forever)
        with pytest.raises(TimeoutError, match=r"^1 of 1 futures are not done after 0\.005 seconds$"):
            list(as_completed([future], timeout=0.005))
        group.cancel()


@WHERE
def test_as_completed_left_half_way(where):
    """Whoever asks for futures again and again, and leaves each time, leaves nothing behind with those not done."""

    def body():
        foreign = concurrent.futures.Future()
        with ThreadGroup() as group:
            future = group.spawn(sleep_forever)
            quick = group.spawn(int)
            for _ in range(3):
                for _ in as_completed([future, foreign, quick]):
                    break
                with pytest.raises(TimeoutError):
                    list(as_completed([future, foreign], timeout=0))
            assert (future._watch().callbacks, foreign._done_callbacks) == ([], [])
            group.cancel()

    run_anywhere(where, body)


@pytest.mark.parametrize("wrong", [3, "future", abs, [concurrent.futures.Future()]])
def test_as_completed_of_something_that_is_no_future(wrong):
    """What is no future is refused at once, by its name."""
    with pytest.raises(TypeError) as caught:
        as_completed([concurrent.futures.Future(), wrong])
    assert str(caught.value) == f"as_completed needs futures, as spawn() and submit() give them, not {wrong!r}"


def test_as_completed_of_one_future():
    """A future alone is refused, with what to write instead."""
    future = concurrent.futures.Future()
    with pytest.raises(TypeError) as caught:
        as_completed(future)
    assert (
        str(caught.value) == f"as_completed needs several futures, not {future!r} alone: write as_completed([future])"
    )


def test_as_completed_of_a_future_of_asyncio():
    """A future that belongs to an event loop is refused, for whoever waits for it here stops that loop."""

    async def main():
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(TypeError) as caught:
            as_completed([future])
        assert str(caught.value) == (
            f"as_completed needs futures that threads can wait for, not one of asyncio: {future!r}. For those there is "
            f"asyncio.as_completed()"
        )

    asyncio.run(main())


# ---- pmap


@WHERE
@pytest.mark.parametrize("ordered", [True, False])
def test_pmap_gives_every_result_once(where, ordered):
    """All results, in order if asked for, with no more calls at a time than the limit."""

    def body():
        meter = Meter()

        def work(n):
            with meter:
                time.sleep((n * 7 % 5) / 2000)
                return n * n

        results = list(pmap(work, range(50), limit=4, ordered=ordered))
        expected = [n * n for n in range(50)]
        assert (results if ordered else sorted(results)) == expected
        assert meter.most <= 4

    run_anywhere(where, body)


def test_pmap_unordered_gives_what_is_ready():
    """A slow call holds nobody up."""
    gate = threading.Event()
    results = pmap(lambda n: n or (gate.wait() and 0), range(4), limit=2, ordered=False)
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    gate.set()
    assert list(results) == [0]


def test_pmap_is_lazy_and_bounded():
    """Nothing is taken before it is asked for, and no more than there is room for: an endless iterable is fine."""
    taken = []

    def endless():
        for n in itertools.count():
            taken.append(n)
            yield n

    results = pmap(abs, endless(), limit=3)
    assert taken == []
    assert next(results) == 0
    assert len(taken) == 3
    assert [next(results) for _ in range(100)] == list(range(1, 101))
    assert len(taken) <= 104
    results.close()


@WHERE
@pytest.mark.parametrize("ordered", [True, False])
def test_pmap_raises_the_first_failure_itself(where, ordered):
    """A call's error is the iterator's; the other calls have ended; a note says which item it was."""

    def body():
        meter = Meter()

        def work(n):
            if n == 3:
                until(lambda: meter.now >= 1)
                raise Oops("three")
            with meter:
                time.sleep(0 if n < 2 else 3600)

        with pytest.raises(Oops, match="three") as caught:
            list(pmap(work, range(100), limit=4, ordered=ordered))
        assert meter.now == 0
        assert any("raised by call 3 of pmap: 3" in note for note in caught.value.__notes__)
        assert isinstance(caught.value.__cause__, ExceptionGroup)

    run_anywhere(where, body)


def test_pmap_error_of_the_iterable():
    """What the iterable raises comes out, and the calls have ended."""
    meter = Meter()

    def items():
        yield 1
        yield 2
        until(lambda: meter.now == 2)
        raise Oops

    def work(n):
        with meter:
            sleep_forever()

    with pytest.raises(Oops):
        list(pmap(work, items(), limit=5))
    assert meter.now == 0
    assert meter.ended == 2


@WHERE
def test_pmap_abandoned_half_way(where):
    """Left early, by break, by close() or with the last reference, its calls are cancelled and have ended."""

    def body():
        def start(meter):
            def work(n):
                if n:
                    with meter:
                        sleep_forever()

            return pmap(work, itertools.count(), limit=3)

        meter = Meter()
        for _ in start(meter):
            until(lambda meter=meter: meter.now == 2)
            break
        assert (meter.now, meter.ended) == (0, 2)

        meter = Meter()
        results = start(meter)
        next(results)
        until(lambda: meter.now == 2)
        results.close()
        assert (meter.now, meter.ended) == (0, 2)
        assert list(results) == []

    run_anywhere(where, body)


@WHERE
def test_failure_that_a_pmap_is_left_with(where):
    """What a call raises when the iterator is given up is not lost: it is raised instead, or noted on what is."""

    def fail_at_the_end(n):
        if n:
            at_work.put(n)
            try:
                sleep_forever()
            finally:
                raise Oops(n)

    def items():
        yield from (0, 1)
        at_work.get()
        raise KeyError("no more")

    def body():
        results = pmap(fail_at_the_end, (0, 1), limit=2)
        next(results)
        at_work.get()
        with pytest.raises(Oops):
            results.close()
        results = pmap(fail_at_the_end, (0, 1), limit=2)
        with pytest.raises(Oops), move_on_after(3600) as scope:
            next(results)
            at_work.get()
            scope.reschedule(0)
            next(results)
        with pytest.raises(KeyError) as error:
            list(pmap(fail_at_the_end, items(), limit=3))
        assert error.value.__notes__ == ["<ThreadGroup 'pmap'> also failed with Oops(1)"]

    at_work = queue.SimpleQueue()
    run_anywhere(where, body)


def test_pmap_collected_in_a_cycle():
    """An iterator that the garbage collector finds is cancelled, without a wait."""
    meter = Meter()

    def work(n):
        if n:
            with meter:
                sleep_forever()

    def leave_a_cycle():
        cycle = [pmap(work, itertools.count(), limit=3)]
        cycle.append(cycle)
        next(cycle[0])
        until(lambda: meter.now == 2)

    with ThreadGroup() as group:
        group.spawn(leave_a_cycle).result()
        gc.collect()
        until(lambda: meter.now == 0)


def test_pmap_under_a_cancel():
    """A cancel of the caller's group reaches the calls, whether the caller is asking just now or not."""

    def work(n):
        if n:
            with meter:
                sleep_forever()

    def consume(steps):
        results = pmap(work, itertools.count(), limit=3)
        for _ in range(steps):
            next(results)
        sleep_forever()

    for steps in (1, 2):
        meter = Meter()
        with ThreadGroup() as group:
            future = group.spawn(consume, steps)
            until(lambda meter=meter, at_work=steps + 1: meter.now == at_work)
            wait_parked(future)
            group.cancel()
        assert (meter.now, meter.ended) == (0, steps + 1)


def test_pmap_in_a_full_group():
    """It takes no slot of the group that it is used in."""

    def body():
        return sum(pmap(abs, range(10), limit=2))

    with ThreadGroup(max_concurrency=1) as group:
        future = group.spawn(body)
    assert future.result() == 45


def test_pmap_runs_calls_on_virtual_threads():
    """Each call is a thread of its own, the iterable is run by the consumer."""
    seen = []

    def items():
        seen.append(current_thread())
        yield 1

    [thread] = pmap(lambda n: current_thread(), items())
    assert seen == [current_thread()]
    assert thread is not current_thread()


@pytest.mark.parametrize(
    ("arguments", "keywords", "kind", "text"),
    [
        ((3, []), {}, TypeError, "pmap needs something to call, not 3: write pmap(fn, items), not pmap(fn(x), items)"),
        ((abs, 3), {}, TypeError, "'int' object is not iterable"),
        ((abs, []), {"limit": 0}, ValueError, "limit must be at least 1, not 0: with none nothing could ever run"),
        ((abs, []), {"limit": 1.5}, TypeError, "limit must be a whole number or None, not 1.5"),
        ((abs, []), {"limit": True}, TypeError, "limit must be a whole number or None, not True"),
    ],
)
def test_pmap_misuse(arguments, keywords, kind, text):
    """Wrong arguments are refused at once, in words."""
    with pytest.raises(kind) as caught:
        pmap(*arguments, **keywords)
    assert str(caught.value) == text


@pytest.mark.parametrize("ordered", [True, False])
def test_pmap_whose_group_is_over(ordered):
    """An iterator that goes on when the group it began in is over says so: it does not seem to have come to its end."""
    with ThreadGroup():
        squares = pmap(lambda n: n * n, itertools.count(), limit=2, ordered=ordered)
        next(squares)
    with pytest.raises((GroupClosed, GroupFailed, concurrent.futures.CancelledError)):
        list(squares)


def test_failure_that_takes_no_note():
    """An item without a repr, or an error that cannot be noted on: what is raised is still the call's own error."""

    class Unnoted(Exception):
        __notes__ = ()

    def fail(error):
        raise error

    with pytest.raises(Oops):
        list(pmap(lambda number: fail(Oops(number.bit_length())), [10**5000]))
    with pytest.raises(Unnoted):
        list(pmap(fail, [Unnoted()]))
    with pytest.raises(Unnoted):
        gather(lambda: fail(Unnoted()))


def test_causes_of_a_failure_are_kept():
    """What a failure came from itself is still to be seen in its traceback."""

    def fail():
        try:
            raise OSError("origin")
        except OSError as error:
            raise ConnectionError("outer") from error

    with pytest.raises(ConnectionError) as caught:
        gather(fail)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert "origin" in "".join(traceback.format_exception(caught.value))


def test_race_that_is_cancelled_quietly():
    """A race that a runner cancels before anybody has finished has no winner, and says so."""

    def cancel():
        ThreadGroup.current.cancel()
        time.sleep(3600)

    with pytest.raises(concurrent.futures.CancelledError) as caught:
        race(cancel, lambda: time.sleep(3600))
    assert str(caught.value) == "the race was cancelled before any of its calls had returned"


def test_note_names_long_items_and_crashes():
    """The note on a failure has the whole item, if that is of a sensible length, whatever the failure is."""
    url = "https://example.org/" + "x" * 100

    def crash(item):
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        list(pmap(crash, [url]))
    assert f"raised by call 0 of pmap: {url!r}" in caught.value.__notes__


def test_threads_of_a_race_are_called_after_their_functions():
    """So that messages name them."""
    names = []

    def runner():
        names.append(threading.current_thread().name)

    race(runner)
    assert "runner-" in names[0]


def test_iterator_that_is_alive_at_the_end_of_the_process():
    """It is dropped without a word."""
    out, err = run_program("""
        import itertools, time
        from plait import pmap
        squares = pmap(lambda n: n * n if n < 1 else time.sleep(3600), itertools.count(), limit=4)
        print(next(squares))
    """)
    assert (out, err) == ("0\n", "")


@WHERE
def test_pmap_in_clean_up(where):
    """It may be used in a finally of a cancelled group, as anything that waits."""
    results = []

    def body():
        with ThreadGroup() as group:
            group.cancel()
            try:
                time.sleep(3600)
            finally:
                results.extend(pmap(abs, [-1, -2]))

    run_anywhere(where, body)
    assert results == [1, 2]


@WHERE
def test_pmap_in_a_shield(where):
    """A shield around it hides cancels from its calls, whether they come before or while it is at work."""
    results = []

    def body():
        results.clear()
        with ThreadGroup() as group, shield(timeout=3600):
            squares = pmap(abs, itertools.count(), limit=2)
            results.append(next(squares))
            group.cancel()
            results.append(next(squares))
            squares.close()
            results.extend(pmap(abs, [-7]))

    run_anywhere(where, body)
    assert results == [0, 1, 7]


def test_pmap_of_a_group_inside_a_shield_ends_with_the_group():
    """The shield is not its own: what is left of it ends with the group that it was begun in."""
    begun, ended = [], []

    def call(number):
        begun.append(number)
        try:
            if number:
                time.sleep(3600)
            until(lambda: len(begun) == 3)
        finally:
            ended.append(number)

    with shield(timeout=3600), ThreadGroup():
        kept = pmap(call, range(3))
        next(kept)
    assert sorted(ended) == [0, 1, 2]
    kept.close()


@WHERE
def test_pmap_in_clean_up_that_works_beyond_the_grace(where):
    """Whose step comes after the grace gets Cancelled, whatever became of the calls."""
    seen = []

    def body():
        with ThreadGroup(grace=0.3) as group:
            group.cancel()
            try:
                time.sleep(3600)
            finally:
                numbers = pmap(abs, itertools.count(), limit=1)
                next(numbers)
                end = monotonic() + 0.35
                while monotonic() < end:
                    pass
                with pytest.raises(Cancelled) as caught:
                    while True:
                        next(numbers)
                seen.append(caught.value.source is group)

    run_anywhere(where, body)
    assert seen == [True]


@pytest.mark.parametrize("call", [race, gather, offload])
def test_coroutine_functions_are_pointed_out(call):
    """As for spawn."""

    async def fetch():
        raise AssertionError("run")

    with pytest.raises(TypeError, match=r"fetch has returned a coroutine that nobody runs"):
        call(fetch)


class Oddly:
    """A callable whose name is none."""

    def __init__(self):
        self.__qualname__ = 5

    def __call__(self):
        return 1


def test_callable_with_an_odd_name():
    """Whatever it says it is called."""
    assert gather(Oddly()) == [1]
    assert race(Oddly()) == 1


def test_pmap_begun_by_a_handler_in_the_join_of_a_group():
    """The calls go on when the last child of that group has ended."""
    gate = threading.Event()
    results = []

    def handle():
        numbers = pmap(int, "123", limit=1)
        results.append(next(numbers))
        gate.set()
        until(lambda: child.done() and not len(group))
        results.extend(numbers)

    with handler_during(WaitReason.GROUP, handle), ThreadGroup() as group:
        child = group.spawn(gate.wait)
    assert results == [1, 2, 3]


def test_pmap_begun_by_a_handler_in_the_join_of_a_group_hears_of_its_cancel():
    """Though the calls are not in the group: whoever waits for them is."""
    trace = []

    def call(number):
        try:
            group.cancel("enough")
            sleep_forever()
        finally:
            trace.append(number)

    def handle():
        try:
            next(pmap(call, "1"))
        except Cancelled as told:
            trace.append(told.reason)
            raise

    with handler_during(WaitReason.GROUP, handle), ThreadGroup() as group:
        group.spawn(sleep_forever)
    assert trace == ["1", "enough"]


def test_handler_that_fails_while_a_pmap_is_closed():
    """What it raises leaves `close` when the calls have ended; the first such."""
    gate, at_work = threading.Event(), queue.SimpleQueue()
    ended, failures = [], [Oops("first"), Oops("second")]

    def work(number):
        if number:
            with shield(timeout=3600):
                at_work.put(number)
                gate.wait()
            ended.append(number)

    def handle():
        if len(failures) == 1:
            gate.set()
        raise failures.pop(0)

    results = pmap(work, (0, 1))
    next(results)
    at_work.get()
    with pytest.raises(Oops, match="first"), handler_during(WaitReason.FUTURE, handle, times=2):
        results.close()
    assert ended == [1]


FORK = """
        import concurrent.futures, os, select, signal, threading, time, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        def both(call):
            child = os.fork()
            if child:
                return os.waitpid(child, 0)[1]
            try:
                call()
            except RuntimeError as error:
                print(error, flush=True)
                os._exit(0)
            finally:
                os._exit(1)
"""


@pytest.mark.parametrize("where", ["main", "virtual"])
@pytest.mark.parametrize(
    "begin", ["pmap(abs, range(9), limit=2)", "pmap(abs, range(9), ordered=False)", "as_completed([done, parked])"]
)
def test_iterator_that_goes_on_in_a_forked_child(where, begin):
    """Its calls are the parent's: each step says so, and waits for nothing."""
    out, _ = run_program(f"""
        {FORK}
        def body():
            with plait.ThreadGroup() as group:
                done, parked = group.spawn(int), group.spawn(time.sleep, 3600)
                results = plait.{begin}
                next(results)
                print(both(lambda: next(results)))
                results.close()
                group.cancel()
        body() if {where!r} == "main" else plait.spawn(body).result()
    """)
    what = begin.partition("(")[0]
    assert out == (
        f"this {what} was begun in the process that has forked this one, where its calls are: begin another one here\n"
        "0\n"
    )


@pytest.mark.parametrize("where", ["main", "virtual"])
@pytest.mark.parametrize(
    "wait",
    [
        "parked.result()",
        "parked.exception(timeout=3600)",
        "concurrent.futures.wait([parked])",
        "next(plait.as_completed([parked]))",
        "plait.select(parked)",
    ],
)
def test_future_of_the_parents_in_a_forked_child(where, wait):
    """Who would wait for ever is told so."""
    out, _ = run_program(f"""
        {FORK}
        def body():
            with plait.ThreadGroup() as group:
                done, parked = group.spawn(int), group.options(name="sleeper").spawn(time.sleep, 3600)
                assert done.result() == 0
                while not parked.waits_for:
                    time.sleep(0.001)
                print(both(lambda: done.result() or {wait}))
                group.cancel()
        body() if {where!r} == "main" else plait.spawn(body).result()
    """)
    assert out == (
        "<Future of 'sleeper' running> belongs to the process that has forked this one, and here it never ends: wait for it "
        "there, or spawn another one here\n0\n"
    )


@pytest.mark.parametrize(
    ("call", "reason", "text"),
    [
        ("plait.gather(park)", "GROUP", "this gather was begun in"),
        ("plait.race(park)", "GROUP", "this race was begun in"),
        ("group.spawn(park).result()", "FUTURE", "<Future of 'park-1' "),
        ("group.start(lambda started: park())", "START", "<Future of "),
    ],
)
def test_fork_by_a_handler_in_a_wait_for_calls(call, reason, text):
    """In the child the wait that the handler has interrupted says that its calls are not there."""
    out, _ = run_program(f"""
        {FORK}
        def fork(*args):
            global is_struck, child
            if not is_struck:
                is_struck = True
                child = os.fork()
                if child:
                    status.append(os.waitpid(child, 0)[1])
                    gate.set()
        def strike():
            while not is_struck:
                if me.waits_for and me.waits_for.name == {reason!r}:
                    signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.001)
        def park():
            gate.wait()
        signal.signal(signal.SIGUSR1, fork)
        main, me = threading.main_thread().ident, plait._core.current_thread()
        gate, is_struck, status = threading.Event(), False, []
        threading.Thread(target=strike).start()
        try:
            with plait.ThreadGroup() as group:
                {call}
        except* RuntimeError as error:
            if not child:
                print(error.exceptions[0], flush=True)
                os._exit(0)
        print(status)
    """)
    assert out.startswith(text)
    assert out.endswith("\n[0]\n")


@pytest.mark.parametrize("where", ["main", "virtual"])
def test_loop_that_is_left_in_a_forked_child(where):
    """The calls are the parent's: the child waits for none of them."""
    out, _ = run_program(f"""
        import os, warnings, plait
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of a fork with threads
        def leave():
            for _ in plait.pmap(abs, range(100), limit=3):
                child = os.fork()
                if not child:
                    plait.spawn(int).result()
                break
            if not child:
                os._exit(0)
            return os.waitpid(child, 0)[1]
        print(leave() if {where!r} == "main" else plait.spawn(leave).result())
    """)
    assert out == "0\n"


def test_as_completed_of_the_own_future():
    """A thread that would wait for its own end is told so, as by `result`."""

    def body():
        ended = group.spawn(int)
        with pytest.raises(RuntimeError) as caught:
            next(as_completed([ended, current_thread()]))
        assert str(caught.value) == f"{current_thread()!r} cannot wait for its own outcome"

    with ThreadGroup(timeout=10) as group:
        group.spawn(body)
