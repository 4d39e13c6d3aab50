cimport cython

from plait._core._idle cimport Idler
from plait._native._native cimport Counter, Flag, Queue, now, processor_time, uint64_t

cdef int _MOST_TAKEN, _QUIET
cdef double _WORTH, _SHORTEST_NAP, _LONGEST_NAP, _PATIENCE, _FRESH

@cython.final
cdef class Backlog:
    cdef Queue unstarted
    cdef Idler idler
    cdef unsigned long ident
    cdef uint64_t _seen
    cdef double _seen_used
    cdef uint64_t _began
    cdef double _began_at
    cdef double _worth_until
    cdef begin(self, double moment)
    @cython.locals(traffic=uint64_t, used=double, work=double, passed=uint64_t)
    cdef bint is_slow(self, double moment) except -1
    cdef bint is_known_slow(self, double moment) except -1
    cdef note(self, double until)

@cython.final
cdef class Watch:
    cdef readonly int size
    cdef readonly list backlogs
    cdef Counter sleepers
    cdef Flag vacant
    cdef bint is_open(self) except -1
    @cython.locals(backlog=Backlog)
    cdef bint is_backlog(self, Backlog mine) except -1
    @cython.locals(backlog=Backlog)
    cdef call(self, Backlog mine)

@cython.final
cdef class Watcher:
    cdef Watch _watch
    cdef Backlog _mine
    cdef int _place
    cdef bint is_on
    cdef double _nap
    cdef int _quiet
    cdef int _taken
    cdef double _taken_at
    cdef Backlog _source
    cdef double lie_down(self, double timeout) except -1
    cdef get_up(self)
    cdef bint is_wanted(self) except -1
    @cython.locals(moment=double, step=int, is_backlog=bint, is_slow=bint, backlog=Backlog)
    cdef bint help(self) except -1
    @cython.locals(moment=double, backlog=Backlog)
    cdef _begin(self)
    cdef end(self)
    @cython.locals(count=int)
    cdef bint _take_over(self, Backlog backlog, double moment) except -1
