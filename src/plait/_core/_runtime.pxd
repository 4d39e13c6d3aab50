from plait._core._cancel cimport check_entry
from plait._core._tree cimport Scope, pending
from plait._core._carrier cimport Carrier
from plait._core._container cimport Container
from plait._core._parking cimport Parker
from plait._core._placement cimport Placement
from plait._core._slots cimport Slots
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport Counter, Lock, Rundown, caller_code, caller_offset, copied_context, current, kernel_ident, now

cimport cython

@cython.final
cdef class Runtime:
    cdef public Lock _lock
    cdef public list _carriers
    cdef public list _shown
    cdef public bint _is_over
    cdef public list _kept
    cdef public Counter _turns
    cdef public bint _has_gil
    cdef public object _wanted
    cdef public object offload
    cdef public object offload_for_programs
    cdef public list on_start
    @cython.locals(carriers=list, spawner=VirtualThread, count=Py_ssize_t, placement=Placement)
    cpdef Carrier carrier_for(self, Parker me, Container group)

cdef Runtime _runtime

@cython.locals(me=Parker, scope=Scope, told=Scope)
cpdef launch(Container group, make, fn, tuple args, kwargs, label=*, context=*, bint is_reached=*)
@cython.locals(thread=VirtualThread, carrier=Carrier, slots=Slots)
cpdef start_child(Container group, type make, Parker me, fn, tuple args, kwargs, label=*, context=*, bint is_daemon=*)
@cython.locals(thread=VirtualThread)
cdef VirtualThread _prepared(Container group, Carrier carrier, type make, fn, tuple args, kwargs, label, context)
cpdef Parker current_thread()
