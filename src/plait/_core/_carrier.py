"""A carrier: a platform thread of ours that runs virtual threads.

There is no hub. A thread that parks runs the scheduler itself, on its own stack: it takes the next thread and switches
straight to it; if that is itself it simply returns; if nothing is runnable it polls, there and then. A thread that ends
takes the next unstarted one and runs it on the same stack without a switch.

Stacks. The root is the kernel thread's own. Only the root makes stacks: one made from a parked thread's stack would
inherit its depth. A stack whose thread has ended and that has no unstarted thread to go on with is kept in `_idle`, up
to a number; beyond it the stack ends, and the chosen thread goes on from there without a switch more.

    who needs a stack for an unstarted thread     puts the thread into `_handoff`, switches to an idle stack or the root
    the root, or who comes back from idling       takes `_handoff`

Queues. `runnable` holds started threads of this carrier: whoever wins the claim on a wait puts it there, from any kernel
thread; only the carrier takes. `unstarted` holds threads that may run anywhere: the spawner puts them there, the carrier
takes them, other carriers may take them over. `spawners` are like runnable ones, but have waited until they may spawn
more: they go behind what they have spawned, and then find room for many at once, instead of one at a time. Platform
threads are among them, who are woken in their turn. `calls` are functions that others want run here.

Order: runnable first; every 8th turn an unstarted one first, so neither side starves; spawners when there is neither, or
every 64th turn. In that turn the poller is asked without waiting, so I/O and timers do not starve either. A thread that never
has to wait gives way after 10 ms, at its next leaf (`_native/turns.c`): to all of these.

Sleep and wake (`_idle.py` has the proof): before it sleeps, a carrier announces it and looks at everything once more.
Without work it may take over unstarted threads of another: `_watch.py` says when.

Signals. In a child that a virtual thread has forked, its carrier is on the main thread, where CPython runs the handlers of
signals. While virtual threads wait there, the carrier has them run; what one raises is raised out of the wait of the thread
that has forked, the *heir*: it is the main thread for all who ask.
"""

from __future__ import annotations

import traceback
from types import FunctionType
from typing import TYPE_CHECKING, TypeVar

from plait import _originals
from plait._core._clock import LONGEST_WAIT
from plait._core._continuation import Stack
from plait._core._idle import Idler
from plait._core._poller import open_poller
from plait._core._reactor import Reactor
from plait._core._vthread import VirtualThread
from plait._core._watch import Backlog, Watch, Watcher
from plait._native import check_signals, kernel_ident
from plait._native._native import (
    Queue,
    Ready,
    Timers,
    end_into,
    is_spare_context,
    is_unknown,
    now,
    switch_to,
    track,
    untrack,
)
from plait._originals import lock_acquire, lock_release

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable

    from plait._core._parking import Parker

V = TypeVar("V", bound=VirtualThread)

_FAIR = 7  # every 8th turn an unstarted thread goes first
_POLL = 63  # every 64th turn the poller is asked, and a spawner goes first
_MOST_IDLE = 256  # idle stacks kept
_MOST_SPARE = 16_384  # threads that have ended kept: 9 MB
# Then a new object is blank: all None, 0 or false.
_IS_COMPILED = not isinstance(VirtualThread.__dict__["begin"], FunctionType)
_LONGEST_WAIT = LONGEST_WAIT  # compiled, a name that others import costs a look-up each time


class Carrier:
    """One kernel thread that runs virtual threads, with everything it needs."""

    def __init__(self, number: int, watch: Watch) -> None:
        self.number = number
        self.runnable: Queue[VirtualThread] = Queue()  # any thread puts, the carrier takes
        self.unstarted: Queue[VirtualThread] = Queue()  # any thread puts, any carrier takes
        self.spawners: Queue[Parker] = Queue()  # any thread puts, the carrier takes
        self.calls: Queue[Callable[[], None]] = Queue()  # any thread puts, the carrier takes
        self.timers = Timers()  # the carrier's alone
        self.poller = open_poller()  # the carrier's alone, except wake()
        self.reactor = Reactor(self.poller)  # the carrier's alone
        self.idler = Idler(self.poller.wake)  # any thread notifies
        self._join(watch)
        # Stacks without a thread, suspended, and how many; the carrier's alone. There is room for all: memory may be out.
        self._idle: list[Stack | None] = [None] * _MOST_IDLE
        self._idle_count = 0
        self._spares: Queue[VirtualThread] = Queue()  # threads that have ended; the carrier puts, any thread takes
        self._handoff: VirtualThread | None = None  # what the stack that is switched to shall take
        self._root: Stack | None = None  # set when the kernel thread runs
        self.ident = 0  # of the kernel thread, as CPython numbers it. Likewise
        self._turn = 0
        self._heir: VirtualThread | None = None  # who has forked this process; None in one that was not forked here
        self._raised: BaseException | None = None  # by a signal handler, for the heir

    def _join(self, watch: Watch) -> None:
        """Be one of those who help each other."""
        self.is_alone = watch.size == 1
        self._watch = watch
        self._backlog = Backlog(self.unstarted, self.idler)
        self._watcher = Watcher(watch, self._backlog)

    def __repr__(self) -> str:
        return f"<carrier {self.number}>"

    # ---- from any thread

    def start(self) -> None:
        """Start the kernel thread. It never ends: an idle one costs nothing, and its stacks could go nowhere else."""
        _originals.start_new_thread(self._run, ())

    def blank_thread(self, make: type[V]) -> V:
        """A thread for `prepare`, made by `make`: one that has ended here, if there is any."""
        thread = self._spares.take()
        if thread is None or type(thread) is not make:
            thread = make.__new__(make)
            if not _IS_COMPILED:
                VirtualThread.begin(thread)
            # Until its end somebody needs it: a queue, its stack, or its group. So the collector need not visit it, and
            # 100,000 of them do not make a collection slow.
            untrack(thread)
        return thread

    def submit(self, thread: VirtualThread) -> bool:
        """Queue an unstarted thread here; False if there is no memory for it.

        If it has to wait for long while another carrier is idle, that takes it over.
        """
        if not self.unstarted.offer(thread):
            return False
        if not self.idler.notify() and not self.is_alone and self._watch.is_open():  # notify() has fenced
            self._watch.call(self._backlog)
        return True

    def make_runnable(self, thread: VirtualThread) -> None:
        """Queue a started thread of this carrier, whose wait the caller has won."""
        self.runnable.put(thread)
        self.idler.notify()

    def make_spawner_runnable(self, thread: Parker) -> None:
        """The same for one that has waited until it may spawn more; for a platform thread, too."""
        self.spawners.put(thread)
        self.idler.notify()

    def call(self, function: Callable[[], None]) -> None:
        """Have `function` run on this carrier soon. It must not park."""
        self.calls.put(function)
        self.idler.notify()

    def survive_fork(self, heir: VirtualThread) -> None:
        """In a child that `heir` has forked, on this carrier's kernel thread: nobody else is here."""
        self._heir = heir
        self._raised = None
        self._spares = Queue()  # their words bear the mark of the parent
        self.number = 0
        self.runnable = Queue()
        self.unstarted = Queue()
        self.spawners = Queue()
        self.calls = Queue()
        self.timers = Timers()
        self.poller.close()
        self.poller = open_poller()
        self.reactor = Reactor(self.poller)
        self.idler = Idler(self.poller.wake)
        self._join(Watch(1))

    def halt(self) -> LockType:
        """Have it stop for good, for the process is about to end: a lock that is free once it stands still.

        Up to 3.13 CPython ends a daemon thread where it next asks for the GIL, by unwinding its C stack; on a stack
        that is not the kernel thread's own that corrupts memory. A carrier that waits without the GIL for ever is
        left alone.
        """
        answered = _originals.allocate_lock()
        lock_acquire(answered)
        for_ever = _originals.allocate_lock()
        lock_acquire(for_ever)

        def stand_still() -> None:
            lock_release(answered)
            lock_acquire(for_ever)

        self.call(stand_still)
        return answered

    # ---- on the carrier's kernel thread

    def restart_turns(self) -> None:
        """Let the order of turns depend on what comes from now on alone: for tests that shall repeat themselves."""
        self._turn = 0

    def next_stack(self, me: VirtualThread) -> Stack | None:
        """Where the parking thread `me` shall switch to; None if it is its own turn. The gate is closed.

        It returns the stack instead of switching itself: each frame below a switch costs memory and time.
        """
        chosen = self._choose()
        if chosen is me:
            return None
        if chosen.stack is not None:
            return chosen.stack
        self._handoff = chosen
        return self._pop_idle() if self._idle_count else self._root

    def next_after(self, me: VirtualThread) -> Stack | None:
        """As `next_stack`, for a thread that can go on at once, but lets others go first. Nobody needs to be notified."""
        if not self.runnable.offer(me):
            raise MemoryError
        return self.next_stack(me)

    def next_in_turn(self, me: VirtualThread) -> Stack | None:
        """As `next_after`, behind all who are due by now, whom only the poller or the clock knows of perhaps."""
        self._attend(self.poller.wait(0.0))
        self._turn |= _POLL  # next comes the turn in which spawners and unstarted threads go first
        return self.next_after(me)

    def take_raised(self, me: VirtualThread) -> BaseException | None:
        """What a signal handler has raised, if that is for `me`."""
        if me is not self._heir:
            return None
        error, self._raised = self._raised, None
        return error

    def _run(self) -> None:
        """The root: makes stacks."""
        self._root = Stack.root()
        self.ident = self._backlog.ident = kernel_ident()
        live = self._live  # one bound method for all stacks, which keep it
        self._handoff = self._choose()
        while True:
            switch_to(Stack(live))  # it takes `_handoff`, and whoever comes back here has left another there

    def _live(self, stack: Stack) -> None:
        """The life of a stack: one thread after the other."""
        while (thread := self._take(stack)) is not None:
            VirtualThread.run(thread, stack)
            self._let_go(thread)
            del thread  # a suspended frame must not keep alive what has ended: the next may be long in coming

    def _let_go(self, thread: VirtualThread) -> None:
        """`thread` has ended. If nobody else knows it, it is kept for a spawn: to free it and make another costs far more.

        Nobody can tell: no weak reference to it is left, no attribute that anybody may have set, and nobody has asked for its
        identity, under which things may be kept. Its context is empty, if it still has it, and may be used again for a
        spawner whose own is empty.
        """
        context = thread.context
        thread.context = None
        if not is_unknown(thread):
            track(thread)
        elif not thread.has_ident and self._spares.size() < _MOST_SPARE:
            VirtualThread.blank(thread, context if context is not None and is_spare_context(context) else None)
            self._spares.offer(thread)  # or it is freed: memory may be out

    def _take(self, stack: Stack) -> VirtualThread | None:
        """The next unstarted thread, for a stack that has none; None ends the stack."""
        chosen = self._take_handoff() if self._handoff is not None else self._choose()
        while (target := chosen.stack) is not None:
            if self._idle_count == _MOST_IDLE:
                end_into(target)
                return None
            self._idle[self._idle_count] = stack
            self._idle_count += 1
            del chosen  # as in _live
            switch_to(target)
            chosen = self._take_handoff()
        chosen.carrier = self
        return chosen

    def _pop_idle(self) -> Stack | None:
        """The one that was last at work."""
        self._idle_count -= 1
        stack = self._idle[self._idle_count]
        self._idle[self._idle_count] = None
        return stack

    def _take_handoff(self) -> VirtualThread:
        thread = self._handoff
        assert thread is not None
        self._handoff = None
        return thread

    def _choose(self) -> VirtualThread:
        """The next thread to run, started or not; waits for one if there is none."""
        while True:
            self._turn = turn = self._turn + 1
            if not turn & _POLL:
                if self._heir is not None:
                    self._hear_signals()
                self._attend(self.poller.wait(0.0))
                thread = self._take_spawner()
                if thread is not None:
                    return thread
            if self.calls.size():
                self._make_calls()
            if turn & _FAIR or not self.unstarted.size():
                thread = self.runnable.take()
                if thread is not None:
                    return thread
            thread = self.unstarted.take()
            if thread is not None:
                return thread
            thread = self.runnable.take()
            if thread is not None:
                return thread
            thread = self._take_spawner()
            if thread is not None:
                return thread
            self._wait()

    def _take_spawner(self) -> VirtualThread | None:
        """The next virtual thread that may spawn again. Platform threads before it are told that they may."""
        while (spawner := self.spawners.take()) is not None:
            if isinstance(spawner, VirtualThread):
                return spawner
            spawner.resume()
        return None

    def _wait(self) -> None:
        """Nothing to run here: sleep, or help others, until there may be."""
        if self.is_alone:
            self._sleep()
            return
        while not self._has_own_work():
            if not self._watcher.help():
                self._sleep()
        self._watcher.end()

    def _sleep(self) -> None:
        """Wait in the poller until there may be something to do, or until a signal comes."""
        if self._heir is not None:
            self._hear_signals()
        due = self.timers.next_instant()
        timeout = min(max(due - now(), 0.0), _LONGEST_WAIT)
        if not self.is_alone:
            timeout = self._watcher.lie_down(timeout)
        if self.idler.prepare(self._has_work):
            ready = self.poller.nap(timeout) if self._watcher.is_on else self.poller.wait(timeout)
            self.idler.awake()  # before anything is queued here, or this carrier would wake itself
            self._attend(ready)
        if not self.is_alone:
            self._watcher.get_up()

    def _hear_signals(self) -> None:
        """Have the handlers of signals run, and the heir end its wait if one raises."""
        assert self._heir is not None
        try:
            check_signals()
        except BaseException as error:  # noqa: BLE001 - it is the heir's
            self._raised = error
        if self._raised is not None:
            self._heir.nudge()  # in vain while it runs, or waits for what is to be had whatever happens: next time, then

    def _has_work(self) -> bool:
        """Whether there is anything to run here, or to watch over: what a carrier looks at before it sleeps."""
        return self._has_own_work() or (not self.is_alone and self._watcher.is_wanted())

    def _has_own_work(self) -> bool:
        """Whether there is anything to run here."""
        return (
            self.runnable.size() > 0 or self.unstarted.size() > 0 or self.spawners.size() > 0 or self.calls.size() > 0
        )

    def _attend(self, ready: Ready) -> None:
        """Let those run whom these events, the time or a call from outside concern."""
        self.reactor.dispatch(ready)
        if len(self.timers):
            self._expire(now())
        self._make_calls()

    def _expire(self, moment: float) -> None:
        """End every wait whose instant has come."""
        while (timer := self.timers.take_due(moment)) is not None:
            target = timer.take_target()
            if isinstance(target, VirtualThread):  # nearly all are
                VirtualThread.expire(target, timer.epoch)
            else:
                target.expire(timer.epoch)

    def _make_calls(self) -> None:
        while (function := self.calls.take()) is not None:
            try:
                function()
            except BaseException:  # noqa: BLE001 - it must not leave through whatever thread happens to park here
                traceback.print_exc()
