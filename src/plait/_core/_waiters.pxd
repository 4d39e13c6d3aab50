cimport cython

from plait._core._cancel cimport check_park
from plait._core._parking cimport Parker, park
from plait._native._native cimport Notice, WaitWord, now, uint64_t

cdef int TIMED_OUT, INTERRUPTED

@cython.final
@cython.no_gc
cdef class Waiter(Notice):
    cdef Parker _me
    @cython.locals(me=Parker, epoch=uint64_t, outcome=int)
    cpdef wait(self, timeout)
