/* Five objects of CPython, opened. plait.patch looks at fresh ones of the first two, and leaves them alone if they look
 * different; so does plait_words_init() with a socket and a lock.
 *
 * select.poll: the dict of what is registered, the first word after the header.
 *
 * _thread.RLock: its owner and count, so that a virtual thread can own it. CPython keys an RLock by the kernel thread; two
 * virtual threads of one carrier would both own it. Its words, after the object header:
 *   up to 3.13   PyThread_type_lock lock; unsigned long owner; unsigned long count; weakrefs
 *   from 3.14    PyMutex (padded to a word); unsigned long long owner; size_t level, which is count - 1; weakrefs
 * An owner is written with a release store, as CPython reads it without the lock held (3.14: relaxed).
 *
 * _socket.socket: descriptor and timeout, which every operation on a socket must know: calling fileno() and gettimeout()
 * costs ten times as much as reading them. Where a fresh socket looks different they are called.
 *
 * _thread.lock: what it is made of, to take it if it is free. CPython takes its arguments apart first, which costs ten times as
 * much as the lock. A lock that looks different is asked for.
 *   up to 3.13   PyThread_type_lock lock; weakrefs; char locked
 *   from 3.14    PyMutex
 *
 * _multiprocessing.SemLock: who has acquired it last, and how many times this process holds it, between two words that
 * CPython shows: semlock_is_known() compares where those are. CPython counts under the object's critical section.
 */
#include "here.h"

#include <stddef.h>
#include <structmember.h> /* PyMemberDef, before 3.12 */

typedef struct {
    PyObject_HEAD
    void *lock;
    unsigned long owner;
    unsigned long count;
} RLockWords;

#if PY_VERSION_HEX >= 0x030E0000
#define COUNT_BIAS 1
#else
#define COUNT_BIAS 0
#endif

static PyObject *
rlock_read(PyObject *Py_UNUSED(module), PyObject *lock)
{
    RLockWords *words = (RLockWords *)lock;
    unsigned long owner = __atomic_load_n(&words->owner, __ATOMIC_ACQUIRE);
    unsigned long count = __atomic_load_n(&words->count, __ATOMIC_ACQUIRE);
    return Py_BuildValue("kk", owner, owner ? count + COUNT_BIAS : count);
}

static PyObject *
rlock_owner(PyObject *Py_UNUSED(module), PyObject *lock)
{
    return PyLong_FromUnsignedLong(__atomic_load_n(&((RLockWords *)lock)->owner, __ATOMIC_ACQUIRE));
}

static PyObject *
rlock_write(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *lock;
    unsigned long owner, count;
    if (!PyArg_ParseTuple(args, "Okk:rlock_write", &lock, &owner, &count))
        return NULL;
    RLockWords *words = (RLockWords *)lock;
    __atomic_store_n(&words->count, count - COUNT_BIAS, __ATOMIC_RELEASE);
    __atomic_store_n(&words->owner, owner, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

/* Taking and giving are one step each: no bytecode runs between the call and the words, so no finalizer does, which on
 * this kernel thread would find a lock of its carrier's and take it for its own. */

static PyObject *
rlock_take(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *acquire, *lock, *blocking, *timeout;
    unsigned long ident;
    if (!PyArg_ParseTuple(args, "OOkOO:rlock_take", &acquire, &lock, &ident, &blocking, &timeout))
        return NULL;
    PyObject *got = PyObject_CallFunctionObjArgs(acquire, lock, blocking, timeout, NULL);
    if (got == Py_True) {
        RLockWords *words = (RLockWords *)lock;
        __atomic_store_n(&words->count, 1 - COUNT_BIAS, __ATOMIC_RELEASE);
        __atomic_store_n(&words->owner, ident, __ATOMIC_RELEASE);
    }
    return got;
}

static PyObject *
rlock_give(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *release, *lock;
    if (!PyArg_ParseTuple(args, "OO:rlock_give", &release, &lock))
        return NULL;
    RLockWords *words = (RLockWords *)lock;
    __atomic_store_n(&words->count, 1 - COUNT_BIAS, __ATOMIC_RELEASE);
    __atomic_store_n(&words->owner, PyThread_get_thread_ident(), __ATOMIC_RELEASE);
    return PyObject_CallOneArg(release, lock);
}

/* What a virtual thread does with an RLock that nobody else wants, up to 3.13: some stores, and the inner lock as CPython
 * takes it. All else (platform threads with a scope, arguments, locks that are held or waited for, errors) goes to `slow`,
 * which is the self of these functions, with the same arguments. All these versions have a GIL, so nobody begins to wait
 * between the look at the lot and the release. */
#if PY_VERSION_HEX < 0x030E0000

/* How the virtual thread at work here is called in an RLock; 0: there is none. See VirtualThread.ident. */
static inline unsigned long
ident_here(void)
{
    return plait_here.running != NULL && plait_here.current != NULL ? (unsigned long)plait_here.current | 1 : 0;
}

/* Whether it is the caller's now, `count` times more. */
static inline int
take_quickly(PyObject *lock, unsigned long count)
{
    RLockWords *words = (RLockWords *)lock;
    unsigned long ident = ident_here();
    if (!ident)
        return 0;
    if (words->owner == ident) {
        words->count += count;
        return 1;
    }
    if (!PyThread_acquire_lock((PyThread_type_lock)words->lock, NOWAIT_LOCK))
        return 0;
    words->count = count;
    words->owner = ident;
    return 1;
}

/* Whether it was the caller's, and `count` of the times that it has it are given back. */
static inline int
give_quickly(PyObject *lock, unsigned long count)
{
    RLockWords *words = (RLockWords *)lock;
    if (!words->owner || words->owner != ident_here())
        return 0;
    if (words->count > count) {
        words->count -= count;
        return 1;
    }
    if (plait_lot_is_busy((uintptr_t)lock))
        return 0;
    words->count = 0;
    words->owner = 0;
    PyThread_release_lock((PyThread_type_lock)words->lock);
    return 1;
}

static PyObject *
quick_acquire(PyObject *slow, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    if (nargs == 1 && names == NULL && take_quickly(args[0], 1))
        Py_RETURN_TRUE;
    return PyObject_Vectorcall(slow, args, nargs, names);
}

/* release(), and __exit__(), whose arguments nobody looks at. */
static PyObject *
quick_release(PyObject *slow, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    if (nargs && names == NULL && give_quickly(args[0], 1))
        Py_RETURN_NONE;
    return PyObject_Vectorcall(slow, args, nargs, names);
}

static PyObject *
quick_release_save(PyObject *slow, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    if (nargs == 1 && names == NULL && ident_here()) {
        RLockWords *words = (RLockWords *)args[0];
        unsigned long count = words->count;
        PyObject *state = Py_BuildValue("kk", count, ident_here());
        if (state == NULL || give_quickly(args[0], count))
            return state;
        Py_DECREF(state);
    }
    return PyObject_Vectorcall(slow, args, nargs, names);
}

static PyObject *
quick_acquire_restore(PyObject *slow, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    if (nargs == 2 && names == NULL && PyTuple_Check(args[1]) && PyTuple_GET_SIZE(args[1]) == 2) {
        unsigned long count = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(args[1], 0));
        if (count && count != (unsigned long)-1 && take_quickly(args[0], count))
            Py_RETURN_NONE;
        PyErr_Clear();
    }
    return PyObject_Vectorcall(slow, args, nargs, names);
}

static PyObject *
quick_is_owned(PyObject *slow, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    if (nargs == 1 && names == NULL && ident_here())
        return PyBool_FromLong(((RLockWords *)args[0])->owner == ident_here());
    return PyObject_Vectorcall(slow, args, nargs, names);
}

#define QUICK(name, function)                                                                                          \
    {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, PyDoc_STR("RLock." name "().")}

static PyMethodDef quick_functions[] = {
    QUICK("acquire", quick_acquire),
    QUICK("__enter__", quick_acquire),
    QUICK("release", quick_release),
    QUICK("__exit__", quick_release),
    QUICK("_release_save", quick_release_save),
    QUICK("_acquire_restore", quick_acquire_restore),
    QUICK("_is_owned", quick_is_owned),
    {NULL, NULL, 0, NULL},
};

#else
static PyMethodDef quick_functions[] = {{NULL, NULL, 0, NULL}};
#endif

static PyObject *
rlock_quick(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *name;
    PyObject *slow;
    if (!PyArg_ParseTuple(args, "sO:rlock_quick", &name, &slow))
        return NULL;
    for (PyMethodDef *def = quick_functions; def->ml_name != NULL; def++) {
        if (strcmp(def->ml_name, name) == 0)
            return PyCFunction_New(def, slow);
    }
    return Py_NewRef(slow);
}

static PyObject *
poll_registered(PyObject *Py_UNUSED(module), PyObject *poll)
{
    PyObject *dict = *(PyObject **)((char *)poll + sizeof(PyObject));
    return PyDict_Check(dict) ? PyDict_Copy(dict) : Py_NewRef(Py_None);
}

typedef struct {
    PyObject_HEAD
    int fd;
    int family;
    int type;
    int protocol;
    PyObject *(*error_handler)(void);
    int64_t timeout; /* nanoseconds; negative: none */
} SocketWords;

static PyTypeObject *socket_type; /* NULL: it looks different */
static PyObject *str_fileno, *str_gettimeout;

static inline int
is_known_socket(PyObject *sock)
{
    PyTypeObject *type = Py_TYPE(sock);
    if (socket_type == NULL)
        return 0;
    /* socket.socket is a direct subclass: two looks settle it. */
    return type == socket_type || type->tp_base == socket_type || PyType_IsSubtype(type, socket_type);
}

int
plait_socket_fd(PyObject *sock)
{
    if (is_known_socket(sock))
        return __atomic_load_n(&((SocketWords *)sock)->fd, __ATOMIC_RELAXED);
    PyObject *number = PyObject_CallMethodNoArgs(sock, str_fileno);
    if (number == NULL)
        return -2;
    long fd = PyLong_AsLong(number);
    Py_DECREF(number);
    return fd == -1 && PyErr_Occurred() ? -2 : (int)fd;
}

PyObject *
plait_socket_timeout(PyObject *sock)
{
    if (!is_known_socket(sock))
        return PyObject_CallMethodNoArgs(sock, str_gettimeout);
    int64_t timeout = __atomic_load_n(&((SocketWords *)sock)->timeout, __ATOMIC_RELAXED);
    if (timeout < 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble((double)timeout * 1e-9);
}

/* Cannot fail for CPython's own sockets, and makes no object. */
int
plait_socket_has_timeout(PyObject *sock)
{
    if (is_known_socket(sock))
        return __atomic_load_n(&((SocketWords *)sock)->timeout, __ATOMIC_RELAXED) >= 0;
    PyObject *timeout = plait_socket_timeout(sock);
    if (timeout == NULL)
        return -1;
    Py_DECREF(timeout);
    return timeout != Py_None;
}

int
plait_socket_quieten(PyObject *sock)
{
    if (!is_known_socket(sock))
        return 0;
    ((SocketWords *)sock)->timeout = 0;
    ((SocketWords *)sock)->fd = INT_MAX;
    return 1;
}

int
plait_socket_blocks(PyObject *sock, int fd)
{
    SocketWords *words = (SocketWords *)sock;
    return is_known_socket(sock) && __atomic_load_n(&words->fd, __ATOMIC_RELAXED) == fd &&
           __atomic_load_n(&words->timeout, __ATOMIC_RELAXED) < 0;
}

/* Whether a socket has these words, with this timeout. Clears what a failed call has raised. */
static int
socket_has(PyObject *sock, const char *method, PyObject *value, int64_t timeout)
{
    SocketWords *words = (SocketWords *)sock;
    PyObject *done = PyObject_CallMethod(sock, method, "O", value);
    PyObject *fd = PyObject_CallMethodNoArgs(sock, str_fileno);
    int same = done != NULL && fd != NULL && PyLong_AsLong(fd) == words->fd && words->timeout == timeout;
    Py_XDECREF(done);
    Py_XDECREF(fd);
    PyErr_Clear();
    return same;
}

static int
look_at_socket(void)
{
    PyObject *module = PyImport_ImportModule("_socket");
    if (module == NULL)
        return -1;
    PyObject *type = PyObject_GetAttrString(module, "socket");
    Py_DECREF(module);
    if (type == NULL)
        return -1;
    /* AF_UNIX, SOCK_DGRAM: no network, and family, type and protocol are three different numbers. */
    PyObject *sock = PyObject_CallFunction(type, "iii", 1, 2, 0);
    PyObject *seconds = PyFloat_FromDouble(1.5);
    if (sock != NULL && seconds != NULL && ((PyTypeObject *)type)->tp_basicsize >= (Py_ssize_t)sizeof(SocketWords)) {
        SocketWords *words = (SocketWords *)sock;
        if (words->family == 1 && words->type == 2 && words->protocol == 0 &&
            socket_has(sock, "settimeout", seconds, 1500000000) && socket_has(sock, "setblocking", Py_False, 0) &&
            socket_has(sock, "settimeout", Py_None, -1000000000))
            socket_type = (PyTypeObject *)Py_NewRef(type);
    }
    if (sock != NULL)
        Py_XDECREF(PyObject_CallMethod(sock, "close", NULL)); /* or it warns of itself */
    PyErr_Clear(); /* no socket to be had here: then the methods are called */
    Py_XDECREF(seconds);
    Py_XDECREF(sock);
    Py_DECREF(type);
    return 0;
}

typedef struct {
    PyObject_HEAD
#if PY_VERSION_HEX >= 0x030E0000
    uint8_t state; /* of a PyMutex: the lowest bit says whether it is locked */
#else
    PyThread_type_lock lock;
    PyObject *weakrefs;
    char state;
#endif
} LockWords;

static PyTypeObject *lock_type; /* NULL: it looks different */

int
plait_take_lock(PyObject *lock)
{
    if (!Py_IS_TYPE(lock, lock_type))
        return -1;
    LockWords *words = (LockWords *)lock;
#if PY_VERSION_HEX >= 0x030E0000
    uint8_t seen = __atomic_load_n(&words->state, __ATOMIC_RELAXED);
    return !(seen & 1) && __atomic_compare_exchange_n(&words->state, &seen, seen | 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
#else
    if (!PyThread_acquire_lock(words->lock, NOWAIT_LOCK))
        return 0;
    words->state = 1;
    return 1;
#endif
}

static PyObject *
take_lock(PyObject *slow, PyObject *lock)
{
    int taken = plait_take_lock(lock);
    return taken >= 0 ? PyBool_FromLong(taken) : PyObject_CallFunctionObjArgs(slow, lock, Py_False, NULL);
}

static PyMethodDef take_lock_def = {"take_lock", take_lock, METH_O,
                                    PyDoc_STR("take_lock(lock): take a lock if it is free; whether it was.")};

static PyObject *
lock_taker(PyObject *Py_UNUSED(module), PyObject *slow)
{
    return PyCFunction_New(&take_lock_def, slow);
}

/* Whether a lock has this state after `method`, which is called unless it is NULL. Clears what a failed call has raised. */
static int
lock_has(PyObject *lock, const char *method, int state)
{
    PyObject *done = method == NULL ? Py_NewRef(Py_None) : PyObject_CallMethod(lock, method, NULL);
    int same = done != NULL && ((LockWords *)lock)->state == state;
    Py_XDECREF(done);
    PyErr_Clear();
    return same;
}

static int
look_at_lock(void)
{
    PyObject *module = PyImport_ImportModule("_thread");
    PyObject *lock = module == NULL ? NULL : PyObject_CallMethod(module, "allocate_lock", NULL);
    Py_XDECREF(module);
    if (lock == NULL)
        return -1;
    if (Py_TYPE(lock)->tp_basicsize == (Py_ssize_t)sizeof(LockWords) && lock_has(lock, NULL, 0) &&
        lock_has(lock, "acquire", 1) && lock_has(lock, "release", 0))
        lock_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(lock));
    Py_DECREF(lock);
    return 0;
}

typedef struct {
    PyObject_HEAD
    void *handle;
    unsigned long owner;
    int count;
    int maxvalue;
    int kind;
} SemLockWords;

static int
is_member_at(PyObject *type, const char *name, Py_ssize_t offset)
{
    PyObject *member = PyObject_GetAttrString(type, name);
    if (member == NULL) {
        PyErr_Clear();
        return 0;
    }
    int same = Py_IS_TYPE(member, &PyMemberDescr_Type) && ((PyMemberDescrObject *)member)->d_member->offset == offset;
    Py_DECREF(member);
    return same;
}

static PyObject *
semlock_is_known(PyObject *Py_UNUSED(module), PyObject *type)
{
    return PyBool_FromLong(is_member_at(type, "handle", offsetof(SemLockWords, handle)) &&
                           is_member_at(type, "maxvalue", offsetof(SemLockWords, maxvalue)) &&
                           is_member_at(type, "kind", offsetof(SemLockWords, kind)));
}

#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

static PyObject *
semlock_is_owned(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *lock;
    unsigned long ident;
    int same;
    if (!PyArg_ParseTuple(args, "Ok:semlock_is_owned", &lock, &ident))
        return NULL;
    SemLockWords *words = (SemLockWords *)lock;
    Py_BEGIN_CRITICAL_SECTION(lock);
    same = words->count > 0 && words->owner == ident;
    Py_END_CRITICAL_SECTION();
    return PyBool_FromLong(same);
}

static PyObject *
semlock_enter(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *lock;
    unsigned long ident;
    if (!PyArg_ParseTuple(args, "Ok:semlock_enter", &lock, &ident))
        return NULL;
    SemLockWords *words = (SemLockWords *)lock;
    Py_BEGIN_CRITICAL_SECTION(lock);
    words->count++;
    words->owner = ident;
    Py_END_CRITICAL_SECTION();
    Py_RETURN_NONE;
}

/* As rlock_give: the identity of the kernel thread, and the release, are one step. Nobody else changes the words of a lock
 * that is held several times. */
static PyObject *
semlock_give(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *release, *lock;
    if (!PyArg_ParseTuple(args, "OO:semlock_give", &release, &lock))
        return NULL;
    SemLockWords *words = (SemLockWords *)lock;
    unsigned long owner;
    int is_nested;
    Py_BEGIN_CRITICAL_SECTION(lock);
    owner = words->owner;
    is_nested = words->count > 1;
    words->owner = PyThread_get_thread_ident();
    Py_END_CRITICAL_SECTION();
    PyObject *done = PyObject_CallOneArg(release, lock);
    if (done == NULL || is_nested) {
        Py_BEGIN_CRITICAL_SECTION(lock);
        words->owner = owner;
        Py_END_CRITICAL_SECTION();
    }
    return done;
}

static PyMethodDef word_functions[] = {
    {"rlock_read", rlock_read, METH_O, PyDoc_STR("rlock_read(lock): (owner, count); the owner is 0 when it is free.")},
    {"rlock_owner", rlock_owner, METH_O, PyDoc_STR("rlock_owner(lock): the identity of its owner, or 0.")},
    {"rlock_write", rlock_write, METH_VARARGS,
     PyDoc_STR("rlock_write(lock, owner, count): only for who holds the inner lock.")},
    {"rlock_take", rlock_take, METH_VARARGS,
     PyDoc_STR("rlock_take(acquire, lock, ident, blocking, timeout): take a lock that is not the caller's, for `ident`.")},
    {"rlock_give", rlock_give, METH_VARARGS,
     PyDoc_STR("rlock_give(release, lock): release, by the kernel thread's identity, a lock taken once for another.")},
    {"rlock_quick", rlock_quick, METH_VARARGS,
     PyDoc_STR("rlock_quick(name, slow): what does as `slow`, a method of RLock, where that need not wait, in C.")},
    {"lock_taker", lock_taker, METH_O,
     PyDoc_STR("lock_taker(slow): take_lock(); where a lock looks different, that is slow(lock, False).")},
    {"poll_registered", poll_registered, METH_O, PyDoc_STR("poll_registered(poll): {descriptor: events}.")},
    {"semlock_is_known", semlock_is_known, METH_O,
     PyDoc_STR("semlock_is_known(type): whether the words of a SemLock are where the others count on them.")},
    {"semlock_is_owned", semlock_is_owned, METH_VARARGS,
     PyDoc_STR("semlock_is_owned(lock, ident): whether `ident` has acquired it last, and it is held.")},
    {"semlock_enter", semlock_enter, METH_VARARGS,
     PyDoc_STR("semlock_enter(lock, ident): held once more, by `ident`; for who has taken the semaphore, or owns it.")},
    {"semlock_give", semlock_give, METH_VARARGS,
     PyDoc_STR("semlock_give(release, lock): release, by the kernel thread's identity, what is another's.")},
    {NULL, NULL, 0, NULL},
};

int
plait_words_init(PyObject *module)
{
    str_fileno = PyUnicode_InternFromString("fileno");
    str_gettimeout = PyUnicode_InternFromString("gettimeout");
    if (str_fileno == NULL || str_gettimeout == NULL || look_at_socket() < 0 || look_at_lock() < 0)
        return -1;
    return PyModule_AddFunctions(module, word_functions);
}
