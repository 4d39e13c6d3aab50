/* What plait knows of the kernel thread that is running: one thread-local record, read by every leaf.
 *
 *   running      the stack of ours on which this kernel thread executes; NULL outside the carriers.
 *   root         of a carrier: the kernel thread's own stack.
 *   ended        the greenlet of a stack that has ended, or is about to, until who runs next has parted with it (stack.c).
 *   current      the parker at work here: the virtual thread mounted on `running`, or the record of a platform thread
 *                that has a scope open; NULL otherwise. Borrowed: the stack, or the scope, keeps it alive.
 *   armed        the current parker has announced a wait, or a scheduler runs on its stack: nothing may park here.
 *   collecting   the garbage collector is at work on this kernel thread: nothing may park here either.
 *   held         locks of the core that this kernel thread holds: likewise.
 *   calls        how many leaves have been called here, and
 *   turn_end     when the turn of who is at work here is over, in nanoseconds; 0: it has not begun (turns.c).
 *   spare        of a carrier: bytes that nobody has seen yet, room for the next recv; NULL if there are none.
 *   caller_offset  where the function was that caller_code() has found last.
 *   cooperative  == current while leaves may park, NULL while they must behave as CPython made them. The one word that
 *                a trampoline tests; derived from the others by plait_gate().
 *
 * initial-exec: the address is an offset from the thread pointer, no call; the default model costs 3 to 6 ns a leaf.
 */
#ifndef PLAIT_HERE_H
#define PLAIT_HERE_H

#include <Python.h>
#include <stdint.h>

typedef struct {
    struct Stack *running;
    struct Stack *root;
    PyObject *ended;
    PyObject *current;
    PyObject *cooperative;
    PyObject *spare;
    int armed;
    int collecting;
    int held;
    unsigned calls;
    int64_t turn_end;
    int caller_offset;
} plait_here_t;

extern __thread plait_here_t plait_here __attribute__((tls_model("initial-exec"), visibility("hidden")));

static inline void
plait_gate(void)
{
    plait_here.cooperative = (plait_here.armed || plait_here.collecting || plait_here.held) ? NULL : plait_here.current;
}

static inline void
plait_arm(void)
{
    plait_here.armed = 1;
    plait_here.cooperative = NULL;
}

static inline void
plait_disarm(void)
{
    plait_here.armed = 0;
    plait_gate();
}

int plait_turn_look(void);

/* A leaf is about to be called where it may park: others may be due to go first. -1 with an exception. */
static inline int
plait_take_turns(void)
{
    return __builtin_expect((++plait_here.calls & 15) == 0, 0) ? plait_turn_look() : 0;
}

/* Bytes of that size to be filled, which nobody else has; NULL with an exception. What is asked for is, as a rule, far more
 * than what comes: to allocate 64 KiB and give most of it back, each time, costs as much as the system call itself does in
 * the interpreter. So a carrier keeps what was not used up. */
static inline PyObject *
plait_take_room(Py_ssize_t size)
{
    PyObject *spare = plait_here.spare;
    if (spare != NULL && PyBytes_GET_SIZE(spare) == size) {
        plait_here.spare = NULL;
        return spare;
    }
    return PyBytes_FromStringAndSize(NULL, size);
}

#define PLAIT_MOST_SPARE (1 << 18) /* bytes */

/* Of `room`, which is given up, the first `used` bytes. */
static inline PyObject *
plait_use_room(PyObject *room, Py_ssize_t used)
{
    Py_ssize_t size = PyBytes_GET_SIZE(room);
    if (used > size / 4 || size > PLAIT_MOST_SPARE || plait_here.running == NULL) {
        if (used < size)
            _PyBytes_Resize(&room, used);
        return room;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(PyBytes_AS_STRING(room), used);
    Py_XSETREF(plait_here.spare, room);
    return bytes;
}

/* Whether no code of anybody runs when it is freed: it is of a type of C, and refers to nothing. */
static inline int
plait_is_plain(PyObject *thing)
{
    return !PyType_HasFeature(Py_TYPE(thing), Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HEAPTYPE);
}

/* How many threads are parked in the parking lot, by a hash of their key: who frees something that nobody waits for
 * finds that out with one load, as a rule, even while others wait for other things. */
#define PLAIT_LOT_BITS 10
extern Py_ssize_t plait_lot_waiters[1 << PLAIT_LOT_BITS] __attribute__((visibility("hidden")));

static inline Py_ssize_t *
plait_lot_bucket(uintptr_t key)
{
    return &plait_lot_waiters[((uint64_t)key * 0x9E3779B97F4A7C15u) >> (64 - PLAIT_LOT_BITS)];
}

/* Whether anybody may be parked under this key. */
static inline int
plait_lot_is_busy(uintptr_t key)
{
#ifdef Py_GIL_DISABLED
    /* Other side: count the waiter (sequentially consistent), then try the lock once more. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
    return __atomic_load_n(plait_lot_bucket(key), __ATOMIC_RELAXED) != 0;
}

/* A `Raised` stands for an exception: the result of a replacement that has the leaf raise it, from C. Each compiled function
 * that an exception leaves adds a line to its traceback, which costs as much as the rest and tells nothing. */
extern PyTypeObject *plait_raised_type __attribute__((visibility("hidden")));
PyObject *plait_raise(PyObject *raised);

static inline PyObject *
plait_deliver(PyObject *result)
{
    return __builtin_expect(result == NULL || !Py_IS_TYPE(result, plait_raised_type), 1) ? result : plait_raise(result);
}

/* How to call what PyObject_Vectorcall would call: that has a frame of its own, which is a part of each stack parked above. */
static inline vectorcallfunc
plait_way_to(PyObject *callable)
{
    vectorcallfunc way = PyVectorcall_Function(callable);
    return way != NULL ? way : PyObject_Vectorcall;
}

static inline PyObject *
plait_current(void)
{
    PyObject *current = plait_here.current ? plait_here.current : Py_None;
    Py_INCREF(current);
    return current;
}

static inline PyObject *
plait_cooperative(void)
{
    PyObject *current = plait_here.cooperative ? plait_here.cooperative : Py_None;
    Py_INCREF(current);
    return current;
}

static inline void
plait_bind(PyObject *parker)
{
    plait_here.current = parker == Py_None ? NULL : parker;
    plait_gate();
}

static inline void
plait_collect(int is_at_work)
{
    plait_here.collecting = is_at_work;
    plait_gate();
}

static inline void
plait_hold(int step)
{
    plait_here.held += step;
    plait_gate();
}

/* The C sources behind the one extension module; each adds its names to it. */
PyObject *plait_switch_to(PyObject *stack);
int plait_end_into(PyObject *stack);
int plait_mount(PyObject *stack, PyObject *thread, PyObject *context);
int plait_unmount(PyObject *stack);
void plait_drop_locals(void);
int plait_has_leftovers(void);
int plait_drop_leftovers(void);
void plait_keep_raised(PyObject *error); /* takes the reference */
PyObject *plait_take_raised(void);
int plait_stack_init(PyObject *module);
int plait_leaf_init(PyObject *module);
int plait_words_init(PyObject *module);
extern Py_ssize_t plait_parks_at; /* where in a WaitWord its count of parks is */
int plait_gate_init(PyObject *module);
int plait_opening_init(PyObject *module);
int plait_around_init(PyObject *module);
int plait_diverted_init(PyObject *module);
int plait_hashes_init(PyObject *module);
int plait_tls_init(PyObject *module);
int plait_holds_init(PyObject *module);
int plait_turns_init(PyObject *module);
void plait_take_positionals(PyObject *method, PyObject *(*function)(PyObject *, PyObject *, PyObject *));
void plait_chunks_install(void);
_PyStackChunk *plait_chunk_lend(PyThreadState *ts);                   /* to a stack that begins; NULL: none */
void plait_chunk_return(PyThreadState *ts, _PyStackChunk *chunk);     /* from a stack that ends, on itself */
PyObject *plait_chunk_counts(void);
PyCFunction plait_leaf_before(PyMethodDef *def); /* what the entry of a leaf held before; NULL: it is none */
int plait_is_home(void);                        /* this is the interpreter that plait is imported in */
int plait_socket_fd(PyObject *sock);            /* -2 with an exception */
PyObject *plait_socket_timeout(PyObject *sock); /* as gettimeout() */
int plait_socket_has_timeout(PyObject *sock);   /* whether that is a number; -1: failed */
int plait_socket_quieten(PyObject *sock);       /* give it a timeout of 0 and a descriptor that is none; 0: cannot */
int plait_take_lock(PyObject *lock);            /* 1: taken; 0: it is held; -1: it looks different */
int plait_socket_blocks(PyObject *sock, int fd); /* whether it still has this descriptor, and no timeout */

#endif
