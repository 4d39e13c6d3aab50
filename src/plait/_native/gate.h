/* The gate of a Buffered object: see gate.c. */
#ifndef PLAIT_GATE_H
#define PLAIT_GATE_H

#include "here.h"
#include <stddef.h>
#include <stdint.h>

#define GATE_TURN 0x8000u /* somebody has the turn; the other bits count the kernel threads inside without one */

/* What precedes the lock's words in CPython's `buffered`. `gate` is two of three bytes of padding there. */
typedef struct {
    PyObject_HEAD
    PyObject *raw;
    int ok;
    int detached;
    int readable;
    int writable;
    char finalizing;
    uint16_t gate;
    int fast_closed_checks;
    int64_t abs_pos;
    char *buffer;
    int64_t pos;
    int64_t raw_pos;
    int64_t read_end;
    int64_t write_pos;
    int64_t write_end;
    void *lock;
    unsigned long owner;
} BufferedWords;

_Static_assert(offsetof(BufferedWords, gate) == sizeof(PyObject) + 26, "the gate lies in the padding");

/* A turn that somebody has, from its begin to its end. */
typedef struct Turn {
    PyObject *file;     /* both borrowed: the call that this is the turn of keeps them alive */
    PyObject *who;
    struct Turn *next;  /* the others of this bucket */
    struct Turn **from; /* what leads here; NULL: in a child process, where nobody has it any more */
} Turn;

/* Before a call of who may need a turn: -1 with an exception, 0 if it goes straight in, 1 if this is its turn. Parks. */
int plait_gate_begin(PyObject *file, Turn **turn);

/* After it; gives the result of the call. `turn` is NULL if it had none. */
PyObject *plait_gate_end(Turn *turn, PyObject *result);

/* Go in without a turn; 0 while somebody has it. */
static inline int
plait_gate_enter(PyObject *self)
{
    uint16_t *gate = &((BufferedWords *)self)->gate;
#ifdef Py_GIL_DISABLED
    uint16_t seen = __atomic_load_n(gate, __ATOMIC_RELAXED);
    do {
        if (seen & GATE_TURN)
            return 0;
    } while (!__atomic_compare_exchange_n(gate, &seen, seen + 1, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
#else
    if (*gate & GATE_TURN)
        return 0;
    ++*gate;
#endif
    return 1;
}

/* Come out again; whether nobody is inside any more. */
static inline int
plait_gate_leave(PyObject *self)
{
    uint16_t *gate = &((BufferedWords *)self)->gate;
#ifdef Py_GIL_DISABLED
    return __atomic_sub_fetch(gate, 1, __ATOMIC_SEQ_CST) == 0;
#else
    return --*gate == 0;
#endif
}

void plait_gate_wake(PyObject *self);

/* Come out, and tell who waits outside; gives the result of the call. */
static inline PyObject *
plait_gate_left(PyObject *self, PyObject *result)
{
    if (plait_gate_leave(self) && plait_lot_is_busy((uintptr_t)self))
        plait_gate_wake(self);
    return result;
}

#endif
