/* Chunks: the memory in which CPython keeps the frames of a stack.
 *
 * CPython takes chunks of 16 KiB from its arena allocator: an mmap for each that is made, a munmap for each that ends.
 * For a parked thread the two cost more than all the rest of its end, and as many mappings as stacks can come apart, of
 * which Linux allows a process 65,530. So the chunks of that size come from a region of address space of their own, and
 * every other size from the allocator that was there before.
 *
 * The first chunk of a stack is a small one, from a second region (plait_chunk_lend). Most threads park with few frames:
 * two of them share a page then. What does not fit goes on in chunks of the usual size. CPython gives a first chunk never
 * back by itself, so who has lent it takes it back when the stack ends (plait_chunk_return); the first chunk of a stack
 * that is destroyed before comes back through the arena allocator, as all the others do.
 *
 *   fresh   never used: from `used` chunks on up to the end of the region
 *   warm    freed, and still in memory, WARM at most: taken first
 *   cold    freed, and given back to the system: so a storm of threads costs no memory once it is over
 *
 * What is given back is a *unit*: a chunk, or the page that small ones share, once all of them are cold. Units that get cold
 * one beside the other are given back by one call: [cold_from, cold_to) is still to be given back.
 *
 * Whoever gets a chunk from elsewhere, because there was no region yet or none is left, may return it here: what does
 * not lie in a region goes to the former allocator. Interpreters and free threads have no common lock of Python's, so
 * there is one here; it is taken for moments, and held by whoever forks.
 */
#include "here.h"
#include <pthread.h>
#include <sys/mman.h>

#define CHUNK ((size_t)16 * 1024)  /* DATA_STACK_CHUNK_SIZE in CPython's pystate.c */
#define FIRST ((size_t)2 * 1024)   /* for ten to fifteen frames */
#define CHUNKS ((size_t)1 << 20)   /* address space for a million stacks: 18 GiB, of which only what is used is memory */
#define WARM 1024
#define PAGE ((size_t)4 * 1024)    /* where pages are larger, madvise refuses, and small ones are not given back */
#define AT_ONCE ((size_t)4 << 20)  /* as much is given back by one call, at most */

/* Chunks of one size. All but `region`, which is set once, under chunks_lock. */
typedef struct {
    size_t size, unit;
    char *region;
    uint8_t *cold_in; /* how many chunks of each unit are cold; NULL where each is its own */
    size_t used;
    uint32_t warm[WARM];
    size_t warm_count;
    uint32_t *cold;
    size_t cold_count, cold_room;
    char *cold_from, *cold_to;
} Pool;

static pthread_mutex_t chunks_lock = PTHREAD_MUTEX_INITIALIZER;
static PyObjectArenaAllocator former;
static uint8_t cold_in_page[CHUNKS * FIRST / PAGE];
static Pool usual = {.size = CHUNK, .unit = CHUNK};
static Pool first = {.size = FIRST, .unit = PAGE, .cold_in = cold_in_page};

static void
give_back(Pool *pool)
{
    if (pool->cold_from != pool->cold_to)
        madvise(pool->cold_from, (size_t)(pool->cold_to - pool->cold_from), MADV_DONTNEED);
    pool->cold_from = pool->cold_to = NULL;
}

/* A cold chunk is used again: it must not be given back any more. */
static void
keep(Pool *pool, size_t number)
{
    size_t place = number * pool->size / pool->unit;
    if (pool->cold_in != NULL)
        pool->cold_in[place]--;
    char *unit = pool->region + place * pool->unit;
    if (unit < pool->cold_from || unit >= pool->cold_to)
        return;
    if (unit + pool->unit == pool->cold_to)
        pool->cold_to = unit;
    else if (unit == pool->cold_from)
        pool->cold_from += pool->unit;
    else
        give_back(pool);
}

/* A chunk is cold from now on: its unit is to be given back, if all of it is. */
static void
let_go(Pool *pool, size_t number)
{
    size_t place = number * pool->size / pool->unit;
    if (pool->cold_in != NULL && ++pool->cold_in[place] < pool->unit / pool->size)
        return;
    if ((size_t)(pool->cold_to - pool->cold_from) >= AT_ONCE)
        give_back(pool);
    /* Chunks that are used again come last freed first, so threads that end in order free them in either direction. */
    char *unit = pool->region + place * pool->unit;
    if (unit + pool->unit == pool->cold_from)
        pool->cold_from = unit;
    else {
        if (unit != pool->cold_to) {
            give_back(pool);
            pool->cold_from = unit;
        }
        pool->cold_to = unit + pool->unit;
    }
}

static char *
take(Pool *pool)
{
    char *chunk = NULL;
    pthread_mutex_lock(&chunks_lock);
    if (pool->region == NULL)
        ; /* there is none */
    else if (pool->warm_count > 0)
        chunk = pool->region + pool->warm[--pool->warm_count] * pool->size;
    else if (pool->cold_count > 0) {
        size_t number = pool->cold[--pool->cold_count];
        keep(pool, number);
        chunk = pool->region + number * pool->size;
    }
    else if (pool->used < CHUNKS)
        chunk = pool->region + pool->used++ * pool->size;
    pthread_mutex_unlock(&chunks_lock);
    return chunk;
}

/* 0 if the memory is not the pool's. */
static int
put(Pool *pool, char *chunk)
{
    if (pool->region == NULL || chunk < pool->region || chunk >= pool->region + CHUNKS * pool->size)
        return 0;
    uint32_t number = (uint32_t)((size_t)(chunk - pool->region) / pool->size);
    pthread_mutex_lock(&chunks_lock);
    if (pool->warm_count < WARM) {
        pool->warm[pool->warm_count++] = number;
        pthread_mutex_unlock(&chunks_lock);
        return 1;
    }
    let_go(pool, number);
    if (pool->cold_count == pool->cold_room) {
        size_t room = pool->cold_room ? 2 * pool->cold_room : WARM;
        uint32_t *more = PyMem_RawRealloc(pool->cold, room * sizeof *more);
        if (more == NULL) { /* nobody will use this chunk again, but its memory is given back */
            pthread_mutex_unlock(&chunks_lock);
            return 1;
        }
        pool->cold = more;
        pool->cold_room = room;
    }
    pool->cold[pool->cold_count++] = number;
    pthread_mutex_unlock(&chunks_lock);
    return 1;
}

static void *
chunk_alloc(void *Py_UNUSED(ctx), size_t size)
{
    char *chunk = size == CHUNK ? take(&usual) : NULL;
    return chunk != NULL ? chunk : former.alloc(former.ctx, size);
}

static void
chunk_free(void *Py_UNUSED(ctx), void *memory, size_t size)
{
    if (!put(&usual, memory) && !put(&first, memory))
        former.free(former.ctx, memory, size);
}

_PyStackChunk *
plait_chunk_lend(PyThreadState *ts)
{
    if (ts->datastack_chunk != NULL)
        return NULL; /* greenlet starts without one */
    _PyStackChunk *chunk = (_PyStackChunk *)take(&first);
    if (chunk == NULL)
        return NULL; /* CPython's own way has to do */
    chunk->previous = NULL;
    chunk->size = FIRST;
    chunk->top = 0;
    ts->datastack_chunk = chunk;
    ts->datastack_top = &chunk->data[1]; /* as CPython does, so that it never pops it */
    ts->datastack_limit = (PyObject **)((char *)chunk + FIRST);
    return chunk;
}

void
plait_chunk_return(PyThreadState *ts, _PyStackChunk *chunk)
{
    if (chunk == NULL || ts->datastack_chunk != chunk)
        return; /* none was lent, or there are frames left, which greenlet frees */
    ts->datastack_chunk = NULL;
    ts->datastack_top = NULL;
    ts->datastack_limit = NULL;
    put(&first, (char *)chunk);
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

static char *
reserve(size_t size)
{
    char *space = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        return NULL;
    madvise(space, size, MADV_NOHUGEPAGE); /* a huge page would hold 128 stacks in memory for one */
    return space;
}

void
plait_chunks_install(void)
{
    pthread_mutex_lock(&chunks_lock);
    if (usual.region == NULL) {
        /* Without so much address space, under a limit, CPython's own way has to do. */
        char *space = reserve(CHUNKS * (CHUNK + FIRST));
        if (space != NULL && pthread_atfork(before_fork, after_fork, after_fork) != 0)
            munmap(space, CHUNKS * (CHUNK + FIRST));
        else if (space != NULL) {
            usual.region = space;
            first.region = space + CHUNKS * CHUNK;
            PyObject_GetArenaAllocator(&former);
            PyObjectArenaAllocator ours = {NULL, chunk_alloc, chunk_free};
            PyObject_SetArenaAllocator(&ours);
        }
    }
    pthread_mutex_unlock(&chunks_lock);
}

/* chunk_counts() -> (used so far, free now) of the first ones: for tests and dumps. */
PyObject *
plait_chunk_counts(void)
{
    pthread_mutex_lock(&chunks_lock);
    size_t all = first.used, unused = first.warm_count + first.cold_count;
    pthread_mutex_unlock(&chunks_lock);
    return Py_BuildValue("nn", (Py_ssize_t)all, (Py_ssize_t)unused);
}
