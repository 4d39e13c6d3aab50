"""What must hold for every run of a program of `trees.py`: the guarantees of groups, read off a `World`.

Some faults are seen at once, by the steps; those that show only in the whole are looked for here.
"""

from __future__ import annotations

import gc
import queue

from properties.trees import FAILURES, Boom, OpenBlock, ask

from plait import Cancelled
from plait._core import current_thread


def check(world, *guarantees):
    """Raise if one of these, by default any, does not hold for `world`. Main thread, after the run."""
    for look in (_lives, _spawns, _slots, _items, _errors, _outcomes, _interrupts):
        look(world)
    faults = [fault for fault in world.faults if not guarantees or fault.partition(":")[0] in guarantees]
    if faults:
        raise AssertionError("\n".join([*faults, "in the program:", repr(world.program)]))


def _lives(world):
    """I1: nothing is seen of what is inside a block after its end."""
    ended = {}
    for what, here, around in world.events:
        for block in around:
            if block in ended:
                world.fault("I1", f"{here.thread!r}: {what} after the end of {block!r}")
        if isinstance(what, OpenBlock):
            ended[what] = True


def _spawns(world):
    """I2, I7: what was accepted ran, or was cancelled before; what was refused did not run."""
    for spawn in world.spawns:
        if spawn.is_accepted and not spawn.runs:
            future, group = spawn.future, spawn.block.group
            if not future.cancelled():
                world.fault("I2", f"{future!r} never ran, and is not cancelled")
            if future.cancelled_at is None and not group.statistics().is_cancelled:
                world.fault("I2", f"{future!r} never ran, and nobody has cancelled it")
            if spawn.token() is not None:
                gc.collect()
            if spawn.token() is not None:
                world.fault("I2", f"the arguments of {future!r} were not released")
        if spawn.runs and not spawn.is_accepted and spawn.step.how != "start":
            world.fault("I7", f"{spawn.runs[0].thread!r} was refused, and ran")
        restarts = sum(
            error is run.left and verdict == "restart"
            for run in spawn.runs[:-1]
            for _, error, verdict in getattr(spawn.block, "asked", ())
        )
        if len(spawn.runs) > 1 + restarts:
            world.fault("I2", f"{spawn.future!r} ran {len(spawn.runs)} times")


def _slots(world):
    """I3: every slot has come back."""
    for gauge in world.gauges.values():
        slots = gauge.slots
        if gauge.count or slots.available != slots.limit:
            world.fault("I3", f"{slots.available} of {slots.limit} slots are free after the end of all of {slots!r}")


def _items(world):
    """I5: each item that was put was got once, or is there; everything that was taken was given back."""
    left = []
    for line in world.lines:
        try:
            while True:
                left.append(line.get_nowait())
        except queue.Empty:
            pass
    if sorted(world.put) != sorted(left + world.got):
        world.fault("I5", f"put {sorted(world.put)}, got {sorted(world.got)}, left {left}, not put {world.not_put}")
    for lock in world.locks[:2]:
        if lock.acquire(blocking=False):
            lock.release()
        else:
            world.fault("I5", f"{lock!r} is still held")
    if world.turnstile.available != 1 or world.turnstile.waiting:
        world.fault("I5", f"{world.turnstile!r} after the end")
    if world.semaphore._value != 1:
        world.fault("I5", f"{world.semaphore!r} after the end")
    if (guard := world.mutex.try_lock()) is None:
        world.fault("I5", "the mutex is still held")
    else:
        with guard:
            pass


def _errors(world):
    """I6: each exception is where it should be, and nowhere else."""
    found = set()
    for spawn in world.spawns:
        if spawn.runs and spawn.future is not None:
            _check_future(world, spawn)
            _collect(spawn.runs[-1].left, found)
    for block in world.blocks:
        _check_block(world, block)
        for _, error, verdict in block.asked:
            if verdict == "restart":
                _collect(error, found)
    _check_hook(world)
    _collect(world.out, found)
    for error in world.dropped:
        _collect(error, found)
    if isinstance(world.out, Cancelled):
        world.fault("I6", "Cancelled left the outermost block")
    for error in world.raised:
        if id(error) not in found:
            world.fault("I6", f"{error!r} was raised, and is nowhere")


def _collect(error, found):
    """Add all that `error` consists of."""
    todo = [error]
    while todo:
        error = todo.pop()
        if isinstance(error, BaseExceptionGroup):
            todo.extend(error.exceptions)
        found.add(id(error))


def _check_future(world, spawn):
    future, left = spawn.future, spawn.runs[-1].left
    if isinstance(left, Cancelled):
        if not future.cancelled():
            world.fault("I6", f"{future!r} was left by {left!r}, and is not cancelled")
    elif future.cancelled():
        world.fault("I6", f"{future!r} is cancelled, but was left by {left!r}")
    elif future.exception() is not left:
        world.fault("I6", f"{future!r} has {future.exception()!r}, but was left by {left!r}")


def _failures(world, block):
    """What a block ought to raise, by identity."""
    failures = {}
    ignored = {(id(future), id(error)) for future, error, verdict in block.asked if verdict == "ignore"}
    if block.body_error is not None and not isinstance(block.body_error, Cancelled):
        failures[id(block.body_error)] = block.body_error
    for spawn in world.spawns:
        if spawn.block is block and spawn.runs:
            left = spawn.runs[-1].left
            is_new = left is not None and not isinstance(left, Cancelled)
            if is_new and (id(spawn.future), id(left)) not in ignored:
                failures[id(left)] = left
    return failures


def _check_block(world, block):
    expected = _failures(world, block)
    # What was going to be put right when a cancel came is no failure of a block that is cancelled quietly.
    overtaken = {id(error) for _, error, verdict in block.asked if verdict in ("restart", "overtaken")}
    out = block.out
    late = []
    if block.is_late and not _says_late(out):
        world.fault("I6", f"{block!r} raised {out!r}, and its time was up")
    if isinstance(out, BaseExceptionGroup) and out is not block.body_error:
        seen = list(out.exceptions)
        late = [error for error in seen if isinstance(error, TimeoutError) and f"{block.group!r} has not" in str(error)]
        if block.step.policy == "broken":
            late += [error for error in seen if id(error) not in expected and isinstance(error, Boom)]
        seen = [error for error in seen if error not in late]
        if len(late) > 1 and block.step.policy != "broken":
            world.fault("I6", f"{block!r} was late twice")
        found = [id(error) for error in seen]
        if sorted(found) != sorted(each for each in expected if each in found or each not in overtaken):
            world.fault("I6", f"{block!r} raised {out.exceptions!r} for {list(expected.values())}")
        if isinstance(out, ExceptionGroup) is not all(isinstance(error, Exception) for error in out.exceptions):
            world.fault("I6", f"{block!r} raised a {type(out).__name__} of {out.exceptions!r}")
    elif not expected.keys() <= overtaken:
        world.fault("I6", f"{block!r} raised {out!r} for {list(expected.values())}")
    elif isinstance(out, TimeoutError):
        if block.step.timeout is None:
            world.fault("I6", f"{block!r} raised {out!r} without a timeout")
    elif out is not None and not isinstance(out, Cancelled):
        world.fault("I6", f"{block!r} raised {out!r} for nothing")


def _says_late(out):
    """Whether a block whose time was up may raise `out`: Ctrl-C leaves bare."""
    if isinstance(out, BaseExceptionGroup):
        return any(isinstance(error, TimeoutError) for error in out.exceptions)
    return isinstance(out, (TimeoutError, KeyboardInterrupt))


def _check_hook(world):
    given = [(id(future), id(error)) for future, error in world.hooked]
    due = [
        (id(spawn.future), id(spawn.runs[-1].left))
        for spawn in world.spawns
        if spawn.block is world.default and spawn.runs and isinstance(spawn.runs[-1].left, FAILURES)
    ]
    if sorted(given) != sorted(due):
        world.fault("I6", f"the hook was given {world.hooked!r}, not what {len(due)} threads have raised")


def _outcomes(world):
    """I8: all outcomes are there, on the main thread, too."""
    me = current_thread()
    for spawn in world.spawns:
        if spawn.future is not None:
            ask(world, me, spawn.future)


def _replaced(out):
    """What the exceptions in `out` have taken the place of, in clean-up that has failed, each by its identity."""
    found, todo = set(), [out]
    while todo:
        error = todo.pop()
        if error is None or id(error) in found:
            continue
        found.add(id(error))
        todo.extend(getattr(error, "exceptions", ()))
        todo.append(error.__context__)
    return found


def _interrupts(world):
    """I10: Ctrl-C is raised in the main thread alone, and leaves its blocks as it is, unless the program has caught it."""
    main = current_thread()
    for here in world.interrupted:
        if here.thread is not main:
            world.fault("I10", f"{here.thread!r} got a KeyboardInterrupt")
    out, raised = world.out, {id(error) for error in world.interrupts}
    is_caught = any(isinstance(error, KeyboardInterrupt) for error in world.dropped)
    if raised and not is_caught and id(out) not in raised and not _replaced(out) & raised:
        world.fault("I10", f"KeyboardInterrupt came, and {out!r} left")
    found = set()
    for error in (out, *(spawn.runs[-1].left for spawn in world.spawns if spawn.runs)):
        if isinstance(error, BaseExceptionGroup):
            _collect(error, found)
    if raised & found:
        world.fault("I10", f"a KeyboardInterrupt left in {out!r}")
