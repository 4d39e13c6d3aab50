# cython: language_level=3, freethreading_compatible=True, binding=False, embedsignature=False, auto_pickle=False
"""The native package: atomics, system calls, and the doors of the C sources beside this file.

included here:
atomics.pxi    wait words, counts, locks and queues
timers.pxi     the heap of deadlines
poller.pxi     the poller's calls
calls.pxi      the other system calls
addresses.pxi  addresses of sockets
modes.pxi      the calls for which a descriptor leaves blocking mode
and beside:
stack.c        Stack, the switch
leaf.c         the method tables
holds.c        numbers of descriptors that workers use
words.c        RLock, poll objects, sockets and SemLock, opened
tls.c          TLS connections, opened
frames.c       suspended frames for the collector of free-threaded 3.14
here.h         the thread-local record that they share
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno, PyErr_SetObject, PyErr_WriteUnraisable
from cpython.list cimport PyList_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject, PyTypeObject
from cpython.weakref cimport PyWeakref_NewRef
from libc.errno cimport EACCES, EAGAIN, EALREADY, EBADF, ECONNABORTED, EEXIST, EINPROGRESS, EINTR, EISCONN, ENOENT, ENOSYS, ENOTSOCK, EOPNOTSUPP, ETIMEDOUT, errno
from libc.math cimport ceil
from libc.string cimport memcpy, memset, strerror
from posix.signal cimport sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clockid_t, timespec

from types import CodeType as _Code

cdef extern from *:
    """
    #include "here.h"
    static inline PyObject *plait_caller_code(void)
    {
        PyFrameObject *frame = PyEval_GetFrame();
        plait_here.caller_offset = frame == NULL ? -1 : PyFrame_GetLasti(frame);
        return frame == NULL ? Py_NewRef(Py_None) : (PyObject *)PyFrame_GetCode(frame);
    }
    static inline int plait_caller_offset(void) { return plait_here.caller_offset; }
    static inline PyObject *plait_given(PyObject *item) { return item; }
    static inline void plait_drop(PyObject *item) { Py_DECREF(item); }
    /* The exception in hand, taken. */
    static inline PyObject *plait_fetch_raised(void)
    {
    #if PY_VERSION_HEX >= 0x030C0000
        return PyErr_GetRaisedException();
    #else
        PyObject *kind, *error, *traceback;
        PyErr_Fetch(&kind, &error, &traceback);
        PyErr_NormalizeException(&kind, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
        Py_XDECREF(kind);
        Py_XDECREF(traceback);
        return error;
    #endif
    }
    static inline PyObject *plait_call(PyObject *fn, PyObject *args, PyObject *kwargs)
    {
        PyObject **items = ((PyTupleObject *)args)->ob_item;
        if (kwargs == Py_None)
            return PyObject_Vectorcall(fn, items, PyTuple_GET_SIZE(args), NULL); /* a smaller frame, on each parked stack */
        return PyObject_VectorcallDict(fn, items, PyTuple_GET_SIZE(args), kwargs);
    }
    static inline int plait_line_at(PyObject *code, int offset)
    { return PyCode_Addr2Line((PyCodeObject *)code, offset); }
    static inline PyObject *plait_referent(PyObject *reference)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        PyObject *found;
        if (PyWeakref_GetRef(reference, &found) < 0)
            return NULL;
        return found != NULL ? found : Py_NewRef(Py_None);
    #else
        return Py_NewRef(PyWeakref_GET_OBJECT(reference));
    #endif
    }
    static inline void plait_make_room_on_demand(PyObject *cls)
    {
    #if PY_VERSION_HEX >= 0x030D0000
        ((PyTypeObject *)cls)->tp_flags &= ~Py_TPFLAGS_INLINE_VALUES;
        PyType_Modified((PyTypeObject *)cls);
    #endif
    }
    /* One reference, the caller's; neither a weak one nor attributes of its own. */
    static inline int plait_is_unknown(PyObject *thing)
    {
    #if PY_VERSION_HEX >= 0x030E0000
        if (!PyUnstable_Object_IsUniquelyReferenced(thing))
            return 0;
    #else
        if (Py_REFCNT(thing) != 1)
            return 0;
    #endif
        Py_ssize_t offset = Py_TYPE(thing)->tp_weaklistoffset;
        if (offset && *(PyObject **)((char *)thing + offset) != NULL)
            return 0;
        PyObject **dict = _PyObject_GetDictPtr(thing);
        return dict == NULL || *dict == NULL;
    }
    /* Whether a context that nobody knows has no variables. From 3.12 on it has none if it had none before: the collector, and
     * with it finalizers, come between instructions of Python alone. */
    static inline int plait_is_still_empty(PyObject *context)
    { return PY_VERSION_HEX >= 0x030C0000 || PyObject_Size(context) == 0; }
    /* An empty context is as good as a copy of one. */
    static inline PyObject *plait_copied_context(PyObject *spare)
    {
        if (spare != Py_None) {
            PyObject *context = PyThreadState_Get()->context;
            if (context == NULL || PyObject_Size(context) == 0)
                return Py_NewRef(spare);
        }
        return PyContext_CopyCurrent();
    }
    static inline PyObject *plait_label_of(PyObject *fn)
    {
    #ifndef Py_GIL_DISABLED /* there another thread could replace the name meanwhile */
        if (PyFunction_Check(fn)) /* the common case without a look-up: 200 instructions fewer in each spawn */
            return Py_NewRef(((PyFunctionObject *)fn)->func_qualname);
    #endif
        PyObject *name = PyObject_GetAttrString(fn, "__qualname__");
        if (name == NULL && !PyErr_ExceptionMatches(PyExc_AttributeError))
            return NULL;
        PyErr_Clear();
        if (name == NULL || !PyUnicode_CheckExact(name)) /* others may print themselves as they like, or fail */
            Py_XSETREF(name, PyUnicode_InternFromString("thread"));
        return name;
    }
    """
    object plait_label_of(object fn)
    bint plait_is_unknown(object thing)
    void plait_make_room_on_demand(object cls)
    object plait_copied_context(object spare)
    bint plait_is_still_empty(object context)
    object plait_referent(object reference)
    object plait_caller_code()
    int plait_caller_offset()
    object plait_given(PyObject *item)
    void plait_drop(PyObject *item)
    PyObject *plait_call(object fn, object args, object kwargs)
    PyObject *plait_fetch_raised()
    void PyErr_SetHandledException(PyObject *error)
    int plait_line_at(object code, int offset)

cdef extern from "here.h":
    void plait_arm()
    void plait_disarm()
    void plait_hold(int step)
    object plait_current()
    object plait_cooperative()
    Py_ssize_t plait_parks_at
    void plait_bind(object parker)
    PyTypeObject *plait_raised_type
    PyObject *plait_take_room(Py_ssize_t size) except NULL
    object plait_use_room(PyObject *room, Py_ssize_t used)
    object plait_switch_to(object stack)
    int plait_end_into(object stack) except -1
    bint plait_mount(object stack, object thread, object context) except -1
    bint plait_unmount(object stack) except -1
    void plait_drop_locals()
    bint plait_has_leftovers()
    int plait_drop_leftovers() except -1
    void plait_keep_raised(PyObject *error)
    object plait_take_raised()
    bint plait_is_plain(object thing)
    int plait_stack_init(object module) except -1
    int plait_leaf_init(object module) except -1
    int plait_words_init(object module) except -1
    int plait_gate_init(object module) except -1
    int plait_opening_init(object module) except -1
    int plait_around_init(object module) except -1
    int plait_diverted_init(object module) except -1
    int plait_hashes_init(object module) except -1
    int plait_holds_init(object module) except -1
    int plait_tls_init(object module) except -1
    int plait_turns_init(object module) except -1
    void plait_take_positionals(object method, positional_t function)
    int plait_socket_fd(object sock) except -2
    object plait_socket_timeout(object sock)
    bint plait_socket_has_timeout(object sock) except -1

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(object thing)
    const char *PyUnicode_AsUTF8(object text) except NULL
    object PyUnicode_DecodeFSDefault(const char *text)
    object PyUnicode_EncodeFSDefault(object text)
    object PyUnicode_FromString(const char *text)
    void PyObject_GC_Track(object thing)
    Py_ssize_t Py_REFCNT(object thing)
    PyObject *PyList_GET_ITEM(PyObject *items, Py_ssize_t place)
    void PyList_SET_ITEM(PyObject *items, Py_ssize_t place, PyObject *item)
    Py_ssize_t cells_size "PyList_GET_SIZE"(PyObject *items)

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock) nogil
    int PyThread_acquire_lock(PyThread_type_lock, int) nogil
    unsigned long PyThread_get_thread_ident() nogil
    void PyThread_release_lock(PyThread_type_lock) nogil

cdef extern from "<pthread.h>" nogil:
    int pthread_getcpuclockid(unsigned long thread, clockid_t *clock)

cdef extern from "<sched.h>":
    int sched_yield()

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    int getsockopt(int fd, int level, int name, void *value, unsigned int *size)
    int MSG_DONTWAIT, SOL_SOCKET, SO_ERROR, SO_LINGER, SO_TYPE
    ctypedef struct c_linger "struct linger":
        int l_onoff, l_linger

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec *parts, int count, long long offset, int flags)
    ssize_t pwritev2(int fd, const iovec *parts, int count, long long offset, int flags)
    int RWF_NOWAIT

cdef extern from "<sys/mman.h>" nogil:
    int c_msync "msync"(void *address, size_t size, int flags)
    int MS_SYNC

cdef extern from *:
    """
    static inline void plait_set_errno(int number) { errno = number; }
    """
    void set_errno "plait_set_errno"(int number)

cdef extern from "<sys/epoll.h>" nogil:
    int c_epoll_wait "epoll_wait"(int epfd, epoll_event *events, int most, int milliseconds)
    int c_epoll_ctl "epoll_ctl"(int epfd, int operation, int fd, epoll_event *event)
    enum: EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD

cdef extern from "<sys/stat.h>" nogil:
    ctypedef struct stat_t "struct stat":
        unsigned int st_mode
        unsigned long st_ino, st_dev
    unsigned int S_IFMT, S_IFREG, S_IFBLK
    int c_fstat "fstat"(int fd, stat_t *status)

cdef extern from "<sys/vfs.h>" nogil:
    ctypedef struct statfs_t "struct statfs":
        long f_type
    int c_fstatfs "fstatfs"(int fd, statfs_t *status)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int *ends, int flags)
    int c_close "close"(int fd)
    int c_pause "pause"()

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
    int F_GETFL, F_SETFL, F_SETLK, F_SETLKW, F_WRLCK, F_UNLCK, O_NONBLOCK, O_DIRECT, O_DSYNC

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


cpdef copied_context(spare=None):
    """As `contextvars.copy_context()`. `spare` is an empty context that nobody knows, to be used if it will do."""
    context = plait_copied_context(spare)
    if copied_variables and context is not spare:
        for variable in copied_variables:
            value = variable.get(None)
            if value is not None:
                context.run(variable.set, value.copy())
    return context


cdef tuple copied_variables = ()
cdef list former_copied = []


def set_copied_variables(tuple variables):
    """The values of these context variables can be changed in place: whoever inherits one gets a copy."""
    global copied_variables
    former_copied.append(copied_variables)  # a spawn may be reading it, on builds without a GIL
    copied_variables = variables


cpdef cooperative():
    """As current(), but None where nothing may park: a wait is announced already, or the collector is at work."""
    return plait_cooperative()


cpdef caller_code():
    """The code of the innermost function of Python that runs here; None if there is none."""
    return plait_caller_code()


cpdef int caller_offset() noexcept:
    """Where in its code that function is which `caller_code` has found just now."""
    return plait_caller_offset()


cdef take_positionals(method, positional_t function):
    """Have `function(self, first, args)` called for calls of `method` without keywords. Both are compiled; for one method."""
    plait_take_positionals(method, function)


def _leave_as_it_is(method, function):
    """What `take_positionals` is for what is not compiled."""


globals()["take_positionals"] = _leave_as_it_is


RAISED = object()  # what `attempt` gives for an exception
cdef PyObject *raised_mark = <PyObject *>RAISED


cpdef attempt(fn, tuple args, kwargs):
    """`fn(*args, **kwargs)`, or RAISED: then `take_raised` gives the exception. On a stack of ours; `kwargs` may be None.

    A `try` in compiled code costs where nothing is raised, too, and adds a line of its own to each traceback.
    """
    cdef PyObject *result = plait_call(fn, args, kwargs)
    if result != NULL:
        return plait_given(result)
    plait_keep_raised(plait_fetch_raised())
    return <object>raised_mark


cpdef take_raised():
    """What `attempt` has met."""
    return plait_take_raised()


@cython.final
cdef class Raised:
    """Stands for an exception. As the result of a replacement it has the leaf raise that."""


cpdef raising(error):
    """A `Raised` of `error`; where there is no memory for one, `error` is raised here."""
    cdef Raised raised = None
    try:
        raised = Raised.__new__(Raised)
    except MemoryError:
        pass
    if raised is None:
        raise error
    raised.error = error
    return raised


cdef public PyObject *plait_raise(PyObject *raised) noexcept:
    error = (<Raised>raised).error
    plait_drop(raised)
    PyErr_SetObject(type(error), error)
    return NULL


plait_raised_type = <PyTypeObject *>Raised


cpdef handle(error):
    """Be in the middle of handling `error`, as in a block of `except`; with None no more."""
    PyErr_SetHandledException(<PyObject *>error)


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


def write_unraisable(error, thing):
    """Hand `error`, which nobody can be given, to `sys.unraisablehook`, as CPython does. Never raises."""
    PyErr_SetObject(type(error), error)
    PyErr_WriteUnraisable(thing)


cpdef referent(reference):
    """What a weak reference stands for, or None: as to call it."""
    return plait_referent(reference)


cpdef weak_reference(thing):
    """`weakref.ref(thing)`, at a fifth of its cost."""
    return PyWeakref_NewRef(thing, None)


cpdef label_of(fn):
    """What a thread that calls `fn` is named after: its qualified name, or "thread"."""
    return plait_label_of(fn)


def check_signals():
    """Run the handlers of the signals that have come, in the main thread: as between two instructions of Python."""
    PyErr_CheckSignals()


def bind(parker):
    """Make `parker` (or None) what is at work on this platform thread. The caller keeps it alive until it is unbound."""
    plait_bind(parker)


cpdef double now() noexcept:
    """The instant that it is, in seconds: as `time.monotonic()`."""
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <double>(moment.tv_sec * 1_000_000_000 + moment.tv_nsec) / 1e9


cpdef unsigned long kernel_ident() noexcept:
    """The identity of the calling kernel thread."""
    return PyThread_get_thread_ident()


cpdef double processor_time(unsigned long ident) noexcept:
    """For how many seconds the kernel thread `ident`, which has not ended, has had a processor; 0.0 if that is unknown."""
    cdef clockid_t clock
    cdef timespec spent
    if not ident or pthread_getcpuclockid(ident, &clock) or clock_gettime(clock, &spent):
        return 0.0
    return spent.tv_sec + spent.tv_nsec * 1e-9


cpdef switch_to(stack):
    """Leave the running stack for `stack`; return when somebody switches back."""
    plait_switch_to(stack)


cpdef end_into(stack):
    """The running stack is about to end, by a return from what it runs: `stack` goes on then."""
    plait_end_into(stack)


cpdef bint mount(stack, thread, context) except -1:
    """Put `thread` to work on `stack`, which runs, in `context`, and open the gate; False if the context is in use."""
    return plait_mount(stack, thread, context)


cpdef bint unmount(stack) except -1:
    """Nothing of the thread that is mounted on `stack` is left to run: close the gate, drop all that was its own."""
    return plait_unmount(stack)


cpdef drop_locals():
    """Drop the thread-locals of the mounted thread, whose function has ended; destructors may park."""
    plait_drop_locals()


cpdef bint has_leftovers() noexcept:
    """Whether the mounted thread, which has ended, has thread-locals or context variables that may have destructors."""
    return plait_has_leftovers()


cpdef drop_leftovers():
    """Drop them; destructors may park."""
    plait_drop_leftovers()


cpdef bint is_plain(thing) noexcept:
    """Whether no code of anybody runs when `thing` is freed: it is of a type of C, and refers to nothing."""
    return plait_is_plain(thing)


def make_room_on_demand(cls):
    """Have objects of `cls`, a class of Python of which there are none yet, get a `__dict__` when it is asked for.

    From 3.14 on those of any class have room for attributes from the start, which costs memory, and hides from `is_unknown`
    whether there are any.
    """
    plait_make_room_on_demand(cls)


cpdef bint is_unknown(thing) noexcept:
    """Whether the caller has the only reference to `thing`, and neither a weak one nor an attribute of its own hangs at it."""
    return plait_is_unknown(thing)


cpdef bint is_spare_context(context) noexcept:
    """Whether nobody but the caller knows `context`, which was empty when the last code of others ran in it."""
    return plait_is_unknown(context) and plait_is_still_empty(context)


cpdef bint is_held_by(thing, Py_ssize_t holders) noexcept:
    """Whether there are so many references to `thing`, and no more."""
    return Py_REFCNT(thing) == holders


include "atomics.pxi"
include "timers.pxi"
include "poller.pxi"
include "calls.pxi"
include "addresses.pxi"
include "modes.pxi"


import sys as _sys

_module = _sys.modules[__name__]
cdef WaitWord _sample = WaitWord()
plait_parks_at = <char *>&_sample.park_count - <char *><void *>_sample
plait_stack_init(_module)
plait_leaf_init(_module)
plait_words_init(_module)
plait_gate_init(_module)
plait_opening_init(_module)
plait_around_init(_module)
plait_diverted_init(_module)
plait_hashes_init(_module)
plait_holds_init(_module)
plait_tls_init(_module)
plait_turns_init(_module)
