cimport cython

from plait._core._parking cimport Parker, park
from plait._native._native cimport Lock, WaitWord, uint64_t

cdef uint64_t _forks

@cython.final
cdef class Entry:
    cdef public Parker who
    cdef public bint is_sending
    cdef public object value
    cdef public object state
    cdef public uint64_t epoch
    cdef public bint has_queued

@cython.final
cdef class Exchange:
    cdef public Py_ssize_t capacity
    cdef public Lock lock
    cdef public object buffer
    cdef public object senders
    cdef public object receivers
    cdef public bint is_closed
    cdef public Parker claimed
    cdef uint64_t _forks
    @cython.locals(who=Parker)
    cpdef put(self, value)
    @cython.locals(who=Parker)
    cpdef take(self)
    @cython.locals(who=Parker)
    cpdef attempt(self, Entry entry)
    @cython.locals(who=Parker, epoch=uint64_t)
    cpdef complete(self, Parker me, Entry entry, reason)
    cpdef state_of(self, Entry entry)
    @cython.locals(who=Parker, receiver=Entry)
    cpdef undo(self, Entry entry)
    cpdef leave(self, Entry entry)
    @cython.locals(who=Parker, entry=Entry)
    cpdef close(self)
    @cython.locals(receiver=Entry)
    cpdef put_locked(self, value)
    @cython.locals(sender=Entry)
    cpdef take_locked(self)
    cpdef attempt_locked(self, Entry entry)
    cpdef queue_locked(self, Entry entry, uint64_t epoch)
    @cython.locals(entry=Entry)
    cdef Entry _claim_locked(self, queue)
