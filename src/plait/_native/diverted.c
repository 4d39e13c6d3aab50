/* Functions of Python that are called elsewhere: to everybody who looks at one it is the function that it has always been;
 * who calls it, under whatever name and by whatever wrapper, calls its replacement, and no frame is added. Where nothing may
 * park that may be the original, too: a copy of the function that is called as ever, which costs a call from C. See
 * docs/adr/0018.
 *
 * A function has a pointer to the C function by which it is called, and CPython goes by it, inlined or not (PEP 590; from
 * 3.12 on it may be set). 3.11 inlines every call of what is a function exactly: there it gets a type beneath, of the same
 * layout and name.
 *
 * Which way a function goes is told by a table. What is in it stays for ever, as a thread may be about to go that way.
 *     Installer, under the install lock: 1. fills the entry, or its new way   2. publishes it   3. [fence] sets the pointer
 *     Who takes it back:                 1. sets the pointer back   2. leaves the entry without a way
 *     Caller: 1. reads the pointer [fence]   2. reads the entry, which is there   3. goes its way; or, if there is none any
 *             more, as the function is called by itself
 */
#include "here.h"

#include <stddef.h> /* offsetof, which Python.h brings from 3.12 on */

typedef struct Way {
    PyObject *replacement;
    PyObject *original; /* called instead where nothing may park; NULL: none */
    struct Way *next; /* of the same function, before it */
} Way;

typedef struct Diversion {
    PyObject *function;
    vectorcallfunc plain; /* how it is called by itself */
    Way *way; /* where its calls go now; NULL: nowhere else */
    Way *ways; /* all that it has ever gone. Under the install lock */
    struct Diversion *next; /* of the same hash */
} Diversion;

static Diversion *diversions[64];

static Diversion **
place_of(PyObject *function)
{
    return &diversions[((uint64_t)(uintptr_t)function * 0x9E3779B97F4A7C15u) >> (64 - 6)];
}

/* NULL: it was never diverted. */
static Diversion *
diversion_of(PyObject *function)
{
    Diversion *found = __atomic_load_n(place_of(function), __ATOMIC_ACQUIRE);
    while (found != NULL && found->function != function)
        found = found->next;
    return found;
}

static PyObject *
call_diverted(PyObject *function, PyObject *const *args, size_t nargsf, PyObject *names)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    Diversion *found = diversion_of(function);
    Way *way = __atomic_load_n(&found->way, __ATOMIC_ACQUIRE);
    if (way == NULL)
        return found->plain(function, args, nargsf, names);
    int is_original = plait_here.cooperative == NULL && way->original != NULL;
    return plait_deliver(PyObject_Vectorcall(is_original ? way->original : way->replacement, args, nargsf, names));
}

#if PY_VERSION_HEX < 0x030C0000
/* As a function is copied and pickled: by its name. */
static PyObject *
reduce(PyObject *function, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttrString(function, "__qualname__");
}

static PyMethodDef diverted_methods[] = {
    {"__reduce__", reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject diverted_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "function",
    .tp_base = &PyFunction_Type,
    .tp_basicsize = sizeof(PyFunctionObject),
    .tp_vectorcall_offset = offsetof(PyFunctionObject, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_methods = diverted_methods,
};
#endif

static void
set_call(PyObject *function, vectorcallfunc call)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#if PY_VERSION_HEX >= 0x030C0000
    PyFunction_SetVectorcall((PyFunctionObject *)function, call);
#else
    ((PyFunctionObject *)function)->vectorcall = call;
    Py_SET_TYPE(function, call == call_diverted ? &diverted_type : &PyFunction_Type);
#endif
}

/* A function that is new to the table. */
static Diversion *
enter_function(PyObject *function)
{
    Diversion *made = PyMem_RawCalloc(1, sizeof(Diversion));
    if (made == NULL)
        return NULL;
    Diversion **place = place_of(function);
    *made = (Diversion){Py_NewRef(function), ((PyFunctionObject *)function)->vectorcall, NULL, NULL, *place};
    __atomic_store_n(place, made, __ATOMIC_RELEASE);
    return made;
}

/* A way of `diversion`, which it may have gone before. */
static Way *
way_of(Diversion *diversion, PyObject *replacement, PyObject *original)
{
    Way *way = diversion->ways;
    while (way != NULL && !(way->replacement == replacement && way->original == original))
        way = way->next;
    if (way != NULL)
        return way;
    way = PyMem_RawCalloc(1, sizeof(Way));
    if (way == NULL)
        return NULL;
    *way = (Way){Py_NewRef(replacement), Py_XNewRef(original), diversion->ways};
    diversion->ways = way;
    return way;
}

/* Under the install lock of plait.patch. */
static PyObject *
divert(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *function, *replacement, *original;
    if (!PyArg_ParseTuple(args, "O!OO:divert", &PyFunction_Type, &function, &replacement, &original))
        return NULL;
    Diversion *diversion = diversion_of(function);
    if (diversion == NULL)
        diversion = enter_function(function);
    Way *way = diversion == NULL ? NULL : way_of(diversion, replacement, original == Py_None ? NULL : original);
    if (way == NULL)
        return PyErr_NoMemory();
    __atomic_store_n(&diversion->way, way, __ATOMIC_RELEASE);
    set_call(function, call_diverted);
    Py_RETURN_NONE;
}

/* Likewise. */
static PyObject *
undivert(PyObject *Py_UNUSED(module), PyObject *function)
{
    Diversion *diversion = diversion_of(function);
    if (diversion != NULL) {
        set_call(function, diversion->plain);
        __atomic_store_n(&diversion->way, NULL, __ATOMIC_RELEASE);
    }
    Py_RETURN_NONE;
}

static PyMethodDef diverted_functions[] = {
    {"divert", divert, METH_VARARGS,
     PyDoc_STR("divert(function, replacement, original or None): who calls the function calls one of them from now on.")},
    {"undivert", undivert, METH_O, PyDoc_STR("undivert(function): who calls the function calls it again.")},
    {NULL, NULL, 0, NULL},
};

int
plait_diverted_init(PyObject *module)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyType_Ready(&diverted_type) < 0)
        return -1;
    if (PyDict_DelItemString(diverted_type.tp_dict, "__doc__") < 0) /* the type's, in the way of the function's */
        return -1;
    PyType_Modified(&diverted_type);
#endif
    return PyModule_AddFunctions(module, diverted_functions);
}
