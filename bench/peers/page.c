/* A web server with a single page: answers each request without a body, whatever it asks for (see server.h).
 *
 *     page SIZE
 *
 * The page has that size, and its bytes are those of _load.c's messages. Connections are kept.
 */
#include "server.h"

static char *answer;
static size_t answer_size;

static int receive(struct connection *self, const char *data, size_t size)
{
    static const char end[] = "\r\n\r\n"; /* of a request; self->state says how much of it has come */
    for (size_t i = 0; i < size; i++) {
        self->state = data[i] == end[self->state] ? self->state + 1 : data[i] == '\r';
        if (self->state == 4) {
            self->state = 0;
            if (!send_all(self, answer, answer_size))
                return 0;
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n";
    if (argc != 2) {
        fprintf(stderr, "usage: page SIZE\n");
        return 1;
    }
    size_t size = strtoul(argv[1], NULL, 10);
    answer = malloc(sizeof head + 20 + size);
    if (!answer)
        fail("malloc");
    answer_size = sprintf(answer, head, size);
    for (size_t i = 0; i < size; i++)
        answer[answer_size++] = 'a' + i % 23;
    run();
}
