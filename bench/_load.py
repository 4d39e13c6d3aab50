"""The clients of the servers that are measured: ``_load.c``, or the same in Python where there is no C compiler.

As a program this module is the Python version: ``python -m bench._load`` with the arguments of ``_load.c``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench._process import ROOT, ContenderError, processor_seconds
from bench._programs import MissingError, command

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from bench._model import Params, Sample
    from bench._process import Child

#: Seconds that the clients may take beyond warm-up and measurement, to connect and to have their first answer.
PATIENCE = 20
CHUNK = 65_536
#: Connections that may wait to be accepted.
WAITING = 256
#: Addresses of this side, so that the ports last however many connections are closed.
ADDRESSES = 64
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def drive(child: Child, params: Params, kind: str, watched: AbstractContextManager[object] | None = None) -> Sample:
    """Let the clients loose on the server in ``child``, once it has told its port, and return what they and its clock say.

    What the clients do is told by ``kind``: ``echo``, ``churn`` or ``get`` (see ``_load.c``). They do it inside ``watched``.
    """
    port = int(child.read_report()["port"])
    # The clients end themselves when the limit is over, as every child does.
    limit = PATIENCE + (params["warm_up_ms"] + params["duration_ms"]) // 1000 + 1
    sizes = [params[name] for name in ("connections", "size", "warm_up_ms", "duration_ms")]
    arguments = [kind, *(str(number) for number in (port, *sizes, child.pid, limit))]
    with contextlib.nullcontext() if watched is None else watched:
        clients = subprocess.run(
            [*clients_command(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
    if clients.returncode != 0:
        said = clients.stderr.strip().splitlines() or [f"the clients ended with {clients.returncode}"]
        raise ContenderError(f"{said[-1]}; {child.state()}", child.said())
    seen = json.loads(clients.stdout)
    if not seen["requests"]:
        raise ContenderError("not a single answer came back")
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
    try:
        return command("_load.c")
    except MissingError as error:
        sys.stderr.write(f"{error}: the clients are in Python and may be the limit themselves\n")
        return (sys.executable, "-m", "bench._load")


def describe_clients() -> str:
    """Say what the clients are."""
    return "the clients are in Python" if sys.executable in clients_command() else "the clients are in C"


def message_of(size: int) -> bytes:
    """Return what is sent to be echoed, or the body that is expected."""
    return bytes(ord("a") + position % 23 for position in range(size))


class Connection:
    """One client: its socket, and what has become of the request in flight."""

    socket: socket.socket

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0
        self.sent = 0
        self.answer = b""


class Clients:
    """All clients of one server, in one epoll loop."""

    def __init__(self, kind: str, port: int, connections: int, size: int) -> None:
        self.kind = kind
        self.port = port
        self.message = message_of(size)
        self.request = REQUEST if kind == "get" else self.message
        self.poller = select.epoll()
        self.all = [Connection(number) for number in range(connections)]
        self._by_fd: dict[int, Connection] = {}

    def meet(self) -> None:
        """Open all connections and wait until each has had its first answer; then let them go on."""
        opened = met = 0
        while met < len(self.all):
            while opened < len(self.all) and opened - met < WAITING:
                self._open(self.all[opened])
                opened += 1
            met += len(self._answered())
        for connection in self.all:
            self._go_on(connection)

    def run(self, until: float) -> float:
        """Go on until that time; return the time then."""
        while True:
            for connection in self._answered():
                self._go_on(connection)
            now = time.monotonic()
            if now >= until:
                return now

    def _open(self, connection: Connection) -> None:
        connection.socket = opened = socket.socket()
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(
            AttributeError
        ):  # not every version has the name: then bind picks the port, from fewer
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        opened.bind((f"127.0.0.{1 + connection.number % ADDRESSES}", 0))
        opened.connect(("127.0.0.1", self.port))
        opened.setblocking(False)
        self._by_fd[opened.fileno()] = connection
        self.poller.register(opened, select.EPOLLIN)
        connection.sent = 0
        connection.answer = b""
        self._send(connection)

    def _go_on(self, connection: Connection) -> None:
        if self.kind == "echo":
            connection.sent = 0
            connection.answer = b""
            self._send(connection)
        else:
            self._open(connection)

    def _answered(self) -> list[Connection]:
        """Do what can be done, after a wait if need be; return the connections whose answer has come."""
        answered = []
        for fd, events in self.poller.poll(0.1):
            connection = self._by_fd[fd]
            if events & select.EPOLLOUT:
                self._send(connection)
            if events & ~select.EPOLLOUT and self._receive(connection):
                connection.count += 1
                answered.append(connection)
                if self.kind != "echo":
                    connection.socket.close()
        return answered

    def _send(self, connection: Connection) -> None:
        try:
            while connection.sent < len(self.request):
                connection.sent += connection.socket.send(self.request[connection.sent :])
        except BlockingIOError:
            self.poller.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)
        else:
            self.poller.modify(connection.socket, select.EPOLLIN)

    def _receive(self, connection: Connection) -> bool:
        """Receive some of the answer; return whether that was its end."""
        try:
            data = connection.socket.recv(CHUNK)
        except BlockingIOError:
            return False
        connection.answer += data
        if self.kind == "get":
            head, _, body = connection.answer.partition(b"\r\n\r\n")
            if not data and not (head.startswith(b"HTTP/1.") and head[8:13] == b" 200 " and body == self.message):
                sys.exit("the server sent another page than it should")
            return not data
        if not data:
            sys.exit("the server has closed a connection")
        if not self.message[: connection.sent].startswith(connection.answer):
            sys.exit("the server sent back something else than it got")
        return len(connection.answer) == len(self.message)


def main() -> None:
    """Do what ``_load.c`` does."""
    port, connections, size, warm_up, duration, pid, limit = map(int, sys.argv[2:])
    signal.alarm(limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    clients = Clients(sys.argv[1], port, connections, size)
    clients.meet()
    clients.run(until=time.monotonic() + warm_up / 1e3)
    for connection in clients.all:
        connection.count = 0
    server, own = processor_seconds(pid), time.process_time()
    start = time.monotonic()
    end = clients.run(until=start + duration / 1e3)
    counts = [connection.count for connection in clients.all]
    seen = {
        "requests": sum(counts),
        "seconds": end - start,
        "server": processor_seconds(pid) - server,
        "clients": time.process_time() - own,
        "fewest": min(counts),
        "most": max(counts),
    }
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
