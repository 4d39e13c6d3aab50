from plait._core._idle cimport Idler
from plait._core._reactor cimport Reactor
from plait._core._timers cimport Timers
from plait._core._vthread cimport VirtualThread

cdef class Carrier:
    cdef public object number
    cdef public object runnable
    cdef public object _push
    cdef public object _pop
    cdef public object unstarted
    cdef public object calls
    cdef public Timers timers
    cdef public object poller
    cdef public Reactor reactor
    cdef public Idler idler
    cdef public object _peers
    cdef public list _idle
    cdef public VirtualThread _handoff
    cdef public object _root
    cdef public long long _turn
    cdef public double _thief_woken
    cpdef submit(self, VirtualThread thread)
    cpdef make_runnable(self, VirtualThread thread)
    cpdef next_stack(self, VirtualThread me)
    cpdef _take(self, stack)
    cdef VirtualThread _take_handoff(self)
    cdef VirtualThread _choose(self)
    cdef _sleep(self)
    cdef _poll(self, timeout)
    cdef bint _steal(self) except -1
    cdef _invite_thief(self)
