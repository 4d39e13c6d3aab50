"""Sockets: every call, timeouts, ends and closings, on virtual threads."""

import _socket
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from patch.helpers import (
    PlatformCall,
    described,
    drain,
    fill,
    is_parked,
    on_virtual,
    outcome,
    run_python,
    tcp_pair,
    wait_parked,
    wait_until,
)
from support import NO_GIL

import plait
from plait import Future, ThreadGroup, _originals, move_on_after
from plait._core import WaitReason
from plait._native import accept, outside_blocking_mode
from plait._native._native import WaitWord
from plait.lowlevel import wait_readable, wait_writable
from plait.patch import _connections


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    """Two ends of a stream."""
    near, far = tcp_pair() if request.param == "tcp" else socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def udp():
    """Two sockets for datagrams, which know each other's address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near, socket.socket(near.family, near.type) as far:
        near.bind(("127.0.0.1", 0))
        far.bind(("127.0.0.1", 0))
        yield near, far


def _take(sock, method, size):
    """What `method` receives, as bytes."""
    if method in {"recv_into", "recvfrom_into"}:
        buffer = bytearray(size)
        got = getattr(sock, method)(buffer)
        return bytes(buffer[: got if method == "recv_into" else got[0]])
    if method == "recvmsg_into":
        buffer = bytearray(size)
        return bytes(buffer[: sock.recvmsg_into([buffer])[0]])
    got = getattr(sock, method)(size)
    return got if method == "recv" else got[0]


RECEIVE = ["recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"]


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize("method", RECEIVE)
def test_receive_waits_for_data(pair, method, timeout):
    """Each receiving call parks until there is something, with a timeout and without."""
    near, far = pair
    near.settimeout(timeout)
    with ThreadGroup() as group:
        future = group.spawn(_take, near, method, 100)
        wait_parked(future)
        far.sendall(b"hello")
    assert future.result() == b"hello"
    assert os.get_blocking(near.fileno()) is (timeout is None)


@pytest.mark.parametrize("method", RECEIVE)
def test_receive_gives_what_is_there_then_the_end(pair, method):
    """A peer that sends and closes at once: the data comes, then the end, however the two fall together."""
    near, far = pair
    far.sendall(b"hello")
    far.close()

    def body():
        assert _take(near, method, 100) == b"hello"
        assert _take(near, method, 100) == b""

    on_virtual(body)


@pytest.mark.parametrize("timeout", [None, 0.05])
@pytest.mark.parametrize("method", RECEIVE)
def test_receive_from_a_datagram_socket(udp, method, timeout):
    """Datagrams arrive whole, one a call; a timeout is a timeout."""
    near, far = udp
    near.settimeout(timeout)

    def body():
        if timeout is not None:
            with pytest.raises(TimeoutError, match="^timed out$"):
                _take(near, method, 100)
        far.sendto(b"one", near.getsockname())
        far.sendto(b"two!", near.getsockname())
        assert _take(near, method, 100) == b"one"
        assert _take(near, method, 100) == b"two!"

    on_virtual(body)


@pytest.mark.parametrize("method", ["recvfrom", "recvmsg", "recvfrom_into", "recvmsg_into"])
def test_receive_tells_the_sender(udp, method):
    """The calls that give an address give the sender's."""
    near, far = udp

    def body():
        argument = {"recvfrom_into": bytearray(10), "recvmsg_into": [bytearray(10)]}.get(method, 10)
        return getattr(near, method)(argument)[-1]

    with ThreadGroup() as group:
        future = group.spawn(body)
        wait_parked(future)
        far.sendto(b"x", near.getsockname())
    assert future.result() == far.getsockname()


def test_short_read_then_end_many_times():
    """However the peer's last bytes and its closing are spread, a reader sees the end and never hangs."""

    def read_all(sock):
        total = b""
        with sock:
            while data := sock.recv(100):
                total += data
        return total

    with ThreadGroup() as group:
        futures = []
        for turn in range(150):
            near, far = tcp_pair() if turn % 2 else socket.socketpair()
            futures.append(group.spawn(read_all, near))
            if turn % 3 == 0:
                wait_parked(futures[-1])
            far.sendall(b"a" * (turn % 5 + 1))
            if turn % 4 == 0:
                time.sleep(0)
            far.sendall(b"b")
            far.close()
    assert [future.result() for future in futures] == [b"a" * (turn % 5 + 1) + b"b" for turn in range(150)]


def test_short_read_then_more_data():
    """A read that came back short is followed by one that waits for the next bytes, any number of times."""
    near, far = tcp_pair()
    with near, far, ThreadGroup() as group:

        def echo():
            while data := near.recv(4096):
                near.sendall(data)

        group.spawn(echo)
        for number in range(300):
            text = b"%d" % number
            far.sendall(text)
            assert far.recv(100) == text
        far.shutdown(socket.SHUT_WR)


def _send_descriptor(far):
    socket.send_fds(far, [b"one"], [far.fileno()])
    far.send(b"two")


def _send_from_two_processes(far):
    far.send(b"one")
    code = f"import os; os.write({far.fileno()}, b'two')"
    subprocess.run([sys.executable, "-c", code], pass_fds=[far.fileno()], check=True)


def _send_urgent(far):
    far.send(b"one")
    far.send(b"!", socket.MSG_OOB)
    far.send(b"two")


@pytest.mark.parametrize("method", ["recv", "recv_into"])
@pytest.mark.parametrize("send", [_send_descriptor, _send_from_two_processes, _send_urgent])
def test_short_read_in_the_middle(send, method):
    """What ends a read early in the middle of a stream does not make the next one wait for more to come."""
    near, far = tcp_pair() if send is _send_urgent else socket.socketpair()
    if send is _send_from_two_processes:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def body():
        with move_on_after(0.01):
            _take(near, method, 100)  # the stream is known to be empty
        send(far)
        wait_until(lambda: _originals.sock_recv(near, 100, socket.MSG_PEEK) == b"one")
        return _take(near, method, 100), _take(near, method, 100)

    with near, far:
        assert on_virtual(body) == (b"one", b"two")


def test_short_read_before_a_mark_whose_byte_was_taken():
    """So it is where urgent data has been taken by others, before the thread's carrier was told of any."""
    near, far = tcp_pair()
    with near, far:
        _send_urgent(far)
        wait_until(lambda: described(near.recv, 1, socket.MSG_OOB) == ("returned", b"!"))
        wait_until(lambda: len(_originals.sock_recv(near, 100, socket.MSG_PEEK)) == 3)
        assert on_virtual(lambda: (near.recv(100), near.recv(100))) == (b"one", b"two")


@pytest.mark.parametrize("timeout", [None, 30])
@pytest.mark.parametrize(
    "data", [bytes(3_000_000), memoryview(bytearray(b"abc" * 1_000_000)), memoryview(b"ab" * 40_000).cast("H")]
)
def test_sendall_with_a_slow_reader(pair, data, timeout):
    """Everything arrives, though the reader takes small bites and the buffer is full most of the time."""
    near, far = pair
    near.settimeout(timeout)

    def read():
        got = bytearray()
        while part := far.recv(50_000):
            got += part
            time.sleep(0)
        return got

    def send():
        assert near.sendall(data) is None
        near.shutdown(socket.SHUT_WR)

    with ThreadGroup() as group:
        group.spawn(send)
        reader = group.spawn(read)
    assert reader.result() == bytes(data)


def test_send_on_a_blocking_socket_takes_everything():
    """Without a timeout `send` returns when all is taken, as the kernel does in a blocking call."""
    near, far = socket.socketpair()
    size = 2_000_000
    with near, far, ThreadGroup() as group:
        sender = group.spawn(near.send, bytes(size))
        assert drain(far, until=sender.done) == size
    assert sender.result() == size


@pytest.mark.parametrize("method", ["send", "sendall", "sendmsg"])
def test_send_waits_for_room(pair, method):
    """Each sending call parks while the buffer is full."""
    near, far = pair
    fill(near)
    with ThreadGroup() as group:
        future = group.spawn(getattr(near, method), [b"hello"] if method == "sendmsg" else b"hello")
        wait_parked(future)
        drain(far, until=future.done)
    assert future.result() == (None if method == "sendall" else 5)


def test_sendmsg_waits_for_room_with_an_iterator():
    """`sendmsg` takes any iterable of buffers, and sends it whole though it had to wait."""
    near, far = socket.socketpair()
    with near, far:
        fill(near)
        with ThreadGroup() as group:
            future = group.spawn(near.sendmsg, iter([b"hel", b"lo"]))
            wait_parked(future)
            drain(far, until=future.done)
        assert future.result() == 5


def test_sendmsg_on_a_blocking_stream_sends_everything():
    """Without a timeout `sendmsg` returns when all buffers are taken, in their order."""
    near, far = socket.socketpair()
    parts = [b"a" * 700_000, b"", bytearray(b"b" * 700_000), memoryview(b"c" * 9)]

    def read():
        got = b""
        while part := far.recv(1 << 16):
            got += part
        return got

    with near, far, ThreadGroup() as group:
        sender = group.spawn(near.sendmsg, iter(parts))
        reader = group.spawn(read)
        assert sender.result() == 1_400_009
        near.shutdown(socket.SHUT_WR)
    assert reader.result() == b"".join(map(bytes, parts))


@pytest.mark.parametrize("method", ["sendto", "sendmsg"])
@pytest.mark.parametrize("timeout", [None, 10, 0.05])
def test_unix_datagrams_to_a_peer_whose_queue_is_full(method, timeout):
    """The sender waits until the peer has taken a datagram, though it is others who have filled the queue."""
    with ExitStack() as stack:
        near, far, other = (stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(3))
        far.bind("")
        address = far.getsockname()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", address)
        near.settimeout(timeout)
        arguments = (b"hello", address) if method == "sendto" else ([b"hello"], (), 0, address)
        with ThreadGroup() as group:
            future = group.spawn(described, getattr(near, method), *arguments)
            if timeout == 0.05:
                assert future.result() == ("raised", "TimeoutError", "timed out")
            else:
                wait_parked(future)
                while far.recv(10) != b"hello":
                    pass
                assert future.result() == ("returned", 5)


@pytest.mark.parametrize("method", ["sendto", "connect", "connect_ex", "sendmsg"])
@pytest.mark.parametrize("host", ["localhost", b"localhost", bytearray(b"localhost")])
def test_names_are_looked_up_for_the_family_of_the_socket(monkeypatch, method, host):
    """Every form of a name is looked up on a worker, for addresses that the socket can use."""
    asked = []
    original = _originals.getaddrinfo

    def lookup(*args):
        asked.append(args)
        return original(*args)

    monkeypatch.setattr(_originals, "getaddrinfo", lookup)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        address = host, far.getsockname()[1]
        with socket.socket(far.family, far.type) as near:
            if method.startswith("connect"):
                on_virtual(getattr(near, method), address)
                on_virtual(near.send, b"hello")
            else:
                arguments = (b"hello", address) if method == "sendto" else ([b"hello"], (), 0, address)
                assert on_virtual(getattr(near, method), *arguments) == 5
        assert far.recv(10) == b"hello"
    assert [(bytes(host, "ascii") if isinstance(host, str) else host, family) for host, _, family in asked] == [
        (b"localhost", socket.AF_INET)
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "<broadcast>", ""])
def test_sendto(udp, host):
    """Datagrams go to addresses and to names, with flags and without, and to the special names of C."""
    near, far = udp
    far.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    address = (host, near.getsockname()[1])
    on_platform = described(far.sendto, b"hello", address), described(far.sendto, b"hello", 0, address)
    on_plait = on_virtual(
        lambda: (described(far.sendto, b"hello", address), described(far.sendto, b"hello", 0, address))
    )
    assert on_plait == on_platform


def test_descriptors_travel():
    """sendmsg and recvmsg carry descriptors, and wait while they do."""
    near, far = socket.socketpair()
    reader, writer = os.pipe()
    with near, far:
        with ThreadGroup() as group:
            future = group.spawn(socket.recv_fds, far, 10, 1)
            wait_parked(future)
            group.spawn(socket.send_fds, near, [b"x"], [writer])
        data, fds, _, _ = future.result()
        assert data == b"x"
        os.write(fds[0], b"through the copy")
        assert os.read(reader, 100) == b"through the copy"
    for fd in (reader, writer, *fds):
        os.close(fd)


# ---- settimeout ----


CALLS = {
    "recv": lambda sock: sock.recv(1),
    "recv_into": lambda sock: sock.recv_into(bytearray(1)),
    "recvfrom": lambda sock: sock.recvfrom(1),
    "recvmsg": lambda sock: sock.recvmsg(1),
    "send": lambda sock: sock.send(b"x"),
    "sendall": lambda sock: sock.sendall(b"x"),
    "sendmsg": lambda sock: sock.sendmsg([b"x"]),
}


@pytest.mark.parametrize("timeout", [0, 0.02])
@pytest.mark.parametrize("name", CALLS)
def test_timeout_means_what_it_means_on_platform_threads(pair, name, timeout):
    """0 never waits, a number of seconds bounds the call; errors are the original's to the letter."""
    near, _ = pair
    fill(near)
    near.settimeout(timeout)
    on_platform = described(CALLS[name], near)
    started = time.monotonic()
    assert on_virtual(described, CALLS[name], near) == on_platform
    assert time.monotonic() - started >= timeout
    assert near.gettimeout() == timeout


@pytest.mark.parametrize("name", ["recvfrom", "recvmsg", "accept", "recv"])
def test_default_timeout_is_for_new_sockets(name):
    """`socket.setdefaulttimeout` changes nothing for a socket that has a timeout, and holds up nobody."""
    near, far = socket.socketpair()
    with near, far, socket.create_server(("127.0.0.1", 0)) as listener:
        sock = listener if name == "accept" else near
        sock.settimeout(0.2)
        call = CALLS.get(name, lambda sock: sock.accept())
        socket.setdefaulttimeout(30)
        try:
            with ThreadGroup() as group:
                future = group.spawn(described, call, sock)
                wait_parked(future)
        finally:
            socket.setdefaulttimeout(None)
        assert future.result() == ("raised", "TimeoutError", "timed out")
        assert sock.gettimeout() == 0.2


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_accept_timeout(timeout):
    """`accept` keeps to the listener's timeout, with the original's error."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(timeout)
        assert on_virtual(described, listener.accept) == described(listener.accept)


@pytest.mark.parametrize(
    ("name", "flag"), [("recv", "MSG_DONTWAIT"), ("recvfrom", "MSG_DONTWAIT"), ("recvmsg", "MSG_DONTWAIT")]
)
def test_receive_that_shall_not_wait(pair, name, flag):
    """MSG_DONTWAIT is obeyed on a blocking socket: the error of a call that would wait."""
    near, _ = pair
    arguments = (1, 0, getattr(socket, flag)) if name == "recvmsg" else (1, getattr(socket, flag))
    with plait.timeout(1):
        expected = ("raised", "BlockingIOError", "[Errno 11] Resource temporarily unavailable")
        assert on_virtual(described, getattr(near, name), *arguments) == expected


@pytest.mark.parametrize("name", ["send", "sendall", "sendmsg"])
def test_send_that_shall_not_wait(pair, name):
    """MSG_DONTWAIT is obeyed on a blocking socket whose buffer is full."""
    near, _ = pair
    fill(near)
    arguments = ([b"x"], [], socket.MSG_DONTWAIT) if name == "sendmsg" else (b"x", socket.MSG_DONTWAIT)
    with plait.timeout(1):
        expected = ("raised", "BlockingIOError", "[Errno 11] Resource temporarily unavailable")
        assert on_virtual(described, getattr(near, name), *arguments) == expected


def _take_all(sock, name, size, flags=0):
    """What `name` receives with MSG_WAITALL, as bytes."""
    flags |= socket.MSG_WAITALL
    buffers = [bytearray(2), bytearray(size - 2)] if name == "recvmsg_into" else bytearray(size)
    arguments = {
        "recv": (size, flags),
        "recv_into": (buffers, size, flags),
        "recvfrom": (size, flags),
        "recvfrom_into": (buffers, size, flags),
        "recvmsg": (size, 0, flags),
        "recvmsg_into": (buffers, 0, flags),
    }
    got = getattr(sock, name)(*arguments[name])
    first = got[0] if isinstance(got, tuple) else got
    return (
        first
        if isinstance(first, bytes)
        else bytes(b"".join(buffers) if isinstance(buffers, list) else buffers)[:first]
    )


@pytest.mark.parametrize("name", RECEIVE)
def test_receive_that_waits_for_all(pair, name):
    """MSG_WAITALL: the call returns when everything is there, not before."""
    near, far = pair
    with ThreadGroup() as group:
        future = group.spawn(_take_all, near, name, 6)
        wait_parked(future)
        for part in (b"a", b"bc"):
            far.send(part)
            wait_until(lambda: not wait_readable(near, 0) and (future.done() or is_parked(future)))
        far.send(b"def")
    assert future.result() == b"abcdef"


@pytest.mark.parametrize("name", RECEIVE)
def test_receive_that_waits_for_all_meets_the_end(pair, name):
    """MSG_WAITALL: the end of the stream, or a cancel, ends the call with what has come so far; nothing is lost."""
    near, far = pair
    with ThreadGroup() as group:
        future = group.spawn(_take_all, near, name, 6)
        far.send(b"abc")
        wait_until(lambda: not wait_readable(near, 0) and (future.done() or is_parked(future)))
        far.shutdown(socket.SHUT_WR)
    assert future.result() == b"abc"


@pytest.mark.parametrize("name", ["recvmsg", "recvmsg_into"])
def test_receive_that_waits_for_all_stops_at_descriptors(name):
    """MSG_WAITALL: descriptors that come along end the call, as they do in the kernel."""
    near, far = socket.socketpair()
    room = socket.CMSG_LEN(struct.calcsize("i"))
    with near, far, ThreadGroup() as group, open(os.devnull, "rb") as file:
        what = 6 if name == "recvmsg" else [bytearray(6)]
        future = group.spawn(getattr(near, name), what, room, socket.MSG_WAITALL)
        wait_parked(future)
        far.send(b"ab")
        wait_until(lambda: not wait_readable(near, 0) and (future.done() or is_parked(future)))
        socket.send_fds(far, [b"cd"], [file.fileno()])
        got, ancillary, _, _ = future.result()
        os.close(struct.unpack("i", ancillary[0][2])[0])
    assert (got if name == "recvmsg_into" else len(got)) == 4


def test_receive_that_waits_for_all_tells_the_sender(tmp_path):
    """MSG_WAITALL: the address is that of who has sent it."""
    path = str(tmp_path / "peer")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as near:
        listener.bind(path)
        listener.listen()
        near.connect(path)
        far, _ = listener.accept()
        with far, ThreadGroup() as group:
            future = group.spawn(near.recvfrom, 6, socket.MSG_WAITALL)
            wait_parked(future)
            far.send(b"abc")
            wait_until(lambda: not wait_readable(near, 0) and (future.done() or is_parked(future)))
            far.send(b"def")
    assert future.result() == (b"abcdef", path)


@pytest.mark.parametrize("name", RECEIVE)
@pytest.mark.parametrize("sent", [b"", b"abc"])
@pytest.mark.parametrize("where", ["virtual", "platform"])
def test_receive_that_waits_for_all_is_cancelled(pair, name, sent, where):
    """MSG_WAITALL: a cancel ends the call with what has come; if nothing has, the wait did not happen."""
    near, far = pair
    got = []

    def body():
        with ThreadGroup() as inner:
            inside.append((inner, plait._core.current_thread()))
            got.append(_take_all(near, name, 6))
            time.sleep(3600)
            got.append(b"not cancelled")

    inside = []
    with ThreadGroup() as group:
        call = group.spawn(body) if where == "virtual" else PlatformCall(body)
        wait_until(lambda: inside)
        inner, thread = inside[0]
        far.send(sent)
        wait_until(lambda: not wait_readable(near, 0) and is_parked(thread))
        inner.cancel()
        call.result()
    far.send(b"more")
    assert got == ([sent] if sent else [])
    assert on_virtual(near.recv, 10) == b"more"


@pytest.mark.parametrize("name", RECEIVE)
def test_peek_that_waits_for_all(pair, name):
    """MSG_PEEK | MSG_WAITALL waits for all and leaves it; whoever reads after a cancelled look finds it."""
    near, far = pair
    with ThreadGroup() as group:
        looks = [group.spawn(_take_all, near, name, 6, socket.MSG_PEEK) for _ in range(2)]
        far.send(b"abc")
        wait_parked(*looks)
        looks[0].cancel()
        wait_until(looks[0].done)
        assert group.spawn(near.recv, 2).result() == b"ab"
        far.send(b"defgh")
        assert looks[1].result() == b"cdefgh"
    far.shutdown(socket.SHUT_WR)
    assert on_virtual(_take_all, near, name, 60, socket.MSG_PEEK) == b"cdefgh"
    assert on_virtual(near.recv, 60) == b"cdefgh"


def test_send_is_cancelled_half_way():
    """`send` without a timeout, cancelled half-way, says how much was sent."""
    near, far = socket.socketpair()
    sent = []
    with near, far:
        with ThreadGroup() as group:
            future = group.spawn(lambda: sent.append(near.send(bytes(2_000_000))))
            wait_parked(future)
            group.cancel()
        assert 0 < sent[0] < 2_000_000
        assert drain(far, until=lambda: True) == sent[0]


def test_send_is_cut_off_by_the_peer():
    """`send` without a timeout says how much was taken before the peer went; the next one raises."""
    near, far = socket.socketpair()
    with near:
        with ThreadGroup() as group:
            future = group.spawn(near.send, bytes(2_000_000))
            wait_parked(future)
            far.close()
        assert 0 < future.result() < 2_000_000
        assert on_virtual(described, near.send, b"x")[1] == "BrokenPipeError"


def test_buffer_cannot_be_resized_while_it_is_sent():
    """What a parked thread sends part by part keeps its size, as CPython has it."""
    near, far = socket.socketpair()
    with near, far:
        for method in ("send", "sendall"):
            data = bytearray(2_000_000)
            with ThreadGroup() as group:
                future = group.spawn(getattr(near, method), data)
                wait_parked(future)
                with pytest.raises(BufferError):
                    data.clear()
                drain(far, until=future.done)
            data.clear()


@pytest.mark.parametrize("flag", ["MSG_OOB", "MSG_ERRQUEUE", "MSG_DONTWAIT"])
def test_receive_of_what_is_there_at_once_or_not_at_all(flag):
    """Flags with which the kernel never waits: its answer, be it that there is nothing."""
    near, far = tcp_pair()
    with near, far, plait.timeout(1):
        expected = described(near.recv, 1, getattr(socket, flag))
        assert on_virtual(described, near.recv, 1, getattr(socket, flag)) == expected


@pytest.mark.parametrize("name", ["recv", "send", "sendall", "recvfrom", "recvmsg", "recv_into"])
def test_flag_not_to_wait_on_a_socket_with_a_timeout(pair, name):
    """CPython itself waits then, whatever the flag says; here that holds up nobody, and ends with the timeout."""
    near, _ = pair
    fill(near)
    near.settimeout(0.1)
    data = bytearray(1) if name == "recv_into" else b"x" if name.startswith("send") else 1
    arguments = (data, 0, socket.MSG_DONTWAIT) if name in {"recvmsg", "recv_into"} else (data, socket.MSG_DONTWAIT)
    with ThreadGroup() as group:
        future = group.spawn(described, getattr(near, name), *arguments)
    assert future.result() == described(getattr(near, name), *arguments) == ("raised", "TimeoutError", "timed out")
    assert future.park_count


def test_wrong_size_after_a_wait(pair):
    """A wrong argument is refused at once also where the socket is known to be empty."""
    near, far = pair

    def body():
        far.send(b"x")
        near.recv(10)
        return [described(near.recv, -1), described(near.recv_into, bytearray(1), 2), near.recv(0)]

    assert [outcome[:2] for outcome in on_virtual(body)[:2]] == [("raised", "ValueError")] * 2


def test_peek_leaves_the_data(pair):
    """MSG_PEEK shows what is there, any number of times."""
    near, far = pair
    far.send(b"hello")

    def body():
        return near.recv(3, socket.MSG_PEEK), near.recv(100, socket.MSG_PEEK), near.recv(100)

    assert on_virtual(body) == (b"hel", b"hello", b"hello")


@pytest.mark.parametrize("name", ["recv", "recv_into"])
def test_receive_of_nothing_does_not_wait(pair, name):
    """Zero bytes are there at once, as CPython has it."""
    near, _ = pair
    with plait.timeout(1):
        assert on_virtual(getattr(near, name), 0 if name == "recv" else bytearray()) == (b"" if name == "recv" else 0)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("recv", ()),
        ("recv", (-1,)),
        ("recv", ("x",)),
        ("recv", (1, "x")),
        ("recv", (1, 2, 3)),
        ("recv_into", ()),
        ("recv_into", (b"readonly",)),
        ("recv_into", (bytearray(1), 2)),
        ("recv_into", (bytearray(1), -1)),
        ("recv_into", ("x",)),
        ("recvfrom", (-1,)),
        ("recvfrom", ()),
        ("recvmsg", (-1,)),
        ("send", ()),
        ("send", ("text",)),
        ("send", (None,)),
        ("sendall", ("text",)),
        ("sendall", (5,)),
        ("sendall", (memoryview(bytes(10))[::2],)),
        ("send", (memoryview(bytes(10))[::2],)),
        ("recv_into", (memoryview(bytearray(10))[::2],)),
        ("recv_into", (None,)),
        ("sendall", ()),
        ("sendto", ()),
        ("sendto", (b"x",)),
        ("sendto", (b"x", 5)),
        ("sendto", (b"x", 0, 5)),
        ("sendto", ("text", ("127.0.0.1", 1))),
        ("sendmsg", ()),
        ("sendmsg", (b"x",)),
        ("connect", ()),
        ("connect", (5,)),
        ("connect", (("127.0.0.1",),)),
        ("connect", (("127.0.0.1", "x"),)),
        ("connect", (("127.0.0.1", 70000),)),
        ("connect", ((5, 5),)),
        ("connect_ex", (5,)),
        ("connect", (("a..b", 5),)),
        ("connect", (("a\0b", 5),)),
        ("connect", ((b"\xff\xff", 5),)),
        ("sendto", (b"x", 0)),
        ("sendto", (b"x", "flags", ("127.0.0.1", 1))),
        ("sendto", (b"x", 0, ("127.0.0.1", 1), 5)),
        ("sendmsg", (5,)),
        ("sendmsg", ([b"x"], 5)),
        ("sendmsg", ([b"x"], (), "flags")),
        ("recvmsg_into", (5,)),
        ("recvmsg_into", ([b"readonly"],)),
        ("recvfrom_into", (bytearray(1), 2)),
        ("recvfrom_into", (b"readonly",)),
        ("recvfrom", (1, "flags")),
    ],
)
@pytest.mark.parametrize("timeout", [None, 10])
def test_wrong_arguments(name, arguments, timeout):
    """Wrong arguments get the original's error, of the same type."""
    with socket.socket() as sock:
        sock.settimeout(timeout)
        expected = described(getattr(sock, name), *arguments)
        assert on_virtual(described, getattr(sock, name), *arguments)[:2] == expected[:2]


class Index:
    """Something that is only like an int."""

    def __index__(self):
        return 0

    def __repr__(self):
        return "index"


_ODD_FLAGS = [1.5, Index(), "x", None, True, float("nan"), 1 << 31, 1 << 32, 1 << 63, 1 << 70, -(1 << 31) - 1]


@pytest.mark.parametrize("flags", _ODD_FLAGS, ids=repr)
@pytest.mark.parametrize("timeout", [None, 10])
def test_odd_flags(flags, timeout):
    """Flags are ints, and what is like one; what else there is is refused in the same words, but for what is too large."""
    calls = {
        "recv": (1, flags),
        "recv_into": (bytearray(1), 1, flags),
        "send": (b"x", flags),
        "sendall": (b"x", flags),
    }
    for name, arguments in calls.items():
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(timeout)
            far.send(b"xxx")
            expected = described(getattr(near, name), *arguments)
            got = on_virtual(described, getattr(near, name), *arguments)
            words = (
                slice(0, 2) if expected[1] == "OverflowError" else slice(3)
            )  # 3.15 has it in one way for send, in another for recv
            assert got[words] == expected[words] or got[0] == expected[0] == "returned"


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize("address", [5, ("127.0.0.1", 70000), ("127.0.0.1", "x"), ("::1", 80), ("a..b", 80)])
def test_wrong_addresses(method, address):
    """Wrong addresses get the original's error to the letter."""
    with socket.socket() as sock:
        expected = described(getattr(sock, method), address)
        assert on_virtual(described, getattr(sock, method), address) == expected


def test_recvfrom_into_with_keywords(udp):
    """`nbytes` and `flags` by keyword mean what they mean by position."""
    near, far = udp
    for _ in range(3):
        far.sendto(b"hello", near.getsockname())

    def body():
        buffer = bytearray(9)
        return [
            near.recvfrom_into(buffer, nbytes=3)[0],
            near.recvfrom_into(buffer, 4, flags=socket.MSG_PEEK)[0],
            near.recvfrom_into(buffer, flags=0, nbytes=2)[0],
        ]

    assert on_virtual(body) == [3, 4, 2]


@pytest.mark.parametrize("name", [*CALLS, "accept", "connect"])
def test_closed_socket(name):
    """A closed socket refuses every call as ever."""
    sock = socket.socket()
    sock.close()
    call = CALLS.get(name) or {"accept": lambda s: s.accept(), "connect": lambda s: s.connect(("127.0.0.1", 9))}[name]
    assert on_virtual(described, call, sock) == described(call, sock)


# ---- closing ----


@pytest.mark.parametrize("who", ["platform", "virtual"])
@pytest.mark.parametrize("name", ["recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "accept"])
def test_close_wakes_those_who_are_parked(name, who):
    """Closing a socket ends the waits on it with EBADF, whoever closes it."""
    near, far = socket.socketpair()
    if name == "accept":
        near.close()
        near = socket.create_server(("127.0.0.1", 0))
    with near, far:
        if name.startswith("send"):
            fill(near)
        with ThreadGroup() as group:
            call = CALLS.get(name, lambda sock: sock.accept())
            futures = [group.spawn(described, call, near) for _ in range(3)]
            wait_parked(*futures)
            if who == "platform":
                near.close()
            else:
                group.spawn(near.close)
        for future in futures:
            assert future.result() == ("raised", "OSError", f"[Errno {errno.EBADF}] Bad file descriptor")


def test_close_wakes_a_body_on_a_platform_thread():
    """A child that closes the socket on which the body waits ends that wait."""
    near, far = socket.socketpair()
    with near, far, ThreadGroup(timeout=1) as group:
        body = plait._core.current_thread()

        def close():
            wait_until(lambda: is_parked(body))
            near.close()

        group.spawn(close)
        with pytest.raises(OSError, match="Bad file descriptor"):
            near.recv(1)


@pytest.mark.parametrize("name", ["recv", "recvfrom", "accept", "send", "wait_readable"])
def test_close_wakes_platform_threads(name):
    """Any call on a platform thread with a scope ends when the socket is closed, as on a virtual one."""
    near, far = socket.socketpair()
    if name == "accept":
        near.close()
        near = socket.create_server(("127.0.0.1", 0))
    with near, far:
        if name == "send":
            fill(near)
        threads = []
        call = {"accept": lambda sock: sock.accept(), "wait_readable": wait_readable}.get(name) or CALLS[name]

        def body():
            with ThreadGroup():
                threads.append(plait._core.current_thread())
                return described(call, near)

        calls = [PlatformCall(body) for _ in range(2)]
        wait_until(lambda: len(threads) == 2 and all(map(is_parked, threads)))
        on_virtual(near.close)
        expected = (
            ("returned", True) if name == "wait_readable" else ("raised", "OSError", "[Errno 9] Bad file descriptor")
        )
        assert [call.result() for call in calls] == [expected] * 2


def test_close_that_comes_before_the_wait(monkeypatch):
    """A socket that is closed between the attempt and the wait: nobody waits for whatever has its number now."""
    near, far = socket.socketpair()
    with near, far:
        number = near.fileno()

        def steal(fd, events):
            """What another thread may do at the worst time."""
            os.dup2(quiet, number)
            near.detach()
            return 0

        quiet, other = os.pipe()
        monkeypatch.setattr(_connections, "poll_now", steal)
        assert on_virtual(described, near.accept)[1:] == ("OSError", "[Errno 9] Bad file descriptor")
        for fd in (quiet, other, number):
            os.close(fd)


def test_two_objects_over_one_descriptor():
    """Two sockets with the same number both wait, neither wakes the other, and both are woken by a close."""
    near, far = socket.socketpair()
    with near, far:
        twin = socket.socket(fileno=near.fileno())
        with ThreadGroup() as group:
            first, second = (group.spawn(described, sock.recv, 1) for sock in (near, twin))
            wait_parked(first, second)
            before = first.epoch() + second.epoch()  # how often they have waited
            for _ in range(20):
                group.spawn(int).result()
            assert first.epoch() + second.epoch() <= before + 2
            assert before <= 4
            far.send(b"x")
            wait_until(lambda: first.done() or second.done())
            twin.close()
            near.detach()
        outcomes = sorted([first.result(), second.result()])
        assert outcomes[1] == ("returned", b"x")
        assert outcomes[0][1] == "OSError"


def test_wake_for_a_number_that_has_come_back(pair):
    """A close that is heard of only after its number has come back harms nobody who waits for the new socket."""
    near, far = pair

    def body():
        far.send(b"x")
        near.recv(10)  # a short read: the next one parks first
        return near.recv(10)

    with ThreadGroup() as group:
        future = group.spawn(body)
        wait_until(lambda: not wait_readable(near, 0) and is_parked(future))
        reactor = future.carrier.reactor
        future.carrier.call(lambda: reactor.forget(reactor.find(near.fileno())))
        group.spawn(far.send, b"hello")
    assert future.result() == b"hello"


def test_shutdown_wakes_those_who_are_parked():
    """`shutdown` of a stream gives its readers the end, and of a listener the error that the kernel gives."""
    near, far = socket.socketpair()
    with near, far, socket.create_server(("127.0.0.1", 0)) as listener, ThreadGroup() as group:
        reader, server = group.spawn(near.recv, 1), group.spawn(described, listener.accept)
        wait_parked(reader, server)
        near.shutdown(socket.SHUT_RDWR)
        listener.shutdown(socket.SHUT_RDWR)
        assert reader.result() == b""
        assert server.result() == described(listener.accept) == ("raised", "OSError", "[Errno 22] Invalid argument")


def test_number_of_a_closed_socket_comes_back():
    """A socket that gets the number of a closed one is a stranger to those who waited for that."""
    with ThreadGroup() as group:
        for _ in range(30):
            near, far = socket.socketpair()
            number = near.fileno()
            first = group.spawn(described, near.recv, 1)
            wait_parked(first)
            near.close()
            again, other = socket.socketpair()
            assert number in {again.fileno(), other.fileno()}
            if other.fileno() == number:
                again, other = other, again
            second = group.spawn(again.recv, 10)
            wait_parked(second)
            other.send(b"hello")
            assert second.result() == b"hello"
            assert first.result()[1] == "OSError"
            for sock in (far, again, other):
                sock.close()


def test_number_of_a_closed_socket_comes_back_as_a_file(tmp_path):
    """A number that comes back as a regular file, which no poller takes, harms nobody."""
    (tmp_path / "file").write_bytes(b"hello")
    with ThreadGroup() as group:
        near, far = socket.socketpair()
        number = near.fileno()
        first = group.spawn(described, near.recv, 1)
        wait_parked(first)

        def swap():
            """On the carrier, so nothing of it happens in between."""
            near.close()
            os.dup2(file, number)
            return os.read(number, 100)

        file = os.open(tmp_path / "file", os.O_RDONLY)
        second = group.spawn(swap)
        assert second.result() == b"hello"
        assert first.result()[1] == "OSError"
        os.close(file)
        os.close(number)
        far.close()
        with socket.socket() as another:  # the carriers are alive
            assert group.spawn(another.fileno).result() > 0


@pytest.mark.parametrize("is_adopted", [False, True])
def test_number_of_a_detached_socket_comes_back_as_a_pipe(is_adopted):
    """It is waited for as a pipe, while the object that it was taken from is still there."""
    near, far = socket.socketpair()

    def body():
        """On one thread, so that all of it is seen by the same carrier."""
        with move_on_after(0.01):
            near.recv(1)
        number = near.detach()
        if is_adopted:
            with open(number, "rb", buffering=0) as file:
                far.send(b"x")
                assert file.read(1) == b"x"
        else:
            os.close(number)
        reader, writer = os.pipe()
        assert reader == number
        with ThreadGroup() as group:
            child = group.spawn(lambda: os.write(writer, b"hello"))
            got = os.read(reader, 10)
            child.result()
        for fd in (reader, writer):
            os.close(fd)
        return got

    with far:
        assert on_virtual(body) == b"hello"


def test_number_that_is_closed_while_two_wait_for_it():
    """A number closed under two waiters, with a duplicate that goes on, harms nobody else."""
    near, far = socket.socketpair()
    fill(near)
    duplicate = near.dup()
    number = near.detach()
    with ThreadGroup() as group:

        def wait_for_both():
            return [group.spawn(described, wait_readable, number), group.spawn(described, wait_writable, number)]

        reader, writer = group.spawn(wait_for_both).result()
        wait_parked(reader, writer)
        os.close(number)
        far.send(b"x")
        wait_until(lambda: reader.done() or duplicate.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        assert group.spawn(int).result(2) == 0  # the carriers are alive
        group.cancel()
    duplicate.close()
    far.close()


# ---- many at once ----


def test_both_directions_of_one_socket_at_once(pair):
    """One thread sends, another receives, on the same socket."""
    near, far = pair
    size = 1_000_000

    def read(sock):
        left = size
        while left:
            left -= len(sock.recv(left))

    with ThreadGroup() as group:
        for sock in (near, far):
            group.spawn(read, sock)
            group.spawn(sock.sendall, bytes(size))


def test_many_readers_of_one_socket(udp):
    """Each datagram goes to one of the threads that wait, and none waits on while there are more."""
    near, far = udp
    with ThreadGroup() as group:
        readers = [group.spawn(near.recv, 100) for _ in range(20)]
        wait_parked(*readers)
        for number in range(20):
            far.sendto(b"%d" % number, near.getsockname())
    assert sorted(int(reader.result()) for reader in readers) == list(range(20))


def test_many_readers_of_one_stream(pair):
    """Every byte goes to exactly one of the threads that read a stream."""
    near, far = pair

    def read():
        total = 0
        while data := near.recv(7):
            total += len(data)
        return total

    with ThreadGroup() as group:
        readers = [group.spawn(read) for _ in range(8)]
        for _ in range(200):
            far.sendall(bytes(13))
        far.shutdown(socket.SHUT_WR)
    assert sum(reader.result() for reader in readers) == 200 * 13


def test_listener_shared_by_virtual_and_platform_threads():
    """A listener in blocking mode is blocking for everybody, while others accept on it from virtual threads."""
    is_over = []
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:

        def serve():
            taken = 0
            while True:
                listener.accept()[0].close()
                if is_over:
                    return taken
                taken += 1

        def visit(times):
            for _ in range(times):
                socket.create_connection(listener.getsockname()).close()

        with ThreadGroup() as group:
            on_platform = [PlatformCall(serve) for _ in range(3)]
            on_plait = [group.spawn(serve) for _ in range(3)]
            for visitor in [group.spawn(visit, 50) for _ in range(20)]:
                visitor.result()
            wait_until(lambda: not wait_readable(listener, 0))
            is_over.append(True)
            while not all(server.is_over for server in on_platform) or not all(server.done() for server in on_plait):
                visit(1)
            servers = [described(server.result) for server in (*on_platform, *on_plait)]
        assert [server[0] for server in servers] == ["returned"] * 6, servers
        assert os.get_blocking(listener.fileno())


def test_mode_of_a_shared_listener():
    """A listener that others have put into non-blocking mode stays in it, and gives platform threads their error."""
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as duplicate:
        duplicate.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with ThreadGroup() as group:
            server = group.spawn(listener.accept)
            wait_parked(server)
            socket.create_connection(listener.getsockname()).close()
        server.result()[0].close()
        assert not os.get_blocking(duplicate.fileno())


def test_accept_in_the_middle_of_settimeout():
    """A timeout is written before the mode is set: an attempt in between does not wait, and sets the mode itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        os.set_blocking(listener.fileno(), True)
        assert accept(listener, listener.fileno()) is None
        assert not os.get_blocking(listener.fileno())
        listener.settimeout(None)
        assert accept(listener, listener.fileno()) is None
        assert os.get_blocking(listener.fileno())


@pytest.mark.skipif(not NO_GIL, reason="the GIL keeps the one from coming in the middle of the other")
def test_settimeout_in_the_middle_of_accept():
    """A listener with a timeout is in non-blocking mode, whenever it was given that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        is_on, is_resting, is_over = threading.Event(), threading.Event(), False

        def attempt():
            while not is_over:
                is_resting.set()
                is_on.wait()
                is_resting.clear()
                while is_on.is_set() and not is_over:
                    accept(listener, fd)

        call = PlatformCall(attempt)
        for pause in range(200):
            is_on.set()
            wait_until(lambda: not is_resting.is_set())
            for _ in range(pause):
                pass
            listener.settimeout(5)
            is_on.clear()
            is_resting.wait()
            assert not os.get_blocking(fd)
            listener.settimeout(None)
        is_over = True
        is_on.set()
        call.result()


def test_receive_timeout_of_a_listener():
    """SO_RCVTIMEO of a listener bounds `accept` on platform threads as ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_one_process_at_a_time_leaves_blocking_mode():
    """Processes that share a listener, and threads of one process, take turns outside its blocking mode."""
    code = """
        import os, socket, threading
        from plait._native import is_in_blocking_mode, outside_blocking_mode

        listener = socket.create_server(("127.0.0.1", 0))
        fd = listener.fileno()
        inside, told = os.pipe(), os.pipe()

        def stay():
            os.write(inside[1], b"x")
            os.read(told[0], 1)

        def others_wait(leave):
            os.read(inside[0], 1)
            assert not os.get_blocking(fd)
            answers = []
            asking = threading.Thread(target=lambda: answers.append(is_in_blocking_mode(fd)))
            asking.start()
            asking.join(0.1)
            assert asking.is_alive()
            os.write(told[1], b"x")
            leave()
            asking.join()
            assert answers == [True] and os.get_blocking(fd)

        child = os.fork()
        if not child:
            outside_blocking_mode(fd, None, stay)
            os._exit(0)
        others_wait(lambda: os.waitpid(child, 0))
        thread = threading.Thread(target=lambda: outside_blocking_mode(fd, None, stay))
        thread.start()
        others_wait(thread.join)
        print("done")
    """
    assert run_python(code) == "done\n"


def test_mode_of_what_has_the_number_by_now(tmp_path):
    """Whoever closes a socket while somebody has left its blocking mode finds the mode of the next file untouched."""
    near, far = socket.socketpair()
    number = near.fileno()

    def replace():
        near.close()
        found = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
        assert found == number

    with far:
        outside_blocking_mode(number, near, replace)
    assert fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK) == os.O_APPEND | os.O_NONBLOCK
    os.close(number)


def test_mode_of_a_socket_that_was_given_a_timeout():
    """Who gives a socket a timeout while somebody has left its blocking mode finds it in non-blocking mode, as ever."""
    near, far = socket.socketpair()
    with near, far:
        outside_blocking_mode(near.fileno(), near, near.settimeout, 5)
        assert not os.get_blocking(near.fileno())
        near.settimeout(None)
        outside_blocking_mode(near.fileno(), near, int)
        assert os.get_blocking(near.fileno())


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("kind", ["inet", "inet6", "path", "unnamed", "abstract"])
def test_who_has_come(kind, timeout, tmp_path):
    """`accept` gives the address that the original gives, of every family."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
    address = {"inet": ("127.0.0.1", 0), "inet6": ("::1", 0)}.get(kind, str(tmp_path / "listener"))
    own = {"path": str(tmp_path / "grüße"), "abstract": b"\0plait-%d" % os.getpid()}.get(kind)
    with socket.socket(family) as listener:
        try:
            listener.bind(address)
        except OSError as error:
            pytest.skip(f"no {kind} here: {error}")
        listener.listen()
        listener.settimeout(timeout)
        with ThreadGroup() as group:
            server = group.spawn(listener.accept)
            wait_parked(server)
            with socket.socket(family) as visitor:
                if own is not None:
                    visitor.bind(own)
                visitor.connect(listener.getsockname())
                connection, came_from = server.result()
                with connection:
                    assert came_from == connection.getpeername() == visitor.getsockname()
                    assert not connection.get_inheritable()


def test_many_accept_on_one_listener():
    """Each connection goes to one of the threads that wait to accept."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, address = listener.accept()
            connection.close()
            return address

        with ThreadGroup() as group:
            servers = [group.spawn(serve) for _ in range(10)]
            wait_parked(*servers)
            visitors = [group.spawn(socket.create_connection, listener.getsockname()) for _ in range(10)]
    addresses = set()
    for visitor in visitors:
        with visitor.result() as sock:
            addresses.add(sock.getsockname())
    assert {server.result() for server in servers} == addresses


# ---- many accept: each event is for one of them ----


@pytest.fixture
def line(tmp_path):
    """A listener to which one connects without waiting, and three virtual threads of one carrier that wait to accept."""
    with socket.socket(socket.AF_UNIX) as listener, ThreadGroup(timeout=20) as group:
        listener.bind(str(tmp_path / "listener"))
        listener.listen(100)
        listener.settimeout(30)
        servers = [group.spawn(_served, listener) for _ in range(4 * 2 + 1)]
        wait_parked(*servers)
        waiting = _most_common(servers).reactor.find(listener.fileno()).line  # in the order in which they came
        first = list(waiting)[:3]
        for server in {*servers}.difference(first):
            server.cancel()
            wait_until(server.done)
        yield listener, first
        for server in first:
            server.cancel()


def _most_common(servers):
    carriers = [server.carrier for server in servers]
    return max(carriers, key=carriers.count)


def _served(listener):
    """What becomes of one `accept`."""
    kind, value = outcome(listener.accept)
    if kind == "raised":
        return type(value).__name__
    value[0].close()
    return "served"


def _visit(listener):
    """Connect, which does not wait here, on whatever thread."""
    visitor = _originals.Socket(socket.AF_UNIX)
    _originals.sock_connect(visitor, listener.getsockname())
    _originals.sock_close(visitor)


def _on_carrier(servers, *steps):
    """Do `steps` at once on the carrier of `servers`, then have it hear of all events; how many still wait after that."""
    carrier = servers[0].carrier
    waiting = []

    def body():
        for step in steps:
            step()
        _hear(servers)
        waiting.append(sum(map(is_parked, servers)))

    carrier.call(body)
    wait_until(lambda: waiting)
    return waiting[0]


def _hear(servers):
    """The carrier of `servers` takes all events out of the kernel. Called there."""
    carrier = servers[0].carrier
    carrier.reactor.dispatch(carrier.poller.wait(0.0))


def _expire(server):
    server.expire(WaitWord.epoch(server))


def test_connection_wakes_one(line):
    """And no more; the next connection wakes the next, in the order in which they came."""
    listener, servers = line
    for left in (2, 1, 0):
        assert _on_carrier(servers, lambda: _visit(listener)) == left
        assert servers[2 - left].result() == "served"


def test_connections_that_come_at_once(line):
    """One edge tells of all of them: who has taken one wakes the next."""
    listener, servers = line
    assert _on_carrier(servers, *[lambda: _visit(listener)] * 3) == 2
    assert [server.result() for server in servers] == ["served"] * 3


def test_connection_that_another_takes(line):
    """Who finds nothing waits on, and hears of what comes next."""
    listener, servers = line

    def take():
        os.close(_originals.sock_accept(listener)[0])

    assert _on_carrier(servers, lambda: _visit(listener), lambda: _hear(servers), take) == 2
    wait_until(lambda: servers[0].park_count == 2)
    for _ in servers:
        _on_carrier(servers, lambda: _visit(listener))
    assert [server.result() for server in servers] == ["served"] * 3


@pytest.mark.parametrize(("end", "end_of_it"), [(Future.cancel, None), (_expire, "TimeoutError")])
def test_connection_for_one_whose_wait_has_ended(line, end, end_of_it):
    """A cancel or the timeout was there first: it wakes the next."""
    listener, servers = line
    assert _on_carrier(servers, lambda: _visit(listener), lambda: end(servers[0])) == 1
    assert servers[1].result() == "served"
    wait_until(servers[0].done)
    assert servers[0].cancelled() if end_of_it is None else servers[0].result() == end_of_it
    assert is_parked(servers[2])


def test_cancel_of_one_that_was_woken(line):
    """It takes the connection that it was woken for."""
    listener, servers = line
    steps = (lambda: _visit(listener), lambda: _hear(servers), servers[0].cancel)
    assert _on_carrier(servers, *steps) == 2
    assert servers[0].result() == "served"
    assert all(map(is_parked, servers[1:]))


def test_connection_for_one_that_fails(line):
    """No descriptor is left, say: the next tries."""
    listener, servers = line
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(listener.fileno())
    os.close(free)

    def visit():
        _visit(listener)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))

    servers[0].add_done_callback(lambda _: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
    assert _on_carrier(servers, visit) == 2
    assert [servers[0].result(), servers[1].result()] == ["OSError", "served"]
    assert is_parked(servers[2])


def test_connection_for_one_whose_socket_object_is_gone(line):
    """Of two objects over one descriptor one is detached: who waits by the other hears of the connection."""
    listener, servers = line
    carrier = servers[0].carrier
    with socket.socket(fileno=listener.fileno()) as other, ThreadGroup() as group:
        other.settimeout(30)
        try:
            first = _parked_on(carrier, group, other)
            for server in servers:
                server.cancel()
                wait_until(server.done)
            second = _parked_on(carrier, group, listener)

            steps = (lambda: _visit(listener), lambda: _hear([first]), other.detach)
            assert _on_carrier([first, second], *steps) == 1
            assert [first.result(), second.result()] == ["OSError", "served"]
        finally:
            other.detach()


def _parked_on(carrier, group, listener):
    """A thread of `carrier` that waits to accept. Those of other carriers stay until there is one: so they go in turn."""
    servers = []
    for _ in range(40):
        servers.append(group.spawn(_served, listener))
        wait_parked(servers[-1])
        if servers[-1].carrier is carrier:
            break
    else:
        pytest.fail(f"nobody waits on {carrier!r}")
    for server in servers[:-1]:
        server.cancel()
        wait_until(server.done)
    return servers[-1]


def test_close_of_a_listener_on_which_many_accept(line):
    """All hear of it."""
    listener, servers = line
    listener.close()
    assert [server.result() for server in servers] == ["OSError"] * 3


def test_shutdown_of_a_listener_on_which_many_accept():
    """Likewise, as the one that has heard of it wakes the next."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadGroup(timeout=20) as group:
        servers = [group.spawn(_served, listener) for _ in range(9)]
        wait_parked(*servers)
        listener.shutdown(socket.SHUT_RDWR)
        assert [server.result() for server in servers] == ["OSError"] * 9


def test_connections_for_those_who_accept_and_one_that_polls(line):
    """Who only looks takes nothing away from who accepts, and hears of what they leave."""
    listener, servers = line
    with ThreadGroup() as group:
        watcher = group.spawn(select.select, [listener], [], [])
        wait_parked(watcher)
        for _ in range(4):
            _visit(listener)
        assert watcher.result()[0] == [listener]
    assert [server.result() for server in servers] == ["served"] * 3


# ---- connect ----


@pytest.mark.parametrize("timeout", [None, 0.05])
@pytest.mark.parametrize("name", ["connected", "datagrams", "not yet listening"])
def test_accept_on_what_does_not_listen(name, timeout):
    """It fails at once without a timeout, and as on a platform thread with one."""

    def run():
        kind = socket.SOCK_DGRAM if name == "datagrams" else socket.SOCK_STREAM
        ends = socket.socketpair() if name == "connected" else (socket.socket(type=kind), socket.socket(type=kind))
        with ends[0], ends[1]:
            if name == "datagrams":
                ends[0].bind(("127.0.0.1", 0))
            ends[0].settimeout(timeout)
            return described(ends[0].accept)

    assert on_virtual(run) == run()


@pytest.mark.parametrize("timeout", [None, 10])
def test_connect_to_a_port_that_nobody_listens_on(timeout):
    """A refused connection is the original's error, from connect and from connect_ex."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

    def attempt(method):
        with socket.socket() as sock:
            sock.settimeout(timeout)
            return described(getattr(sock, method), address)

    for method in ("connect", "connect_ex"):
        assert on_virtual(attempt, method) == attempt(method)


ADDRESSES = {
    socket.AF_INET: [
        ("127.0.0.1", 9),
        (b"127.0.0.1", 9),
        ("", 9),
        ("127.1", 9),
        ("127.0.0.1\0", 9),
        ("127.0.0.1", 0),
        ("127.0.0.1", True),
        ("127.0.0.1", -1),
        ("127.0.0.1", 1 << 16),
        ("127.0.0.1", 1 << 70),
        ("127.0.0.1", "9"),
        ("127.0.0.1", 9.0),
        ("127.0.0.1",),
        ("127.0.0.1", 9, 0),
        ["127.0.0.1", 9],
        ("::1", 9),
        "127.0.0.1",
        None,
    ],
    socket.AF_INET6: [
        ("::1", 9),
        ("::1", 9, 5),
        ("::1", 9, 5, 1),
        ("::1", 9, 0, 1, 1),
        ("::1", 9, 1 << 20),
        ("::1", 9, -1),
        ("::1", 9, 0, 1 << 32),
        ("::1%lo", 9),
        ("::1%1", 9),
        ("127.0.0.1", 9),
        ("::ffff:127.0.0.1", 9),
    ],
    socket.AF_UNIX: [
        "\0plait-" + "n" * 101,
        b"\0plait-" + b"n" * 101,
        "\0plait-" + "n" * 102,
        "",
        b"",
        bytearray(b"\0plait-nobody"),
        "/no/such/" + "n" * 98,
        "/no/such/" + "n" * 99,
        "/no/such/\0name",
        "/no/such/\udcff",
        "/no/such/\ud800",
        ("path",),
    ],
}


@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize(
    ("family", "address"), [(family, address) for family, addresses in ADDRESSES.items() for address in addresses]
)
def test_address_to_connect_to(family, address, timeout):
    """Every kind of address leads to where it leads on a platform thread, or is refused in the same words."""

    def run():
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            return [described(sock.connect, address), described(sock.getpeername), described(sock.connect_ex, address)]

    assert on_virtual(run) == run()


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
@pytest.mark.parametrize("timeout", [None, 10])
@pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1"])
def test_audit_hooks_hear_of_connect(method, timeout, host):
    """Once, with the address that was given."""
    hooked = f"""
        import socket, sys, plait
        heard = []
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            sock.settimeout({timeout})
            sys.addaudithook(lambda name, args: name == "socket.connect" and heard.append(args))
            address = ({host!r}, listener.getsockname()[1])
            with plait.ThreadGroup() as group:
                group.spawn(sock.{method}, address)
            [(whose, where)] = heard
            assert where == address and (whose is sock or type(address[0]) is bytes), heard
    """
    run_python(hooked)


@pytest.mark.parametrize("is_listening", [True, False])
def test_state_of_a_socket_after_connect(is_listening):
    """A second attempt, and a read after a refusal, say what they say on a platform thread."""

    def run():
        with socket.socket() as listener, socket.socket() as sock:
            listener.bind(("127.0.0.1", 0))
            if is_listening:
                listener.listen()
            seen = [sock.connect_ex(listener.getsockname())]
            sock.setblocking(False)
            seen.append(described(sock.recv, 1))
            sock.setblocking(True)
            return [*seen, sock.connect_ex(listener.getsockname())]

    assert on_virtual(run) == run()


@pytest.mark.parametrize("timeout", [None, 10])
def test_connect_to_a_name(timeout):
    """`create_connection` finds a host by its name, and the connection works."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def visit():
            with socket.create_connection(("localhost", listener.getsockname()[1]), timeout) as visitor:
                visitor.sendall(b"hello")
                assert visitor.gettimeout() == timeout
                assert os.get_blocking(visitor.fileno()) is (timeout is None)

        with ThreadGroup() as group:
            group.spawn(visit)
            connection, _ = group.spawn(listener.accept).result()
            with connection:
                assert group.spawn(connection.recv, 10).result() == b"hello"


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_connect_by_name_without_create_connection(method):
    """`connect` looks names up itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def visit():
            with socket.socket() as visitor:
                return getattr(visitor, method)(("localhost", listener.getsockname()[1]))

        assert on_virtual(visit) == (None if method == "connect" else 0)


def test_connect_to_a_name_that_nobody_has():
    """An unknown name is the original's error."""

    def attempt():
        with socket.socket() as sock:
            return described(sock.connect, ("no-such-host.invalid", 80))

    assert on_virtual(attempt)[1] == "gaierror"


@pytest.mark.parametrize("timeout", [0.05, 0])
def test_connect_to_a_full_backlog_of_a_unix_socket(timeout):
    """A Unix socket with a timeout never waits in connect, and says so."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind("")
        listener.listen(0)
        first.connect(listener.getsockname())

        def attempt():
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(timeout)
                return described(sock.connect, listener.getsockname()), sock.connect_ex(listener.getsockname())

        assert on_virtual(attempt) == attempt()


def test_cancelled_connect_to_a_full_backlog_leaves_nothing_behind(tmp_path):
    """Who is cancelled while it waits for a place in the backlog of a Unix socket has not connected, and never will."""
    path = str(tmp_path / "listener")
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(path)
        listener.listen(0)
        first, late = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        first.connect(path)
        before = plait.offload_statistics()
        with ThreadGroup() as group:
            future = group.spawn(late.connect, path)
            wait_parked(future)
            future.cancel()
        assert future.cancelled()
        assert plait.offload_statistics().abandoned == before.abandoned
        stack.enter_context(listener.accept()[0])
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(OSError, match="not connected"):
            late.getpeername()


def test_connect_timeout():
    """A connection that nobody answers ends with the socket's timeout, and leaves the error of the original."""
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        others = []

        def attempt():
            sock = socket.socket()
            others.append(sock)
            sock.settimeout(0.05)
            return described(sock.connect, listener.getsockname())

        attempt()  # what the backlog takes beyond its length
        expected = attempt()
        assert on_virtual(attempt) == expected
        for sock in others:
            sock.close()
    assert expected == ("raised", "TimeoutError", "timed out")


@pytest.fixture
def full():
    """The address of a listener whose backlog is full: who connects to it waits."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:  # the backlog takes one or two beyond its length
            sock = stack.enter_context(socket.socket())
            sock.settimeout(0.05)
            if sock.connect_ex(listener.getsockname()):
                break
        yield listener.getsockname()


@pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1"])
def test_connect_that_is_shut_down_meanwhile(full, host):
    """It ends with the kernel's error, begins no other attempt, and the socket can be used for one."""
    with socket.socket() as sock, ThreadGroup() as group:
        future = group.spawn(sock.connect_ex, (host, full[1]))
        wait_parked(future)
        sock.shutdown(socket.SHUT_RDWR)
        assert future.result() == errno.ECONNRESET
        with socket.create_server(("127.0.0.1", 0)) as other:
            assert group.spawn(sock.connect_ex, other.getsockname()).result() == 0


def test_two_that_connect_one_socket(full):
    """Both hear that it is over; one of them why."""
    with socket.socket() as sock, ThreadGroup() as group:
        futures = [group.spawn(sock.connect_ex, full) for _ in range(2)]
        wait_parked(*futures)
        sock.shutdown(socket.SHUT_RDWR)
        assert sorted(future.result() for future in futures) == [errno.ECONNABORTED, errno.ECONNRESET]


def test_timeout_of_connect_begins_after_the_look_up(monkeypatch, full):
    """How long the peer's name is looked up does not count."""
    original = _originals.getaddrinfo

    def look_up(*args):
        _originals.sleep(0.2)
        return original(*args)

    def visit():
        began = time.monotonic()
        with socket.socket() as visitor:
            visitor.settimeout(0.1)
            with pytest.raises(TimeoutError):
                visitor.connect(("localhost", full[1]))
        return time.monotonic() - began

    monkeypatch.setattr(_originals, "getaddrinfo", look_up)
    assert on_virtual(visit) >= 0.3


def test_connect_after_a_shutdown(full):
    """A socket that was shut down before it was connected hangs up at once, and the attempt goes on all the same."""
    with socket.socket() as sock, ThreadGroup() as group:
        with pytest.raises(OSError, match="not connected"):
            sock.shutdown(socket.SHUT_RDWR)
        future = group.spawn(sock.connect_ex, full)
        wait_until(lambda: future.waits_for is WaitReason.SLEEP)
        future.cancel()
    assert future.cancelled()


def test_connect_goes_on_after_a_cancel():
    """A connection whose `connect` was cancelled is still being made, and a second `connect` waits for it."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)

        def connect():
            sock = stack.enter_context(socket.socket())
            with plait.move_on_after(0.05) as limit:
                sock.connect(listener.getsockname())
            return sock, limit.cancelled_caught

        while True:  # the backlog takes one or two beyond its length
            sock, was_cancelled = on_virtual(connect)
            if was_cancelled:
                break
        with ThreadGroup() as group:
            future = group.spawn(sock.connect, listener.getsockname())
            wait_parked(future)
            listener.listen(5)
            listener.accept()[0].close()
        assert future.result() is None
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "", b"localhost", bytearray(b"localhost")])
def test_bind(host):
    """`bind` takes addresses, names, and the special names of C."""

    def attempt():
        with socket.socket() as sock:
            sock.bind((host, 0))
            return sock.getsockname()[0]

    assert on_virtual(attempt) == attempt()


@pytest.mark.parametrize(
    "address", [5, ("127.0.0.1",), ("127.0.0.1", 70000), ("a..b", 5), ("no-such-host.invalid", 80)]
)
def test_bind_to_what_cannot_be(address):
    """Wrong addresses get the original's error, a name that nobody has its kind of error."""
    with socket.socket() as sock:
        expected = described(sock.bind, address)
        assert on_virtual(described, sock.bind, address)[:2] == expected[:2]


@pytest.mark.parametrize("name", ["", "plait-test-of-abstract-names", "path"])
@pytest.mark.parametrize("timeout", [None, 30])
def test_unix_addresses(name, timeout, tmp_path):
    """Servers and clients at paths, at abstract names, and at names that the kernel chooses."""
    path = {"": "", "path": str(tmp_path / "socket")}.get(name, f"\0{name}-{os.getpid()}")

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as near:
        listener.settimeout(timeout)
        near.settimeout(timeout)

        def serve():
            listener.bind(path)
            listener.listen()
            is_open.set()
            far, _ = listener.accept()
            with far:
                far.sendall(far.recv(10).upper())

        is_open = threading.Event()
        with ThreadGroup() as group:
            group.spawn(serve)
            is_open.wait()
            group.spawn(near.connect, listener.getsockname()).result()
            near.sendall(b"hello")
            assert group.spawn(near.recv, 10).result() == b"HELLO"


@pytest.mark.skipif(not hasattr(socket.socket, "sendmsg_afalg"), reason="this build knows no AF_ALG")
@pytest.mark.parametrize("timeout", [None, 0, 30])
def test_ciphers_of_the_kernel(timeout):
    """`sendmsg_afalg` enciphers where the kernel offers it; elsewhere its error is the original's."""

    def attempt():
        with ExitStack() as stack:
            try:
                sock = stack.enter_context(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0))
                sock.bind(("skcipher", "cbc(aes)"))
                sock.setsockopt(socket.SOL_ALG, socket.ALG_SET_KEY, bytes(16))
                sock, _ = sock.accept()
            except OSError:
                sock = socket.socket(socket.AF_UNIX)
            stack.enter_context(sock)
            sock.settimeout(timeout)
            outcome = described(sock.sendmsg_afalg, [bytes(32)], op=socket.ALG_OP_ENCRYPT, iv=bytes(16))
            return outcome, sock.recv(32) if outcome[0] == "returned" else None

    assert on_virtual(attempt) == attempt()


def test_names_and_addresses():
    """Each way to ask has the answer that it has on a platform thread."""

    def ask():
        return [
            described(socket.gethostbyname, "127.0.0.1"),
            described(socket.gethostbyname, "localhost"),
            described(socket.gethostbyname, 5)[:2],
            described(socket.gethostbyname_ex, "localhost"),
            described(socket.gethostbyaddr, "127.0.0.1"),
            described(socket.getnameinfo, ("127.0.0.1", 80), 0),
            described(socket.getnameinfo, ("127.0.0.1", 80), 5),
            described(socket.getnameinfo, "x", 0)[:2],
            described(socket.getfqdn, "127.0.0.1"),
            described(socket.getaddrinfo, "localhost", "http", socket.AF_INET),
            described(socket.getaddrinfo, None, 80),
        ]

    assert on_virtual(ask) == ask()


def test_udp_connect(udp):
    """`connect` on a datagram socket only names the peer."""
    near, far = udp

    def body():
        near.connect(far.getsockname())
        near.send(b"hello")
        return far.recv(10)

    assert on_virtual(body) == b"hello"


# ---- the rest ----


def test_makefile(pair):
    """Files over sockets follow: lines go through, then the end."""
    near, far = pair

    def write():
        with near.makefile("w", encoding="utf-8") as out:
            for number in range(5000):
                print("line", number, file=out)
        near.shutdown(socket.SHUT_WR)

    def read():
        with far.makefile("r", encoding="utf-8") as lines:
            return sum(1 for _ in lines)

    with ThreadGroup() as group:
        group.spawn(write)
        reader = group.spawn(read)
    assert reader.result() == 5000


def test_sendfile(tmp_path):
    """`socket.sendfile` into a full buffer does not hold up its carrier."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 8192)
    near, far = socket.socketpair()

    def send():
        with open(tmp_path / "file", "rb") as file:
            return near.sendfile(file)

    with near, far, ThreadGroup() as group:
        sender = group.spawn(send)
        wait_until(lambda: sender.running())
        others = [group.spawn(int) for _ in range(4)]
        try:
            for other in others:
                assert other.result(2) == 0
        finally:
            PlatformCall(lambda: drain(far, until=sender.done)).result()
    assert sender.result() == 256 * 8192


@pytest.mark.parametrize("timeout", [None, 30])
def test_sendfile_of_a_part(tmp_path, timeout):
    """`socket.sendfile` sends what it is asked for, and moves the file's position, with a timeout and without."""
    data = os.urandom(1_000_000)
    (tmp_path / "file").write_bytes(data)
    near, far = tcp_pair()
    near.settimeout(timeout)

    def send():
        with open(tmp_path / "file", "rb") as file:
            return near.sendfile(file, 1000, 900_000), file.tell()

    def receive():
        got = bytearray()
        while len(got) < 900_000:
            got += far.recv(1 << 16)
        return got

    with near, far, ThreadGroup() as group:
        sender, receiver = group.spawn(send), group.spawn(receive)
    assert sender.result() == (900_000, 901_000)
    assert receiver.result() == data[1000:901_000]


def test_sockets_and_methods_made_before_install():
    """Sockets, bound methods and names taken before the runtime started are cooperative after it."""
    code = """
        import socket, time
        from time import sleep
        near, far = socket.socketpair()
        receive = near.recv
        listener = socket.create_server(("127.0.0.1", 0))
        accept = listener.accept

        import plait
        assert not any(plait.patch.status().values())
        with plait.ThreadGroup() as group:
            first = group.spawn(receive, 10)
            second = group.spawn(accept)
            def body():
                sleep(0.01)
                far.send(b"hello")
                socket.create_connection(listener.getsockname()).close()
            group.spawn(body)
        print(first.result())
        second.result()[0].close()
        for sock in (near, far, listener):
            sock.close()
    """
    assert run_python(code, PLAIT_CARRIERS="1") == "b'hello'\n"


def test_virtual_and_platform_threads_talk(pair):
    """A platform thread and a virtual thread use the two ends of one connection."""
    near, far = pair

    def echo():
        while data := far.recv(100):
            far.sendall(data)

    call = PlatformCall(echo)

    def ask():
        for _ in range(100):
            near.sendall(b"hello")
            assert near.recv(100) == b"hello"
        near.shutdown(socket.SHUT_WR)

    on_virtual(ask)
    call.result()


def test_socket_of_a_parent_thread_is_closed_by_the_end_of_a_with_block():
    """A server that is told to stop by closing its listener stops."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve():
        try:
            while True:
                listener.accept()[0].close()
        except OSError:
            stopped.set()

    with ThreadGroup() as group, listener:
        server = group.spawn(serve)
        wait_parked(server)
    assert stopped.is_set()


def test_close_that_lingers():
    """A socket with SO_LINGER on is closed on a worker: it waits until what was sent has arrived."""
    near, far = tcp_pair()
    closed = []
    with far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
        sent = fill(near)
        with ThreadGroup() as group:
            child = group.spawn(lambda: closed.append(near.close()))
            wait_parked(child)
            assert child.waits_for is WaitReason.OFFLOAD
            child.cancel()  # close is no cancel point
            while sent:
                sent -= len(far.recv(sent))
            wait_until(child.done)
        assert closed == [None]
        assert near.fileno() == -1


# ---- sockets that take no weak reference ----


def test_sockets_of_c():
    """`_socket.socket`, under `socket.socket`, can be used by itself; several threads at a time, too."""
    near, far = _socket.socketpair()
    with ThreadGroup() as group:
        readers = [group.spawn(near.recv, 1), group.spawn(near.recv_into, bytearray(1)), group.spawn(near.recvfrom, 1)]
        wait_parked(*readers)
        for _ in readers:
            far.send(b"x")
        assert [reader.result() for reader in readers] == [b"x", 1, (b"x", None)]
        waiting = group.spawn(near.sendall, bytes(1 << 22))
        wait_parked(waiting)
        got = 0
        while got < 1 << 22:
            got += len(far.recv(1 << 20))
    near.close()
    far.close()


def test_listener_of_c():
    """It accepts and connects."""
    listener = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    client = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
    with ThreadGroup() as group:
        accepted = group.spawn(listener._accept)
        wait_parked(accepted)
        on_virtual(client.connect, listener.getsockname())
        fd, _ = accepted.result()
        client.settimeout(0.01)
        assert isinstance(on_virtual(outcome, client.recv, 1)[1], TimeoutError)
    os.close(fd)
    listener.close()
    client.close()


@pytest.mark.parametrize("where", ["virtual", "platform"])
@pytest.mark.parametrize(
    "closer", [lambda sock: sock.close(), lambda sock: os.close(sock.fileno())], ids=["by itself", "by number"]
)
def test_socket_of_c_is_closed(closer, where):
    """Who waits in it is told."""
    near, far = _socket.socketpair()
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, near.recv, 1)
        wait_parked(waiter)
        if where == "virtual":
            on_virtual(closer, near)
        else:
            PlatformCall(closer, near).result()
        assert waiter.result()[1].errno == errno.EBADF
    near.detach()
    far.close()


def test_socket_of_c_beside_another_object():
    """A socket of Python's and one of C's over one descriptor: who reads gets what there is, whichever it uses."""
    near, far = socket.socketpair()
    twin = _socket.socket(fileno=near.fileno())
    with near, far, ThreadGroup() as group:
        readers = [group.spawn(sock.recv, 1) for sock in (twin, near, twin)]
        wait_parked(*readers)
        for _ in readers:
            far.send(b"x")
        assert [reader.result() for reader in readers] == [b"x"] * 3
        twin.detach()
