/* The hash of builtin functions and methods, which CPython makes of the pointer in their table entry.
 *
 * That pointer is what leaf.c replaces; so whoever has such an object as a key would not find it again. While leaves are
 * in place the hash is made of what the entry held before: CPython's own function is given a copy with that pointer.
 */
#include "here.h"

static hashfunc original;

static Py_hash_t
hash_as_before(PyObject *self)
{
    PyCFunctionObject *function = (PyCFunctionObject *)self;
    PyCFunction before = plait_leaf_before(function->m_ml);
    if (before == NULL)
        return original(self);
    PyMethodDef def = *function->m_ml;
    PyCFunctionObject copy = *function;
    def.ml_meth = before;
    copy.m_ml = &def;
    return original((PyObject *)&copy);
}

static void
replace(PyTypeObject *cls, hashfunc from, hashfunc to)
{
    if (cls->tp_hash == from)
        __atomic_store_n(&cls->tp_hash, to, __ATOMIC_RELEASE);
}

/* hashes_replace(__hash__ of the builtin functions' type, is_on). Under the install lock of plait.patch. */
static PyObject *
hashes_replace(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyWrapperDescrObject *descriptor;
    int is_on;
    if (!PyArg_ParseTuple(args, "O!p:hashes_replace", &PyWrapperDescr_Type, &descriptor, &is_on))
        return NULL;
    if (original == NULL)
        original = PyCFunction_Type.tp_hash;
    hashfunc from = is_on ? original : hash_as_before;
    hashfunc to = is_on ? hash_as_before : original;
    replace(&PyCFunction_Type, from, to);
    replace(&PyCMethod_Type, from, to);
    if (descriptor->d_wrapped == (void *)from)
        __atomic_store_n(&descriptor->d_wrapped, (void *)to, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

static PyMethodDef hashes_functions[] = {
    {"hashes_replace", hashes_replace, METH_VARARGS,
     PyDoc_STR("hashes_replace(__hash__, is_on): whether builtin functions that are leaves keep their hash.")},
    {NULL, NULL, 0, NULL},
};

int
plait_hashes_init(PyObject *module)
{
    return PyModule_AddFunctions(module, hashes_functions);
}
