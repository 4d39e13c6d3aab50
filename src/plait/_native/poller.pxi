# What a poller is made of: epoll_wait(2) and epoll_ctl(2), without an exception for what the kernel answers.

# ---- what a poller reports -----------------------------------------------------------------------------------------

cdef class Ready:
    """Descriptors with what has happened to them, as one wait of a poller reports them: room that is used for each wait."""

    cpdef int size(self) noexcept:
        """How many there are."""
        return self.count

    cpdef int fd(self, int place) noexcept:
        """The descriptor at `place`, from 0 up."""
        return self.found[place].data.fd

    cpdef unsigned int events(self, int place) noexcept:
        """Its events."""
        return self.found[place].events

    cpdef collect(self, int epoll, double timeout):
        """Let epoll_wait(2) fill it: for at most `timeout` seconds, none if a signal comes first."""
        cdef int milliseconds = <int>ceil(timeout * 1e3)
        if milliseconds == 0:
            self.count = c_epoll_wait(epoll, self.found, MOST_READY, 0)  # as short as those below
        else:
            with nogil:
                self.count = c_epoll_wait(epoll, self.found, MOST_READY, milliseconds)
        if self.count < 0:
            self.count = 0
            if errno != EINTR:
                fail()

    cpdef nap(self, int epoll, double timeout):
        """As collect(), for less than a second, and to the microsecond: epoll_wait(2) counts in milliseconds."""
        cdef pollfd one
        cdef timespec span
        one.fd, one.events, one.revents = epoll, POLLIN, 0
        span.tv_sec, span.tv_nsec = 0, <long>(timeout * 1e9)
        with nogil:
            ppoll(&one, 1, &span, NULL)
        self.collect(epoll, 0.0)


# ---- what a poller is asked to report ------------------------------------------------------------------------------

cpdef poller_order(int epoll, int fd, unsigned int events, bint is_known):
    """Have `events` of `fd` reported, in place of what was ordered before. `is_known`: there is an order, as far as one can
    tell; either way it is changed if there is one, and given if there is none, for the number may be another file by now."""
    cdef epoll_event order
    cdef int operation = EPOLL_CTL_MOD if is_known else EPOLL_CTL_ADD
    order.events = events
    order.data.fd = fd
    while c_epoll_ctl(epoll, operation, fd, &order) < 0:
        if errno == EEXIST and operation == EPOLL_CTL_ADD:
            operation = EPOLL_CTL_MOD
        elif errno == ENOENT and operation == EPOLL_CTL_MOD:
            operation = EPOLL_CTL_ADD
        else:
            fail()


cpdef bint poller_renew(int epoll, int fd, unsigned int events) noexcept:
    """The same for a file that is known: False if it is closed, or the number another file's by now."""
    cdef epoll_event order
    order.events = events
    order.data.fd = fd
    return c_epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &order) == 0


cpdef void poller_forget(int epoll, int fd) noexcept:
    """Have nothing more reported of `fd`. It may be closed, or another file by now, even one that cannot be polled."""
    cdef epoll_event none
    c_epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &none)
