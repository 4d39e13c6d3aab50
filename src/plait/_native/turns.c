/* Turns: how long a virtual thread may go on from leaf to leaf when none of them has to wait.
 *
 * Threads of a carrier change where one waits. Who reads from a peer that is always faster, or polls with a timeout of
 * zero, calls leaves and never has to, and all others of its carrier would stand still: their sleeps, their timeouts, the
 * failure that is to end this very thread. So every 16th call of a leaf looks at the clock, and who has been at work for a
 * turn lets all who are due go first, before the leaf does anything: it is as if the thread had been interrupted in front
 * of the call. `give_way`, a hook, does it.
 *
 * A thread's turn begins at its first look; whoever is switched to begins afresh (`turn_end`). So who has to wait now and
 * then comes to the clock now and then, and never gives way. Nothing is counted, and nobody gives way, where nothing may
 * park: under a lock of the core, in a collection, while a wait is announced. Nor does a thread give
 * way that loads a module while the import lock is held (patch/_imports.py).
 *
 * Not covered: what calls no leaf. Python's own switches between kernel threads go on meanwhile, but a carrier is one.
 */
#include "here.h"

#include <time.h>

#define TURN 10000000 /* nanoseconds */

static PyObject *give_way; /* the hook: (thread) -> None; NULL until there is one */

int
plait_turn_look(void)
{
    if (plait_here.running == NULL || plait_here.cooperative == NULL || give_way == NULL)
        return 0;
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    int64_t now = (int64_t)moment.tv_sec * 1000000000 + moment.tv_nsec;
    if (plait_here.turn_end == 0)
        plait_here.turn_end = now + TURN;
    if (now < plait_here.turn_end)
        return 0;
    plait_here.turn_end = 0;
    PyObject *done = PyObject_CallOneArg(give_way, plait_here.cooperative);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
set_give_way(PyObject *Py_UNUSED(module), PyObject *hook)
{
    Py_XSETREF(give_way, Py_NewRef(hook));
    Py_RETURN_NONE;
}

static PyMethodDef turns_functions[] = {
    {"set_give_way", set_give_way, METH_O,
     PyDoc_STR("set_give_way(hook): what lets others go first when a turn is over, called with the thread.")},
    {NULL, NULL, 0, NULL},
};

int
plait_turns_init(PyObject *module)
{
    return PyModule_AddFunctions(module, turns_functions);
}
