/* The frames of a suspended stack, visited as the collector of free-threaded 3.14 would visit running ones.
 *
 * The function that visits a frame with the right treatment of deferred references is private, but PyFrame_Type's
 * tp_traverse calls it for a frame that its frame object owns. So each frame of the chain is dressed, for the length of
 * one visit, as the frame of a blank frame object. Nobody can see the disguise: the free-threaded collector stops the
 * world. The chain holds only frames that Python code owns: greenlet has spliced the C entry frames out of it.
 */
#include "frames.h"

#if PLAIT_VISITS_FRAMES
#define Py_BUILD_CORE 1
#include "internal/pycore_frame.h"
#include "internal/pycore_interpframe_structs.h"
#undef Py_BUILD_CORE

void *
plait_frames_top(PyThreadState *ts)
{
    return ts->current_frame;
}

int
plait_frames_visit(void *top, visitproc visit, void *arg)
{
    for (_PyInterpreterFrame *frame = top; frame != NULL; frame = frame->previous) {
        if (frame->owner != FRAME_OWNED_BY_THREAD)
            continue;
        PyFrameObject shown = {.f_frame = frame};
        char owner = frame->owner;
        PyFrameObject *frame_object = frame->frame_obj;
        frame->owner = FRAME_OWNED_BY_FRAME_OBJECT;
        frame->frame_obj = NULL;
        int stop = PyFrame_Type.tp_traverse((PyObject *)&shown, visit, arg);
        frame->frame_obj = frame_object;
        frame->owner = owner;
        if (stop)
            return stop;
    }
    return 0;
}
#endif
