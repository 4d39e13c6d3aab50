/* The clients of the servers that are measured: many connections, one message in flight on each, one epoll loop.
 *
 *     load KIND PORT CONNECTIONS SIZE WARM_UP_MS DURATION_MS SERVER_PID LIMIT_S
 *
 *     echo   each connection sends a message of that size and gets it back, again and again
 *     churn  the same, but each message has a connection of its own: opened, used once, closed, and opened anew
 *     get    each connection sends an HTTP request and gets a page with the message for its body, up to the end of the
 *            connection; then it is opened anew
 *
 * Connects to 127.0.0.1 until every connection has had its first answer; at most so many wait for theirs meanwhile as
 * any server lets wait. Then it warms up, then counts the answers of the duration. Every byte that comes back is compared
 * with the one that was sent; of a page the status and the body. Prints one line of JSON: the requests and the seconds
 * of the window, the processor seconds that the server and the clients spent in it, and the fewest and the most requests
 * of any connection. Anything unexpected ends it with a sentence on stderr. _load.py is the same in Python.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 256
#define CHUNK 65536
#define WAITING 256  /* connections that may wait to be accepted */
#define ADDRESSES 64 /* of this side, so that the ports last however many connections are closed */
#define HEAD 1024    /* bytes that a page may have before its body */

#define REQUEST "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

struct connection {
    int fd;
    size_t sent;         /* bytes of the request in flight that have left */
    size_t received;     /* bytes of the answer that have come */
    unsigned long count; /* answers that have come, since the start or since the window opened */
    char *page;          /* what has come of a page */
};

static enum { ECHO, CHURN, GET } kind;
static int port;
static char *message; /* what is sent to be echoed, or the body that is expected */
static size_t size;
static const char *request; /* what is sent */
static size_t request_size;
static struct connection *all;
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

/* Send what is left of the request. If the socket is full, ask to be told when it no longer is. */
static void send_rest(struct connection *self, int was_full)
{
    while (self->sent < request_size) {
        ssize_t n = send(self->fd, request + self->sent, request_size - self->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
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

/* Receive what is there, up to so much. Return how much, 0 at the end of the connection, -1 if there is nothing. */
static ssize_t receive_some(struct connection *self, char *buffer, size_t limit)
{
    ssize_t n = recv(self->fd, buffer, limit, MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        fail("cannot receive", errno);
    return n;
}

/* Receive some of an echo. Return whether that was the end of the message. */
static int receive_echo(struct connection *self)
{
    static char buffer[CHUNK];
    size_t left = size - self->received;
    ssize_t n = receive_some(self, buffer, left < CHUNK ? left : CHUNK);
    if (n < 0)
        return 0;
    if (n == 0)
        fail("the server has closed a connection", 0);
    if (self->received + n > self->sent || memcmp(buffer, message + self->received, n) != 0)
        fail("the server sent back something else than it got", 0);
    self->received += n;
    return self->received == size;
}

/* Receive some of a page. Return whether that was its end. */
static int receive_page(struct connection *self)
{
    ssize_t n = receive_some(self, self->page + self->received, HEAD + size - self->received);
    if (n < 0)
        return 0;
    self->received += n;
    if (n > 0 && self->received < HEAD + size)
        return 0;
    const char *body = self->page + self->received - size;
    if (n > 0 || self->received < size + 16 || memcmp(self->page, "HTTP/1.", 7) != 0 ||
        memcmp(self->page + 8, " 200 ", 5) != 0 || memcmp(body - 4, "\r\n\r\n", 4) != 0 ||
        memcmp(body, message, size) != 0)
        fail("the server sent another page than it should", 0);
    return 1;
}

static void open_connection(struct connection *self)
{
    struct sockaddr_in here = {.sin_family = AF_INET}, there = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (self - all) % ADDRESSES);
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    self->sent = self->received = 0;
    self->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (self->fd < 0)
        fail("socket", errno);
    setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(self->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(self->fd, (struct sockaddr *)&here, sizeof here) != 0)
        fail("bind", errno);
    if (connect(self->fd, (struct sockaddr *)&there, sizeof there) != 0)
        fail("cannot connect", errno);
    watch(self, EPOLL_CTL_ADD, EPOLLIN);
    send_rest(self, 0);
}

/* Send the next request, on the same connection or on a new one. */
static void go_on(struct connection *self)
{
    if (kind == ECHO) {
        self->sent = self->received = 0;
        send_rest(self, 0);
    } else {
        open_connection(self);
    }
}

int main(int argc, char **argv)
{
    static const char *kinds[] = {"echo", "churn", "get"};
    if (argc != 9)
        fail("usage: load KIND PORT CONNECTIONS SIZE WARM_UP_MS DURATION_MS SERVER_PID LIMIT_S", 0);
    for (kind = ECHO; strcmp(argv[1], kinds[kind]) != 0; kind++)
        if (kind == GET)
            fail("KIND is echo, churn or get", 0);
    port = atoi(argv[2]);
    int connections = atoi(argv[3]);
    size = strtoul(argv[4], NULL, 10);
    double warm_up = atoi(argv[5]) / 1e3, duration = atoi(argv[6]) / 1e3;
    alarm(atoi(argv[8]));

    clockid_t server_clock;
    int error = clock_getcpuclockid(atoi(argv[7]), &server_clock);
    if (error)
        fail("cannot find the server's clock", error);
    struct rlimit descriptors;
    if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
        descriptors.rlim_cur = descriptors.rlim_max;
        setrlimit(RLIMIT_NOFILE, &descriptors);
    }
    message = malloc(size);
    all = calloc(connections, sizeof *all);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (!message || !all || poller < 0)
        fail("cannot start", errno);
    for (size_t i = 0; i < size; i++)
        message[i] = 'a' + i % 23;
    request = kind == GET ? REQUEST : message;
    request_size = kind == GET ? sizeof REQUEST - 1 : size;
    for (int i = 0; kind == GET && i < connections; i++)
        if (!(all[i].page = malloc(HEAD + size)))
            fail("cannot start", errno);

    enum { MEETING, WARMING, MEASURING } phase = MEETING;
    int opened = 0, met = 0;
    double turn = 0, start = 0, server_start = 0, clients_start = 0; /* turn: when the next phase begins */
    for (;;) {
        while (opened < connections && opened - met < WAITING)
            open_connection(&all[opened++]);
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(poller, events, EVENTS, 100);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait", errno);
        for (int i = 0; i < ready; i++) {
            struct connection *self = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                send_rest(self, 1);
            if ((events[i].events & ~EPOLLOUT) && (kind == GET ? receive_page(self) : receive_echo(self))) {
                self->count++;
                if (kind != ECHO)
                    close(self->fd);
                if (phase == MEETING)
                    met++; /* and waits for the others */
                else
                    go_on(self);
            }
        }
        double now = seconds(CLOCK_MONOTONIC);
        if (phase == MEETING && met == connections) {
            phase = WARMING;
            turn = now + warm_up;
            for (int i = 0; i < connections; i++)
                go_on(&all[i]);
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
