"""The server that download_all.py downloads from: CPython's own http.server over one directory.

It runs in a process of its own, prints its port on one line, and serves until its standard input is closed. A parent that
ends, in whatever way, closes it; so no server is left behind.
"""

import argparse
import http.server
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a directory, each after a delay. What does not exist is refused at once."""

    delay = 0.0

    def do_GET(self) -> None:
        if Path(self.translate_path(self.path)).is_file():
            time.sleep(self.delay)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024  # hundreds of clients may connect at the same moment; the default keeps five waiting

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away in the middle of an answer is what --fail is about.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    parser.add_argument("--latency", type=float, default=0.0, metavar="MS", help="wait this long before each file")
    options = parser.parse_args()

    Handler.delay = options.latency / 1000

    def handler(*args: Any) -> Handler:
        return Handler(*args, directory=options.directory)

    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, flush=True)
        try:
            sys.stdin.read()
        except KeyboardInterrupt:
            pass
        server.shutdown()


if __name__ == "__main__":
    main()
