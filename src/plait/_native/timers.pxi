# ---- deadlines -----------------------------------------------------------------------------------------------------
# A binary heap as in heapq, of numbers of C: comparing lists of Python's numbers, a dozen times for each timer, cost more than
# all the rest of a sleep. No step lets the collector run, up to 3.11 either, and a finalizer add a timer half-way.

cdef extern from "Python.h":
    PyObject *item_at "PyList_GET_ITEM"(object list, Py_ssize_t place)
    void set_item "PyList_SET_ITEM"(object list, Py_ssize_t place, PyObject *item)

cdef extern from "<math.h>":
    double INFINITY


@cython.final
@cython.no_gc  # whoever waits for it is alive anyway, and it lets go of its target when that is over
@cython.freelist(256)
cdef class Timer:
    """One deadline: at the instant `when`, `target.expire(epoch)` is to be called."""

    def __init__(self, double when, target, uint64_t epoch):
        self.when = when
        self.target = target
        self.epoch = epoch

    cpdef take_target(self):
        """Its target, which it lets go; None if it is over."""
        target, self.target = self.target, None
        return target


cdef inline bint is_before(list heap, Py_ssize_t place, Py_ssize_t other) noexcept:
    cdef PyObject *one = item_at(heap, place)
    cdef PyObject *two = item_at(heap, other)
    if (<Timer>one).when != (<Timer>two).when:
        return (<Timer>one).when < (<Timer>two).when
    return (<Timer>one).serial < (<Timer>two).serial


cdef inline void exchange(list heap, Py_ssize_t place, Py_ssize_t other) noexcept:
    cdef PyObject *former = item_at(heap, place)
    set_item(heap, place, item_at(heap, other))
    set_item(heap, other, former)


cdef void rise(list heap, Py_ssize_t top, Py_ssize_t place) noexcept:
    """Let what is at `place` go up to where it belongs, no further than `top`."""
    cdef Py_ssize_t above
    while place > top:
        above = (place - 1) >> 1
        if not is_before(heap, place, above):
            break
        exchange(heap, place, above)
        place = above


cdef void sink(list heap, Py_ssize_t top) noexcept:
    """Let what is at `top` go down to where it belongs: to the bottom first, since what comes from the end belongs there."""
    cdef Py_ssize_t size = PyList_GET_SIZE(heap)
    cdef Py_ssize_t place = top
    cdef Py_ssize_t below = 2 * place + 1
    while below < size:
        if below + 1 < size and is_before(heap, below + 1, below):
            below += 1
        exchange(heap, place, below)
        place = below
        below = 2 * place + 1
    rise(heap, top, place)


cdef class Timers:
    """Deadlines in the order of time. Owner: a kernel thread, which alone touches them."""

    def __cinit__(self):
        self.heap = []

    def __len__(self):
        return PyList_GET_SIZE(self.heap)

    cpdef Timer add(self, double when, target, uint64_t epoch):
        """Have `target.expire(epoch)` called once `when` has come, unless the timer that this gives is retired first."""
        cdef Timer timer = Timer.__new__(Timer)
        timer.when = when
        timer.target = target
        timer.epoch = epoch
        self.push(timer)
        return timer

    cpdef push(self, Timer timer):
        """As `add`, for a timer made elsewhere, once; nothing, if it is over already."""
        if timer.target is None:
            return
        self.serial += 1  # breaks ties: first come, first out
        timer.serial = self.serial
        timer.is_in = True
        self.heap.append(timer)
        rise(self.heap, 0, PyList_GET_SIZE(self.heap) - 1)

    cpdef retire(self, Timer timer):
        """The timer is over before its time; harmless if it has come already."""
        if not timer.is_in or timer.target is None:
            return
        timer.target = None
        self.empty += 1
        if self.empty > 64 and self.empty * 2 > PyList_GET_SIZE(self.heap):
            self.sweep()

    cdef sweep(self):
        cdef PyObject *timer
        cdef Py_ssize_t place
        cdef Py_ssize_t kept = 0
        for place in range(PyList_GET_SIZE(self.heap)):
            timer = item_at(self.heap, place)
            if (<Timer>timer).target is None:
                (<Timer>timer).is_in = False
            else:
                exchange(self.heap, kept, place)
                kept += 1
        del self.heap[kept:]
        self.empty = 0
        place = kept >> 1
        while place:
            place -= 1
            sink(self.heap, place)

    cpdef double next_instant(self) noexcept:
        """When the first one is due; infinity if there is none."""
        return (<Timer>item_at(self.heap, 0)).when if PyList_GET_SIZE(self.heap) else INFINITY

    cpdef Timer take_due(self, double now):
        """Take out the first one, if its instant has come by `now`; else None. What was retired is dropped on the way."""
        cdef Timer first
        cdef Py_ssize_t last
        while PyList_GET_SIZE(self.heap):
            first = <Timer>item_at(self.heap, 0)
            if first.when > now:
                break
            last = PyList_GET_SIZE(self.heap) - 1
            exchange(self.heap, 0, last)
            del self.heap[last]
            sink(self.heap, 0)
            first.is_in = False
            if first.target is not None:
                return first
            self.empty -= 1
        return None

    def expire_until(self, double now):
        """End every wait whose instant has come."""
        cdef Timer timer
        while (timer := self.take_due(now)) is not None:
            timer.take_target().expire(timer.epoch)
