"""TLS: what an SSLSocket does on virtual threads, in both roles, and beside others that use the same connection."""

import gc
import os
import re
import select
import socket
import ssl
import sys
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager, suppress

import pytest
from patch.helpers import (
    CERTIFICATE,
    PlatformCall,
    client_context,
    described,
    drain,
    fill_tls,
    is_parked,
    on_virtual,
    run_python,
    server_context,
    tcp_pair,
    tls_pair,
    wait_parked,
    wait_until,
)

import plait
from plait import ThreadGroup
from plait._core import current_thread
from plait._native import lot_count, poll_now, tls_prepare
from plait.patch import _tls


@pytest.fixture
def pair():
    """Two ends of a TLS connection, client's first."""
    near, far = tls_pair()
    with near, far:
        yield near, far


@pytest.fixture
def listener():
    """A TLS listener."""
    with server_context().wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener:
        yield listener


def connect(listener, timeout=None, context=None):
    """A connection to `listener`, with its handshake done."""
    raw = socket.create_connection(listener.getsockname(), timeout)
    try:
        return (context or client_context()).wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


def numberless(outcome):
    """An outcome of `described` without the line of _ssl.c in it."""
    return tuple(
        re.sub(r"_ssl\.c:\d+: | \(_ssl\.c:\d+\)", "", part) if isinstance(part, str) else part for part in outcome
    )


def read_all(sock, size):
    """So many bytes."""
    got = bytearray()
    while len(got) < size:
        part = sock.recv(size - len(got))
        assert part, f"the end after {len(got)} bytes"
        got += part
    return bytes(got)


# ---- the life of a connection ----


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_and_server(listener, timeout, version):
    """Connect, shake hands, talk, take TLS off, go on in the clear: both ends on virtual threads."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.minimum_version = context.maximum_version = version
    listener.settimeout(timeout)
    data = os.urandom(300_000)

    def serve():
        far, _ = listener.accept()
        far.settimeout(timeout)
        with far:
            far.sendall(read_all(far, len(data)))
            with far.unwrap() as raw:
                raw.sendall(raw.recv(10).upper())

    def visit():
        near = connect(listener, timeout, context)
        assert near.version() == version.name.replace("v1_", "v1.")
        near.sendall(data)
        back = read_all(near, len(data))
        assert os.get_blocking(near.fileno()) is (timeout is None)
        with near.unwrap() as raw:
            raw.sendall(b"clear")
            return back, raw.recv(10)

    with ThreadGroup() as group:
        group.spawn(serve)
        visitor = group.spawn(visit)
    assert visitor.result() == (data, b"CLEAR")


def test_many_connections(listener):
    """Forty clients of one server that shakes hands in its accept, all on virtual threads."""

    def serve(far):
        with far:
            while data := far.recv(100):
                far.sendall(data)

    def accept():
        for _ in range(40):
            group.spawn(serve, listener.accept()[0])

    def visit(number):
        with connect(listener) as near:
            for _ in range(5):
                near.sendall(b"%d" % number)
                assert near.recv(100) == b"%d" % number
        return number

    with ThreadGroup() as group:
        group.spawn(accept)
        visitors = [group.spawn(visit, number) for number in range(40)]
    assert [visitor.result() for visitor in visitors] == list(range(40))


def test_virtual_and_platform_threads_talk(pair):
    """One end on a platform thread, where CPython waits in C, the other on a virtual one."""
    near, far = pair
    data = os.urandom(2_000_000)
    call = PlatformCall(lambda: far.sendall(read_all(far, len(data))))

    def talk():
        near.sendall(data)
        return read_all(near, len(data))

    assert on_virtual(talk) == data
    call.result()


def test_what_follows(pair, tmp_path):
    """makefile, recv_into, read and write, sendfile: all that stands on the leaves."""
    near, far = pair
    (tmp_path / "file").write_bytes(bytes(range(256)) * 2000)

    def send():
        with near.makefile("w", encoding="utf-8") as out:
            print("a line", file=out)
        near.write(b"written")
        with open(tmp_path / "file", "rb") as file:
            return near.sendfile(file)

    def receive():
        with far.makefile("rb", buffering=0) as lines:
            assert lines.readline() == b"a line\n"
        buffer = bytearray(7)
        assert far.recv_into(buffer) == 7
        assert buffer == b"written"
        assert far.read(3) == b"\x00\x01\x02"
        return len(read_all(far, 256 * 2000 - 3))

    with ThreadGroup() as group:
        receiver = group.spawn(receive)
        wait_parked(receiver)
        sender = group.spawn(send)
    assert (sender.result(), receiver.result()) == (256 * 2000, 256 * 2000 - 3)


def test_session_is_resumed(listener):
    """A session of one connection serves the next."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions are there when the handshake is done

    def serve():
        for _ in range(2):
            listener.accept()[0].close()

    def visit():
        with connect(listener, context=context) as near:
            session = near.session
        with socket.create_connection(listener.getsockname()) as raw:
            with context.wrap_socket(raw, server_hostname="localhost", session=session) as again:
                return again.session_reused

    with ThreadGroup() as group:
        group.spawn(serve)
        visitor = group.spawn(visit)
    assert visitor.result()


def test_certificate_after_the_handshake():
    """A server asks for the client's certificate when the handshake is over (TLS 1.3)."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    server.load_verify_locations(CERTIFICATE)
    client = ssl.create_default_context(cafile=CERTIFICATE)
    client.load_cert_chain(CERTIFICATE)
    server.post_handshake_auth = client.post_handshake_auth = True
    server.verify_mode = ssl.CERT_REQUIRED
    near, far = tls_pair(None, client, server)

    def serve():
        assert read_all(far, 5) == b"hello"
        before = far.getpeercert()
        far.verify_client_post_handshake()
        far.sendall(b"who?")
        assert read_all(far, 2) == b"me"
        return before, far.getpeercert() is not None

    def visit():
        near.sendall(b"hello")
        assert read_all(near, 4) == b"who?"
        near.sendall(b"me")

    with near, far, ThreadGroup() as group:
        served = group.spawn(serve)
        group.spawn(visit)
    assert served.result() == (None, True)


def test_certificate_of_a_server(listener):
    """`ssl.get_server_certificate` on a virtual thread."""
    with ThreadGroup() as group:
        group.spawn(lambda: listener.accept()[0].close())
        found = group.spawn(ssl.get_server_certificate, listener.getsockname(), timeout=30)
    assert ssl.PEM_cert_to_DER_cert(found.result()) == ssl.PEM_cert_to_DER_cert(
        CERTIFICATE.read_text().partition("-----END PRIVATE KEY-----\n")[2]
    )


def test_wrong_certificate(listener):
    """A handshake that fails has the error that it has on a platform thread."""
    context = ssl.create_default_context()

    def serve():
        for _ in range(2):
            with suppress(OSError):
                listener.accept()[0].close()

    def attempt():
        return numberless(described(connect, listener, context=context))

    with ThreadGroup() as group:
        group.spawn(serve)
        expected = PlatformCall(attempt).result()
        found = group.spawn(attempt)
    assert found.result() == expected
    assert expected[1] == "SSLCertVerificationError"


# ---- timeouts and modes ----


def _silent_client(stack):
    near, far = tcp_pair()
    stack.enter_context(far)
    near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
    return stack.enter_context(near)


WAITS = {
    "read": lambda sock: sock.recv(1),
    "read into": lambda sock: sock.recv_into(bytearray(1)),
    "write": lambda sock: sock.send(bytes(1 << 24)),
    "write all": lambda sock: sock.sendall(bytes(1 << 24)),
    "unwrap": lambda sock: sock.unwrap(),
    "handshake": lambda sock: sock.do_handshake(),
}


@pytest.mark.parametrize("timeout", [0, 0.02])
@pytest.mark.parametrize("name", WAITS)
def test_timeout_means_what_it_means_on_platform_threads(name, timeout):
    """0 never waits, a number of seconds bounds the call; errors are the original's."""

    def attempt():
        with ExitStack() as stack:
            if name == "handshake":
                sock = _silent_client(stack)
            else:
                sock, _ = map(stack.enter_context, tls_pair())
                fill_tls(sock)
            sock.settimeout(timeout)
            started = time.monotonic()
            outcome = numberless(described(WAITS[name], sock))
            assert time.monotonic() - started >= timeout
            assert sock.gettimeout() == timeout
            return outcome

    expected = attempt()
    assert on_virtual(attempt) == expected
    assert expected[1] == ("TimeoutError" if timeout else {"w": "SSLWantWriteError"}.get(name[0], "SSLWantReadError"))


def test_connection_after_a_timeout(pair):
    """Operations that were too late have not happened: the same ones work later."""
    near, far = pair
    size = fill_tls(near)
    near.settimeout(0.02)

    def be_late():
        return [described(WAITS[name], near)[1] for name in ("read", "write")]

    assert on_virtual(be_late) == ["TimeoutError"] * 2
    near.settimeout(30)
    assert drain(far, until=lambda: True) == size
    far.setblocking(True)
    far.sendall(b"hello")
    assert on_virtual(near.recv, 10) == b"hello"
    on_virtual(near.sendall, b"hello")
    assert far.recv(10) == b"hello"


def test_sockets_in_non_blocking_mode(pair):
    """A socket with a timeout of 0 works as ever: it is told what to wait for, and never parks."""
    near, far = pair
    near.setblocking(False)
    poll = select.poll()
    poll.register(near, select.POLLIN)

    def body():
        with pytest.raises(ssl.SSLWantReadError):
            near.recv(10)
        far.sendall(b"hello")
        poll.poll()
        return near.recv(10)

    with plait.timeout(5):
        assert on_virtual(body) == b"hello"


def test_memory_bios():
    """An SSLObject never waits, and is none of our business."""
    client_in, client_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(client_in, client_out, server_hostname="localhost")
    server = server_context().wrap_bio(client_out, client_in, server_side=True)

    def body():
        for side in (client, server):
            with pytest.raises(ssl.SSLWantReadError):
                side.do_handshake()
        client.do_handshake()
        server.do_handshake()
        assert client.write(b"hello") == 5
        return server.read(10)

    assert on_virtual(body) == b"hello"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("recv", (-1,)),
        ("recv", ("x",)),
        ("recv", (1, 1)),
        ("recv", (0,)),
        ("read", (5, b"readonly")),
        ("read", (5, "text")),
        ("recv_into", (b"readonly",)),
        ("recv_into", (bytearray(),)),
        ("write", ("text",)),
        ("write", (5,)),
        ("write", ()),
        ("send", (memoryview(bytes(10))[::2],)),
        ("sendall", ("text",)),
    ],
)
def test_arguments_that_need_no_wait(pair, name, arguments):
    """Wrong arguments, and nothing to do: the original's answer."""
    near, _ = pair
    expected = described(getattr(near, name), *arguments)
    assert on_virtual(described, getattr(near, name), *arguments) == expected


# ---- ends and closings ----


def _hang_up(far, how):
    if how == "abort":
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if how == "notify":
        far.settimeout(0)
        with suppress(ssl.SSLWantReadError):
            far.unwrap()
    far.close()


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("is_parked_before", [False, True])
@pytest.mark.parametrize("suppresses", [True, False])
@pytest.mark.parametrize("how", ["close", "notify", "abort"])
def test_end_of_the_connection(how, suppresses, is_parked_before, timeout):
    """However the peer goes, a reader sees what one on a platform thread sees, at once and again."""

    def attempt(run):
        near, far = tls_pair(tcp_pair())
        near.suppress_ragged_eofs = suppresses
        near.settimeout(timeout)
        with near, far:
            return run(near, far)

    def read(near):
        return [numberless(described(near.recv, 10)) for _ in range(2)]

    def on_platform(near, far):
        _hang_up(far, how)
        return read(near)

    def on_plait(near, far):
        with ThreadGroup() as group:
            if not is_parked_before:
                _hang_up(far, how)
            reader = group.spawn(read, near)
            if is_parked_before:
                wait_parked(reader)
                _hang_up(far, how)
        return reader.result()

    expected = attempt(on_platform)
    assert attempt(on_plait) == expected
    if how == "notify":
        assert expected[0] == ("returned", b"")


def test_writing_to_a_peer_that_has_gone():
    """Its errors are those of a platform thread."""

    def attempt():
        near, far = tls_pair(tcp_pair())
        with near:
            _hang_up(far, "abort")
            return [numberless(described(near.send, b"x")) for _ in range(2)]

    expected = attempt()
    assert on_virtual(attempt) == expected
    assert expected[1][0] == "raised"


@pytest.mark.parametrize("where", ["virtual", "platform"])
@pytest.mark.parametrize("name", ["read", "write", "unwrap", "handshake"])
def test_close_wakes_those_who_are_parked(name, where):
    """Closing the socket ends the waits on it, whoever closes it, and nobody goes on with its number."""
    with ExitStack() as stack:
        if name == "handshake":
            sock = _silent_client(stack)
        else:
            sock, _ = map(stack.enter_context, tls_pair())
            if name == "write":
                fill_tls(sock)
        with ThreadGroup() as group:
            call = group.spawn(described, WAITS[name], sock)
            wait_parked(call)
            if where == "virtual":
                group.spawn(sock.close)
            else:
                sock.close()
    assert call.result() == ("raised", "OSError", "[Errno 9] Bad file descriptor")


# ---- one connection, several threads ----


def test_both_directions_at_once(pair):
    """One thread sends while another receives on the same connection, at both ends."""
    near, far = pair
    data = os.urandom(1_000_000)
    with ThreadGroup() as group:
        readers = [group.spawn(read_all, sock, len(data)) for sock in (near, far)]
        for sock in (near, far):
            group.spawn(sock.sendall, data)
    assert [reader.result() == data for reader in readers] == [True, True]


def test_writers_take_turns(pair):
    """Writes of many threads to one connection arrive whole, though each has to wait several times."""
    near, far = pair
    size, number = 200_000, 8
    with ThreadGroup() as group:
        for letter in range(number):
            group.spawn(near.send, bytes([letter]) * size)
        got = group.spawn(read_all, far, size * number).result()
    letters = [got[place : place + size] for place in range(0, size * number, size)]
    assert sorted(letters) == [bytes([letter]) * size for letter in range(number)]


def test_readers_share_what_comes(pair):
    """Every byte goes to one of the threads that read; nobody waits on while something decrypted is left."""
    near, far = pair

    def read():
        total = 0
        while data := near.recv(7):
            total += len(data)
        return total

    with ThreadGroup() as group:
        readers = [group.spawn(read) for _ in range(6)]
        wait_parked(*readers)
        for _ in range(100):
            far.sendall(bytes(40))
        _hang_up(far, "notify")
    assert sum(reader.result() for reader in readers) == 100 * 40


def test_record_that_two_wait_for(pair):
    """A record with enough for two readers lets both go, on whatever carriers they are."""
    near, far = pair
    with ThreadGroup() as group:
        for _ in range(30):
            readers = [group.spawn(read_all, near, 5) for _ in range(4)]
            wait_parked(*readers)
            far.sendall(b"hello" * 4)
            for reader in readers:
                assert sorted(reader.result()) == sorted(b"hello") or len(reader.result()) == 5


def test_many_shake_hands_on_one_connection():
    """Threads that all find the handshake undone finish it together, and none is left behind."""
    for _ in range(10):
        near, far = tcp_pair()
        near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
        far = server_context().wrap_socket(far, server_side=True, do_handshake_on_connect=False)
        with near, far, ThreadGroup() as group:
            calls = [group.spawn(near.do_handshake) for _ in range(3)]
            reader = group.spawn(read_all, near, 5)
            writer = group.spawn(near.sendall, b"hello")
            wait_parked(*calls, reader, writer)
            echo = group.spawn(lambda: far.sendall(read_all(far, 5)))
            for call in (*calls, writer, echo):
                call.result()
            assert reader.result() == b"hello"


def test_handshake_that_a_reader_ends(monkeypatch):
    """Who waits for the end of a handshake hears of it though the read that has taken it goes on."""
    near, far = tcp_pair()
    near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
    context = server_context()
    context.num_tickets = 0  # nothing comes after the handshake by itself
    far = context.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    original, held, go, over = _tls.wait_socket, [], threading.Event(), threading.Event()

    def wait_socket(me, *args):
        if me in held:  # its attempt is made, and it is not to be found yet
            held.clear()
            go.set()
            over.wait()
        return original(me, *args)

    def shake_hands():
        held.append(current_thread())
        near.do_handshake()

    with near, far, ThreadGroup() as group:
        reader = group.spawn(read_all, near, 5)
        wait_parked(reader)
        monkeypatch.setattr(_tls, "wait_socket", wait_socket)
        call = group.spawn(shake_hands)
        go.wait()
        far.do_handshake()
        wait_until(lambda: near.version() and not poll_now(near.fileno(), select.POLLIN))
        wait_parked(reader)
        over.set()
        call.result()
        far.sendall(b"hello")
        assert reader.result() == b"hello"


# ---- cancellation ----


def cancelled_at_once(call, *args):
    """Have `call` park on a virtual thread, and cancel it there."""
    with ThreadGroup() as group:
        future = group.spawn(call, *args)
        wait_parked(future)
        started = time.monotonic()
        future.cancel()
        wait_until(future.done)
        assert time.monotonic() - started < 1
        assert future.cancelled()


def test_cancelled_read_loses_nothing(pair):
    """What has come of a record when its reader is cancelled is there for the next one."""
    near, far = pair
    wire, end = tcp_pair()  # between the two: lets half a record through
    with wire, end:
        raw = socket.socket(fileno=os.dup(wire.fileno()))
        client = client_context().wrap_socket(raw, server_hostname="localhost", do_handshake_on_connect=False)
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = server_context().wrap_bio(into, out, server_side=True)

        def pump():
            while True:
                try:
                    server.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    end.sendall(out.read())
                    into.write(end.recv(10_000))
            end.sendall(out.read())

        call = PlatformCall(pump)
        with client:
            on_virtual(client.do_handshake)
            call.result()
            server.write(b"hello" * 1000)
            record = out.read()
            with ThreadGroup() as group:
                reader = group.spawn(client.recv, 5000)
                wait_parked(reader)
                end.sendall(record[:1000])
                poll = select.poll()
                poll.register(client, select.POLLIN)
                wait_until(lambda: not poll.poll(0) and is_parked(reader))
                reader.cancel()
                wait_until(reader.done)
            end.sendall(record[1000:])
            assert on_virtual(client.recv, 5000) == b"hello" * 1000


def test_cancelled_handshake_goes_on():
    """A handshake that was cancelled half-way can be finished."""
    with ExitStack() as stack:
        near, far = tcp_pair()
        near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
        stack.enter_context(near)
        cancelled_at_once(near.do_handshake)
        server = PlatformCall(server_context().wrap_socket, far, True)
        on_virtual(near.do_handshake)
        with server.result() as far:
            on_virtual(near.sendall, b"hello")
            assert far.recv(10) == b"hello"


def test_cancelled_unwrap_goes_on(pair):
    """An unwrap that was cancelled can be finished."""
    near, far = pair
    cancelled_at_once(near.unwrap)
    call = PlatformCall(far.unwrap)
    with on_virtual(near.unwrap) as raw, call.result() as end:
        raw.sendall(b"clear")
        assert end.recv(10) == b"clear"


def test_cancelled_write_that_had_no_room_has_not_happened(pair):
    """A write that is cancelled before it has begun leaves a connection that works."""
    near, far = pair
    size = fill_tls(near)
    cancelled_at_once(near.sendall, b"not this")
    assert drain(far, until=lambda: True) == size
    far.setblocking(True)
    on_virtual(near.sendall, b"but this")
    assert far.recv(100) == b"but this"
    far.sendall(b"hello")
    assert on_virtual(near.recv, 10) == b"hello"


def test_write_that_is_cancelled_half_way_ends_the_sending_side(pair):
    """Nobody can send what the peer would take for the rest; the peer hears of it, and can still be heard."""
    near, far = pair
    sent = bytes(20_000_000)
    cancelled_at_once(near.sendall, sent)
    for _ in range(2):
        for write in (on_virtual, lambda fn, *args: PlatformCall(fn, *args).result()):
            with pytest.raises(OSError):
                write(near.sendall, bytes(20_000_000))
    far.sendall(b"hello")
    assert on_virtual(near.recv, 10) == b"hello"
    far.suppress_ragged_eofs = False
    got = 0
    with pytest.raises(ssl.SSLEOFError):
        while True:
            got += len(far.recv(1 << 16))
    assert 0 < got < len(sent)


def test_write_that_is_cancelled_in_the_handshake_has_not_happened():
    """Before the handshake is done nothing of the data is taken: the connection works."""
    near, far = tcp_pair()
    near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
    with near:
        cancelled_at_once(near.sendall, b"not this")
        server = PlatformCall(server_context().wrap_socket, far, True)
        on_virtual(near.sendall, b"but this")
        with server.result() as far:
            assert far.recv(100) == b"but this"


def test_cancel_comes_on_entry(pair):
    """Each operation looks at its scope first, though it need not wait, and then has done nothing."""
    near, far = pair
    far.sendall(b"hello")

    def body():
        for call in (lambda: near.recv(10), lambda: near.sendall(b"not this"), near.do_handshake, near.unwrap):
            with ThreadGroup() as inner:
                inner.cancel()
                call()
                raise AssertionError("not cancelled")

    on_virtual(body)
    assert near.recv(10) == b"hello"
    near.sendall(b"this")
    assert far.recv(10) == b"this"


def test_buffers_cannot_be_resized_while_they_are_in_use(pair):
    """What a parked thread writes, or reads into, keeps its size, as CPython has it."""
    near, far = pair
    data, room = bytearray(20_000_000), bytearray(10)
    with ThreadGroup() as group:
        calls = group.spawn(near.send, data), group.spawn(near.recv_into, room)
        wait_parked(*calls)
        for buffer in (data, room):
            with pytest.raises(BufferError):
                buffer.clear()
        far.sendall(b"x")
        reader = PlatformCall(read_all, far, len(data))
        assert [call.result() for call in calls] == [len(data), 1]
        reader.result()
    data.clear()
    room.clear()


# ---- callbacks ----


def test_callback_that_waits(listener):
    """A callback inside a handshake may park: others go on, and other handshakes, too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    is_over = threading.Event()
    names = []

    def choose(sock, name, _context):
        names.append(name)
        is_over.wait()

    context.sni_callback = choose

    def shake_hands(far):
        with context.wrap_socket(far, server_side=True) as far:
            far.sendall(b"hello")

    def visit(near):
        with client_context().wrap_socket(near, server_hostname="localhost") as near:
            return near.recv(10)

    with ThreadGroup() as group:
        visitors = []
        for _ in range(5):
            near, far = tcp_pair()
            group.spawn(shake_hands, far)
            visitors.append(group.spawn(visit, near))
        wait_until(lambda: len(names) == 5)
        with connect_through(group, listener) as near:
            assert near.version()
        is_over.set()
    assert [visitor.result() for visitor in visitors] == [b"hello"] * 5


def handshake_with(choose, limit):
    """What comes of a server's handshake in a block like `limit()`, with this sni_callback; and of a client's.

    None of one that is cut short.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.sni_callback = choose
    near, far = tcp_pair()
    near = client_context().wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False)
    with near, context.wrap_socket(far, server_side=True, do_handshake_on_connect=False) as far:
        visitor = PlatformCall(described, near.do_handshake)
        seen = None
        with limit():
            seen = described(far.do_handshake)[1]
        far.close()
        return seen, visitor.result()[1]


@pytest.mark.parametrize("where", [on_virtual, lambda fn, *args: fn(*args)], ids=["virtual", "platform"])
def test_cancel_that_comes_in_a_callback(where, monkeypatch):
    """It is a cancel, and no failed handshake, which is all that OpenSSL knows of."""
    unraisable, groups = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda seen: unraisable.append(seen.exc_type))
    is_inside = threading.Event()

    def choose(*_):
        is_inside.set()
        threading.Event().wait()

    @contextmanager
    def limit():
        with ThreadGroup() as group:
            groups.append(group)
            yield

    canceller = PlatformCall(lambda: is_inside.wait() and groups[0].cancel())
    assert where(handshake_with, choose, limit) == (None, "SSLError")
    canceller.result()
    assert unraisable == [plait.Cancelled]


def test_time_limit_inside_a_callback():
    """It is the callback's own: what that refuses then is a failed handshake."""

    def choose(*_):
        with plait.move_on_after(0.001):
            threading.Event().wait()
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    assert on_virtual(handshake_with, choose, lambda: plait.timeout(30)) == ("SSLError", "SSLError")


def connect_through(group, listener):
    """A connection to `listener`, both ends on virtual threads."""
    group.spawn(lambda: listener.accept()[0].close())
    return group.spawn(connect, listener).result()


@pytest.mark.parametrize("setter", ["settimeout", "setblocking"])
@pytest.mark.parametrize("where", [PlatformCall, None], ids=["platform", "virtual"])
def test_mode_that_is_set_during_an_attempt(setter, where):
    """It is set when the attempt is over, which would wait in the kernel else; but at once if a callback in there sets it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    is_inside, is_over = threading.Event(), threading.Event()
    value = None if setter == "settimeout" else True

    def choose(sock, name, _context):
        getattr(sock, setter)(value)
        is_inside.set()
        is_over.wait()

    context.sni_callback = choose
    near, far = tcp_pair()
    far = context.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    with far, ThreadGroup() as group:
        server = group.spawn(far.do_handshake)
        visitor = group.spawn(client_context().wrap_socket, near, server_hostname="localhost")
        is_inside.wait()
        setting = (where or group.spawn)(getattr(far, setter), value)
        wait_until(lot_count)  # it waits for the lock of the connection
        is_over.set()
        server.result()
        visitor.result().close()
        setting.result()
        assert far.gettimeout() is None
        assert os.get_blocking(far.fileno())


def test_callback_that_replaces_the_context():
    """The context that a handshake began with may go during it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    gone = []

    def choose(sock, name, _context):
        sock.context = server_context()

    context.sni_callback = choose
    gone.append(weakref.ref(choose))
    near, far = tcp_pair()
    far = context.wrap_socket(far, server_side=True, do_handshake_on_connect=False)
    del context, choose
    with far, ThreadGroup() as group:
        server = group.spawn(far.do_handshake)
        visitor = group.spawn(client_context().wrap_socket, near, server_hostname="localhost")
        server.result()
        with visitor.result():
            assert far.context is server_context()
    gc.collect()
    assert gone[0]() is None


def test_what_a_callback_raises():
    """It comes out of the operation, as on a platform thread; without a timeout, from 3.15 on, before its handshake is over."""

    def attempt():
        context = ssl.create_default_context(cafile=CERTIFICATE)
        near, far = tcp_pair()
        server = PlatformCall(described, server_context().wrap_socket, far, True)

        def look(*args):
            raise ZeroDivisionError("in a callback")

        context._msg_callback = look
        with context.wrap_socket(near, server_hostname="localhost", do_handshake_on_connect=False) as near:
            outcome = described(near.do_handshake)
        how, connection, *_ = server.result()
        if how == "returned":  # else the client gave up in the middle of the handshake: from 3.15 on
            connection.close()
        return outcome

    expected = attempt()
    assert expected == ("raised", "ZeroDivisionError", "in a callback")
    assert on_virtual(attempt) == expected


# ---- installation ----


def test_connections_made_before_install():
    """An SSLSocket, and bound methods of it, made before the runtime started follow."""
    code = f"""
        import socket, ssl, threading
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain({str(CERTIFICATE)!r})
        client = ssl.create_default_context(cafile={str(CERTIFICATE)!r})
        near, far = socket.socketpair()
        ends = []
        thread = threading.Thread(target=lambda: ends.append(server.wrap_socket(far, server_side=True)))
        thread.start()
        near = client.wrap_socket(near, server_hostname="localhost")
        thread.join()
        receive = near.recv

        import plait
        assert not any(plait.patch.status().values())
        with plait.ThreadGroup() as group:
            reader = group.spawn(receive, 10)
            group.spawn(ends[0].sendall, b"hello")
        print(reader.result())
        near.close()
        ends[0].close()
    """
    assert run_python(code, PLAIT_CARRIERS="1") == "b'hello'\n"


def test_module_that_is_imported_later():
    """plait does not import ssl; the leaves come with it, unless they are not wanted any more."""
    code = """
        import sys, plait
        finders = list(sys.meta_path)
        plait.patch.install()
        names = [name for name in plait.patch.status() if name.startswith("ssl.")]
        assert "_ssl" not in sys.modules and len(names) == 6
        assert all(plait.patch.status()[name] for name in names)
        plait.patch.uninstall()
        assert sys.meta_path == finders
        assert not any(plait.patch.status().values())
        plait.patch.install()
        plait.spawn(int).result()
        plait.spawn(__import__, "ssl").result()
        import ssl
        assert ssl._ssl.__spec__.loader is ssl._ssl.__loader__ and "plait" not in repr(ssl._ssl.__loader__)
        assert all(plait.patch.status()[name] for name in names)
        plait.patch.uninstall()
        assert not any(plait.patch.status().values()) and sys.meta_path == finders
        print(len(names))
    """
    assert run_python(code) == "6\n"


def test_layout_that_is_not_known(monkeypatch):
    """Connections that look different inside are left alone."""
    context = client_context()
    owner = socket.socket()
    owner.close()
    connection = context._wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), False, "one.test", owner=owner)
    assert not tls_prepare(connection, context, owner, "another.test", owner, (ssl.SSLWantReadError,))
    assert not tls_prepare(connection, server_context(), owner, "one.test", owner, (ssl.SSLWantReadError,))
    assert not tls_prepare(connection, context, owner, "one.test", threading.Event(), (ssl.SSLWantReadError,))
    monkeypatch.setattr(_tls, "tls_prepare", lambda *_: False)
    assert _tls._leaves(ssl._ssl) == []
