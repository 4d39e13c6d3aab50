/* A function with something before and after it, where something may park: without a frame, so that tracebacks, and those
 * who look at them, see what they have always seen. Elsewhere it is the function alone.
 */
#include "here.h"

/* `self` is (function, begin, end): end(begin()) is called when the function has returned, or raised. */
static PyObject *
call_around(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
{
    PyObject *function = PyTuple_GET_ITEM(self, 0);
    if (plait_here.cooperative == NULL || !plait_is_home())
        return PyObject_Vectorcall(function, args, n, names);
    PyObject *begun = PyObject_CallNoArgs(PyTuple_GET_ITEM(self, 1));
    if (begun == NULL)
        return NULL;
    PyObject *result = PyObject_Vectorcall(function, args, n, names);
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyObject *ended = PyObject_CallOneArg(PyTuple_GET_ITEM(self, 2), begun);
    Py_DECREF(begun);
    if (ended == NULL) {
        Py_CLEAR(result);
        Py_XDECREF(kind);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        return NULL;
    }
    Py_DECREF(ended);
    PyErr_Restore(kind, error, traceback);
    return result;
}

/* The text of an attribute, for as long as the process lives, as a method table does; NULL without an exception: it is none. */
static char *
text_of(PyObject *function, const char *name)
{
    PyObject *value = PyObject_GetAttrString(function, name);
    const char *text = value == NULL || !PyUnicode_Check(value) ? NULL : PyUnicode_AsUTF8(value);
    char *copy = text == NULL ? NULL : PyMem_RawMalloc(strlen(text) + 1);
    if (copy != NULL)
        strcpy(copy, text);
    Py_XDECREF(value);
    PyErr_Clear();
    return copy;
}

static PyObject *
around(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *function, *begin, *end;
    if (!PyArg_ParseTuple(args, "OOO:around", &function, &begin, &end))
        return NULL;
    PyMethodDef *def = PyMem_RawCalloc(1, sizeof(PyMethodDef));
    if (def == NULL)
        return PyErr_NoMemory();
    char *name = text_of(function, "__name__");
    def->ml_name = name == NULL ? "around" : name;
    def->ml_meth = (PyCFunction)(void (*)(void))call_around;
    def->ml_flags = METH_FASTCALL | METH_KEYWORDS;
    def->ml_doc = text_of(function, "__doc__");
    return PyCFunction_New(def, args);
}

static PyMethodDef around_functions[] = {
    {"around", around, METH_VARARGS,
     PyDoc_STR("around(function, begin, end): a builtin that calls the function, and end(begin()) after it where something may park.")},
    {NULL, NULL, 0, NULL},
};

int
plait_around_init(PyObject *module)
{
    return PyModule_AddFunctions(module, around_functions);
}
