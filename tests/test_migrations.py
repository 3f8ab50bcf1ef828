"""A database of any earlier release opens, answers as before, and is then like a new one."""

from __future__ import annotations

import logging
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from counting import classify_new, look, only
from recount import count_stats, count_summary, count_trends

from wsgi_tracker import Tracker, Visit, open_storage
from wsgi_tracker.errors import StorageError
from wsgi_tracker.period import DAY, Granularity
from wsgi_tracker.selection import Selection
from wsgi_tracker.storage import Batch, Storage
from wsgi_tracker.storage.sqlite import migrations
from wsgi_tracker.storage.sqlite.schema import SCHEMA_VERSION

SCHEMAS = Path(__file__).parent / "schemas"
EARLIER = sorted(int(path.stem) for path in SCHEMAS.glob("*.sql"))
PATIENCE_SECONDS = 30
NOW = 1_755_081_000_000_000
SECRET = b"s" * 32
COLUMNS = "user_hash method endpoint path status ip_address user_agent referer host".split()
VISITS = [
    Visit(
        NOW - number * DAY,
        f"user{number % 3}",
        ("GET", "POST")[number % 2],
        f"/boxes/{number % 4}",
        path="/boxes",
        status=200,
        ip_address=f"192.0.2.{number}",
        user_agent="agent",
        referer="https://a.example/",
        host="shop.example",
    )
    for number in range(12)
]


def make(database: Path, version: int) -> None:
    """Make a database as the release with that schema did, with visits inside."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript((SCHEMAS / f"{version}.sql").read_text())
        connection.execute("INSERT INTO settings (name, value) VALUES ('secret', ?)", (SECRET,))
        connection.executemany(
            f"INSERT INTO user_visits (timestamp_us, {', '.join(COLUMNS)})"
            f" VALUES (?{', ?' * len(COLUMNS)})",
            [
                (visit.timestamp, *(getattr(visit, column) for column in COLUMNS))
                for visit in VISITS
            ],
        )
        connection.execute("INSERT INTO counts (name, value) VALUES ('recorded', 12)")
        connection.execute(f"PRAGMA user_version = {version}")


def sql(database: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


def schema(database: Path) -> set[tuple[Any, ...]]:
    rows = sql(database, "SELECT type, name, tbl_name, sql FROM sqlite_master")
    return {(*names, statement and " ".join(statement.split())) for *names, statement in rows}


def ingest(storage: Storage, *visits: Visit) -> None:
    data = b"".join(visit.line() for visit in visits)
    storage.ingest([], lambda positions: Batch(data), durable=False)
    classify_new(storage)


def test_every_earlier_schema_is_kept_for_these_tests() -> None:
    assert EARLIER == list(range(1, SCHEMA_VERSION)) == sorted(migrations.STEPS)


@pytest.mark.parametrize("version", EARLIER)
def test_reports_are_the_same_before_and_after(version: int, tmp_path: Path) -> None:
    database = tmp_path / "visits.db"
    make(database, version)
    view = sql(database, "SELECT * FROM user_visits ORDER BY id")

    with closing(open_storage(database)) as storage:
        for days in (3, 100):
            start = NOW - days * DAY
            inside = [visit for visit in VISITS if visit.timestamp >= start]
            assert [row.as_json() for row in look(storage).stats(Selection(start))] == count_stats(
                inside
            )
            assert look(storage).summary(Selection(start)).as_json() == count_summary(inside)
            for granularity in Granularity:
                assert [
                    bucket.as_json()
                    for bucket in look(storage).trends(Selection(start), granularity)
                ] == count_trends(inside, granularity.value)
        assert look(storage).visits(limit=100).visits == VISITS
        assert storage.secret() == SECRET

    assert sql(database, "SELECT * FROM user_visits ORDER BY id") == view
    assert sql(database, "SELECT * FROM counts") == [("recorded", 12)]
    assert sql(database, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


@pytest.mark.parametrize("version", EARLIER)
def test_user_agents_of_before_get_their_class(version: int, tmp_path: Path) -> None:
    make(tmp_path / "visits.db", version)
    sql(tmp_path / "visits.db", "UPDATE user_agents SET user_agent = 'curl/8'")

    with closing(open_storage(tmp_path / "visits.db")) as storage:
        before = look(storage).summary(only("unknown")).total_hits
        ingest(storage)

        assert before == 12
        assert look(storage).summary(only("tool")).total_hits == 12


@pytest.mark.parametrize("version", EARLIER)
def test_schema_is_that_of_a_new_database(version: int, tmp_path: Path) -> None:
    make(tmp_path / "old.db", version)

    for name in ("old.db", "new.db"):
        open_storage(tmp_path / name).close()

    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db")
    if version > 2:  # which kept the identity from the first application on
        return
    # Its visits are those of people: an application that counts days must not join unnoticed.
    identity = "SELECT value FROM settings WHERE name = 'identity'"
    assert sql(tmp_path / "old.db", identity) == [("permanent",)]
    settings = "SELECT name FROM settings WHERE name <> 'identity' ORDER BY name"
    assert sql(tmp_path / "old.db", settings) == sql(tmp_path / "new.db", settings)


@pytest.mark.parametrize("version", EARLIER)
def test_one_of_many_processes_takes_the_steps(version: int, tmp_path: Path) -> None:
    make(tmp_path / "visits.db", version)
    barrier = threading.Barrier(8)
    outcomes: list[Any] = []

    def start() -> None:
        barrier.wait(PATIENCE_SECONDS)
        try:
            with closing(open_storage(tmp_path / "visits.db")) as storage:
                outcomes.append(look(storage).summary().total_hits)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)

    assert outcomes == [12] * 8


def test_step_that_fails_leaves_the_old_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "visits.db"
    make(database, 1)
    before = schema(database)
    monkeypatch.setattr(migrations, "STEPS", {1: [*migrations.STEPS[1], "INSERT INTO nothing"]})

    with pytest.raises(ValueError, match="cannot be the database"):
        open_storage(database)

    assert schema(database) == before
    assert sql(database, "PRAGMA user_version") == [(1,)]


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from wsgi_tracker import open_storage
from wsgi_tracker.storage.sqlite import migrations

transaction = migrations.transaction

@contextmanager
def deadly(*args, **options):
    with transaction(*args, **options):
        yield
        os.kill(os.getpid(), signal.SIGKILL)

migrations.transaction = deadly
open_storage(sys.argv[1])
"""


@pytest.mark.parametrize("version", EARLIER)
def test_process_that_is_killed_within_a_step_leaves_the_old_schema(
    version: int, tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"
    make(database, version)
    before = schema(database)

    killed = subprocess.run(
        [sys.executable, "-c", KILLED, database], check=False, timeout=PATIENCE_SECONDS
    )
    left = schema(database), sql(database, "PRAGMA user_version")
    open_storage(database).close()

    assert killed.returncode == -signal.SIGKILL
    assert left == (before, [(version,)])
    assert sql(database, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert sql(database, "PRAGMA integrity_check") == [("ok",)]


def test_locked_database_of_an_earlier_schema_gives_no_answers_until_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    database = tmp_path / "visits.db"
    make(database, 1)

    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        storage = open_storage(database)
        with pytest.raises(StorageError, match="locked"):
            look(storage).summary()
        other.execute("ROLLBACK")

    assert look(storage).summary().total_hits == 12
    storage.close()


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda storage: look(storage).summary(), id="report"),
        pytest.param(lambda storage: ingest(storage, VISITS[0]), id="ingest"),
        pytest.param(lambda storage: list(storage.purge(NOW)), id="purge"),
    ],
)
def test_process_that_runs_on_beside_a_newer_release_leaves_the_database_alone(
    use: Callable[[Storage], Any], tmp_path: Path
) -> None:
    database = tmp_path / "visits.db"
    storage = open_storage(database)
    ingest(storage, *VISITS)
    look(storage).summary()
    sql(database, "PRAGMA user_version = 99")

    for _ in range(2):
        with pytest.raises(StorageError, match="schema 99"):
            use(storage)

    assert sql(database, "SELECT count(*) FROM visits") == [(12,)]
    storage.close()


def test_tracker_records_on_in_a_database_of_an_earlier_release(
    tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    make(tmp_path / "visits.db", 1)
    client = webtest.TestApp(tracked())

    client.get("/new")

    assert client.get("/api/tracking/summary").json["total_hits"] == 13
