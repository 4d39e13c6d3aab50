"""Real servers for the tests of libraries, each a process of its own: fresh data, a free port, ended by its number.

    with started(NGINX) as nginx:
        nginx.port, nginx.folder, nginx.version

They are Debian's packages, found on PATH and where Debian puts them. What is not there skips the test, and says what it
lacks. `setpriv` runs them as a user who may do nothing else, since PostgreSQL and MariaDB refuse to be root's, and lets
the kernel end them if the tests are killed.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest

PATIENCE = 30.0
PLACES = os.pathsep.join(
    [
        os.environ.get("PATH", ""),
        "/usr/sbin",
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
    ]
)
USER = "nobody"


@dataclass(frozen=True)
class Kind:
    """A kind of server, and how one is started."""

    name: str
    package: str  # of Debian; for a server written in Python its distribution
    command: object  # (server) -> its arguments, the program first
    prepare: object = None  # (server) -> a command to be run before, or None; may write files
    ready: str = ""  # what its log says when it can be asked; that it listens is awaited anyhow
    end: signal.Signals = signal.SIGTERM
    ports: tuple[str, ...] = ("port",)


@dataclass
class Server:
    """A running server."""

    kind: Kind
    folder: Path
    version: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    silent: socket.socket = None  # listens, accepts and never answers
    pid: int = 0

    @property
    def port(self):
        """Its first port."""
        return self.ports[self.kind.ports[0]]

    @property
    def silent_port(self):
        """The port of somebody who never answers."""
        return self.silent.getsockname()[1]


def program(name, package):
    """The path of a program; without it the test is skipped."""
    path = shutil.which(name, path=PLACES)
    if path is None:
        pytest.skip(f"there is no {name} here: apt-get install {package}, which scripts/test does for root")
    return path


def free_port():
    """A port of the loopback interface that nobody has."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _guarded(command):
    """`command`, ended by the kernel if the tests end first, and without the rights of root unless it is Python."""
    drop = [f"--reuid={USER}", "--regid=nogroup", "--clear-groups"]
    if os.geteuid() != 0 or command[0] == sys.executable:  # which may be where nobody else can read it
        drop = []
    return [program("setpriv", "util-linux"), "--pdeathsig", "KILL", *drop, *command]


@contextmanager
def started(kind):
    """A server of `kind`, which can be asked, for the length of the block."""
    first = kind.command
    with tempfile.TemporaryDirectory(prefix=f"plait-{kind.name}-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = Server(kind, Path(folder))
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(USER)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        server.ports = {name: free_port() for name in kind.ports}
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as server.silent:
            if kind.prepare is not None and (command := kind.prepare(server)) is not None:
                done = subprocess.run(_guarded(command), cwd=folder, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{kind.name} cannot be prepared\n{done.stdout}\n{done.stderr}"
            command = first(server)
            if not server.version:
                server.version = _version(command[0])
            with open(server.folder / "log", "wb") as log:
                process = subprocess.Popen(
                    _guarded(command),
                    cwd=folder,
                    env={**os.environ, "HOME": folder, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            server.pid = process.pid
            try:
                _await(server, process)
                yield server
            finally:
                process.send_signal(kind.end)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _await(server, process):
    limit = time.monotonic() + PATIENCE
    log = server.folder / "log"
    for port in server.ports.values():
        while True:
            assert process.poll() is None, f"{server.kind.name} has ended\n{log.read_text()}"
            assert time.monotonic() < limit, f"{server.kind.name} does not answer\n{log.read_text()}"
            if server.kind.ready in log.read_text():
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    pass
            time.sleep(0.01)


def _version(path):
    """The version that a program tells."""
    for option in ("--version", "-v"):
        done = subprocess.run([path, option], capture_output=True, text=True, check=False)
        if found := re.search(r"\d+\.[\d.]*\d", done.stdout + done.stderr):
            return found[0]
    return "?"


def _written(server, name, text):
    """A file of the server's."""
    path = server.folder / name
    path.write_text(text)
    path.chmod(0o644)
    return path


# ---- the kinds ----


def _prepare_postgres(server):
    return [
        program("initdb", "postgresql"),
        *("-D", "data", "-U", "plait", "-A", "trust", "-N", "-E", "UTF8", "--locale=C", "--no-instructions"),
    ]


POSTGRES = Kind(
    "PostgreSQL",
    "postgresql",
    lambda server: [
        program("postgres", "postgresql"),
        *("-D", "data", "-p", str(server.port), "-k", str(server.folder), "-c", "listen_addresses=127.0.0.1"),
        *("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "max_connections=100"),
    ],
    _prepare_postgres,
    ready="ready to accept connections",
    end=signal.SIGINT,  # does not wait for clients
)


def _prepare_mariadb(server):
    (server.folder / "data").mkdir()
    if os.geteuid() == 0:
        shutil.chown(server.folder / "data", USER)
    _written(server, "init", "CREATE DATABASE plait;")


MARIADB = Kind(
    "MariaDB",
    "mariadb-server-core",
    lambda server: [
        program("mariadbd", "mariadb-server-core"),
        *("--no-defaults", f"--datadir={server.folder}/data", f"--port={server.port}", "--bind-address=127.0.0.1"),
        *(f"--socket={server.folder}/socket", "--skip-grant-tables", "--skip-name-resolve"),
        *(f"--init-file={server.folder}/init", "--innodb-use-native-aio=0"),
        *("--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"),
    ],
    _prepare_mariadb,
    ready="ready for connections",
    end=signal.SIGKILL,  # its data is thrown away, and an orderly end takes seconds
)

REDIS = Kind(
    "Redis",
    "redis-server",
    lambda server: [
        program("redis-server", "redis-server"),
        *("--port", str(server.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--databases", "1"),
    ],
    ready="Ready to accept connections",
)

MEMCACHED = Kind(
    "memcached",
    "memcached",
    lambda server: [
        program("memcached", "memcached"),
        "-l",
        "127.0.0.1",
        "-p",
        str(server.port),
        "-U",
        "0",
        "-m",
        "16",
    ],
    end=signal.SIGKILL,  # otherwise it ends at its next tick, of a second
)

_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen 127.0.0.1:{tls} ssl backlog=4096;
        root {folder};
        location ~ ^/echo/(.*)$ {{ return 200 $1; }}
        location /reset {{ return 444; }}
        location /never {{ proxy_pass http://127.0.0.1:{silent}; proxy_read_timeout 3600; }}
        location /big {{ }}
    }}
}}
"""


def _prepare_nginx(server):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    _written(server, "authority.pem", authority.cert_pem.bytes().decode())
    _written(server, "certificate.pem", "".join(part.bytes().decode() for part in certificate.cert_chain_pems))
    _written(server, "key.pem", certificate.private_key_pem.bytes().decode())
    _written(server, "big", "x" * (1 << 20))
    _written(server, "conf", _NGINX.format(folder=server.folder, silent=server.silent_port, **server.ports))


NGINX = Kind(
    "nginx",
    "nginx",
    lambda server: [program("nginx", "nginx"), "-c", f"{server.folder}/conf", "-e", "stderr", "-p", f"{server.folder}"],
    _prepare_nginx,
    ports=("port", "tls"),
)


def _python(server, *arguments):
    """A server written in Python, run by the interpreter of the tests."""
    try:
        server.version = metadata.version(server.kind.package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{server.kind.package} is not installed: pip install --group libraries")
    return [sys.executable, *arguments]


MOTO = Kind(
    "moto's server",
    "moto",
    lambda server: _python(server, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)),
)

SMTP = Kind(
    "aiosmtpd",
    "aiosmtpd",
    lambda server: _python(
        server, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{server.port}", "-c", "aiosmtpd.handlers.Sink"
    ),
)


def _prepare_ftp(server):
    (server.folder / "files").mkdir()
    if os.geteuid() == 0:
        shutil.chown(server.folder / "files", USER)
    (server.folder / "files" / "big").write_bytes(bytes(1 << 20))


# Its plain server takes an event of a connection that has just been closed for one of the next with its descriptor.
_FTP = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import ThreadedFTPServer

FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_user("user", "secret", sys.argv[2], perm="elradfmwMT")
ThreadedFTPServer(("127.0.0.1", int(sys.argv[1])), FTPHandler).serve_forever()
"""

FTP = Kind(
    "pyftpdlib",
    "pyftpdlib",
    lambda server: _python(server, "-c", _FTP, str(server.port), f"{server.folder}/files"),
    _prepare_ftp,
)


def _web(framework):
    app = str(Path(__file__).with_name("apps.py"))
    return lambda server: _python(server, "-m", "plait", "--virtual-threads", app, framework, str(server.port))


FLASK = Kind("Flask", "Flask", _web("flask"))
DJANGO = Kind("Django", "Django", _web("django"))
