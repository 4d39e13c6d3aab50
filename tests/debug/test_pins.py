"""Pins: carriers that are held up are pointed out."""

import logging
import time

import pytest
from patch.helpers import run_python
from support import run_anywhere, until

from plait import ThreadGroup, _originals
from plait._core import runtime
from plait.debug import Pin, PinWatch, _pins

LIMIT = 0.01


class Call:
    """A call that waits where plait cannot see it, until it is let go."""

    def __init__(self):
        self._lock = _originals.allocate_lock()
        _originals.lock_acquire(self._lock)

    def wait(self):
        _originals.lock_acquire(self._lock)

    def end(self, *_):
        _originals.lock_release(self._lock)


def test_a_call_that_waits_in_c():
    """It is reported once, with its carrier and its stack."""
    call, pins = Call(), []

    def report(pin):
        if pin.stack is None or pin.stack[-1].name == "wait":  # another, of which this machine takes its time to run it
            pins.append(pin)

    with PinWatch(LIMIT, report) as watch, ThreadGroup() as group:
        group.spawn(call.wait)
        until(lambda: pins)
        others = [pin for pin in pins if pin.carrier != pins[0].carrier]
        watch.stop()
        call.end()
    assert len(pins) - len(others) == 1
    assert pins[0].carrier in range(len(runtime.carriers))
    assert pins[0].seconds >= LIMIT
    if pins[0].stack is not None:
        assert pins[0].stack[-1].name == "wait"
        assert "in wait\n    _originals.lock_acquire(self._lock)" in str(pins[0])


def test_the_ready_are_counted():
    """Those that could run on the carrier and wait for it."""
    call, pins = Call(), []
    is_begun, are_spawned = Call(), Call()

    def pin():
        is_begun.end()
        are_spawned.wait()
        for _ in range(5):
            group.spawn(int)
        call.wait()

    def report(pin):
        if pin.ready >= 5 or len(runtime.carriers) > 1:  # others steal what has not begun
            pins.append(pin)
            call.end()

    with ThreadGroup() as group:
        group.spawn(pin)
        is_begun.wait()
        are_spawned.end()
        with PinWatch(LIMIT, report):
            until(lambda: pins)
    assert len(pins) == 1


def test_who_answers_is_asked_again(monkeypatch):
    """A carrier with much to do in small pieces answers."""
    questions = []

    class Question(_pins._Question):
        __slots__ = ()

        def __init__(self, carrier):
            questions.append(self)
            super().__init__(carrier)

    monkeypatch.setattr(_pins, "_Question", Question)

    def work():
        while len(questions) < 5:
            time.sleep(0)

    with PinWatch(LIMIT, lambda pin: None) as watch:
        with ThreadGroup() as group:
            group.spawn(work)
        until(lambda: all(carrier.idler.is_asleep() for carrier in runtime.carriers))
        watch.stop()
    assert all(question.is_answered for question in questions)


def test_a_carrier_that_sleeps_is_not_asked(monkeypatch):
    """Nobody is woken for the sake of the watch."""
    until(lambda: all(carrier.idler.is_asleep() for carrier in runtime.carriers))
    rounds, questions = [], []

    class Counting:
        is_started = True

        @property
        def started_carriers(self):
            rounds.append(1)
            return runtime.carriers

    monkeypatch.setattr(_pins, "_Question", questions.append)
    monkeypatch.setattr(_pins, "runtime", Counting())
    with PinWatch(LIMIT):
        until(lambda: len(rounds) > 3)
    assert questions == []


def test_report_that_fails_is_printed(capsys):
    """And the watch goes on."""
    calls, count = [Call(), Call()], []

    def report(pin):
        count.append(pin)
        calls[len(count) - 1].end()
        raise ValueError("from the report")

    with PinWatch(LIMIT, report), ThreadGroup() as group:
        for number, call in enumerate(calls, 1):
            group.spawn(call.wait)
            until(lambda number=number: len(count) == number)
    assert capsys.readouterr().err.count("ValueError: from the report") == 2


def test_by_default_it_is_logged(caplog):
    """As a warning of the logger "plait"."""
    call = Call()
    with caplog.at_level(logging.WARNING, "plait"), PinWatch(LIMIT), ThreadGroup() as group:
        group.spawn(call.wait)
        until(lambda: caplog.records)
        call.end()
    assert caplog.records[0].message.startswith("carrier ")
    assert "plait.offload() is for calls that wait where plait cannot see it" in caplog.records[0].message


@pytest.mark.parametrize("where", ["main", "platform", "virtual"])
def test_stop(where):
    """Anybody may stop it, as often as they like; nothing is reported after that."""
    pins = []

    def body():
        watch = PinWatch(LIMIT, pins.append)
        watch.stop()
        watch.stop()
        return watch._has_ended.locked()

    assert run_anywhere(where, body) is False


@pytest.mark.parametrize(
    ("limit", "error", "words"),
    [(0, ValueError, "limit must be more than 0 seconds, not 0"), (-1, ValueError, "limit"), ("1", TypeError, "limit")],
)
def test_refusals(limit, error, words):
    """A limit is a positive number of seconds."""
    with pytest.raises(error, match=words):
        PinWatch(limit)


@pytest.mark.parametrize(
    ("ready", "words"), [(1, "1 thread that is ready waits"), (2, "2 threads that are ready wait")]
)
def test_text(ready, words):
    """It says which carrier, for how long, and who waits for it."""
    text = str(Pin(3, 0.25, ready, None))
    assert text.startswith(f"carrier 3 has been kept for 0.25 s by one thread, and {words} for it. ")


def test_development_mode():
    """`python -X dev` has a watch of its own, also in a forked child; nothing is said at the end of the process."""
    code = """
        import logging, os, sys, plait
        from plait import _originals
        class Handler(logging.Handler):
            def emit(self, record):
                print(record.name, "has been kept" in record.getMessage(), flush=True)
                if lock.locked():
                    lock.release()
        logging.getLogger("plait").addHandler(Handler())
        lock = _originals.allocate_lock()
        def pin():
            _originals.lock_acquire(lock)
            _originals.lock_acquire(lock)
            _originals.lock_release(lock)
        with plait.ThreadGroup() as group:
            group.spawn(pin)
        pid = os.fork()
        if not pid:
            with plait.ThreadGroup() as group:
                group.spawn(pin)
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
    """
    assert run_python(code, PYTHONDEVMODE="1", PYTHONWARNINGS="ignore") == "plait True\nplait True\n0\n"


def test_not_in_development_mode():
    """There the module is not even imported."""
    assert run_python("import plait, sys; print('plait.debug' in sys.modules)") == "False\n"
