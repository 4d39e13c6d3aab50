cimport cython

from plait._core._cancel cimport begin_clean_up
from plait._core._tree cimport Scope, Victim, is_cancelled, pending, without_cancelled
from plait._core._carrier cimport Carrier
from plait._core._container cimport Container
from plait._core._parking cimport Parker
from plait._native._native cimport Timer, WaitWord, attempt, drop_leftovers, drop_locals, handle, has_leftovers, is_held_by, is_plain, label_of, mount, switch_to, take_raised, uint64_t, unmount

cdef int _PENDING, _SUCCEEDED, _CANCELLED, _TIMED_OUT
cdef object _Coroutine, _RAISED, Cancelled

cdef class VirtualThread(Parker):
    cdef public object _fn
    cdef public object _args
    cdef public object _kwargs
    cdef public object _label
    cdef public object _result
    cdef public Timer _timer
    cdef public object _error
    cdef public Carrier carrier
    cdef public object context
    cdef public object stack
    cdef public object watchers
    cdef public Container group
    cdef public int status
    cdef public bint _is_listed
    cdef public object spawn_code
    cdef public int spawn_offset
    cdef public bint has_ident
    cdef public bint is_daemon
    cdef public bint is_named
    cpdef enlist(self)
    cpdef expire(self, uint64_t epoch)
    cpdef yield_now(self)
    cpdef give_way(self)
    cpdef run(self, stack)
    cdef bint _take_outcome(self, result) except -1
    cdef _end(self, stack)
    @cython.locals(scope=Scope)
    cpdef prepare(self, fn, args, kwargs, context, Container group, label)
    cpdef begin(self)
    cpdef blank(self, context)
    cdef _misused(self, result)
    cdef bint _end_by(self, error) except -1
    cdef bint _conclude(self, BaseException error) except -1
    cdef _release(self)
    cdef _notify(self)
    cdef _bury(self)
    cdef _refuse_context(self)
    cdef _judge(self, BaseException error)
    cdef _fail(self, BaseException error, verdict)
