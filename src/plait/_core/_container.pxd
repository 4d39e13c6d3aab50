from plait._core._tree cimport Scope, pending
from plait._core._placement cimport Placement
from plait._core._slots cimport Slots
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport Counter, Lock, Rundown, current, uint64_t

cimport cython

cdef class Container:
    cdef public Rundown inside
    cdef public Scope scope
    cdef public Slots slots
    cdef public bint is_supervised
    cdef public object owner
    cdef readonly Placement placement
    cdef public uint64_t joining
    cdef Lock _lock
    cdef public dict _listed
    cdef readonly Py_ssize_t ever_listed
    cdef public set _daemons
    cdef public set _undismissed
    cdef public dict _outsiders
    cpdef Lock members_lock(self)
    cpdef Placement make_placement(self, Counter turns, Py_ssize_t carriers)
    @cython.locals(listed=dict, lock=Lock)
    cpdef enlist(self, thread)
    @cython.locals(lock=Lock)
    cpdef discharge(self, thread)
    cpdef child_ended(self, VirtualThread thread)
