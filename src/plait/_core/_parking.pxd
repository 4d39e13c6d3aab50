cimport cython

from plait._core._cancel cimport check_park
from plait._core._tree cimport Victim
from plait._native._native cimport Counter, WaitWord, switch_to, uint64_t

cdef Counter _watched
cdef int _WAITING, _SHIELDED, _WOKEN, _TIMED_OUT, _INTERRUPTED
cdef object Cancelled

cdef class Parker(Victim):
    cdef public object waits_for
    cdef public int holds
    cdef public bint has_lent
    cdef public object slot_waiter
    cdef public bint has_permit
    cdef public uint64_t permit_wait
    cdef leave(self, uint64_t epoch, limit)
    cpdef resume_spawner(self)
    cdef absorb(self)
    cdef drop_timer(self)
    @cython.locals(outcome=int)
    cpdef int withdraw(self)
    cdef hear_handlers(self)
    cpdef bint unpark(self, uint64_t epoch)

cpdef bint is_complete(Parker me, BaseException error) except -1
cpdef int park(Parker me, uint64_t epoch, reason, deadline=*, bint is_raising=*) except -1
cpdef int park_shielded(Parker me, uint64_t epoch, reason, limit=*) except -1
@cython.locals(who=Parker, epoch=uint64_t)
cpdef unpark_all(waiters)
cpdef resume(Parker who)
cdef _tell_observers(Parker me, reason)
