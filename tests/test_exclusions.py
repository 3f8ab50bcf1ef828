"""What is no visit by a rule, or by the application's word, is counted as ignored and not kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from calls import TEXT, counted, environ, generate, lines, serve

from wsgi_tracker import Tracker
from wsgi_tracker.errors import ConfigurationError

Tracked = Callable[..., Tracker]


@pytest.mark.parametrize(
    ("rule", "request_", "excluded"),
    [
        pytest.param("/static/*", environ("/static/a/b.css"), True, id="glob"),
        pytest.param("/static/*", environ("/statics"), False, id="glob, longer name"),
        pytest.param("/healthz", environ("/healthz"), True, id="path"),
        pytest.param("/healthz", environ("/healthz/deep"), False, id="path, longer"),
        pytest.param("*.png", environ("/a/b.png"), True, id="suffix"),
        pytest.param("*.png", environ("/a/b.PNG"), False, id="suffix, other case"),
        pytest.param("/[ab]", environ("/a"), True, id="choice"),
        pytest.param("/ä/*", environ("/\u00c3\u00a4/x"), True, id="text beyond ASCII"),
        pytest.param("/shop/a", environ("/a", SCRIPT_NAME="/shop"), True, id="mounted"),
        pytest.param("/a\n*", environ("/a\nb"), True, id="line end"),
        pytest.param("OPTIONS", environ(method="OPTIONS"), True, id="method"),
        pytest.param("OPTIONS", environ(method="GET"), False, id="other method"),
        pytest.param("127.0.0.0/8", environ(REMOTE_ADDR="127.9.9.9"), True, id="network"),
        pytest.param("127.0.0.1", environ(REMOTE_ADDR="127.0.0.2"), False, id="other address"),
        pytest.param("::1", environ(REMOTE_ADDR="::1"), True, id="IPv6"),
        pytest.param("::1", environ(REMOTE_ADDR=""), False, id="no address"),
        pytest.param(lambda e: e["PATH_INFO"] == "/x", environ("/x"), True, id="callable"),
        pytest.param(lambda e: None, environ("/x"), False, id="callable that does not"),
    ],
)
@pytest.mark.parametrize(
    "make", [pytest.param(lambda: [b"ab"], id="list"), pytest.param(generate, id="generator")]
)
def test_rule_excludes_what_it_says(
    make: Any, rule: Any, request_: Any, excluded: bool, tracked: Tracked, tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return make()

    tracker = tracked(app, exclude=("/never", rule))
    serve(tracker, dict(request_))

    assert counted(tracker, tmp_path, "ignored") == excluded
    assert len(lines(tmp_path)) == (0 if excluded else 1)


def test_address_that_is_excluded_is_the_clients(tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(exclude=["198.51.100.0/24"], trusted_proxies=["127.0.0.1"])
    for client in ("198.51.100.7", "203.0.113.5"):
        serve(tracker, environ(REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR=client))

    assert counted(tracker, tmp_path, "ignored") == 1
    assert [line["ip_address"] for line in lines(tmp_path)] == ["203.0.113.5"]


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("excluded", [True, False])
def test_application_has_the_last_word(
    excluded: bool, word: bool, tracked: Tracked, tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        environ["wsgi_tracker.record"] = word  # as late as this
        return [b"ab"]

    tracker = tracked(app, exclude=("/*",) if excluded else ())
    serve(tracker, environ())

    assert (len(lines(tmp_path)), counted(tracker, tmp_path, "ignored")) == (
        (1, 0) if word else (0, 1)
    )


def test_callable_that_fails_excludes_nothing(
    tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(environ: Any) -> bool:
        raise LookupError("a rule's own fault")

    tracker = tracked(exclude=[fails])
    for _ in range(3):
        serve(tracker, environ())

    assert len(lines(tmp_path)) == 3
    assert caplog.text.count("LookupError: a rule's own fault") == 1


def test_ignored_requests_are_counted_in_storage(tracked: Tracked, tmp_path: Path) -> None:
    tracker = tracked(exclude=("/healthz",), require_token=False)
    client = webtest.TestApp(tracker)
    for path in ("/healthz", "/healthz", "/"):
        client.get(path)
    before = client.get("/api/tracking/health").json
    client.get("/api/tracking/summary")
    after = client.get("/api/tracking/health").json

    assert (before["ignored"], before["queued"]) == (2, 1)
    assert (after["ignored"], after["recorded"], after["queued"]) == (2, 1, 0)
    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        counts = dict(connection.execute("SELECT name, value FROM counts"))
    assert counts == {"recorded": 1, "ignored": 2}


def test_process_that_only_ignores_writes_its_count_down(tracked: Tracked, tmp_path: Path) -> None:
    """It had no thread to do so: a kill would have taken the count along."""
    tracker = tracked(exclude=("/*",), ingest=True)
    serve(tracker, environ())

    assert tracker._backend.ingest_thread._stop is not None
    tracker.close()
    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        counts = dict(connection.execute("SELECT name, value FROM counts"))
    assert counts == {"ignored": 1}


@pytest.mark.parametrize(
    "exclude", ["/static/*", ["static"], ["get"], [""], [None], [7], ["10.0.0.1/8"], 7]
)
def test_what_is_no_rule_is_refused(exclude: Any, tracked: Tracked) -> None:
    with pytest.raises(ConfigurationError, match="exclude"):
        tracked(exclude=exclude)
