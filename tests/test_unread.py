"""Reports take along what waits in the spool: they wait for nobody who ingests, and miss nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import webtest
from counting import BEGIN, Counted, Waiting, look, only, visit
from hosts import GOOD, OTHER, Host, many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_counters import moments, visits

from wsgi_tracker import Tracker, Visit
from wsgi_tracker.errors import StorageError
from wsgi_tracker.ingest import MAX_OPEN, Ingester
from wsgi_tracker.ingest_thread import IngestThread
from wsgi_tracker.period import DAY, HOUR, SECOND, Granularity
from wsgi_tracker.segments import Segment
from wsgi_tracker.selection import Filter, Selection, of_class
from wsgi_tracker.storage import NotIngestedError
from wsgi_tracker.unread import UNREAD_BYTES, open_unread

MINUTE = 60 * SECOND


def open_segments() -> int:
    """Return how many this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # of the folder itself
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sum(".ndjson" in link for link in links)


@contextmanager
def unread(host: Host, ingester: Ingester | None = None) -> Iterator[Any]:
    with open_unread(ingester or host.ingester) as opened:
        yield opened


@pytest.mark.once
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(visits, max_size=8), st.lists(visits, max_size=8), st.lists(moments, max_size=3))
def test_reports_are_those_of_a_storage_that_has_what_waits(
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[Visit],
    waiting: list[Visit],
    starts: list[int],
) -> None:
    db = Counted(tmp_path_factory.mktemp("db"), "Europe/Berlin")
    storage = db.storage
    db.ingest(stored)
    db.count()
    db.ingest(stored[:3])  # not counted
    asked = [
        ask
        for start in (0, BEGIN, BEGIN + DAY, *starts)
        for selection in (Selection(start), Selection(start, None, of_class("tool")))
        for ask in (
            lambda of, selection=selection: of.stats(selection),
            lambda of, selection=selection: of.summary(selection),
            lambda of, selection=selection: of.visits(selection, 7).visits,
            *(
                lambda of, selection=selection, unit=unit: of.trends(selection, unit)
                for unit in Granularity
            ),
        )
    ]

    answers = []
    for ask in asked:
        try:
            answers.append(ask(look(storage, Waiting(waiting))))
        except NotIngestedError:
            answers.append(None)
    db.ingest(waiting)
    expected = [ask(look(storage)) for ask in asked]
    storage.close()

    assert [a for a in answers if a is not None] == [
        e for a, e in zip(answers, expected, strict=True) if a is not None
    ]
    pairs = {(each.endpoint, each.method) for each in stored}
    if stored and {(each.endpoint, each.method) for each in waiting} <= pairs:
        assert None not in answers[:3]  # of all visitors


@pytest.fixture
def app(tracked: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch) -> webtest.TestApp:
    """Return an application that has an endpoint stored, and where nobody can ingest any more."""
    app = webtest.TestApp(tracked(ingest=True))
    app.get("/boxes")
    app.get("/api/tracking/stats")
    tracker = app.app
    tracker._backend.ingest_thread.stop()
    tracker._backend.ingester.wake()
    monkeypatch.setattr(IngestThread, "is_running", True)

    def refuse(seconds: float) -> None:
        raise StorageError("nobody can ingest")

    monkeypatch.setattr(tracker._api._fresh, "_catch_up", refuse)
    return app


@pytest.mark.parametrize(
    ("report", "hits"),
    [
        pytest.param("stats", lambda found: found["stats"][0]["hit_count"], id="stats"),
        pytest.param("summary", lambda found: found["total_hits"], id="summary"),
        pytest.param(
            "trends", lambda found: sum(row["hits"] for row in found["trends"]), id="trends"
        ),
        pytest.param("visits", lambda found: found["count"], id="visits"),
    ],
)
def test_report_has_what_was_answered_before_while_nobody_can_ingest(
    report: str, hits: Callable[[Any], int], app: webtest.TestApp, tmp_path: Path
) -> None:
    app.get("/boxes")

    response = app.get(f"/api/tracking/{report}")

    assert hits(response.json) == 2
    assert "Wsgi-Tracker-Queued" not in response.headers
    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (1,)


def test_first_report_of_all_ingests_as_every_endpoint_is_new(
    tracked: Callable[..., Tracker],
) -> None:
    app = webtest.TestApp(tracked(ingest=True, max_endpoints=1))
    for path in ("/boxes", "/boxes", "/others"):
        app.get(path)

    rows = app.get("/api/tracking/stats").json["stats"]

    assert [(row["endpoint"], row["hit_count"]) for row in rows] == [("/boxes", 2), ("(other)", 1)]


def test_what_is_ingested_between_opening_and_reading_counts_once(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    path = host.segment(GOOD + OTHER)

    with unread(host, Ingester(host.storage, host.folder)) as opened:
        host.ingest()
        assert not path.exists()
        summary = look(host.storage, opened).summary()

    assert (summary.total_hits, summary.total_unique_users) == (3, 2)


def test_what_is_recorded_after_the_report_began_may_be_missing_and_is_not_lost(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    with unread(host) as opened:
        host.segment(OTHER)
        assert look(host.storage, opened).summary().total_hits == 1

    with unread(host) as opened:
        assert look(host.storage, opened).summary().total_hits == 2


def test_lines_that_are_no_visits_are_left_to_ingest(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    torn = GOOD[:40]
    host.segment(b'5\nnull\n{}\n{"counts":{"dropped":3}}\n' + torn + OTHER + GOOD + torn)

    with unread(host) as opened:
        assert look(host.storage, opened).summary().total_hits == 3
        assert [v.user_hash[:1] for v in look(host.storage, opened).visits(limit=9).visits] == [
            "b",
            "a",
            "a",
        ]
    assert host.counts() == {"recorded": 1}

    host.ingest()
    assert host.hits() == 3
    assert (host.counts()["dropped"], host.counts()["rejected"]) == (3, 3)


@pytest.mark.parametrize(
    "agent_class", [pytest.param("tool", id="a class"), pytest.param(None, id="all")]
)
def test_new_user_agent_is_ingested_first_where_its_class_is_asked_for(
    agent_class: str | None, host: Host
) -> None:
    host.segment(GOOD)
    host.ingest()
    host.segment(visit(BEGIN, endpoint="/boxes", user_agent="curl/8").line())

    with unread(host) as opened:
        if agent_class is None:
            assert look(host.storage, opened).summary().total_hits == 2
        else:
            with pytest.raises(NotIngestedError, match="class"):
                look(host.storage, opened).summary(only(agent_class))


def test_much_is_ingested_first(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    host.segment(many(UNREAD_BYTES // len(GOOD) + 1))

    with unread(host) as opened, pytest.raises(NotIngestedError, match="much waits"):
        look(host.storage, opened).stats()


def test_what_was_changed_by_hand_is_counted_anew_first(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    with closing(sqlite3.connect(host.database, isolation_level=None)) as connection:
        connection.execute("UPDATE visits SET timestamp = timestamp + 1")

    with unread(host) as opened, pytest.raises(NotIngestedError, match="anew"):
        look(host.storage, opened).stats()


def test_report_ingests_where_the_process_has_no_thread(
    tracked: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = webtest.TestApp(tracked(ingest=False))
    for _ in range(2):
        app.get("/boxes")
        app.get("/api/tracking/stats")

    assert app.app._backend.storage.facts([]).counts == {"recorded": 2}


def test_too_many_segments_are_left_to_ingest(host: Host) -> None:
    for _ in range(MAX_OPEN + 1):
        host.segment(GOOD)
    with unread(host) as opened:
        assert opened is None
    assert open_segments() == 0


def test_segment_that_another_user_owns_is_left_to_who_tells_of_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(GOOD)
    refused = host.segment(OTHER)
    really_open = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    for _ in range(2):  # the second time it is known, and not tried
        with unread(host) as opened:
            assert opened is None
        host.ingest()
    assert open_segments() == 0


def test_segment_that_cannot_be_read_is_left_to_ingest(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.segment(GOOD)
    host.ingest()
    host.segment(OTHER)

    def fail(*args: Any) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Segment, "read", fail)
    with unread(host) as opened, pytest.raises(NotIngestedError, match="cannot be read"):
        look(host.storage, opened).summary()


def test_segment_without_a_name_is_left_to_ingest(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    (host.folder / "copied.ndjson").write_bytes(OTHER)

    with unread(host) as opened, pytest.raises(NotIngestedError, match="no name"):
        look(host.storage, opened).summary()


def test_child_keeps_no_segment_of_a_report(host: Host) -> None:
    host.segment(GOOD)
    with unread(host):
        assert open_segments() == 1
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(write, b"open" if open_segments() else b"closed")
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        told = os.read(read, 16)
        os.close(read)

    assert told == b"closed"


def test_what_has_to_be_ingested_costs_no_connection(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    host.hits()
    pool = host.storage._file._pool  # type: ignore[attr-defined]
    idle = list(pool._idle)
    with unread(host) as opened, pytest.raises(NotIngestedError):
        look(host.storage, opened).stats(Selection(filters=(Filter("class", ("tool",), True),)))

    assert list(pool._idle) == idle


def test_late_visit_that_waits_is_an_endpoints_first_access(tmp_path: Path) -> None:
    """It was overlooked where the first stored one of the same hour came later."""
    db = Counted(tmp_path)
    db.ingest([visit(BEGIN + HOUR + 54 * MINUTE)])
    db.count()
    late = BEGIN + HOUR + 45 * MINUTE

    (row,) = look(db.storage, Waiting([visit(late, "b")])).stats(Selection(BEGIN + 10 * MINUTE))
    db.storage.close()

    assert row.first_access == late


def test_spool_that_cannot_be_listed_is_left_to_who_ingests(host: Host) -> None:
    host.folder.rename(host.folder.with_name("moved"))
    host.folder.write_bytes(b"")

    with unread(host) as opened:
        assert opened is None


def test_visit_of_a_request_that_took_long_is_ingested_before_tracking_is_judged(
    tracked: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as old as the request's begin, though it was written just now."""
    app = webtest.TestApp(tracked(ingest=True))
    app.get("/boxes")
    app.get("/api/tracking/stats")
    app.app._backend.ingest_thread.stop()
    monkeypatch.setattr(IngestThread, "is_running", True)
    app.get("/boxes")
    late = app.app._api._fresh._clock() + 61 * SECOND * 1000
    monkeypatch.setattr(app.app._api._fresh, "_clock", lambda: late)

    summary = app.get("/api/tracking/summary").json

    assert summary["tracking_active"]
    assert summary["total_hits"] == 2
    assert app.app._backend.storage.facts([]).counts == {"recorded": 2}


def test_report_tells_that_visits_wait_for_long_and_has_them(
    app: webtest.TestApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.get("/boxes")
    now = app.app._api._fresh._clock()
    seen = []
    for seconds in (59, 61):
        late = now + seconds * SECOND * 1000
        monkeypatch.setattr(app.app._api._fresh, "_clock", lambda late=late: late)
        summary = app.get("/api/tracking/summary").json
        seen.append((summary["total_hits"], summary["tracking_active"]))

    assert seen == [(2, True), (2, False)]


def test_reader_can_write_nothing_behind_a_report(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    host.segment(OTHER)
    with unread(host) as opened:
        look(host.storage, opened).summary()

    with (
        host.storage._file.read() as connection,  # type: ignore[attr-defined]
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM visits")


def test_much_that_is_no_visit_is_left_to_ingest(host: Host) -> None:
    host.segment(GOOD)
    host.ingest()
    host.segment(b'{"timestamp":1,"method":2,"endpoint":3}\n' * 1000 + GOOD)

    with unread(host) as opened, pytest.raises(NotIngestedError, match="no visit"):
        look(host.storage, opened).summary()
