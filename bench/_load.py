"""The clients of the echo benchmark: ``_load.c``, compiled at its first use, or the same in Python without a compiler.

As a program this module is the Python version: ``python -m bench._load`` with the arguments of ``_load.c``.
"""

from __future__ import annotations

import functools
import json
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench._process import ROOT, ContenderError

if TYPE_CHECKING:
    from bench._model import Params, Sample
    from bench._process import Child

#: Seconds that the clients may take beyond warm-up and measurement, to connect and to have their first echo.
PATIENCE = 20
CHUNK = 65_536


def drive(child: Child, port: int, params: Params) -> Sample:
    """Let the clients loose on the server in ``child``, and return what they and its processor clock say."""
    # The clients end themselves when the limit is over, as every child does.
    limit = PATIENCE + (params["warm_up_ms"] + params["duration_ms"]) // 1000 + 1
    sizes = [params[name] for name in ("connections", "size", "warm_up_ms", "duration_ms")]
    arguments = [str(number) for number in (port, *sizes, child.pid, limit)]
    clients = subprocess.run([*clients_command(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if clients.returncode != 0:
        said = clients.stderr.strip().splitlines() or [f"the clients ended with {clients.returncode}"]
        raise ContenderError(f"{said[-1]}; {child.state()}", child.said())
    seen = json.loads(clients.stdout)
    if not seen["requests"]:
        raise ContenderError("not a single echo came back")
    return {
        "throughput": seen["requests"] / seen["seconds"],
        "cpu": seen["server"] / seen["requests"] * 1e6,
        "server busy": seen["server"] / seen["seconds"] * 100,
        "clients busy": seen["clients"] / seen["seconds"] * 100,
        "fairness": seen["fewest"] / seen["most"] * 100,
    }


@functools.cache
def clients_command() -> tuple[str, ...]:
    """Return the command that runs the clients, compiled if there is a compiler."""
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if compiler is not None:
        program = _scratch() / "load"
        source = Path(__file__).with_suffix(".c")
        compiled = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(source)], capture_output=True, text=True, check=False
        )
        if compiled.returncode == 0:
            return (str(program),)
        sys.stderr.write(compiled.stderr)
    sys.stderr.write("echo: no working C compiler, so the clients are in Python and may be the limit themselves\n")
    return (sys.executable, "-m", "bench._load")


def describe_clients() -> str:
    """Say what the clients are."""
    return "the clients are in Python" if sys.executable in clients_command() else "the clients are in C"


@functools.cache
def _scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory that is removed when this process ends."""
    return tempfile.TemporaryDirectory(prefix="plait-bench-")


def _scratch() -> Path:
    return Path(_scratch_directory().name)


class Connection:
    """One client: its socket, and what has become of the message in flight."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sent = 0
        self.received = 0
        self.count = 0


class Clients:
    """All clients of one server, in one epoll loop."""

    def __init__(self, port: int, connections: int, size: int) -> None:
        self.message = bytes(ord("a") + position % 23 for position in range(size))
        self.poller = select.epoll()
        self.all = [Connection(port) for _ in range(connections)]
        self._by_fd = {connection.socket.fileno(): connection for connection in self.all}
        for fd in self._by_fd:
            self.poller.register(fd, select.EPOLLIN)
        for connection in self.all:
            self._send(connection)

    def run(self, until: float) -> float:
        """Go on until that time, or, if it is 0, until every client has had its first echo; return the time then."""
        while True:
            for fd, events in self.poller.poll(0.1):
                connection = self._by_fd[fd]
                if events & select.EPOLLOUT:
                    self._send(connection)
                if events & ~select.EPOLLOUT and self._receive(connection):
                    connection.count += 1
                    connection.sent = connection.received = 0
                    self._send(connection)
            now = time.monotonic()
            if now >= until if until else all(connection.count for connection in self.all):
                return now

    def _send(self, connection: Connection) -> None:
        try:
            while connection.sent < len(self.message):
                connection.sent += connection.socket.send(self.message[connection.sent :])
        except BlockingIOError:
            self.poller.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        else:
            self.poller.modify(connection.socket, select.EPOLLIN)

    def _receive(self, connection: Connection) -> bool:
        data = connection.socket.recv(min(CHUNK, len(self.message) - connection.received))
        if not data:
            sys.exit("the server has closed a connection")
        end = connection.received + len(data)
        if data != self.message[connection.received : end]:
            sys.exit("the server sent back something else than it got")
        connection.received = end
        return end == len(self.message)


def main() -> None:
    """Do what ``_load.c`` does."""
    port, connections, size, warm_up, duration, pid, limit = map(int, sys.argv[1:])
    signal.alarm(limit)
    server_clock = (~pid << 3) | 2  # what clock_getcpuclockid(3) returns
    clients = Clients(port, connections, size)
    clients.run(until=0)
    clients.run(until=time.monotonic() + warm_up / 1e3)
    for connection in clients.all:
        connection.count = 0
    server, own = time.clock_gettime(server_clock), time.process_time()
    start = time.monotonic()
    end = clients.run(until=start + duration / 1e3)
    counts = [connection.count for connection in clients.all]
    seen = {
        "requests": sum(counts),
        "seconds": end - start,
        "server": time.clock_gettime(server_clock) - server,
        "clients": time.process_time() - own,
        "fewest": min(counts),
        "most": max(counts),
    }
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
