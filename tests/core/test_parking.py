"""Park and unpark, in all combinations of who waits, who ends the wait, when, and how."""

from __future__ import annotations

import errno
from types import FunctionType

import pytest
from support import handler_everywhere, is_parked, platform_thread, run_anywhere, run_in_vthread, until, wait_parked

from plait import Cancelled, ThreadGroup, _native, lowlevel, move_on_after
from plait._core import (
    INTERRUPTED,
    TIMED_OUT,
    WOKEN,
    Lock,
    WaitReason,
    current_thread,
    now,
    park,
    park_shielded,
)
from plait._native import outcomes
from plait._originals import allocate_lock, lock_acquire, lock_release, start_new_thread

WAITING = outcomes["WAITING"]
WHO = pytest.mark.parametrize("who", ["main", "platform", "virtual"])
TIMED = pytest.mark.parametrize("limit", [None, 3600.0], ids=["untimed", "timed"])


@pytest.mark.parametrize("where", ["main", "bound", "virtual"])
def test_wait_for_what_is_no_descriptor(where):
    """A number that leads nowhere is refused: by every kind of thread, whatever it waits for."""

    def body():
        for wait in (lowlevel.wait_readable, lowlevel.wait_writable):
            with pytest.raises(OSError) as caught:
                wait(1 << 20, 60)
            assert caught.value.errno == errno.EBADF
            assert str(caught.value) == "[Errno 9] Bad file descriptor"

    if where == "bound":
        with move_on_after(60):
            body()
    else:
        run_anywhere(where, body)


def test_unpark_of_no_thread():
    """It says what it takes."""
    for wrong in (5, None, lowlevel.current_thread):
        with pytest.raises(TypeError) as caught:
            lowlevel.unpark(wrong)
        assert str(caught.value) == (f"unpark needs a thread, as current_thread() and spawn() give them, not {wrong!r}")


@pytest.mark.parametrize("args", [(), (5,)])
def test_threads_are_not_made_by_their_classes(args):
    """VirtualThread and Parker are there to be recognized: what they make would be no thread."""
    for cls in (lowlevel.VirtualThread, lowlevel.Parker):
        with pytest.raises(TypeError) as caught:
            cls(*args)
        assert str(caught.value) == (
            f"a {cls.__name__} is made by spawn(), not by its class: current_thread() gives the calling thread, plait.Thread "
            "is a threading.Thread that is virtual"
        )


def unpark_by(by, me, epochs):
    """End the wait of `me` whose epoch comes into `epochs`, once it is parked, on a thread of the kind `by`."""

    def unpark():
        until(lambda: epochs and is_parked(me, WaitReason.PERMIT))
        assert me.unpark(epochs[0])
        assert not me.unpark(epochs[0])

    return platform_thread(unpark) if by == "platform" else _virtual(unpark)


class _virtual:
    def __init__(self, unpark):
        self.group = ThreadGroup()
        self.unpark = unpark

    def __enter__(self):
        self.group.__enter__()
        self.child = self.group.spawn(self.unpark)

    def __exit__(self, *exc_info):
        return self.group.__exit__(*exc_info)


@WHO
@pytest.mark.parametrize("by", ["platform", "virtual"])
@TIMED
@pytest.mark.parametrize("shielded", [False, True], ids=["plain", "shielded"])
def test_unparked_after_it_parked(who, by, limit, shielded):
    """A parked thread is woken by whoever claims its epoch."""

    def body():
        me = current_thread()
        epochs = []
        with unpark_by(by, me, epochs):
            epoch = me.arm(shielded)
            epochs.append(epoch)
            deadline = None if limit is None else now() + limit
            outcome = (park_shielded if shielded else park)(me, epoch, WaitReason.PERMIT, deadline)
            assert outcome == WOKEN
            assert me.waits_for is None

    run_anywhere(who, body)


@WHO
@TIMED
@pytest.mark.parametrize("by", ["another", "itself"])
def test_unparked_before_it_parks(who, by, limit):
    """A wake between arm and park is not lost: park returns at once, any number of times."""

    def body():
        me = current_thread()
        for _ in range(3):
            epoch = me.arm()
            if by == "itself":
                assert me.unpark(epoch)
            else:
                unpark_elsewhere(me, epoch)
            deadline = None if limit is None else now() + limit
            assert park(me, epoch, WaitReason.PERMIT, deadline) == WOKEN

    run_anywhere(who, body)


def unpark_elsewhere(me, epoch):
    """Have another kernel thread end the wait, and see that it has. The caller waits natively: it has armed."""
    told = allocate_lock()
    lock_acquire(told)
    start_new_thread(lambda: (me.unpark(epoch), lock_release(told)), ())
    lock_acquire(told)


@WHO
@pytest.mark.parametrize("seconds", [0, 0.002])
def test_timed_out(who, seconds):
    """Nobody comes: the wait ends at its deadline, and a late wake fails."""

    def body():
        me = current_thread()
        epoch = me.arm()
        assert park(me, epoch, WaitReason.PERMIT, now() + seconds) == TIMED_OUT
        assert not me.unpark(epoch)
        assert me.unpark(me.arm())
        assert me.withdraw() == WOKEN

    run_anywhere(who, body)


@WHO
@TIMED
def test_cancelled_while_parked(who, limit):
    """A cancelled scope ends a plain wait with Cancelled."""

    def body():
        me = current_thread()
        with ThreadGroup() as group:
            group.spawn(lambda: until(lambda: is_parked(me)) and group.cancel())
            epoch = me.arm()
            with pytest.raises(Cancelled):
                park(me, epoch, WaitReason.PERMIT, None if limit is None else now() + limit)
            assert not me.unpark(epoch)
            assert me.waits_for is None

    run_anywhere(who, body)


@WHO
def test_cancelled_before_it_parks(who):
    """A scope that is cancelled between arm and park is seen by park."""

    def body():
        me = current_thread()
        with ThreadGroup() as group:
            epoch = me.arm()
            group.cancel()
            with pytest.raises(Cancelled):
                park(me, epoch, WaitReason.PERMIT)

    run_anywhere(who, body)


@WHO
@pytest.mark.parametrize("first", ["wake", "cancel"])
def test_woken_and_cancelled(who, first):
    """Woken before it was cancelled, the wait is delivered; the other way round it is not (I5)."""

    def body():
        me = current_thread()
        with ThreadGroup() as group:
            epoch = me.arm()
            if first == "wake":
                assert me.unpark(epoch)
                group.cancel()
                assert park(me, epoch, WaitReason.PERMIT) == WOKEN
            else:
                group.cancel()
                assert not me.unpark(epoch)
                with pytest.raises(Cancelled):
                    park(me, epoch, WaitReason.PERMIT)

    run_anywhere(who, body)


@WHO
def test_shielded_wait_is_left_alone_by_cancellers(who):
    """A shielded wait ends by its wake alone."""

    def body():
        me = current_thread()
        epochs = []

        def cancel_then_wake(group):
            until(lambda: epochs and is_parked(me, WaitReason.PERMIT))
            group.cancel()
            assert is_parked(me, WaitReason.PERMIT)
            assert me.unpark(epochs[0])

        with ThreadGroup() as others, ThreadGroup() as group:
            others.spawn(cancel_then_wake, group)
            epochs.append(me.arm(True))
            assert park_shielded(me, epochs[0], WaitReason.PERMIT) == WOKEN

    run_anywhere(who, body)


@WHO
def test_nudged_for_a_scope_that_it_has_left(who):
    """Interrupted without being cancelled, park says so, and the caller looks again."""

    def body():
        me = current_thread()

        def nudge():
            until(lambda: is_parked(me, WaitReason.PERMIT))
            me.nudge()

        with platform_thread(nudge):
            assert park(me, me.arm(), WaitReason.PERMIT) == INTERRUPTED

    run_anywhere(who, body)


@WHO
def test_withdraw(who):
    """A wait that is withdrawn is over; one that was claimed first is told from one that was not."""

    def body():
        me = current_thread()
        epoch = me.arm()
        assert me.withdraw() == WAITING
        assert not me.unpark(epoch)
        epoch = me.arm()
        assert me.unpark(epoch)
        assert me.withdraw() == WOKEN
        epoch = me.arm()
        me.nudge()
        assert me.withdraw() == INTERRUPTED
        # The resumes were consumed: the next wait is a real one.
        epoch = me.arm()
        assert park(me, epoch, WaitReason.PERMIT, now() + 0.002) == TIMED_OUT

    run_anywhere(who, body)


def test_nothing_parks_between_arm_and_park():
    """A finalizer that runs while a wait is announced finds leaves as CPython made them."""

    def body():
        me = current_thread()
        assert _native.cooperative() is me
        me.arm()
        assert _native.cooperative() is None
        assert _native.current() is me
        me.withdraw()
        assert _native.cooperative() is me
        with Lock():
            assert _native.cooperative() is None
        assert _native.cooperative() is me

    run_in_vthread(body)
    with move_on_after(60):
        body()


def test_wait_reason_is_shown_while_parked():
    """While parked a thread shows what it waits for."""
    with ThreadGroup() as group:

        def wait():
            me = current_thread()
            return park(me, me.arm(), WaitReason.PERMIT)

        child = wait_parked(group.spawn(wait), WaitReason.PERMIT)
        child.cancel()
    assert child.waits_for is None


# ---- permits


@WHO
def test_permit_comes_first(who):
    """An unpark that comes before the park is not lost, and a second one adds nothing to it."""

    def body():
        me = lowlevel.current_thread()
        lowlevel.unpark(me)
        lowlevel.unpark(me)
        assert lowlevel.park()
        assert not lowlevel.park(0.0)

    run_anywhere(who, body)


@pytest.mark.skipif(
    isinstance(lowlevel.unpark, FunctionType), reason="uncompiled, it runs handlers while it holds its lock"
)
@WHO
def test_unpark_by_a_handler(who):
    """A handler may unpark the thread that it has interrupted, wherever that is."""
    calls = []

    def body():
        me = lowlevel.current_thread()

        def handle():
            calls.append(lowlevel.unpark(me))

        with handler_everywhere(handle):
            lowlevel.unpark(me)
            assert lowlevel.park()
            handle()
            assert lowlevel.park()

    run_anywhere(who, body)
    assert calls
