"""Connections are few, read only where they should be, never to a lost file, never across forks."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from calls import ASKING

from wsgi_tracker import Tracker, open_storage
from wsgi_tracker.errors import PoolTimeoutError
from wsgi_tracker.storage.sqlite import pool as pool_module
from wsgi_tracker.storage.sqlite.pool import ConnectionPool, PooledConnection

PATIENCE_SECONDS = 30
Client = Callable[..., webtest.TestApp]


class Opened:
    """What a pool has opened, each connection counted while it is open."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.connections: list[PooledConnection] = []
        self.on_connect: Callable[[], None] = lambda: None

    def connect(self, writing: bool) -> PooledConnection:
        connection = sqlite3.connect(
            self.database, check_same_thread=False, factory=PooledConnection
        )
        self.connections.append(connection)
        self.on_connect()
        return connection

    def open(self) -> int:
        return sum(is_open(connection) for connection in self.connections)


def is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.total_changes  # noqa: B018 - raises when closed
    except sqlite3.ProgrammingError:
        return False
    return True


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "pool.db")
    make_database(opened.database, "first")
    yield opened
    for connection in opened.connections:
        connection.close()


def make_database(path: Path, name: str) -> None:
    """Put a database that knows its name in the place of whatever is there."""
    new = path.with_name("new.db")
    with closing(sqlite3.connect(new)) as connection, connection:
        connection.execute("CREATE TABLE names (name)")
        connection.execute("INSERT INTO names VALUES (?)", [name])
    new.replace(path)


def name_of(connection: sqlite3.Connection) -> str:
    ((name,),) = connection.execute("SELECT name FROM names")
    return str(name)


LOANS = [pytest.param("reader", id="reader"), pytest.param("writer", id="writer")]


# --- bounds --------------------------------------------------------------------------------------


def test_loan_beyond_the_bound_times_out(opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect, readers=2, timeout_seconds=0.01)

    busy = pytest.raises(PoolTimeoutError, match=r"all 2 connections stayed busy for 0\.01 s")
    with pool.reader(), pool.reader(), busy:
        pool.reader().__enter__()
    with pool.reader(), pool.reader():
        pass

    assert len(opened.connections) == 2


def test_there_is_one_writer(opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect, timeout_seconds=0.01)

    with pool.writer() as first, pool.reader() as reader:
        with pytest.raises(PoolTimeoutError, match="the writer stayed busy"):
            pool.writer().__enter__()
        assert reader is not first
    with pool.writer() as second:
        assert second is first


def test_threads_share_no_more_connections_than_the_bound(opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect, readers=3)
    barrier = threading.Barrier(12)
    names: list[str] = []
    users: dict[int, int] = {}
    shared = []

    def ask() -> None:
        barrier.wait(PATIENCE_SECONDS)
        for _ in range(50):
            with pool.reader() as connection:
                thread = threading.get_ident()
                if users.setdefault(id(connection), thread) != thread:
                    shared.append(connection)
                names.append(name_of(connection))
                del users[id(connection)]

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    assert (len(names), len(shared)) == (600, 0)
    assert len(opened.connections) <= 3


@pytest.mark.parametrize("loan", LOANS)
def test_file_that_was_overwritten_in_place_is_opened_anew(loan: str, opened: Opened) -> None:
    """SQLite went on with the pages it remembered, and a damaged file was not noticed."""
    pool = ConnectionPool(opened.database, opened.connect)
    with getattr(pool, loan)() as first:
        assert name_of(first) == "first"
    with getattr(pool, loan)() as again:
        assert again is first

    content = opened.database.read_bytes()
    opened.database.write_bytes(content[: len(content) // 2])

    with getattr(pool, loan)() as second:
        assert second is not first
    assert not is_open(first)
    pool.close()


def test_waiting_thread_gets_what_is_returned(opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect, readers=1)
    asking, names = threading.Event(), []

    def ask() -> None:
        asking.set()
        with pool.reader() as connection:
            names.append(name_of(connection))

    thread = threading.Thread(target=ask)
    with pool.reader():
        thread.start()
        assert asking.wait(PATIENCE_SECONDS)
        assert names == []
    thread.join(PATIENCE_SECONDS)

    assert names == ["first"]
    assert len(opened.connections) == 1


@pytest.mark.parametrize("loan", LOANS)
def test_loan_that_failed_is_not_lent_again(loan: str, opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect)

    with contextlib.suppress(KeyError), getattr(pool, loan)() as failed:
        failed.execute("BEGIN")
        raise KeyError
    with getattr(pool, loan)() as connection:
        assert connection is not failed
        assert not connection.in_transaction

    assert not is_open(failed)


@pytest.mark.parametrize("loan", LOANS)
def test_place_is_free_again_when_opening_failed(loan: str, opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect, readers=1, timeout_seconds=0.01)

    def fail() -> None:
        raise sqlite3.OperationalError("unable to open")

    opened.on_connect = fail
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            getattr(pool, loan)().__enter__()
    opened.on_connect = lambda: None

    with getattr(pool, loan)() as connection:
        assert name_of(connection) == "first"


@pytest.mark.parametrize("loan", LOANS)
def test_busy_pool_is_503(loan: str, client: Client) -> None:
    app = client()
    app.get("/")  # so that the report needs the writer, too
    pool = app.app._backend.storage._file._pool
    pool._timeout_seconds = 0.01

    with ExitStack() as loans:
        for _ in range(pool._readers if loan == "reader" else 1):
            loans.enter_context(getattr(pool, loan)())
        refused = app.get("/api/tracking/summary", status=503)

    assert refused.headers["Retry-After"] == "1"
    assert refused.json["error"]["code"] == "storage_unavailable"
    assert "busy" in refused.json["error"]["message"]
    assert app.get("/api/tracking/summary").json["total_hits"] == 1


# --- closing -------------------------------------------------------------------------------------


def test_close_is_repeatable_and_a_later_loan_opens_anew(opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect)
    with pool.reader(), pool.reader(), pool.writer():
        pass

    pool.close()
    pool.close()
    left_open = opened.open()
    with pool.reader() as reader, pool.writer() as writer:
        names = [name_of(reader), name_of(writer)]

    assert left_open == 0
    assert names == ["first", "first"]


def test_close_leaves_a_connection_to_who_uses_it(opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect)

    with pool.reader() as connection:
        pool.close()
        assert name_of(connection) == "first"
    pool.close()

    assert opened.open() == 0


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="descriptors cannot be counted here")
def test_trackers_leave_no_descriptor_open(tmp_path: Path) -> None:
    def live(ingest: bool) -> None:
        with Tracker(hello, tmp_path / "visits.db", ingest=ingest) as tracker:
            app = webtest.TestApp(tracker)
            app.get("/")
            app.get("/api/tracking/summary")

    live(True)
    gc.collect()  # a spool keeps one, until it is gone itself
    before = len(os.listdir("/dev/fd"))
    for number in range(20):
        live(number % 2 == 0)
    gc.collect()

    assert len(os.listdir("/dev/fd")) == before


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


# --- readers read, and from the file that is there ------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("DELETE FROM visits", id="delete"),
        pytest.param("INSERT INTO counts VALUES ('recorded', 1)", id="insert"),
        pytest.param("DROP VIEW user_visits", id="drop"),
        pytest.param("PRAGMA user_version = 7", id="pragma"),
    ],
)
def test_readers_cannot_write(statement: str, tmp_path: Path) -> None:
    storage: Any = open_storage(tmp_path / "visits.db")

    with (
        pytest.raises(sqlite3.OperationalError, match="readonly"),
        storage._file._pool.reader() as c,
    ):
        c.execute(statement)

    storage.close()


@pytest.mark.parametrize("loan", LOANS)
def test_connection_to_a_replaced_file_is_not_lent(loan: str, opened: Opened) -> None:
    pool = ConnectionPool(opened.database, opened.connect)
    with getattr(pool, loan)() as old:
        pass

    make_database(opened.database, "second")
    with getattr(pool, loan)() as connection:
        assert name_of(connection) == "second"

    assert not is_open(old)


def test_nothing_holds_a_replaced_file_once_the_new_one_is_opened(opened: Opened) -> None:
    """Its shared memory was taken for that of the new file: "disk I/O error"."""
    pool = ConnectionPool(opened.database, opened.connect)
    with pool.reader(), pool.reader():
        pass

    make_database(opened.database, "second")
    with pool.writer():
        assert opened.open() == 1


@pytest.mark.parametrize("loan", LOANS)
def test_connection_whose_file_was_replaced_during_the_loan_is_not_lent_again(
    loan: str, opened: Opened
) -> None:
    pool = ConnectionPool(opened.database, opened.connect)
    with getattr(pool, loan)():
        make_database(opened.database, "second")

    with getattr(pool, loan)() as connection:
        assert name_of(connection) == "second"


@pytest.mark.parametrize("loan", LOANS)
def test_connection_whose_file_was_replaced_while_it_was_opened_is_not_lent_again(
    loan: str, opened: Opened
) -> None:
    pool = ConnectionPool(opened.database, opened.connect)
    opened.on_connect = lambda: make_database(opened.database, "second")
    with getattr(pool, loan)():
        pass
    opened.on_connect = lambda: None

    with getattr(pool, loan)() as connection:
        assert name_of(connection) == "second"


# --- forks ---------------------------------------------------------------------------------------


FORKING = """
import ctypes, os, sys, threading

database, how, child_ends, ingest, used = sys.argv[1:]
fork = os.fork if how == "hooks" else ctypes.PyDLL(None).fork

tracker = Tracker(hello, database, require_token=False, ingest=ingest == "ingest")
for _ in range(10):
    ask("/parent")
assert hits() == 10
if used == "in use":
    import wsgi_tracker.storage.sqlite.pool as pool
    pool.FORK_PATIENCE_SECONDS = 0.05
    lent, done = threading.Event(), threading.Event()
    def use():
        with tracker._backend.storage._file.read() as connection:
            connection.execute("SELECT count(*) FROM visits").fetchone()
            lent.set()
            done.wait(60)
    thread = threading.Thread(target=use)
    thread.start()
    lent.wait(60)

ready, forked = os.pipe(), fork()
if not forked:
    for _ in range(10):
        ask("/child")
    os.write(2, b"child saw more\\n" if hits() >= 20 else b"child saw too few\\n")
    if child_ends == "exit":
        sys.exit(0)
    os._exit(0)  # as if killed

for _ in range(10):
    ask("/parent")
assert os.waitpid(forked, 0)[1] == 0
if used == "in use":
    done.set()
    thread.join()
for _ in range(10):
    ask("/parent")
print(hits())
tracker.close()
"""


@pytest.mark.parametrize("child_ends", ["exit", "killed"])
@pytest.mark.parametrize(
    ("how", "used", "ingest"),
    [
        pytest.param("hooks", "idle", "ingest", id="os.fork"),
        pytest.param("hooks", "idle", "record", id="os.fork, ingest=False"),
        pytest.param("hooks", "in use", "record", id="os.fork while a report is read"),
        pytest.param("no hooks", "idle", "record", id="fork without Python's hooks"),
    ],
)
def test_both_sides_of_a_fork_count_and_the_database_stays_whole(
    how: str, used: str, ingest: str, child_ends: str, tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"
    arguments = database, how, child_ends, ingest, used

    forked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASKING + FORKING, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert (forked.returncode, forked.stdout) == (0, "40\n"), forked.stderr
    assert "child saw more" in forked.stderr
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute(
            "SELECT endpoint, count(*) FROM user_visits GROUP BY 1 ORDER BY 1"
        ).fetchall() == [("/child", 10), ("/parent", 30)]


@pytest.fixture
def inherited() -> Iterator[list[sqlite3.Connection]]:
    before = list(pool_module._inherited)
    yield pool_module._inherited
    pool_module._inherited[:] = before


def test_connection_of_another_process_is_neither_lent_nor_closed(
    opened: Opened, inherited: list[sqlite3.Connection]
) -> None:
    """uWSGI forks without Python's hooks: closing would damage the parent's files."""
    pool = ConnectionPool(opened.database, opened.connect)
    with pool.reader() as reader, pool.writer() as writer:
        pass
    pool._pid -= 1  # as a child finds it

    with pool.reader() as other_reader, pool.writer() as other_writer:
        assert not {reader, writer} & {other_reader, other_writer}

    assert is_open(reader)
    assert is_open(writer)
    assert {reader, writer} <= set(inherited)


def test_child_that_closes_first_closes_nothing_of_its_parent(
    opened: Opened, inherited: list[sqlite3.Connection]
) -> None:
    pool = ConnectionPool(opened.database, opened.connect, timeout_seconds=0.01)
    with pool.reader() as reader, pool.writer() as writer:
        pass
    pool._pid -= 1

    pool.close()

    assert is_open(reader)
    assert is_open(writer)
    assert {reader, writer} <= set(inherited)


def test_checkpoint_moves_the_log_and_leaves_connections_as_they_are(opened: Opened) -> None:
    with closing(sqlite3.connect(opened.database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    pool = ConnectionPool(opened.database, opened.connect)
    with pool.writer() as writer, pool.reader() as reader:
        reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        with writer:
            writer.execute("CREATE TABLE moved (id INTEGER PRIMARY KEY)")
    size = opened.database.stat().st_size

    pool.checkpoint()

    assert opened.database.stat().st_size > size
    with pool.writer() as same_writer, pool.reader() as same_reader:
        assert (same_writer, same_reader) == (writer, reader)
        assert same_reader.execute("SELECT count(*) FROM moved").fetchone() == (0,)
    pool.close()
