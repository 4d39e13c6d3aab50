from plait._core._cancel cimport check_entry, retract
from plait._core._parking cimport Parker
from plait._core._waiters cimport Waiter

cdef Waiter _announce(event, condition, lock, Parker me)
cdef bint _is_plain(condition) except -1
cdef _take_back(condition, state)
cdef bint _is_complete(Parker me, error) except -1
cdef _leave(condition, Waiter waiter)
