from cpython.ref cimport PyObject

from plait._core._tree cimport Scope


# Each scope keeps the one above it, and never gets another: who has the first needs no references on the way.
cdef inline bint is_quiet(Scope scope) noexcept:
    cdef PyObject *above = <PyObject *>scope
    while above != <PyObject *>None:
        if (<Scope>above).is_notable:
            return False
        above = <PyObject *>(<Scope>above).parent
    return True
