"""The databases that are tried, as clients.py has the other libraries: drivers, their pools, and SQLAlchemy's."""

from __future__ import annotations

import threading
from contextlib import contextmanager

from libraries import daemons
from libraries.clients import Client, Places


class _Sql(Client):
    """A transaction moves one from an account to another: what they have together never changes."""

    begin = "BEGIN"
    rows = 8

    def prepare(self):
        with self.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS account")
            cursor.execute("CREATE TABLE account (name INT PRIMARY KEY, total INT NOT NULL)")
            for name in range(self.rows):
                cursor.execute(f"INSERT INTO account VALUES ({name}, 100)")

    def work(self, number):
        one, other = sorted([number % self.rows, (number + 1) % self.rows])  # nobody waits for one who waits for him
        with self.cursor() as cursor:
            cursor.execute(f"UPDATE account SET total = total - 1 WHERE name = {one}")
            cursor.execute(f"UPDATE account SET total = total + 1 WHERE name = {other}")
            cursor.execute(f"SELECT sum(total), {number} FROM account")
            assert [int(value) for value in cursor.fetchone()] == [100 * self.rows, number]

    @contextmanager
    def hold(self):
        with self.cursor() as cursor:
            cursor.execute("SELECT 1")
            yield
            assert tuple(cursor.fetchone()) == (1,)

    def wait(self):
        with self.cursor() as cursor:
            cursor.execute(self.sleep)

    def fail(self):
        with self.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")


class _MariaDb(_Sql):
    kind = daemons.MARIADB
    sleep = "SELECT sleep(3600)"


class _Postgres(_Sql):
    kind = daemons.POSTGRES
    sleep = "SELECT pg_sleep(3600)"


class PyMySql(_MariaDb):
    title = "PyMySQL"
    distribution = "PyMySQL"
    needs = ("pymysql",)

    def __init__(self, server, size):
        import pymysql

        self.error = pymysql.err.ProgrammingError
        # Without ssl_disabled each connect() reads the certificates of the system first, which takes it 25 ms.
        options = {"host": "127.0.0.1", "port": server.port, "user": "plait", "database": "plait", "ssl_disabled": True}
        self._places = Places(size, lambda: pymysql.connect(**options), pymysql.connections.Connection._force_close)
        self.close = self._places.close

    @contextmanager
    def cursor(self):
        with self._places.connection() as connection:
            connection.begin()
            with connection.cursor() as cursor:
                yield cursor
            connection.commit()


class Psycopg2(_Postgres):
    """An interrupt closes its connection, so that `with connection` would end with an InterfaceError: it rolls back."""

    title = "psycopg2"
    remark = "an interrupt closes the connection"
    distribution = "psycopg2-binary"
    needs = ("psycopg2",)

    def __init__(self, server, size):
        import psycopg2
        import psycopg2.pool

        self.error = psycopg2.errors.UndefinedTable
        self._slots = threading.BoundedSemaphore(size)  # its pool raises where others wait
        self._pool = psycopg2.pool.ThreadedConnectionPool(
            size, size, host="127.0.0.1", port=server.port, user="plait", dbname="postgres"
        )

    @contextmanager
    def cursor(self):
        with self._slots:
            connection = self._pool.getconn()
            is_broken = True
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
                is_broken = False
            finally:
                self._pool.putconn(connection, close=is_broken)

    def close(self):
        self._pool.closeall()


class Psycopg(_Postgres):
    """An interrupt cancels the query on the server, and waits for that as long as the grace allows.

    If the server has not begun with the query yet, the cancel is lost.
    """

    soon = 7.0
    remark = "a query is cancelled on the server; one that had not begun there takes the grace"
    title = "psycopg"
    distribution = "psycopg"
    needs = ("psycopg", "psycopg_pool")

    def __init__(self, server, size):
        import psycopg
        import psycopg_pool

        self.error = psycopg.errors.UndefinedTable
        self._pool = psycopg_pool.ConnectionPool(
            f"host=127.0.0.1 port={server.port} user=plait dbname=postgres", min_size=0, max_size=size, open=True
        )

    @contextmanager
    def cursor(self):
        with self._pool.connection(timeout=3600) as connection, connection.cursor() as cursor:
            yield cursor

    def close(self):
        self._pool.close()


class _SqlAlchemy(_Sql):
    distribution = "SQLAlchemy"

    def __init__(self, server, size):
        import sqlalchemy

        self.error = sqlalchemy.exc.ProgrammingError
        self._engine = sqlalchemy.create_engine(
            self.url.format(port=server.port), pool_size=size, max_overflow=0, pool_timeout=3600
        )

    @contextmanager
    def cursor(self):
        with self._engine.begin() as connection:
            yield _Cursor(connection)

    def close(self):
        self._engine.dispose()


class _Cursor:
    def __init__(self, connection):
        self._connection = connection

    def execute(self, text):
        self._result = self._connection.exec_driver_sql(text)

    def fetchone(self):
        return self._result.one()


class SqlAlchemyPyMySql(_SqlAlchemy, _MariaDb):
    title = "SQLAlchemy over PyMySQL"
    needs = ("sqlalchemy", "pymysql")
    url = "mysql+pymysql://plait@127.0.0.1:{port}/plait?ssl_disabled=true"


class SqlAlchemyPsycopg2(_SqlAlchemy, _Postgres):
    title = "SQLAlchemy over psycopg2"
    needs = ("sqlalchemy", "psycopg2")
    url = "postgresql+psycopg2://plait@127.0.0.1:{port}/postgres"


class SqlAlchemyPsycopg(_SqlAlchemy, _Postgres):
    title = "SQLAlchemy over psycopg"
    soon = Psycopg.soon
    remark = Psycopg.remark
    needs = ("sqlalchemy", "psycopg")
    url = "postgresql+psycopg://plait@127.0.0.1:{port}/postgres"
