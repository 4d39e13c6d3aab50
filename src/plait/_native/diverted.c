/* Functions of Python that are called elsewhere: to everybody who looks at one it is a function as any other, with the name,
 * the module, the code and the signature that it was made with; who calls it calls its replacement, and no frame is added.
 * Where nothing may park that may be the original, too, which is what such a function costs elsewhere: a call from C. See
 * docs/adr/0018.
 *
 * A function has a pointer to the C function by which it is called, and CPython goes by it, inlined or not (PEP 590; from
 * 3.12 on it may be set). 3.11 inlines every call of what is a function exactly: there it gets a type beneath, of the same
 * layout and name.
 *
 * Which replacement belongs to a function is told by a table; what is in it stays for ever, as somebody may have kept the
 * function. An entry is complete before it is published (release), and all before the function is called by way of it.
 */
#include "here.h"

#include <stddef.h> /* offsetof, which Python.h brings from 3.12 on */

typedef struct Diversion {
    PyObject *function;
    PyObject *replacement;
    PyObject *original; /* called instead where nothing may park; NULL: none */
    struct Diversion *next; /* of the same hash */
} Diversion;

static Diversion *diversions[64];

static Diversion **
place_of(PyObject *function)
{
    return &diversions[((uint64_t)(uintptr_t)function * 0x9E3779B97F4A7C15u) >> (64 - 6)];
}

static PyObject *
call_diverted(PyObject *function, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Diversion *found = __atomic_load_n(place_of(function), __ATOMIC_ACQUIRE);
    while (found->function != function)
        found = found->next;
    int is_original = plait_here.cooperative == NULL && found->original != NULL;
    return PyObject_Vectorcall(is_original ? found->original : found->replacement, args, nargsf, names);
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

/* Under the install lock of plait.patch. */
static PyObject *
divert(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *function, *replacement, *original;
    if (!PyArg_ParseTuple(args, "O!OO:divert", &PyFunction_Type, &function, &replacement, &original))
        return NULL;
    Diversion *made = PyMem_RawMalloc(sizeof(Diversion));
    if (made == NULL)
        return PyErr_NoMemory();
    Diversion **place = place_of(function);
    *made = (Diversion){Py_NewRef(function), Py_NewRef(replacement), NULL, *place};
    if (original != Py_None)
        made->original = Py_NewRef(original);
    __atomic_store_n(place, made, __ATOMIC_RELEASE);
#if PY_VERSION_HEX >= 0x030C0000
    PyFunction_SetVectorcall((PyFunctionObject *)function, call_diverted);
#else
    ((PyFunctionObject *)function)->vectorcall = call_diverted;
    Py_SET_TYPE(function, &diverted_type);
#endif
    Py_RETURN_NONE;
}

static PyMethodDef diverted_functions[] = {
    {"divert", divert, METH_VARARGS,
     PyDoc_STR("divert(function, replacement, original or None): who calls the function, which is new, calls one of them; for ever.")},
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
