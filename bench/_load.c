/* The clients of the echo benchmark: many connections, one message in flight on each, one epoll loop.
 *
 *     load PORT CONNECTIONS SIZE WARM_UP_MS DURATION_MS SERVER_PID LIMIT_S
 *
 * Connects to 127.0.0.1, waits until every connection has had its first echo, warms up, then counts the echoes of
 * the duration. Every byte that comes back is compared with the one that was sent. Prints one line of JSON: the
 * requests and the seconds of the window, the processor seconds that the server and the clients spent in it, and the
 * fewest and the most requests of any connection. Anything unexpected ends it with a sentence on stderr. _load.py is
 * the same in Python.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define CHUNK 65536

struct connection {
    int fd;
    size_t sent;         /* bytes of the message in flight that have left */
    size_t received;     /* and that have come back */
    unsigned long count; /* messages that have come back, since the start or since the window opened */
};

static char *message;
static size_t size;
static int poller;

static void fail(const char *what, int error)
{
    fprintf(stderr, error ? "%s: %s\n" : "%s\n", what, strerror(error));
    exit(1);
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0)
        fail("cannot read a clock (has the server ended?)", errno);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void watch(struct connection *self, int operation, unsigned int events)
{
    struct epoll_event event = {.events = events, .data.ptr = self};
    if (epoll_ctl(poller, operation, self->fd, &event) != 0)
        fail("epoll_ctl", errno);
}

/* Send what is left of the message. If the socket is full, ask to be told when it no longer is. */
static void send_rest(struct connection *self, int was_full)
{
    while (self->sent < size) {
        ssize_t n = send(self->fd, message + self->sent, size - self->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!was_full)
                watch(self, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0)
            fail("cannot send", errno);
        self->sent += n;
    }
    if (was_full)
        watch(self, EPOLL_CTL_MOD, EPOLLIN);
}

/* Receive what is there. Return whether that was the end of a message. */
static int receive(struct connection *self)
{
    static char buffer[CHUNK];
    size_t left = size - self->received;
    ssize_t n = recv(self->fd, buffer, left < CHUNK ? left : CHUNK, MSG_DONTWAIT);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        fail("cannot receive", errno);
    }
    if (n == 0)
        fail("the server has closed a connection", 0);
    if (self->received + n > self->sent || memcmp(buffer, message + self->received, n) != 0)
        fail("the server sent back something else than it got", 0);
    self->received += n;
    return self->received == size;
}

static void open_connection(struct connection *self, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    self->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (self->fd < 0)
        fail("socket", errno);
    setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(self->fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect", errno);
    watch(self, EPOLL_CTL_ADD, EPOLLIN);
}

int main(int argc, char **argv)
{
    if (argc != 8)
        fail("usage: load PORT CONNECTIONS SIZE WARM_UP_MS DURATION_MS SERVER_PID LIMIT_S", 0);
    int port = atoi(argv[1]), connections = atoi(argv[2]);
    size = strtoul(argv[3], NULL, 10);
    double warm_up = atoi(argv[4]) / 1e3, duration = atoi(argv[5]) / 1e3;
    alarm(atoi(argv[7]));

    clockid_t server_clock;
    int error = clock_getcpuclockid(atoi(argv[6]), &server_clock);
    if (error)
        fail("cannot find the server's clock", error);
    message = malloc(size);
    struct connection *all = calloc(connections, sizeof *all);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!message || !all || poller < 0)
        fail("cannot start", errno);
    for (size_t i = 0; i < size; i++)
        message[i] = 'a' + i % 23;
    for (int i = 0; i < connections; i++)
        open_connection(&all[i], port);
    for (int i = 0; i < connections; i++)
        send_rest(&all[i], 0);

    enum { MEETING, WARMING, MEASURING } phase = MEETING;
    int met = 0;
    double turn = 0, start = 0, server_start = 0, clients_start = 0; /* turn: when the next phase begins */
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, 100);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait", errno);
        for (int i = 0; i < ready; i++) {
            struct connection *self = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_rest(self, 1);
            if ((events[i].events & ~EPOLLOUT) && receive(self)) {
                met += self->count == 0 && phase == MEETING;
                self->count++;
                self->sent = self->received = 0;
                send_rest(self, 0);
            }
        }
        double now = seconds(CLOCK_MONOTONIC);
        if (phase == MEETING && met == connections) {
            phase = WARMING;
            turn = now + warm_up;
        } else if (phase == WARMING && now >= turn) {
            phase = MEASURING;
            for (int i = 0; i < connections; i++)
                all[i].count = 0;
            server_start = seconds(server_clock);
            clients_start = seconds(CLOCK_PROCESS_CPUTIME_ID);
            start = seconds(CLOCK_MONOTONIC);
            turn = start + duration;
        } else if (phase == MEASURING && now >= turn) {
            double server = seconds(server_clock) - server_start;
            double clients = seconds(CLOCK_PROCESS_CPUTIME_ID) - clients_start;
            unsigned long total = 0, fewest = all[0].count, most = all[0].count;
            for (int i = 0; i < connections; i++) {
                total += all[i].count;
                fewest = all[i].count < fewest ? all[i].count : fewest;
                most = all[i].count > most ? all[i].count : most;
            }
            printf("{\"requests\": %lu, \"seconds\": %.9f, \"server\": %.9f, \"clients\": %.9f, ", total, now - start,
                   server, clients);
            printf("\"fewest\": %lu, \"most\": %lu}\n", fewest, most);
            return 0;
        }
    }
}
