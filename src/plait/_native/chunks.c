/* Chunks: the memory in which CPython keeps the frames of a stack.
 *
 * Every stack has one chunk of 16 KiB at least, which CPython takes from its arena allocator: an mmap for each that is
 * made, a munmap for each that ends. For a parked thread the two cost more than all the rest of its end, and as many
 * mappings as stacks can come apart, of which Linux allows a process 65,530. So the chunks of that size come from one
 * region of address space, and every other size from the allocator that was there before.
 *
 *   fresh   never used: from `used` chunks on up to the end of the region
 *   warm    freed, and still in memory, WARM at most: taken first
 *   cold    freed, and given back to the system: so a storm of threads costs no memory once it is over
 *
 * Chunks that get cold one beside the other are given back by one call: [cold_from, cold_to) is still to be given back.
 *
 * Whoever gets a chunk from elsewhere, because there was no region yet or none is left, may return it here: what does
 * not lie in the region goes to the former allocator. Interpreters and free threads have no common lock of Python's, so
 * there is one here; it is taken for moments, and held by whoever forks.
 */
#include "here.h"
#include <pthread.h>
#include <sys/mman.h>

#define CHUNK ((size_t)16 * 1024)  /* DATA_STACK_CHUNK_SIZE in CPython's pystate.c */
#define CHUNKS ((size_t)1 << 20)   /* address space for a million stacks: 16 GiB, of which only what is used is memory */
#define WARM 1024
#define AT_ONCE (256 * CHUNK)      /* as much is given back by one call, at most */

static pthread_mutex_t chunks_lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below but `region`, which is set once */
static PyObjectArenaAllocator former;
static char *region;
static size_t used;
static uint32_t warm[WARM];
static size_t warm_count;
static uint32_t *cold;
static size_t cold_count, cold_room;
static char *cold_from, *cold_to;

static void
give_back(void)
{
    if (cold_from != cold_to)
        madvise(cold_from, (size_t)(cold_to - cold_from), MADV_DONTNEED);
    cold_from = cold_to = NULL;
}

/* A cold chunk is used again: it must not be given back any more. */
static void
keep(char *chunk)
{
    if (chunk < cold_from || chunk >= cold_to)
        return;
    if (chunk + CHUNK == cold_to)
        cold_to = chunk;
    else if (chunk == cold_from)
        cold_from += CHUNK;
    else
        give_back();
}

static void *
chunk_alloc(void *Py_UNUSED(ctx), size_t size)
{
    char *chunk = NULL;
    if (size == CHUNK) {
        pthread_mutex_lock(&chunks_lock);
        if (warm_count > 0)
            chunk = region + warm[--warm_count] * CHUNK;
        else if (cold_count > 0)
            keep(chunk = region + cold[--cold_count] * CHUNK);
        else if (used < CHUNKS)
            chunk = region + used++ * CHUNK;
        pthread_mutex_unlock(&chunks_lock);
    }
    return chunk != NULL ? chunk : former.alloc(former.ctx, size);
}

static void
chunk_free(void *Py_UNUSED(ctx), void *memory, size_t size)
{
    char *chunk = memory;
    if (chunk < region || chunk >= region + CHUNKS * CHUNK) {
        former.free(former.ctx, memory, size);
        return;
    }
    uint32_t number = (uint32_t)((size_t)(chunk - region) / CHUNK);
    pthread_mutex_lock(&chunks_lock);
    if (warm_count < WARM) {
        warm[warm_count++] = number;
        pthread_mutex_unlock(&chunks_lock);
        return;
    }
    if ((size_t)(cold_to - cold_from) >= AT_ONCE)
        give_back();
    /* Chunks that are used again come last freed first, so threads that end in order free them in either direction. */
    if (chunk + CHUNK == cold_from)
        cold_from = chunk;
    else {
        if (chunk != cold_to) {
            give_back();
            cold_from = chunk;
        }
        cold_to = chunk + CHUNK;
    }
    if (cold_count == cold_room) {
        size_t room = cold_room ? 2 * cold_room : WARM;
        uint32_t *more = PyMem_RawRealloc(cold, room * sizeof *more);
        if (more == NULL) { /* nobody will use this chunk again, but its memory is given back */
            pthread_mutex_unlock(&chunks_lock);
            return;
        }
        cold = more;
        cold_room = room;
    }
    cold[cold_count++] = number;
    pthread_mutex_unlock(&chunks_lock);
}

static void
before_fork(void)
{
    pthread_mutex_lock(&chunks_lock);
}

static void
after_fork(void)
{
    pthread_mutex_unlock(&chunks_lock);
}

void
plait_chunks_install(void)
{
    pthread_mutex_lock(&chunks_lock);
    if (region == NULL) {
        char *space = mmap(NULL, CHUNKS * CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        /* Without so much address space, under a limit, CPython's own way has to do. */
        if (space != MAP_FAILED && pthread_atfork(before_fork, after_fork, after_fork) != 0)
            munmap(space, CHUNKS * CHUNK);
        else if (space != MAP_FAILED) {
            madvise(space, CHUNKS * CHUNK, MADV_NOHUGEPAGE); /* a huge page would hold 128 stacks in memory for one */
            region = space;
            PyObject_GetArenaAllocator(&former);
            PyObjectArenaAllocator ours = {NULL, chunk_alloc, chunk_free};
            PyObject_SetArenaAllocator(&ours);
        }
    }
    pthread_mutex_unlock(&chunks_lock);
}

/* chunk_counts() -> (used so far, free now): for tests and dumps. */
PyObject *
plait_chunk_counts(void)
{
    pthread_mutex_lock(&chunks_lock);
    size_t all = used, unused = warm_count + cold_count;
    pthread_mutex_unlock(&chunks_lock);
    return Py_BuildValue("nn", (Py_ssize_t)all, (Py_ssize_t)unused);
}
