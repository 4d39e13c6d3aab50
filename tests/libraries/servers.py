"""A loopback server for the tests of libraries."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers /echo/<text> with the text, /slow/<seconds> late, /never not at all, /big with a megabyte."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        _, what, *rest = self.path.split("/")
        if what == "slow":
            time.sleep(float(rest[0]))
        elif what == "never":
            self.server.is_over.wait()
        body = bytes(1 << 20) if what == "big" else "/".join(rest).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def setup(self):
        super().setup()
        self.server.connections += 1

    def log_message(self, format, *args):
        """Nothing."""


class Server(ThreadingHTTPServer):
    """Counts its connections; ends without waiting for those that are open."""

    request_queue_size = 256
    daemon_threads = True
    block_on_close = False
    connections = 0

    def handle_error(self, request, client_address):
        """Clients that are cancelled hang up."""


@contextmanager
def http_server(spawn=None):
    """A server at work on a platform thread, or where `spawn` puts it; gives it with its `url`."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.is_over = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = None
        if spawn is None:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
        else:
            spawn(server.serve_forever, 0.01)
        try:
            yield server
        finally:
            server.is_over.set()
            server.shutdown()
            if thread is not None:
                thread.join()
