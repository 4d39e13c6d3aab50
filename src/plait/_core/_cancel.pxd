cimport cython

from plait._core._tree cimport Delivery, Scope, Victim, grace_of, horizon, is_hurried, pending, pending_now
from plait._native._native cimport cooperative, now, weak_reference

cdef double _PAUSE, _LONGEST_PAUSE, _SHARE
cdef object Cancelled, exc_info
@cython.locals(told=Delivery)
cpdef Scope check_entry(Victim me)
@cython.locals(told=Delivery, moment=double, is_swallowed=bint)
cpdef check_park(Victim me)
cpdef sooner(instant, Victim me)
cpdef patience(Victim me, double since)
cdef bint _is_patient(Victim me) except -1
@cython.locals(told=Delivery)
cpdef deliver(Victim me, Scope scope)
@cython.locals(told=Delivery)
cpdef begin_clean_up(Victim me)
@cython.locals(told=Delivery)
cpdef retract(Victim me)
@cython.locals(told=Delivery)
cpdef complain(Victim me)
cdef double _end_of_grace(Victim me, Scope scope) except -1
