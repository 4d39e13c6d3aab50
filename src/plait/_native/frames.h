/* Suspended frames, shown to the collector where CPython and greenlet do not: free-threaded 3.14. See frames.c. */
#ifndef PLAIT_FRAMES_H
#define PLAIT_FRAMES_H

#include <Python.h>

#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX >= 0x030E0000 && PY_VERSION_HEX < 0x030F0000
#define PLAIT_VISITS_FRAMES 1
void *plait_frames_top(PyThreadState *ts);
int plait_frames_visit(void *top, visitproc visit, void *arg);
#else
#define PLAIT_VISITS_FRAMES 0
static inline void *plait_frames_top(PyThreadState *ts) { (void)ts; return NULL; }
static inline int plait_frames_visit(void *top, visitproc visit, void *arg)
{ (void)top; (void)visit; (void)arg; return 0; }
#endif

#endif
