"""The programs whose instructions ``bench.instructions`` counts: one operation, so many times, on one carrier.

    python -m bench._counted spawn|switch|echo|cancel TIMES

Nothing outside this process takes part, so that two runs do the same: the echo is between two virtual threads.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

from plait import ThreadGroup

#: Threads of a group, as in the benchmark ``spawn``.
GROUP = 1_000
#: Bytes of an echo, as in the benchmark ``echo``.
SIZE = 1_024


def trivial() -> None:
    """Do nothing."""


def spawn(times: int) -> None:
    """Spawn and finish threads that do nothing, in groups."""
    for _ in range(times // GROUP):
        with ThreadGroup() as group:
            for _ in range(GROUP):
                group.spawn(trivial)


def yield_often(times: int) -> None:
    """Let others run, again and again."""
    for _ in range(times):
        time.sleep(0)


def switch(times: int) -> None:
    """Let two threads yield to each other."""
    with ThreadGroup() as group:
        for _ in range(2):
            group.spawn(yield_often, times // 2)


def serve(listener: socket.socket) -> None:
    """Send back what one connection brings, until it ends."""
    connection, _ = listener.accept()
    with connection:
        while data := connection.recv(65_536):
            connection.sendall(data)


def echo(times: int) -> None:
    """Send a message over loopback, and receive it back: a send and a recv at either end."""
    message = bytes(SIZE)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadGroup() as group:
        group.spawn(serve, listener)
        with socket.create_connection(listener.getsockname()) as connection:
            for _ in range(times):
                connection.sendall(message)
                connection.recv(65_536)


def sleep_long(parked: list[None], are_parked: threading.Event) -> None:
    """Sleep until cancelled; the last of a group says that all sleep, and runs on until it does, too."""
    parked.append(None)
    if len(parked) == GROUP:
        are_parked.set()
    time.sleep(3600)


def cancel(times: int) -> None:
    """Spawn threads that sleep, in groups, and cancel each group when all sleep."""
    for _ in range(times // GROUP):
        parked: list[None] = []
        are_parked = threading.Event()
        with ThreadGroup() as group:
            for _ in range(GROUP):
                group.spawn(sleep_long, parked, are_parked)
            are_parked.wait()
            group.cancel()


OPERATIONS = {"spawn": spawn, "switch": switch, "echo": echo, "cancel": cancel}


def main() -> None:
    """Do what the arguments say, from inside a virtual thread."""
    with ThreadGroup() as group:
        group.spawn(OPERATIONS[sys.argv[1]], int(sys.argv[2])).result()


if __name__ == "__main__":
    main()
