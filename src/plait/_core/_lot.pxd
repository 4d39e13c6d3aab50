cimport cython

from plait._core._parking cimport Parker, is_complete, park, park_shielded
from plait._native._native cimport Lock, WaitWord, now, uint64_t

cdef Lock _lock

cpdef bint wait(Parker me, key, attempt, reason, deadline=*, bint patient=*) except -1
cpdef wait_shielded(Parker me, key, attempt, reason)
cdef int _park_patiently(Parker me, uint64_t epoch, reason, deadline, double since) except -1
@cython.locals(who=Parker, epoch=uint64_t)
cpdef wake_one(key)
@cython.locals(who=Parker, epoch=uint64_t)
cpdef wake_all(key)
cdef bint _enqueue(key, Parker me, uint64_t epoch) except -1
cdef _next_attempt(deadline)
cdef _dequeue(key, Parker me)
