"""Whatever a client sends, a visit is one line of JSON that a report can show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import webtest

from wsgi_tracker import Tracker, Visit
from wsgi_tracker.visit import FIELDS, MAX_NAME, MAX_PATH, MAX_USER_AGENT, Memo

Tracked = Callable[..., Tracker]


def visit(app: Any, **environ: Any) -> None:
    """Send one request as a server does, with what no client library would send."""
    request: dict[str, Any] = {"HTTP_HOST": "example.com", "REMOTE_ADDR": "192.0.2.1"}
    setup_testing_defaults(request)
    request.update(environ)
    list(app(request, lambda status, headers, exc_info=None: print))


def spooled(tmp_path: Path) -> list[dict[str, Any]]:
    lines = []
    for segment in (tmp_path / "visits.db-spool").glob("*.ndjson"):
        lines += segment.read_bytes().split(b"\n")[1:-1]
    return [json.loads(line) for line in lines]


LONG = "ä".encode().decode("latin-1") * 50_000


@pytest.mark.parametrize(
    ("key", "value", "field", "length"),
    [
        pytest.param("PATH_INFO", "/" + LONG, "endpoint", MAX_PATH, id="path"),
        pytest.param("SCRIPT_NAME", "/" + LONG, "endpoint", MAX_PATH, id="prefix"),
        pytest.param("HTTP_USER_AGENT", LONG, "user_agent", MAX_USER_AGENT, id="user agent"),
        pytest.param("HTTP_REFERER", "http://a/" + LONG, "referer", MAX_PATH, id="referer"),
        pytest.param("HTTP_HOST", LONG, "host", MAX_NAME, id="host"),
        pytest.param("REMOTE_ADDR", LONG, "ip_address", MAX_NAME, id="address"),
    ],
)
def test_long_value_is_cut_and_recorded(
    key: str, value: str, field: str, length: int, tracked: Tracked, tmp_path: Path
) -> None:
    app = tracked()

    visit(app, **{key: value})

    (line,) = spooled(tmp_path)
    assert len(line[field]) == length
    assert line[field].endswith("ä")
    assert webtest.TestApp(app).get("/api/tracking/summary").json["total_hits"] == 1


HOSTILE = {
    "NUL": "a\0b",
    "new line": 'a\n{"timestamp":1}\nb',
    "carriage return": "a\rb\u2028c",
    "quotes": "\"'\\",
    "JSON": '","timestamp":5,"x":"',
    "SQL": "'); DROP TABLE visits; --",
    "markup": "<script>alert(1)</script>",
    "no UTF-8": "\xff\xfe\x80",
    "surrogate, encoded": "\xed\xa0\x80",
    "surrogate": "\ud800",
    "beyond latin-1": "\u20ac\U0001f4e6",
    "escape": "\x1b[31m",
}
KEYS = ["PATH_INFO", "SCRIPT_NAME", "HTTP_USER_AGENT", "HTTP_REFERER", "HTTP_HOST", "REMOTE_ADDR"]


@pytest.mark.parametrize("value", [pytest.param(v, id=k) for k, v in HOSTILE.items()])
@pytest.mark.parametrize("key", [*KEYS, "REQUEST_METHOD"])
def test_hostile_value_is_one_line_and_every_report_shows_it(
    key: str, value: str, tracked: Tracked, tmp_path: Path
) -> None:
    app = tracked()
    visit(app, **{key: value})
    visit(app)

    assert len(spooled(tmp_path)) == 2
    client = webtest.TestApp(app)
    assert client.get("/api/tracking/summary").json["total_hits"] == 2
    shown = [client.get(f"/api/tracking/{report}").json for report in ("stats", "trends", "visits")]
    assert "\0" not in json.dumps(shown, ensure_ascii=False)
    assert not (tmp_path / "visits.db-spool" / "rejected.ndjson").exists()


def test_unknown_method_folds_into_other(tracked: Tracked, tmp_path: Path) -> None:
    app = tracked()
    for method in ("GET", "PROPFIND", "get", "X" * 1000, ""):
        visit(app, REQUEST_METHOD=method)

    assert [line["method"] for line in spooled(tmp_path)] == ["GET", "PROPFIND"] + ["(other)"] * 3


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("https://a.example/b?secret=1#part", "https://a.example/b"),
        ("https://a.example/b#part?x", "https://a.example/b"),
        ("https://user:password@a.example/b@c", "https://a.example/b@c"),
        ("https://a.example?q", "https://a.example"),
        ("android-app://com.example", "android-app://com.example"),
        ("?secret", None),
        ("", None),
    ],
)
def test_referer_loses_what_may_be_private(
    given: str, stored: str | None, tracked: Tracked, tmp_path: Path
) -> None:
    visit(tracked(), HTTP_REFERER=given)

    assert spooled(tmp_path)[0].get("referer") == stored


def test_query_strings_are_stored_nowhere(tracked: Tracked, tmp_path: Path) -> None:
    app = tracked()
    visit(app, QUERY_STRING="token=SECRET", HTTP_REFERER="https://a.example/?token=SECRET")
    visit(app, HTTP_COOKIE="SECRET", HTTP_AUTHORIZATION="Bearer SECRET")

    webtest.TestApp(app).get("/api/tracking/stats")

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not any(b"SECRET" in path.read_bytes() for path in files)


def test_line_has_the_fields_of_a_visit(tracked: Tracked, tmp_path: Path) -> None:
    visit(tracked(), PATH_INFO="/missing", HTTP_REFERER="https://a.example/", HTTP_USER_AGENT="b")

    (line,) = spooled(tmp_path)
    assert set(line) == set(FIELDS) - {"error"}
    assert json.loads(Visit(**line).line()) == {**line, "error": None}


def test_memory_for_fragments_is_bounded() -> None:
    made: list[str] = []

    def make(key: Any) -> str:
        made.append(key)
        return f"<{key}>"

    memo = Memo(make, capacity_bytes=100_000)
    for number in range(1000):
        assert memo[f"/{number}"] == f"</{number}>"
    assert len(memo) < 400

    assert memo["x" * 5000] == f"<{'x' * 5000}>"
    assert "x" * 5000 not in memo
    assert (memo["/999"], made.count("/999")) == ("</999>", 1)


@pytest.mark.parametrize(
    "referer",
    [
        pytest.param("//user:SECRET@a.example/b", id="without scheme"),
        pytest.param("HTTPS://user:SECRET@a.example/b", id="scheme in upper case"),
        pytest.param("https://user:x@SECRET@a.example/b", id="two at signs"),
        pytest.param("//a.example/b?SECRET", id="query without scheme"),
        pytest.param("/b?SECRET#SECRET", id="path alone"),
        pytest.param("https://a.example/b?x?SECRET#SECRET", id="two question marks"),
    ],
)
def test_referer_of_any_form_keeps_its_secrets(
    referer: str, tracked: Tracked, tmp_path: Path
) -> None:
    visit(tracked(), HTTP_REFERER=referer)

    stored = spooled(tmp_path)[0]["referer"]
    assert "SECRET" not in stored
    assert stored.endswith("/b")


def test_length_that_no_file_has_is_no_reason_to_lose_the_visit(tracked: Tracked) -> None:
    """Beyond 64 bits a number is none to SQLite, and the line was rejected."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "1" + "0" * 30)])
        return environ["wsgi.file_wrapper"]([b"a"])

    class File:
        def __init__(self, blocks: list[bytes]) -> None:
            self._blocks = blocks

        def __iter__(self) -> Any:
            return iter(self._blocks)

    tracker = tracked(app)
    visit(tracker, **{"wsgi.file_wrapper": File})

    assert webtest.TestApp(tracker).get("/api/tracking/summary").json["total_hits"] == 1
