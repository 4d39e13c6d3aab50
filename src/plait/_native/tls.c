/* _ssl._SSLSocket, opened: one attempt at an operation on a TLS connection that does not wait, though its socket may.
 *
 * Its read, write, do_handshake and shutdown look at the timeout of their socket, and wait in C by it. The timeout
 * belongs to the socket object and its descriptor to the open file; other threads use both. So an attempt is made on a
 * stand-in: a second _SSLSocket over the same SSL, which lives as long as the call and refers to another socket, one
 * whose timeout is 0. The connection's own objects are not touched, and whoever uses them meanwhile sees no difference.
 * Where the descriptor is in blocking mode, it leaves that for the length of the attempt; CPython's loops, on a platform
 * thread that meets the moment, take EAGAIN for a reason to try again.
 *
 * The words of an _SSLSocket after the object header, from 3.11 to 3.15; what follows is another's:
 *   Socket       weak reference to the socket; NULL over memory BIOs, which never wait
 *   ssl          OpenSSL's object. The stand-in borrows it
 *   ctx          the context; may be replaced during a handshake, so the stand-in holds the one it began with
 *   shutdown_seen_zero, socket_type
 *   owner, server_hostname
 *   got_eof_error  (from 3.15 on, in place of the next two) the stream has broken off, and every call says so from then on
 *   err          of the last call
 *   exc          (3.11: three words) what a callback has raised. OpenSSL leads callbacks to the connection's own object,
 *                not to the stand-in: it is fetched there, once the operation is over. From 3.15 on the call ends with it,
 *                or, where it would have waited, with an error that says so and has it for its context
 *   tstate_mutex (some releases of 3.13 and 3.14) held for the length of a call, even if that waits. The stand-in's is free
 * tls_prepare() looks at a fresh object, and plait.patch leaves the leaves alone if it looks different.
 */
#include "here.h"

#include <fcntl.h>

typedef struct {
    PyObject_HEAD
    PyObject *socket;
    void *ssl;
    PyObject *context;
    char has_seen_zero;
    int side;
    PyObject *owner;
    PyObject *hostname;
#if PY_VERSION_HEX >= 0x030F0000
    int is_broken_off;
#else
    int error[2];
    PyObject *raised;
#endif
#if PY_VERSION_HEX < 0x030C0000
    PyObject *raised_value;
    PyObject *raised_traceback;
#endif
} TlsWords;

static PyObject *quiet; /* a weak reference to `quiet_socket` */
static PyObject *quiet_socket; /* no socket at all: its timeout is 0, and its descriptor a number that none has */
static PyObject *wants; /* the exceptions of an attempt that would have waited: a tuple */

#if PY_VERSION_HEX < 0x030D0000
#define Py_BEGIN_CRITICAL_SECTION(object) {
#define Py_END_CRITICAL_SECTION() }
#endif

static PyObject *
tls_prepare(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *tls, *context, *owner, *hostname, *sock, *exceptions;
    if (!PyArg_ParseTuple(args, "OOOOOO!:tls_prepare", &tls, &context, &owner, &hostname, &sock, &PyTuple_Type,
                          &exceptions))
        return NULL;
    TlsWords *words = (TlsWords *)tls;
    Py_ssize_t size = Py_TYPE(tls)->tp_basicsize;
    if (size != sizeof(TlsWords) && size != sizeof(TlsWords) + sizeof(void *))
        Py_RETURN_FALSE;
#if PY_VERSION_HEX >= 0x030F0000
    int has_failed = words->is_broken_off;
#else
    int has_failed = words->raised != NULL || words->error[0];
#endif
    if (words->socket != NULL || words->context != context || has_failed || words->has_seen_zero ||
        words->owner == NULL || !PyWeakref_CheckRef(words->owner) || words->hostname == NULL ||
        !PyUnicode_Check(words->hostname))
        Py_RETURN_FALSE;
    PyObject *same = PyObject_CallNoArgs(words->owner);
    if (same == NULL)
        return NULL;
    int is_known = same == owner && PyUnicode_Compare(words->hostname, hostname) == 0;
    Py_DECREF(same);
    if (!is_known)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    PyObject *reference = PyWeakref_NewRef(sock, NULL);
    if (reference == NULL)
        return NULL;
    if (!plait_socket_quieten(sock)) {
        Py_DECREF(reference);
        Py_RETURN_FALSE;
    }
    /* For as long as the process: the number must never be closed. */
    quiet = reference;
    quiet_socket = Py_NewRef(sock);
    wants = Py_NewRef(exceptions);
    Py_RETURN_TRUE;
}

static PyObject *
tls_socket(PyObject *Py_UNUSED(module), PyObject *tls)
{
    PyObject *reference = ((TlsWords *)tls)->socket; /* written once, before anybody has the object */
    return reference == NULL ? Py_NewRef(Py_None) : PyObject_CallNoArgs(reference);
}

#if PY_VERSION_HEX >= 0x030F0000

/* What a callback has raised ends an attempt that would have waited. */
static PyObject *
with_raised(TlsWords *Py_UNUSED(tls), PyObject *result)
{
    if (result != NULL || !PyErr_ExceptionMatches(wants))
        return result;
    PyObject *error = PyErr_GetRaisedException(), *handled = PyErr_GetHandledException();
    PyObject *raised = PyException_GetContext(error); /* or what is being handled here anyway */
    if (raised != NULL && raised != handled)
        Py_SETREF(error, Py_NewRef(raised));
    Py_XDECREF(raised);
    Py_XDECREF(handled);
    PyErr_SetRaisedException(error);
    return NULL;
}

#else

/* What a callback has raised belongs to `result`, if that is final: it takes its place, or becomes its context. */
static PyObject *
with_raised(TlsWords *tls, PyObject *result)
{
    PyObject *raised;
    if (result == NULL && PyErr_ExceptionMatches(wants))
        return NULL;
    Py_BEGIN_CRITICAL_SECTION((PyObject *)tls);
    raised = tls->raised;
    tls->raised = NULL;
    Py_END_CRITICAL_SECTION();
    if (raised == NULL)
        return result;
#if PY_VERSION_HEX < 0x030C0000
    PyObject *value = tls->raised_value, *traceback = tls->raised_traceback;
    tls->raised_value = tls->raised_traceback = NULL;
    if (result != NULL)
        PyErr_Restore(raised, value, traceback);
    else
        _PyErr_ChainExceptions(raised, value, traceback);
#else
    if (result != NULL)
        PyErr_SetRaisedException(raised);
    else {
        PyObject *error = PyErr_GetRaisedException();
        PyException_SetContext(error, raised);
        PyErr_SetRaisedException(error);
    }
#endif
    Py_XDECREF(result);
    return NULL;
}

#endif

#define MOST_ARGUMENTS 2

static PyObject *
tls_attempt(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count < 3 || count > 3 + MOST_ARGUMENTS) {
        PyErr_SetString(PyExc_TypeError, "tls_attempt() takes method, connection, socket, and what the method takes");
        return NULL;
    }
    TlsWords *tls = (TlsWords *)args[1];
    PyObject *sock = args[2];
    int fd = plait_socket_fd(sock);
    if (fd == -2)
        return NULL;
    PyTypeObject *type = Py_TYPE(tls);
    TlsWords *stand_in = (TlsWords *)type->tp_alloc(type, 0);
    if (stand_in == NULL)
        return NULL;
    PyObject_GC_UnTrack(stand_in);
    stand_in->socket = Py_NewRef(quiet);
    Py_BEGIN_CRITICAL_SECTION(args[1]);
    stand_in->ssl = tls->ssl;
    stand_in->context = Py_XNewRef(tls->context);
    stand_in->has_seen_zero = tls->has_seen_zero;
    stand_in->side = tls->side;
    stand_in->owner = Py_XNewRef(tls->owner);
    stand_in->hostname = Py_XNewRef(tls->hostname);
#if PY_VERSION_HEX >= 0x030F0000
    stand_in->is_broken_off = tls->is_broken_off;
#endif
    Py_END_CRITICAL_SECTION();

    PyObject *all[1 + MOST_ARGUMENTS];
    all[0] = (PyObject *)stand_in;
    for (Py_ssize_t i = 3; i < count; i++)
        all[i - 2] = args[i];
    int mode = fcntl(fd, F_GETFL);
    int has_left = mode >= 0 && !(mode & O_NONBLOCK) && fcntl(fd, F_SETFL, mode | O_NONBLOCK) == 0;
    PyObject *result = PyObject_Vectorcall(args[0], all, count - 2, NULL);
    /* Unless it was closed, or got a timeout, meanwhile: a callback may have run, and another thread. */
    if (has_left && plait_socket_blocks(sock, fd))
        fcntl(fd, F_SETFL, mode);

    if (stand_in->has_seen_zero)
        tls->has_seen_zero = 1;
#if PY_VERSION_HEX >= 0x030F0000
    if (stand_in->is_broken_off)
        tls->is_broken_off = 1;
#endif
    stand_in->ssl = NULL;
    result = with_raised(tls, result);
    Py_DECREF(stand_in);
    return result;
}

static PyMethodDef tls_functions[] = {
    {"tls_prepare", tls_prepare, METH_VARARGS,
     PyDoc_STR("tls_prepare(connection, context, owner, hostname, sock, exceptions): whether a fresh connection over "
               "memory BIOs looks as it should. `sock` is a closed one, given away; `exceptions` are those of attempts that "
               "would have waited. Once.")},
    {"tls_socket", tls_socket, METH_O, PyDoc_STR("tls_socket(connection): its socket; None if there is none.")},
    {"tls_attempt", (PyCFunction)(void (*)(void))tls_attempt, METH_FASTCALL,
     PyDoc_STR("tls_attempt(method, connection, socket, *args): call an original method without waiting.")},
    {NULL, NULL, 0, NULL},
};

int
plait_tls_init(PyObject *module)
{
    return PyModule_AddFunctions(module, tls_functions);
}
