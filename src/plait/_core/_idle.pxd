from plait._native._native cimport Flag

cdef class Idler:
    cdef public Flag _asleep
    cdef public object _wake
    cpdef bint prepare(self, has_work) except -1
    cpdef awake(self)
    cpdef bint is_asleep(self)
    cpdef bint notify(self) except -1
