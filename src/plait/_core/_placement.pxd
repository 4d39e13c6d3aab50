cimport cython

from plait._native._native cimport Counter

cdef double _PAUSE
cdef int _FEW, _MANY

@cython.final
cdef class Placement:
    cdef Counter _turns
    cdef Py_ssize_t _few
    cdef Py_ssize_t _turn
    cdef double _last
    cdef Py_ssize_t _waited
    cdef unsigned long _spawner
    cdef Py_ssize_t _spawned
    cdef Py_ssize_t _before
    cpdef Py_ssize_t next_turn(self, Py_ssize_t inside, Py_ssize_t waited, unsigned long spawner, double moment) noexcept
