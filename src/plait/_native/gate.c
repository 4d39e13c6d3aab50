/* The gate before a Buffered object (BufferedReader, BufferedWriter, BufferedRandom): who is inside.
 *
 * CPython's lock in these objects is keyed by the kernel thread and waits in C. Of two virtual threads of one carrier the
 * second would be told "reentrant call"; one on another carrier would block it. So nobody who can park goes to that lock
 * while anybody else may be there. A word in each object says who is: two bytes of what CPython's struct has as padding
 * after `finalizing`, zero in every object, however old.
 *
 *   Who has a turn (virtual threads, platform threads with an open scope; plait.patch._buffered):
 *       1. 0 -> TURN in one step, else parks in the lot until that succeeds   2. calls the original   3. TURN -> 0, wakes one
 *   Others (in the trampoline):
 *       1. counts up in one step, unless somebody has the turn: then it waits for a turn of its own
 *       2. calls the original   3. counts down; the last one wakes one of the lot
 *
 * So while somebody has the turn, CPython's lock is free but for itself, and never waits. Those without a turn go on as
 * before: they are many, and CPython's lock is for them. With a GIL a step is an ordinary store: nothing runs in between.
 *
 * `for line in file` calls readline by pointer in objects of exactly these classes; the slot is replaced there.
 */
#include "here.h"
#include "gate.h"

static PyObject *str_readline;
static PyObject *wake; /* called with the object when the last one has come out, while anybody is parked in the lot */

static struct {
    PyTypeObject *type;
    iternextfunc original;
} iterated[2]; /* BufferedReader, BufferedRandom: filled once, before the slot is replaced */

void
plait_gate_wake(PyObject *self)
{
    if (!plait_is_home())
        return;
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyObject *done = PyObject_CallOneArg(wake, self);
    if (done == NULL)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(done);
    PyErr_Restore(kind, error, traceback);
}

/* 1: the turn is the caller's. 0: somebody is inside. -1: that is this very kernel thread, and it has no turn, so there
 * is nothing to wait for: a signal handler or a finalizer, or a raw file that calls its buffer. */
static PyObject *
gate_take(PyObject *Py_UNUSED(module), PyObject *file)
{
    BufferedWords *words = (BufferedWords *)file;
    uint16_t seen = 0;
    if (__atomic_compare_exchange_n(&words->gate, &seen, GATE_TURN, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return PyLong_FromLong(1);
    if (!(seen & GATE_TURN) && __atomic_load_n(&words->owner, __ATOMIC_RELAXED) == PyThread_get_thread_ident())
        return PyLong_FromLong(-1);
    return PyLong_FromLong(0);
}

static PyObject *
gate_give(PyObject *Py_UNUSED(module), PyObject *file)
{
    __atomic_store_n(&((BufferedWords *)file)->gate, 0, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
gate_owner(PyObject *Py_UNUSED(module), PyObject *file)
{
    return PyLong_FromUnsignedLong(__atomic_load_n(&((BufferedWords *)file)->owner, __ATOMIC_RELAXED));
}

/* In a child process after fork: whoever had the turn is not there. The address is that of a living object. */
static PyObject *
gate_reset(PyObject *Py_UNUSED(module), PyObject *address)
{
    BufferedWords *words = (BufferedWords *)PyLong_AsVoidPtr(address);
    if (words == NULL)
        return NULL;
    words->gate = 0;
    if (words->owner) {
        words->owner = 0;
        PyThread_release_lock((PyThread_type_lock)words->lock);
    }
    Py_RETURN_NONE;
}

static PyObject *
gate_open(PyObject *Py_UNUSED(module), PyObject *callable)
{
    Py_XSETREF(wake, Py_NewRef(callable));
    Py_RETURN_NONE;
}

/* Whether a fresh object, made for this, has these words; gate_owner() is left to who can look while it is in use. */
static PyObject *
gate_fits(PyObject *Py_UNUSED(module), PyObject *file)
{
    BufferedWords *words = (BufferedWords *)file;
    if (Py_TYPE(file)->tp_basicsize < (Py_ssize_t)sizeof(BufferedWords))
        Py_RETURN_FALSE;
    unsigned char *padding = (unsigned char *)&words->finalizing;
    PyObject *raw = PyObject_GetAttrString(file, "raw");
    if (raw == NULL)
        return NULL;
    int fits = words->raw == raw && words->ok == 1 && words->finalizing == 0;
    Py_DECREF(raw);
    if (PyObject_SetAttrString(file, "_finalizing", Py_True) < 0)
        return NULL;
    fits = fits && padding[0] == 1 && padding[1] == 0 && padding[2] == 0 && padding[3] == 0;
    if (PyObject_SetAttrString(file, "_finalizing", Py_False) < 0)
        return NULL;
    fits = fits && padding[0] == 0 && (words->fast_closed_checks == 0 || words->fast_closed_checks == 1);
    return PyBool_FromLong(fits);
}

static PyObject *
next_line(PyObject *self)
{
    int which = Py_TYPE(self) == iterated[1].type;
    if (Py_TYPE(self) != iterated[which].type) /* of a subclass: readline is called by name */
        return iterated[which].original(self);
    PyObject *line;
    if (plait_here.cooperative == NULL && plait_gate_enter(self)) {
        line = iterated[which].original(self);
        return plait_gate_left(self, line);
    }
    line = PyObject_CallMethodNoArgs(self, str_readline);
    if (line != NULL && PyBytes_GET_SIZE(line) == 0) /* the end */
        Py_CLEAR(line);
    return line;
}

/* gate_iteration(type, __next__, is_on): replace the slot, or put the original back. Under the install lock of plait.patch. */
static PyObject *
gate_iteration(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *type, *descriptor;
    int is_on;
    if (!PyArg_ParseTuple(args, "O!Op:gate_iteration", &PyType_Type, &type, &descriptor, &is_on))
        return NULL;
    PyTypeObject *cls = (PyTypeObject *)type;
    int which = 0;
    while (which < 2 && iterated[which].type != NULL && iterated[which].type != cls)
        which++;
    if (which == 2 || !Py_IS_TYPE(descriptor, &PyWrapperDescr_Type)) {
        PyErr_Format(PyExc_TypeError, "%R is not iterated in C", type);
        return NULL;
    }
    if (iterated[which].type == NULL) {
        iterated[which].original = cls->tp_iternext;
        iterated[which].type = (PyTypeObject *)Py_NewRef(type);
    }
    iternextfunc from = is_on ? iterated[which].original : next_line;
    iternextfunc to = is_on ? next_line : iterated[which].original;
    if (cls->tp_iternext == from)
        __atomic_store_n(&cls->tp_iternext, to, __ATOMIC_RELEASE);
    PyWrapperDescrObject *wrapper = (PyWrapperDescrObject *)descriptor; /* __next__ */
    if (wrapper->d_wrapped == (void *)from)
        __atomic_store_n(&wrapper->d_wrapped, (void *)to, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

static PyMethodDef gate_functions[] = {
    {"gate_open", gate_open, METH_O, PyDoc_STR("gate_open(wake): before the first gated leaf is installed.")},
    {"gate_take", gate_take, METH_O, PyDoc_STR("gate_take(file): 1 the turn is yours, 0 wait, -1 you are inside.")},
    {"gate_give", gate_give, METH_O, PyDoc_STR("gate_give(file): give the turn back.")},
    {"gate_owner", gate_owner, METH_O, PyDoc_STR("gate_owner(file): the kernel thread in CPython's lock, or 0.")},
    {"gate_reset", gate_reset, METH_O, PyDoc_STR("gate_reset(address): nobody is inside, in a child process.")},
    {"gate_fits", gate_fits, METH_O, PyDoc_STR("gate_fits(file): whether a fresh Buffered object is laid out as known.")},
    {"gate_iteration", gate_iteration, METH_VARARGS,
     PyDoc_STR("gate_iteration(type, __next__, is_on): whether `for line in file` goes through the gate.")},
    {NULL, NULL, 0, NULL},
};

int
plait_gate_init(PyObject *module)
{
    str_readline = PyUnicode_InternFromString("readline");
    return str_readline == NULL ? -1 : PyModule_AddFunctions(module, gate_functions);
}
