cdef class Timers:
    cdef public list _heap
    cdef public long long _serial
    cdef public long long _empty
    cpdef list add(self, double when, target, epoch)
    cpdef push(self, list entry)
    cpdef retire(self, list entry)
    cpdef next_instant(self)
    cpdef expire_until(self, double now)
