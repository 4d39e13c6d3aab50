cimport cython

from plait._core._parking cimport Parker, park
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport Ready, WaitWord, referent

cdef int BROKEN, READ, URGENT, WRITE, TROUBLE, TIMED_OUT, WOKEN, _IN_TURN, _READABLE_BANDS, _WRITABLE_BANDS
cdef object _READABLE, _WRITABLE

@cython.final
cdef class Descriptor:
    cdef public int fd
    cdef public object owner
    cdef public VirtualThread waiter
    cdef public int awaited
    cdef public dict others
    cdef public object line
    cdef public bint readable
    cdef public bint has_ended
    cdef public bint is_marked
    cdef public bint is_over
    cdef public bint is_checked
    cdef public object is_tcp
    cdef public bint listens
    cdef bint is_awaited(self)
    @cython.locals(awaited=int, events=int)
    cdef int wanted(self) except? -1
    cdef enter(self, VirtualThread me, int events)
    cdef enter_line(self, VirtualThread me)
    cdef leave(self, VirtualThread me)
    @cython.locals(waiter=VirtualThread, who=VirtualThread, awaited=int, is_heard=bint)
    cpdef bint wake(self, int events) except -1
    @cython.locals(who=VirtualThread)
    cpdef wake_next(self)
    cdef wake_all(self)

cdef bint _end_wait(VirtualThread who) except -1

@cython.final
cdef class Reactor:
    cdef public object _poller
    cdef public dict _descriptors
    @cython.locals(entry=Descriptor)
    cpdef Descriptor owned(self, int fd, owner)
    @cython.locals(entry=Descriptor)
    cdef Descriptor _bare(self, int fd)
    cdef _replace(self, Descriptor entry)
    cdef _drop(self, Descriptor entry)
    cpdef bint wait(self, VirtualThread me, Descriptor entry, int events, deadline) except -1
    @cython.locals(entry=Descriptor)
    cpdef pass_turn(self, int fd)
    @cython.locals(entry=Descriptor, is_ready=bint, fd=int)
    cpdef bint wait_any(self, VirtualThread me, dict watched, deadline, reason, publish) except -1
    @cython.locals(entry=Descriptor, fd=int, events=int)
    cdef bint _enter(self, VirtualThread me, dict watched, list entries) except -1
    cdef _leave(self, VirtualThread me, Descriptor entry)
    @cython.locals(wanted=int)
    cdef _order(self, Descriptor entry)
    cdef _dispatch_bare(self, Descriptor entry, int happened)
    @cython.locals(entry=Descriptor, place=int, happened=int)
    cpdef dispatch(self, Ready ready)
    @cython.locals(entry=Descriptor)
    cpdef let_go(self, int fd, owner)
