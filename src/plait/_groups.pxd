from plait._core._container cimport Container
from plait._core._runtime cimport launch
from plait._native cimport _native

# Looked up once, not in each call: in C a name of the module is a look-up in its dict.
cdef object Future, checked, spawn_slowly
cdef bint is_development

cdef _spawn(group, fn, tuple args)
cdef _spawn_with(group, fn, tuple args, kwargs)
