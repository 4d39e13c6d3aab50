/* Stack: the switch, and everything that a switch must carry which greenlet does not.
 *
 * A stack is a greenlet with a memory of its own. A carrier owns one *root* stack (its kernel thread's own) and makes
 * every other from there: a stack that is started from a parked thread's stack would inherit its recursion depth and
 * its place on the C stack. Stacks never leave the kernel thread that made them. A stack runs one thread after the
 * other: it enters the thread's context (`thread.context`), stores itself in `thread.stack`, and calls `thread.run()`.
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
    PyObject *take;        /* gives the next thread to run here, or None to end the stack; NULL for a root */
    PyGreenlet *greenlet;  /* where to go: its own, or the foreign one that was current when it was left */
    PyObject *thread;      /* the virtual thread mounted here, or NULL */
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
static PyObject *str_context, *str_run, *str_stack, *str_refuse_context;
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

static int
mount(Stack *self, PyObject *thread)
{
    PyObject *context = PyObject_GetAttr(thread, str_context);
    if (context == NULL)
        return -1;
    int failed = PyContext_Enter(context);
    Py_DECREF(context); /* the thread state holds it */
    if (failed) { /* it was given by the spawner, and is in use: the thread gets another, in which it fails */
        PyErr_Clear();
        context = PyObject_CallMethodNoArgs(thread, str_refuse_context);
        if (context == NULL)
            return -1;
        failed = PyContext_Enter(context);
        Py_DECREF(context);
        if (failed)
            return -1;
    }
    Py_XSETREF(self->thread, Py_NewRef(thread));
    if (PyObject_SetAttr(thread, str_stack, (PyObject *)self) < 0)
        return -1;
    plait_here.current = thread;
    plait_disarm();
    return 0;
}

static int
unmount(Stack *self)
{
    PyThreadState *ts = PyThreadState_Get();
    plait_arm();
    clear_locals(ts); /* what destructors and callbacks have made since drop_locals() */
    ts->tracing = 0;
    self->loop_runs = 0;
    plait_here.current = NULL;
    PyObject *thread = self->thread;
    self->thread = NULL;
    PyObject *context = Py_NewRef(ts->context); /* the last reference may be the thread state's own */
    int failed = PyContext_Exit(context) < 0 || PyObject_SetAttr(thread, str_stack, Py_None) < 0;
    Py_DECREF(context);
    Py_DECREF(thread);
    return failed ? -1 : 0;
}

/* The life of a stack: one thread after the other. A loop in C, so that a parked thread has no frame of ours below it
 * but its own run(). */
static PyObject *
stack_bootstrap(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Stack *self = (Stack *)op;
    plait_here.running = self;
    for (;;) {
        PyObject *thread = PyObject_CallOneArg(self->take, op);
        if (thread == NULL || thread == Py_None)
            return thread;
        PyObject *done = NULL;
        if (mount(self, thread) == 0)
            done = PyObject_CallMethodNoArgs(thread, str_run);
        Py_DECREF(thread);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
        if (unmount(self) < 0)
            return NULL;
    }
}

static PyMethodDef bootstrap_def = {"run", stack_bootstrap, METH_NOARGS, NULL};

static Stack *
stack_alloc(void)
{
    return (Stack *)Stack_Type.tp_alloc(&Stack_Type, 0);
}

static PyObject *
stack_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"take", NULL};
    PyObject *take;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Stack", names, &take))
        return NULL;
    Stack *self = stack_alloc();
    if (self == NULL)
        return NULL;
    self->take = Py_NewRef(take);
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
    plait_here.running = self;
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

PyObject *
plait_switch_to(PyObject *op)
{
    if (!Py_IS_TYPE(op, &Stack_Type)) {
        PyErr_Format(PyExc_TypeError, "switch_to() needs a Stack, not %R", op);
        return NULL;
    }
    Stack *target = (Stack *)op;
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
    Py_XSETREF(self->greenlet, here);
    Py_INCREF(self);

    PyThreadState *ts = PyThreadState_Get();
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
    plait_arm();
    Py_DECREF(there);
    if (arrived == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(arrived);
    if (self->loop != NULL && put_loop_back(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    Py_DECREF(self);
    Py_RETURN_NONE;
}

static PyObject *
stack_drop_locals(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    clear_locals(PyThreadState_Get());
    Py_RETURN_NONE;
}

static int
stack_traverse(PyObject *op, visitproc visit, void *arg)
{
    Stack *self = (Stack *)op;
    Py_VISIT(self->take);
    Py_VISIT(self->greenlet);
    Py_VISIT(self->thread);
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
    Py_CLEAR(self->take);
    Py_CLEAR(self->greenlet);
    Py_CLEAR(self->thread);
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
    {"drop_locals", stack_drop_locals, METH_NOARGS,
     PyDoc_STR("Drop the thread-locals of the mounted thread, whose function has ended; destructors may park.")},
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
    .tp_doc = PyDoc_STR("Stack(take)\n--\n\nA stack that runs the threads which take(stack) gives, until it gives None."),
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
    str_context = PyUnicode_InternFromString("context");
    str_refuse_context = PyUnicode_InternFromString("refuse_context");
    str_run = PyUnicode_InternFromString("run");
    str_stack = PyUnicode_InternFromString("stack");
    if (str_refuse_context == NULL || str_context == NULL || str_run == NULL || str_stack == NULL)
        return -1;
    PyGreenlet_Import();
    if (_PyGreenlet_API == NULL)
        return -1;
    if (PyType_Ready(&Stack_Type) < 0)
        return -1;
    if (PyModule_AddObjectRef(module, "Stack", (PyObject *)&Stack_Type) < 0)
        return -1;
    return PyModule_AddFunctions(module, stack_functions);
}
