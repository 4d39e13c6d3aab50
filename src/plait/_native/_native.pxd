# What compiled modules of the core call without going through Python.

cimport cython

cdef enum:
    MOST_READY = 256  # events taken in one call

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data

cdef extern from *:
    ctypedef unsigned long long uint64_t
    ctypedef long long int64_t

ctypedef object (*positional_t)(object, object, tuple)

cpdef current()
cpdef double now() noexcept
cpdef unsigned long kernel_ident() noexcept
cpdef double processor_time(unsigned long ident) noexcept
cpdef switch_to(stack)
cpdef end_into(stack)
cpdef bint mount(stack, thread, context) except -1
cpdef bint unmount(stack) except -1
cpdef drop_locals()
cpdef bint has_leftovers() noexcept
cpdef drop_leftovers()
cpdef bint is_plain(thing) noexcept
cpdef bint is_unknown(thing) noexcept
cpdef bint is_spare_context(context) noexcept
cpdef bint is_held_by(thing, Py_ssize_t holders) noexcept
cpdef cooperative()
cpdef copied_context(spare=*)

@cython.final
cdef class Raised:
    cdef readonly object error

cpdef raising(error)
cpdef take_raised()
cpdef attempt(fn, tuple args, kwargs)
cpdef handle(error)
cdef take_positionals(method, positional_t function)
cpdef caller_code()
cpdef label_of(fn)
cpdef referent(reference)
cpdef weak_reference(thing)
cpdef untrack(thing)
cpdef track(thing)
cpdef int caller_offset() noexcept
cpdef int line_at(code, int offset) except? -1
cpdef accept(sock, int fd)
cpdef int connect(sock, int fd, bytes peer) except -1
cpdef int connected(sock, int fd) except -1
cpdef bytes packed_address(int family, address)
cpdef int socket_fd(sock) except -2
cpdef socket_timeout(sock)
cpdef recv(int fd, Py_ssize_t size, int flags=*)
cpdef recv_into(int fd, buffer, Py_ssize_t size, int flags=*, Py_ssize_t start=*)
cpdef send(int fd, data, int flags=*, Py_ssize_t start=*)
cpdef Py_ssize_t size_of(data) except -1
cpdef int flags_of(flags) except? -1
cpdef Py_ssize_t room_in(buffer, Py_ssize_t size) except -1

cdef class WaitWord:
    cdef uint64_t word
    cdef uint64_t settled
    cdef uint64_t latched
    cdef uint64_t serial
    cdef readonly int outcome
    cdef public uint64_t park_count
    cpdef uint64_t arm(self, bint shielded=*) noexcept
    cpdef int disarm(self) noexcept
    cpdef hold(self)
    cpdef let_go(self)
    cpdef bint claim(self, uint64_t epoch, uint64_t outcome) noexcept
    cpdef bint interrupt(self) noexcept
    cpdef settle(self)
    cpdef renew(self)
    cpdef bint is_settled(self) noexcept
    cpdef bint is_here(self) noexcept
    cpdef uint64_t epoch(self) noexcept
    cpdef bint waits(self, uint64_t epoch) noexcept
    cpdef latch(self)
    cpdef unlatch(self)
    cpdef uint64_t number(self) noexcept

cdef class Notice:
    cdef uint64_t given
    cdef uint64_t awaited
    cpdef bint give(self) except -1
    cpdef bint is_given(self) noexcept
    cpdef await_in(self, uint64_t epoch)
    cpdef uint64_t epoch(self) noexcept

@cython.final
cdef class Flag:
    cdef uint64_t raised
    cpdef set(self)
    cpdef clear(self)
    cpdef bint take(self) noexcept
    cpdef bint is_raised(self) noexcept

@cython.final
cdef class Rundown:
    cdef uint64_t inside
    cpdef bint enter(self) noexcept
    cpdef bint leave(self) noexcept
    cpdef uint64_t count(self) noexcept

@cython.final
cdef class Counter:
    cdef uint64_t total
    cpdef int64_t add(self, int64_t step) noexcept
    cpdef int64_t value(self) noexcept

@cython.final
cdef class Lock:
    cdef void *lock
    cdef uint64_t forks
    cpdef acquire(self)
    cpdef release(self)
    cdef _renew(self)

@cython.final
cdef class Queue:
    cdef list cells
    cdef uint64_t first
    cdef uint64_t count
    cpdef put(self, item)
    cpdef bint offer(self, item) except -1
    cdef bint grow(self) except -1
    cpdef take(self)
    cpdef uint64_t size(self) noexcept
    cpdef uint64_t traffic(self) noexcept

@cython.final
@cython.no_gc
cdef class Timer:
    cdef readonly double when
    cdef uint64_t serial
    cdef object target
    cdef readonly uint64_t epoch
    cdef bint is_in
    cpdef take_target(self)

@cython.final
cdef class Timers:
    cdef list heap
    cdef uint64_t serial
    cdef Py_ssize_t empty
    cpdef Timer add(self, double when, target, uint64_t epoch)
    cpdef push(self, Timer timer)
    cpdef retire(self, Timer timer)
    cdef sweep(self)
    cpdef double next_instant(self) noexcept
    cpdef Timer take_due(self, double now)

@cython.final
cdef class Ready:
    cdef int count
    cdef epoll_event found[MOST_READY]
    cpdef int size(self) noexcept
    cpdef int fd(self, int place) noexcept
    cpdef unsigned int events(self, int place) noexcept
    cpdef collect(self, int epoll, double timeout)
    cpdef nap(self, int epoll, double timeout)

cpdef poller_order(int epoll, int fd, unsigned int events, bint is_known)
cpdef bint poller_renew(int epoll, int fd, unsigned int events) noexcept
cpdef void poller_forget(int epoll, int fd) noexcept
