"""Virtual threads with structured concurrency: plain blocking code, run on threads as cheap as a function call."""

# A map of the package, from the bottom up. Imports point downward only.
#
#   _native/       the only C door: the switch, the method tables, atomics, system calls
#   _originals     the unpatched standard library;  _errors  exceptions and warnings
#   _core/         mechanism: threads, carriers, parking, cancellation (its __init__ has the map)
#   _arguments                             arguments that a function has no place for, refused in words
#   _groups _futures _limits _default      groups, what spawn returns, slots, threads outside any block
#   _spawning _starts _options             how a call becomes a child of a group
#   _statistics _failures _stragglers      what a group is doing; how it takes failures; whom a failed one still waits for
#   _scopes                                time limits and shields
#   _holding _deadlock                     what locks that own a value have in common; who waits for whom among them
#   _mutex _rwlock                         such locks: for one thread at a time; for many readers or one writer
#   _exchange _channels _select            values handed over; whichever of several comes first
#   _arrivals _calls _collect              many calls as one: pmap, gather, race, as_completed
#   _threads _executors                    for code that uses threads: threading.Thread and Executor, virtual
#   _offload                               calls that cannot be made to park, on other threads or executors
#   patch/         the leaves of the standard library, made cooperative in place
#   testing/       for tests of concurrent code; not imported here
#   debug/         for seeing what a program does; imported here in development mode alone
#   lowlevel       for people who write primitives

from plait import patch as patch
from plait._channels import Channel as Channel
from plait._collect import as_completed as as_completed
from plait._collect import gather as gather
from plait._collect import pmap as pmap
from plait._collect import race as race
from plait._config import configure as configure
from plait._core import runtime as _runtime
from plait._default import excepthook as excepthook
from plait._default import spawn as spawn
from plait._errors import Cancelled as Cancelled
from plait._errors import CancelledSwallowed as CancelledSwallowed
from plait._errors import ChannelClosed as ChannelClosed
from plait._errors import DeadlockError as DeadlockError
from plait._errors import GroupClosed as GroupClosed
from plait._errors import GroupFailed as GroupFailed
from plait._errors import HeldWhileParked as HeldWhileParked
from plait._errors import InternalError as InternalError
from plait._errors import PoisonedError as PoisonedError
from plait._errors import RebindAfterSpawn as RebindAfterSpawn
from plait._errors import TimeoutDoesNotReachChild as TimeoutDoesNotReachChild
from plait._errors import YieldInsideScope as YieldInsideScope
from plait._executors import VirtualThreadPoolExecutor as VirtualThreadPoolExecutor
from plait._futures import Future as Future
from plait._groups import ThreadGroup as ThreadGroup
from plait._limits import Limiter as Limiter
from plait._mutex import Mutex as Mutex
from plait._offload import OffloadStatistics as OffloadStatistics
from plait._offload import offload as offload
from plait._offload import offload_statistics as offload_statistics
from plait._rebinding import is_development as _is_development
from plait._rwlock import RWLock as RWLock
from plait._scopes import cancelled as cancelled
from plait._scopes import checkpoint as checkpoint
from plait._scopes import current_deadline as current_deadline
from plait._scopes import deadline as deadline
from plait._scopes import move_on_after as move_on_after
from plait._scopes import shield as shield
from plait._scopes import timeout as timeout
from plait._select import Selected as Selected
from plait._select import select as select
from plait._select import writable as writable
from plait._starts import Started as Started
from plait._statistics import GroupStatistics as GroupStatistics
from plait._threads import Thread as Thread

__version__ = "0.1.0"

if _is_development:
    from plait.debug._pins import watch_in_development as _watch

    _runtime.on_start.append(_watch)
