cimport cython

from plait._core._idle cimport Idler
from plait._core._parking cimport Parker
from plait._core._reactor cimport Reactor
from plait._core._vthread cimport VirtualThread
from plait._core._watch cimport Backlog, Watch, Watcher
from plait._native._native cimport Queue, Ready, Timer, Timers, end_into, is_spare_context, is_unknown, now, switch_to, track, uint64_t, untrack

cdef int _FAIR, _POLL, _MOST_IDLE
cdef uint64_t _MOST_SPARE
cdef bint _IS_COMPILED
cdef double _LONGEST_WAIT

@cython.final
cdef class Carrier:
    cdef public int number
    cdef public unsigned long long ident
    cdef public Queue runnable
    cdef public Queue unstarted
    cdef public Queue spawners
    cdef public Queue calls
    cdef public Timers timers
    cdef public object poller
    cdef public Reactor reactor
    cdef public Idler idler
    cdef public bint is_alone
    cdef public Watch _watch
    cdef public Backlog _backlog
    cdef public Watcher _watcher
    cdef public list _idle
    cdef public int _idle_count
    cdef public Queue _spares
    cdef public VirtualThread _handoff
    cdef public object _root
    cdef public long long _turn
    cdef public VirtualThread _heir
    cdef public object _raised
    @cython.locals(thread=VirtualThread)
    cpdef VirtualThread blank_thread(self, type make)
    cpdef bint submit(self, VirtualThread thread) except -1
    cpdef make_runnable(self, VirtualThread thread)
    cpdef make_spawner_runnable(self, Parker thread)
    cpdef next_stack(self, VirtualThread me)
    cpdef next_after(self, VirtualThread me)
    cpdef next_in_turn(self, VirtualThread me)
    cpdef take_raised(self, VirtualThread me)
    @cython.locals(thread=VirtualThread)
    cpdef _live(self, stack)
    cdef _let_go(self, VirtualThread thread)
    cdef VirtualThread _take(self, stack)
    cdef _pop_idle(self)
    cdef VirtualThread _take_handoff(self)
    @cython.locals(turn=cython.longlong, thread=VirtualThread)
    cdef VirtualThread _choose(self)
    cdef _wait(self)
    @cython.locals(spawner=Parker)
    cdef VirtualThread _take_spawner(self)
    @cython.locals(due=double, timeout=double)
    cdef _sleep(self)
    @cython.locals(timer=Timer)
    cdef _expire(self, double moment)
    cdef _hear_signals(self)
    cpdef bint _has_work(self) except -1
    cdef bint _has_own_work(self) except -1
    cdef _attend(self, Ready ready)
    cdef _make_calls(self)
