"""The libraries that are tried on real servers: one class each, which says how it is used.

Each makes a client with a pool of so many places, or, where the library has none, connections in a queue as people
write it (`Places`). The tests in test_servers.py know nothing else of a library.
"""

from __future__ import annotations

import errno
import ftplib
import hashlib
import http.client
import io
import queue
import smtplib
import ssl
from contextlib import contextmanager, suppress

from libraries import daemons

CLIENTS = {}


class Client:
    """How a library is used. Subclasses are added to the table by their title."""

    title = ""  # as in the table
    distribution = None  # on PyPI; None: the standard library's
    kind = None  # of server
    needs = ()  # modules
    soon = 2.0  # seconds in which it has given up after an interrupt
    forgives = ()  # errors of the library's own making when it is interrupted
    loses_places = False  # in its pool, when it is interrupted, by a fault of its own: a new client must serve
    remark = ""  # for the table

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.title:
            CLIENTS[cls.title] = cls

    def __init__(self, server, size):
        """A client with a pool of `size` places. It has not connected yet."""
        raise NotImplementedError

    def prepare(self):
        """Make what the work needs on the server, once for a client of each test."""

    def work(self, number):
        """A whole use, with an answer that is checked."""
        raise NotImplementedError

    @contextmanager
    def hold(self):
        """Have a connection for the length of the block, with something on the way."""
        raise NotImplementedError
        yield

    def wait(self):
        """A use that is not answered for a long time."""
        raise NotImplementedError

    def fail(self):
        """A use that fails with `self.error`."""
        raise NotImplementedError

    def close(self):
        """End all connections."""
        raise NotImplementedError


class Places:
    """A pool as people write it: connections in a queue. One that was in use when anything was raised is closed."""

    def __init__(self, size, connect, close):
        self._connect, self._close = connect, close
        self._queue = queue.LifoQueue()
        for _ in range(size):
            self._queue.put(None)

    @contextmanager
    def connection(self):
        """A connection for the length of the block."""
        connection = self._queue.get()
        try:
            if connection is None:
                connection = self._connect()
            yield connection
        except BaseException:
            if connection is not None:
                self._close(connection)
                connection = None
            raise
        finally:
            self._queue.put(connection)

    def close(self):
        """Close those that nobody uses."""
        with suppress(queue.Empty):
            while True:
                if (connection := self._queue.get_nowait()) is not None:
                    self._close(connection)


# ---- HTTP ----


class _Http(Client):
    kind = daemons.NGINX
    is_tls = False

    def __init__(self, server, size):
        self.url = f"https://localhost:{server.ports['tls']}" if self.is_tls else f"http://localhost:{server.port}"
        self.authority = str(server.folder / "authority.pem")
        self.open(size)

    def work(self, number):
        assert self.get(f"/echo/{number}") == b"%d" % number

    def wait(self):
        self.get("/never")

    def fail(self):
        self.get("/reset")


_FULL_POOL = "may raise FullPoolError for a thread that is interrupted while it waits for a connection"


class Urllib3(_Http):
    """A thread that has not been given a connection yet gives one back all the same when it is interrupted

    (`HTTPConnectionPool.urlopen`, its `finally`), and complains if that is one too many.
    """

    remark = _FULL_POOL
    title = "urllib3"
    distribution = "urllib3"
    needs = ("urllib3",)

    def open(self, size):
        import urllib3

        self.error = urllib3.exceptions.ProtocolError
        self.forgives = (urllib3.exceptions.FullPoolError,)
        tls = {"ca_certs": self.authority} if self.is_tls else {}
        self._pool = urllib3.PoolManager(maxsize=size, block=True, retries=False, **tls)

    def get(self, path):
        return self._pool.request("GET", self.url + path).data

    @contextmanager
    def hold(self):
        response = self._pool.request("GET", self.url + "/big", preload_content=False)
        yield
        assert len(response.read()) == 1 << 20
        response.release_conn()

    def close(self):
        self._pool.clear()


class Requests(_Http):
    remark = _FULL_POOL
    title = "requests"
    distribution = "requests"
    needs = ("requests",)

    def open(self, size):
        import requests
        import urllib3

        self.error = requests.exceptions.ConnectionError
        self.forgives = (urllib3.exceptions.FullPoolError,)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = self.authority
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(1, size, pool_block=True))

    def get(self, path):
        return self._session.get(self.url + path).content

    @contextmanager
    def hold(self):
        with self._session.get(self.url + "/big", stream=True) as response:
            yield
            assert len(response.content) == 1 << 20

    def close(self):
        self._session.close()


class Httpx(_Http):
    """Its pool has two faults, which need no plait.

    Who is interrupted when it has just been given a new connection leaves that in the pool for ever (encode/httpcore#1093).
    And it looks at a connection while another thread takes it, and may close it as one that the server has closed: of a
    thousand requests by eight ordinary threads one is told EBADF.
    """

    title = "httpx"
    loses_places = True
    remark = (
        "a new client after each interrupt (encode/httpcore#1093); "
        "asked again if its pool has closed a connection in use, as it does on ordinary threads"
    )
    distribution = "httpx"
    needs = ("httpx",)

    def open(self, size):
        import httpx

        self._size = size
        self.error = httpx.RemoteProtocolError
        self._read_error = httpx.ReadError
        self._client = httpx.Client(
            base_url=self.url,
            limits=httpx.Limits(max_connections=size),
            verify=ssl.create_default_context(cafile=self.authority),
            trust_env=False,
            timeout=3600,
        )

    def get(self, path):
        while True:
            try:
                return self._client.get(path).content
            except self._read_error as error:
                if f"[Errno {errno.EBADF}]" not in str(error):
                    raise

    @contextmanager
    def hold(self):
        with self._client.stream("GET", "/big") as response:
            yield
            assert len(response.read()) == 1 << 20

    def renew(self):
        self.close()
        self.open(self._size)

    def close(self):
        self._client.close()


class HttpClient(_Http):
    title = "http.client"

    def open(self, size):
        self.error = http.client.RemoteDisconnected
        self._places = Places(size, self._connect, http.client.HTTPConnection.close)
        self.close = self._places.close

    def _connect(self):
        host, port = self.url.partition("://")[2].split(":")
        if self.is_tls:
            context = ssl.create_default_context(cafile=self.authority)
            return http.client.HTTPSConnection(host, int(port), context=context)
        return http.client.HTTPConnection(host, int(port))

    def get(self, path):
        with self._places.connection() as connection:
            connection.request("GET", path)
            return connection.getresponse().read()

    @contextmanager
    def hold(self):
        with self._places.connection() as connection:
            connection.request("GET", "/big")
            response = connection.getresponse()
            yield
            assert len(response.read()) == 1 << 20


for _plain in (Urllib3, Requests, Httpx, HttpClient):
    type(f"{_plain.__name__}Tls", (_plain,), {"title": f"{_plain.title} over TLS", "is_tls": True})


# ---- stores ----


class Redis(Client):
    title = "redis-py"
    remark = (
        "BlockingConnectionPool loses a place for an interrupt while it makes a connection, as it does for Ctrl-C there"
    )
    distribution = "redis"
    kind = daemons.REDIS
    needs = ("redis",)

    def __init__(self, server, size):
        import redis

        self.error = redis.ResponseError
        self._redis = redis.Redis(
            connection_pool=redis.BlockingConnectionPool(
                host="127.0.0.1", port=server.port, max_connections=size, timeout=None
            )
        )

    def prepare(self):
        # All connections: for each it reads a file, which is a cancel point, with the place in its hand.
        pool = self._redis.connection_pool
        for connection in [pool.get_connection() for _ in range(pool.max_connections)]:
            pool.release(connection)

    def work(self, number):
        key = f"key {number}"
        with self._redis.pipeline(transaction=True) as pipe:
            results = pipe.set(key, number).get(key).delete(key).execute()
        assert results == [True, b"%d" % number, 1]

    @contextmanager
    def hold(self):
        with self._redis.pipeline() as pipe:
            pipe.watch("held")
            yield
            assert pipe.get("held") is None

    def wait(self):
        self._redis.blpop("nothing", 0)

    def fail(self):
        self._redis.execute_command("NO SUCH COMMAND")

    def close(self):
        self._redis.close()
        self._redis.connection_pool.disconnect()


class Pymemcache(Client):
    """Its PooledClient loses a place whenever anything but an Exception is raised, also by Ctrl-C."""

    title = "pymemcache"
    remark = "Client; PooledClient loses a place for each interrupt, as it does for each Ctrl-C"
    distribution = "pymemcache"
    kind = daemons.MEMCACHED
    needs = ("pymemcache",)

    def __init__(self, server, size):
        import pymemcache

        self.error = pymemcache.exceptions.MemcacheError
        self._silent = ("127.0.0.1", server.silent_port)
        self._make = pymemcache.Client
        address = ("127.0.0.1", server.port)
        self._places = Places(size, lambda: pymemcache.Client(address), pymemcache.Client.close)
        self.close = self._places.close

    def work(self, number):
        with self._places.connection() as client:
            assert client.set(f"key{number}", b"%d" % number, noreply=False)
            assert client.get_many([f"key{number}", "other"]) == {f"key{number}": b"%d" % number}
            assert client.delete(f"key{number}", noreply=False)

    @contextmanager
    def hold(self):
        with self._places.connection() as client:
            client.version()
            yield
            client.version()

    def wait(self):
        with self._places.connection():
            client = self._make(self._silent)
            try:
                client.get("key")
            finally:
                client.close()

    def fail(self):
        with self._places.connection() as client:
            client.incr("key", -1)


# ---- others ----


class Boto3(Client):
    title = "boto3"
    distribution = "boto3"
    kind = daemons.MOTO
    needs = ("boto3",)

    def __init__(self, server, size):
        import boto3
        import botocore

        self.error = botocore.exceptions.ClientError
        self._session = boto3.Session("key", "secret", region_name="us-east-1")
        self._config = botocore.config.Config(
            max_pool_connections=size, retries={"total_max_attempts": 1}, proxies={}, read_timeout=3600
        )
        self._url = f"http://127.0.0.1:{server.port}"
        self._s3, self._sqs = self._client("s3"), self._client("sqs")

    def _client(self, service):
        return self._session.client(service, endpoint_url=self._url, config=self._config)

    def prepare(self):
        self._s3.create_bucket(Bucket="bucket")
        self._s3.put_object(Bucket="bucket", Key="big", Body=bytes(1 << 20))
        self._queue = self._sqs.create_queue(QueueName="queue")["QueueUrl"]

    def work(self, number):
        body = b"%d" % number
        answer = self._s3.put_object(Bucket="bucket", Key=f"key {number}", Body=body)
        assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'

    @contextmanager
    def hold(self):
        with self._s3.get_object(Bucket="bucket", Key="big")["Body"] as body:
            yield
            assert len(body.read()) == 1 << 20

    def wait(self):
        self._sqs.receive_message(QueueUrl=self._queue, WaitTimeSeconds=20)

    def fail(self):
        self._s3.get_object(Bucket="no-such-bucket", Key="key")

    def close(self):
        self._s3.close()
        self._sqs.close()


class Smtp(Client):
    title = "smtplib"
    kind = daemons.SMTP

    def __init__(self, server, size):
        self.error = smtplib.SMTPRecipientsRefused
        self._silent = server.silent_port
        self._places = Places(size, lambda: smtplib.SMTP("127.0.0.1", server.port, "localhost"), smtplib.SMTP.close)
        self.close = self._places.close

    def work(self, number):
        with self._places.connection() as smtp:
            text = f"Subject: {number}\n\n" + "All is well.\n" * 100
            assert smtp.sendmail("a@example.org", ["b@example.org", "c@example.org"], text) == {}

    @contextmanager
    def hold(self):
        with self._places.connection() as smtp:
            smtp.ehlo_or_helo_if_needed()
            assert smtp.mail("a@example.org")[0] == 250
            yield
            assert smtp.rset()[0] == 250

    def wait(self):
        with self._places.connection():
            smtplib.SMTP("127.0.0.1", self._silent, "localhost")  # waits for its greeting

    def fail(self):
        with self._places.connection() as smtp:
            smtp.sendmail("a@example.org", ["@"], "")


class Ftp(Client):
    title = "ftplib"
    kind = daemons.FTP

    def __init__(self, server, size):
        self.error = ftplib.error_perm
        self._port, self._silent = server.port, server.silent_port
        self._places = Places(size, self._connect, ftplib.FTP.close)
        self.close = self._places.close

    def _connect(self):
        ftp = ftplib.FTP()
        try:
            ftp.connect("127.0.0.1", self._port)
            ftp.login("user", "secret")
        except BaseException:
            ftp.close()
            raise
        return ftp

    def work(self, number):
        with self._places.connection() as ftp:
            ftp.storbinary(f"STOR {number}", io.BytesIO(b"%d" % number))
            parts = []
            ftp.retrbinary(f"RETR {number}", parts.append)
            assert b"".join(parts) == b"%d" % number

    @contextmanager
    def hold(self):
        with self._places.connection() as ftp:
            with ftp.transfercmd("RETR big") as data, data.makefile("rb") as stream:
                yield
                assert len(stream.read()) == 1 << 20
            ftp.voidresp()

    def wait(self):
        with self._places.connection():
            ftp = ftplib.FTP()
            try:
                ftp.connect("127.0.0.1", self._silent)  # waits for its greeting
            finally:
                ftp.close()  # at the end of a `with` it would say good-bye, and wait for an answer

    def fail(self):
        with self._places.connection() as ftp:
            ftp.retrbinary("RETR missing", print)
