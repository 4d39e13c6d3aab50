/* Numbers of descriptors that workers use.
 *
 * A worker is given the number that its caller was given, not a duplicate of its own: the kernel drops the record locks
 * (fcntl(2), lockf(3)) that a process has on a file whenever one of its descriptors for that file is closed, whichever
 * (docs/adr/0016). But a number may be closed, and lead to another file, before the worker comes to it. So it is held:
 *
 *     Caller:  hold(fd), then has a worker make the call
 *     Worker:  calls, then let_go(fd)
 *     Closer:  plait_close_held(fd): if it is held, puts a descriptor there on which all that moves bytes fails with EBADF
 *              (O_PATH). That closes the file, at once. The number stays taken until the last lets go, who closes it.
 * So a call that has begun goes on in its file, and one that comes later fails, as when the file had been closed before.
 * At the limit of descriptors there is none to put there: then the file stays, too, until the number is let go.
 *
 * dup2(2) onto a number that is held must put its file there and no other, so it waits until it is let go.
 *
 * All of it is under one mutex, of which nothing of Python knows: files are also closed by the collector, anywhere.
 * Neither the mutex nor a call of the kernel that may wait is waited for with the other.
 */
#include "here.h"
#include "holds.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int fd;
    int holders;
    int is_closed; /* it leads nowhere, or is about to */
} Hold;

int plait_holds;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t one_is_free = PTHREAD_COND_INITIALIZER;
static Hold *holds; /* `plait_holds` of them, in no order. Under the mutex */
static int room;    /* likewise */
static long era;    /* how many forks ago the first process began: what was held before the last one is the parent's */

/* The hold of `fd`; NULL if there is none. Under the mutex. */
static Hold *
find(int fd)
{
    for (int i = 0; i < plait_holds; i++) {
        if (holds[i].fd == fd)
            return &holds[i];
    }
    return NULL;
}

static int
hold(int fd)
{
    pthread_mutex_lock(&mutex);
    Hold *one = find(fd);
    if (one == NULL && plait_holds == room) {
        Hold *more = realloc(holds, (room * 2 + 8) * sizeof(Hold));
        if (more == NULL) {
            pthread_mutex_unlock(&mutex);
            return -1;
        }
        holds = more;
        room = room * 2 + 8;
    }
    if (one == NULL) {
        one = &holds[plait_holds];
        *one = (Hold){.fd = fd};
        __atomic_store_n(&plait_holds, plait_holds + 1, __ATOMIC_SEQ_CST);
    }
    one->holders++;
    pthread_mutex_unlock(&mutex);
    return 0;
}

static void
let_go(int fd)
{
    pthread_mutex_lock(&mutex);
    Hold *one = find(fd); /* it is there: the caller holds it */
    int is_last = --one->holders == 0;
    int is_closed = one->is_closed;
    if (is_last) {
        *one = holds[plait_holds - 1];
        __atomic_store_n(&plait_holds, plait_holds - 1, __ATOMIC_SEQ_CST);
        pthread_cond_broadcast(&one_is_free);
    }
    pthread_mutex_unlock(&mutex);
    if (is_last && is_closed)
        close(fd);
}

int
plait_close_held(int fd)
{
    if (fcntl(fd, F_GETFD) < 0)
        return 0; /* there is nothing to close */
    pthread_mutex_lock(&mutex);
    Hold *one = find(fd);
    int outcome = one == NULL ? 0 : one->is_closed ? -1 : 1;
    if (outcome > 0) {
        one->is_closed = 1;
        one->holders++;
    }
    pthread_mutex_unlock(&mutex);
    if (outcome > 0) {
        Py_BEGIN_ALLOW_THREADS
        int nowhere = open("/", O_PATH | O_CLOEXEC);
        if (nowhere >= 0) {
            dup3(nowhere, fd, O_CLOEXEC);
            close(nowhere);
        }
        let_go(fd);
        Py_END_ALLOW_THREADS
    }
    return outcome;
}

static int
number_in(PyObject *arg)
{
    int fd = (int)PyLong_AsLong(arg);
    return fd == -1 && PyErr_Occurred() ? -2 : fd;
}

static PyObject *
holds_hold(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = number_in(arg);
    if (fd == -2)
        return NULL;
    return hold(fd) < 0 ? PyErr_NoMemory() : PyLong_FromLong(era);
}

static PyObject *
holds_let_go(PyObject *Py_UNUSED(module), PyObject *args)
{
    int fd;
    long since;
    if (!PyArg_ParseTuple(args, "il:let_go", &fd, &since))
        return NULL;
    if (since == era) {
        Py_BEGIN_ALLOW_THREADS
        let_go(fd);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *
holds_close(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = number_in(arg);
    if (fd == -2)
        return NULL;
    int outcome = plait_close_held(fd);
    if (outcome >= 0)
        return PyBool_FromLong(outcome);
    errno = EBADF;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
holds_await(PyObject *Py_UNUSED(module), PyObject *arg)
{
    int fd = number_in(arg);
    if (fd == -2)
        return NULL;
    int is_held = 1;
    while (is_held) {
        Py_BEGIN_ALLOW_THREADS
        pthread_mutex_lock(&mutex);
        if (find(fd) != NULL) {
            struct timespec soon; /* a signal does not end this wait, and its handler shall have its turn */
            clock_gettime(CLOCK_REALTIME, &soon);
            soon.tv_nsec += 50000000;
            if (soon.tv_nsec >= 1000000000) {
                soon.tv_sec++;
                soon.tv_nsec -= 1000000000;
            }
            pthread_cond_timedwait(&one_is_free, &mutex, &soon);
        }
        is_held = find(fd) != NULL;
        pthread_mutex_unlock(&mutex);
        Py_END_ALLOW_THREADS
        if (is_held && PyErr_CheckSignals() < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
holds_held(PyObject *Py_UNUSED(module), PyObject *args)
{
    int low, high;
    if (!PyArg_ParseTuple(args, "ii:held", &low, &high))
        return NULL;
    PyObject *found = PyList_New(0);
    int after = low - 1;
    while (found != NULL) {
        int next = high; /* one at a time: nothing of Python is made under the mutex */
        pthread_mutex_lock(&mutex);
        for (int i = 0; i < plait_holds; i++) {
            if (after < holds[i].fd && holds[i].fd < next)
                next = holds[i].fd;
        }
        pthread_mutex_unlock(&mutex);
        if (next >= high)
            break;
        PyObject *number = PyLong_FromLong(next);
        if (number == NULL || PyList_Append(found, number) < 0)
            Py_CLEAR(found);
        Py_XDECREF(number);
        after = next;
    }
    return found;
}

static PyObject *
holds_reset(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    mutex = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    one_is_free = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    for (int i = 0; i < plait_holds; i++) {
        if (holds[i].is_closed)
            close(holds[i].fd);
    }
    plait_holds = 0;
    era++;
    Py_RETURN_NONE;
}

static PyMethodDef holds_functions[] = {
    {"hold", holds_hold, METH_O,
     PyDoc_STR("hold(fd): a worker will use this number, until it is let go; the era, which changes with a fork.")},
    {"let_go", holds_let_go, METH_VARARGS,
     PyDoc_STR("let_go(fd, era): it does so no more; once for each hold, and nothing in the child of a fork.")},
    {"close_held", holds_close, METH_O,
     PyDoc_STR("close_held(fd): if it is held, close the file, and the number when it is let go; else False.")},
    {"await_free", holds_await, METH_O, PyDoc_STR("await_free(fd): block until nobody holds it, or until a signal handler raises.")},
    {"held", holds_held, METH_VARARGS, PyDoc_STR("held(low, high): the held numbers among these, in order.")},
    {"reset_holds", holds_reset, METH_NOARGS, PyDoc_STR("There are no workers: in a child process after fork.")},
    {NULL, NULL, 0, NULL},
};

int
plait_holds_init(PyObject *module)
{
    return PyModule_AddFunctions(module, holds_functions);
}
