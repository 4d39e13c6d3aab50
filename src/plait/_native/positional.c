/* A method that takes (self, first, *args, **kwargs), and whose calls come without keywords, nearly all: for those a function
 * of C is called, as (self, first, args), and no dict is made that stays empty. That saves a tenth of a spawn.
 *
 * To everybody who looks at the method it is what it was. It is called by a pointer in the object (PEP 590), which is set
 * once, before the method can be called.
 */
#include "here.h"

static PyObject *(*of_positionals)(PyObject *, PyObject *, PyObject *); /* for calls without keywords */
static vectorcallfunc with_keywords; /* how the method is called by itself */

static PyObject *
call_positional(PyObject *method, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Py_ssize_t size = PyVectorcall_NARGS(nargsf);
    if (names != NULL || size < 2)
        return with_keywords(method, args, nargsf, names);
    PyObject *rest = PyTuple_New(size - 2);
    if (rest == NULL)
        return NULL;
    for (Py_ssize_t place = 2; place < size; place++)
        PyTuple_SET_ITEM(rest, place - 2, Py_NewRef(args[place]));
    PyObject *done = of_positionals(args[0], args[1], rest);
    Py_DECREF(rest);
    return done;
}

void
plait_take_positionals(PyObject *method, PyObject *(*function)(PyObject *, PyObject *, PyObject *))
{
    Py_ssize_t offset = Py_TYPE(method)->tp_vectorcall_offset;
    if (offset <= 0 || PyFunction_Check(method) || of_positionals != NULL)
        return;
    vectorcallfunc *way = (vectorcallfunc *)((char *)method + offset);
    with_keywords = *way;
    of_positionals = function;
    *way = call_positional;
}
