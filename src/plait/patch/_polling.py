"""`select`, `poll` and `epoll`, and so `selectors`, servers' loops, and asyncio's own.

Each asks once without waiting. If nothing is ready it parks until that may have changed, and asks again: for `select`
and `poll` on all descriptors, with the events that it gives an answer for; for `epoll` on the epoll descriptor, which can
be polled itself. As in the kernel, `select` and `poll` ask for what was wanted when they were called, whatever becomes of
the lists and the poll object meanwhile. Who closes one of the descriptors, or the epoll object, ends the wait. See
docs/adr/0017.
"""

from __future__ import annotations

import errno
import select
import sys
from typing import TYPE_CHECKING, Any

from plait._core import BROKEN, READ, URGENT, WRITE, Parker, WaitReason, check_entry, now, time_number, wait_descriptors
from plait._errors import InternalError
from plait._native import builtin, cooperative, poll_registered
from plait._originals import Epoll, Poll, epoll_poll, make_poll, poll_poll, select_select
from plait.patch._closing import Wait
from plait.patch._registry import ClassPatch, Leaf, method

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ERROR = 0x008  # POLLERR
_SHORT = 0x7FFF  # the kernel has no other events
_LEAST_INT, _MOST_INT = -(1 << 31), (1 << 31) - 1  # poll(2) and epoll_wait(2) take milliseconds in an int
_MOST_SECONDS = (1 << 63) // 10**9  # CPython keeps time in nanoseconds, in 64 bits
_POLL_LIMITS = (_LEAST_INT, _MOST_INT) if sys.version_info < (3, 15) else (-(2**63) / 1e6, 2**63 / 1e6)


def _repeat(
    ask: Callable[[], Any], is_empty: Callable[[Any], bool], watched: dict[int, int], timeout: float | None
) -> Any:
    """Ask, and park on `watched` in between, until there is something or `timeout` seconds have passed.

    If a number is closed it asks, too: what to say of such a number is for `ask` to say.
    """
    me: Parker = cooperative()
    deadline = None if timeout is None else now() + timeout
    with Wait(me, *watched) as wait:
        while True:
            try:
                wait_descriptors(me, watched, deadline, None, WaitReason.READABLE, wait.publish)
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
            wait.is_over = False
            found = ask()
            if not is_empty(found) or (deadline is not None and now() >= deadline):
                return found


def _nothing(found: tuple[list[Any], ...]) -> bool:
    return not any(found)


def _empty(found: list[Any]) -> bool:
    return not found


def _number(thing: Any) -> int:
    return thing if isinstance(thing, int) else thing.fileno()


def _listed(things: Any) -> Any:
    """What can be gone through more than once. A list stays what it is: `fileno()` may change it, and C notices."""
    return things if isinstance(things, (list, tuple)) else list(things)


def _limit(timeout: Any) -> Any:
    """A limit as a number. What C would refuse is given back as it is."""
    limit = None if timeout is None else time_number(timeout)
    return timeout if limit is None else limit


def _look_on_entry() -> None:
    """A cancel point begins, whether there is anything to wait for or not."""
    me: Parker = cooperative()
    if me.scope is not None:
        check_entry(me)


def select_leaf(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
    """`select.select`."""
    timeout = _limit(timeout)
    if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < _MOST_SECONDS):
        return select_select(rlist, wlist, xlist, timeout)  # does not wait, or refuses
    try:
        rlist, wlist, xlist = _listed(rlist), _listed(wlist), _listed(xlist)
    except TypeError:
        return select_select(rlist, wlist, xlist, 0)  # refuses
    _look_on_entry()
    found = select_select(rlist, wlist, xlist, 0)
    if any(found):
        return found
    wanted = [[(_number(thing), thing) for thing in things] for things in (rlist, wlist, xlist)]
    watched: dict[int, int] = {}
    for pairs, events in zip(wanted, (READ | BROKEN, WRITE | _ERROR, URGENT), strict=True):
        for fd, _ in pairs:
            watched[fd] = watched.get(fd, 0) | events
    return _repeat(lambda: _ready(wanted), _nothing, watched, timeout)


def _ready(wanted: list[list[tuple[int, Any]]]) -> tuple[list[Any], ...]:
    """What `select` says of these numbers now: what was given for each."""
    found = select_select(*([fd for fd, _ in pairs] for pairs in wanted), 0)
    return tuple([thing for fd, thing in pairs if fd in ready] for pairs, ready in zip(wanted, found, strict=True))


def poll_leaf(poll: Any, timeout: float | None = None, /) -> Any:
    """`select.poll().poll`."""
    timeout = _limit(timeout)
    if timeout is not None and not (
        isinstance(timeout, (int, float)) and _POLL_LIMITS[0] <= timeout <= _POLL_LIMITS[1]
    ):
        return poll_poll(poll, timeout)  # refuses
    if timeout != 0:
        _look_on_entry()
    found = poll_poll(poll, 0)
    if found or timeout == 0:
        return found
    seconds = None if timeout is None or timeout < 0 else timeout / 1000
    wanted = make_poll()
    watched: dict[int, int] = {}
    for fd, events in (poll_registered(poll) or {}).items():
        wanted.register(fd, events & _SHORT)
        watched[fd] = events & _SHORT | BROKEN
    return _repeat(lambda: poll_poll(wanted, 0), _empty, watched, seconds)


def epoll_leaf(epoll: Any, timeout: float | None = None, maxevents: int = -1) -> Any:
    """`select.epoll().poll`."""
    timeout = _limit(timeout)
    if timeout is not None and not (isinstance(timeout, (int, float)) and _LEAST_INT <= timeout * 1000 <= _MOST_INT):
        return epoll_poll(epoll, timeout, maxevents)  # refuses
    if timeout != 0:
        _look_on_entry()
    found = epoll_poll(epoll, 0, maxevents)
    if found or timeout == 0:
        return found
    seconds = None if timeout is None or timeout < 0 else timeout
    watched = {epoll.fileno(): READ | BROKEN}
    return _repeat(lambda: epoll_poll(epoll, 0, maxevents), _empty, watched, seconds)


def check_layout() -> None:
    """Look whether a poll object is what words.c takes it for."""
    poll = make_poll()
    poll.register(0, select.POLLIN)
    if poll_registered(poll) != {0: select.POLLIN}:
        raise InternalError("the poll object of this interpreter is laid out in an unknown way: plait cannot run on it")


def leaves() -> Sequence[Leaf | ClassPatch]:
    """What this file makes cooperative."""
    check_layout()
    return [
        Leaf("select.select", builtin(select, "select"), select_leaf),
        Leaf("select.poll.poll", method(Poll, "poll"), poll_leaf),
        Leaf("select.epoll.poll", method(Epoll, "poll"), epoll_leaf),
    ]
