from plait._native._native cimport Ready, poller_forget, poller_order, poller_renew

cdef unsigned int _EVERYTHING, _EPOLLET, _EPOLLONESHOT

cdef class Epoll:
    cdef object _epoll
    cdef int _fd
    cdef int _wakeup
    cdef Ready _ready
    cdef readonly object wake
    cpdef watch(self, int fd)
    cpdef bint is_watched(self, int fd) noexcept
    cpdef watch_once(self, int fd, unsigned int events)
    cpdef watch_changes(self, int fd, unsigned int events)
    cpdef forget(self, int fd)
    cpdef wait(self, double timeout)
    cpdef nap(self, double timeout)
