/* The gate before a Buffered object (BufferedReader, BufferedWriter, BufferedRandom): who is inside.
 *
 * CPython's lock in these objects is keyed by the kernel thread and waits in C. Of two virtual threads of one carrier the
 * second would be told "reentrant call"; one on another carrier would block it. So nobody who can park goes to that lock
 * while anybody else may be there. A word in each object says who is: two bytes of what CPython's struct has as padding
 * after `finalizing`, zero in every object, however old.
 *
 *   Who has a turn (virtual threads, platform threads with an open scope):
 *       1. 0 -> TURN in one step, else parks in the lot until that succeeds (plait.patch._buffered)
 *       2. calls the original   3. TURN -> 0, wakes one
 *   Others:
 *       1. counts up in one step, unless somebody has the turn: then it waits for a turn of its own
 *       2. calls the original   3. counts down; the last one wakes one of the lot
 *
 * So while somebody has the turn, CPython's lock is free but for itself, and never waits. Those without a turn go on as
 * before: they are many, and CPython's lock is for them. With a GIL a step is an ordinary store: nothing runs in between.
 *
 * A kernel thread that has been inside since before the leaves were put in place is counted nowhere, and tells nobody when
 * it comes out: a stranger. Who has taken the turn sees it as the owner of CPython's lock, gives the turn back, and tries
 * again after pauses. (Of several strangers that wait for each other in that lock only the one inside is seen.)
 *
 * A turn lasts for the whole of a call, in which CPython may call back: `close` flushes. Who has it goes straight in. So
 * whose it is has to be known, and is in a table, by a hash of the object; a thread may have turns at several objects, one
 * inside the other. Where nothing may park (a finalizer that the collector runs, say) the call is CPython's, too.
 *
 * `for line in file` calls readline by pointer in objects of exactly these classes; the slot is replaced there.
 */
#include "here.h"
#include "gate.h"

static PyObject *wait; /* called with the object while it is somebody's turn: takes the next one; whose it is then, or None */
static PyObject *wake; /* called with the object when the last one has come out, while anybody is parked in the lot */

static Turn *turns[1 << PLAIT_LOT_BITS]; /* each bucket under its lock, or the GIL */

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

#ifdef Py_GIL_DISABLED
static PyMutex locks[1 << PLAIT_LOT_BITS]; /* held for a few stores */
#define LOCK(bucket) PyMutex_Lock(&locks[bucket])
#define UNLOCK(bucket) PyMutex_Unlock(&locks[bucket])
#define GIVING __ATOMIC_SEQ_CST
#else
#define LOCK(bucket)
#define UNLOCK(bucket)
#define GIVING __ATOMIC_RELAXED
#endif

static inline size_t
bucket_of(PyObject *file)
{
    return plait_lot_bucket((uintptr_t)file) - plait_lot_waiters;
}

/* Let others in again, and tell one who waits for that. */
static inline void
give(PyObject *file)
{
    __atomic_store_n(&((BufferedWords *)file)->gate, 0, GIVING);
    if (plait_lot_is_busy((uintptr_t)file))
        plait_gate_wake(file);
}

/* Whether a kernel thread other than this one is in CPython's lock. */
static inline int
is_held_elsewhere(PyObject *file)
{
    unsigned long owner = __atomic_load_n(&((BufferedWords *)file)->owner, __ATOMIC_RELAXED);
    return owner != 0 && owner != PyThread_get_thread_ident();
}

/* Shut the gate, if nobody is inside that it knows of; if somebody is, `seen` is how it was. */
static inline int
shut(PyObject *file, uint16_t *seen)
{
    uint16_t *gate = &((BufferedWords *)file)->gate;
    *seen = 0;
#ifdef Py_GIL_DISABLED
    return __atomic_compare_exchange_n(gate, seen, GATE_TURN, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
#else
    *seen = *gate;
    if (*seen)
        return 0;
    *gate = GATE_TURN;
    return 1;
#endif
}

enum { STRANGER = -1, OTHERS, MINE };

/* Try to take the turn: whose it is. If others are there, who will tell, `seen` is how the gate was; of a stranger it is 0. */
static int
take(PyObject *file, uint16_t *seen)
{
    if (!shut(file, seen))
        return OTHERS;
    *seen = 0;
    if (__builtin_expect(!is_held_elsewhere(file), 1))
        return MINE;
    give(file);
    return STRANGER;
}

/* Whether this very kernel thread is in CPython's lock. */
static inline int
is_inside(PyObject *file)
{
    return __atomic_load_n(&((BufferedWords *)file)->owner, __ATOMIC_RELAXED) == PyThread_get_thread_ident();
}

static int
has_turn(PyObject *file, PyObject *who)
{
    size_t bucket = bucket_of(file);
    LOCK(bucket);
    Turn *turn = turns[bucket];
    while (turn != NULL && !(turn->file == file && turn->who == who))
        turn = turn->next;
    UNLOCK(bucket);
    return turn != NULL;
}

/* The turn has been taken for `who`: enter that; 1, or -1 with an exception and the turn given back. */
static int
enter(PyObject *file, PyObject *who, Turn **entered)
{
    Turn *turn = *entered = PyMem_RawMalloc(sizeof(Turn));
    if (turn == NULL) {
        give(file);
        PyErr_NoMemory();
        return -1;
    }
    size_t bucket = bucket_of(file);
    turn->file = file;
    turn->who = who;
    turn->from = &turns[bucket];
    LOCK(bucket);
    turn->next = turns[bucket];
    if (turn->next != NULL)
        turn->next->from = &turn->next;
    turns[bucket] = turn;
    UNLOCK(bucket);
    return 1;
}

int
plait_gate_begin(PyObject *file, Turn **turn)
{
    PyObject *me = plait_here.cooperative;
    uint16_t seen = GATE_TURN;
    *turn = NULL;
    if (me != NULL) {
        if (take(file, &seen) == MINE)
            return enter(file, me, turn);
        /* Without a turn it is a signal handler or a finalizer, or a raw file that calls its buffer: nothing to wait for. */
        if (seen & GATE_TURN ? has_turn(file, me) : is_inside(file))
            return 0;
    }
    else if (plait_here.current != NULL || is_inside(file))
        return 0;
    PyObject *who = PyObject_CallOneArg(wait, file);
    if (who == NULL)
        return -1;
    Py_DECREF(who); /* it is who calls */
    return who == Py_None ? 0 : enter(file, who, turn);
}

PyObject *
plait_gate_end(Turn *turn, PyObject *result)
{
    if (turn == NULL)
        return result;
    PyObject *file = turn->file;
    size_t bucket = bucket_of(file);
    LOCK(bucket);
    int is_known = turn->from != NULL;
    if (is_known) {
        *turn->from = turn->next;
        if (turn->next != NULL)
            turn->next->from = turn->from;
    }
    UNLOCK(bucket);
    PyMem_RawFree(turn);
    if (is_known)
        give(file);
    return result;
}

static PyObject *
gate_try(PyObject *Py_UNUSED(module), PyObject *file)
{
    uint16_t seen;
    switch (take(file, &seen)) {
    case MINE:
        Py_RETURN_TRUE;
    case OTHERS:
        Py_RETURN_FALSE;
    default:
        Py_RETURN_NONE;
    }
}

static PyObject *
gate_is_held(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *file, *who;
    if (!PyArg_ParseTuple(args, "OO:gate_is_held", &file, &who))
        return NULL;
    return PyBool_FromLong(has_turn(file, who));
}

static PyObject *
gate_owner(PyObject *Py_UNUSED(module), PyObject *file)
{
    return PyLong_FromUnsignedLong(__atomic_load_n(&((BufferedWords *)file)->owner, __ATOMIC_RELAXED));
}

/* In a child process after fork: whoever else had a turn is not there. What is left of their calls may yet come to its
 * end, if their stacks are taken down, and shall do nothing then; so the turns are not freed here. */
static PyObject *
gate_forget(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
#ifdef Py_GIL_DISABLED
    memset(locks, 0, sizeof locks);
#endif
    for (size_t bucket = 0; bucket < Py_ARRAY_LENGTH(turns); bucket++) {
        Turn *turn = turns[bucket];
        Turn **from = &turns[bucket];
        for (Turn *next; turn != NULL; turn = next) {
            next = turn->next;
            if (turn->who == plait_here.current) {
                turn->from = from;
                *from = turn;
                from = &turn->next;
                continue;
            }
            turn->from = NULL;
            BufferedWords *words = (BufferedWords *)turn->file;
            words->gate = 0;
            if (words->owner) {
                words->owner = 0;
                PyThread_release_lock((PyThread_type_lock)words->lock);
            }
        }
        *from = NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
gate_open(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *waits, *wakes;
    if (!PyArg_ParseTuple(args, "OO:gate_open", &waits, &wakes))
        return NULL;
    Py_XSETREF(wait, Py_NewRef(waits));
    Py_XSETREF(wake, Py_NewRef(wakes));
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
    if (plait_here.cooperative == NULL && plait_gate_enter(self))
        return plait_gate_left(self, iterated[which].original(self));
    Turn *turn;
    if (plait_gate_begin(self, &turn) < 0)
        return NULL;
    return plait_gate_end(turn, iterated[which].original(self));
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
    {"gate_open", gate_open, METH_VARARGS,
     PyDoc_STR("gate_open(wait, wake): before the first gated leaf is installed.")},
    {"gate_try", gate_try, METH_O,
     PyDoc_STR("gate_try(file): take the turn without waiting; whether that succeeded, None if a stranger is inside.")},
    {"gate_is_held", gate_is_held, METH_VARARGS, PyDoc_STR("gate_is_held(file, who): whether `who` has the turn.")},
    {"gate_owner", gate_owner, METH_O, PyDoc_STR("gate_owner(file): the kernel thread in CPython's lock, or 0.")},
    {"gate_forget", gate_forget, METH_NOARGS,
     PyDoc_STR("gate_forget(): nobody has a turn but who calls: in a child process after fork.")},
    {"gate_fits", gate_fits, METH_O, PyDoc_STR("gate_fits(file): whether a fresh Buffered object is laid out as known.")},
    {"gate_iteration", gate_iteration, METH_VARARGS,
     PyDoc_STR("gate_iteration(type, __next__, is_on): whether `for line in file` goes through the gate.")},
    {NULL, NULL, 0, NULL},
};

int
plait_gate_init(PyObject *module)
{
    return PyModule_AddFunctions(module, gate_functions);
}
