"""The four reports answer as the contract says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
import webtest

from wsgi_tracker import Tracker
from wsgi_tracker.period import PERIODS, TREND_PERIODS

Client = Callable[..., webtest.TestApp]
NOW = 1_755_081_000_123_456_789  # 2025-08-13T10:30:00Z and a bit, nanoseconds


@pytest.fixture
def visited(client: Client, monkeypatch: pytest.MonkeyPatch) -> webtest.TestApp:
    """Return a client whose application was visited five times, at one moment."""
    monkeypatch.setattr("wsgi_tracker.observation.time_ns", lambda: NOW)
    app = client()
    app.app._api._fresh._clock = lambda: NOW
    for path, agent in (("/", "a"), ("/boxes", "a"), ("/boxes", "b"), ("/boxes", "a")):
        app.get(path, headers={"User-Agent": agent})
    app.post("/boxes", headers={"User-Agent": "c", "Referer": "https://google.com/?q=boxes"})
    return app


def prefix(app: webtest.TestApp) -> str:
    return str(app.extra_environ["SCRIPT_NAME"])


def test_stats(visited: webtest.TestApp) -> None:
    at = prefix(visited)

    def row(endpoint: str, method: str, hits: int, users: int) -> dict[str, Any]:
        return {
            "endpoint": at + endpoint,
            "method": method,
            "hit_count": hits,
            "unique_users": users,
            "last_access": "2025-08-13T10:30:00Z",
            "first_access": "2025-08-13T10:30:00Z",
        }

    assert visited.get("/api/tracking/stats").json == {
        "stats": [
            row("/boxes", "GET", 3, 2),
            row("/", "GET", 1, 1),
            row("/boxes", "POST", 1, 1),
        ],
        "period": "all",
        "total_endpoints": 2,
    }


def test_summary(visited: webtest.TestApp) -> None:
    assert visited.get("/api/tracking/summary?period=day").json == {
        "period": "day",
        "total_hits": 5,
        "total_endpoints": 2,
        "total_unique_users": 3,
        "oldest_visit": "2025-08-13T10:30:00Z",
        "newest_visit": "2025-08-13T10:30:00Z",
        "tracking_active": True,
    }


@pytest.mark.parametrize(
    ("granularity", "bucket"),
    [
        ("hour", "2025-08-13T10:00:00Z"),
        ("day", "2025-08-13"),
        ("week", "2025-08-11"),
        ("month", "2025-08"),
    ],
)
def test_trends(granularity: str, bucket: str, visited: webtest.TestApp) -> None:
    assert visited.get(f"/api/tracking/trends?granularity={granularity}&period=30d").json == {
        "trends": [{"time_bucket": bucket, "hits": 5, "unique_users": 3, "unique_endpoints": 2}],
        "granularity": granularity,
        "period": "30d",
    }


def test_visits(visited: webtest.TestApp) -> None:
    report = visited.get("/api/tracking/visits?limit=2").json

    assert report["count"] == len(report["visits"]) == 2
    newest = report["visits"][0]
    assert len(newest.pop("user_hash")) == 32
    assert newest == {
        "endpoint": prefix(visited) + "/boxes",
        "method": "POST",
        "ip_address": None,
        "user_agent": "c",
        "referer": "https://google.com/",
        "timestamp": "2025-08-13T10:30:00Z",
    }


def test_defaults_are_those_of_the_contract(visited: webtest.TestApp) -> None:
    assert visited.get("/api/tracking/summary").json["period"] == "all"
    trends = visited.get("/api/tracking/trends").json
    assert (trends["granularity"], trends["period"]) == ("day", "7d")
    for _ in range(60):
        visited.get("/")
    assert visited.get("/api/tracking/visits").json["count"] == 50


@pytest.mark.parametrize(
    "question",
    [
        *(f"{report}?period={period}" for report in ("stats", "summary") for period in PERIODS),
        *(
            f"trends?granularity={granularity}&period={period}"
            for granularity in ("hour", "day", "week", "month")
            for period in TREND_PERIODS
        ),
        "visits?limit=1",
        "visits?limit=1000",
    ],
)
def test_empty_database_answers_every_question(question: str, client: Client) -> None:
    report = client().get(f"/api/tracking/{question}").json

    assert report.get("stats", report.get("trends", report.get("visits", []))) == []
    if question.startswith("summary"):
        assert report == {
            "period": report["period"],
            "total_hits": 0,
            "total_endpoints": 0,
            "total_unique_users": 0,
            "oldest_visit": None,
            "newest_visit": None,
            "tracking_active": True,
        }


@pytest.mark.parametrize("report", ["stats", "summary", "trends", "visits", "health"])
def test_answer_is_private_json(report: str, client: Client) -> None:
    response = client().get(f"/api/tracking/{report}")

    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Wsgi-Tracker-Queued" not in response.headers


def test_head_is_get_without_its_body(visited: webtest.TestApp) -> None:
    get, head = visited.get("/api/tracking/stats"), visited.head("/api/tracking/stats")

    assert head.body == b""
    assert head.headers["Content-Length"] == str(len(get.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_allowed(method: str, client: Client) -> None:
    response = client().request("/api/tracking/stats", method=method, status=405)

    assert response.headers["Allow"] == "GET, HEAD"
    assert response.json["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["", "/", "/stat", "/stats/", "/stats/x", "//stats", "/%00"])
def test_nothing_else_is_below_the_prefix(path: str, client: Client) -> None:
    response = client().get(f"/api/tracking{path}", status=404)

    assert response.json["error"]["code"] == "not_found"
    assert response.content_type == "application/json"


@pytest.mark.parametrize("path", ["/api/trackings", "/api/tracking.html", "/x/api/tracking/stats"])
def test_prefix_matches_whole_segments(path: str, client: Client) -> None:
    app = client()

    assert app.get(path).text == "hello"
    assert app.get("/api/tracking/summary").json["total_hits"] == 1


def test_requests_for_reports_are_neither_forwarded_nor_recorded(client: Client) -> None:
    def never(environ: Any, start_response: Any) -> Any:
        raise AssertionError("forwarded")

    app = client(never)
    for path in ("/stats", "/nothing", "/summary?x=1"):
        app.get(f"/api/tracking{path}", expect_errors=True)

    assert app.get("/api/tracking/summary").json["total_hits"] == 0


@pytest.mark.parametrize("prefix", ["/_visits", "/a/b/c", "/größe"])
def test_prefix_can_be_chosen(prefix: str, client: Client) -> None:
    app = client(prefix=prefix)

    assert app.get("/api/tracking/stats").text == "hello"
    assert app.get(f"{quote(prefix)}/summary").json["total_hits"] == 1


def test_report_holds_what_another_tracker_recorded(tracked: Callable[..., Tracker]) -> None:
    first, second = webtest.TestApp(tracked()), webtest.TestApp(tracked())

    first.get("/")
    second.get("/")

    assert first.get("/api/tracking/summary").json["total_hits"] == 2
    assert second.get("/api/tracking/summary").json["total_unique_users"] == 1


def test_tracking_is_not_active_when_the_spool_cannot_be_written(
    tracked: Callable[..., Tracker],
) -> None:
    app = webtest.TestApp(tracked(max_spool_bytes=16384))
    for _ in range(100):  # more than the segments take
        app.get("/")

    summary = app.get("/api/tracking/summary").json
    assert summary["tracking_active"] is False
    assert 0 < summary["total_hits"] < 100


KEYS = {
    "stats": {
        "endpoint",
        "method",
        "hit_count",
        "unique_users",
        "last_access",
        "first_access",
    },
    "trends": {"time_bucket", "hits", "unique_users", "unique_endpoints"},
    "visits": {
        "user_hash",
        "endpoint",
        "method",
        "ip_address",
        "user_agent",
        "referer",
        "timestamp",
    },
}


@pytest.mark.parametrize("report", KEYS)
def test_rows_have_the_keys_of_the_contract_and_no_more(
    report: str, visited: webtest.TestApp
) -> None:
    rows = visited.get(f"/api/tracking/{report}").json[report]

    assert rows
    assert all(set(row) == KEYS[report] for row in rows)


@pytest.mark.parametrize(
    ("question", "method", "status"),
    [
        pytest.param("/stats?period=x", "GET", 400, id="400"),
        pytest.param("/nothing", "GET", 404, id="404"),
        pytest.param("/stats", "POST", 405, id="405"),
        pytest.param("/stats?period=x", "HEAD", 400, id="400, HEAD"),
        pytest.param("/nothing", "HEAD", 404, id="404, HEAD"),
    ],
)
def test_error_is_private_json_too(question: str, method: str, status: int, client: Client) -> None:
    response = client().request(f"/api/tracking{question}", method=method, status=status)

    assert response.content_type == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    if method == "HEAD":
        assert response.body == b""
    else:
        assert set(response.json["error"]) == {"code", "message", "parameter"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["", "/", "/stats", "/nothing", "/stats/../.."])
def test_nothing_below_the_prefix_is_forwarded_or_recorded(
    path: str, method: str, client: Client
) -> None:
    forwarded = []

    def app(environ: Any, start_response: Any) -> Any:
        forwarded.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    asked = client(app)
    asked.request(f"/api/tracking{path}", method=method, expect_errors=True)

    assert forwarded == []
    assert asked.get("/api/tracking/summary").json["total_hits"] == 0
