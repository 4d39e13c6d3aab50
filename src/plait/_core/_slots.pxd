cimport cython

from plait._core._cancel cimport patience
from plait._core._tree cimport Scope, horizon
from plait._core._parking cimport Parker, park, park_shielded
from plait._native._native cimport Lock, WaitWord, now, uint64_t

cdef class Slots

@cython.final
cdef class SlotWaiter:
    cdef public Slots slots
    cdef public Parker who
    cdef public SlotWaiter outer
    cdef public uint64_t epoch
    cdef public Scope holder
    cdef public double since
    cdef public long long turn
    cdef public bint is_served
    cpdef bint serve(self) except -1

cdef class Slots:
    cdef Lock _lock
    cdef long long _limit
    cdef long long _free
    cdef object _waiting
    cdef object _returning
    cdef long long _below
    cdef long long _turns
    cdef set _offers
    @cython.locals(waiter=SlotWaiter)
    cpdef resize(self, long long limit)
    cpdef bint try_take(self) except -1
    @cython.locals(epoch=uint64_t, waiter=SlotWaiter, is_taken=bint, is_offered=bint, is_outsider=bint, is_raising=bint, is_over=bint, is_served=bint, outcome=int)
    cpdef bint take(self, Parker me, deadline=*, group=*) except -1
    @cython.locals(waiter=SlotWaiter)
    cpdef bint give(self) except -1
    @cython.locals(waiter=SlotWaiter, is_wanted=bint)
    cpdef lend(self, Parker me, Slots awaited)
    @cython.locals(epoch=uint64_t, waiter=SlotWaiter, is_taken=bint, is_offered=bint, is_over=bint, is_late=bint, since=double)
    cpdef take_back(self, Parker me, deadline=*)
    cpdef bint pass_on(self, Parker holder, SlotWaiter waiter) except -1
    @cython.locals(waiter=SlotWaiter)
    cdef SlotWaiter _serve_below(self, Parker me)
    cdef bint _take_or_queue(self, SlotWaiter waiter, uint64_t epoch) except -1
    cdef bint _take_over(self, SlotWaiter outer) except -1
    @cython.locals(other=SlotWaiter)
    cdef _queue(self, SlotWaiter waiter)
    cdef bint _is_queued(self, SlotWaiter waiter) except -1
    cdef bint _is_wanted(self) except -1
    @cython.locals(waiter=SlotWaiter, oldest=SlotWaiter, is_newest_first=bint)
    cdef SlotWaiter _take_first(self)
    cdef _drop(self, SlotWaiter waiter)
    @cython.locals(scope=Scope)
    cdef Scope _holder_above(self, Parker me)

cdef _tell_lookout(Slots slots)
cdef Slots _slots_of(thread)
@cython.locals(scope=Scope)
cdef _own_limit(Parker me, deadline)
cpdef Slots lend_slot(Parker me, Slots awaited, deadline=*)
