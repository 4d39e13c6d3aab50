cimport cython

from plait._core._parking cimport Parker, park
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport Ready, WaitWord

cdef int READ, URGENT, WRITE, TROUBLE, TIMED_OUT, WOKEN
cdef object _READABLE, _WRITABLE

@cython.final
cdef class Descriptor:
    cdef public int fd
    cdef public object owner
    cdef public list waiters
    cdef public bint readable
    cdef public bint has_ended
    cdef public bint is_marked
    cdef public bint is_over
    cdef public object is_tcp
    @cython.locals(who=VirtualThread)
    cpdef wake(self, int events)

cdef _end_wait(VirtualThread who)

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
    cpdef bint wait_bare(self, VirtualThread me, int fd, int events, deadline, reason, publish=*) except -1
    @cython.locals(who=VirtualThread, wanted=int)
    cdef _order(self, Descriptor entry)
    @cython.locals(entry=Descriptor, place=int, happened=int)
    cpdef dispatch(self, Ready ready)
