from plait._core._cancel cimport check_entry
from plait._core._parking cimport Parker, park
from plait._core._runtime cimport current_thread

cdef object _lock
