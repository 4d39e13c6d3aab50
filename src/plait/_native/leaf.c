/* Leaves: functions and methods of CPython, made cooperative in their own method tables.
 *
 * CPython reads PyMethodDef.ml_meth at every call of a builtin. install() stores a trampoline of the same C signature
 * there, so no Python object is replaced: every object follows, however old, every name however imported, every bound
 * method however cached. Each leaf has a trampoline of its own for each of the five C signatures, since a C function
 * carries no data; they are generated below.
 *
 * A trampoline asks one thread-local word. It is NULL on platform threads that have no scope of plait's open, and then
 * the trampoline is a tail call of the original: 1 to 4 ns. Otherwise the Python replacement is called with the same
 * arguments, on one of three conditions:
 *   COOPERATIVE  something may park here (almost every leaf)
 *   IDENTITY     plait is at work here, whether it may park or not: who a thread is does not depend on that
 *   ALWAYS       anywhere: only where all threads must be seen, such as closing a descriptor others wait for
 *   GATED        something may park here; of other threads, none (see below)
 *   CLOSING      nowhere, as a rule: the original is called, and those who wait in what it closed are told (see below)
 * A leaf that ends a wait of others (release, put) may have an `after` hook instead of or beside the
 * replacement: it is called with self once the original has succeeded, on every thread, while anybody may be parked in
 * the parking lot for this object (`plait_lot_waiters`): under its address, or under a member of it that is named.
 *
 * A leaf that takes a lock may name the method by which that is tried: its original is called first, with False, where the
 * replacement would be called without arguments. Who finds the lock free is not held up by Python; and who only tries
 * wants no more than that.
 *
 * A GATED leaf is a method of a Buffered object, and goes through its gate (gate.c): a thread that may park, and any that
 * finds somebody else's turn there, waits for a turn of its own, for which the original is called; the replacement, if
 * there is one, where something may park in that turn.
 *
 * A CLOSING leaf closes a descriptor. First it counts the closing, by its number, in `closings`: so who was about to wait in
 * it can tell one that began before from one that began after. Once it has closed it, and if anybody may be waiting in it (they are counted by its number, in
 * `awaited`), its `after` is called: with the same arguments, or for a method with the object and the number that it had,
 * which is the first thing in it. A function says which of its arguments is the number; if that is not told by the call
 * itself, or there are several, everybody is asked. Not while this kernel thread holds a lock of the core, which the call
 * may need: there only the collector closes anything, and what it collects nobody waits in by name.
 * While workers use any numbers (holds.c), the replacement is called instead of the original. A method has none: if its
 * number is held, that is closed as holds.c does it, and taken away before the original comes.
 * What has been closed must be told, or somebody waits in it for ever. So what tells is compiled, and no signal handler
 * interrupts it; and it has room at the limit of recursion, of which the original needs none. If it fails nevertheless (pure
 * builds are interrupted; memory may be out), everybody is told once more, for that does no harm, and then the error raised.
 *
 * How often a leaf has parked. Each thread counts its own parks, where it parks anyway. A trampoline that diverts compares
 * that count before and after, and adds the difference to the leaf's: two loads for a call that did not park, one atomic
 * addition for one that did. Where the original is called nothing is counted.
 *
 * A table entry can be behind more than one Python object: each interpreter of the process, and each fresh import of an
 * extension module, makes classes and functions of its own over it. The replacement knows the one it was made for, and
 * objects do not cross interpreters; wherever else a leaf is called, it is the original.
 *
 * Methods that take a tuple (METH_VARARGS: those of sockets) cost more to divert than others: a tuple is made for the call and
 * taken apart again. So their descriptors, too, get a function of ours to be called by (`call_described`), which hands on what it
 * is given as it stands; where nothing is replaced it calls the one that was there. Bound methods, which have no descriptor any
 * more, go through the trampoline.
 *
 * Publication. The fields of a leaf are filled before ml_meth is stored (release), and are never changed again while
 * it is installed; a thread that sees the trampoline sees the fields. A leaf's slot is never given to another method,
 * so a thread inside a trampoline at uninstall() still finds its original. The library is never unloaded.
 */
#include "here.h"
#include "gate.h"
#include "holds.h"

#include <limits.h>
#include <structmember.h> /* PyMemberDef, before 3.12 */

#define LEAVES 240

#define SOME_NUMBER (-2) /* of a descriptor: which, the call does not tell */

enum { COOPERATIVE, IDENTITY, ALWAYS, GATED, CLOSING };

typedef struct Leaf {
    PyMethodDef *def;       /* the table entry; NULL: the slot is free */
    PyCFunction original;
    PyTypeObject *cls;      /* whose method it is; NULL for a function */
    PyObject *replacement;  /* called instead where leaves are cooperative; NULL: none */
    vectorcallfunc way;     /* how it is called */
    PyCFunction attempt;    /* takes the lock that self is, if it is free, when called with False; NULL: none */
    int attempt_signature;
    PyObject *after;        /* called with self after a success while somebody waits for it in the lot; NULL: none */
    struct Leaf *teller;    /* of a function that closes: the same with `after` as its replacement; else NULL */
    Py_ssize_t key_at;      /* where in self the key of the lot is; 0: the address of self is the key. Of a function that
                             * closes: which argument is the number; negative: several are closed */
    int flags;
    int when;               /* one of the above */
    int is_method;          /* self is passed on to the replacement */
    int is_installed;
    PyMethodDescrObject *descriptor; /* that leads to call_described; else NULL */
    vectorcallfunc described;        /* what it led to before */
    uint64_t parks;         /* in calls of the replacement, since the process began; atomic */
} Leaf;

static Leaf leaves[LEAVES];
static int leaf_count; /* under the install lock of plait.patch */

Py_ssize_t plait_parks_at;

#define PLACES 512 /* a power of two, more than the leaves */
static Leaf *places[PLACES]; /* leaves by a hash of their table entries, each behind the others of its hash; never emptied */

PyTypeObject *plait_raised_type;

static PyInterpreterState *home; /* the interpreter that plait is imported in */

Py_ssize_t plait_lot_waiters[1 << PLAIT_LOT_BITS];

/* By number, modulo the size: how many may be waiting in that descriptor, or will without saying so again. */
#define NUMBERS (1 << 14)
static Py_ssize_t awaited[NUMBERS];

/* How many closings of that number have begun; and how many of numbers that the call does not tell. As large as the numbers
 * that Linux gives out, unless fs.nr_open says otherwise: who is told of another's closing may think that it was its own. Of
 * the memory only as much is ever there as there are numbers in use. */
#define CLOSABLE (1 << 20)
static uint64_t closings[CLOSABLE];
static uint64_t other_closings;

static Py_ssize_t *
awaited_at(int number)
{
    return &awaited[(unsigned)number % NUMBERS];
}

static uint64_t *
closings_of(int number)
{
    return &closings[(unsigned)number % CLOSABLE];
}

/* `number` is about to be closed. A full fence. */
static inline void
count_closing(int number)
{
    uint64_t *count = number == SOME_NUMBER ? &other_closings : closings_of(number);
    __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

int
plait_is_home(void)
{
    return PyInterpreterState_Get() == home;
}

static inline size_t
place_of(PyMethodDef *def)
{
    return ((uint64_t)(uintptr_t)def * 0x9E3779B97F4A7C15u) >> (64 - 9);
}

/* The leaf of this table entry, or NULL. Any thread. */
static Leaf *
leaf_of(PyMethodDef *def)
{
    for (size_t place = place_of(def);; place = (place + 1) % PLACES) {
        Leaf *leaf = __atomic_load_n(&places[place], __ATOMIC_ACQUIRE);
        if (leaf == NULL || leaf->def == def)
            return leaf;
    }
}

PyCFunction
plait_leaf_before(PyMethodDef *def)
{
    Leaf *leaf = leaf_of(def);
    return leaf == NULL ? NULL : leaf->original;
}

static void
set_replacement(Leaf *leaf, PyObject *replacement)
{
    leaf->replacement = replacement;
    leaf->way = replacement == NULL ? NULL : plait_way_to(replacement);
}

/* Whether this call is of what the replacement was made for. */
static int
is_known(Leaf *leaf, PyObject *self)
{
    return plait_is_home() && (leaf->cls == NULL || PyObject_TypeCheck(self, leaf->cls));
}

static int
replaced_here(Leaf *leaf, PyObject *self)
{
    return leaf->replacement != NULL && (leaf->when != COOPERATIVE || plait_here.cooperative != NULL) &&
           is_known(leaf, self);
}

static inline int
replaced(Leaf *leaf, PyObject *self)
{
    return __builtin_expect(plait_here.current != NULL, 0) && replaced_here(leaf, self);
}

static PyObject *
call_after(Leaf *leaf, PyObject *self, PyObject *result)
{
    uintptr_t key = leaf->key_at ? *(uintptr_t *)((char *)self + leaf->key_at) : (uintptr_t)self;
    if (result == NULL || !plait_lot_is_busy(key) || !plait_is_home())
        return result;
    PyObject *done = PyObject_CallOneArg(leaf->after, self);
    if (done == NULL) {
        Py_DECREF(result);
        return NULL;
    }
    Py_DECREF(done);
    return result;
}

/* What a CLOSING leaf that is called like this is about to close. */
static int
number_of(Leaf *leaf, PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (leaf->is_method)
        return *(int *)(self + 1);
    if (leaf->key_at < 0 || leaf->key_at >= nargs || !PyLong_CheckExact(args[leaf->key_at]))
        return SOME_NUMBER;
    int overflow;
    long number = PyLong_AsLongAndOverflow(args[leaf->key_at], &overflow);
    return number < 0 || number > INT_MAX ? SOME_NUMBER : (int)number;
}

/* Whether those who wait in descriptors must be told that this one was closed. A method that raises may have closed it
 * nevertheless: FileIO does, if the object's own flush() fails. Then the object has no number any more. */
static int
is_awaited(Leaf *leaf, PyObject *self, int number, PyObject *result)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return (result != NULL || (leaf->is_method && *(int *)(self + 1) != number)) &&
           (number == SOME_NUMBER || __atomic_load_n(awaited_at(number), __ATOMIC_RELAXED) != 0) &&
           !plait_here.held && is_known(leaf, self);
}

static inline int
are_numbers_held(void)
{
    return __builtin_expect(__atomic_load_n(&plait_holds, __ATOMIC_RELAXED) != 0, 0);
}

/* A FileIO is about to be closed while numbers are held: if its own is, close that as holds.c does, and take it away. */
static __attribute__((noinline)) void
close_held_file(PyObject *self)
{
    int *number = (int *)(self + 1);
    int fd = *number;
    PyObject *is_owner = fd < 0 || !plait_is_home() ? NULL : PyObject_GetAttrString(self, "closefd");
    if (is_owner == Py_True) {
        *number = -1; /* others may come while the file is closed */
        int outcome = plait_close_held(fd);
        if (outcome <= 0)
            *number = outcome == 0 ? fd : INT_MAX; /* of which close(2) will say that it is not open */
    }
    Py_XDECREF(is_owner);
    PyErr_Clear();
}

/* While numbers are held: whether the replacement of a leaf that closes is called instead of the original. */
static __attribute__((noinline)) int
closes_held(Leaf *leaf, PyObject *self)
{
    if (leaf->is_method) {
        close_held_file(self);
        return 0;
    }
    return !plait_here.held && is_known(leaf, self);
}

#define HEADROOM 100 /* calls */

/* This thread may call so much deeper from now on; or less deep, to take that back. */
static void
move_recursion_limit(int calls)
{
    PyThreadState *ts = PyThreadState_Get();
#if PY_VERSION_HEX < 0x030C0000
    ts->recursion_remaining += calls;
#else
    ts->py_recursion_remaining += calls;
#if PY_VERSION_HEX < 0x030E0000 /* from 3.14 on C has no such limit, but the end of its stack */
    ts->c_recursion_remaining += calls;
#endif
#endif
}

/* A descriptor was closed, and those who wait in it are told, with room to do so. */
typedef struct {
    int tries;
    int is_told;
    PyObject *kind, *error, *traceback; /* the first that was raised */
} Telling;

static Telling
begin_telling(void)
{
    Telling telling = {0};
    PyErr_Fetch(&telling.kind, &telling.error, &telling.traceback); /* while it was closed */
    move_recursion_limit(HEADROOM);
    return telling;
}

static int
must_tell(Telling *telling)
{
    return !telling->is_told && telling->tries < 2;
}

static void
note_told(Telling *telling, PyObject *told)
{
    telling->is_told = told != NULL;
    telling->tries++;
    Py_XDECREF(told);
    if (telling->kind == NULL)
        PyErr_Fetch(&telling->kind, &telling->error, &telling->traceback);
    else
        PyErr_Clear();
}

/* The result of the leaf. */
static PyObject *
end_telling(Telling *telling, PyObject *result)
{
    move_recursion_limit(-HEADROOM);
    if (telling->kind != NULL) {
        PyErr_Restore(telling->kind, telling->error, telling->traceback);
        Py_CLEAR(result);
    }
    return result;
}

/* How often the thread at work here has parked. */
static inline uint64_t
parks_here(void)
{
    char *me = (char *)plait_here.current;
    return me == NULL ? 0 : *(uint64_t *)(me + plait_parks_at);
}

static inline PyObject *
count_parks(Leaf *leaf, uint64_t before, PyObject *result)
{
    uint64_t after = parks_here();
    if (after > before)
        __atomic_fetch_add(&leaf->parks, after - before, __ATOMIC_RELAXED);
    return plait_deliver(result);
}

typedef PyObject *(*pair_t)(PyObject *, PyObject *);
typedef PyObject *(*keywords_t)(PyObject *, PyObject *, PyObject *);
typedef PyObject *(*fast_t)(PyObject *, PyObject *const *, Py_ssize_t);
typedef PyObject *(*fastkw_t)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
typedef PyObject *(*method_t)(PyObject *, PyTypeObject *, PyObject *const *, Py_ssize_t, PyObject *);

static PyObject *only_false; /* (False,) */

/* Try to take the lock that self is, if that is what the arguments ask for; NULL without an exception: call the replacement. */
static __attribute__((noinline)) PyObject *
attempt(Leaf *leaf, PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs > 1 || (nargs == 1 && args[0] != Py_False))
        return NULL;
    PyObject *taken;
    int is_taken = plait_take_lock(self);
    if (is_taken >= 0) {
        taken = Py_NewRef(is_taken ? Py_True : Py_False);
    } else if (leaf->attempt_signature == 1) {
        taken = ((keywords_t)(void (*)(void))leaf->attempt)(self, only_false, NULL);
    } else {
        PyObject *no = Py_False;
        taken = ((fastkw_t)(void (*)(void))leaf->attempt)(self, &no, 1, NULL);
    }
    if (taken != Py_False || nargs == 1)
        return taken;
    Py_DECREF(taken);
    return NULL;
}

/* The replacement of a method, with self before the arguments. Apart from call_vector, whose frame shall be small: it is
 * copied with each switch, and part of each parked thread. */
static __attribute__((noinline)) PyObject *
call_method(Leaf *leaf, PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    Py_ssize_t total = nargs + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    PyObject *small[8];
    PyObject **all = small;
    if (total + 1 > 8) {
        all = PyMem_Malloc((total + 1) * sizeof(PyObject *));
        if (all == NULL)
            return PyErr_NoMemory();
    }
    all[0] = self;
    for (Py_ssize_t i = 0; i < total; i++)
        all[i + 1] = args[i];
    PyObject *result = leaf->way(leaf->replacement, all, nargs + 1, kwnames);
    if (all != small)
        PyMem_Free(all);
    return result;
}

static PyObject *
call_vector(Leaf *leaf, PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    if (plait_take_turns() < 0)
        return NULL;
    if (leaf->attempt != NULL && kwnames == NULL) {
        PyObject *taken = attempt(leaf, self, args, nargs);
        if (taken != NULL || PyErr_Occurred())
            return taken;
    }
    uint64_t before = parks_here();
    return count_parks(leaf, before,
                       leaf->is_method ? call_method(leaf, self, args, nargs, kwnames)
                                       : leaf->way(leaf->replacement, args, nargs, kwnames));
}

static PyObject *
call_tuple(Leaf *leaf, PyObject *self, PyObject *args, PyObject *kwargs)
{
    Py_ssize_t n = PyTuple_GET_SIZE(args);
    if (plait_take_turns() < 0)
        return NULL;
    if (leaf->attempt != NULL && (kwargs == NULL || PyDict_GET_SIZE(kwargs) == 0)) {
        PyObject *taken = attempt(leaf, self, ((PyTupleObject *)args)->ob_item, n);
        if (taken != NULL || PyErr_Occurred())
            return taken;
    }
    uint64_t before = parks_here();
    if (!leaf->is_method)
        return count_parks(leaf, before, PyObject_Call(leaf->replacement, args, kwargs));
    PyObject *all = PyTuple_New(n + 1);
    if (all == NULL)
        return NULL;
    PyTuple_SET_ITEM(all, 0, Py_NewRef(self));
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SET_ITEM(all, i + 1, Py_NewRef(PyTuple_GET_ITEM(args, i)));
    PyObject *result = PyObject_Call(leaf->replacement, all, kwargs);
    Py_DECREF(all);
    return count_parks(leaf, before, result);
}

/* Before a call through a gate: -1 with an exception, 1 if the replacement is to be called, else 0. */
static __attribute__((noinline)) int
begin_turn(Leaf *leaf, PyObject *self, Turn **turn)
{
    *turn = NULL;
    if (!is_known(leaf, self))
        return 0;
    uint64_t before = parks_here();
    int begun = plait_gate_begin(self, turn);
    count_parks(leaf, before, NULL);
    return begun > 0 ? leaf->replacement != NULL && plait_here.cooperative != NULL : begun;
}

/* METH_NOARGS, METH_O and METH_VARARGS share a C signature. */
static PyObject *
call_pair(Leaf *leaf, PyObject *self, PyObject *arg)
{
    if (leaf->flags & METH_VARARGS)
        return call_vector(leaf, self, ((PyTupleObject *)arg)->ob_item, PyTuple_GET_SIZE(arg), NULL);
    return call_vector(leaf, self, &arg, leaf->flags & METH_O ? 1 : 0, NULL);
}

/* What the descriptor of a method that takes a tuple leads to. */
static PyObject *
call_described(PyObject *descriptor, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Leaf *leaf = leaf_of(((PyMethodDescrObject *)descriptor)->d_method);
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs == 0 || kwnames != NULL || !replaced(leaf, args[0]))
        return leaf->described(descriptor, args, nargsf, kwnames);
    if (plait_take_turns() < 0)
        return NULL;
    uint64_t before = parks_here();
    return count_parks(leaf, before, leaf->way(leaf->replacement, args, nargs, NULL));
}

#define ORIGINAL(type, leaf) ((type)(void (*)(void))(leaf)->original)

/* One signature: the trampoline that diverts, the one that also looks for waiters afterwards, the one that always
 * diverts, the one that goes through a gate, the one that closes. */
#define SIGNATURE(kind, i, type, PARAMS, ARGS, POSITIONAL, COUNT, REPLACED)                                            \
    static PyObject *kind##_##i PARAMS                                                                                 \
    {                                                                                                                  \
        Leaf *leaf = &leaves[i];                                                                                       \
        if (replaced(leaf, self))                                                                                      \
            return REPLACED;                                                                                           \
        return ORIGINAL(type, leaf) ARGS;                                                                              \
    }                                                                                                                  \
    static PyObject *kind##_after_##i PARAMS                                                                           \
    {                                                                                                                  \
        Leaf *leaf = &leaves[i];                                                                                       \
        if (replaced(leaf, self))                                                                                      \
            return REPLACED;                                                                                           \
        return call_after(leaf, self, ORIGINAL(type, leaf) ARGS);                                                      \
    }                                                                                                                  \
    static PyObject *kind##_always_##i PARAMS                                                                          \
    {                                                                                                                  \
        Leaf *leaf = &leaves[i];                                                                                       \
        if (!is_known(leaf, self))                                                                                     \
            return ORIGINAL(type, leaf) ARGS;                                                                          \
        return REPLACED;                                                                                               \
    }                                                                                                                  \
    static PyObject *kind##_gated_##i PARAMS                                                                           \
    {                                                                                                                  \
        Leaf *leaf = &leaves[i];                                                                                       \
        if (__builtin_expect(plait_here.cooperative == NULL, 1) && plait_gate_enter(self))                             \
            return plait_gate_left(self, ORIGINAL(type, leaf) ARGS);                                                   \
        Turn *turn;                                                                                                    \
        int is_replaced = begin_turn(leaf, self, &turn);                                                               \
        if (is_replaced < 0)                                                                                           \
            return NULL;                                                                                               \
        uint64_t before = parks_here();                                                                                \
        return plait_gate_end(turn, is_replaced ? REPLACED : count_parks(leaf, before, ORIGINAL(type, leaf) ARGS));    \
    }                                                                                                                  \
    static PyObject *kind##_closing_##i PARAMS                                                                         \
    {                                                                                                                  \
        Leaf *leaf = &leaves[i];                                                                                       \
        int number = number_of(leaf, self, POSITIONAL, COUNT);                                                         \
        count_closing(number);                                                                                         \
        PyObject *result;                                                                                              \
        if (are_numbers_held() && closes_held(leaf, self)) {                                                           \
            move_recursion_limit(HEADROOM);                                                                            \
            result = REPLACED;                                                                                         \
            move_recursion_limit(-HEADROOM);                                                                           \
        }                                                                                                              \
        else                                                                                                           \
            result = ORIGINAL(type, leaf) ARGS;                                                                        \
        if (__builtin_expect(!is_awaited(leaf, self, number, result), 1))                                              \
            return result;                                                                                             \
        if (!leaf->is_method)                                                                                          \
            leaf = leaf->teller;                                                                                       \
        Telling telling = begin_telling();                                                                             \
        while (must_tell(&telling))                                                                                    \
            note_told(&telling,                                                                                        \
                      leaf->is_method ? PyObject_CallFunction(leaf->after, "Oi", self, number) : REPLACED);            \
        return end_telling(&telling, result);                                                                          \
    }

#define TRAMPOLINES(i)                                                                                                 \
    SIGNATURE(pair, i, pair_t, (PyObject * self, PyObject * arg), (self, arg), NULL, 0,                                \
              call_pair(leaf, self, arg))                                                                              \
    SIGNATURE(keywords, i, keywords_t, (PyObject * self, PyObject * args, PyObject * kwargs), (self, args, kwargs),    \
              NULL, 0, call_tuple(leaf, self, args, kwargs))                                                                    \
    SIGNATURE(fast, i, fast_t, (PyObject * self, PyObject *const *args, Py_ssize_t n), (self, args, n),                \
              args, n, call_vector(leaf, self, args, n, NULL))                                                                  \
    SIGNATURE(fastkw, i, fastkw_t, (PyObject * self, PyObject *const *args, Py_ssize_t n, PyObject *names),            \
              (self, args, n, names), args, n, call_vector(leaf, self, args, n, names))                                \
    SIGNATURE(method, i, method_t,                                                                                     \
              (PyObject * self, PyTypeObject * cls, PyObject *const *args, Py_ssize_t n, PyObject *names),             \
              (self, cls, args, n, names), args, n, call_vector(leaf, self, args, n, names))

#define ROW(i)                                                                                                         \
    {{(void (*)(void))pair_##i, (void (*)(void))keywords_##i, (void (*)(void))fast_##i, (void (*)(void))fastkw_##i,    \
      (void (*)(void))method_##i},                                                                                     \
     {(void (*)(void))pair_after_##i, (void (*)(void))keywords_after_##i, (void (*)(void))fast_after_##i,              \
      (void (*)(void))fastkw_after_##i, (void (*)(void))method_after_##i},                                              \
     {(void (*)(void))pair_always_##i, (void (*)(void))keywords_always_##i, (void (*)(void))fast_always_##i,           \
      (void (*)(void))fastkw_always_##i, (void (*)(void))method_always_##i},                                            \
     {(void (*)(void))pair_gated_##i, (void (*)(void))keywords_gated_##i, (void (*)(void))fast_gated_##i,              \
      (void (*)(void))fastkw_gated_##i, (void (*)(void))method_gated_##i},                                              \
     {(void (*)(void))pair_closing_##i, (void (*)(void))keywords_closing_##i, (void (*)(void))fast_closing_##i,        \
      (void (*)(void))fastkw_closing_##i, (void (*)(void))method_closing_##i}},

#define TENS(X, t) X(t##0) X(t##1) X(t##2) X(t##3) X(t##4) X(t##5) X(t##6) X(t##7) X(t##8) X(t##9)
#define ALL(X)                                                                                                         \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)                                                                  \
    TENS(X, 1) TENS(X, 2) TENS(X, 3) TENS(X, 4) TENS(X, 5) TENS(X, 6) TENS(X, 7) TENS(X, 8) TENS(X, 9)                 \
    TENS(X, 10) TENS(X, 11) TENS(X, 12) TENS(X, 13) TENS(X, 14) TENS(X, 15) TENS(X, 16) TENS(X, 17) TENS(X, 18)        \
    TENS(X, 19) TENS(X, 20) TENS(X, 21) TENS(X, 22) TENS(X, 23)

ALL(TRAMPOLINES)

static void (*const trampolines[LEAVES][5][5])(void) = {ALL(ROW)};

static int
signature_of(int flags)
{
    switch (flags & (METH_VARARGS | METH_KEYWORDS | METH_NOARGS | METH_O | METH_FASTCALL | METH_METHOD)) {
    case METH_VARARGS:
    case METH_NOARGS:
    case METH_O:
        return 0;
    case METH_VARARGS | METH_KEYWORDS:
        return 1;
    case METH_FASTCALL:
        return 2;
    case METH_FASTCALL | METH_KEYWORDS:
        return 3;
    case METH_METHOD | METH_FASTCALL | METH_KEYWORDS:
        return 4;
    default:
        return -1;
    }
}

static PyCFunction
trampoline_of(Leaf *leaf, int index)
{
    int variant = leaf->when >= ALWAYS ? leaf->when : leaf->after != NULL;
    return (PyCFunction)trampolines[index][variant][signature_of(leaf->flags)];
}

/* The table entry behind a method descriptor or a builtin function; NULL with TypeError for anything else. */
static PyMethodDef *
def_of(PyObject *target)
{
    if (Py_IS_TYPE(target, &PyMethodDescr_Type))
        return ((PyMethodDescrObject *)target)->d_method;
    if (PyCFunction_Check(target))
        return ((PyCFunctionObject *)target)->m_ml;
    PyErr_Format(PyExc_TypeError, "a leaf is a builtin function or a method descriptor, not %R", target);
    return NULL;
}

/* What the table entry held before it became a leaf. */
static PyCFunction
original_of(PyMethodDef *def)
{
    PyCFunction before = plait_leaf_before(def);
    return before == NULL ? def->ml_meth : before;
}

/* Have the descriptor of `leaf` lead to call_described, which finds the leaf by the descriptor's table entry. */
static void
lead_through(Leaf *leaf, PyMethodDescrObject *descriptor)
{
    if (leaf->descriptor == NULL) { /* for good: a thread may be about to ask for what was there before */
        leaf->descriptor = (PyMethodDescrObject *)Py_NewRef((PyObject *)descriptor);
        leaf->described = descriptor->vectorcall;
    }
    if (leaf->descriptor->vectorcall == leaf->described)
        __atomic_store_n(&leaf->descriptor->vectorcall, call_described, __ATOMIC_RELEASE);
}

static PyObject *
leaf_install(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *target, *replacement, *after, *key, *tried = Py_None;
    int when;
    if (!PyArg_ParseTuple(args, "OOOOi|O:install", &target, &replacement, &after, &key, &when, &tried))
        return NULL;
    PyMethodDef *def = def_of(target);
    PyMethodDef *attempt_def = tried == Py_None ? NULL : def_of(tried);
    if (def == NULL || (tried != Py_None && attempt_def == NULL))
        return NULL;
    int attempt_signature = attempt_def == NULL ? 0 : signature_of(attempt_def->ml_flags);
    if (attempt_def != NULL && attempt_signature != 1 && attempt_signature != 3) {
        PyErr_Format(PyExc_TypeError, "%R has a calling convention in which it cannot be tried", tried);
        return NULL;
    }
    Py_ssize_t key_at = 0;
    if (Py_IS_TYPE(key, &PyMemberDescr_Type)) {
        key_at = ((PyMemberDescrObject *)key)->d_member->offset;
    }
    else if (when == CLOSING && PyLong_Check(key)) {
        key_at = PyLong_AsSsize_t(key);
    }
    else if (key != Py_None) {
        PyErr_Format(PyExc_TypeError, "the key of a leaf is a member of its objects, not %R", key);
        return NULL;
    }
    int signature = signature_of(def->ml_flags);
    if (signature < 0) {
        PyErr_Format(PyExc_TypeError, "%R has a calling convention that no trampoline knows", target);
        return NULL;
    }
    Leaf *leaf = leaf_of(def);
    int index = leaf == NULL ? leaf_count : (int)(leaf - leaves);
    if (index == LEAVES) {
        PyErr_SetString(PyExc_RuntimeError, "more leaves than trampolines: raise LEAVES in leaf.c");
        return NULL;
    }
    leaf = &leaves[index];
    if (leaf->is_installed) {
        PyErr_Format(PyExc_RuntimeError, "%R is installed already", target);
        return NULL;
    }
    if (index == leaf_count) {
        leaf->def = def;
        leaf->original = def->ml_meth;
        leaf->flags = def->ml_flags;
        leaf->is_method = Py_IS_TYPE(target, &PyMethodDescr_Type);
        leaf->cls = leaf->is_method ? (PyTypeObject *)Py_NewRef(PyDescr_TYPE(target)) : NULL;
        leaf_count++;
        size_t place = place_of(def);
        while (places[place] != NULL)
            place = (place + 1) % PLACES;
        __atomic_store_n(&places[place], leaf, __ATOMIC_RELEASE);
    }
    else if (def->ml_meth != leaf->original) {
        PyErr_Format(PyExc_RuntimeError, "somebody else has changed the method table entry of %R", target);
        return NULL;
    }
    leaf->attempt = attempt_def == NULL ? NULL : original_of(attempt_def);
    leaf->attempt_signature = attempt_signature;
    set_replacement(leaf, replacement == Py_None ? NULL : Py_NewRef(replacement));
    leaf->after = after == Py_None ? NULL : Py_NewRef(after);
    leaf->key_at = key_at;
    leaf->when = when;
    if (when == CLOSING && !leaf->is_method && leaf->teller == NULL) {
        Leaf *teller = PyMem_RawMalloc(sizeof(Leaf)); /* lives as long as the leaf, like the table */
        if (teller == NULL)
            return PyErr_NoMemory();
        *teller = *leaf;
        set_replacement(teller, leaf->after);
        leaf->teller = teller;
    }
    leaf->is_installed = 1;
    PyCFunction trampoline = trampoline_of(leaf, index);
    __atomic_store_n(&def->ml_meth, trampoline, __ATOMIC_RELEASE);
    if (leaf->is_method && signature == 0 && def->ml_flags & METH_VARARGS && when == COOPERATIVE && replacement != Py_None &&
        after == Py_None && tried == Py_None)
        lead_through(leaf, (PyMethodDescrObject *)target);
    return PyLong_FromLong(index);
}

static PyObject *
leaf_uninstall(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long index = PyLong_AsLong(arg);
    if (index < 0 || index >= leaf_count) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_IndexError, "no such leaf");
        return NULL;
    }
    Leaf *leaf = &leaves[index];
    /* Only where the entry is still ours. The replacement stays referenced: a thread may be about to call it. */
    PyCFunction ours = trampoline_of(leaf, index);
    if (!leaf->is_installed || leaf->def->ml_meth != ours)
        Py_RETURN_FALSE;
    __atomic_store_n(&leaf->def->ml_meth, leaf->original, __ATOMIC_RELEASE);
    if (leaf->descriptor != NULL && leaf->descriptor->vectorcall == call_described)
        __atomic_store_n(&leaf->descriptor->vectorcall, leaf->described, __ATOMIC_RELEASE);
    leaf->is_installed = 0;
    Py_RETURN_TRUE;
}

static PyObject *
leaf_parks(PyObject *Py_UNUSED(module), PyObject *arg)
{
    long index = PyLong_AsLong(arg);
    if (index < 0 || index >= leaf_count) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_IndexError, "no such leaf");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(__atomic_load_n(&leaves[index].parks, __ATOMIC_RELAXED));
}

/* Another function of the same code, which nobody diverts (diverted.c). */
static PyObject *
copy_function(PyObject *target)
{
    PyFunctionObject *function = (PyFunctionObject *)target;
    PyObject *copy = PyFunction_NewWithQualName(function->func_code, function->func_globals, function->func_qualname);
    if (copy == NULL || PyFunction_SetDefaults(copy, function->func_defaults ? function->func_defaults : Py_None) < 0 ||
        PyFunction_SetKwDefaults(copy, function->func_kwdefaults ? function->func_kwdefaults : Py_None) < 0 ||
        PyFunction_SetClosure(copy, function->func_closure ? function->func_closure : Py_None) < 0) {
        Py_XDECREF(copy);
        return NULL;
    }
    return copy;
}

/* A callable that is the original for ever: of the same kind, over a private copy of the table entry. */
static PyObject *
leaf_original(PyObject *Py_UNUSED(module), PyObject *target)
{
    if (PyFunction_Check(target) || PyType_IsSubtype(Py_TYPE(target), &PyFunction_Type))
        return copy_function(target);
    PyMethodDef *def = def_of(target);
    if (def == NULL)
        return NULL;
    PyMethodDef *copy = PyMem_RawMalloc(sizeof(PyMethodDef)); /* lives as long as the process, like the table */
    if (copy == NULL)
        return PyErr_NoMemory();
    *copy = *def;
    copy->ml_meth = original_of(def);
    if (Py_IS_TYPE(target, &PyMethodDescr_Type))
        return PyDescr_NewMethod(PyDescr_TYPE(target), copy);
    PyCFunctionObject *function = (PyCFunctionObject *)target;
    PyTypeObject *cls = def->ml_flags & METH_METHOD ? PyCFunction_GET_CLASS(target) : NULL;
    return PyCMethod_New(copy, function->m_self, function->m_module, cls);
}

/* The table entry `name` of a module written in C; NULL without an exception: it has none, or does not tell. */
static PyMethodDef *
entry_of(PyObject *module, const char *name)
{
    PyModuleDef *made_by = PyModule_Check(module) ? PyModule_GetDef(module) : NULL;
    PyErr_Clear();
    PyMethodDef *entry = made_by == NULL ? NULL : made_by->m_methods;
    while (entry != NULL && entry->ml_name != NULL && strcmp(entry->ml_name, name) != 0)
        entry++;
    return entry == NULL || entry->ml_name == NULL ? NULL : entry;
}

/* The function `name` of a module written in C, though somebody may have put something else under the name: then another
 * one over the same table entry. */
static PyObject *
leaf_builtin(PyObject *Py_UNUSED(ignored), PyObject *args)
{
    PyObject *module, *name;
    if (!PyArg_ParseTuple(args, "OU:builtin", &module, &name))
        return NULL;
    PyMethodDef *entry = entry_of(module, PyUnicode_AsUTF8(name));
    PyObject *found = PyObject_GetAttr(module, name);
    if (entry == NULL || (found != NULL && PyCFunction_Check(found) && ((PyCFunctionObject *)found)->m_ml == entry))
        return found;
    Py_XDECREF(found);
    PyErr_Clear();
    PyObject *module_name = PyModule_GetNameObject(module);
    if (module_name == NULL)
        return NULL;
    PyObject *made = PyCFunction_NewEx(entry, module, module_name);
    Py_DECREF(module_name);
    return made;
}

static PyObject *
lot_enter(PyObject *Py_UNUSED(module), PyObject *key)
{
    __atomic_add_fetch(plait_lot_bucket(PyLong_AsUnsignedLongLongMask(key)), 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
lot_leave(PyObject *Py_UNUSED(module), PyObject *key)
{
    __atomic_sub_fetch(plait_lot_bucket(PyLong_AsUnsignedLongLongMask(key)), 1, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
lot_is_busy(PyObject *Py_UNUSED(module), PyObject *key)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return PyBool_FromLong(plait_lot_is_busy(PyLong_AsUnsignedLongLongMask(key)));
}

static PyObject *
lot_count(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t count = 0;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(plait_lot_waiters); i++)
        count += __atomic_load_n(&plait_lot_waiters[i], __ATOMIC_RELAXED);
    return PyLong_FromSsize_t(count);
}

static PyObject *
lot_reset(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    memset(plait_lot_waiters, 0, sizeof plait_lot_waiters);
    memset(awaited, 0, sizeof awaited);
    Py_RETURN_NONE;
}

static PyObject *
closing_enter(PyObject *Py_UNUSED(module), PyObject *number)
{
    __atomic_add_fetch(awaited_at((int)PyLong_AsUnsignedLongMask(number)), 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
closing_leave(PyObject *Py_UNUSED(module), PyObject *number)
{
    Py_ssize_t *count = awaited_at((int)PyLong_AsUnsignedLongMask(number));
    if (__atomic_sub_fetch(count, 1, __ATOMIC_SEQ_CST) < 0) /* it was counted before the fork that has made this process */
        __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyObject *
closing_begin(PyObject *Py_UNUSED(module), PyObject *number)
{
    count_closing((int)PyLong_AsUnsignedLongMask(number));
    Py_RETURN_NONE;
}

static PyObject *
closing_is_awaited(PyObject *Py_UNUSED(module), PyObject *number)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return PyBool_FromLong(__atomic_load_n(awaited_at((int)PyLong_AsUnsignedLongMask(number)), __ATOMIC_RELAXED) != 0);
}

static PyObject *
closing_count(PyObject *Py_UNUSED(module), PyObject *const *numbers, Py_ssize_t n)
{
    uint64_t count = __atomic_load_n(&other_closings, __ATOMIC_SEQ_CST);
    for (Py_ssize_t i = 0; i < n; i++) {
        count += __atomic_load_n(closings_of((int)PyLong_AsUnsignedLongMask(numbers[i])), __ATOMIC_SEQ_CST);
    }
    return PyLong_FromUnsignedLongLong(count);
}

static PyObject *
closing_fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyMethodDef leaf_functions[] = {
    {"install", leaf_install, METH_VARARGS,
     PyDoc_STR("install(target, replacement, after, key, when, attempt=None): make a leaf cooperative; its number. Caller holds "
               "the install lock. when: 0 cooperative, 1 identity, 2 always, 3 gated, 4 closing.")},
    {"uninstall", leaf_uninstall, METH_O,
     PyDoc_STR("uninstall(number): put the original back; False where the entry is no longer ours.")},
    {"parks", leaf_parks, METH_O, PyDoc_STR("parks(number): how often a leaf has parked, on all threads together.")},
    {"original", leaf_original, METH_O, PyDoc_STR("original(target): the unpatched function or method, for ever. Of a function of Python, a copy.")},
    {"builtin", leaf_builtin, METH_VARARGS,
     PyDoc_STR("builtin(module, name): the function that a module written in C brings, whatever stands under its name now.")},
    {"lot_enter", lot_enter, METH_O, PyDoc_STR("lot_enter(key): one more is parked under this key; a full fence.")},
    {"lot_leave", lot_leave, METH_O, PyDoc_STR("lot_leave(key): one less.")},
    {"lot_is_busy", lot_is_busy, METH_O,
     PyDoc_STR("lot_is_busy(key): whether anybody may be parked under this key; a full fence comes first.")},
    {"lot_count", lot_count, METH_NOARGS, PyDoc_STR("How many are parked in the lot.")},
    {"lot_reset", lot_reset, METH_NOARGS, PyDoc_STR("Nobody is parked, nor waits in a descriptor: in a child process after fork.")},
    {"closing_enter", closing_enter, METH_O,
     PyDoc_STR("closing_enter(fd): one more is to be told when the descriptor is closed; a full fence.")},
    {"closing_leave", closing_leave, METH_O, PyDoc_STR("closing_leave(fd): one less.")},
    {"closing_begin", closing_begin, METH_O,
     PyDoc_STR("closing_begin(fd): the descriptor is about to be closed, by other means than a leaf; a full fence.")},
    {"closing_is_awaited", closing_is_awaited, METH_O,
     PyDoc_STR("closing_is_awaited(fd): whether anybody may be to be told that it was closed; a full fence comes first.")},
    {"closings", (PyCFunction)(void (*)(void))closing_count, METH_FASTCALL,
     PyDoc_STR("closings(fd, ...): how many closings have begun that may have been of these numbers; it never falls.")},
    {"closing_fence", closing_fence, METH_NOARGS,
     PyDoc_STR("A full fence, between what a waiter writes and reads, or one who closes.")},
    {NULL, NULL, 0, NULL},
};

int
plait_leaf_init(PyObject *module)
{
    home = PyInterpreterState_Get();
    only_false = PyTuple_Pack(1, Py_False);
    if (only_false == NULL)
        return -1;
    return PyModule_AddFunctions(module, leaf_functions);
}
