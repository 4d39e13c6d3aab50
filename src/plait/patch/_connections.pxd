cimport cython

from plait._core._cancel cimport check_entry
from plait._core._operations cimport await_socket, let_go, listens, pass_turn
from plait._core._parking cimport Parker
from plait._native._native cimport accept as take_one
from plait._native._native cimport connect as begin_to_connect
from plait._native._native cimport connected, cooperative, now, packed_address
from plait._native._native cimport socket_fd as _fileno
from plait._native._native cimport socket_timeout as _gettimeout

cdef int IN_TURN, READ, WRITE, _AF_UNIX, _AF_INET, _AF_INET6, _AF_ALG
cdef object _family, _type, _proto

@cython.locals(me=Parker, fd=int)
cpdef accept(sock)
@cython.locals(family=int)
cdef _take(sock, int fd, timeout)
@cython.locals(me=Parker, fd=int, failed=int, family=int, peer=bytes)
cdef int _connect(sock, address, timeout, original) except -1
cdef int _attempt_to_connect(sock, int fd, timeout, bytes peer, address) except -1
@cython.locals(failed=int)
cpdef _connect_with_pauses(sock, int fd, bytes peer, address)
@cython.locals(family=int)
cdef bint _lingers(sock, int fd) except -1
@cython.locals(me=Parker, fd=int)
cpdef close(sock)
