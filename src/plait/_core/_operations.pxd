cimport cython

from plait._core._cancel cimport check_entry
from plait._core._parking cimport Parker
from plait._core._reactor cimport Descriptor, Reactor
from plait._core._vthread cimport VirtualThread
from plait._native._native cimport cooperative, flags_of, now, room_in, size_of
from plait._native._native cimport recv as _native_recv
from plait._native._native cimport recv_into as _native_recv_into
from plait._native._native cimport send as _native_send
from plait._native._native cimport socket_fd as _fileno
from plait._native._native cimport socket_timeout as _gettimeout

cdef int READ, WRITE, TROUBLE, _IN_TURN, _SOCK_STREAM, _SOL_SOCKET, _SO_ACCEPTCONN, _SO_PROTOCOL, _TCP, _POLLERR, _PEEK, _DONTWAIT, _NEVER_WAITS, _WAITALL, _UNUSUAL

cpdef await_socket(Parker me, sock, int fd, int events, deadline)
@cython.locals(thread=VirtualThread)
cdef _await_entry(Parker me, Descriptor entry, sock, int fd, int events, deadline)
@cython.locals(thread=VirtualThread, reactor=Reactor)
cpdef pass_turn(Parker me, int fd)
@cython.locals(entry=Descriptor)
cpdef bint wait_socket(Parker me, sock, int fd, int events, deadline, publish) except -1
cdef bint _await_more(Parker me, sock, int fd, int events) except -1
@cython.locals(entry=Descriptor, reactor=Reactor)
cdef Descriptor _entry(VirtualThread me, sock, int fd)
@cython.locals(thread=VirtualThread, reactor=Reactor)
cpdef let_go(Parker me, sock, int fd)
@cython.locals(entry=Descriptor, answer=bint)
cpdef bint listens(Parker me, sock, int fd) except -1
cdef bint _is_stream(sock) except -1
@cython.locals(protocol=int)
cdef bint _is_tcp(sock) except -1
cdef _closed()
cdef _note_empty(Descriptor entry)
cdef _note_short(Descriptor entry, sock, int flags)
@cython.locals(me=Parker, entry=Descriptor, total=Py_ssize_t, is_worth_a_try=cython.bint)
cdef Py_ssize_t _receive_all(sock, int fd, buffer, Py_ssize_t size, int flags) except -1
cdef Py_ssize_t _send_some(Parker me, sock, data, int flags, Py_ssize_t start, deadline) except -1
@cython.locals(size=Py_ssize_t)
cpdef Py_ssize_t send_rest(Parker me, sock, data, int flags, Py_ssize_t start) except -1
@cython.locals(me=Parker, entry=Descriptor, fd=int, bits=int, is_worth_a_try=cython.bint)
cpdef recv(sock, Py_ssize_t size, flags=*)
@cython.locals(me=Parker, entry=Descriptor, fd=int, bits=int, size=Py_ssize_t, is_worth_a_try=cython.bint)
cpdef recv_into(sock, buffer, Py_ssize_t nbytes=*, flags=*)
@cython.locals(me=Parker, bits=int, size=Py_ssize_t, sent=Py_ssize_t)
cpdef send(sock, data, flags=*)
@cython.locals(me=Parker, bits=int, size=Py_ssize_t, start=Py_ssize_t)
cpdef sendall(sock, data, flags=*)
