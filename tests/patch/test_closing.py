"""A descriptor is closed while a virtual thread is parked in it."""

import errno
import fcntl
import io
import multiprocessing
import os
import resource
import select
import signal
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from functools import partial
from operator import index

import pytest
from patch.helpers import (
    PATIENCE,
    PlatformCall,
    described,
    drain,
    fill,
    fill_pipe,
    on_virtual,
    outcome,
    wait_parked,
    wait_until,
)

from plait import ThreadGroup, _core, _originals, checkpoint, timeout
from plait._native import hold, let_go
from plait.patch import _closing, _descriptors, _files


@pytest.fixture
def pipe():
    """The two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def replaced(fd):
    """Put another pipe there, with something to read."""
    reader, writer = os.pipe()
    os.write(writer, b"other")
    os.dup2(reader, fd)
    os.close(reader)
    os.close(writer)


def _mode(fd):
    return "w" if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_WRONLY else "r"


CLOSERS = {
    "os.close": os.close,
    "os.close by name": lambda fd: os.close(fd=fd),
    "os.closerange": lambda fd: os.closerange(fd, fd + 1),
    "os.dup2": replaced,
    "socket.close": socket.close,
    "FileIO.close": lambda fd: io.FileIO(fd, _mode(fd)).close(),
}
WAITS = {
    "os.read": lambda fd: os.read(fd, 10),
    "FileIO.read": lambda fd: io.FileIO(fd, closefd=False).read(10),
    "FileIO.readinto": lambda fd: io.FileIO(fd, closefd=False).readinto(bytearray(10)),
    "os.readv": lambda fd: os.readv(fd, [bytearray(10)]),
    "os.write": lambda fd: os.write(fd, b"x"),
}
RUNNERS = {
    "here": lambda fn, fd: fn(fd),
    "platform": lambda fn, fd: PlatformCall(fn, fd).result(),
    "virtual": on_virtual,
}


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("closer", CLOSERS)
@pytest.mark.parametrize("wait", WAITS)
def test_who_waits_is_told(pipe, wait, closer, runner):
    """It gets EBADF, and does not touch what has the number by then."""
    if wait == "os.write":
        fill_pipe(pipe[1])
        fd = pipe[1]
    else:
        fd = pipe[0]
    with ThreadGroup() as group:
        waiters = [group.spawn(outcome, WAITS[wait], fd) for _ in range(3)]
        wait_parked(*waiters)
        RUNNERS[runner](CLOSERS[closer], fd)
        results = [waiter.result() for waiter in waiters]
    assert all(kind == "raised" and error.errno == errno.EBADF for kind, error in results)
    if closer == "os.dup2":
        assert os.read(fd, 10) == b"other"


SOCKET_CLOSERS = {
    **{name: CLOSERS[name] for name in ("os.close", "os.closerange", "os.dup2", "socket.close")},
    "after detach": None,
}
SOCKET_WAITS = {
    "recv": lambda near: near.recv(10),
    "recv with a timeout": lambda near: _limited(near).recv(10),
    "recvfrom": lambda near: near.recvfrom(10),
    "recvmsg": lambda near: near.recvmsg(10),
    "sendall": lambda near: near.sendall(b"x"),
    "select": lambda near: select.select([near], [], []),
}


def _limited(sock):
    sock.settimeout(20)
    return sock


@pytest.mark.parametrize("where", ["virtual", "platform"])
@pytest.mark.parametrize("closer", SOCKET_CLOSERS)
@pytest.mark.parametrize("wait", SOCKET_WAITS)
def test_socket_that_is_closed_by_its_number(wait, closer, where):
    """The object hears nothing of it, but who waits there is told, and does not wait for what has the number next."""
    near, far = socket.socketpair()
    if wait == "sendall":
        fill(near)
    number = near.fileno()
    with far, ThreadGroup() as group:
        if where == "virtual":
            waiter = group.spawn(outcome, SOCKET_WAITS[wait], near)
            wait_parked(waiter)
        else:
            waiter = PlatformCall(outcome, _with_a_limit, SOCKET_WAITS[wait], near)
            wait_until(
                lambda: number in _core.watched_numbers() or any(w.epoch for w in _closing._waits.get(number, ()))
            )
        if closer == "after detach":
            os.close(near.detach())
        else:
            SOCKET_CLOSERS[closer](number)
        if closer == "os.dup2" and (where == "platform" or wait == "select"):
            far.close()  # these look at what has the number now
        kind, error = waiter.result()
        near.detach()
    if closer == "os.dup2":
        os.close(number)
        if where == "platform" or wait == "select":
            return
    assert kind == "raised"
    assert isinstance(error, ValueError) or error.errno == errno.EBADF


def _with_a_limit(fn, *args):
    with timeout(20):
        return fn(*args)


def test_listener_that_is_closed_by_its_number():
    """So is who accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadGroup() as group:
        waiter = group.spawn(outcome, listener.accept)
        wait_parked(waiter)
        os.close(listener.fileno())
        assert waiter.result()[1].errno == errno.EBADF
        listener.detach()


def test_message_whose_connection_is_closed():
    """`multiprocessing`'s connections are closed by number."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with writer, ThreadGroup() as group:
        waiter = group.spawn(outcome, reader.recv)
        wait_parked(waiter)
        reader.close()
        assert waiter.result()[1].errno == errno.EBADF


def test_full_eventfd_that_is_closed():
    """Who waits for room is told, whether it can be polled for or not."""
    for value in (1, 5):
        counter = os.eventfd(0)
        os.eventfd_write(counter, 2**64 - 2 if value == 1 else 2**64 - 4)
        with ThreadGroup() as group:
            waiter = group.spawn(outcome, os.eventfd_write, counter, value)
            wait_parked(waiter)
            os.close(counter)
            assert waiter.result()[1].errno == errno.EBADF


def _select(fd):
    return select.select([fd], [], [])


def _poll(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll()


@pytest.mark.parametrize("ask", [_select, _poll])
def test_closed_while_it_is_polled(pipe, ask):
    """`select` and `poll` say what the kernel says of a number that is not open."""
    reader, _ = pipe
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, ask, reader)
        wait_parked(waiter)
        os.close(reader)
        kind, value = waiter.result()
    if ask is _select:
        assert value.errno == errno.EBADF
    else:
        assert (kind, value) == ("returned", [(reader, select.POLLNVAL)])


def test_socket_that_is_closed_while_it_is_selected():
    """At once, though the time is not over."""
    near, far = socket.socketpair()
    with far, ThreadGroup() as group:
        waiter = group.spawn(outcome, select.select, [near], [], [], 1000)
        wait_parked(waiter)
        near.close()
        assert waiter.result()[1].errno == errno.EBADF  # as for any number that is not open


def test_epoll_that_is_closed():
    """Who asks it is told that it is."""
    epoll = select.epoll()
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, epoll.poll)
        wait_parked(waiter)
        epoll.close()
        assert isinstance(waiter.result()[1], ValueError)


def test_close_that_is_heard_of_late_harms_no_socket():
    """A number that is a socket's again by the time that its closing is told: who waits there waits on."""
    near, far = socket.socketpair()
    with near, far, ThreadGroup() as group:
        waiter = group.spawn(near.recv, 10)
        wait_parked(waiter)
        epoch = waiter.epoch()
        reactor = waiter.carrier.reactor
        heard = threading.Event()
        waiter.carrier.call(lambda: (reactor.forget(reactor.find(near.fileno())), heard.set()))
        assert heard.wait(20)
        wait_parked(waiter)
        assert waiter.epoch() == epoch
        far.send(b"hello")
    assert waiter.result() == b"hello"


def test_number_that_comes_back(pipe):
    """The next file of that number is left alone by who waited in the last one, and can be waited for."""
    reader, writer = pipe
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, os.read, reader, 10)
        wait_parked(waiter)
        kept = os.dup(reader)  # the file stays
        os.close(reader)
        again, other = os.pipe()
        assert again == reader
        assert waiter.result()[1].errno == errno.EBADF
        next_one = group.spawn(os.read, again, 10)
        wait_parked(next_one)
        os.write(writer, b"old")
        os.write(other, b"new")
        assert next_one.result() == b"new"
        assert os.read(kept, 10) == b"old"
    for fd in (kept, other):
        os.close(fd)


def test_write_that_had_begun(pipe):
    """It says how much it has written; the error is the next call's."""
    reader, writer = pipe
    with ThreadGroup() as group:
        child = group.spawn(os.write, writer, bytes(1 << 20))
        wait_parked(child)
        os.close(writer)
        written = child.result()
    assert 0 < written < 1 << 20
    got = 0
    while part := os.read(reader, 1 << 16):
        got += len(part)
    assert got == written


def test_what_closes_nothing(pipe):
    """A file that does not own its descriptor, dup2 of a number onto itself, and a refused close end no wait."""
    reader, writer = pipe
    with ThreadGroup() as group:
        child = group.spawn(os.read, reader, 10)
        wait_parked(child)
        io.FileIO(reader, closefd=False).close()
        os.dup2(reader, reader)
        assert described(os.close, -1)[1] == "OSError"
        os.closerange(reader, reader)
        wait_parked(child)
        os.write(writer, b"hello")
    assert child.result() == b"hello"


def test_platform_thread_with_a_time_limit(pipe):
    """It is told, too."""
    reader, _ = pipe

    def read():
        with timeout(20):
            return os.read(reader, 10)

    waiter = PlatformCall(outcome, read)
    wait_until(lambda: any(wait.epoch for wait in list(_closing._waits.get(reader, ()))))
    os.close(reader)
    assert waiter.result()[1].errno == errno.EBADF


def test_file_is_closed_while_it_is_sent(tmp_path):
    """sendfile() ends with what it has sent: nothing of the file that is opened next."""
    (tmp_path / "sent").write_bytes(b"A" * (4 << 20))
    (tmp_path / "next").write_bytes(b"B" * (4 << 20))
    near, far = socket.socketpair()

    def send(fd):
        try:
            return os.sendfile(near.fileno(), fd, None, 4 << 20)
        finally:
            near.shutdown(socket.SHUT_WR)

    with near, far, ThreadGroup() as group:
        fd = os.open(tmp_path / "sent", os.O_RDONLY)
        sender = group.spawn(send, fd)
        wait_parked(sender)
        os.close(fd)
        got = b""
        with open(tmp_path / "next", "rb"):
            while part := far.recv(1 << 16):
                got += part
    assert got == b"A" * sender.result()
    assert sender.result() < 4 << 20


def take(number, fd):
    """Open the file of `fd` a second time, at a number that is free."""
    assert fcntl.fcntl(fd, fcntl.F_DUPFD, number) == number


@pytest.mark.parametrize("sent", [0, 1], ids=["the first part", "the second part"])
def test_file_that_is_sent_to_is_closed(tmp_path, monkeypatch, sent):
    """sendfile() that reads on a worker then ends with what it has sent: nothing goes to what has the number next."""
    (tmp_path / "sent").write_bytes(b"A" * (2 * _descriptors._PART))
    began, go_on, asked = threading.Event(), threading.Event(), []
    pread = _originals.os_pread

    def pread_slowly(*args):
        asked.append(args)
        if len(asked) > sent:
            began.set()
            assert go_on.wait(PATIENCE)
        return pread(*args)

    monkeypatch.setattr(_descriptors, "read_nowait", lambda *args: None)
    monkeypatch.setattr(_originals, "os_pread", pread_slowly)
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _descriptors._PART)
    with open(tmp_path / "sent", "rb") as file, open(tmp_path / "next", "wb") as other, ThreadGroup() as group:
        number = near.fileno()
        sender = group.spawn(outcome, os.sendfile, number, file.fileno(), 0, 2 * _descriptors._PART)
        drain(far, until=began.is_set)
        near.close()
        take(number, other.fileno())
        go_on.set()
        kind, value = sender.result()
    os.close(number)
    far.close()
    assert (value == _descriptors._PART) if sent else (value.errno == errno.EBADF), (kind, value)
    assert (tmp_path / "next").stat().st_size == 0


def test_rest_of_a_write_after_a_closing(pipe, monkeypatch):
    """What is closed and opened anew right after a write has begun, before it waits, gets nothing of its rest."""
    _, writer = pipe
    reader, other = os.pipe()
    write_nowait = _descriptors.write_nowait

    def write_and_close(fd, view, *args):
        monkeypatch.setattr(_descriptors, "write_nowait", write_nowait)
        done = write_nowait(fd, view[:10], *args)
        os.close(writer)
        take(writer, other)
        return done

    monkeypatch.setattr(_descriptors, "write_nowait", write_and_close)
    assert on_virtual(os.write, writer, b"x" * 100) == 10
    os.close(other)
    os.close(writer)
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_rest_of_a_write_after_a_closing_far_away(pipe, monkeypatch):
    """What else is closed meanwhile, be its number thousands higher, does not end a write early."""
    reader, writer = pipe
    far = writer + (1 << 14)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] <= far:
        pytest.skip(f"fewer than {far} descriptors are allowed here")
    write_nowait = _descriptors.write_nowait

    def write_and_close(fd, view, *args):
        monkeypatch.setattr(_descriptors, "write_nowait", write_nowait)
        done = write_nowait(fd, view[:10], *args)
        os.close(fcntl.fcntl(reader, fcntl.F_DUPFD, far))
        return done

    monkeypatch.setattr(_descriptors, "write_nowait", write_and_close)
    assert on_virtual(os.write, writer, b"x" * 100) == 100


@pytest.mark.parametrize("name", ["read", "readall"])
def test_file_is_closed_while_all_of_it_is_read(tmp_path, monkeypatch, name):
    """It ends with EBADF, and reads nothing of the file that has the number next."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "next").write_bytes(b"not mine")
    file = io.FileIO(tmp_path / "file")
    number = file.fileno()
    read_some = _files.read_some

    def read_and_close(*args):
        data = read_some(*args)
        if not file.closed:
            file.close()
            take(number, other.fileno())
        return data

    monkeypatch.setattr(_files, "read_some", read_and_close)
    with open(tmp_path / "next", "rb") as other:
        kind, error = on_virtual(outcome, getattr(file, name))
        assert (kind, error.errno) == ("raised", errno.EBADF)
        assert os.lseek(number, 0, os.SEEK_CUR) == 0
    os.close(number)


def test_file_is_closed_while_the_rest_of_it_is_given_up(tmp_path, monkeypatch):
    """Where it was is nobody's place any more: that of the file that has the number next stays."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "next").write_bytes(b"not mine")
    file = io.FileIO(tmp_path / "file")
    number = file.fileno()
    read_some = _files.read_some

    def read_and_close(*args):
        data = read_some(*args)
        if not data:
            file.close()
            take(number, other.fileno())
            os.lseek(number, 8, os.SEEK_SET)
            group.cancel()
            checkpoint()
        return data

    monkeypatch.setattr(_files, "read_some", read_and_close)
    with open(tmp_path / "next", "rb") as other:
        with ThreadGroup() as group:
            reader = group.spawn(file.readall)
        assert reader.cancelled()
        assert os.lseek(number, 0, os.SEEK_CUR) == 8
    os.close(number)


@pytest.mark.parametrize("closed", ["source", "target"])
def test_end_of_a_splice_is_closed_while_it_waits_for_the_other(closed):
    """It moves nothing out of, or into, the pipe that has the number next."""
    source, into = os.pipe()
    out, target = os.pipe()
    next_out, next_into = os.pipe()
    if closed == "source":
        os.write(into, b"mine")
        fill_pipe(target)
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, os.splice, source, target, 100)
        wait_parked(waiter)
        if closed == "source":
            os.close(source)
            take(source, next_out)
            os.write(next_into, b"not mine")
            os.read(out, 1 << 20)
        else:
            os.close(target)
            take(target, next_into)
            os.write(into, b"mine")
        assert waiter.result()[1].errno == errno.EBADF
    os.set_blocking(next_out, False)
    assert described(os.read, next_out, 100)[1] == (b"not mine" if closed == "source" else "BlockingIOError")
    for fd in (source, into, out, target, next_out, next_into):
        os.close(fd)


def test_eventfd_that_comes_back():
    """All eventfds look alike; yet who waited for one does not wait for the next of its number."""
    counter = os.eventfd(0)
    other = os.eventfd(0)
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, os.eventfd_read, counter)
        wait_parked(waiter)
        os.close(counter)
        take(counter, other)
        os.eventfd_write(other, 7)
        assert waiter.result()[1].errno == errno.EBADF
    assert os.eventfd_read(counter) == 7
    os.close(counter)
    os.close(other)


def test_file_to_be_locked_is_opened_again(tmp_path):
    """It is the same file, but another owner of locks: who waited with the one that was closed gets none."""
    holder = os.open(tmp_path / "locked", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    mine = os.open(tmp_path / "locked", os.O_RDWR)
    with ThreadGroup() as group:
        waiter = group.spawn(outcome, fcntl.flock, mine, fcntl.LOCK_EX)
        wait_parked(waiter)
        again = os.open(tmp_path / "locked", os.O_RDWR)
        os.close(mine)
        take(mine, again)
        assert waiter.result()[1].errno == errno.EBADF
    fcntl.flock(holder, fcntl.LOCK_UN)
    for fd in (holder, mine, again):
        os.close(fd)


@pytest.mark.parametrize("way", ["read", "poll", "select", "flock", "eventfd"])
def test_closing_of_what_had_the_number_before(way, tmp_path):
    """Who tells of it late, when the number is the file's of somebody who waits, disturbs nobody."""
    reader, writer = os.pipe()
    other = os.open(tmp_path / "locked", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    mine = os.open(tmp_path / "locked", os.O_RDWR)
    counter = os.eventfd(0)

    def wait():
        if way == "poll":
            poll = select.poll()
            poll.register(reader, select.POLLIN)
            assert poll.poll() == [(reader, select.POLLIN)]
        elif way == "select":
            assert select.select([reader], [], [])[0] == [reader]
        elif way == "flock":
            fcntl.flock(mine, fcntl.LOCK_EX)
        elif way == "eventfd":
            assert os.eventfd_read(counter) == 1
        return os.read(reader, 1)

    with ThreadGroup() as group:
        waiter = group.spawn(wait)
        for _ in range(3):
            wait_parked(waiter)
            _closing.closed({"flock": mine, "eventfd": counter}.get(way, reader))
        fcntl.flock(other, fcntl.LOCK_UN)
        os.eventfd_write(counter, 1)
        os.write(writer, b"x")
        assert waiter.result() == b"x"
    for fd in (reader, writer, other, mine, counter):
        os.close(fd)


# ---- in the middle of the telling ----


@contextmanager
def _parked_in(fd):
    """A reader that is parked there when the block begins, and must be told before the group's patience is over."""
    with ThreadGroup(timeout=PATIENCE) as group:
        waiter = group.spawn(outcome, os.read, fd, 10)
        wait_parked(waiter)
        yield
    kind, error = waiter.result()
    assert (kind, error.errno) == ("raised", errno.EBADF)


def _at_the_limit(call):
    """`call()`, as deep as it can be called."""
    try:
        _at_the_limit(call)
    except RecursionError:
        call()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("closer", ["os.close", "os.closerange", "FileIO.close"])
@pytest.mark.parametrize("is_held", [False, True], ids=["free", "held"])
def test_closing_at_the_limit_of_recursion(pipe, closer, is_held, runner):
    """What succeeds elsewhere succeeds there, and who waits is told."""
    fd = pipe[0]
    close = {
        "os.close": lambda: partial(os.close, fd),
        "os.closerange": lambda: partial(os.closerange, fd, fd + 1),
        "FileIO.close": lambda: io.FileIO(fd).close,
    }[closer]()
    era = hold(fd) if is_held else None
    try:
        with _parked_in(fd):
            RUNNERS[runner](_at_the_limit, close)
    finally:
        if era is not None:
            let_go(fd, era)


@pytest.mark.parametrize("closer", ["os.close", "os.closerange", "os.dup2", "FileIO.close"])
def test_telling_that_fails(pipe, closer, monkeypatch):
    """It is done once more, and its error raised then."""
    close = {**CLOSERS, "os.dup2": lambda fd: os.dup2(pipe[1], fd)}[closer]
    errors = [MemoryError("once")]

    def fail_once(number):
        if errors:
            raise errors.pop()
        return index(number)

    with _parked_in(pipe[0]):
        monkeypatch.setattr(_closing, "index", fail_once)
        with pytest.raises(MemoryError, match="once"):
            close(pipe[0])
        monkeypatch.undo()


def test_file_that_is_closed_though_its_close_fails(pipe):
    """Its flush raises, and so does close, but its number is gone: who waits there is told."""

    class Failing(io.FileIO):
        def flush(self):
            raise RuntimeError("no flush")

    with _parked_in(pipe[0]), pytest.raises(RuntimeError, match="no flush"):
        Failing(pipe[0]).close()
    assert described(os.fstat, pipe[0])[1] == "OSError"


def test_signal_while_waiters_are_told(pipe):
    """What its handler raises does not keep them from it."""

    class Interruption(Exception):
        pass

    def interrupt(number, frame):
        raise Interruption

    def watch(frame, event, arg):
        if frame.f_globals is vars(_closing):  # which it never is where that is compiled
            sys.settrace(None)
            signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt), sys.gettrace()
    try:
        with _parked_in(pipe[0]), suppress(Interruption):
            sys.settrace(watch)
            os.close(pipe[0])
    finally:
        sys.settrace(before[1])
        signal.signal(signal.SIGUSR1, before[0])
