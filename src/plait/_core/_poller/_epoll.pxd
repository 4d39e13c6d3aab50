from plait._native._native cimport Ready

cdef class Epoll:
    cdef object _epoll
    cdef int _fd
    cdef int _wakeup
    cdef Ready _ready
    cdef readonly object wake
    cdef _order(self, int fd, unsigned int mask)
    cpdef wait(self, double timeout)
    cpdef nap(self, double timeout)
