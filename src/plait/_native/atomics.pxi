# What many threads change, one step at a time: the words, counts, locks and queues of the core.
#
# Atomics. Every operation that changes a cell is sequentially consistent and a full fence, and so is every failed one:
# the protocols of the core (idle, parking, cancel) are of the form "store mine, then look at yours" on both sides, and
# they count on it. Queue alone fences nothing: who puts something there and then looks at a cell does so through one that
# does (Flag.take). Python's own attribute accesses are release and acquire on free-threaded builds, no more.

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


# ---- atomics -------------------------------------------------------------------------------------------------------

# The states of a wait word, in its low three bits; above them the epoch, which counts the waits, under the mark of the process.
cdef enum:
    RUNNING = 0     # at work, or not started
    WAITING = 1     # has announced a wait; anybody may claim it
    SHIELDED = 2    # the same, but a canceller leaves it alone
    WOKEN = 3       # claimed by a waker
    TIMED_OUT = 4   # claimed by a timer
    INTERRUPTED = 5 # claimed by a canceller
    STATE = 7
    MARK = 48       # where the mark begins: how many forks the process had seen when the word was last written by its owner

outcomes = {"RUNNING": RUNNING, "WAITING": WAITING, "SHIELDED": SHIELDED, "WOKEN": WOKEN, "TIMED_OUT": TIMED_OUT,
            "INTERRUPTED": INTERRUPTED}


cdef class WaitWord:
    """The word on which waker, timer and canceller compete for one wait: exactly one of them wins.

    The owner arms it (a new epoch), publishes the epoch to whoever shall wake it, looks once more at what it waits for,
    and suspends; who claims the word must resume the owner. Anything that still holds an old epoch fails to claim.
    From arm() to disarm() leaves on the owner's kernel thread behave as CPython made them: nothing that runs there in
    between, such as a finalizer, may start a second wait over the first.

    In a forked child whatever waited stands there as it did, though of all threads only the one that has forked is there.
    An epoch contains the mark of its process, and no wait of another process can be ended: nobody resumes such a thread.

    Attributes:
        outcome: How the last wait stood when it was disarmed. The owner's; for who is left by an exception.
        park_count: How often the owner has parked. Written by the owner; trampolines compare it before and after a call.
    """

    def __cinit__(self):
        self.word = here

    cpdef uint64_t arm(self, bint shielded=False) noexcept:
        """Announce a wait; its epoch. Owner only. A full fence."""
        plait_arm()
        cdef uint64_t epoch = next_epoch(self.word)
        plait_swap(&self.word, epoch << 3 | (SHIELDED if shielded else WAITING))
        return epoch

    cpdef int disarm(self) noexcept:
        """End the wait; how it stood: one of the states. Owner only. A full fence.

        WAITING or SHIELDED means that nobody has claimed it, and nobody will.
        """
        cdef uint64_t seen = plait_swap(&self.word, plait_load(&self.word) & ~<uint64_t>STATE)
        self.outcome = seen & STATE
        plait_disarm()
        return self.outcome

    cpdef bint claim(self, uint64_t epoch, uint64_t outcome) noexcept:
        """End wait `epoch` of this word with `outcome` (WOKEN or TIMED_OUT); False if it was over. A full fence."""
        if not is_of_here(epoch << 3):
            return False
        if plait_cas(&self.word, epoch << 3 | WAITING, epoch << 3 | outcome):
            return True
        return plait_cas(&self.word, epoch << 3 | SHIELDED, epoch << 3 | outcome)

    cpdef bint interrupt(self) noexcept:
        """End whatever wait a canceller may end now, with INTERRUPTED; False if there is none. A full fence."""
        cdef uint64_t seen
        plait_fence()
        while True:
            seen = plait_load(&self.word)
            if seen & STATE != WAITING or not is_of_here(seen):
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

    cpdef bint is_settled(self) noexcept:
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

    cpdef renew(self):
        """Nobody knows the owner any more, nor a wait of it, and it becomes another thread."""
        self.word = here
        self.settled = 0
        self.serial = 0
        self.outcome = 0
        self.park_count = 0

    def survive_fork(self):
        """In a child that the owner has forked: it is here. A wait that it is in the middle of is over, as after another."""
        plait_swap(&self.word, next_epoch(self.word) << 3)

    cpdef bint is_here(self) noexcept:
        """Whether the owner is a thread of this process: not if it is one of a process that has forked this one."""
        return is_of_here(plait_load(&self.word))

    cpdef uint64_t epoch(self) noexcept:
        """The epoch of the wait that was announced last. On the owner's kernel thread only."""
        return self.word >> 3

    cpdef bint waits(self, uint64_t epoch) noexcept:
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

    cpdef uint64_t number(self) noexcept:
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
cdef uint64_t here = 0  # the mark of this process, in its place in a word. Written in a child, while it has one thread


cdef inline bint is_of_here(uint64_t word) noexcept nogil:
    """Whether `word` has the mark of this process."""
    return (word ^ here) >> MARK == 0


cdef inline uint64_t next_epoch(uint64_t word) noexcept nogil:
    """The epoch after the one in `word`, in this process."""
    return (here | ((word + 8) & ((<uint64_t>1 << MARK) - 1))) >> 3


cdef class Notice:
    """One bit that is given once, and the epoch of the wait for it.

    Waiter: 1. says in which epoch it is about to wait   2. arms its word [fence]   3. looks whether the bit is given
    Giver:  1. gives it [fence]                          2. reads the epoch, and claims that wait
    Either the waiter's step 3 sees the bit, or the giver's step 2 the epoch, and the word armed or about to be.
    """

    cpdef bint give(self) except -1:
        """Give it; False if it was given before. A full fence."""
        return not plait_swap(&self.given, 1)

    cpdef bint is_given(self) noexcept:
        """Whether it is."""
        return plait_load(&self.given)

    cpdef await_in(self, uint64_t epoch):
        """The wait of this epoch will be for it. The waiter's alone."""
        plait_store(&self.awaited, epoch)

    cpdef uint64_t epoch(self) noexcept:
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

    cpdef bint take(self) noexcept:
        """Lower it; True for exactly one taker of each time that it was raised."""
        plait_fence()
        if plait_load(&self.raised) == 0:
            return False
        return plait_swap(&self.raised, 0) == 1

    cpdef bint is_raised(self) noexcept:
        """Whether it is, at this moment. Any thread. No fence."""
        return plait_load(&self.raised) == 1


cdef class Rundown:
    """A count of those who are inside, which closes for good when it comes back to zero. Starts at one: its owner."""

    def __cinit__(self):
        self.inside = 1

    cpdef bint enter(self) noexcept:
        """Count one more in; False, and nothing counted, once it has closed. Any thread."""
        cdef uint64_t seen
        while True:
            seen = plait_load(&self.inside)
            if seen == 0:
                return False
            if plait_cas(&self.inside, seen, seen + 1):
                return True

    cpdef bint leave(self) noexcept:
        """Count one out; True for the one who closed it. Any thread that is inside."""
        return plait_add(&self.inside, -1) == 0

    def reset(self):
        """Only the owner is inside: in a child process after fork."""
        plait_swap(&self.inside, 1)

    cpdef uint64_t count(self) noexcept:
        """How many are inside now. A full fence before it looks."""
        plait_fence()
        return plait_load(&self.inside)


cdef class Counter:
    """A number that many threads add to."""

    cpdef int64_t add(self, int64_t step) noexcept:
        """Add `step`; the new total. A full fence."""
        return <int64_t>plait_add(&self.total, step)

    cpdef int64_t value(self) noexcept:
        """The total now."""
        return <int64_t>plait_load(&self.total)


cdef class Lock:
    """A plain lock for the core itself: it blocks the kernel thread, is never a leaf, and is held for moments.

    It is not reentrant. So while it is held nothing may run but C and compiled code: no function of Python (a named
    tuple, a weak container and `os.environ` are made of them), and nothing that lets the last reference go to what others
    have made. A signal handler or a finalizer that came there might want the same lock, and would wait for itself.

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
        Lock.acquire(self)

    def __exit__(self, kind, error, traceback):
        Lock.release(self)

    cpdef acquire(self):
        """What `with` does first. For what every thread comes by: compiled, `with` makes two bound methods each time."""
        if plait_load(&self.forks) != forks_seen:
            self._renew()
        # A finalizer that runs while the lock is held must not come back here: the holder is this kernel thread.
        plait_hold(1)
        if not PyThread_acquire_lock(self.lock, 0):
            with nogil:
                PyThread_acquire_lock(self.lock, 1)

    cpdef release(self):
        """What `with` does last."""
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
    """In a forked child, before anything else: every Lock is free again, and no wait can be ended that began before."""
    global forks_seen, here
    forks_seen += 1
    here = forks_seen << MARK
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
        if not self.offer(item):
            raise MemoryError

    cpdef bint offer(self, item) except -1:
        """As `put`; False if there is no memory for it."""
        cdef PyObject *cells  # no reference of its own: only `grow` replaces them
        with cython.critical_section(self):
            cells = <PyObject *>self.cells
            while self.count == <uint64_t>cells_size(cells):
                if not self.grow():
                    return False
                cells = <PyObject *>self.cells
            Py_INCREF(item)
            # In place of a None, whose reference is `take`'s to use.
            PyList_SET_ITEM(cells, (self.first + self.count) & (cells_size(cells) - 1), <PyObject *>item)
            plait_store(&self.count, self.count + 1)
        return True

    cdef bint grow(self) except -1:
        cdef list old = self.cells
        cdef uint64_t size = PyList_GET_SIZE(old)
        cdef uint64_t place
        cdef list cells
        try:
            cells = [None] * <Py_ssize_t>(2 * size)
        except MemoryError:
            return False
        if self.cells is not old or self.count != size:
            return True  # up to 3.11 the collector may have run just now, and in it a finalizer that has put or taken
        for place in range(self.first, self.first + size):
            cells[place & (2 * size - 1)] = old[place & (size - 1)]
        self.cells = cells
        return True

    cpdef take(self):
        """The first item, or None if there is none."""
        cdef PyObject *cells
        cdef PyObject *item
        cdef uint64_t place
        with cython.critical_section(self):
            if self.count == 0:
                return None
            cells = <PyObject *>self.cells
            place = self.first & (cells_size(cells) - 1)
            item = PyList_GET_ITEM(cells, place)
            PyList_SET_ITEM(cells, place, <PyObject *>None)
            self.first += 1
            plait_store(&self.count, self.count - 1)
            return plait_given(item)  # with the cell's reference

    cpdef uint64_t size(self) noexcept:
        """How many are in it now."""
        return plait_load(&self.count)

    cpdef uint64_t traffic(self) noexcept:
        """How many have been put and taken so far, together; about, while others are at it."""
        return 2 * plait_load(&self.first) + plait_load(&self.count)
