"""Warnings for the known traps: limits that do not reach, scopes left open by generators, variables that change."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import inspect
import pickle
import threading
import time
import warnings

import pluggy
import pytest
from support import run_anywhere, run_in_vthread, run_program

from plait import (
    Cancelled,
    Channel,
    Limiter,
    Mutex,
    RebindAfterSpawn,
    RWLock,
    ThreadGroup,
    TimeoutDoesNotReachChild,
    VirtualThreadPoolExecutor,
    YieldInsideScope,
    _rebinding,
    _reprs,
    _spawning,
    as_completed,
    configure,
    deadline,
    gather,
    move_on_after,
    offload,
    pmap,
    race,
    select,
    shield,
    spawn,
    timeout,
)
from plait._core import current_thread
from plait._default import default_group
from plait.testing import cancel_at_park

WHERE = pytest.mark.parametrize("where", ["main", "platform", "virtual"])


def warned(caught, kind):
    """The messages of one kind, and the lines that they point to."""
    return [(str(w.message), w.filename, w.lineno) for w in caught if w.category is kind]


def line_of(text):
    with open(__file__) as file:
        [number] = [number for number, line in enumerate(file, 1) if line.rstrip().endswith(f"# {text}")]
    return number


# ---- time limits that do not reach


@WHERE
@pytest.mark.parametrize(
    "limit",
    [
        lambda: timeout(60),
        lambda: move_on_after(60),
        lambda: deadline(time.monotonic() + 60),
        lambda: ThreadGroup(timeout=60),
    ],
)
def test_limit_inside_the_group(where, limit):
    """A spawn inside a time limit, into a group around it, is pointed out at its line."""

    def body():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ThreadGroup(name="outer") as group:
                with limit() as scope:
                    group.spawn(int)  # not reached
        [(message, filename, line)] = warned(caught, TimeoutDoesNotReachChild)
        assert message == (
            f"{scope!r} does not limit what is spawned inside it into <ThreadGroup 'outer'>, which lies outside. Open the "
            "group inside the time limit, give the group a timeout, or put the limit into the function that is spawned"
        )
        assert (filename, line) == (__file__, line_of("not reached"))

    run_anywhere(where, body)


@pytest.mark.parametrize("way", ["spawn", "try_spawn", "spawn_daemon", "options"])
def test_every_way_to_spawn(way):
    """However it is spawned."""
    with ThreadGroup() as group, timeout(60):
        with pytest.warns(TimeoutDoesNotReachChild):
            if way == "options":
                group.options(name="x").spawn(int)
            else:
                getattr(group, way)(int)


def test_background_thread_in_a_limit():
    """The default group, too, lies outside."""
    with timeout(60), pytest.warns(TimeoutDoesNotReachChild):
        future = spawn(int)
    assert future.result() == 0


def test_limits_that_do_reach():
    """Nothing is said where the limit holds, where it is the group's own, or that of somebody else."""

    def member():
        group.spawn(int)
        with ThreadGroup() as own:
            own.spawn(int)

    with timeout(60):
        with ThreadGroup() as group:
            group.spawn(member)
            with shield(timeout=1):
                group.spawn(int)
                group.start(lambda started: started())  # the limit is for its word, too
        assert gather(int, int) == [0, 0]
        assert list(pmap(int, ["1", "2"])) == [1, 2]
    with ThreadGroup(timeout=60) as group:
        group.spawn(member)


# ---- scopes left open by generators


def limited():
    with move_on_after(3600) as scope:
        yield scope  # suspended here


def grouped():
    with ThreadGroup(name="generator's") as group:
        yield group


@WHERE
def test_scope_opened_inside_a_suspended_generators(where):
    """A scope that is opened while a generator is suspended inside another is pointed out, with where the generator is."""

    def body():
        generator = limited()
        scope = next(generator)
        with pytest.warns(YieldInsideScope) as caught:
            with timeout(60):
                pass
        [warning] = caught
        assert str(warning.message) == (
            f"{scope!r} is open in limited, {__file__}:{line_of('suspended here')}, which is suspended there: whoever runs "
            "it is inside that scope meanwhile, with its time limit and its cancels. Leave the scope before each yield, or "
            "hand the values over through pmap or a Channel"
        )
        assert warning.filename == __file__
        with timeout(60):  # it is said once
            pass
        generator.close()

    run_anywhere(where, body)


def test_spawn_inside_a_suspended_generators_group():
    """A spawn that would go into the group of a suspended generator is pointed out."""
    generator = grouped()
    group = next(generator)
    with pytest.warns(YieldInsideScope):
        future = spawn(int)
    assert future.group is group
    generator.close()


def test_cancel_by_a_suspended_generators_limit():
    """A cancel that strikes whoever runs the generator is pointed out."""
    generator = limited()
    scope = next(generator)
    scope.cancel_scope("enough", None)
    with pytest.warns(YieldInsideScope), pytest.raises(Cancelled):
        time.sleep(3600)
    generator.close()


def test_generators_that_are_blocks():
    """A generator that is run as a block, by contextlib, may yield inside a scope."""

    @contextlib.contextmanager
    def block():
        with ThreadGroup() as group, timeout(60):
            yield group

    with block() as group, ThreadGroup() as inner:
        inner.spawn(int)
        assert group.owner is inner.owner


def test_blocks_that_delegate():
    """So may one that it delegates to."""

    def inner():
        with timeout(60):
            yield

    @contextlib.contextmanager
    def block():
        yield from inner()

    with block(), timeout(60):
        pass


@pytest.fixture
def group_of_a_fixture():
    with ThreadGroup() as group:
        yield group


def test_generators_that_are_fixtures(group_of_a_fixture):
    """So may a fixture."""
    assert group_of_a_fixture.spawn(int).result() == 0
    with timeout(60):
        pass


@pytest.mark.parametrize("kind", ["wrapper", "hookwrapper"])
def test_generators_that_are_hook_wrappers(kind):
    """So may a wrapper of pluggy's, which is how plugins of pytest put a limit around each test."""
    hooks = pluggy.HookspecMarker("tests")
    hook = pluggy.HookimplMarker("tests")

    class Hooks:
        @hooks(firstresult=True)
        def call(self):
            pass

    class Limit:
        @hook(**{kind: True})
        def call(self):
            with timeout(60):
                return (yield)

    class Work:
        @hook
        def call(self):
            with ThreadGroup() as group:
                return group.spawn(int, "7").result()

    manager = pluggy.PluginManager("tests")
    manager.add_hookspecs(Hooks)
    manager.register(Limit())
    manager.register(Work())
    assert manager.hook.call() == 7
    with timeout(60):
        pass


def test_generators_that_are_at_work():
    """A generator that uses scopes between its yields, or that runs others inside, is none of these."""

    def between():
        for number in range(3):
            with timeout(60), ThreadGroup() as group:
                value = group.spawn(pow, number, 2).result()
            yield value

    def around():
        with timeout(60):
            values = list(between())
        yield from values

    assert list(around()) == [0, 1, 4]
    assert run_in_vthread(list, around()) == [0, 1, 4]  # the generator is the outermost frame there


def test_coroutine_that_awaits_inside_a_scope():
    """A coroutine that awaits inside a scope leaves it open in the loop."""

    async def limited():
        with move_on_after(60):
            await asyncio.sleep(0)

    async def other():
        with move_on_after(60):
            pass

    async def main():
        await asyncio.gather(limited(), other())

    with pytest.warns(YieldInsideScope):
        asyncio.run(main())


# ---- variables that change between spawn and start


@pytest.fixture
def development(monkeypatch):
    monkeypatch.setattr(_rebinding, "is_development", True)
    monkeypatch.setattr(_spawning, "is_development", True)
    # ThreadGroup.spawn has looked once, when it was imported: see test_development_mode.
    monkeypatch.setattr(
        ThreadGroup, "spawn", lambda group, fn, /, *args, **kwargs: _spawning.spawn(group, fn, args, kwargs)
    )


def test_variable_of_a_loop(development):
    """A closure over the variable of a loop is pointed out when it reads another value than the one it was spawned with."""
    gate = threading.Event()
    fetched = []

    def spawn_all(group):
        for url in ("a", "b"):
            group.spawn(lambda: fetched.append(url))  # reads url later

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadGroup(max_concurrency=None) as group:
            # One carrier or several: what is spawned by a thread that does not pause begins after it, or at once.
            group.spawn(spawn_all, group)
        gate.set()
    found = warned(caught, RebindAfterSpawn)
    if fetched == ["b", "b"]:
        [(message, filename, line)] = found
        assert message == (
            "'test_variable_of_a_loop.<locals>.spawn_all.<locals>.<lambda>' was spawned when 'url' was 'a', and begins "
            "when it is 'b': hand the value over, as in spawn(fn, url)"
        )
        assert (filename, line) == (__file__, line_of("reads url later"))
    else:
        assert not found


def test_variable_that_has_changed(development):
    """The same without luck: the variable changes before the thread can begin."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = 1
        watched = _rebinding.watch_variables(lambda: value)
        assert watched() == 1
        value = 2
        assert watched() == 2
    [(message, _, _)] = warned(caught, RebindAfterSpawn)
    assert message.endswith(
        "was spawned when 'value' was 1, and begins when it is 2: hand the value over, as in spawn(fn, value)"
    )


def test_variable_whose_value_cannot_be_shown(development):
    """What is said of a value is short, and a value that cannot be shown harms nobody."""

    class Unshown:
        def __repr__(self):
            raise ValueError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = Unshown()
        watched = _rebinding.watch_variables(lambda: value)
        value = "x" * 1000
        assert watched() is value
    [(message, _, _)] = warned(caught, RebindAfterSpawn)
    assert "was spawned when 'value' was <Unshown instance at " in message
    assert len(message) < 500


def test_variables_that_are_bound_later(development):
    """A variable that had no value yet, and functions without any, are no reason to warn."""

    def early():
        return late

    watched = _rebinding.watch_variables(early)
    late = 3
    assert watched() == 3
    assert _rebinding.watch_variables(int) is int
    assert _rebinding.watch_variables(len) is len
    with ThreadGroup() as group:
        future = group.spawn(early)
    assert future.result() == 3
    assert future.name.startswith("test_variables_that_are_bound_later.<locals>.early-")


def test_development_mode():
    """`python -X dev` turns it on; without it nothing is watched."""
    code = """
        import warnings
        from plait import ThreadGroup
        def spawn_all(group):
            for value in (1, 2):
                group.spawn(lambda: value)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ThreadGroup() as group:
                group.spawn(spawn_all, group)
        print([warning.category.__name__ for warning in caught])
    """
    assert run_program(code, PYTHONDEVMODE=1, PLAIT_CARRIERS=1)[0] == "['RebindAfterSpawn']\n"
    assert run_program(code, PYTHONDEVMODE="", PLAIT_CARRIERS=1)[0] == "[]\n"


def test_variable_of_a_loop_of_a_script():
    """At the top level of a script the variable of a loop is a global one; others there may change as they like."""
    code = """
        import warnings
        from plait import RebindAfterSpawn, ThreadGroup, spawn
        from plait._originals import sleep
        is_spawned, ready, seen = False, False, []
        def keep_the_carrier():
            while not is_spawned:
                sleep(0.001)
        def later():
            seen.append(url)
        def count():
            global ready, number
            seen.append((ready, number))
            ready = True
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with ThreadGroup() as group:
                group.spawn(keep_the_carrier)
                for number, (url, *_) in enumerate([("a", 1), ("b", 2)]):
                    group.spawn(later)
                    group.spawn(lambda: seen.append(number))
                    group.spawn(lambda number=number: seen.append(ready))
                    spawn(count)
                ready = None
                def of_a_function():
                    for url in ("c", "d"):
                        group.spawn(later)
                    group.spawn(lambda: seen.append(number))
                of_a_function()
                is_spawned = True
        for warning in caught:
            if warning.category is RebindAfterSpawn:
                print(warning.lineno, warning.message)
    """
    said = run_program(code, PYTHONDEVMODE=1, PLAIT_CARRIERS=1)[0].splitlines()
    what = "begins when it is {1}: hand the value over, as in spawn(fn, {0})"
    assert said == [
        "9 'later' was spawned when 'url' was 'a', and " + what.format("url", "'b'"),
        "21 '<lambda>' was spawned when 'number' was 0, and " + what.format("number", 1),
        "11 'count' was spawned when 'number' was 0, and " + what.format("number", 1),
    ]
    assert run_program(code, PYTHONDEVMODE="", PLAIT_CARRIERS=1)[0] == ""


# ---- calls that cannot be meant


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (timeout, "timeout needs its limit, in seconds: write timeout(5)"),
        (move_on_after, "move_on_after needs its limit, in seconds: write move_on_after(5)"),
        (deadline, "deadline needs an instant of time.monotonic(): write deadline(time.monotonic() + 5)"),
        (shield, "a shield needs its limit by name, in seconds: write shield(timeout=5)"),
        (Mutex, "Mutex needs the value that it protects: write Mutex(value), or Mutex(None) if there is none"),
        (RWLock, "RWLock needs the value that it protects: write RWLock(value), or RWLock(None) if there is none"),
        (
            Channel,
            (
                "Channel needs its capacity: write Channel(8) for one that holds up to 8 values, or Channel(0) for one "
                "whose senders wait for receivers"
            ),
        ),
        (Limiter, "Limiter needs the number of its slots: write Limiter(8) for eight at a time"),
        (cancel_at_park, "cancel_at_park needs the number of a park: write cancel_at_park(1), or see every_park()"),
    ],
)
def test_what_is_needed_is_not_given(make, message):
    """Who leaves it out is told what it is, and how it is written."""
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("option", ["limit", "max_workers", "anything"])
def test_option_that_groups_do_not_have(option):
    """It is told which there are."""
    with pytest.raises(TypeError) as caught:
        ThreadGroup(**{option: 3})
    assert str(caught.value) == (
        f"ThreadGroup has no option {option!r}: it takes max_concurrency, timeout, grace, on_error and name, and "
        "max_concurrency is how many children may be at work at a time"
    )


SLOTS = "it takes the number of its slots alone, as in Limiter(8)"
VALUE = "it takes a value and, by name, poison, as in Mutex(value, poison=True)"
CAPACITY = "it takes its capacity alone, as in Channel(8)"
SECONDS = "it takes its limit alone, in seconds, as in timeout(5)"
PARK = "it takes the number of a park and, by name, grace, as in cancel_at_park(3, grace=1)"
WAIT = "it waits as long as it takes. A limit goes around it, `with timeout(5):`, or into select(channel, after=5)"
OWN_OPTIONS = (
    "its own are on_cancel and executor. One of the function goes with that, as in offload(partial(fn, x, base=8)); a time "
    "limit goes around it, `with timeout(5):`"
)
CALLS = (
    "it takes functions alone, as in {0}(f, partial(g, x)). A limit on how many are at work is pmap's, a time limit goes "
    "around it, `with timeout(5):`"
)
ITEMS = (
    "it takes a function, one iterable and, by name, limit and ordered, as in pmap(fn, items, limit=8); for two iterables "
    "write pmap(lambda pair: fn(*pair), zip(xs, ys))"
)
FUTURES = "it takes futures and a timeout, as in as_completed(futures, timeout=5)"
POOL = "it takes max_workers, thread_name_prefix, initializer and initargs, as ThreadPoolExecutor does"
SPAWN = "it takes name, context and on; a time limit goes into the function, or into ThreadGroup(timeout=5)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Limiter(max_concurrency=3), f"Limiter has no option 'max_concurrency': {SLOTS}"),
        (lambda: Limiter(2, 3), f"Limiter has no place for 3: {SLOTS}"),
        (lambda: Mutex(1, True), f"Mutex has no place for True: {VALUE}"),
        (lambda: Mutex(1, poisoned=True), f"Mutex has no option 'poisoned': {VALUE}"),
        (lambda: RWLock(1, 2), "RWLock has no place for 2: it takes a value alone, as in RWLock(value)"),
        (lambda: RWLock(1, poison=True), "RWLock has no option 'poison': it takes a value alone, as in RWLock(value)"),
        (lambda: Channel(size=3), f"Channel has no option 'size': {CAPACITY}"),
        (lambda: Channel(1, 2), f"Channel has no place for 2: {CAPACITY}"),
        (lambda: Channel(1).recv(timeout=1), f"Channel.recv has no option 'timeout': {WAIT}"),
        (lambda: Channel(1).send("x", timeout=1), f"Channel.send has no option 'timeout': {WAIT}"),
        (lambda: timeout(timeout=5), f"timeout has no option 'timeout': {SECONDS}"),
        (lambda: timeout(1, 2), f"timeout has no place for 2: {SECONDS}"),
        (
            lambda: move_on_after(delay=3),
            f"move_on_after has no option 'delay': {SECONDS.replace('timeout', 'move_on_after')}",
        ),
        (
            lambda: deadline(timeout=3),
            (
                "deadline has no option 'timeout': it takes an instant of time.monotonic() alone, as in "
                "deadline(time.monotonic() + 5)"
            ),
        ),
        (
            lambda: shield(seconds=5),
            "shield has no option 'seconds': it takes its limit, in seconds, as in shield(timeout=5)",
        ),
        (lambda: cancel_at_park(park=1), f"cancel_at_park has no option 'park': {PARK}"),
        (lambda: cancel_at_park(1, 5), f"cancel_at_park has no place for 5: {PARK}"),
        (
            lambda: select(Channel(1), timeout=1),
            "select has no option 'timeout': a limit of its own is after, in seconds, as in select(channel, after=5)",
        ),
        (lambda: offload(int, "3", base=8), f"offload has no option 'base': {OWN_OPTIONS}"),
        (lambda: gather(int, timeout=3), f"gather has no option 'timeout': {CALLS.format('gather')}"),
        (lambda: race(limit=3), f"race has no option 'limit': {CALLS.format('race')}"),
        (lambda: pmap(pow, [1], [2]), f"pmap has no place for [2]: {ITEMS}"),
        (lambda: pmap(int, [1], max_concurrency=3), f"pmap has no option 'max_concurrency': {ITEMS}"),
        (lambda: as_completed([], limit=3), f"as_completed has no option 'limit': {FUTURES}"),
        (lambda: as_completed([], None, 3), f"as_completed has no place for 3: {FUTURES}"),
        (lambda: VirtualThreadPoolExecutor(workers=3), f"VirtualThreadPoolExecutor has no option 'workers': {POOL}"),
        (lambda: ThreadGroup().options(timeout=3), f"ThreadGroup.options has no option 'timeout': {SPAWN}"),
        (lambda: ThreadGroup().options("reader"), f"ThreadGroup.options has no place for 'reader': {SPAWN}"),
        (
            lambda: configure(threads=3),
            "configure has no option 'threads': it takes carriers and strict_groups, by name",
        ),
    ],
)
def test_arguments_that_have_no_place(call, message):
    """They are refused with what was called, what it takes, and how that is written."""
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("collect", [gather, race])
@pytest.mark.parametrize("make", [list, tuple, iter])
def test_functions_in_one_iterable(collect, make):
    """Who hands over a list of functions is told to unpack it."""
    name = collect.__name__
    fns = make([int, str])
    with pytest.raises(TypeError) as caught:
        collect(fns)
    assert str(caught.value) == (
        f"{name} needs functions to call without arguments, each by itself, not {_reprs.shortened(fns)}: write "
        f"{name}(*fns), not {name}(fns)"
    )


@pytest.mark.parametrize("number", [2, 3])
def test_futures_one_by_one(number):
    """Who hands futures over one by one is told to make a list of them."""
    futures = [concurrent.futures.Future() for _ in range(number)]
    with pytest.raises(TypeError) as caught:
        as_completed(*futures)
    assert str(caught.value) == (
        f"as_completed takes its futures together, not {futures[0]!r} by itself: write as_completed([first, second]), not "
        "as_completed(first, second)"
    )


@pytest.mark.parametrize("way", ["spawn", "try_spawn", "spawn_daemon", "start"])
@pytest.mark.parametrize("arguments", [(int, "7"), (int, int), (None, int), ("7", int, "7")])
def test_spawn_of_the_class(way, arguments):
    """Who calls a method of the class, not of a group, is told to open one."""
    with pytest.raises(TypeError) as caught:
        getattr(ThreadGroup, way)(*arguments)
    assert str(caught.value) == (
        f"ThreadGroup.{way} needs an open group, not {arguments[0]!r}: write group.{way}(fn, x) inside "
        "`with ThreadGroup() as group:`"
    )


@pytest.mark.parametrize(
    ("shown", "signature"),
    [
        (Limiter, "(limit: 'int' = <required>) -> 'None'"),
        (Mutex, "(value: 'T' = <required>, *, poison: 'bool' = False) -> 'None'"),
        (Channel.recv, "(self) -> 'T'"),
        (
            ThreadGroup(name="shown").options,
            (
                "(*, name: 'str | None' = None, context: 'Context | None' = None, on: 'Executor | None' = None) -> 'Options'"
            ),
        ),
        (gather, "(*fns: 'Callable[[], T]') -> 'list[T]'"),
    ],
)
def test_signatures_show_what_is_taken(shown, signature):
    """What is taken in order to be refused is nobody's concern."""
    assert str(inspect.signature(shown)) == signature


@pytest.mark.parametrize(
    ("make", "block"),
    [
        (Mutex, "`with mutex.lock() as value:`"),
        (RWLock, "`with rwlock.read() as value:` or `with rwlock.write() as value:`"),
    ],
)
def test_block_of_a_lock_itself(make, block):
    """A block is made by a method of it, which the error names."""
    lock = make(None)
    with pytest.raises(TypeError) as caught, lock:
        pass
    assert str(caught.value) == f"{lock._name} is no context manager: write {block}"


# ---- copies


def spawned():
    with ThreadGroup() as group:
        return group.spawn(int)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Mutex(0),
        lambda: Mutex(0).lock(),
        lambda: RWLock(0),
        lambda: RWLock(0).read(),
        lambda: Limiter(1),
        lambda: Channel(1),
        ThreadGroup,
        default_group,
        spawned,
        current_thread,
        lambda: timeout(5),
        lambda: move_on_after(5),
        lambda: deadline(5),
        lambda: shield(timeout=5),
        lambda: cancel_at_park(1),
        VirtualThreadPoolExecutor,
    ],
)
def test_what_threads_share_is_not_copied(make, way):
    """A copy would have the state, and none of those who wait: it is refused, as that of a lock is."""
    shared = make()
    with pytest.raises(TypeError) as caught:
        way(shared)
    assert str(caught.value) == (
        f"{shared!r} cannot be copied or pickled: threads are handed the object itself, and other processes cannot have it"
    )
