"""Random programs of groups: what they are made of, how they run, and what is written down meanwhile.

A *program* is a tree of steps, frozen dataclasses that print as they are written, so a failure shows the whole program.
A *body* is a tuple of steps; each spawn has one, and each block. `run` plays a program on a thread of a given kind and
gives its `World`: all blocks, spawns and events. What holds for it is checked in `guarantees.py`.

Every program ends: bodies are finite, and a platform thread, the backstop, cancels whatever stands outermost after a few
milliseconds. If that does not end the program, it is a fault, and the backstop gives everybody what they wait for.

Events are appended to one list, which is whole on every build; the order of the list is an order in which they may have
happened: a step is written down before it is taken, an end after what it ends.
"""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import itertools
import os
import queue
import signal
import threading
import time
import weakref
from dataclasses import dataclass, field, replace

from support import run_anywhere, until

import plait
from plait import Cancelled, GroupClosed, GroupFailed, Limiter, Mutex, ThreadGroup, cancelled, move_on_after, shield
from plait import timeout as time_limit
from plait._core import Lock, VirtualThread, current_thread, pending
from plait._core._atomics import Counter
from plait._default import default_group
from plait.lowlevel import park, unpark

PROMPT = 4.0  # seconds after which something cancelled must have ended, on however busy a machine
LONG = 2 * PROMPT  # what nobody waits for

value = contextvars.ContextVar("value", default=0)


class Boom(Exception):
    """A failure of a program."""


class Crash(BaseException):
    """One that is no `Exception`."""


FAILURES = (Exception, Crash, BaseExceptionGroup)  # all that a program may raise but `Cancelled`


class Token:
    """An argument, to see when it is let go of."""


_cancelled = Cancelled("kept in place of another")


def kept(error):
    """`error`, to be kept, without any `Cancelled`: for as long as one lives its thread is cleaning up."""
    if isinstance(error, Cancelled):
        return _cancelled
    if isinstance(error.__context__, Cancelled):
        error.__context__ = None
    return error


# ---- what is seen of a program ----


class Gauge:
    """How many members of a limited group are at work."""

    def __init__(self, world, slots, limit):
        self.world = world
        self.slots = slots  # a group with a limit of its own, or a Limiter
        self.limit = limit
        self.count = 0  # under _lock
        self._lock = Lock()

    def go(self):
        with self._lock:
            self.count += 1
            count = self.count
        # Once a grace is over, who takes a slot back goes on without: see the header of _slots.
        if count > self.limit and self.world.program.root.grace > PROMPT * 1000:
            self.world.fault("I3", f"{count} of {self.limit} at work in {self.slots!r}")

    def rest(self):
        with self._lock:
            self.count -= 1


class World:
    """One run of a program."""

    def __init__(self, program):
        self.program = program
        self.faults = []  # "I3: what is wrong"
        self.events = []  # (what, the Here it was seen at, the blocks around that)
        self.blocks = []  # those begun, in order
        self.roots = []  # those with none around
        self.spawns = []  # all that were tried
        self.accepted = []  # those with a future
        self.raised = []  # what programs have raised themselves
        self.dropped = []  # what programs have caught or replaced
        self.hooked = []  # (future, error) that the hook was given
        self.out = None  # what left the outermost block
        self.interrupts = []  # the KeyboardInterrupts that were raised in the main thread
        self.interrupted = []  # the Here of each step that one of them left
        self.is_armed = False  # Ctrl-C is to be raised
        self.serials = itertools.count(1)
        self.outside = Counter()  # platform threads of this program that have not ended
        self.is_over = False  # the backstop has come
        self.shared = Limiter(2)  # for groups
        self.gauges = {}
        self.lines = [queue.SimpleQueue(), queue.Queue(2)]
        self.put, self.not_put, self.got = [], [], []
        self.turnstile = Limiter(1)
        self.semaphore = threading.Semaphore(1)
        self.locks = [threading.Lock(), threading.RLock(), self.turnstile, self.semaphore]
        self.mutex = Mutex([0])
        self.stuck = Stuck()

    def fault(self, guarantee, what):
        self.faults.append(f"{guarantee}: {what}")

    def note(self, what, here):
        self.events.append((what, here, tuple(here.around)))

    def boom(self, kind=Boom):
        error = kind(next(self.serials))
        self.raised.append(error)
        return error

    def gauge(self, slots, limit):
        return self.gauges.setdefault(id(slots), Gauge(self, slots, limit))

    def stop(self, spawn):
        """Cancel a thread that belongs to no block, and have no patience with it."""
        spawn.future.cancel()
        spawn.future.hurry()


class Here:
    """A thread at work on a body."""

    def __init__(self, world, spawn=None, around=()):
        self.world = world
        self.spawn = spawn  # None for threads that were not spawned
        self.around = list(around)  # the blocks that it is inside, outermost first
        self.thread = current_thread()
        self.value = value.get()  # what the context variable ought to be
        self.left = None  # what left the body
        self.is_over = False

    def is_inside(self, block):
        return block in self.around

    def find(self, into):
        """The block that a step means."""
        world = self.world
        if into == DEFAULT:
            return world.default
        if into < ANY and self.around:
            return self.around[max(0, len(self.around) - 1 - into)]
        return world.blocks[into % len(world.blocks)]


DEFAULT = -1  # the default group
ANY = 3  # from here on any block that was begun, by its number; below, the blocks around from within


class Away:
    """Around what a member of a limited group does without its slot."""

    def __init__(self, here):
        self.gauge = None if here is None or here.spawn is None else here.spawn.gauge

    def __enter__(self):
        if self.gauge is not None:
            self.gauge.rest()

    def __exit__(self, *exc_info):
        if self.gauge is not None:
            self.gauge.go()


class OpenBlock:
    """A block that was begun."""

    def __init__(self, here, step):
        world = here.world
        self.world = world
        self.step = step
        self.owner = here
        self.around = (*here.around, self)
        limit = world.shared if step.limit == "shared" else step.limit
        policy = step.policy if step.policy in ("cancel", "collect") else self.supervise
        self.group = ThreadGroup(
            max_concurrency=limit,
            timeout=None if step.timeout is None else step.timeout / 1000,
            grace=step.grace / 1000,
            on_error=policy,
            name=f"block-{len(world.blocks)}",
        )
        self.gauge = None
        if limit is not None:
            self.gauge = world.gauge(world.shared if step.limit == "shared" else self.group, self.group.limit)
        self.is_known_dead = False  # somebody has been told that it was cancelled
        self.has_ended = False
        self.is_late = False  # its time was up before its end
        self.body_error = None
        self.out = None
        self.asked = []  # (future, error, verdict) of the on_error function; "overtaken" by a cancel is one, too
        self.restarts = Counter()

    def __repr__(self):
        return repr(self.group)

    def is_dead(self):
        """Whether nothing can be spawned any more, for sure."""
        return self.is_known_dead or self.has_ended or self.has_failed() or self.group.statistics().is_cancelled

    def has_failed(self):
        """Whether a child has failed and says so, and that cancels the others."""
        if self.step.policy != "cancel":
            return False
        children = [spawn for spawn in list(self.world.accepted) if spawn.block is self and spawn.runs]
        lefts = [child.runs[-1].left for child in children if child.future.done()]
        return any(left is not None and not isinstance(left, Cancelled) for left in lefts)

    def cancel(self):
        self.group.cancel()
        self.is_known_dead = True

    def supervise(self, future, error):
        """The on_error function."""
        verdict = self.step.policy
        if verdict == "broken":
            raise self.world.boom()
        if verdict == "restart" and self.restarts.add(1) > 2:
            verdict = "cancel"
        try:
            time.sleep(0)
        except Cancelled:
            verdict = "overtaken"  # whatever it would have been
            raise
        finally:
            self.asked.append((future, error, verdict))
        return verdict


class DefaultBlock:
    """The default group, which is no block at all."""

    around = ()
    gauge = None
    has_ended = False

    def __init__(self):
        self.group = default_group()

    def is_dead(self):
        return False

    def cancel(self):
        pass


class TriedSpawn:
    """A spawn, accepted or not."""

    def __init__(self, here, block, step):
        self.world = here.world
        self.block = block
        self.step = step
        self.is_daemon = step.how == "daemon"
        self.gauge = None if self.is_daemon else block.gauge
        self.around = block.around
        self.value = here.value  # of the context variable, for the child
        self.runs = []  # the Here of each time that it ran
        self.future = None
        self.is_accepted = False
        self.token = None  # a weak reference to an argument of the call
        self.above = {here.spawn, *(b.owner.spawn for b in self.around)}

    def __call__(self, here, token):
        group, how = self.block.group, self.step.how
        if how == "try":
            return group.try_spawn(play, self, token)
        if how == "daemon":
            return group.spawn_daemon(play, self, token)
        if how == "start":
            group.start(play_started, self, token)
            return self.future
        if how == "named":
            return group.options(name="named").spawn(play, self, token)
        if how == "context":
            context = contextvars.copy_context()
            self.value = -next(self.world.serials)
            context.run(value.set, self.value)
            return group.options(context=context).spawn(play, self, token)
        return group.spawn(play, self, token)


def play(spawn, token, started=None):
    """What a spawned thread does."""
    del token
    world = spawn.world
    here = Here(world, spawn, spawn.around)
    expected = spawn.runs[-1].value if spawn.runs else spawn.value  # run once more, it is in the same context
    spawn.runs.append(here)
    spawn.future = here.thread
    if spawn.block is world.default and world.is_over:
        world.stop(spawn)
    if here.value != expected:
        world.fault("I9", f"{here.thread!r} begins with {here.value}, its spawner had {expected}")
    if spawn.gauge is not None:
        spawn.gauge.go()
    world.note("begun", here)
    try:
        if started is not None and len(spawn.runs) == 1:
            started()
        perform(here, spawn.step.body)
        return spawn
    except BaseException as error:
        here.left = kept(error)
        raise
    finally:
        if spawn.gauge is not None:
            spawn.gauge.rest()
        here.is_over = True
        world.note("over", here)


def play_started(started, spawn, token):
    """As `play`, for `start`."""
    return play(spawn, token, started)


def perform(here, steps):
    """Take the steps."""
    for step in steps:
        here.world.note(step, here)
        try:
            step.take(here)
        except KeyboardInterrupt:
            here.world.interrupted.append(here)
            raise
        seen = value.get()
        if seen != here.value:
            here.world.fault("I9", f"{here.thread!r} has {seen} where it had {here.value}, after {step}")


# ---- steps ----


@dataclass(frozen=True)
class Nap:
    """Wait for so many milliseconds; 0 lets others run."""

    milliseconds: float

    def take(self, here):
        time.sleep(self.milliseconds / 1000)


@dataclass(frozen=True)
class Forever:
    """Wait for a cancel."""

    how: str = "sleep"  # or event, permit, pipe, lock

    def take(self, here):
        if not here.around and not isinstance(here.thread, VirtualThread):
            return  # nobody could cancel it
        stuck = here.world.stuck
        match self.how:
            case "sleep":
                time.sleep(LONG)
            case "event":
                stuck.event.wait()
            case "permit":
                stuck.parked.append(here.thread)
                while not stuck.is_over:
                    park()
            case "pipe":
                os.read(stuck.reader, 1)
            case "lock":
                with stuck.lock:
                    pass


class Stuck:
    """What is waited for, for ever, and how to end that."""

    def __init__(self):
        self.is_over = False
        self.event = threading.Event()
        self.parked = []
        self.reader, self.writer = os.pipe()
        self.lock = threading.Lock()
        self.lock.acquire()

    def end(self):
        """Let everybody go on."""
        if not self.is_over:
            self.is_over = True
            self.event.set()
            self.lock.release()
            os.write(self.writer, bytes(1000))
        for thread in list(self.parked):
            unpark(thread)

    def close(self):
        os.close(self.reader)
        os.close(self.writer)


@dataclass(frozen=True)
class Fail:
    """Raise something new."""

    is_crash: bool = False

    def take(self, here):
        raise here.world.boom(Crash if self.is_crash else Boom)


@dataclass(frozen=True)
class Set:
    """Change the context variable."""

    def take(self, here):
        here.value = next(here.world.serials)
        value.set(here.value)


@dataclass(frozen=True)
class Spawn:
    """Spawn a thread."""

    body: tuple
    how: str = "spawn"  # or try, daemon, start, named, context
    into: int = 0  # as in `Here.find`

    def take(self, here):
        world = here.world
        block = here.find(self.into)
        spawn = TriedSpawn(here, block, self)
        world.spawns.append(spawn)
        is_inside = here.is_inside(block)
        is_away = self.how == "start" or (
            spawn.gauge is not None and here.spawn is not None and spawn.gauge is here.spawn.gauge
        )
        has_ended, is_dead = block.has_ended, block.is_dead()
        token = Token()
        spawn.token = weakref.ref(token)
        try:
            with Away(here if is_away else None):
                future = spawn(here, token)
        except Cancelled:
            if not is_inside and not cancelled():
                world.fault("I7", f"{here.thread!r} outside {block!r} got Cancelled")
            raise
        except GroupFailed:
            if is_inside or has_ended:
                world.fault("I7", f"{here.thread!r} in or after {block!r} got GroupFailed")
        except GroupClosed:
            if is_inside:
                world.fault("I7", f"{here.thread!r} inside {block!r} got GroupClosed")
        except FAILURES as error:
            if self.how != "start":
                raise
            world.dropped.append(kept(error))  # what the started thread has raised, or that it is over
        else:
            if is_dead:
                world.fault("I7", f"{here.thread!r} could spawn into {block!r}, which was over or cancelled")
            if future is not None:
                spawn.future = future
                spawn.is_accepted = True
                world.accepted.append(spawn)
                if not world.program.interrupts:  # a callback that is called at once would have it logged
                    future.add_done_callback(lambda future: tell(spawn, future))


def tell(spawn, future):
    """A callback of a future: still inside the block, if it is called where the call has ended."""
    if current_thread() is future:
        time.sleep(0)
        if spawn.runs:
            spawn.world.note("told", spawn.runs[-1])


@dataclass(frozen=True)
class Await:
    """Wait for a thread, whichever; raise what it raised, or not."""

    which: int
    is_raised: bool = False

    def take(self, here):
        world = here.world
        if not world.accepted:
            return
        spawn = world.accepted[self.which % len(world.accepted)]
        above = here.spawn.above if here.spawn is not None else set()
        if spawn is here.spawn or spawn in above or any(block.owner.spawn is spawn for block in here.around):
            return  # who waits for us
        try:
            with Away(here):
                result = spawn.future.result(LONG)
        except Cancelled:
            raise
        except FAILURES:
            if self.is_raised:
                raise
        else:
            if result is not spawn:
                world.fault("I5", f"{spawn.future!r} gave {result!r}")


@dataclass(frozen=True)
class CancelBlock:
    """Cancel a group."""

    which: int

    def take(self, here):
        here.find(self.which).cancel()


@dataclass(frozen=True)
class Interrupt:
    """Ctrl-C: whatever thread this is, the main thread gets the signal."""

    def take(self, here):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@dataclass(frozen=True)
class CancelThread:
    """Cancel a future."""

    which: int

    def take(self, here):
        accepted = here.world.accepted
        if accepted:
            accepted[self.which % len(accepted)].future.cancel()


@dataclass(frozen=True)
class Outside:
    """Have a platform thread, which belongs to no group, take steps; do not wait for it."""

    steps: tuple

    def take(self, here):
        world = here.world
        world.outside.add(1)
        _thread.start_new_thread(self._take, (world,))

    def _take(self, world):
        try:
            perform(Here(world), self.steps)
        except FAILURES as error:
            world.dropped.append(kept(error))
        finally:
            world.outside.add(-1)


@dataclass(frozen=True)
class Put:
    """Put an item into a queue; at once cancel a thread, perhaps."""

    line: int
    cancel: int | None = None

    def take(self, here):
        world = here.world
        line = world.lines[self.line]
        item = next(world.serials)
        try:
            if here.around:
                line.put(item)
            else:
                line.put(item, timeout=0.01)
        except BaseException as error:
            world.not_put.append(item)
            if not isinstance(error, queue.Full):
                raise
        else:
            world.put.append(item)
        if self.cancel is not None:
            CancelThread(self.cancel).take(here)


@dataclass(frozen=True)
class Get:
    """Get an item from a queue."""

    line: int

    def take(self, here):
        world = here.world
        line = world.lines[self.line]
        if here.around:
            world.got.append(line.get())
        else:
            try:
                world.got.append(line.get(timeout=0.01))
            except queue.Empty:
                pass


@dataclass(frozen=True)
class Hold:
    """Take steps with something held that one thread may hold at a time; 4 is a plait.Mutex."""

    which: int
    steps: tuple

    def take(self, here):
        world = here.world
        if self.which == 4:
            with world.mutex.lock() as cell:
                cell[0] += 1
                perform(here, self.steps)
        else:
            with world.locks[self.which]:
                perform(here, self.steps)


@dataclass(frozen=True)
class Limit:
    """Take steps under a time limit, or in a shield."""

    kind: str  # move_on_after, timeout, shield
    milliseconds: float
    steps: tuple

    def take(self, here):
        seconds = self.milliseconds / 1000
        if self.kind == "shield":
            scope = shield(timeout=min(seconds, 0.02))
        else:
            scope = move_on_after(seconds) if self.kind == "move_on_after" else time_limit(seconds)
        with scope:
            perform(here, self.steps)


@dataclass(frozen=True)
class Try:
    """Take steps, and catch what they raise."""

    steps: tuple
    is_bare: bool = False  # catch everything: bad manners

    def take(self, here):
        try:
            perform(here, self.steps)
        except BaseException as error:
            if not self.is_bare and not isinstance(error, Exception):
                raise
            here.world.dropped.append(kept(error))


@dataclass(frozen=True)
class Finally:
    """Take steps, then clean up, whatever comes."""

    steps: tuple
    cleanup: tuple

    def take(self, here):
        failure = None
        try:
            perform(here, self.steps)
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                perform(here, self.cleanup)
            except BaseException:
                if failure is not None:
                    here.world.dropped.append(kept(failure))
                raise


@dataclass(frozen=True)
class Block:
    """Open a group, and take steps inside."""

    steps: tuple
    limit: int | str | None = None  # or "shared": the Limiter of the world
    timeout: float | None = None  # milliseconds
    grace: float = 20  # milliseconds
    policy: str = "cancel"  # or collect, or an on_error function: ignore, restart, broken

    def take(self, here):
        world = here.world
        block = OpenBlock(here, self)
        world.blocks.append(block)
        if not here.around:
            world.roots.append(block)
            if world.is_over:
                block.cancel()
        here.around.append(block)
        away = Away(here)
        try:
            with block.group:
                try:
                    perform(here, self.steps)
                except BaseException as error:
                    block.body_error = kept(error)
                    raise
                finally:
                    away.__enter__()
        except BaseException as error:
            block.out = kept(error)
            raise
        finally:
            away.__exit__()
            here.around.remove(block)
            self.look_behind(here, block)

    @staticmethod
    def look_behind(here, block):
        """The block has ended: write down what can be seen of it now."""
        world = here.world
        block.has_ended = True
        scope = block.group.scope
        block.is_late = scope.has_expired and pending(scope) is scope  # and nothing further out has cut it short
        world.note(block, here)
        children = [spawn for spawn in list(world.spawns) if spawn.block is block and spawn.future is not None]
        for spawn in children:
            if not spawn.future.done():
                world.fault("I1", f"{spawn.future!r} is not done after {block!r}")
            if spawn.runs and not spawn.runs[-1].is_over:
                world.fault("I1", f"{spawn.future!r} runs after {block!r}")
            if world.program.asks_at_once:
                ask(world, here.thread, spawn.future)


def ask(world, me, future):
    """Ask for an outcome that is there: nothing parks."""
    for question in (future.result, future.exception):
        before = me.epoch()
        try:
            question(PROMPT)
        except (Cancelled, KeyboardInterrupt, *FAILURES):
            pass
        if me.epoch() != before:
            world.fault("I8", f"{question!r} waited after the block")


@dataclass(frozen=True)
class Program:
    """What is run: one block on a thread of some kind."""

    root: Block
    where: str = "main"  # or platform, virtual
    patience: float = 15  # milliseconds until the backstop comes
    asks_at_once: bool = field(default=False, repr=False)
    interrupts: int = field(default=0, repr=False)  # how often Ctrl-C may be raised

    def interrupted(self, times):
        """The same with Ctrl-C."""
        return replace(self, interrupts=times)


# ---- playing ----


def run(program):
    """Run a program to its end; its World. Main thread."""
    world = World(program)
    world.default = DefaultBlock()
    over = threading.Event()
    hook, handler = plait.excepthook, signal.getsignal(signal.SIGINT)
    plait.excepthook = lambda future, error: world.hooked.append((future, error))
    if program.interrupts:
        signal.signal(signal.SIGINT, lambda number, frame: _interrupt(world, frame))
    backstop = threading.Thread(target=_stand_back, args=(world, over))
    backstop.start()
    try:
        run_anywhere(program.where, _play_root, world)
    finally:
        _clear_up(world)
        over.set()
        backstop.join()
        world.stuck.close()
        plait.excepthook = hook
        signal.signal(signal.SIGINT, handler)
    return world


# Callbacks of weak references, of the collector (Hypothesis's), and the hook for what those raise (pytest's).
_DROPPING = {"weakref.py", "_weakrefset.py", "junkdrawer.py", "unraisableexception.py"}


def _interrupt(world, frame):
    """The handler of Ctrl-C."""
    if world.is_armed and len(world.interrupts) < world.program.interrupts and not _is_dropped(frame):
        error = KeyboardInterrupt(next(world.serials))
        world.interrupts.append(error)
        raise error


def _is_dropped(frame):
    """Whether CPython drops what is raised here: in finalizers and callbacks of weak references and of the collector."""
    while frame is not None:
        where = os.path.basename(frame.f_code.co_filename)
        if frame.f_code.co_name == "__del__" or where in _DROPPING:
            return True
        frame = frame.f_back
    return False


def _play_root(world):
    value.set(0)
    here = Here(world)
    scope = here.thread.scope
    try:
        try:
            world.is_armed = world.program.interrupts > 0
            world.program.root.take(here)
        finally:
            world.is_armed = False
    except (Cancelled, KeyboardInterrupt, *FAILURES) as error:
        world.out = kept(error)
    if here.thread.scope is not scope:
        world.fault("I1", f"{here.thread.scope!r} was left open")
        # Or every later test would run inside.
        world.roots[0].group.end_inside(here.thread, scope, RuntimeError("left open"))


def _stand_back(world, over):
    if not over.wait(world.program.patience / 1000):
        _stop_all(world)
    if over.wait(PROMPT):
        return
    world.fault("I4", f"not everything has ended {PROMPT} seconds after the cancel")
    while not over.wait(0.05):  # what still waits for something gets it
        world.stuck.end()
        for line in world.lines:
            with contextlib.suppress(queue.Empty):
                line.get_nowait()
            line.put(-1)


def _stop_all(world):
    """Cancel what stands outermost, now and later."""
    world.is_over = True
    for block in list(world.roots):
        block.cancel()
    for spawn in list(world.spawns):
        if spawn.block is world.default and spawn.runs:
            world.stop(spawn)


def _clear_up(world):
    """Wait for those that belong to no block."""
    if not world.is_over:
        _stop_all(world)
    until(lambda: world.outside.value() == 0, "the end of all platform threads")
    until(lambda: all(spawn.future.done() for spawn in world.accepted), "the end of all threads")
    until(lambda: not len(world.default.group), "the end of all threads that belong to no block")
