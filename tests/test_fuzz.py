"""Whatever is asked below the prefix, however it is asked: JSON of one shape, and never a 500."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CONTENT_TYPE_LATEST

from wsgi_tracker import Tracker
from wsgi_tracker.storage.sqlite.pool import PooledConnection

PREFIX = "/api/tracking"
# And what each cannot do without.
REPORTS = {
    "stats": "",
    "summary": "",
    "trends": "",
    "visits": "",
    "breakdown": "by=class",
    "live": "",
    "export": "",
    "health": "",
    "metrics": "",
    "openapi.json": "",
}
TOKEN = "a-token.of_tests"
REFUSALS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
}
HOSTILE = (
    "<script>alert(1)</script>",
    "'; DROP TABLE visits; --",
    "day\r\nSet-Cookie: a=b",
    "\0",
    "%00%0d%0a",
    "../../etc/passwd",
    "{{7*7}}${7*7}",
    "\u202e\ud800\N{PILE OF POO}",  # no server sends it, but an application's test may
    "\xff\xfe",
    "9" * 5000,
    "=" * 1000 + "&" * 1000,
)
# A server decodes bytes as latin-1 (PEP 3333); a careless one hands on anything.
TYPES = (
    "application/json",
    "application/x-ndjson",
    "text/csv; charset=utf-8",
    CONTENT_TYPE_LATEST,
)
texts = st.one_of(st.text(st.characters(max_codepoint=255)), st.text(), st.sampled_from(HOSTILE))
names = (
    "period granularity limit token callback start end tz compare include fill sort cursor by class "
    "endpoint status method path user_hash format minutes"
).split()
words = (
    "day week all 24h 1y hour month 1 1000 0 today 2025-08-13 2025-08-13T10:30:00Z UTC previous "
    "status,latency true -hit_count WyJ2aXNpdHMiLDEsMSwwXQ referer_host human 4xx GET /boxes/* csv"
).split()
pairs = st.tuples(
    st.one_of(st.sampled_from(names), texts), st.one_of(st.sampled_from(words), texts)
)
questions = st.one_of(
    texts, st.lists(pairs, max_size=4).map(lambda found: "&".join(map("=".join, found)))
)
reports = st.sampled_from(sorted(REPORTS))
near_misses = st.tuples(reports, st.characters(max_codepoint=255)).map("".join)
methods = st.one_of(st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "OPTIONS"]), texts)
quickly = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class Answer:
    """What came back for one request."""

    status: int
    headers: dict[str, str]
    document: Any


@pytest.fixture
def ask(tracked: Callable[..., Tracker]) -> Callable[..., Answer]:
    """Send requests to a tracker whose application must not see them, and check the answers."""
    trackers: dict[str | None, Tracker] = {}

    def forwarded(environ: dict[str, Any], start_response: Any) -> Any:
        raise AssertionError(f"forwarded: {environ['PATH_INFO']!r}")

    def ask(path: str, token: str | None = None, **environ: str) -> Answer:
        if token not in trackers:
            options = {"token": token} if token else {"require_token": False}
            trackers[token] = tracked(forwarded, **options)
        return checked(trackers[token], {"PATH_INFO": PREFIX + path, **environ})

    return ask


def checked(tracker: Tracker, environ: dict[str, Any]) -> Answer:
    """Return the answer of ``tracker``, once it is one that may leave the house."""
    setup_testing_defaults(environ)
    started: list[tuple[str, list[tuple[str, str]]]] = []

    body = b"".join(
        tracker(environ, lambda *status_and_headers: started.append(status_and_headers))
    )

    ((status, headers),) = started
    assert re.fullmatch(r"(200|304|400|401|404|405) [A-Z ]+", status)
    assert all(re.fullmatch(r"[\x20-\x7e]*", value) for _, value in headers)
    known = dict(headers)
    assert len(known) == len(headers)
    if status.startswith("304"):
        assert body == b""
        return Answer(304, known, None)
    assert known["Content-Type"] in TYPES
    assert known["X-Content-Type-Options"] == "nosniff"
    assert known["Cache-Control"] == "no-store"
    assert not any(name.startswith("Access-Control") for name in known)
    if environ["REQUEST_METHOD"] == "HEAD":
        assert body == b""
        return Answer(int(status[:3]), known, None)
    assert body.isascii()
    if known["Content-Type"] != "application/json":
        assert status.startswith("200")
        return Answer(200, known, body)
    assert int(known["Content-Length"]) == len(body)
    document = json.loads(body)
    if status.startswith("200"):
        assert "error" not in document
    else:
        check_refusal(int(status[:3]), document)
    return Answer(int(status[:3]), known, document)


def check_refusal(status: int, document: dict[str, Any]) -> None:
    assert set(document) == {"error"}
    error = document["error"]
    assert set(error) == {"code", "message", "parameter"}
    assert error["code"] == REFUSALS[status]
    assert 0 < len(error["message"]) < 500
    assert error["parameter"] is None or len(error["parameter"]) <= 60


@pytest.fixture
def tracker(tracked: Callable[..., Tracker]) -> Tracker:
    return tracked(require_token=False)


def test_every_report_is_asked(tracker: Tracker) -> None:
    assert sorted(tracker._api._routes) == sorted(REPORTS)


@quickly
@given(path=st.one_of(texts, near_misses), method=methods)
@example(path="", method="GET")
@example(path="stats ", method="GET")
@example(path="stats/", method="GET")
@example(path="stats\0", method="GET")
def test_any_path(path: str, method: str, ask: Callable[..., Answer]) -> None:
    answer = ask("/" + path, REQUEST_METHOD=method)

    assert (answer.status == 404) is (path not in REPORTS)


@quickly
@given(report=reports, question=questions)
@example(report="visits", question="limit=" + "9" * 5000)
@example(report="health", question="9" * 5000)
def test_any_question(report: str, question: str, ask: Callable[..., Answer]) -> None:
    answer = ask("/" + report, QUERY_STRING=question)

    assert answer.status in (200, 400)
    assert answer.status == 200 or answer.document["error"]["code"] == "bad_request"


@quickly
@given(user=texts, question=questions)
def test_any_user(user: str, question: str, ask: Callable[..., Answer]) -> None:
    answer = ask("/users/" + user, QUERY_STRING=question)

    assert answer.status in (400, 404)


@quickly
@given(report=reports, method=methods)
def test_any_method(report: str, method: str, ask: Callable[..., Answer]) -> None:
    answer = ask("/" + report, REQUEST_METHOD=method, QUERY_STRING=REPORTS[report])

    assert answer.status == (200 if method in ("GET", "HEAD") else 405)
    assert answer.headers.get("Allow") == (None if answer.status == 200 else "GET, HEAD")


@quickly
@given(
    credentials=st.one_of(
        texts, texts.map("Bearer ".__add__), texts.map(f"Bearer {TOKEN}".__add__)
    ),
    path=st.one_of(st.sampled_from(["/health", "/stats", ""]), texts.map("/".__add__)),
    method=methods,
)
@example(credentials=f"Bearer {TOKEN}", path="/health", method="GET")
@example(credentials=f"bEARER  {TOKEN} ", path="/health", method="GET")
@example(credentials=f"Basic {TOKEN}", path="/health", method="GET")
def test_any_credentials(
    credentials: str, path: str, method: str, ask: Callable[..., Answer]
) -> None:
    answer = ask(path, token=TOKEN, HTTP_AUTHORIZATION=credentials, REQUEST_METHOD=method)

    allowed = re.fullmatch(rf"(?i:bearer) \s*{re.escape(TOKEN)}\s*", credentials)
    assert (answer.status != 401) is bool(allowed)
    assert answer.headers.get("WWW-Authenticate") == (None if allowed else "Bearer")


@quickly
@given(
    report=reports,
    headers=st.dictionaries(
        st.sampled_from(
            "HTTP_HOST HTTP_ACCEPT HTTP_ORIGIN HTTP_COOKIE HTTP_REFERER HTTP_USER_AGENT "
            "HTTP_X_FORWARDED_FOR HTTP_FORWARDED HTTP_RANGE HTTP_IF_NONE_MATCH HTTP_IF_MODIFIED_SINCE "
            "SCRIPT_NAME REMOTE_ADDR CONTENT_LENGTH CONTENT_TYPE HTTP_X_HTTP_METHOD_OVERRIDE".split()
        ),
        texts,
    ),
)
def test_any_header(report: str, headers: dict[str, str], ask: Callable[..., Answer]) -> None:
    answer = ask("/" + report, QUERY_STRING=REPORTS[report], **headers)

    assert answer.status == 200 or (answer.status == 304 and "HTTP_IF_NONE_MATCH" in headers)


@quickly
@given(
    path=texts,
    method=methods,
    headers=st.fixed_dictionaries(
        {}, optional={f"HTTP_{name}": texts for name in ("HOST", "REFERER", "USER_AGENT")}
    ),
    address=texts,
)
def test_any_visit_can_be_reported(
    path: str, method: str, headers: dict[str, str], address: str, tracker: Tracker
) -> None:
    environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "REMOTE_ADDR": address, **headers}
    setup_testing_defaults(environ)
    tracker(environ, lambda status, headers: print)

    answers = {
        name: checked(tracker, {"PATH_INFO": f"{PREFIX}/{name}", "QUERY_STRING": needed})
        for name, needed in REPORTS.items()
    }

    assert {answer.status for answer in answers.values()} == {200}
    health = answers["health"].document
    assert (health["torn"], health["rejected"], health["dropped"]) == (0, 0, 0)


# --- SQL -----------------------------------------------------------------------------------------


MARK = "x' OR mark=\"1"


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return every text of SQL that storage hands to SQLite from now on."""
    texts: set[str] = set()

    def noting(name: str) -> Callable[..., Any]:
        real = getattr(PooledConnection, name)

        def note(self: PooledConnection, sql: str, *values: Any) -> Any:
            texts.add(sql)
            return real(self, sql, *values)

        return note

    for name in ("execute", "executemany", "executescript"):
        monkeypatch.setattr(PooledConnection, name, noting(name))
    return texts


def test_no_word_of_a_client_becomes_sql(
    statements: set[str], tracked: Callable[..., Tracker]
) -> None:
    """What clients send is bound, or is in no statement at all."""
    tracker = tracked(require_token=False, user="HTTP_X_USER", endpoint=lambda environ: MARK)
    names = "HTTP_HOST HTTP_REFERER HTTP_USER_AGENT HTTP_X_USER REMOTE_ADDR PATH_INFO".split()
    environ = dict.fromkeys(names, MARK)
    setup_testing_defaults(environ)
    tracker(environ, lambda status, headers: print)

    for report in REPORTS:
        checked(tracker, {"PATH_INFO": f"{PREFIX}/{report}"})
        for parameter in ("period", "granularity", "limit", "class", MARK):
            question = f"{parameter}={MARK}"
            checked(tracker, {"PATH_INFO": f"{PREFIX}/{report}", "QUERY_STRING": question})
    (visit,) = checked(tracker, {"PATH_INFO": f"{PREFIX}/visits"}).document["visits"]
    tracker.forget(visit["user_hash"])

    assert visit["endpoint"] == visit["user_agent"] == MARK
    assert len(statements) > 20
    assert not [text for text in statements if "mark" in text or visit["user_hash"] in text]
