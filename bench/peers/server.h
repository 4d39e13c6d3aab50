/* The frame of a server that is as cheap as can be: one thread, one epoll, the system calls and nothing else.
 *
 * Who includes this defines `receive` and calls `run`. That listens on a port of 127.0.0.1, prints it as {"port": N}, and
 * serves until it is ended. Every connection is registered once, for its edges: it is received from until it has no
 * more, which a short count says as well as EAGAIN does and saves a call, and what does not fit into the socket is kept
 * until the edge of EPOLLOUT. While something is kept nothing is received.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 256
#define CHUNK 65536

struct connection {
    int fd;
    int state;   /* for `receive`; 0 at the beginning */
    char *rest;  /* what did not fit into the socket, or NULL */
    size_t sent; /* bytes of it that have left since */
    size_t size; /* of how many */
};

static int poller;

/* Do what is to be done with what has come. Return whether the connection goes on. */
static int receive(struct connection *self, const char *data, size_t size);

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int fd, void *data, unsigned int events)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

/* Send as much as fits. Return how much that was, or -1 if the connection is broken. */
static ssize_t send_some(int fd, const char *data, size_t size)
{
    size_t sent = 0;
    while (sent < size) {
        ssize_t n = send(fd, data + sent, size - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            return -1;
        sent += n;
    }
    return sent;
}

/* Send all, now or, what does not fit, later. Return whether the connection goes on. */
static int send_all(struct connection *self, const char *data, size_t size)
{
    ssize_t sent = self->rest ? 0 : send_some(self->fd, data, size);
    if (sent < 0)
        return 0;
    if ((size_t)sent == size)
        return 1;
    size_t kept = self->rest ? self->size : 0;
    char *rest = realloc(self->rest, kept + size - sent);
    if (!rest)
        fail("realloc");
    memcpy(rest + kept, data + sent, size - sent);
    self->sent = self->rest ? self->sent : 0;
    self->rest = rest;
    self->size = kept + size - sent;
    return 1;
}

/* Do what can be done without waiting. Return whether the connection goes on. */
static int serve(struct connection *self)
{
    static char buffer[CHUNK];
    if (self->rest) {
        ssize_t sent = send_some(self->fd, self->rest + self->sent, self->size - self->sent);
        if (sent < 0)
            return 0;
        self->sent += sent;
        if (self->sent < self->size)
            return 1;
        free(self->rest);
        self->rest = NULL;
    }
    for (;;) {
        ssize_t n = recv(self->fd, buffer, CHUNK, 0);
        if (n < 0 && errno == EAGAIN)
            return 1;
        if (n <= 0 || !receive(self, buffer, n))
            return 0;
        if (self->rest || n < CHUNK)
            return 1;
    }
}

static void accept_all(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *self = calloc(1, sizeof *self);
        if (!self)
            fail("calloc");
        self->fd = fd;
        watch(fd, self, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    }
    if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
        fail("accept");
}

static void run(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct rlimit descriptors;
    int on = 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody is left to end it when its parent is gone */
    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
        descriptors.rlim_cur = descriptors.rlim_max;
        setrlimit(RLIMIT_NOFILE, &descriptors);
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || poller < 0)
        fail("cannot start");
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4096) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        fail("cannot listen");
    watch(listener, NULL, EPOLLIN);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct connection *self = events[i].data.ptr;
            if (!self) {
                accept_all(listener);
            } else if (!serve(self)) {
                close(self->fd);
                free(self->rest);
                free(self);
            }
        }
    }
}
