"""While storage or spool are out of order visits wait, and reports say so."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from hosts import GOOD, OTHER, Host, many

from wsgi_tracker import Tracker, open_storage
from wsgi_tracker.errors import StorageError
from wsgi_tracker.segments import SUFFIX, header
from wsgi_tracker.storage.sqlite import schema
from wsgi_tracker.storage.sqlite.schema import SCHEMA_VERSION

pytestmark = pytest.mark.once

PATIENCE_SECONDS = 30


@pytest.fixture
def tracker(tracked: Callable[..., Tracker]) -> webtest.TestApp:
    return webtest.TestApp(tracked())


def test_locked_database_delays_but_loses_nothing(tracker: webtest.TestApp, tmp_path: Path) -> None:
    tracker.get("/")
    with closing(sqlite3.connect(tmp_path / "visits.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.get("/")
        refused = tracker.get("/api/tracking/summary", status=503)
        other.execute("ROLLBACK")

    assert refused.headers["Retry-After"] == "1"
    assert refused.json["error"]["code"] == "storage_unavailable"
    assert tracker.get("/api/tracking/summary").json["total_hits"] == 2


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_new_database_takes_what_is_still_in_the_spool(
    how: str, tracker: webtest.TestApp, tmp_path: Path
) -> None:
    tracker.get("/")
    assert tracker.get("/api/tracking/summary").json["total_hits"] == 1
    for path in tmp_path.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    if how == "replaced":
        open_storage(tmp_path / "visits.db").close()

    tracker.get("/")
    tracker.app._backend.ingester._look_at = 0.0

    assert tracker.get("/api/tracking/summary").json["total_hits"] == 2


def test_database_restored_by_vacuum_into_lets_reports_read_while_it_is_written(
    host: Host,
) -> None:
    """It stayed without a log: a long report kept every batch out."""
    host.segment(many(3))
    host.ingest()
    host.storage.close()
    with closing(sqlite3.connect(host.database)) as connection:
        connection.execute("VACUUM INTO ?", (str(host.database.with_name("copy.db")),))
    host.database.with_name("copy.db").replace(host.database)
    host.segment(many(1))
    host.ingest()

    with closing(sqlite3.connect(host.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM visits").fetchone()
        host.segment(many(1))
        host.ingest()

    assert host.hits() == 5


READS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM visits").fetchone()[0], flush=True)
sys.stdin.readline()
"""


def test_database_that_was_deleted_alone_is_made_anew_while_others_have_it_open(
    host: Host,
) -> None:
    """Its log and shared memory were taken for the new one's: disk I/O error, for hours."""
    host.segment(many(2000))
    host.ingest()
    with subprocess.Popen(
        [sys.executable, "-c", READS, str(host.database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "2000\n"
        host.database.unlink()
        host.segment(many(3))
        host.ingest()
        before = host.hits()
        other.stdin.write("\n")
    host.segment(many(4))
    host.ingest()

    assert (before, host.hits()) == (3, 7)
    with closing(sqlite3.connect(host.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_who_comes_second_to_make_a_database_leaves_the_log_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, came = tmp_path / "visits.db", threading.Event()
    maker_lock = schema._maker_lock

    def coming(folder: Path) -> AbstractContextManager[None]:
        came.set()
        return maker_lock(folder)

    monkeypatch.setattr(schema, "_maker_lock", coming)
    second = threading.Thread(target=schema.make_file, args=(database,))
    with ExitStack() as opened:
        with maker_lock(tmp_path):
            second.start()
            assert came.wait(PATIENCE_SECONDS)
            first = opened.enter_context(closing(sqlite3.connect(database, isolation_level=None)))
            first.execute("PRAGMA journal_mode = WAL")
            first.execute("CREATE TABLE visits (id)")
        second.join(PATIENCE_SECONDS)
        with closing(sqlite3.connect(database)) as third:
            tables = third.execute("SELECT name FROM sqlite_master").fetchall()

    assert tables == [("visits",)]


def test_application_starts_while_another_program_has_the_folder_locked(
    tracked: Callable[..., Tracker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As under ``flock /srv/shop python shop.py``, which was told to choose another path."""
    monkeypatch.setattr(schema, "MAKER_PATIENCE_SECONDS", 0.0)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    app = webtest.TestApp(tracked(secret="known to nobody else"))
    app.get("/boxes")
    app.get("/api/tracking/summary", status=503)
    os.close(folder)

    (outage,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "another process makes" in outage.getMessage()
    assert app.get("/api/tracking/summary").json["total_hits"] == 1


def test_newer_schema_stops_reports_not_the_application(
    tracked: Callable[..., Tracker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    webtest.TestApp(tracked()).get("/")
    database = tmp_path / "visits.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")

    app = webtest.TestApp(tracked())
    assert app.get("/").text == "hello"
    refused = app.get("/api/tracking/summary", status=503)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    assert "schema 99" in refused.json["error"]["message"]
    assert "schema 99" in caplog.text
    assert app.get("/api/tracking/summary").json["total_hits"] == 2


def test_corrupt_database_stops_reports_not_the_application(
    tracker: webtest.TestApp, tmp_path: Path
) -> None:
    tracker.get("/")
    tracker.app._backend.storage.close()
    for path in tmp_path.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "visits.db").write_bytes(b"no database " * 1000)

    assert tracker.get("/").text == "hello"
    tracker.get("/api/tracking/summary", status=503)
    (tmp_path / "visits.db").unlink()
    tracker.app._backend.ingester._look_at = 0.0

    assert tracker.get("/api/tracking/summary").json["total_hits"] == 2


def test_commit_that_fails_stores_nothing_and_the_next_stores_all(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = host.segment(many(10))

    def fail(*args: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("wsgi_tracker.storage.sqlite.intake._add_counts", fail)
    with pytest.raises(StorageError, match="disk is full"):
        host.ingest()
    after_failure = (host.hits(), len(host.segments()), host.storage.positions([segment.stem]))
    monkeypatch.undo()
    host.ingest()

    assert after_failure == (0, 1, {})
    assert host.hits() == 10
    assert host.counts() == {"recorded": 10}


def test_commit_that_fails_for_long_keeps_a_rejected_line_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(b"garbage\n" + many(1))

    def fail(*args: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("wsgi_tracker.storage.sqlite.intake._add_counts", fail)
    for _ in range(3):
        assert not host.ingester.wake()
    monkeypatch.undo()
    host.ingest()

    assert host.rejected() == b"garbage\n"
    assert host.counts() == {"recorded": 1, "rejected": 1}


@pytest.mark.parametrize(
    ("age_seconds", "active"),
    [pytest.param(59, True, id="fresh"), pytest.param(60, False, id="old")],
)
def test_report_says_what_is_queued_and_whether_it_still_moves(
    age_seconds: int,
    active: bool,
    tracked: Callable[..., Tracker],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsgi_tracker.fresh.CATCH_UP_SECONDS", 0.01)
    tracker = tracked()
    tracker._api._fresh._clock = lambda: (1_755_081_000 + age_seconds) * 10**9
    app = webtest.TestApp(tracker)
    segment = "e" * 32
    (tmp_path / "visits.db-spool" / (segment + SUFFIX)).write_bytes(header(segment) + GOOD + OTHER)

    with tracker._backend.ingester._host_lock.held() as held:
        stuck = app.get("/api/tracking/summary")
    free = app.get("/api/tracking/summary")

    assert held
    assert stuck.headers["Wsgi-Tracker-Queued"] == str(len(GOOD + OTHER))
    assert (stuck.json["total_hits"], stuck.json["tracking_active"]) == (0, active)
    assert "Wsgi-Tracker-Queued" not in free.headers
    assert (free.json["total_hits"], free.json["tracking_active"]) == (2, True)


def test_spool_that_cannot_be_listed_is_503(tracker: webtest.TestApp, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "visits.db-spool")
    (tmp_path / "visits.db-spool").write_text("no folder")

    refused = tracker.get("/api/tracking/summary", status=503)

    assert refused.json["error"]["code"] == "storage_unavailable"


def test_filesystem_without_locks_is_logged_once_and_visits_wait(
    tracker: webtest.TestApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It passed for an ingester at work, which nobody ever saw finish."""

    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    tracker.get("/")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", no_locks)
        for _ in range(3):
            tracker.app._backend.ingester.wake()
        messages = [record.getMessage() for record in caplog.records]
        refused = tracker.get("/api/tracking/summary", status=503)

    assert len(messages) == 1
    assert "No locks available" in messages[0]
    assert "No locks available" in refused.json["error"]["message"]
    assert tracker.get("/api/tracking/summary").json["total_hits"] == 1


@pytest.mark.parametrize("refusal", [errno.EAGAIN, errno.EACCES])
def test_lock_that_another_process_holds_is_no_fault(
    refusal: int, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def held(*args: Any) -> None:
        raise OSError(refusal, "held")

    host.segment(GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", held)
        host.ingester.wake()

    assert caplog.messages == []
    assert host.hits() == 0


def test_spool_folder_that_was_deleted_comes_back(tracker: webtest.TestApp, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "visits.db-spool")

    first = tracker.get("/api/tracking/summary").json["total_hits"]
    tracker.get("/")

    assert (first, tracker.get("/api/tracking/summary").json["total_hits"]) == (0, 1)


def test_new_database_takes_what_is_in_the_spool_without_waiting_for_a_visit(
    tracker: webtest.TestApp, tmp_path: Path
) -> None:
    tracker.get("/")
    tracker.get("/api/tracking/summary")
    for name in ("visits.db", "visits.db-wal", "visits.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)

    tracker.app._backend.ingester._look_at = 0.0
    tracker.app._backend.ingester.wake()  # as its thread does

    assert tracker.get("/api/tracking/summary").json["total_hits"] == 1


def test_everything_offered_is_recorded_queued_or_dropped(
    tracked: Callable[..., Tracker], tmp_path: Path
) -> None:
    def endpoint(environ: dict[str, Any]) -> str:
        if environ["PATH_INFO"] == "/broken":
            raise RuntimeError("their bug")
        return "/all"

    tracker = tracked(endpoint=endpoint, max_spool_bytes=20_000)
    app = webtest.TestApp(tracker)
    for number in range(150):
        app.get("/broken" if number % 50 == 0 else "/")
    tracker._backend.spool.write_counts()

    recorded = app.get("/api/tracking/summary").json["total_hits"]

    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        counts = dict(connection.execute("SELECT name, value FROM counts"))
    assert counts["recorded"] == recorded
    assert counts["recorded"] + counts["dropped"] == 150


# --- storage out of order ------------------------------------------------------------------------


def test_outage_is_logged_once_by_whoever_meets_it_with_advice(
    tracker: webtest.TestApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.get("/")
    with closing(sqlite3.connect(tmp_path / "visits.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            tracker.app._backend.ingester.wake()
            refused = tracker.get("/api/tracking/summary", status=503)
        other.execute("ROLLBACK")
    during = [record.getMessage() for record in caplog.records]
    tracker.app._backend.ingester.wake()

    database = str(tmp_path / "visits.db")
    assert during == [
        "visits wait in the spool: database is locked; another program holds "
        f"{database}: if this lasts, end it (fuser {database} names it)"
    ]
    assert refused.json["error"]["message"] in during[0]
    assert caplog.records[1].getMessage() == "visits wait in the spool: works again"
    assert len(caplog.records) == 2
