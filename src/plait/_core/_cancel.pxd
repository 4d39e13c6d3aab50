cimport cython

from plait._native._native cimport WaitWord, caller_code, caller_offset, cooperative, current, line_at

cdef class Scope(WaitWord):
    cdef public Scope parent
    cdef public object owner
    cdef public object opener
    cdef public object container
    cdef public object grace
    cdef public object cancelled_at
    cdef public bint is_hurried
    cdef public bint is_shield
    cdef public bint is_time_limit
    cdef public double deadline
    cdef public double shelter
    cdef public double grace_end
    cdef public tuple cause
    cpdef bint cancel_scope(self, reason, source, grace=*) except -1

cdef class Victim(Scope):
    cdef public Scope scope
    cdef public Delivery delivery
    cdef public bint is_deaf
    cdef public double patient_since
    cdef public Scope patient_for
    cpdef set_scope(self, Scope scope)
    cpdef nudge(self)

cdef class CancelScope(Scope):
    cdef public Delivery _told

cdef class Delivery:
    cdef public Scope scope
    cdef public object alive
    cdef public object former
    cdef public double until
    cdef public double quiet_until
    cdef public double told_again_at
    cdef public bint is_swallowed
    cdef public bint is_reported
    cdef public bint is_due

@cython.locals(found=Scope, is_hidden=bint)
cdef Scope _outermost(Scope scope, bint is_timely)
cpdef Scope pending(Scope scope)
cdef bint _is_hurried(Scope scope) except -1
cpdef horizon(Scope above)
cpdef Scope pending_now(Scope scope)
cpdef bint is_cancelled(Scope scope) except -1
cpdef sooner(instant, Victim me)
cpdef patience(Victim me, double since)
cdef bint _is_patient(Victim me) except -1
cdef object _weakly, Cancelled, now, exc_info
@cython.locals(told=Delivery)
cpdef deliver(Victim me, Scope scope)
@cython.locals(told=Delivery)
cpdef complain(Victim me)
@cython.locals(told=Delivery)
cpdef retract(Victim me)
@cython.locals(told=Delivery)
cpdef begin_clean_up(Victim me)
cdef double _end_of_grace(Victim me, Scope scope) except -1
@cython.locals(told=Delivery)
cpdef Scope check_entry(Victim me)
cdef double _PAUSE, _LONGEST_PAUSE, _SHARE
@cython.locals(told=Delivery, moment=double, is_swallowed=bint)
cpdef check_park(Victim me)
