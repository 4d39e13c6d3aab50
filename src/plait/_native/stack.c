/* Stack: the switch, and everything that a switch must carry which greenlet does not.
 *
 * A stack is a greenlet with a memory of its own. A carrier owns one *root* stack (its kernel thread's own) and makes
 * every other from there: a stack that is started from a parked thread's stack would inherit its recursion depth and
 * its place on the C stack. Stacks never leave the kernel thread that made them. A stack runs one thread after the
 * other, each mounted for its time: what is at work on this kernel thread, in its context, with thread-locals of its own.
 *
 * What is per thread for CPython but lives in the PyThreadState, and is not switched by greenlet:
 *   dict                                  threading.local up to 3.12, asyncio's running loop, ctypes' errno
 *   threading_local_key, _sentinel        threading.local from 3.13
 *   async_gen_firstiter, _finalizer       hooks that an event loop installs
 *   coroutine_origin_tracking_depth, tracing
 * Invariant: at the instant of a switch the PyThreadState holds none of these. Who leaves moves them into its own
 * stack, who comes back moves them out; so a new stack starts blank and no switch copies twice.
 *
 * asyncio keeps the running loop in a cache beside the dict (up to 3.13) or in a private struct (3.14). A thread that
 * has a loop running is rare, so it is marked (`loop` is set) and two Python hooks take the loop off and put it back.
 *
 * Frames. On free-threaded 3.14 the collector counts deferred references only along the running frames of live thread
 * states, so what a suspended frame alone keeps alive would be freed under it (greenlet visits them from 3.15 on).
 * There a stack remembers its top frame while it is suspended and shows the chain to the collector: see frames.c.
 */
#include "here.h"
#include "frames.h"
#include <greenlet/greenlet.h>
#include <structmember.h>

__thread plait_here_t plait_here __attribute__((tls_model("initial-exec")));

typedef struct Stack {
    PyObject_HEAD
    PyThreadState *ts;     /* of its kernel thread */
    PyObject *live;        /* what it runs, with itself as the argument: its life; NULL for a root */
    PyGreenlet *greenlet;  /* where to go: its own, or the foreign one that was current when it was left */
    PyObject *thread;      /* the virtual thread mounted here, or NULL */
    PyObject *raised;      /* what the function of that thread has raised, until it is taken */
    PyObject *loop;        /* asyncio's state of that thread, as the hooks gave it; NULL: none runs */
    int loop_runs;         /* the mounted thread has an event loop running */
    /* Moved here from the PyThreadState while the stack is suspended. */
    PyObject *dict;
    PyObject *local_key;
    PyObject *local_sentinel;
    PyObject *firstiter;
    PyObject *finalizer;
    int origin_depth;
    int tracing;
    void *frames;          /* top frame while suspended, where the collector needs it */
} Stack;

static PyTypeObject Stack_Type;
static PyObject *loop_leave, *loop_enter; /* hooks: () -> state, (state) -> None */

static void
move_out(Stack *self, PyThreadState *ts)
{
    self->dict = ts->dict;
    ts->dict = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    self->local_key = ts->threading_local_key;
    ts->threading_local_key = NULL;
    self->local_sentinel = ts->threading_local_sentinel;
    ts->threading_local_sentinel = NULL;
#endif
    self->firstiter = ts->async_gen_firstiter;
    ts->async_gen_firstiter = NULL;
    self->finalizer = ts->async_gen_finalizer;
    ts->async_gen_finalizer = NULL;
    self->origin_depth = ts->coroutine_origin_tracking_depth;
    ts->coroutine_origin_tracking_depth = 0;
    self->tracing = ts->tracing;
    ts->tracing = 0;
}

static void
move_in(Stack *self, PyThreadState *ts)
{
    ts->dict = self->dict;
    self->dict = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    ts->threading_local_key = self->local_key;
    self->local_key = NULL;
    ts->threading_local_sentinel = self->local_sentinel;
    self->local_sentinel = NULL;
#endif
    ts->async_gen_firstiter = self->firstiter;
    self->firstiter = NULL;
    ts->async_gen_finalizer = self->finalizer;
    self->finalizer = NULL;
    ts->coroutine_origin_tracking_depth = self->origin_depth;
    ts->tracing = self->tracing;
}

/* Drop what the thread state holds for the thread that ends: destructors run, while it is still mounted. */
static void
clear_locals(PyThreadState *ts)
{
    Py_CLEAR(ts->dict);
#if PY_VERSION_HEX >= 0x030D0000
    Py_CLEAR(ts->threading_local_key);
    Py_CLEAR(ts->threading_local_sentinel);
#endif
    Py_CLEAR(ts->async_gen_firstiter);
    Py_CLEAR(ts->async_gen_finalizer);
    ts->coroutine_origin_tracking_depth = 0;
}

static Stack *
as_stack(PyObject *op)
{
    if (Py_IS_TYPE(op, &Stack_Type))
        return (Stack *)op;
    PyErr_Format(PyExc_TypeError, "a Stack is needed, not %R", op);
    return NULL;
}

/* 0 if the context is in use: it was given by the spawner. */
int
plait_mount(PyObject *op, PyObject *thread, PyObject *context)
{
    Stack *self = as_stack(op);
    if (self == NULL)
        return -1;
    if (PyContext_Enter(context) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_RuntimeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    Py_XSETREF(self->thread, Py_NewRef(thread));
    plait_here.current = thread;
    plait_here.turn_end = 0;
    plait_disarm();
    return 1;
}

int
plait_unmount(PyObject *op)
{
    Stack *self = as_stack(op);
    if (self == NULL)
        return -1;
    PyThreadState *ts = self->ts;
    plait_arm();
    clear_locals(ts); /* what destructors and callbacks have made since drop_locals() */
    ts->tracing = 0;
    self->loop_runs = 0;
    plait_here.current = NULL;
    PyObject *context = Py_NewRef(ts->context); /* the last reference may be the thread state's own */
    int failed = PyContext_Exit(context);
    Py_DECREF(context);
    Py_CLEAR(self->thread);
    return failed;
}

void
plait_drop_locals(void)
{
    clear_locals(plait_here.running->ts);
}

int
plait_has_leftovers(void)
{
    PyThreadState *ts = plait_here.running->ts;
#if PY_VERSION_HEX >= 0x030D0000
    if (ts->threading_local_key != NULL)
        return 1;
#endif
    return ts->dict != NULL || PyObject_Size(ts->context) > 0;
}

/* It stays with the stack: nothing is allocated for it, for memory may be out, and whatever runs before it is taken may park. */
void
plait_keep_raised(PyObject *error)
{
    Py_XSETREF(plait_here.running->raised, error);
}

PyObject *
plait_take_raised(void)
{
    PyObject *error = plait_here.running->raised;
    plait_here.running->raised = NULL;
    return error;
}

/* Destructors may leave something, too: that is dropped likewise, but not without end. */
int
plait_drop_leftovers(void)
{
    PyThreadState *ts = plait_here.running->ts;
    for (int rounds = 0; rounds < 4 && plait_has_leftovers(); rounds++) {
        clear_locals(ts);
        if (PyObject_Size(ts->context) == 0)
            continue;
        PyObject *empty = PyContext_New();
        if (empty == NULL)
            return -1;
        PyObject *left = Py_NewRef(ts->context); /* the last reference may be the thread state's own */
        int failed = PyContext_Exit(left) < 0 || PyContext_Enter(empty) < 0;
        Py_DECREF(empty);
        Py_DECREF(left);
        if (failed)
            return -1;
    }
    return 0;
}

static PyObject *
stack_bootstrap(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Stack *self = (Stack *)op;
    plait_here.running = self;
    PyThreadState *ts = self->ts;
    _PyStackChunk *chunk = plait_chunk_lend(ts);
    PyObject *done;
    if (PyMethod_Check(self->live)) {
        /* Called as the function that it binds: what calls methods would be a part of every parked stack. */
        PyObject *args[] = {PyMethod_GET_SELF(self->live), op};
        PyObject *function = PyMethod_GET_FUNCTION(self->live);
        done = plait_way_to(function)(function, args, 2, NULL);
    } else {
        done = PyObject_CallOneArg(self->live, op);
    }
    plait_chunk_return(ts, chunk);
    return done;
}

static PyMethodDef bootstrap_def = {"run", stack_bootstrap, METH_NOARGS, NULL};

static Stack *
stack_alloc(void)
{
    Stack *self = (Stack *)Stack_Type.tp_alloc(&Stack_Type, 0);
    if (self != NULL)
        self->ts = PyThreadState_Get();
    return self;
}

static PyObject *
stack_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"live", NULL};
    PyObject *live;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Stack", names, &live))
        return NULL;
    Stack *self = stack_alloc();
    if (self == NULL)
        return NULL;
    self->live = Py_NewRef(live);
    PyObject *run = PyCFunction_New(&bootstrap_def, (PyObject *)self);
    if (run == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    self->greenlet = PyGreenlet_New(run, NULL);
    Py_DECREF(run);
    if (self->greenlet == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
stack_root(PyObject *Py_UNUSED(type), PyObject *Py_UNUSED(ignored))
{
    plait_chunks_install(); /* stacks are going to be made */
    Stack *self = stack_alloc();
    if (self == NULL)
        return NULL;
    self->greenlet = PyGreenlet_GetCurrent();
    if (self->greenlet == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    plait_here.running = plait_here.root = self;
    plait_here.current = NULL;
    plait_arm();
    return (PyObject *)self;
}

static int
take_loop_off(Stack *self)
{
    PyObject *state = PyObject_CallNoArgs(loop_leave);
    if (state == NULL)
        return -1;
    Py_XSETREF(self->loop, state);
    return 0;
}

static int
put_loop_back(Stack *self)
{
    PyObject *state = self->loop;
    self->loop = NULL;
    PyObject *done = PyObject_CallOneArg(loop_enter, state);
    Py_DECREF(state);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* A stack has ended to come here. Its greenlet's parent is the one that runs, and keeps it. If that ends likewise, and so on,
 * whoever still knows the first keeps them all, and frees them one inside the other: a hundred thousand are more than the C
 * stack holds. So they part. */
static void
part_with_ended(void)
{
    PyObject *ended = plait_here.ended;
    plait_here.ended = NULL;
    if (PyGreenlet_SetParent((PyGreenlet *)ended, plait_here.root->greenlet) < 0)
        PyErr_WriteUnraisable(ended);
    Py_DECREF(ended);
}

PyObject *
plait_switch_to(PyObject *op)
{
    Stack *target = as_stack(op);
    if (target == NULL)
        return NULL;
    Stack *self = plait_here.running;
    if (self == NULL) {
        PyErr_SetString(PyExc_SystemError, "switch from a kernel thread that is not a carrier");
        return NULL;
    }
    if (self->loop_runs && take_loop_off(self) < 0)
        return NULL;
    PyGreenlet *here = PyGreenlet_GetCurrent();
    if (here == NULL)
        return NULL;
    PyGreenlet *before = self->greenlet; /* nearly always the same */
    self->greenlet = here;
    Py_INCREF(self);

    PyThreadState *ts = self->ts;
    move_out(self, ts);
    self->frames = plait_frames_top(ts);
    plait_here.current = NULL;
    /* The target's own record of where to go is replaced when it leaves again, so hold what we switch to. */
    PyGreenlet *there = (PyGreenlet *)Py_NewRef((PyObject *)target->greenlet);
    PyObject *arrived = PyGreenlet_Switch(there, NULL, NULL);
    /* Somebody chose this stack again. */
    self->frames = NULL;
    move_in(self, ts);
    plait_here.running = self;
    plait_here.current = self->thread;
    plait_here.turn_end = 0;
    plait_arm();
    Py_DECREF(there);
    Py_XDECREF(before);
    if (arrived == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(arrived);
    if (plait_here.ended != NULL)
        part_with_ended();
    if (self->loop != NULL && put_loop_back(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(self);
    Py_RETURN_NONE;
}

/* The running stack is about to end: `op` goes on then. A greenlet that ends switches to its parent by itself. */
int
plait_end_into(PyObject *op)
{
    Stack *target = as_stack(op);
    if (target == NULL)
        return -1;
    PyGreenlet *here = PyGreenlet_GetCurrent();
    if (here == NULL)
        return -1;
    int failed = PyGreenlet_SetParent(here, target->greenlet);
    if (failed)
        Py_DECREF(here);
    else
        Py_XSETREF(plait_here.ended, (PyObject *)here);
    return failed;
}

static int
stack_traverse(PyObject *op, visitproc visit, void *arg)
{
    Stack *self = (Stack *)op;
    Py_VISIT(self->live);
    Py_VISIT(self->greenlet);
    Py_VISIT(self->thread);
    Py_VISIT(self->raised);
    Py_VISIT(self->loop);
    Py_VISIT(self->dict);
    Py_VISIT(self->local_key);
    Py_VISIT(self->local_sentinel);
    Py_VISIT(self->firstiter);
    Py_VISIT(self->finalizer);
    if (self->frames != NULL)
        return plait_frames_visit(self->frames, visit, arg);
    return 0;
}

static int
stack_clear(PyObject *op)
{
    Stack *self = (Stack *)op;
    Py_CLEAR(self->live);
    Py_CLEAR(self->greenlet);
    Py_CLEAR(self->thread);
    Py_CLEAR(self->raised);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->dict);
    Py_CLEAR(self->local_key);
    Py_CLEAR(self->local_sentinel);
    Py_CLEAR(self->firstiter);
    Py_CLEAR(self->finalizer);
    return 0;
}

static void
stack_dealloc(PyObject *op)
{
    PyObject_GC_UnTrack(op);
    stack_clear(op);
    Py_TYPE(op)->tp_free(op);
}

static PyMethodDef stack_methods[] = {
    {"root", stack_root, METH_NOARGS | METH_STATIC,
     PyDoc_STR("The stack of the calling kernel thread itself; every other stack must be made while it runs.")},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef stack_members[] = {
    {"thread", T_OBJECT, offsetof(Stack, thread), READONLY, PyDoc_STR("The virtual thread mounted here, or None.")},
    {"greenlet", T_OBJECT, offsetof(Stack, greenlet), READONLY, PyDoc_STR("Where a switch to this stack goes.")},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject Stack_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "plait._native.Stack",
    .tp_doc = PyDoc_STR("Stack(live)\n--\n\nA stack that runs live(stack), when it is first switched to, and ends with it."),
    .tp_basicsize = sizeof(Stack),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = stack_new,
    .tp_dealloc = stack_dealloc,
    .tp_traverse = stack_traverse,
    .tp_clear = stack_clear,
    .tp_methods = stack_methods,
    .tp_members = stack_members,
};

/* ---- module functions ---- */

static PyObject *
mark_loop(PyObject *Py_UNUSED(module), PyObject *runs)
{
    if (plait_here.running != NULL)
        plait_here.running->loop_runs = PyObject_IsTrue(runs);
    Py_RETURN_NONE;
}

static PyObject *
set_loop_hooks(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *leave, *enter;
    if (!PyArg_ParseTuple(args, "OO:set_loop_hooks", &leave, &enter))
        return NULL;
    Py_XSETREF(loop_leave, Py_NewRef(leave));
    Py_XSETREF(loop_enter, Py_NewRef(enter));
    Py_RETURN_NONE;
}

static PyObject *
gc_gate(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *phase, *info;
    if (!PyArg_UnpackTuple(args, "gc_gate", 2, 2, &phase, &info))
        return NULL;
    plait_collect(PyUnicode_CompareWithASCIIString(phase, "start") == 0);
    Py_RETURN_NONE;
}

static PyObject *
chunk_counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return plait_chunk_counts();
}

static PyMethodDef stack_functions[] = {
    {"mark_loop", mark_loop, METH_O, PyDoc_STR("Say whether an event loop runs on the running stack.")},
    {"set_loop_hooks", set_loop_hooks, METH_VARARGS,
     PyDoc_STR("set_loop_hooks(leave, enter): how asyncio's state is taken off a kernel thread and put back.")},
    {"chunk_counts", chunk_counts, METH_NOARGS,
     PyDoc_STR("chunk_counts() -> (used so far, free now): the pieces of memory for the frames of stacks.")},
    {"gc_gate", gc_gate, METH_VARARGS, PyDoc_STR("A gc callback: nothing parks while the collector is at work.")},
    {NULL, NULL, 0, NULL},
};

int
plait_stack_init(PyObject *module)
{
    PyGreenlet_Import();
    if (_PyGreenlet_API == NULL)
        return -1;
    if (PyType_Ready(&Stack_Type) < 0)
        return -1;
    if (PyModule_AddObjectRef(module, "Stack", (PyObject *)&Stack_Type) < 0)
        return -1;
    return PyModule_AddFunctions(module, stack_functions);
}
