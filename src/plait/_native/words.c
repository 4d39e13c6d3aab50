/* Two objects of CPython, opened. plait.patch looks at fresh ones first, and leaves them alone if they look different.
 *
 * select.poll: the dict of what is registered, the first word after the header.
 *
 * _thread.RLock: its owner and count, so that a virtual thread can own it. CPython keys an RLock by the kernel thread; two virtual threads of one carrier would both own it. Its words, after
 * the object header:
 *   up to 3.13   PyThread_type_lock lock; unsigned long owner; unsigned long count; weakrefs
 *   from 3.14    PyMutex (padded to a word); unsigned long long owner; size_t level, which is count - 1; weakrefs
 * An owner is written with a release store, as CPython reads it without the lock held (3.14: relaxed).
 */
#include "here.h"

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

static PyObject *
kernel_ident(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromUnsignedLong(PyThread_get_thread_ident());
}

static PyObject *
poll_registered(PyObject *Py_UNUSED(module), PyObject *poll)
{
    PyObject *dict = *(PyObject **)((char *)poll + sizeof(PyObject));
    return PyDict_Check(dict) ? PyDict_Copy(dict) : Py_NewRef(Py_None);
}

static PyMethodDef word_functions[] = {
    {"rlock_read", rlock_read, METH_O, PyDoc_STR("rlock_read(lock): (owner, count); the owner is 0 when it is free.")},
    {"rlock_owner", rlock_owner, METH_O, PyDoc_STR("rlock_owner(lock): the identity of its owner, or 0.")},
    {"rlock_write", rlock_write, METH_VARARGS,
     PyDoc_STR("rlock_write(lock, owner, count): only for who holds the inner lock.")},
    {"kernel_ident", kernel_ident, METH_NOARGS, PyDoc_STR("The identity of the calling kernel thread.")},
    {"poll_registered", poll_registered, METH_O, PyDoc_STR("poll_registered(poll): {descriptor: events}.")},
    {NULL, NULL, 0, NULL},
};

int
plait_words_init(PyObject *module)
{
    return PyModule_AddFunctions(module, word_functions);
}
