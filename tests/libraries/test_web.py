"""The development servers of Flask and Django under `python -m plait --virtual-threads`: each request on a virtual thread.

The application looks at itself from inside (apps.py), and the tests ask it, on virtual threads of theirs.
"""

from __future__ import annotations

import gc
import http.client
import json
import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib import metadata

import pytest
from libraries import daemons
from patch.helpers import carriers, wait_until

from plait import ThreadGroup

# Who is cancelled inside of socket.create_connection() leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MANY = 200
FEW = 40  # threads of the operating system


@pytest.fixture(scope="session", params=[daemons.FLASK, daemons.DJANGO], ids=["Flask", "Django"])
def server(request, server_of):
    """A development server at work."""
    return server_of(request.param)


@pytest.fixture
def client(server, request):
    """Asks the server; what is tried goes to the report."""
    for name, value in {
        "interpreter": f"CPython {platform.python_version()}",
        "carriers": carriers(),
        "library": server.kind.package,
        "version": metadata.version(server.kind.package),
        "server": "its development server, under `python -m plait --virtual-threads`",
        "tried": request.function.__doc__.partition(":")[0],
    }.items():
        request.node.user_properties.append((name, str(value)))
    yield Client(server)
    gc.collect()


class Client:
    """Asks a server, over a connection for each question. The server has a short queue for those who connect."""

    def __init__(self, server):
        self._port, self.pid = server.port, server.pid
        self._connecting = threading.Semaphore(4)

    @contextmanager
    def asked(self, path):
        """The connection on which `path` was asked for."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        try:
            with self._connecting:
                connection.connect()
            connection.request("GET", path)
            yield connection
        finally:
            connection.close()

    def get(self, path, status=200):
        with self.asked(path) as connection:
            response = connection.getresponse()
            assert response.status == status
            return response.read().decode()

    def state(self):
        return json.loads(self.get("/state/now"))

    def threads(self):
        """How many threads of the operating system the server has."""
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def verify_whole(self):
        """It serves, and nothing is lost: no place of its pool, and not its lock."""
        assert self.get("/echo/text") == "text"
        wait_until(lambda: self.state()["places"] == 4)


def test_at_work(client):
    """200 at work: each waits in the server at the same time, which needs few threads and goes on ticking."""
    before = client.state()["ticks"]
    with ThreadGroup() as group:
        started = time.monotonic()
        futures = [group.spawn(client.get, f"/slow/{number}") for number in range(MANY)]
        most = 0
        while not all(future.done() for future in futures):
            most = max(most, client.threads())
            time.sleep(0.01)
        assert [future.result() for future in futures] == [str(number) for number in range(MANY)]
    assert time.monotonic() - started < MANY * 0.3 / 4
    assert most < FEW
    assert client.state()["ticks"] > before + 10


def test_canary(client):
    """canary: ticks in the server while a request waits in it."""
    with client.asked("/never/canary"):
        wait_until(lambda: "canary" in client.state()["waiting"])
        before = client.state()["ticks"]
        wait_until(lambda: client.state()["ticks"] >= before + 5)
    client.verify_whole()


def test_failure(client):
    """failure: of one request is its own, and the others are answered."""
    with ThreadGroup() as group:
        futures = [group.spawn(client.get, f"/slow/{number}") for number in range(20)]
        failed = group.spawn(client.get, "/fail/text", 500)
    assert "Error" in failed.result()
    assert [future.result() for future in futures] == [str(number) for number in range(20)]
    client.verify_whole()


def test_cancel(client):
    """cancel: of 200 callers, who hang up while they are served."""
    with ThreadGroup() as group:
        for number in range(MANY):
            group.spawn(client.get, f"/slow/{number}")
        client.get("/slow/other")
        group.cancel()
    client.verify_whole()


def test_reloader():
    """Django's own, which runs the server once more, has not changed the function by which it finds the command."""
    pytest.importorskip("django")
    code = "from django.utils.autoreload import get_child_arguments; print(get_child_arguments())"
    command = [sys.executable, "-m", "plait", "--virtual-threads", "-c", code, "runserver"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{command}\n"


def test_sweep(client, request):
    """swept: a request that is cancelled in the server, at each park."""
    attempts, was_reached = 0, True
    while was_reached:
        attempts += 1
        seen = json.loads(client.get(f"/sweep/{attempts}"))
        was_reached = seen["was_reached"]
        assert seen["was_cut"] is was_reached
        client.verify_whole()
        assert attempts < 100
    assert attempts > 2  # it sleeps twice; what the kernel answers at once does not park
    request.node.user_properties.append(("attempts", str(attempts)))
