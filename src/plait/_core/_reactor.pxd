from plait._core._parking cimport Parker, park
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport WaitWord

cdef class Descriptor:
    cdef public int fd
    cdef public object owner
    cdef public list waiters
    cdef public bint readable
    cdef public bint has_ended
    cdef public object is_stream
    cpdef wake(self, int events)

cdef class Reactor:
    cdef public object _poller
    cdef public dict _descriptors
    cpdef Descriptor owned(self, int fd, owner)
    cdef Descriptor _bare(self, int fd)
    cdef _replace(self, Descriptor entry)
    cpdef bint wait(self, VirtualThread me, Descriptor entry, int events, deadline) except -1
    cpdef bint wait_bare(self, VirtualThread me, int fd, int events, deadline) except -1
    cdef _order(self, Descriptor entry)
    cpdef dispatch(self, list events)
