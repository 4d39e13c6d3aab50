/* Counts of references are written as they will be read. Included before everything else, by the command that compiles.
 *
 * In CPython 3.12 and 3.13 with a GIL, Py_INCREF stores the lower half of a count, and Py_DECREF loads the whole of it. A
 * processor cannot serve such a load from a store that is still on its way to memory, so a reference that is taken and given
 * back soon, as compiled code does all the time, waits until the store is through: ten times what the rest of the two
 * costs. Here both halves are stored, as CPython does up to 3.11. What the count says afterwards is the same in every case,
 * an immortal object's included, whose lower half an old extension may have made to overflow.
 *
 * From 3.14 on CPython loads what it stores; and free-threaded builds count in another way. There is nothing to do there.
 */
#ifndef PLAIT_COUNTS_H
#define PLAIT_COUNTS_H
#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN /* before Python.h, which a source cannot do any more */
#endif
#include <Python.h>

#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000 && SIZEOF_VOID_P > 4 && !defined(Py_GIL_DISABLED) &&    \
    !defined(Py_REF_DEBUG) && !defined(Py_STATS)
#include <stdint.h>

static inline Py_ALWAYS_INLINE void
plait_incref(PyObject *op)
{
    Py_ssize_t count = op->ob_refcnt;
    if ((uint32_t)count != UINT32_MAX) /* immortal */
        op->ob_refcnt = count + 1;
}

/* As CPython's; it is here to be merged with the other where both are about one object. */
static inline Py_ALWAYS_INLINE void
plait_decref(PyObject *op)
{
    Py_ssize_t count = op->ob_refcnt;
    if ((int32_t)count < 0) /* immortal */
        return;
    op->ob_refcnt = --count;
    if (count == 0)
        _Py_Dealloc(op);
}

static inline Py_ALWAYS_INLINE void
plait_xincref(PyObject *op)
{
    if (op != NULL)
        plait_incref(op);
}

static inline Py_ALWAYS_INLINE void
plait_xdecref(PyObject *op)
{
    if (op != NULL)
        plait_decref(op);
}

static inline Py_ALWAYS_INLINE PyObject *
plait_new_ref(PyObject *op)
{
    plait_incref(op);
    return op;
}

static inline Py_ALWAYS_INLINE PyObject *
plait_xnew_ref(PyObject *op)
{
    plait_xincref(op);
    return op;
}

#undef Py_INCREF
#undef Py_DECREF
#undef Py_XINCREF
#undef Py_XDECREF
#undef Py_NewRef
#undef Py_XNewRef
#define Py_INCREF(op) plait_incref(_PyObject_CAST(op))
#define Py_DECREF(op) plait_decref(_PyObject_CAST(op))
#define Py_XINCREF(op) plait_xincref(_PyObject_CAST(op))
#define Py_XDECREF(op) plait_xdecref(_PyObject_CAST(op))
#define Py_NewRef(op) plait_new_ref(_PyObject_CAST(op))
#define Py_XNewRef(op) plait_xnew_ref(_PyObject_CAST(op))
#endif
#endif
