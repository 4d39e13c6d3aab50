cdef class Timers:
    cdef public list _heap
    cdef public long long _serial
    cdef public long long _stale
    cpdef add(self, double when, target, epoch)
    cpdef retire(self)
    cpdef next_instant(self)
    cpdef expire_until(self, double now)
