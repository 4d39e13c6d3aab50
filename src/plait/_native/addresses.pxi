# ---- addresses of sockets ------------------------------------------------------------------------------------------
# As the `socket` module writes them, and as system calls take them: for the internet and for Unix sockets. What needs to be
# looked up, and what is wrong, is left to CPython, which says so in its own words.

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef struct sockaddr_storage "struct sockaddr_storage":
        unsigned short ss_family
    ctypedef struct sockaddr "struct sockaddr":
        unsigned short sa_family
    int AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC

cdef extern from "<netinet/in.h>" nogil:
    ctypedef struct sockaddr_in "struct sockaddr_in":
        unsigned short sin_family, sin_port
        unsigned int sin_addr
    ctypedef struct sockaddr_in6 "struct sockaddr_in6":
        unsigned short sin6_family, sin6_port
        unsigned int sin6_flowinfo, sin6_addr, sin6_scope_id

cdef extern from "<sys/un.h>" nogil:
    ctypedef struct sockaddr_un "struct sockaddr_un":
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)
    int inet_pton(int family, const char *text, void *address)
    unsigned short ntohs(unsigned short number)
    unsigned short htons(unsigned short number)
    unsigned int ntohl(unsigned int number)
    unsigned int htonl(unsigned int number)


cdef named(const sockaddr_storage *address, socklen_t size):
    """An address as the `socket` module writes it."""
    cdef const sockaddr_in *four = <const sockaddr_in *>address
    cdef const sockaddr_in6 *six = <const sockaddr_in6 *>address
    cdef const char *path = (<sockaddr_un *>address).sun_path
    cdef char text[46]  # INET6_ADDRSTRLEN
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text))
        return PyUnicode_FromString(text), ntohs(four.sin_port)
    if address.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text))
        return PyUnicode_FromString(text), ntohs(six.sin6_port), ntohl(six.sin6_flowinfo), six.sin6_scope_id
    if size > sizeof(address.ss_family) and not path[0]:  # in Linux' name space of its own
        return PyBytes_FromStringAndSize(path, size - sizeof(address.ss_family))
    return PyUnicode_DecodeFSDefault(path)


cdef inline bint is_number(number, long long most) except -1:
    """Whether `number` is an int, of no subclass, between 0 and `most`."""
    return type(number) is int and 0 <= number <= most


cpdef bytes packed_address(int family, address):
    """The address as a system call takes it; None if it is none that has its host in digits, or a path that fits."""
    cdef sockaddr_in four
    cdef sockaddr_in6 six
    cdef int words
    if family == AF_UNIX:
        return packed_path(address)
    if type(address) is not tuple or family not in (AF_INET, AF_INET6):
        return None
    words = len(<tuple>address)
    if words < 2 or words > (2 if family == AF_INET else 4):
        return None
    host, port = (<tuple>address)[0], (<tuple>address)[1]
    if type(host) is not str or not (<str>host).isascii() or "\0" in <str>host or not is_number(port, 0xFFFF):
        return None
    if family == AF_INET:
        memset(&four, 0, sizeof(four))
        four.sin_family = AF_INET
        four.sin_port = htons(port)
        if inet_pton(AF_INET, PyUnicode_AsUTF8(host), &four.sin_addr) != 1:
            return None
        return PyBytes_FromStringAndSize(<char *>&four, sizeof(four))
    flow = (<tuple>address)[2] if words > 2 else 0
    scope = (<tuple>address)[3] if words > 3 else 0
    if not is_number(flow, 0xFFFFF) or not is_number(scope, 0xFFFFFFFF):
        return None
    memset(&six, 0, sizeof(six))
    six.sin6_family = AF_INET6
    six.sin6_port = htons(port)
    six.sin6_flowinfo = htonl(flow)
    six.sin6_scope_id = scope
    if inet_pton(AF_INET6, PyUnicode_AsUTF8(host), &six.sin6_addr) != 1:
        return None
    return PyBytes_FromStringAndSize(<char *>&six, sizeof(six))


cdef bytes packed_path(address):
    """A path as a Unix socket's address; or a name in the space of names that Linux has, which begins with a zero."""
    cdef sockaddr_un unix
    cdef Py_ssize_t size, room = sizeof(unix.sun_path)
    if type(address) is str:
        try:
            address = PyUnicode_EncodeFSDefault(address)
        except UnicodeError:
            return None
    elif type(address) is not bytes:
        return None
    size = len(<bytes>address)
    if size == 0 or size > room or (size == room and (<bytes>address)[0] != 0):  # a path ends with a zero
        return None
    memset(&unix, 0, sizeof(unix))
    unix.sun_family = AF_UNIX
    memcpy(unix.sun_path, PyBytes_AS_STRING(address), size)
    if unix.sun_path[0] != 0:
        size += 1
    return PyBytes_FromStringAndSize(<char *>&unix, sizeof(unix.sun_family) + size)
