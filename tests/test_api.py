"""What the API adds to the four reports: contradictions, pages, streams, tags, limits of time."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import webtest
from counting import BEGIN, visit
from hosts import Host
from recount import NOW, micro, reporting

from wsgi_tracker import ConfigurationError, Tracker
from wsgi_tracker.errors import TooManyQuestionsError
from wsgi_tracker.period import DAY, SECOND
from wsgi_tracker.query import EXPORT, parse_query
from wsgi_tracker.selection import Selection

Client = Callable[..., webtest.TestApp]
MINUTE = 60 * SECOND


def test_range_excludes_a_period(client: Client) -> None:
    error = (
        client().get("/api/tracking/stats?period=day&start=2025-01-01", status=400).json["error"]
    )

    assert (error["parameter"], error["code"]) == ("period", "bad_request")


@pytest.mark.parametrize("end", ["2025-01-01", "2024-12-31", "2024-12-31T23:59:59Z"])
def test_range_ends_behind_its_start(end: str, client: Client) -> None:
    question = f"/api/tracking/stats?start=2025-01-01&end={end}"

    assert client().get(question, status=400).json["error"]["parameter"] == "end"


@pytest.mark.parametrize("question", ["period=all", "end=2025-01-01", ""])
def test_nothing_comes_before_all(question: str, client: Client) -> None:
    error = client().get(f"/api/tracking/summary?compare=previous&{question}", status=400).json

    assert error["error"]["parameter"] == "compare"


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("2025-02-30", id="no such day"),
        pytest.param("2025-08-13T10:00:00", id="no zone"),
        pytest.param("2025-08-13T10:00:00 02:00", id="plus that was not escaped"),
        pytest.param("2025-08-13T24:00:00Z", id="no such hour"),
        pytest.param("2025-08-13T10:00:00+24:00", id="no such zone"),
        pytest.param("1969-12-31", id="before 1970"),
        pytest.param("10000-01-01", id="year 10000"),
        pytest.param("20250813", id="without dashes"),
        pytest.param("1755081000", id="seconds"),
    ],
)
def test_moment_that_is_none_is_refused(moment: str, client: Client) -> None:
    response = client().get("/api/tracking/stats", {"start": moment}, status=400)

    assert response.json["error"]["parameter"] == "start"


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2025-08-13T10:30:00Z", "2025-08-13T10:30:00Z"),
        ("2025-08-13t10:30:00.123456789z", "2025-08-13T10:30:00Z"),
        ("2025-08-13 12:30:00+02:00", "2025-08-13T10:30:00Z"),
        ("2025-08-13T05:00:00-05:30", "2025-08-13T10:30:00Z"),
        ("2025-08-13", "2025-08-13T00:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ("1970-01-01", "1970-01-01T00:00:00Z"),
    ],
)
def test_moments_of_rfc_3339_are_taken(moment: str, shown: str, client: Client) -> None:
    answer = client().get("/api/tracking/summary", {"start": moment}).json

    assert (answer["start"], answer["end"], answer["period"]) == (shown, None, None)


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "../UTC", "localtime", "right/UTC", "posixrules", "UTC\0", "+02:00"]
)
def test_zone_that_is_none_is_refused(zone: str, client: Client) -> None:
    response = client().get("/api/tracking/trends", {"tz": zone}, status=400)

    assert response.json["error"]["parameter"] == "tz"


def test_dates_are_of_the_databases_time_zone() -> None:
    with reporting([], "Asia/Kathmandu") as client:
        own = client.get("/api/tracking/summary?start=2024-01-01&end=2024-01-02").json
        other = client.get("/api/tracking/summary?start=2024-01-01&tz=UTC").json

    assert (own["start"], own["end"]) == ("2023-12-31T18:15:00Z", "2024-01-01T18:15:00Z")
    assert (other["start"], other["tz"]) == ("2024-01-01T00:00:00Z", "UTC")


@pytest.mark.parametrize(
    ("day", "following", "hours"),
    [("2023-03-26", "2023-03-27", 23), ("2023-10-29", "2023-10-30", 25)],
)
def test_days_of_23_and_25_hours_have_as_many(day: str, following: str, hours: int) -> None:
    question = f"granularity=hour&tz=Europe/Berlin&start={day}&end={following}&fill=true"
    with reporting([]) as client:
        trends = client.get(f"/api/tracking/trends?{question}").json["trends"]

    assert len(trends) == hours


def test_too_many_buckets_are_refused(client: Client) -> None:
    question = "/api/tracking/trends?granularity=hour&start=2020-01-01&fill=true"

    assert client().get(question, status=400).json["error"]["parameter"] == "fill"


@pytest.mark.parametrize(
    "question",
    [
        "stats?limit=1&cursor=AAAA",
        "stats?limit=1&cursor=W10",
        "stats?limit=1&cursor=WyJ2aXNpdHMiLDEsMSwwXQ",  # of visits
        "stats?sort=endpoint&cursor=WyJzdGF0cyIsIi1oaXRfY291bnQiLDEsIi8iLCJHRVQiXQ",
        "visits?cursor=WyJ2aXNpdHMiLDFlOTksMSwwXQ",
        "visits?cursor=WyJ2aXNpdHMiLDEsMSwtMV0",
        "visits?cursor=x",
        "users/a?cursor=WyJ2aXNpdHMiXQ",
        "export?cursor=7",
        "export?cursor=7-",
    ],
)
def test_foreign_cursor_is_refused(question: str) -> None:
    with reporting([visit(BEGIN)]) as client:
        error = client.get(f"/api/tracking/{question}", status=400).json["error"]

    assert error["parameter"] == "cursor"


def test_breakdown_needs_to_know_by_what(client: Client) -> None:
    error = client().get("/api/tracking/breakdown", status=400).json["error"]

    assert error["parameter"] == "by"
    assert "referer_host" in error["message"]


def test_user_that_never_came_is_not_found(client: Client) -> None:
    app = client()

    for name in ("a%00*", "*" * 2000, "*" * 3000, "nobody", "%", "*", "a/b"):
        assert (
            app.get(f"/api/tracking/users/{name}", status=404).json["error"]["code"] == "not_found"
        )


def test_user_whose_name_is_a_glob_is_only_that_one() -> None:
    with reporting([visit(BEGIN, "a*[?]"), visit(BEGIN, "ab[?]")]) as client:
        answer = client.get("/api/tracking/users/a*%5B%3F%5D").json

    assert (answer["user_hash"], answer["visits"]) == ("a*[?]", 1)


def test_session_that_goes_on_on_the_next_page_is_cut() -> None:
    visits = [visit(BEGIN + n * MINUTE, "a", endpoint=f"/{n}") for n in range(5)]
    with reporting(visits) as client:
        first = client.get("/api/tracking/users/a?limit=3")
        url = first.headers["Link"][1:].partition(">")[0]
        second = client.get(f"/api/tracking/users/a{url}").json

    assert [session["cut"] for session in first.json["path"]] == [True]
    assert [session["cut"] for session in second["path"]] == [True]
    assert [step["endpoint"] for step in first.json["path"][0]["steps"]] == ["/2", "/3", "/4"]
    assert [step["endpoint"] for step in second["path"][0]["steps"]] == ["/0", "/1"]
    assert second["visits"] == 5


def test_pages_of_visits_go_on_behind_those_that_waited(
    client: Client, tracked: Callable[..., Tracker]
) -> None:
    """Visits that wait in the spool have no id yet."""
    app = webtest.TestApp(tracked(ingest=True))
    for number in range(9):
        app.get("/boxes", headers={"User-Agent": str(number)})
    seen, url = [], "?limit=2"
    while url:
        page = app.get(f"/api/tracking/visits{url}")
        seen += [row["user_agent"] for row in page.json["visits"]]
        url = page.headers.get("Link", "<>")[1:].partition(">")[0]

    assert seen == [str(number) for number in range(8, -1, -1)]


def test_live_counts_who_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = BEGIN + DAY
    came = [visit(now - n * 20 * SECOND, f"u{n % 4}") for n in range(30)]
    came += [visit(now - 20 * MINUTE, "long ago"), visit(now + MINUTE, "of a fast clock")]
    with reporting(came) as client:
        client.app._api._fresh._clock = lambda: now * 1000
        answer = client.get("/api/tracking/live?minutes=3").json

    assert answer["active_users"] == 5
    # Each begins with a moment and ends before another; the last one reaches to now.
    assert [minute["hits"] for minute in answer["minutes"]] == [3, 3, 4 + 1]
    assert answer["requests_per_second"] == round(5 / 60, 3)


def test_answer_that_is_known_is_304(client: Client) -> None:
    app = client()
    app.get("/boxes")
    first = app.get("/api/tracking/stats")
    again = app.get("/api/tracking/stats", headers={"If-None-Match": first.headers["ETag"]})
    app.get("/boxes")
    changed = app.get("/api/tracking/stats", headers={"If-None-Match": first.headers["ETag"]})

    assert first.headers["ETag"].startswith('W/"')
    assert (again.status_int, again.body) == (304, b"")
    assert (changed.status_int, changed.json["stats"][0]["hit_count"]) == (200, 2)


def slow_question(client: Client, tracked: Any) -> webtest.TestApp:
    app = client(query_timeout_seconds=0.05)
    app.get("/boxes")
    app.get("/api/tracking/stats")
    with closing(
        sqlite3.connect(app.app._backend.storage.database, isolation_level=None)
    ) as database:
        database.execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400000) "
            "INSERT INTO visits (timestamp, endpoint_id, user_id, status) "
            "SELECT 1700000000000000 + n * 7919 % 400000, 1, n % 1000, 200 FROM n"
        )
    return app


@pytest.mark.once
def test_question_that_takes_too_long_is_given_up(client: Client, tracked: Any) -> None:
    app = slow_question(client, tracked)

    error = app.get("/api/tracking/breakdown?by=path&period=all", status=503).json["error"]

    assert error["code"] == "query_timeout"
    assert "query_timeout_seconds, 0.05" in error["message"]
    assert app.get("/api/tracking/visits").json["count"] == 50


@pytest.mark.parametrize("seconds", [0, -1, "10", True, None, float("nan"), float("inf")])
def test_timeout_is_a_number_of_seconds(seconds: Any, tracked: Callable[..., Tracker]) -> None:
    with pytest.raises(ConfigurationError, match="query_timeout_seconds"):
        tracked(query_timeout_seconds=seconds)


def test_long_questions_leave_connections_to_others(host: Host) -> None:
    storage, ready, done = host.storage, threading.Barrier(5), threading.Event()

    def ask() -> None:
        with storage.snapshot(long=True):
            ready.wait(30)
            done.wait(30)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    ready.wait(30)
    try:
        with (
            pytest.raises(Exception, match="4 questions that take long"),
            storage.snapshot(long=True),
        ):
            pass
        with storage.snapshot() as snapshot:
            assert snapshot.summary().total_hits == 0
    finally:
        done.set()
        for thread in threads:
            thread.join(30)


HOSTILE = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"]


@pytest.fixture
def exported() -> Iterator[webtest.TestApp]:
    with reporting([visit(BEGIN + n, user_agent=text) for n, text in enumerate(HOSTILE)]) as client:
        yield client


def test_cells_of_csv_are_no_formulas(exported: webtest.TestApp) -> None:
    response = exported.get("/api/tracking/export?format=csv")

    assert response.headers["Content-Disposition"] == 'attachment; filename="visits.csv"'
    assert response.content_type == "text/csv"
    for text in HOSTILE:
        assert f",'{text}" in response.text or f",\"'{text}" in response.text


def test_lines_of_an_export_are_those_of_the_spool(exported: webtest.TestApp) -> None:
    response = exported.get("/api/tracking/export")

    assert response.content_type == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["user_agent"] for line in lines] == HOSTILE
    assert response.text.startswith('{"timestamp":')


def test_export_ends_with_what_was_there_when_it_began(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.export.VISITS_PER_PAGE", 2)
    app = client()
    for _ in range(4):
        app.get("/boxes")
    export, _ = app.app._api._fresh.export(parse_query("", EXPORT))
    blocks = export.blocks()
    found = next(blocks)
    app.get("/boxes")
    app.get("/api/tracking/summary")

    assert (found + b"".join(blocks)).count(b"\n") == 4


METRICS = "/api/tracking/metrics"


def sample(text: str, name: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def test_metrics_never_go_back() -> None:
    visits = [
        visit(
            BEGIN + n * DAY,
            f"{n}" * 32,
            status=(200, 404, 500)[n % 3],
            duration_us=10**n,
            bytes_sent=7,
        )
        for n in range(6)
    ]
    with reporting(visits) as client:
        client.get("/api/tracking/summary")
        first = client.get(METRICS).text
        tracker = client.app
        tracker.forget("1" * 32)
        for _ in tracker._backend.storage.purge(BEGIN + 3 * DAY):
            pass
        for _ in tracker._backend.storage.rebuild():
            assert sample(client.get(METRICS).text, "wsgi_tracker_sent_bytes_total") == 42
        second = client.get(METRICS).text

    for text in (first, second):
        assert sample(text, 'wsgi_tracker_responses_total{status="2xx"}') == 2
        assert sample(text, 'wsgi_tracker_responses_total{status="5xx"}') == 2
        assert sample(text, 'wsgi_tracker_visits_total{state="recorded"}') == 6
        assert sample(text, 'wsgi_tracker_duration_seconds_bucket{le="0.001023"}') == 4
        assert sample(text, 'wsgi_tracker_duration_seconds_bucket{le="+Inf"}') == 6
        assert sample(text, "wsgi_tracker_up") == 1
    assert first.startswith("# HELP wsgi_tracker_up")


def test_visits_with_ids_that_were_in_use_are_in_the_metrics(host: Host) -> None:
    for number in range(3):
        host.segment(visit(BEGIN, f"u{number}").line())
        host.ingest()
        host.storage.count(enough=1)
        host.storage.forget(f"u{number}")

    with host.storage.snapshot() as snapshot:
        assert snapshot.outcomes_ever().hits.total() == 3
        assert snapshot.summary().total_hits == 0


def test_ids_that_were_in_use_are_measured_whoever_deletes(host: Host) -> None:
    host.segment(b"".join(visit(BEGIN, f"u{n}").line() for n in range(10)))
    host.ingest()
    host.storage.count(enough=1)
    with closing(sqlite3.connect(host.storage.database, isolation_level=None)) as database:
        database.execute("DELETE FROM user_visits WHERE id > 5")
    host.segment(b"".join(visit(BEGIN, f"v{n}").line() for n in range(5)))
    host.ingest()
    while host.storage.count(enough=1):
        pass

    with host.storage.snapshot() as snapshot:
        assert snapshot.outcomes_ever().hits.total() == 15
        assert snapshot.summary().total_hits == 10


@pytest.fixture
def threaded(tracked: Callable[..., Tracker]) -> webtest.TestApp:
    """Return an application whose process ingests by itself, so that reports take along what waits."""
    return webtest.TestApp(tracked(ingest=True))


def test_live_and_users_know_what_has_just_come(threaded: webtest.TestApp) -> None:
    threaded.get("/boxes")
    user = threaded.get("/api/tracking/visits").json["visits"][0]["user_hash"]
    threaded.app.forget(user)
    for _ in range(3):
        threaded.get("/boxes")

    assert threaded.get("/api/tracking/live").json["active_users"] == 1
    threaded.get("/boxes")
    assert threaded.get(f"/api/tracking/users/{user}").json["visits"] == 4


def test_query_string_that_is_not_escaped_is_utf_8(tracked: Callable[..., Tracker]) -> None:
    tracker = tracked()
    webtest.TestApp(tracker).get("/gr%C3%B6%C3%9Fe")
    answers = []
    for query in ("endpoint=/größe".encode().decode("latin-1"), "endpoint=/gr%C3%B6%C3%9Fe"):
        environ = {"PATH_INFO": "/api/tracking/stats", "QUERY_STRING": query}
        setup_testing_defaults(environ)
        body = b"".join(tracker(environ, lambda status, headers, exc_info=None: print))
        answers.append([row["endpoint"] for row in json.loads(body)["stats"]])

    assert answers == [["/größe"]] * 2


def test_user_agents_that_say_nothing_are_one_class() -> None:
    agents = [None, " ", "curl/8", "unknown to all"]
    with reporting(
        [visit(BEGIN + n, "a", user_agent=text) for n, text in enumerate(agents)]
    ) as client:
        client.get("/api/tracking/summary")
        answer = client.get("/api/tracking/breakdown?by=class&period=all").json

    assert {row["value"]: row["hits"] for row in answer["breakdown"]} == {
        "empty": 2,
        "tool": 1,
        "unknown": 1,
    }
    assert answer["total_values"] == 3


def test_time_to_come_is_not_filled() -> None:
    question = "granularity=day&start=2024-03-03&end=2024-03-08&fill=true"
    with reporting([]) as client:
        trends = client.get(f"/api/tracking/trends?{question}").json["trends"]

    assert [(row["time_bucket"], row["partial"]) for row in trends] == [
        ("2024-03-04", True),
        ("2024-03-03", False),
    ]


def test_visit_of_a_clock_far_ahead_fills_nothing() -> None:
    with reporting([visit(micro(NOW) + 5 * 365 * DAY)]) as client:
        question = "/api/tracking/trends?granularity=hour&period=24h&fill=true"
        trends = client.get(question).json["trends"]

    assert len(trends) == 1 + 25
    assert (trends[0]["hits"], trends[0]["partial"]) == (1, True)


def test_export_outlives_a_purge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgi_tracker.export.VISITS_PER_PAGE", 2)
    with reporting([visit(BEGIN + n * DAY, f"u{n}") for n in range(6)]) as client:
        export, _ = client.app._api._fresh.export(parse_query("", EXPORT))
        blocks = export.blocks()
        first = next(blocks)
        for _ in client.app._backend.storage.purge(BEGIN + 3 * DAY):
            pass
        rest = b"".join(blocks)
        cursor = json.loads(first.splitlines()[-1])["cursor"]
        again = client.get(f"/api/tracking/export?cursor={cursor}").body

    assert [json.loads(line)["user_hash"] for line in first.splitlines()] == ["u0", "u1"]
    assert [json.loads(line)["user_hash"] for line in rest.splitlines()] == ["u3", "u4", "u5"]
    assert again == rest


def test_resumed_export_has_a_visit_whose_id_was_in_use(host: Host) -> None:
    host.segment(b"".join(visit(BEGIN + n, f"u{n}").line() for n in range(5)))
    host.ingest()
    host.storage.forget("u4")
    host.segment(visit(BEGIN + 9, "new").line())
    host.ingest()

    with host.storage.snapshot(long=True) as snapshot:
        found = snapshot.oldest_visits(Selection(), 10, (BEGIN + 4, 5), snapshot.newest_id())
    assert [(id, each.user_hash) for id, each in found] == [(5, "new")]


def test_question_for_a_newer_answer_is_answered(client: Client) -> None:
    response = client().get("/api/tracking/stats", headers={"If-Match": '"x"'})

    assert (response.status_int, response.json["stats"]) == (200, [])


def test_report_that_turns_out_to_be_long_takes_a_long_slot(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.sqlite.snapshot.FEW_UNCOUNTED", 0)
    host.segment(visit(BEGIN).line())
    host.ingest()
    host.hits()
    with closing(sqlite3.connect(host.storage.database, isolation_level=None)) as database:
        database.execute("UPDATE user_visits SET status = 404")  # by hand: counters do not hold

    with ExitStack() as long:
        for _ in range(4):
            long.enter_context(host.storage.snapshot(long=True))
        with pytest.raises(TooManyQuestionsError), host.storage.snapshot() as snapshot:
            snapshot.summary()
    with host.storage.snapshot() as snapshot:
        assert snapshot.summary().total_hits == 1


def test_long_questions_beyond_four_are_no_outage(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    app = client()
    with ExitStack() as long:
        for _ in range(4):
            long.enter_context(app.app._backend.storage.snapshot(long=True))
        response = app.get("/api/tracking/breakdown?by=class", status=503)

    assert response.json["error"]["code"] == "storage_unavailable"
    assert response.headers["Retry-After"] == "1"
    assert not [record for record in caplog.records if "503" in record.getMessage()]


def test_metrics_know_visits_that_are_not_counted_yet(client: Client) -> None:
    app = client()
    for number in (1, 2):
        app.get("/boxes")
        app.get("/api/tracking/summary")

        text = app.get(METRICS).text
        assert sample(text, 'wsgi_tracker_responses_total{status="2xx"}') == number


def test_comparison_of_a_page_has_the_rows_of_that_page() -> None:
    came = [
        visit(micro(NOW) - days * DAY - n - 1, endpoint=f"/{n}")
        for n in range(3)
        for days in (0, 1)
    ]
    with reporting(came) as client:
        question = "/api/tracking/stats?period=today&compare=previous&sort=endpoint&limit=2"
        first = client.get(question)
        second = client.get("/api/tracking/stats" + first.headers["Link"][1:].partition(">")[0])

    pages = [
        [[row["endpoint"] for row in rows] for rows in (page["stats"], page["previous"]["stats"])]
        for page in (first.json, second.json)
    ]
    assert pages == [[["/0", "/1"]] * 2, [["/2"]] * 2]


def test_visits_tell_more_if_asked() -> None:
    came = visit(BEGIN, path="/x", status=404, duration_us=7, bytes_sent=9, error="E", host="h")
    with reporting([came, visit(BEGIN - 1)]) as client:
        plain = client.get("/api/tracking/visits").json["visits"]
        more = client.get("/api/tracking/visits?include=path,status,error,host,duration,bytes").json

    assert more["visits"][0] == {
        **plain[0],
        "path": "/x",
        "status": 404,
        "error": "E",
        "host": "h",
        "duration_us": 7,
        "bytes_sent": 9,
    }
    assert (more["visits"][1]["path"], more["visits"][1]["status"]) == ("/", None)
