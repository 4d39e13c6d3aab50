cimport cython

from plait._native._native cimport WaitWord, caller_code, caller_offset, current, line_at, now

cdef class Scope(WaitWord):
    cdef public Scope parent
    cdef public object owner
    cdef public object opener
    cdef public object container
    cdef public object grace
    cdef public object cancelled_at
    cdef public double cut_off
    cdef public bint is_hurried
    cdef public bint is_notable
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
    cdef public bint loads_locked
    cpdef set_scope(self, Scope scope)
    cdef resume(self)
    cpdef Scope innermost(self)
    cpdef nudge(self)

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

cdef class CancelScope(Scope):
    cdef public Delivery _told

@cython.locals(found=Scope, is_hidden=bint, is_out_of_clean_up=bint)
cdef Scope _outermost(Scope scope, bint is_timely)
cpdef without_cancelled(error)
@cython.locals(todo=list)
cpdef list exceptions_in(error)
cpdef Scope pending(Scope scope)
cpdef Scope pending_now(Scope scope)
cpdef bint is_cancelled(Scope scope) except -1
cpdef bint is_hurried(Scope scope) except -1
cpdef double grace_of(Scope scope) except -1
cpdef horizon(Scope above)
@cython.locals(end=double, scope=Scope)
cdef double _end_of_shelter(Scope shield) except -1
@cython.locals(thread=Victim, until=Scope, inner=Scope, threads=list, todo=list)
cpdef wake_all_under(Scope scope)
cdef object Cancelled

from plait._core cimport _quiet  # down here: it knows Scope
