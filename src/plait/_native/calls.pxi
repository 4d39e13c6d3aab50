# ---- system calls that do not wait ---------------------------------------------------------------------------------
# Each returns None where the call would have waited. The GIL is kept: they take a microsecond, and giving it away in
# each would cost more than they do. Reads and writes of more than LARGE bytes, which take as long as copying them, give it.

cdef enum:
    LARGE = 1 << 16

cdef int fail() except -1:
    PyErr_SetFromErrno(OSError)
    return -1


cdef inline bint would_wait() noexcept:
    return errno == EAGAIN  # EWOULDBLOCK is the same number on Linux


cpdef int socket_fd(sock) except -2:
    """As `sock.fileno()`."""
    return plait_socket_fd(sock)


cpdef socket_timeout(sock):
    """As `sock.gettimeout()`."""
    return plait_socket_timeout(sock)


cpdef Py_ssize_t size_of(data) except -1:
    """How many bytes a bytes-like object has. Refuses others in the words of CPython's own argument parser."""
    cdef Py_buffer view
    if type(data) is bytes:
        return len(<bytes>data)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef Py_ssize_t size = view.len
    PyBuffer_Release(&view)
    return size


def address_of(data):
    """Where a bytes-like object has its bytes."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef size_t address = <size_t>view.buf
    PyBuffer_Release(&view)
    return address


cdef extern from "Python.h":
    int PyArg_Parse(object, const char *, ...) except 0

cdef object no_flags = 0


cpdef int flags_of(flags) except? -1:
    """The flags of a call on a socket. Refuses others in the words of CPython's own argument parser."""
    cdef int bits = 0
    if flags is not no_flags:
        PyArg_Parse(flags, b"i", &bits)
    return bits


cpdef Py_ssize_t room_in(buffer, Py_ssize_t size) except -1:
    """How many bytes recv_into() shall put into `buffer`: `size`, or as many as fit if that is 0. Refuses as it does."""
    cdef Py_buffer view
    try:
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    except (TypeError, BufferError):
        kind = "None" if buffer is None else type(buffer).__name__
        raise TypeError(f"recv_into() argument 1 must be read-write bytes-like object, not {kind}") from None
    cdef Py_ssize_t room = view.len
    PyBuffer_Release(&view)
    if size < 0:
        raise ValueError("negative buffersize in recv_into")
    if size > room:
        raise ValueError("buffer too small for requested bytes")
    return size or room


cpdef recv(int fd, Py_ssize_t size, int flags=0):
    """recv(2) without waiting: bytes, or None."""
    if size < 0:
        raise ValueError("negative buffersize in recv")
    cdef PyObject *room = plait_take_room(size)
    cdef ssize_t got
    while True:
        got = c_recv(fd, PyBytes_AS_STRING(<object>room), size, flags | MSG_DONTWAIT)
        if got >= 0:
            return plait_use_room(room, got)
        if would_wait():
            plait_use_room(room, 0)
            return None
        try:
            if errno != EINTR:
                fail()
            PyErr_CheckSignals()
        except BaseException:
            plait_use_room(room, 0)
            raise


cpdef recv_into(int fd, buffer, Py_ssize_t size, int flags=0, Py_ssize_t start=0):
    """recv(2) of at most `size` bytes into buffer[start:] without waiting: the number of bytes, or None."""
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    cdef ssize_t got
    try:
        if size < 0 or start < 0 or view.len - start < size:  # it may have shrunk while its reader was parked
            raise ValueError("buffer too small for requested bytes")
        while True:
            got = c_recv(fd, <char *>view.buf + start, size, flags | MSG_DONTWAIT)
            if got >= 0:
                return got
            if would_wait():
                return None
            if errno != EINTR:
                fail()
            PyErr_CheckSignals()
    finally:
        PyBuffer_Release(&view)


cpdef send(int fd, data, int flags=0, Py_ssize_t start=0):
    """send(2) of data[start:] without waiting: the number of bytes taken, or None."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef ssize_t sent
    try:
        while True:
            sent = c_send(fd, <char *>view.buf + start, view.len - start, flags | MSG_DONTWAIT)
            if sent >= 0:
                return sent
            if would_wait():
                return None
            if errno != EINTR:
                fail()
            PyErr_CheckSignals()
    finally:
        PyBuffer_Release(&view)


cdef bint waits_for_disk(int fd, int how) noexcept:
    """Whether a call on `fd` waits for the disk in spite of RWF_NOWAIT: a file of those that were opened `how`."""
    cdef stat_t status
    cdef int flags = c_fcntl(fd, F_GETFL)
    if flags < 0 or not flags & how or c_fstat(fd, &status) < 0:
        return False
    return status.st_mode & S_IFMT in (S_IFREG, S_IFBLK)


cdef inline ssize_t move(int fd, const iovec *part, long long offset, bint is_write) noexcept nogil:
    if is_write:
        return pwritev2(fd, part, 1, offset, RWF_NOWAIT)
    return preadv2(fd, part, 1, offset, RWF_NOWAIT)


cdef ssize_t move_nowait(int fd, const iovec *part, long long offset, bint is_write) noexcept:
    """preadv2(2), or pwritev2(2), with RWF_NOWAIT."""
    cdef ssize_t moved
    cdef int failed
    if part.iov_len <= LARGE:
        return move(fd, part, offset, is_write)
    with nogil:
        moved = move(fd, part, offset, is_write)
        failed = errno
    set_errno(failed)
    return moved


def read_nowait(int fd, Py_ssize_t size, long long offset=-1, bint is_polled=False):
    """read(2), or pread(2), without waiting: bytes, None if it would wait, or NotImplemented if this file cannot tell.

    `is_polled`: the caller knows that it is no file of a disk.
    """
    if size < 0:
        raise OSError(22, "Invalid argument")
    if not is_polled and waits_for_disk(fd, O_DIRECT):
        return NotImplemented
    data = PyBytes_FromStringAndSize(NULL, size)
    cdef iovec part
    part.iov_base = PyBytes_AS_STRING(data)
    part.iov_len = size
    cdef ssize_t got
    while True:
        got = move_nowait(fd, &part, offset, False)
        if got >= 0:
            break
        if would_wait():
            return None
        if errno == EOPNOTSUPP or errno == ENOSYS:
            return NotImplemented
        if errno != EINTR:
            fail()
        PyErr_CheckSignals()
    if got < size:
        plait_shrink(data, got)
    return data


def read_into_nowait(int fd, buffer, Py_ssize_t start=0, long long offset=-1, bint is_polled=False):
    """read(2), or pread(2), into buffer[start:] without waiting: the number of bytes, None or NotImplemented as above."""
    if not is_polled and waits_for_disk(fd, O_DIRECT):
        return NotImplemented
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    cdef iovec part
    part.iov_base = <char *>view.buf + start
    part.iov_len = view.len - start
    cdef ssize_t got
    try:
        while True:
            got = move_nowait(fd, &part, offset, False)
            if got >= 0:
                return got
            if would_wait():
                return None
            if errno == EOPNOTSUPP or errno == ENOSYS:
                return NotImplemented
            if errno != EINTR:
                fail()
            PyErr_CheckSignals()
    finally:
        PyBuffer_Release(&view)


def write_nowait(int fd, data, Py_ssize_t start=0, long long offset=-1):
    """write(2), or pwrite(2), of data[start:] without waiting: the number of bytes, None, or NotImplemented as above."""
    if waits_for_disk(fd, O_DIRECT | O_DSYNC):
        return NotImplemented
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    cdef iovec part
    part.iov_base = <char *>view.buf + start
    part.iov_len = view.len - start
    cdef ssize_t sent
    try:
        while True:
            sent = move_nowait(fd, &part, offset, True)
            if sent >= 0:
                return sent
            if would_wait():
                return None
            if errno == EOPNOTSUPP or errno == ENOSYS:
                return NotImplemented
            if errno != EINTR:
                fail()
            PyErr_CheckSignals()
    finally:
        PyBuffer_Release(&view)


def file_type(int fd):
    """What `fd` leads to: the S_IFMT bits of its mode."""
    cdef stat_t status
    if c_fstat(fd, &status) < 0:
        fail()
    return status.st_mode & S_IFMT


def file_at(int fd):
    """Which file `fd` leads to, as its device and inode; None if to none."""
    cdef stat_t status
    if c_fstat(fd, &status) < 0:
        return None
    return status.st_dev, status.st_ino


def status_flags(int fd):
    """How the file behind `fd` was opened, and its mode: F_GETFL of fcntl(2)."""
    cdef int flags = c_fcntl(fd, F_GETFL)
    if flags < 0:
        fail()
    return flags


def file_system(int fd):
    """The kind of file system that the file behind `fd` is on, by its magic number (statfs(2))."""
    cdef statfs_t status
    if c_fstatfs(fd, &status) < 0:
        fail()
    return status.f_type & 0xFFFFFFFF


def has_writer(int fd):
    """Whether anybody has the FIFO behind `fd`, which is open for reading, open for writing. Takes nothing out of it."""
    cdef int ends[2]
    if pipe2(ends, O_CLOEXEC) < 0:
        fail()
    cdef ssize_t seen = tee(fd, ends[1], 1, SPLICE_F_NONBLOCK)
    cdef bint is_empty = seen < 0 and would_wait()
    c_close(ends[0])
    c_close(ends[1])
    return seen > 0 or is_empty


def socket_type(int fd):
    """SO_TYPE of a socket; None for any other file."""
    cdef int kind = 0
    cdef unsigned int size = sizeof(kind)
    if getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0:
        return kind
    if errno != ENOTSOCK:
        fail()
    return None


def lingers(int fd):
    """Whether the close of a socket may wait until what was sent has arrived (SO_LINGER)."""
    cdef c_linger patience
    cdef unsigned int size = sizeof(patience)
    if getsockopt(fd, SOL_SOCKET, SO_LINGER, &patience, &size) < 0:
        return False
    return patience.l_onoff != 0 and patience.l_linger != 0


def sync_memory(size_t address, size_t size):
    """msync(2) of mapped memory: blocks the kernel thread until what was changed there is on the disk."""
    cdef int failed
    with nogil:
        failed = c_msync(<void *>address, size, MS_SYNC)
    if failed < 0:
        fail()


def poll_now(int fd, short events):
    """poll(2) of one descriptor without waiting: the events at hand, 0 if none."""
    cdef pollfd one
    one.fd = fd
    one.events = events
    one.revents = 0
    while c_poll(&one, 1, 0) < 0:
        if errno != EINTR:
            fail()
        PyErr_CheckSignals()
    return one.revents


def await_signal():
    """pause(2), without the GIL; the instant at which it came back."""
    cdef timespec moment
    with nogil:
        c_pause()
        clock_gettime(CLOCK_MONOTONIC, &moment)
    return <double>(moment.tv_sec * 1_000_000_000 + moment.tv_nsec) / 1e9


# ---- semaphores of POSIX, by their addresses ----

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int c_sem_trywait "sem_trywait"(sem_t *semaphore)
    int c_sem_timedwait "sem_timedwait"(sem_t *semaphore, const timespec *instant)
    int c_sem_post "sem_post"(sem_t *semaphore)


def sem_try(size_t handle):
    """sem_trywait(3): whether it was taken."""
    while c_sem_trywait(<sem_t *>handle) < 0:
        if errno == EAGAIN:
            return False
        if errno != EINTR:
            fail()
        PyErr_CheckSignals()
    return True


cdef inline int sem_slice(size_t handle, double seconds) noexcept nogil:
    """sem_timedwait(3) for `seconds`; 0, or the error."""
    cdef timespec instant
    clock_gettime(CLOCK_REALTIME, &instant)
    instant.tv_sec += <long>seconds
    instant.tv_nsec += <long>((seconds - <long>seconds) * 1e9)
    if instant.tv_nsec >= 1000000000:
        instant.tv_sec += 1
        instant.tv_nsec -= 1000000000
    return errno if c_sem_timedwait(<sem_t *>handle, &instant) < 0 else 0


def sem_await(size_t handle, double seconds):
    """sem_timedwait(3) for `seconds`; whether it was taken. Blocks the kernel thread, without the GIL."""
    cdef int failed
    with nogil:
        failed = sem_slice(handle, seconds)
    if failed not in (0, ETIMEDOUT, EINTR):
        raise OSError(failed, strerror(failed).decode())
    return failed == 0


cdef inline double sem_rest(Counter until, double slice) noexcept nogil:
    """For how long to wait: a slice; or until the instant `until` comes, if there is one, and after it in short steps."""
    cdef double instant = <double><int64_t>plait_load(&until.total) * 1e-9
    cdef timespec moment
    if instant <= 0:
        return slice
    clock_gettime(CLOCK_MONOTONIC, &moment)
    cdef double rest = instant - (moment.tv_sec + moment.tv_nsec * 1e-9)
    return min(max(rest, 0.0005), slice)


def sem_await_for(size_t handle, Counter wanted, Counter asked, Counter until, double slice):
    """The same, again and again while `wanted` is positive and `asked` is not. What is taken too late is given back at once.

    `until` is the instant at which somebody is going to ask, in nanoseconds of `now()`; 0 if nobody is known to.
    """
    cdef int failed = ETIMEDOUT
    with nogil:
        while (
            (failed == ETIMEDOUT or failed == EINTR)
            and <int64_t>plait_load(&wanted.total) > 0
            and <int64_t>plait_load(&asked.total) <= 0
        ):
            failed = sem_slice(handle, sem_rest(until, slice))
        if failed == 0 and <int64_t>plait_load(&wanted.total) <= 0:
            c_sem_post(<sem_t *>handle)
            failed = ETIMEDOUT
    if failed not in (0, ETIMEDOUT, EINTR):
        raise OSError(failed, strerror(failed).decode())
    return failed == 0


def sem_post(size_t handle):
    """sem_post(3)."""
    if c_sem_post(<sem_t *>handle) < 0:
        fail()


# ---- signals ----

cdef extern from "<sys/signalfd.h>" nogil:
    int c_signalfd "signalfd"(int fd, const sigset_t *mask, int flags)
    const int SFD_CLOEXEC
    const int SFD_NONBLOCK


def signal_descriptor(signals):
    """A descriptor that is readable while one of `signals` is pending, for the process or for the thread that asks."""
    cdef sigset_t mask
    sigemptyset(&mask)
    for number in signals:
        if sigaddset(&mask, number) < 0:
            fail()
    cdef int fd = c_signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK)
    if fd < 0:
        fail()
    return fd
