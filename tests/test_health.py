"""Health says how tracking is, above all while something is out of order."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from waiting import wait_until

from wsgi_tracker import Tracker, Visit
from wsgi_tracker.errors import StorageError
from wsgi_tracker.segments import SUFFIX, counts_line, header
from wsgi_tracker.storage.sqlite.schema import SCHEMA_VERSION

Client = Callable[..., webtest.TestApp]
HEALTH = "/api/tracking/health"
NOW = 1_755_081_000_123_456_789  # 2025-08-13T10:30:00Z and a bit, nanoseconds
LINE = Visit(NOW // 1000, "a" * 32, "GET", "/boxes").line()
COUNTS = ("recorded", "queued", "dropped", "torn", "rejected", "ignored")
DATABASE = ("last_ingest", "ingesting_pid", "database_bytes", "schema")


@pytest.fixture
def app(tracked: Callable[..., Tracker]) -> webtest.TestApp:
    return webtest.TestApp(tracked())


def spool_of(app: webtest.TestApp) -> Path:
    return Path(app.app._backend.spool.folder)


def add_segment(app: webtest.TestApp, content: bytes, segment: str = "e" * 32) -> None:
    """Leave a segment whose writer is gone."""
    (spool_of(app) / (segment + SUFFIX)).write_bytes(header(segment) + content)


def offered(health: dict[str, Any]) -> int:
    return sum(health[name] for name in COUNTS)


def test_health_is_what_the_manual_lists(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.sqlite.intake.time.time_ns", lambda: NOW)
    app = client()
    for _ in range(3):
        app.get("/")
    app.get("/api/tracking/summary")

    health = app.get(HEALTH).json

    (segment,) = spool_of(app).glob("*" + SUFFIX)
    database = app.app._backend.storage.database
    assert health == {
        "status": "ok",
        "problems": [],
        "warnings": [],
        "recorded": 3,
        "queued": 0,
        "dropped": 0,
        "torn": 0,
        "rejected": 0,
        "ignored": 0,
        "recording": True,
        "queued_bytes": 0,
        "oldest_queued": None,
        "spool_bytes": segment.stat().st_size,
        "spool_segments": 1,
        "last_ingest": "2025-08-13T10:30:00Z",
        "ingesting_pid": os.getpid(),
        "database_bytes": sum(Path(f"{database}{end}").stat().st_size for end in ("", "-wal")),
        "schema": SCHEMA_VERSION,
        "retention_days": 0,
    }


def test_fresh_tracker_is_healthy(client: Client) -> None:
    health = client().get(HEALTH).json

    assert (health["status"], health["warnings"], health["recording"]) == ("ok", [], True)
    assert [health[name] for name in COUNTS] == [0] * 6
    assert (health["last_ingest"], health["ingesting_pid"], health["schema"]) == (
        None,
        None,
        SCHEMA_VERSION,
    )


def test_health_looks_and_ingests_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgi_tracker.observation.time_ns", lambda: NOW)
    app = client()
    app.app._api._fresh._clock = lambda: NOW
    for _ in range(3):
        app.get("/")

    first, second = app.get(HEALTH), app.get(HEALTH)

    assert first.json == second.json
    assert (first.json["recorded"], first.json["queued"]) == (0, 3)
    assert first.json["queued_bytes"] == first.json["spool_bytes"] - len(header("0" * 32))
    assert first.json["oldest_queued"] == "2025-08-13T10:30:00Z"
    assert first.json["ingesting_pid"] is None
    assert "Wsgi-Tracker-Queued" not in first.headers


def test_health_takes_a_token_like_every_report(client: Client) -> None:
    app = client(token="secret")

    refused = app.get(HEALTH, status=401)
    answered = app.get(HEALTH, headers={"Authorization": "Bearer secret"})

    assert set(refused.json) == {"error"}
    assert answered.json["status"] == "ok"
    assert answered.headers["Cache-Control"] == "no-store"


def test_health_takes_no_parameter(client: Client) -> None:
    error = client().get(f"{HEALTH}?period=day", status=400).json["error"]

    assert error["message"] == "there is no parameter 'period'; known: none"


def test_health_is_read_only(client: Client) -> None:
    app = client()

    assert app.post(HEALTH, status=405).headers["Allow"] == "GET, HEAD"
    assert app.head(HEALTH).body == b""


# --- counts --------------------------------------------------------------------------------------


def test_every_visit_offered_is_in_one_count(tracked: Callable[..., Tracker]) -> None:
    def endpoint(environ: dict[str, Any]) -> str:
        if environ["PATH_INFO"] == "/broken":
            raise RuntimeError("their bug")
        return "/all"

    app = webtest.TestApp(tracked(endpoint=endpoint, max_spool_bytes=20_000))
    add_segment(app, LINE * 4 + b"null\n" + LINE[:40])
    for number in range(150):
        app.get("/broken" if number % 50 == 0 else "/")
    # A torn line is known as one only once its writer is gone and it was ingested.
    before = app.get(HEALTH).json

    app.get("/api/tracking/summary")
    after = app.get(HEALTH).json

    assert (before["recorded"], before["torn"], offered(before)) == (0, 0, 155)
    assert before["dropped"] == after["dropped"] > 0
    assert (after["queued"], after["torn"], after["rejected"]) == (0, 1, 1)
    assert after["recorded"] == before["queued"] - 1
    assert offered(after) == 156


def test_lines_of_counts_are_no_visits(app: webtest.TestApp) -> None:
    counts = counts_line({"dropped": 7})
    add_segment(app, counts + LINE + counts + counts + LINE + LINE)

    waiting = app.get(HEALTH).json
    app.get("/api/tracking/summary")

    assert (waiting["queued"], waiting["dropped"]) == (3, 21)
    assert app.get(HEALTH).json["dropped"] == 21


@pytest.mark.parametrize("chunk", [50, 51, len(LINE), len(LINE) + 5, 1000])
def test_queue_is_counted_chunk_by_chunk(
    chunk: int, app: webtest.TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.segments.CHUNK_BYTES", chunk)
    add_segment(app, (LINE * 2 + counts_line({"dropped": 1})) * 7 + LINE[:50])

    assert app.get(HEALTH).json["queued"] == 14


def test_queue_that_is_too_long_to_be_counted_has_a_size(
    app: webtest.TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.health.MAX_COUNTED_BYTES", 2 * len(LINE) - 1)
    add_segment(app, LINE, "a" * 32)
    add_segment(app, LINE, "b" * 32)

    health = app.get(HEALTH).json

    assert (health["queued"], health["queued_bytes"]) == (None, 2 * len(LINE))


def test_copy_of_a_segment_is_not_queued_twice(app: webtest.TestApp) -> None:
    add_segment(app, LINE)
    (spool_of(app) / ("copy" + SUFFIX)).write_bytes(header("e" * 32) + LINE)

    health = app.get(HEALTH).json

    assert (health["queued"], health["spool_segments"]) == (1, 2)


def test_restored_segment_is_not_queued_again(app: webtest.TestApp) -> None:
    add_segment(app, LINE)
    app.get("/api/tracking/summary")
    add_segment(app, LINE)

    health = app.get(HEALTH).json

    assert (health["recorded"], health["queued"], health["queued_bytes"]) == (1, 0, 0)


def test_only_what_moved_lines_is_an_ingest(app: webtest.TestApp) -> None:
    app.get("/")
    app.get("/api/tracking/summary")
    before = app.app._backend.storage.facts([]).last_ingest

    app.app._backend.ingester._look_at = 0.0
    app.app._backend.ingester.wake()

    assert before is not None
    assert app.app._backend.storage.facts([]).last_ingest == before


INGEST = """
import os, sys
from pathlib import Path
from wsgi_tracker import open_storage
from wsgi_tracker.ingest import Ingester
storage = open_storage(sys.argv[1])
Ingester(storage, Path(sys.argv[1] + "-spool")).run_once()
storage.close()
print(os.getpid())
"""


def test_pid_is_that_of_the_process_that_ingested_last(app: webtest.TestApp) -> None:
    app.get("/")
    database = str(app.app._backend.storage.database)

    other = subprocess.run(
        [sys.executable, "-c", INGEST, database], capture_output=True, text=True, check=True
    )
    health = app.get(HEALTH).json
    app.get("/")
    app.get("/api/tracking/summary")

    assert (health["recorded"], health["ingesting_pid"]) == (1, int(other.stdout))
    assert app.get(HEALTH).json["ingesting_pid"] == os.getpid()


# --- out of order --------------------------------------------------------------------------------


def lock_exclusively(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield


def corrupt(database: Path) -> Iterator[None]:
    for path in database.parent.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    database.write_bytes(b"no database " * 1000)
    yield
    database.unlink()


def make_newer(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database)) as other:
        other.execute("PRAGMA user_version = 99")
    yield
    with closing(sqlite3.connect(database)) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def make_half(database: Path) -> Iterator[None]:
    """As a restore under way leaves it: no schema yet, and somebody is writing."""
    database.unlink()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
    database.unlink()


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        pytest.param(lock_exclusively, "locked", id="locked"),
        pytest.param(corrupt, "not a database", id="corrupt"),
        pytest.param(make_newer, "schema 99", id="of a newer release"),
        pytest.param(make_half, "locked", id="being restored"),
    ],
)
def test_health_answers_soon_while_the_database_is_out_of_order(
    break_it: Callable[[Path], Iterator[None]], why: str, app: webtest.TestApp
) -> None:
    app.get("/")
    storage = app.app._backend.storage
    storage.close()
    breaking = break_it(storage.database)
    next(breaking)

    began = time.monotonic()
    health = app.get(HEALTH).json
    seconds = time.monotonic() - began
    next(breaking, None)
    again = app.get(HEALTH).json

    assert seconds < 4
    assert health["status"] == "degraded"
    (problem,) = health["problems"]
    assert "the database cannot be read" in problem
    assert why in problem
    assert {health[name] for name in (*COUNTS, *DATABASE, "queued_bytes")} == {None}
    assert health["recording"] is True
    assert (health["spool_segments"], health["spool_bytes"] > 100) == (1, True)
    assert (again["status"], again["queued"]) == ("ok", 1)


def test_health_answers_while_every_connection_is_busy(client: Client) -> None:
    app = client()
    pool = app.app._backend.storage._file._pool
    pool._timeout_seconds = 0.01

    with ExitStack() as loans:
        for _ in range(pool._readers):
            loans.enter_context(pool.reader())
        health = app.get(HEALTH).json

    assert health["status"] == "degraded"
    assert "all 8 connections stayed busy" in health["problems"][0]
    assert app.get(HEALTH).json["status"] == "ok"


def test_health_says_why_visits_are_not_ingested(tracked: Callable[..., Tracker]) -> None:
    tracker = tracked(ingest=True)
    app = webtest.TestApp(tracker)

    with closing(sqlite3.connect(tracker._backend.storage.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        app.get("/")
        wait_until(lambda: bool(tracker._backend.ingest_thread.problems))
        health = app.get(HEALTH).json
    wait_until(lambda: not tracker._backend.ingest_thread.problems)

    assert (health["status"], health["queued"], health["schema"]) == ("degraded", 1, SCHEMA_VERSION)
    (problem,) = health["problems"]
    assert problem.startswith("visits wait in the spool: database is locked; ")
    assert app.get(HEALTH).json["status"] == "ok"


def test_report_that_was_refused_once_leaves_no_problem_without_a_thread(
    app: webtest.TestApp,
) -> None:
    app.get("/")

    with closing(sqlite3.connect(app.app._backend.storage.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        app.get("/api/tracking/summary", status=503)

    assert app.get(HEALTH).json["problems"] == []


def test_health_does_not_end_the_outage_of_reports(
    app: webtest.TestApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*asked: object, long: bool) -> None:
        raise StorageError("no connection")

    monkeypatch.setattr(app.app._backend.storage, "snapshot", refuse)
    for _ in range(3):
        app.get("/api/tracking/summary", status=503)
        app.get(HEALTH)

    logged = [record.getMessage() for record in caplog.records if "503" in record.getMessage()]
    assert logged == ["reports answer 503: no connection"]


def test_spool_that_cannot_be_written_is_a_problem(
    app: webtest.TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = app.app._backend.spool
    app.get("/")
    spool.close()
    spool.folder.rename(spool.folder.with_name("away"))
    spool.folder.write_text("no folder")

    app.get("/")
    health = app.get(HEALTH).json
    summary = app.get("/api/tracking/summary", status=503)
    spool.folder.unlink()
    spool.folder.with_name("away").rename(spool.folder)
    monkeypatch.setattr("wsgi_tracker.spool.time.monotonic", lambda: spool._retry_at + 1)
    app.get("/")

    assert (health["status"], health["recording"], health["dropped"]) == ("degraded", False, 1)
    assert "visits are dropped, " in health["problems"][0]
    assert str(spool.folder) in health["problems"][0]
    assert "the spool cannot be used" in health["problems"][1]
    assert {health[name] for name in ("queued", "queued_bytes", "spool_bytes")} == {None}
    assert summary.json["error"]["code"] == "storage_unavailable"
    again = app.get(HEALTH).json
    assert (again["status"], again["queued"], again["dropped"]) == ("ok", 2, 1)


@pytest.mark.parametrize(
    ("age_seconds", "status"),
    [pytest.param(59, "ok", id="fresh"), pytest.param(60, "degraded", id="old")],
)
def test_visit_that_waits_for_a_minute_is_a_problem(
    age_seconds: int, status: str, app: webtest.TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.fresh.CATCH_UP_SECONDS", 0.01)
    app.app._api._fresh._clock = lambda: NOW + age_seconds * 10**9
    add_segment(app, LINE)

    with app.app._backend.ingester._host_lock.held():
        health = app.get(HEALTH).json
        summary = app.get("/api/tracking/summary").json

    assert health["status"] == status
    assert summary["tracking_active"] is (status == "ok")
    if status == "degraded":
        assert "visits wait in the spool since 2025-08-13T10:30:00Z" in health["problems"][0]


@pytest.mark.parametrize(
    "timestamp", [b"9" * 30, b"-1", b"true", b"253402300800000000", b"null", b"[" * 50_000]
)
def test_line_of_no_possible_time_does_not_stop_health(
    timestamp: bytes, app: webtest.TestApp
) -> None:
    add_segment(app, LINE.replace(b"%d" % (NOW // 1000), timestamp))

    health = app.get(HEALTH).json

    assert (health["queued"], health["oldest_queued"]) == (1, None)


def test_health_is_answered_while_a_batch_is_stored(
    tracked: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = webtest.TestApp(tracked())
    app.get("/")
    storing, go_on = threading.Event(), threading.Event()

    def wait(*args: Any) -> None:
        storing.set()
        go_on.wait(30)

    monkeypatch.setattr("wsgi_tracker.storage.sqlite.intake._note_ingest", wait)
    thread = threading.Thread(target=app.app._backend.ingester.run_once)
    thread.start()
    assert storing.wait(30)
    during = app.get(HEALTH).json
    go_on.set()
    thread.join(30)

    assert (during["status"], during["recorded"], during["queued"]) == ("ok", 0, 1)
    assert app.get(HEALTH).json["recorded"] == 1


@pytest.mark.parametrize(
    ("hours", "warned"), [pytest.param(23, True, id="today"), pytest.param(25, False, id="later")]
)
def test_database_that_was_deleted_in_operation_is_told_of_for_a_day(
    hours: int, warned: bool, app: webtest.TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.get("/api/tracking/summary")
    for path in app.app._backend.storage.database.parent.glob("visits.db*"):
        if path.is_file():
            path.unlink()
    app.get("/boxes")
    app.get("/api/tracking/summary")
    later = time.time_ns() + hours * 3600 * 10**9
    monkeypatch.setattr(app.app._api._fresh, "_clock", lambda: later)

    health = app.get(HEALTH).json

    assert health["status"] == "ok"
    assert ["deleted or replaced" in warning for warning in health["warnings"]] == [True] * warned


def test_visits_that_are_still_to_be_counted_are_warned_of(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update, or where somebody has changed visits by hand."""
    app = client()
    for _ in range(3):
        app.get("/boxes")
    app.get("/api/tracking/summary")
    monkeypatch.setattr("wsgi_tracker.health.FEW_UNCOUNTED", 2)

    counted = app.get("/api/tracking/health").json["warnings"]
    with closing(
        sqlite3.connect(app.app._backend.storage.database, isolation_level=None)
    ) as connection:
        connection.execute("UPDATE user_visits SET endpoint = '/others'")
    uncounted = app.get("/api/tracking/health").json

    assert counted == []
    assert uncounted["status"] == "ok"
    assert [text for text in uncounted["warnings"] if "3 visits are still to be counted" in text]
