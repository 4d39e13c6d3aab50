cimport cython

from plait._core._cancel cimport check_entry, check_park
from plait._core._parking cimport Parker, park
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport WaitWord, cooperative, now, raising

cdef int INTERRUPTED
cdef object _SLEEP, Cancelled

@cython.locals(thread=VirtualThread)
cdef bint _let_others_run() except -1
@cython.locals(me=Parker, span=double, until=double, outcome=int)
cdef _sleep(seconds)
