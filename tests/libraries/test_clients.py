"""urllib3 and requests, unmodified, on virtual threads."""

import time

import pytest
from libraries.servers import http_server
from patch.helpers import wait_parked, wait_until

from plait import ThreadGroup

urllib3 = pytest.importorskip("urllib3")
requests = pytest.importorskip("requests")

MANY = 200
LIMIT = 8


@pytest.fixture
def server():
    """A server on a platform thread."""
    with http_server() as server:
        yield server


class Urllib3:
    """A pool of urllib3."""

    timeout_error = urllib3.exceptions.HTTPError

    def __init__(self, size):
        self._pool = urllib3.PoolManager(maxsize=size, block=True, retries=False)

    def get(self, url, timeout=30):
        return self._pool.request("GET", url, timeout=timeout).data

    def close(self):
        self._pool.clear()


class Requests:
    """A session of requests, whose adapter holds a pool."""

    timeout_error = requests.exceptions.RequestException

    def __init__(self, size):
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", requests.adapters.HTTPAdapter(1, size, pool_block=True))

    def get(self, url, timeout=30):
        return self._session.get(url, timeout=timeout).content

    def close(self):
        self._session.close()


@pytest.fixture(params=[Urllib3, Requests])
def client(request):
    """A client with a pool of so many connections."""
    client = request.param(LIMIT)
    yield client
    client.close()


def test_many_through_a_small_pool(server, client):
    """Two hundred threads share eight connections, which are kept alive, while a canary ticks."""
    ticks = 0
    is_over = []

    def tick():
        nonlocal ticks
        while not is_over:
            time.sleep(0.005)
            ticks += 1

    with ThreadGroup() as group:
        group.spawn(tick)
        futures = [group.spawn(client.get, f"{server.url}/slow/0.002/{number}") for number in range(MANY)]
        assert [future.result() for future in futures] == [b"0.002/%d" % number for number in range(MANY)]
        is_over.append(True)
    assert ticks > 5
    assert server.connections <= LIMIT


def test_failure_mid_flight_leaves_the_pool_usable(server, client):
    """A failure interrupts those who wait for answers and for connections; afterwards the whole pool works again."""
    with pytest.raises(ExceptionGroup) as caught:
        with ThreadGroup() as group:
            futures = [group.spawn(client.get, f"{server.url}/never") for _ in range(3 * LIMIT)]
            wait_parked(*futures)
            started = time.monotonic()
            group.spawn(int, "x")
    assert time.monotonic() - started < 2
    # A thread that urllib3 has not given a connection yet gives one back all the same when it is interrupted
    # (`HTTPConnectionPool.urlopen`, its `finally`), and complains if that is one too many.
    errors = [error for error in caught.value.exceptions if not isinstance(error, urllib3.exceptions.FullPoolError)]
    assert [type(error) for error in errors] == [ValueError]
    with ThreadGroup() as group:
        futures = [group.spawn(client.get, f"{server.url}/echo/{number}") for number in range(4 * LIMIT)]
    assert [future.result() for future in futures] == [b"%d" % number for number in range(4 * LIMIT)]


def test_timeout_is_the_librarys_own(server, client):
    """A timeout given to the library raises the library's error, and its connection comes back to the pool."""

    def attempt():
        with pytest.raises(client.timeout_error):
            client.get(f"{server.url}/never", 0.03)

    with ThreadGroup() as group:
        for _ in range(3 * LIMIT):
            group.spawn(attempt)
    with ThreadGroup() as group:
        future = group.spawn(client.get, f"{server.url}/big")
    assert len(future.result()) == 1 << 20


def test_one_cancelled_call_leaves_the_others_alone(server, client):
    """Cancelling one future ends that call alone."""
    with ThreadGroup() as group:
        lost = group.spawn(client.get, f"{server.url}/never")
        wait_parked(lost)
        futures = [group.spawn(client.get, f"{server.url}/slow/0.01/{number}") for number in range(20)]
        lost.cancel()
        wait_until(lost.done)
        assert lost.cancelled()
        assert [future.result() for future in futures] == [b"0.01/%d" % number for number in range(20)]


def test_sessions_of_their_own(server):
    """Each thread with a session of its own."""

    def ask(number):
        with requests.Session() as session:
            session.trust_env = False
            return session.post(f"{server.url}/echo", data=b"%d" % number, timeout=30).content

    with ThreadGroup() as group:
        futures = [group.spawn(ask, number) for number in range(50)]
    assert [future.result() for future in futures] == [b"%d" % number for number in range(50)]
