/* The yardstick of the switch benchmark: PyGreenlet_Switch, and as little else as can be.
 *
 *     pair(first, second)   remember two greenlets, of which the first will be running
 *     pause(_)              switch from the one of them that calls it to the other
 *     race(yields)          two greenlets that switch to each other in C, without any Python frame; the nanoseconds they took
 *
 * _switch.py compiles and imports it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <greenlet/greenlet.h>
#include <time.h>

static PyGreenlet *players[2];
static int running;
static long left; /* switches that race() still has to make */

static int switch_to_other(void)
{
    running ^= 1;
    PyObject *passed = PyGreenlet_Switch(players[running], NULL, NULL);
    if (passed == NULL)
        return -1;
    Py_DECREF(passed);
    return 0;
}

static PyObject *pair(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *first, *second;
    if (!PyArg_ParseTuple(args, "O!O!", &PyGreenlet_Type, &first, &PyGreenlet_Type, &second))
        return NULL;
    Py_XSETREF(players[0], (PyGreenlet *)Py_NewRef(first));
    Py_XSETREF(players[1], (PyGreenlet *)Py_NewRef(second));
    running = 0;
    Py_RETURN_NONE;
}

static PyObject *pause_(PyObject *module, PyObject *seconds)
{
    (void)module;
    (void)seconds;
    if (switch_to_other() < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *play(PyObject *module, PyObject *ignored)
{
    (void)module;
    (void)ignored;
    while (left > 0) {
        left--;
        if (switch_to_other() < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef play_method = {"play", play, METH_NOARGS, NULL};

static PyObject *race(PyObject *module, PyObject *number)
{
    long yields = PyLong_AsLong(number);
    if (yields == -1 && PyErr_Occurred())
        return NULL;
    PyObject *function = PyCFunction_New(&play_method, module);
    if (function == NULL)
        return NULL;
    for (int player = 0; player < 2; player++) {
        PyGreenlet *made = PyGreenlet_New(function, NULL);
        if (made == NULL) {
            Py_DECREF(function);
            return NULL;
        }
        Py_XSETREF(players[player], made);
    }
    Py_DECREF(function);
    struct timespec start, end;
    running = 0;
    left = yields;
    clock_gettime(CLOCK_MONOTONIC, &start);
    PyObject *passed = PyGreenlet_Switch(players[0], NULL, NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (passed == NULL)
        return NULL;
    Py_DECREF(passed);
    return PyLong_FromLongLong((end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec);
}

static PyMethodDef methods[] = {
    {"pair", pair, METH_VARARGS, NULL},
    {"pause", pause_, METH_O, NULL},
    {"race", race, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module)
{
    (void)module;
    PyGreenlet_Import();
    return _PyGreenlet_API == NULL ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, prepare},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_switch", .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__switch(void)
{
    return PyModuleDef_Init(&definition);
}
