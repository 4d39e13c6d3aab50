"""A PostgreSQL server of the tests' own: fresh data, a free port of the loopback interface, an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 30.0
_USER = "nobody"


def _program(name):
    places = [os.environ.get("PATH", ""), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        pytest.skip(f"there is no {name} here: apt-get install postgresql")
    return path


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextmanager
def postgres():
    """The server, at work for the length of the block; where it is, as a connection string."""
    initdb, server, setpriv = _program("initdb"), _program("postgres"), _program("setpriv")
    guard = [setpriv, "--pdeathsig", "KILL"]
    with tempfile.TemporaryDirectory(prefix="plait-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            os.chown(folder, user.pw_uid, user.pw_gid)
            guard += [f"--reuid={_USER}", "--regid=nogroup", "--clear-groups"]
        done = subprocess.run(
            [*guard, initdb, "-D", "data", "-U", "plait", "-A", "trust", "--no-sync", "-E", "UTF8"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        port = _free_port()
        options = ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=60", f"unix_socket_directories={folder}"]
        with open(Path(folder, "log"), "wb") as log:
            process = subprocess.Popen(
                [*guard, server, "-D", "data", "-p", str(port), *(word for name in options for word in ("-c", name))],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            limit = time.monotonic() + PATIENCE
            while "ready to accept connections" not in (said := Path(folder, "log").read_text()):
                assert process.poll() is None, said
                assert time.monotonic() < limit, said
                time.sleep(0.01)
            yield f"host=127.0.0.1 port={port} user=plait dbname=postgres"
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for clients
            try:
                process.wait(10)
            finally:
                process.kill()
                process.wait()
