# ---- the mode of a descriptor --------------------------------------------------------------------------------------
# Blocking mode belongs to the open file, which several descriptors, threads and processes may share. To leave it for one
# call is done by one thread at a time: within the process under a lock, and among the processes that share the file, as
# the workers of a server share their listener, under a record lock on it (fcntl(2); sockets take them). Otherwise one
# would come back to blocking mode while another is about to make its call. Nothing of Python runs in between.
#
# Who waits for a lock, and whose call gives up the GIL, looks again: the number may lead to another file by now, which is
# left alone (and the lock on the record has gone with the old one).
#
# Who gives the socket a timeout meanwhile, or takes it away, takes no such lock. With a timeout it is in non-blocking mode:
#
#     settimeout: 1. writes the timeout   2. sets the mode    [fence: the system call]
#     who is back: 1. sets the mode  [fence: likewise]   2. reads the timeout, and is not done unless it goes with that mode
#
# Either the mode of `settimeout` comes second and stays, or its timeout is seen here.

cdef extern from "<netinet/tcp.h>" nogil:
    int IPPROTO_TCP, TCP_INFO, TCP_SYN_SENT, TCP_SYN_RECV, TCP_CLOSE

cdef extern from "<sys/socket.h>" nogil:
    int c_accept "accept4"(int fd, sockaddr *address, socklen_t *size, int flags)
    int c_connect "connect"(int fd, const sockaddr *address, socklen_t size)
    int c_getpeername "getpeername"(int fd, sockaddr *address, socklen_t *size)
    int SOCK_CLOEXEC

cdef Lock modes = Lock()


cdef inline bint is_at(int fd, const stat_t *file) noexcept:
    """Whether `fd` leads to this open file still, as far as files can be told apart: sockets can."""
    cdef stat_t found
    return c_fstat(fd, &found) == 0 and found.st_ino == file.st_ino and found.st_dev == file.st_dev


cdef bint lock_record(int fd) except -1:
    """Lock the file, if it takes such locks; False if `fd` leads to another one by now, of which nothing is locked."""
    cdef flock all_of_it
    cdef stat_t file
    cdef int failed = EINTR
    all_of_it.l_type = F_WRLCK
    all_of_it.l_whence = 0
    all_of_it.l_start = 0
    all_of_it.l_len = 0
    if c_fcntl(fd, F_SETLK, &all_of_it) == 0 or errno not in (EAGAIN, EACCES):
        return True
    if c_fstat(fd, &file) < 0:
        fail()
    while failed == EINTR:
        with nogil:
            failed = errno if c_fcntl(fd, F_SETLKW, &all_of_it) < 0 else 0
        PyErr_CheckSignals()
    return is_at(fd, &file)


cdef void unlock_record(int fd) noexcept:
    cdef flock all_of_it
    all_of_it.l_type = F_UNLCK
    all_of_it.l_whence = 0
    all_of_it.l_start = 0
    all_of_it.l_len = 0
    c_fcntl(fd, F_SETLK, &all_of_it)


def outside_blocking_mode(int fd, sock, call, *args):
    """`call(*args)` with the file behind `fd` in non-blocking mode. For calls of C alone. `sock` has the number, or is None."""
    cdef stat_t file
    cdef int mode
    if c_fstat(fd, &file) < 0:
        fail()
    with modes:
        if not is_at(fd, &file) or not lock_record(fd):
            set_errno(EBADF)
            fail()
        try:
            mode = c_fcntl(fd, F_GETFL)
            if mode & O_NONBLOCK:  # somebody's choice: it stays
                return call(*args)
            c_fcntl(fd, F_SETFL, mode | O_NONBLOCK)
            try:
                return call(*args)
            finally:
                if is_at(fd, &file):
                    leave_nonblocking(fd, sock)
        finally:
            if is_at(fd, &file):
                unlock_record(fd)


cdef bint has_timeout(sock) except -1:
    return plait_socket_has_timeout(sock)


cdef bint is_timed(int fd, sock) except -1:
    """Whether `sock`, if there is one, has this number still, and a timeout."""
    return sock is not None and plait_socket_fd(sock) == fd and has_timeout(sock)


cdef int leave_nonblocking(int fd, sock) except -1:
    """Back to blocking mode, or to the one that a timeout of `sock` asks for."""
    cdef int mode
    cdef bint stays
    while True:
        stays = is_timed(fd, sock)
        mode = c_fcntl(fd, F_GETFL)
        c_fcntl(fd, F_SETFL, mode | O_NONBLOCK if stays else mode & ~O_NONBLOCK)
        if is_timed(fd, sock) == stays:
            return 0


def is_in_blocking_mode(int fd):
    """Whether the file behind `fd` is in blocking mode, but for a moment in which somebody has left it for a call."""
    cdef int mode = -1
    with modes:
        if not lock_record(fd):
            return False
        mode = c_fcntl(fd, F_GETFL)
        unlock_record(fd)
    return mode >= 0 and not mode & O_NONBLOCK


def reset_modes():
    """The lock is free: in a child process after fork."""
    global modes
    modes = Lock()


# ---- accept ----

cpdef accept(sock, int fd):
    """accept4(2) without waiting: the new descriptor and who has come, as `socket.accept` has them; or None.

    For sockets of the internet and Unix. None also where the socket has lost its number while this waited for its turn.
    """
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef int taken = -1, failed = EBADF, mode
    memset(&address, 0, sizeof(address))
    if has_timeout(sock) and c_fcntl(fd, F_GETFL) & O_NONBLOCK:  # for good; or `settimeout` is just about to set that
        taken = c_accept(fd, <sockaddr *>&address, &size, SOCK_CLOEXEC)
        return whom(taken, errno, &address, size)
    with modes:
        if plait_socket_fd(sock) != fd or not lock_record(fd):
            return None
        mode = c_fcntl(fd, F_GETFL)
        if not mode & O_NONBLOCK:
            c_fcntl(fd, F_SETFL, mode | O_NONBLOCK)
        taken = c_accept(fd, <sockaddr *>&address, &size, SOCK_CLOEXEC)
        failed = errno
        if plait_socket_fd(sock) == fd:
            if not mode & O_NONBLOCK:
                leave_nonblocking(fd, sock)
            unlock_record(fd)
    return whom(taken, failed, &address, size)


cdef whom(int taken, int failed, const sockaddr_storage *address, socklen_t size):
    """What came of an attempt."""
    if taken >= 0:
        try:
            return taken, named(address, size)
        except BaseException:
            c_close(taken)
            raise
    if failed == EAGAIN:
        return None
    set_errno(failed)
    fail()


# ---- connect ----

cdef int try_to_connect(int fd, const sockaddr *peer, socklen_t size) noexcept:
    """connect(2): the number of the error, or 0. To find a path may take long, whatever the mode, and others wait for `modes`."""
    cdef int failed
    if peer.sa_family != AF_UNIX:
        return errno if c_connect(fd, peer, size) < 0 else 0
    with nogil:
        failed = errno if c_connect(fd, peer, size) < 0 else 0
    return failed


cdef int connect_in_turn(sock, int fd, const sockaddr *peer, socklen_t size) except -1:
    """Outside blocking mode. With `modes` held."""
    cdef int failed, mode
    if plait_socket_fd(sock) != fd or not lock_record(fd):
        return EBADF
    mode = c_fcntl(fd, F_GETFL)
    if not mode & O_NONBLOCK:
        c_fcntl(fd, F_SETFL, mode | O_NONBLOCK)
    failed = try_to_connect(fd, peer, size)
    if plait_socket_fd(sock) == fd:
        if not mode & O_NONBLOCK:
            leave_nonblocking(fd, sock)
        unlock_record(fd)
    return failed


cpdef int connect(sock, int fd, bytes peer) except -1:
    """connect(2) without waiting: the number of the error, 0 if `sock` is connected. `peer` is from `packed_address`."""
    cdef const sockaddr *address = <const sockaddr *>PyBytes_AS_STRING(peer)
    cdef socklen_t size = <socklen_t>len(peer)
    cdef int failed = EBADF
    if has_timeout(sock) and c_fcntl(fd, F_GETFL) & O_NONBLOCK:  # as in `accept`
        return try_to_connect(fd, address, size)
    with modes:
        failed = connect_in_turn(sock, fd, address, size)
    return failed


cpdef int connected(sock, int fd) except -1:
    """How the attempt of a TCP socket went: the number of the error, 0 if `sock` is connected, EINPROGRESS if it goes on.

    The kernel keeps an attempt open until connect(2) is asked once more, and closes it with that answer. Where it has
    failed, or somebody has ended it, that would begin another one, so there it is closed by a disconnect. One thread at
    a time looks and does it: the next attempt of another would be disconnected else.
    """
    cdef int failed = EBADF
    with modes:
        if plait_socket_fd(sock) == fd:
            failed = outcome_of_connect(sock, fd)
    return failed


cdef int outcome_of_connect(sock, int fd) except -1:
    cdef sockaddr_storage peer
    cdef sockaddr none
    cdef unsigned char state = 0  # the first byte of a tcp_info
    cdef int failed = 0
    cdef socklen_t size = sizeof(state)
    if getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &size) < 0:
        return errno
    if state == TCP_SYN_SENT or state == TCP_SYN_RECV:
        return EINPROGRESS
    size = sizeof(peer)
    if state != TCP_CLOSE and c_getpeername(fd, <sockaddr *>&peer, &size) == 0:
        failed = connect_in_turn(sock, fd, <sockaddr *>&peer, size)
        return 0 if failed == EISCONN else EINPROGRESS if failed == EALREADY else failed
    size = sizeof(failed)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size) < 0:
        return errno
    memset(&none, 0, sizeof(none))
    none.sa_family = AF_UNSPEC
    c_connect(fd, &none, sizeof(none))
    return failed or ECONNABORTED  # another has been told the reason
