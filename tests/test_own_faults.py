"""No fault of ours reaches the application: it is logged once, and the visit counted."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from calls import (
    APPLICATIONS,
    TEXT,
    Body,
    answering,
    counted,
    environ,
    generate,
    lines,
    made,
    only_visit,
    serve,
)

from wsgi_tracker import Tracker, open_storage, spool

Tracked = Callable[..., Tracker]


def dropped(app: Tracker, tmp_path: Path) -> int:
    """Return how many visits are counted as dropped, after the counts were written."""
    app._backend.spool.write_counts()
    return sum(line["counts"]["dropped"] for line in lines_of_counts(tmp_path))


def lines_of_counts(tmp_path: Path) -> list[dict[str, Any]]:
    text = b"".join(path.read_bytes() for path in (tmp_path / "visits.db-spool").glob("*.ndjson"))
    return [json.loads(line) for line in text.splitlines() if line.startswith(b'{"counts"')]


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


BUFFERED_AND_STREAMED = [
    pytest.param(lambda: [b"ab"], id="list"),
    pytest.param(lambda: generate(b"a", b"b"), id="generator"),
]


READ = "REQUEST_METHOD PATH_INFO SCRIPT_NAME HTTP_HOST HTTP_REFERER REMOTE_ADDR HTTP_USER_AGENT"


@pytest.mark.parametrize("make", BUFFERED_AND_STREAMED)
@pytest.mark.parametrize("value", [None, b"/x", 7, ["/x"], ("/x",), "\ud800"], ids=repr)
@pytest.mark.parametrize("name", READ.split())
def test_strange_environ_is_the_applications_to_judge(
    name: str,
    value: Any,
    make: Callable[[], Any],
    tracked: Tracked,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = tracked(made(make))

    for _ in range(3):
        assert serve(app, environ(**{name: value})) == ("200 OK", b"ab")

    offered = len(lines(tmp_path)) + counted(app, tmp_path, "dropped")
    assert offered == 3
    assert len(errors(caplog)) == (1 if counted(app, tmp_path, "dropped") else 0)


@pytest.mark.parametrize("make", BUFFERED_AND_STREAMED)
@pytest.mark.parametrize(
    ("status", "headers"),
    [
        pytest.param(200, TEXT, id="status is a number"),
        pytest.param(b"200 OK", TEXT, id="status is bytes"),
        pytest.param(None, TEXT, id="status is none"),
        pytest.param("", TEXT, id="status is empty"),
        pytest.param("200 OK", [("Content-Length", 2)], id="length is a number"),
        pytest.param("200 OK", [(b"Content-Length", b"2")], id="header is bytes"),
        pytest.param("200 OK", [("Content-Length", "2", "x")], id="header of three"),
        pytest.param("200 OK", [None], id="header is none"),
        pytest.param("200 OK", [("Content-Length", "9" * 5000)], id="length of 5000 digits"),
        pytest.param("200 OK", [("Content-Length", "-5")], id="length below zero"),
    ],
)
def test_strange_answer_is_the_servers_to_judge(
    status: Any,
    headers: Any,
    make: Callable[[], Any],
    tracked: Tracked,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = tracked(made(make, status=status, headers=headers))

    for _ in range(3):
        assert serve(app, environ()) == (status, b"ab")

    visits = lines(tmp_path)
    assert len(visits) + counted(app, tmp_path, "dropped") == 3
    assert all(visit["bytes_sent"] >= 0 for visit in visits)
    assert len(errors(caplog)) == (1 if counted(app, tmp_path, "dropped") else 0)


def test_endpoint_callable_that_raises_costs_no_request(
    tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def endpoint(environ: Any) -> str:
        raise RuntimeError("their bug")

    app = tracked(answering([b"a"]), endpoint=endpoint)

    assert serve(app, environ("/boxes")) == ("200 OK", b"a")
    assert only_visit(tmp_path)["endpoint"] == "/boxes"
    assert "their bug" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("their bug", id="same"),
        pytest.param("their bug: {path}", id="with the client's words"),
    ],
)
def test_endpoint_callable_that_raises_is_logged_once_and_counted_once(
    message: str, tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def endpoint(environ: Any) -> str:
        raise RuntimeError(message.format(path=environ["PATH_INFO"]))

    app = tracked(answering([b"a"]), endpoint=endpoint)
    for number in range(3):
        serve(app, environ(f"/boxes/{number}"))

    recorded = [visit for visit in lines(tmp_path) if "timestamp" in visit]
    assert len(recorded) + counted(app, tmp_path, "dropped") == 3
    assert len(errors(caplog)) == 1


def test_locked_database_at_start_costs_no_request_and_is_logged_once(
    tracked: Tracked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("wsgi_tracker.visitors.time", clock)
    open_storage(tmp_path / "visits.db").close()

    with closing(sqlite3.connect(tmp_path / "visits.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        app = tracked(answering([b"a"]))
        caplog.clear()
        for seconds in (0, 2, 0, 2, 0):
            now[0] += seconds
            assert serve(app, environ()) == ("200 OK", b"a")
        other.execute("ROLLBACK")
    now[0] += 2
    serve(app, environ())

    assert len(errors(caplog)) <= 1
    assert len(lines(tmp_path)) + counted(app, tmp_path, "dropped") == 6


def test_strange_body_is_the_servers_to_judge(tracked: Tracked, tmp_path: Path) -> None:
    class Strange(Body):
        @property
        def fileno(self) -> Any:
            raise RuntimeError("who asks?")

    app = tracked(answering(Strange(b"a", b"b")))
    request = environ(**{"wsgi.file_wrapper": lambda file, size: file})

    assert serve(app, request) == ("200 OK", b"ab")
    assert len(lines(tmp_path)) + counted(app, tmp_path, "dropped") == 1


@pytest.mark.parametrize("app", APPLICATIONS)
def test_spool_that_cannot_be_written_changes_no_answer(
    app: Any, tracked: Tracked, tmp_path: Path
) -> None:
    tracker = tracked(app)
    folder = tmp_path / "visits.db-spool"
    shutil.rmtree(folder)
    folder.write_text("no folder")

    answer = serve(validator(tracker), environ(**{"wsgi.file_wrapper": FileWrapper}))
    folder.unlink()

    assert answer == ("200 OK", b"ab")
    assert counted(tracker, tmp_path, "dropped") == 1


def test_application_that_raises_is_heard_when_the_spool_cannot_be_written(
    tracked: Tracked, tmp_path: Path
) -> None:
    app = tracked(answering(Body(b"a", ValueError("theirs"))))
    folder = tmp_path / "visits.db-spool"
    shutil.rmtree(folder)
    folder.write_text("no folder")

    with pytest.raises(ValueError, match="theirs"):
        serve(app, environ())
    folder.unlink()

    assert counted(app, tmp_path, "dropped") == 1


def test_spool_that_cannot_be_written_costs_no_request(
    tracked: Tracked,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = tracked(answering([b"a"]))
    folder = tmp_path / "visits.db-spool"
    shutil.rmtree(folder)
    folder.write_text("no folder")

    for _ in range(3):
        assert serve(app, environ()) == ("200 OK", b"a")
    folder.unlink()
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0)
    app._backend.spool._retry_at = 0.0  # the second until the next attempt is over
    assert serve(app, environ()) == ("200 OK", b"a")

    assert len(errors(caplog)) == 1
    assert "visits are dropped" in errors(caplog)[0].getMessage()
    assert dropped(app, tmp_path) == 3
