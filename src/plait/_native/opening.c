/* FileIO.__init__, which is where open() waits: a slot, not a method, so it has a trampoline of its own.
 *
 * The slot of the type and its `__init__` are replaced as the leaves of leaf.c are: the original pointer is stored before
 * ours is published, and ours is harmless for ever. Subclasses take the slot over when they are made; those that were made
 * before are looked for, after FileIO itself has changed, so that whoever is made meanwhile has it from there.
 */
#include "here.h"

static initproc original;
static PyObject *replacement; /* replacement(file, args, kwargs or None) */

static int
open_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    if (plait_here.cooperative == NULL || (PyTuple_GET_SIZE(args) && PyLong_Check(PyTuple_GET_ITEM(args, 0))))
        return original(self, args, kwargs); /* a descriptor is open: there is nothing to wait for */
    PyObject *done = PyObject_CallFunctionObjArgs(replacement, self, args, kwargs ? kwargs : Py_None, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
opening_call(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *self, *positional, *named;
    if (!PyArg_ParseTuple(args, "OO!O!:opening_call", &self, &PyTuple_Type, &positional, &PyDict_Type, &named))
        return NULL;
    if (original(self, positional, named) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void
replace_slot(PyTypeObject *cls, initproc from, initproc to)
{
    if (cls->tp_init == from)
        __atomic_store_n(&cls->tp_init, to, __ATOMIC_RELEASE);
}

/* In all that are made of `cls`, also by way of those that have an `__init__` of their own. */
static int
replace_in_subclasses(PyTypeObject *cls, initproc from, initproc to)
{
    PyObject *made = PyObject_CallMethod((PyObject *)&PyType_Type, "__subclasses__", "O", cls);
    if (made == NULL)
        return -1;
    int status = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(made) && status == 0; i++) {
        PyTypeObject *subclass = (PyTypeObject *)PyList_GET_ITEM(made, i);
        replace_slot(subclass, from, to);
        status = replace_in_subclasses(subclass, from, to);
    }
    Py_DECREF(made);
    return status;
}

/* Under the install lock of plait.patch. */
static PyObject *
opening_replace(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *type, *descriptor, *callable;
    if (!PyArg_ParseTuple(args, "O!O!O:opening_replace", &PyType_Type, &type, &PyWrapperDescr_Type, &descriptor, &callable))
        return NULL;
    PyTypeObject *cls = (PyTypeObject *)type;
    if (original == NULL)
        original = cls->tp_init;
    int is_on = callable != Py_None;
    if (is_on && replacement == NULL)
        replacement = Py_NewRef(callable); /* for ever: a thread may be about to call it */
    initproc from = is_on ? original : open_init;
    initproc to = is_on ? open_init : original;
    replace_slot(cls, from, to);
    PyWrapperDescrObject *wrapper = (PyWrapperDescrObject *)descriptor;
    if (wrapper->d_wrapped == (void *)from)
        __atomic_store_n(&wrapper->d_wrapped, (void *)to, __ATOMIC_RELEASE);
    if (replace_in_subclasses(cls, from, to) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef opening_functions[] = {
    {"opening_call", opening_call, METH_VARARGS, PyDoc_STR("opening_call(file, args, kwargs): the original __init__.")},
    {"opening_replace", opening_replace, METH_VARARGS,
     PyDoc_STR("opening_replace(FileIO, __init__, replacement or None): None puts the original back.")},
    {NULL, NULL, 0, NULL},
};

int
plait_opening_init(PyObject *module)
{
    return PyModule_AddFunctions(module, opening_functions);
}
