/* Numbers of descriptors that workers use: see holds.c. */
#ifndef PLAIT_HOLDS_H
#define PLAIT_HOLDS_H

extern int plait_holds __attribute__((visibility("hidden"))); /* how many numbers are held; read without the mutex */

/* `fd` is to be closed: 0 if nobody holds it; 1 if it leads nowhere now, and is closed for good when it is let go; -1 if
 * it was closed in that way before. */
int plait_close_held(int fd);

#endif
