/* The limit of an echo server: sends back what it gets (see server.h).
 *
 *     echo
 */
#include "server.h"

static int receive(struct connection *self, const char *data, size_t size)
{
    return send_all(self, data, size);
}

int main(void)
{
    run();
}
