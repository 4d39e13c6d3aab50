# cython: language_level=3, freethreading_compatible=True, binding=False, embedsignature=False, auto_pickle=False
"""The native package: atomics, system calls, and the doors of the C sources beside this file.

calls.pxi  the system calls, included here
stack.c    Stack, the switch
leaf.c     the method tables
words.c    RLock, poll objects, sockets and SemLock, opened
tls.c      TLS connections, opened
frames.c   suspended frames for the collector of free-threaded 3.14
here.h     the thread-local record that they share

Atomics. Every operation that changes a cell is sequentially consistent and a full fence, and so is every failed one:
the protocols of the core (idle, parking, cancel) are of the form "store mine, then look at yours" on both sides, and
they count on it. Queue alone fences nothing: who puts something there and then looks at a cell does so through one that
does (Flag.take). Python's own attribute accesses are release and acquire on free-threaded builds, no more.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.list cimport PyList_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, ENOSYS, ENOTSOCK, EOPNOTSUPP, ETIMEDOUT, errno
from libc.math cimport ceil
from libc.string cimport strerror
from posix.signal cimport sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, clockid_t, timespec

from types import CodeType as _Code

cdef extern from *:
    """
    #include <stdint.h>
    /* The fences beside a read-modify-write, which may fail and store nothing: none on x86, where that is one by itself. */
    #if defined(__x86_64__) || defined(__i386__)
    #define PLAIT_RMW_FENCE() ((void)0)
    #else
    #define PLAIT_RMW_FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #endif
    static inline int plait_cas(uint64_t *cell, uint64_t seen, uint64_t wanted)
    {
        PLAIT_RMW_FENCE();
        int done = __atomic_compare_exchange_n(cell, &seen, wanted, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        PLAIT_RMW_FENCE();
        return done;
    }
    static inline uint64_t plait_load(uint64_t *cell) { return __atomic_load_n(cell, __ATOMIC_SEQ_CST); }
    static inline uint64_t plait_swap(uint64_t *cell, uint64_t wanted)
    {
        uint64_t seen = __atomic_exchange_n(cell, wanted, __ATOMIC_SEQ_CST);
        PLAIT_RMW_FENCE();
        return seen;
    }
    static inline uint64_t plait_add(uint64_t *cell, int64_t step)
    {
        uint64_t total = __atomic_add_fetch(cell, (uint64_t)step, __ATOMIC_SEQ_CST);
        PLAIT_RMW_FENCE();
        return total;
    }
    static inline void plait_store(uint64_t *cell, uint64_t wanted)
    { __atomic_store_n(cell, wanted, __ATOMIC_RELEASE); }
    static inline void plait_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    #ifdef Py_GIL_DISABLED
    #define PLAIT_IS_FREE_THREADED 1
    #else
    #define PLAIT_IS_FREE_THREADED 0
    #endif
    """
    bint IS_FREE_THREADED "PLAIT_IS_FREE_THREADED"
    bint plait_cas(uint64_t *cell, uint64_t seen, uint64_t wanted) nogil
    uint64_t plait_load(uint64_t *cell) nogil
    uint64_t plait_swap(uint64_t *cell, uint64_t wanted) nogil
    uint64_t plait_add(uint64_t *cell, int64_t step) nogil
    void plait_store(uint64_t *cell, uint64_t wanted) nogil
    void plait_fence() nogil

cdef extern from *:
    """
    #include <Python.h>
    static inline PyObject *plait_caller_code(void)
    {
        PyFrameObject *frame = PyEval_GetFrame();
        if (frame == NULL)
            Py_RETURN_NONE;
        return (PyObject *)PyFrame_GetCode(frame);
    }
    static inline int plait_caller_offset(void)
    {
        PyFrameObject *frame = PyEval_GetFrame();
        return frame == NULL ? -1 : PyFrame_GetLasti(frame);
    }
    static inline int plait_line_at(PyObject *code, int offset)
    { return PyCode_Addr2Line((PyCodeObject *)code, offset); }
    static inline PyObject *plait_label_of(PyObject *fn)
    {
    #ifndef Py_GIL_DISABLED /* there another thread could replace the name meanwhile */
        if (PyFunction_Check(fn)) /* the common case without a look-up: 200 instructions fewer in each spawn */
            return Py_NewRef(((PyFunctionObject *)fn)->func_qualname);
    #endif
        PyObject *name = PyObject_GetAttrString(fn, "__qualname__");
        if (name == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            name = PyUnicode_InternFromString("thread");
        }
        return name;
    }
    """
    object plait_label_of(object fn)
    object plait_caller_code()
    int plait_caller_offset()
    int plait_line_at(object code, int offset)

cdef extern from "here.h":
    void plait_arm()
    void plait_disarm()
    void plait_hold(int step)
    object plait_current()
    object plait_cooperative()
    Py_ssize_t plait_parks_at
    void plait_bind(object parker)
    object plait_switch_to(object stack)
    bint plait_mount(object stack, object thread, object context) except -1
    bint plait_unmount(object stack) except -1
    void plait_drop_locals()
    int plait_stack_init(object module) except -1
    int plait_leaf_init(object module) except -1
    int plait_words_init(object module) except -1
    int plait_gate_init(object module) except -1
    int plait_opening_init(object module) except -1
    int plait_tls_init(object module) except -1
    int plait_socket_fd(object sock) except -2
    object plait_socket_timeout(object sock)

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(object thing)
    void PyObject_GC_Track(object thing)

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock) nogil
    int PyThread_acquire_lock(PyThread_type_lock, int) nogil
    void PyThread_release_lock(PyThread_type_lock) nogil

cdef extern from "<pthread.h>" nogil:
    int pthread_getcpuclockid(unsigned long thread, clockid_t *clock)

cdef extern from "<sched.h>":
    int sched_yield()

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size)
    int MSG_DONTWAIT, SOL_SOCKET, SO_TYPE

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec *parts, int count, long long offset, int flags)
    ssize_t pwritev2(int fd, const iovec *parts, int count, long long offset, int flags)
    int RWF_NOWAIT

cdef extern from "<sys/epoll.h>" nogil:
    int c_epoll_wait "epoll_wait"(int epfd, epoll_event *events, int most, int milliseconds)

cdef extern from "<sys/stat.h>" nogil:
    ctypedef struct stat_t "struct stat":
        unsigned int st_mode
    unsigned int S_IFMT
    int c_fstat "fstat"(int fd, stat_t *status)

cdef extern from "<sys/vfs.h>" nogil:
    ctypedef struct statfs_t "struct statfs":
        long f_type
    int c_fstatfs "fstatfs"(int fd, statfs_t *status)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int *ends, int flags)
    int c_close "close"(int fd)

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC
    unsigned int SPLICE_F_NONBLOCK
    ssize_t tee(int source, int target, size_t count, unsigned int flags)
    cdef struct flock:
        short l_type
        short l_whence
        long long l_start
        long long l_len
    int c_fcntl "fcntl"(int fd, int command, ...)
    int F_GETFL, F_SETFL, F_SETLKW, F_WRLCK, F_UNLCK, O_NONBLOCK

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout)
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const sigset_t *mask)
    short POLLIN

cdef extern from *:
    """
    /* A macro, for it changes the variable: as long as nobody else has the bytes, the rest of them is given back. */
    #define plait_shrink(bytes, size) _PyBytes_Resize(&(bytes), (size))
    """
    int plait_shrink(object bytes, Py_ssize_t size) except -1

# ---- who is at work here -------------------------------------------------------------------------------------------

cpdef current():
    """The parker at work on this kernel thread: a virtual thread, a scoped platform thread's record, or None."""
    return plait_current()


cpdef copied_context():
    """As `contextvars.copy_context()`."""
    context = PyContext_CopyCurrent()
    if copied_variable is not None:
        value = copied_variable.get(None)
        if value is not None:
            context.run(copied_variable.set, value.copy())
    return context


cdef object copied_variable = None


def set_copied_variable(variable):
    """The values of this context variable can be changed in place: whoever inherits one gets a copy. None: of none."""
    global copied_variable
    copied_variable = variable


cpdef cooperative():
    """As current(), but None where nothing may park: a wait is announced already, or the collector is at work."""
    return plait_cooperative()


cpdef caller_code():
    """The code of the innermost function of Python that runs here; None if there is none."""
    return plait_caller_code()


cpdef int caller_offset():
    """Where in its code that function is."""
    return plait_caller_offset()


cpdef int line_at(code, int offset) except? -1:
    """The line of that place in `code`, a code object."""
    if not isinstance(code, _Code):
        raise TypeError(f"line_at() needs a code object, not {code!r}")
    return plait_line_at(code, offset)


cpdef untrack(thing):
    """Keep `thing` from the garbage collector: it is sure to be reachable for now, and not worth a visit."""
    PyObject_GC_UnTrack(thing)


cpdef track(thing):
    """Give it back. Once for each `untrack`."""
    PyObject_GC_Track(thing)


cpdef label_of(fn):
    """What a thread that calls `fn` is named after: its qualified name, or "thread"."""
    return plait_label_of(fn)


def check_signals():
    """Run the handlers of the signals that have come, in the main thread: as between two instructions of Python."""
    PyErr_CheckSignals()


def bind(parker):
    """Make `parker` (or None) what is at work on this platform thread. The caller keeps it alive until it is unbound."""
    plait_bind(parker)


cpdef double processor_time(unsigned long ident):
    """For how many seconds the kernel thread `ident`, which has not ended, has had a processor; 0.0 if that is unknown."""
    cdef clockid_t clock
    cdef timespec spent
    if not ident or pthread_getcpuclockid(ident, &clock) or clock_gettime(clock, &spent):
        return 0.0
    return spent.tv_sec + spent.tv_nsec * 1e-9


cpdef switch_to(stack):
    """Leave the running stack for `stack`; return when somebody switches back."""
    plait_switch_to(stack)


cpdef bint mount(stack, thread, context) except -1:
    """Put `thread` to work on `stack`, which runs, in `context`, and open the gate; False if the context is in use."""
    return plait_mount(stack, thread, context)


cpdef bint unmount(stack) except -1:
    """Nothing of the thread that is mounted on `stack` is left to run: close the gate, drop all that was its own."""
    return plait_unmount(stack)


cpdef drop_locals():
    """Drop the thread-locals of the mounted thread, whose function has ended; destructors may park."""
    plait_drop_locals()


# ---- atomics -------------------------------------------------------------------------------------------------------

# The states of a wait word, in its low three bits; above them the epoch, which counts the waits.
cdef enum:
    RUNNING = 0     # at work, or not started
    WAITING = 1     # has announced a wait; anybody may claim it
    SHIELDED = 2    # the same, but a canceller leaves it alone
    WOKEN = 3       # claimed by a waker
    TIMED_OUT = 4   # claimed by a timer
    INTERRUPTED = 5 # claimed by a canceller
    STATE = 7

outcomes = {"RUNNING": RUNNING, "WAITING": WAITING, "SHIELDED": SHIELDED, "WOKEN": WOKEN, "TIMED_OUT": TIMED_OUT,
            "INTERRUPTED": INTERRUPTED}


cdef class WaitWord:
    """The word on which waker, timer and canceller compete for one wait: exactly one of them wins.

    The owner arms it (a new epoch), publishes the epoch to whoever shall wake it, looks once more at what it waits for,
    and suspends; who claims the word must resume the owner. Anything that still holds an old epoch fails to claim.
    From arm() to disarm() leaves on the owner's kernel thread behave as CPython made them: nothing that runs there in
    between, such as a finalizer, may start a second wait over the first.

    Attributes:
        outcome: How the last wait stood when it was disarmed. The owner's; for who is left by an exception.
        park_count: How often the owner has parked. Written by the owner; trampolines compare it before and after a call.
    """

    cpdef uint64_t arm(self, bint shielded=False):
        """Announce a wait; its epoch. Owner only. A full fence."""
        plait_arm()
        cdef uint64_t epoch = (self.word >> 3) + 1
        plait_swap(&self.word, epoch << 3 | (SHIELDED if shielded else WAITING))
        return epoch

    cpdef int disarm(self):
        """End the wait; how it stood: one of the states. Owner only. A full fence.

        WAITING or SHIELDED means that nobody has claimed it, and nobody will.
        """
        cdef uint64_t seen = plait_swap(&self.word, plait_load(&self.word) & ~<uint64_t>STATE)
        self.outcome = seen & STATE
        plait_disarm()
        return self.outcome

    cpdef bint claim(self, uint64_t epoch, uint64_t outcome):
        """End wait `epoch` of this word with `outcome` (WOKEN or TIMED_OUT); False if it was over. A full fence."""
        if plait_cas(&self.word, epoch << 3 | WAITING, epoch << 3 | outcome):
            return True
        return plait_cas(&self.word, epoch << 3 | SHIELDED, epoch << 3 | outcome)

    cpdef bint interrupt(self):
        """End whatever wait a canceller may end now, with INTERRUPTED; False if there is none. A full fence."""
        cdef uint64_t seen
        plait_fence()
        while True:
            seen = plait_load(&self.word)
            if seen & STATE != WAITING:
                return False
            if plait_cas(&self.word, seen, (seen & ~<uint64_t>STATE) | INTERRUPTED):
                return True

    cpdef hold(self):
        """Close the gate without announcing a wait: the owner is about to run others."""
        plait_arm()

    cpdef let_go(self):
        """Open the gate that hold() has closed."""
        plait_disarm()

    cpdef settle(self):
        """The owner's outcome is stored, for good. Owner only. A full fence."""
        plait_swap(&self.settled, 1)

    cpdef bint is_settled(self):
        """Whether the outcome is stored. A full fence before it looks."""
        plait_fence()
        return plait_load(&self.settled) != 0

    def end(self):
        """Nothing of the owner, which has settled, runs any more. Owner only. A full fence."""
        plait_swap(&self.settled, 2)

    def is_ended(self):
        """Whether end() was called. A full fence before it looks."""
        plait_fence()
        return plait_load(&self.settled) == 2

    cpdef uint64_t epoch(self):
        """The epoch of the wait that was announced last. On the owner's kernel thread only."""
        return self.word >> 3

    cpdef bint waits(self, uint64_t epoch):
        """Whether wait `epoch` is still open: what a stale timer asks."""
        cdef uint64_t seen = plait_load(&self.word)
        return seen == (epoch << 3 | WAITING) or seen == (epoch << 3 | SHIELDED)

    cpdef latch(self):
        """Shut others out, for one access to a field that its owner changes while others read it.

        On builds with a GIL that is what the GIL does. A spin lock: between this and unlatch() nothing may run that
        could take long, detach the kernel thread, or free an object.
        """
        if IS_FREE_THREADED:
            while not plait_cas(&self.latched, 0, 1):
                sched_yield()

    cpdef unlatch(self):
        """Let them in again."""
        if IS_FREE_THREADED:
            plait_swap(&self.latched, 0)

    cpdef uint64_t number(self):
        """A number of its own, drawn when first asked for. Any thread."""
        cdef uint64_t drawn
        if plait_load(&self.serial) == 0:
            drawn = plait_add(&numbers, 1)
            plait_cas(&self.serial, 0, drawn)
        return plait_load(&self.serial)

    def is_waiting(self):
        """Whether a wait is announced and nobody has claimed it."""
        cdef uint64_t state = plait_load(&self.word) & STATE
        return state == WAITING or state == SHIELDED

    def state(self):
        """The state, for dumps and tests."""
        return plait_load(&self.word) & STATE


cdef uint64_t numbers = 0  # drawn so far


cdef class Notice:
    """One bit that is given once, and the epoch of the wait for it.

    Waiter: 1. says in which epoch it is about to wait   2. arms its word [fence]   3. looks whether the bit is given
    Giver:  1. gives it [fence]                          2. reads the epoch, and claims that wait
    Either the waiter's step 3 sees the bit, or the giver's step 2 the epoch, and the word armed or about to be.
    """

    def __cinit__(self, *args):
        self.word = forks_seen << 1

    cpdef bint give(self) except -1:
        """Give it; False if it was given before. A full fence."""
        return not plait_swap(&self.word, plait_load(&self.word) | 1) & 1

    cpdef bint is_given(self):
        """Whether it is."""
        return plait_load(&self.word) & 1

    cpdef bint is_awaited_here(self):
        """Whether it was made in this process, not before a fork: who waits for it may be here."""
        return plait_load(&self.word) >> 1 == forks_seen

    cpdef await_in(self, uint64_t epoch):
        """The wait of this epoch will be for it. The waiter's alone."""
        plait_store(&self.awaited, epoch)

    cpdef uint64_t epoch(self):
        """The epoch of the wait for it."""
        return plait_load(&self.awaited)


cdef class Flag:
    """One bit that one side raises and the other takes. Both are full fences."""

    cpdef set(self):
        """Raise it."""
        plait_swap(&self.raised, 1)

    cpdef clear(self):
        """Lower it."""
        plait_swap(&self.raised, 0)

    cpdef bint take(self):
        """Lower it; True for exactly one taker of each time that it was raised."""
        plait_fence()
        if plait_load(&self.raised) == 0:
            return False
        return plait_swap(&self.raised, 0) == 1

    cpdef bint is_raised(self):
        """Whether it is, at this moment. Any thread. No fence."""
        return plait_load(&self.raised) == 1


cdef class Rundown:
    """A count of those who are inside, which closes for good when it comes back to zero. Starts at one: its owner."""

    def __cinit__(self):
        self.inside = 1

    cpdef bint enter(self):
        """Count one more in; False, and nothing counted, once it has closed. Any thread."""
        cdef uint64_t seen
        while True:
            seen = plait_load(&self.inside)
            if seen == 0:
                return False
            if plait_cas(&self.inside, seen, seen + 1):
                return True

    cpdef bint leave(self):
        """Count one out; True for the one who closed it. Any thread that is inside."""
        return plait_add(&self.inside, -1) == 0

    def reset(self):
        """Only the owner is inside: in a child process after fork."""
        plait_swap(&self.inside, 1)

    cpdef uint64_t count(self):
        """How many are inside now. A full fence before it looks."""
        plait_fence()
        return plait_load(&self.inside)


cdef class Counter:
    """A number that many threads add to."""

    cpdef int64_t add(self, int64_t step):
        """Add `step`; the new total. A full fence."""
        return <int64_t>plait_add(&self.total, step)

    cpdef int64_t value(self):
        """The total now."""
        return <int64_t>plait_load(&self.total)


cdef class Lock:
    """A plain lock for the core itself: it blocks the kernel thread, is never a leaf, and is held for moments.

    In a forked child it may be held by a thread that is not there. Each lock knows how many forks its process had seen
    when it was made, and is replaced when it is first used after another one; the forking thread itself holds none.
    """

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError("out of locks")
        self.forks = plait_load(&forks_seen)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def __enter__(self):
        if plait_load(&self.forks) != forks_seen:
            self._renew()
        # A finalizer that runs while the lock is held must not come back here: the holder is this kernel thread.
        plait_hold(1)
        if not PyThread_acquire_lock(self.lock, 0):
            with nogil:
                PyThread_acquire_lock(self.lock, 1)

    def __exit__(self, kind, error, traceback):
        PyThread_release_lock(self.lock)
        plait_hold(-1)

    cdef _renew(self):
        # What is replaced is left alone: a lock that is held must not be freed. Two threads may come here at a time.
        lock = PyThread_allocate_lock()
        if lock == NULL:
            raise MemoryError("out of locks")
        while not plait_cas(&renewing, 0, 1):
            sched_yield()
        if self.forks != forks_seen:
            self.lock, lock = lock, NULL
            plait_swap(&self.forks, forks_seen)
        plait_swap(&renewing, 0)
        if lock != NULL:
            PyThread_free_lock(lock)


cdef uint64_t forks_seen = 0
cdef uint64_t renewing = 0  # one lock is being replaced


def count_fork():
    """In a forked child, before anything else: every Lock is free again."""
    global forks_seen
    forks_seen += 1
    plait_swap(&renewing, 0)


# ---- queues --------------------------------------------------------------------------------------------------------

@cython.boundscheck(False)
@cython.wraparound(False)
cdef class Queue:
    """First in, first out; any thread puts, any thread takes: a deque that compiled code reaches without Python.

    A ring in a list, a power of two long, which never shrinks. Each step is a critical section: the queue's own lock on
    free-threaded builds, nothing on others, where no other thread gets in between.

    `first` counts the items taken so far; an item stands in the cell of its number, modulo the length.
    """

    def __cinit__(self):
        self.cells = [None] * 64

    cpdef put(self, item):
        """Append `item`, which must not be None."""
        with cython.critical_section(self):
            while self.count == <uint64_t>PyList_GET_SIZE(self.cells):
                self.grow()
            self.cells[(self.first + self.count) & (PyList_GET_SIZE(self.cells) - 1)] = item
            plait_store(&self.count, self.count + 1)

    cdef grow(self):
        cdef list old = self.cells
        cdef uint64_t size = PyList_GET_SIZE(old)
        cdef uint64_t place
        cdef list cells = [None] * <Py_ssize_t>(2 * size)
        if self.cells is not old or self.count != size:
            return  # up to 3.11 the collector may have run just now, and in it a finalizer that has put or taken
        for place in range(self.first, self.first + size):
            cells[place & (2 * size - 1)] = old[place & (size - 1)]
        self.cells = cells

    cpdef take(self):
        """The first item, or None if there is none."""
        cdef uint64_t place
        with cython.critical_section(self):
            if self.count == 0:
                return None
            place = self.first & (PyList_GET_SIZE(self.cells) - 1)
            item = self.cells[place]
            self.cells[place] = None
            self.first += 1
            plait_store(&self.count, self.count - 1)
            return item

    cpdef uint64_t size(self):
        """How many are in it now."""
        return plait_load(&self.count)

    cpdef uint64_t traffic(self):
        """How many have been put and taken so far, together; about, while others are at it."""
        return 2 * plait_load(&self.first) + plait_load(&self.count)


# ---- what a poller reports -----------------------------------------------------------------------------------------

cdef class Ready:
    """Descriptors with what has happened to them, as one wait of a poller reports them: room that is used for each wait."""

    cpdef int size(self):
        """How many there are."""
        return self.count

    cpdef int fd(self, int place):
        """The descriptor at `place`, from 0 up."""
        return self.found[place].data.fd

    cpdef unsigned int events(self, int place):
        """Its events."""
        return self.found[place].events

    cpdef collect(self, int epoll, double timeout):
        """Let epoll_wait(2) fill it: for at most `timeout` seconds, none if a signal comes first."""
        cdef int milliseconds = <int>ceil(timeout * 1e3)
        if milliseconds == 0:
            self.count = c_epoll_wait(epoll, self.found, MOST_READY, 0)  # as short as those below
        else:
            with nogil:
                self.count = c_epoll_wait(epoll, self.found, MOST_READY, milliseconds)
        if self.count < 0:
            self.count = 0
            if errno != EINTR:
                fail()

    cpdef nap(self, int epoll, double timeout):
        """As collect(), for less than a second, and to the microsecond: epoll_wait(2) counts in milliseconds."""
        cdef pollfd one
        cdef timespec span
        one.fd, one.events, one.revents = epoll, POLLIN, 0
        span.tv_sec, span.tv_nsec = 0, <long>(timeout * 1e9)
        with nogil:
            ppoll(&one, 1, &span, NULL)
        self.collect(epoll, 0.0)


include "calls.pxi"


import sys as _sys

_module = _sys.modules[__name__]
cdef WaitWord _sample = WaitWord()
plait_parks_at = <char *>&_sample.park_count - <char *><void *>_sample
plait_stack_init(_module)
plait_leaf_init(_module)
plait_words_init(_module)
plait_gate_init(_module)
plait_opening_init(_module)
plait_tls_init(_module)
