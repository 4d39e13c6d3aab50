"""psycopg2 and psycopg 3 on a real server: they park, are cancelled, and on platform threads they are what they were."""

import threading
import time
from contextlib import closing

import pytest
from patch.helpers import PlatformCall, carriers, on_virtual, run_python, wait_parked, wait_until
from patch.postgres import postgres

import plait
from plait import ThreadGroup


@pytest.fixture(scope="module")
def address():
    """Where a server is."""
    with postgres() as address:
        yield address


class Psycopg2:
    """The driver with the wait callback."""

    name = "psycopg2"
    leaf = "psycopg2 wait callback"
    survives_a_cancel = False  # psycopg2 closes a connection whose callback has raised


class Psycopg:
    """The driver with the waiting module."""

    name = "psycopg"
    leaf = "psycopg.waiting.wait"
    survives_a_cancel = True


@pytest.fixture(params=[Psycopg2, Psycopg], ids=lambda kind: kind.name)
def driver(request):
    """A driver, as psycopg2 leaves it: nothing is set when it is imported."""
    kind = request.param
    kind.module = pytest.importorskip(kind.name, reason=f"{kind.name} is not installed")
    yield kind
    if kind is Psycopg2:
        plait.patch.uninstall()  # the callback, too
        plait.patch.install()


def ask(connection, query, *arguments):
    """The one value that a query gives."""
    with connection.cursor() as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchone()[0]


def test_a_query_parks(driver, address):
    """While queries wait, other threads of the same carrier go on, and each gets its answer."""
    is_over, ticks = [], [0] * 2 * carriers()

    def tick(place):
        while not is_over:
            time.sleep(0.005)
            ticks[place] += 1

    def work(number):
        with closing(driver.module.connect(address)) as connection:
            return ask(connection, "SELECT %s + length(pg_sleep(0.1)::text)", number)

    before = plait.patch.status()[driver.leaf].parks or 0
    with ThreadGroup() as group:
        for place in range(len(ticks)):
            group.spawn(tick, place)
        futures = [group.spawn(work, number) for number in range(20)]
        for future in futures:
            future.result()
        is_over.append(True)
    assert [future.result() for future in futures] == list(range(20))
    assert min(ticks) >= 5
    assert plait.patch.status()[driver.leaf].parks >= before + 20


def test_failure_of_a_sibling_interrupts_a_query(driver, address):
    """The query ends within a moment, here and on the server; a connection of psycopg 3 can be used afterwards."""
    failed_at, over_at = [], []
    connection = on_virtual(driver.module.connect, address)
    watcher = driver.module.connect(address)
    watcher.autocommit = True

    def query():
        try:
            ask(connection, "SELECT pg_sleep(3600)")
        finally:
            over_at.append(time.monotonic())

    def at_work():
        return ask(watcher, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(3600)%%'")

    def fail(sitter):
        wait_parked(sitter)
        wait_until(at_work)
        failed_at.append(time.monotonic())
        raise KeyError

    with closing(watcher):
        with pytest.raises(ExceptionGroup) as caught:
            with ThreadGroup() as group:
                sitter = group.spawn(query)
                group.spawn(fail, sitter)
        assert [type(error) for error in caught.value.exceptions] == [KeyError]
        assert sitter.cancelled()
        assert over_at[0] - failed_at[0] < 1
        wait_until(lambda: not watcher.closed and not _is_running(watcher))
    if driver.survives_a_cancel:
        connection.rollback()
        assert ask(connection, "SELECT 5") == 5
        connection.close()
    else:
        assert connection.closed


def _is_running(watcher):
    query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(3600)%%'"
    return ask(watcher, query) > 0


def test_timeout_of_a_query(driver, address):
    """`plait.timeout` gets a thread out of a query, and the body of a group on the main thread, too."""

    def query():
        with closing(driver.module.connect(address)) as connection:
            with pytest.raises(TimeoutError), plait.timeout(0.05):
                ask(connection, "SELECT pg_sleep(3600)")

    on_virtual(query)
    query()


def test_errors_of_the_server(driver, address):
    """They are the driver's own, and the connection goes on after a rollback."""

    def body():
        with closing(driver.module.connect(address)) as connection:
            with pytest.raises(driver.module.errors.DivisionByZero):
                ask(connection, "SELECT 1 / 0")
            connection.rollback()
            return ask(connection, "SELECT 7")

    assert on_virtual(body) == 7


def test_a_server_that_is_not_there(driver):
    """The error is the driver's own."""
    with pytest.raises(driver.module.OperationalError):
        on_virtual(driver.module.connect, "host=127.0.0.1 port=1 user=plait connect_timeout=5")


def test_notices_and_transactions(driver, address):
    """A transaction that fails is rolled back, one that does not is committed."""

    def body():
        with closing(driver.module.connect(address)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("CREATE TEMPORARY TABLE numbers (n int)")
                cursor.executemany("INSERT INTO numbers VALUES (%s)", [(n,) for n in range(10)])
            connection.commit()
            with connection.cursor() as cursor:
                cursor.execute("DELETE FROM numbers")
            connection.rollback()
            return ask(connection, "SELECT sum(n)::int FROM numbers")

    assert on_virtual(body) == 45


def test_on_platform_threads_drivers_are_what_they_were(address):
    """There nothing parks; with psycopg2 no callback is set, and COPY and large objects work."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    code = f"""
        import plait, threading, io
        plait.patch.install()
        import psycopg, psycopg2, psycopg2.extensions
        plait.spawn(int).result()
        def work(connection):
            with connection.cursor() as cursor:
                cursor.execute("SELECT 3")
                print(cursor.fetchone()[0])
        for driver in (psycopg, psycopg2):
            connection = driver.connect({address!r})
            work(connection)
            thread = threading.Thread(target=work, args=(connection,))
            thread.start()
            thread.join()
        print(psycopg2.extensions.get_wait_callback())
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE copied (n int)")
            cursor.copy_expert("COPY copied FROM STDIN", io.StringIO("1\\n2\\n"))
            cursor.execute("SELECT sum(n) FROM copied")
            print(cursor.fetchone()[0])
        connection.lobject(0, "w").write("text")
        print(plait.patch.status()["psycopg.waiting.wait"].parks, plait.patch.status()["psycopg2 wait callback"].parks)
    """
    assert run_python(code).splitlines() == ["3", "3", "3", "3", "None", "3", "0 0"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_patched_whenever_they_are_imported(address, when):
    """Before plait starts, or afterwards, on a virtual thread; and `uninstall` takes it back."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    code = f"""
        import importlib, sys
        when = {when!r}
        names = {{"psycopg": "psycopg.waiting.wait", "psycopg2": "psycopg2 wait callback"}}
        if when == "before":
            import psycopg, psycopg2
        import plait
        plait.patch.install()

        def query(name):
            connection = importlib.import_module(name).connect({address!r})
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(0.01)")
            connection.close()

        with plait.ThreadGroup() as group:
            for name in names:
                group.spawn(query, name)
        for name in names.values():
            leaf = plait.patch.status()[name]
            print(leaf.is_patched, leaf.parks > 0, leaf.file)

        import psycopg.waiting, psycopg2.extensions

        def found():
            yield bool(plait.patch._registry._ways.get(psycopg.waiting.wait)) or psycopg.waiting.wait.__module__
            yield getattr(psycopg2.extensions.get_wait_callback(), "__module__", None)

        print(*("plait" in str(name) or name is True for name in found()))
        plait.patch.uninstall()
        print(any("plait" in str(name) or name is True for name in found()))
        print([finder for finder in sys.meta_path if "psycopg" in getattr(finder, "_module", "")])
    """
    patched = "True True plait/patch/_drivers.py"
    assert run_python(code).splitlines() == [patched, patched, "True True", "False", "[]"]


def test_a_callback_of_the_program(address):
    """One that the program has set before is left alone; one that it takes out stays out."""
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    from psycopg2 import extensions, extras

    extensions.set_wait_callback(extras.wait_select)
    try:
        with closing(on_virtual(psycopg2.connect, address)) as connection:
            assert on_virtual(ask, connection, "SELECT 1") == 1
            assert extensions.get_wait_callback() is extras.wait_select
            extensions.set_wait_callback(None)
            assert on_virtual(ask, connection, "SELECT 1") == 1
            assert extensions.get_wait_callback() is None
    finally:
        extensions.set_wait_callback(None)
        plait.patch.uninstall()
        plait.patch.install()


def test_what_the_callback_costs(address):
    """Once it is set COPY is refused, in psycopg2's words; taken out, it works again. psycopg 3 loses nothing."""
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    import io

    try:
        with closing(on_virtual(psycopg2.connect, address)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE copied (n int)")
            with pytest.raises(psycopg2.ProgrammingError, match="cannot be used with an asynchronous callback"):
                cursor.copy_expert("COPY copied FROM STDIN", io.StringIO("1\n"))
            connection.commit()
            call = PlatformCall(ask, connection, "SELECT 5")  # elsewhere the callback waits without parking
            assert call.result() == 5
    finally:
        plait.patch.uninstall()
        plait.patch.install()
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

    def copy():
        with psycopg.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE copied (n int)")
            with cursor.copy("COPY copied FROM STDIN") as copying:
                for number in range(1000):
                    copying.write_row((number,))
            return ask(connection, "SELECT count(*) FROM copied")

    assert on_virtual(copy) == 1000


@pytest.mark.parametrize("first", ["execute", "executemany", "callproc", "commit", "rollback"])
def test_a_cursor_that_a_platform_thread_has_made(address, first):
    """Whatever a virtual thread first does with it or with its connection, its queries park."""
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    plait.patch.uninstall()
    plait.patch.install()
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert psycopg2.extensions.get_wait_callback() is None
        calls = {
            "execute": lambda: cursor.execute("SELECT pg_sleep(0.01)"),
            "executemany": lambda: cursor.executemany("SELECT pg_sleep(%s)", [(0.01,)]),
            "callproc": lambda: cursor.callproc("pg_sleep", (0.01,)),
            "commit": connection.commit,
            "rollback": connection.rollback,
        }
        before = plait.patch.status()[Psycopg2.leaf].parks
        on_virtual(calls[first])
        on_virtual(calls["execute"])
        assert plait.patch.status()[Psycopg2.leaf].parks > before
    plait.patch.uninstall()
    plait.patch.install()


def test_copy_on_a_cursor_that_a_platform_thread_has_made(address):
    """COPY is not refused there for a callback that it would have set itself."""
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    import io

    plait.patch.uninstall()
    plait.patch.install()
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        out = io.StringIO()
        on_virtual(cursor.copy_expert, "COPY (SELECT 1) TO STDOUT", out)
        assert out.getvalue() == "1\n"
        assert psycopg2.extensions.get_wait_callback() is None


def test_notifications(address):
    """A listener of psycopg 3 gets what is sent, and its timeout keeps its meaning."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    heard = []

    def listen():
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("LISTEN news")
            is_listening.set()
            heard.extend(note.payload for note in connection.notifies(timeout=20, stop_after=2))
            heard.append(list(connection.notifies(timeout=0.05)))

    def tell():
        is_listening.wait()
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("NOTIFY news, 'one'")
            connection.execute("NOTIFY news, 'two'")

    is_listening = threading.Event()
    with ThreadGroup() as group:
        group.spawn(listen)
        group.spawn(tell)
    assert heard == ["one", "two", []]


def test_an_import_that_fails(tmp_path):
    """A module whose import raises is not patched, and can be imported later."""
    (tmp_path / "psycopg").mkdir()
    (tmp_path / "psycopg/__init__.py").write_text("")
    (tmp_path / "psycopg/waiting.py").write_text(
        "import sys\nif not hasattr(sys, 'again'):\n    raise ImportError('no')\n"
        "def wait(): pass\nwait_selector = wait\n"
    )
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import plait
        plait.patch.install()
        try:
            import psycopg.waiting
        except ImportError as error:
            print(error)
        sys.again = True
        import psycopg.waiting
        print(plait.patch.status()["psycopg.waiting.wait"].is_patched, type(psycopg.waiting.__loader__).__name__)
        print(any(getattr(finder, "_module", "") == "psycopg.waiting" for finder in sys.meta_path))
    """
    assert run_python(code).splitlines() == ["no", "True SourceFileLoader", "False"]
