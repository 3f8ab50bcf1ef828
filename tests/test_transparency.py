"""The application and the server notice nothing (PEP 3333)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
import webtest
from calls import (
    APPLICATIONS,
    TEXT,
    Body,
    Server,
    SizedBody,
    environ,
    generate,
    made,
    only_visit,
    serve,
    sorry,
    too_late,
    with_length,
)

from wsgi_tracker import Tracker

Tracked = Callable[..., Tracker]
SIDES = [
    pytest.param(lambda app, track: validator(track(app)), id="outside"),
    pytest.param(lambda app, track: track(validator(app)), id="inside"),
    pytest.param(lambda app, track: validator(track(validator(app))), id="both sides"),
]


@pytest.mark.parametrize("app", APPLICATIONS)
@pytest.mark.parametrize("wrapped", SIDES)
def test_validator_finds_nothing(
    wrapped: Callable[..., Any], app: Any, tracked: Tracked, tmp_path: Path
) -> None:
    request = environ(**{"wsgi.file_wrapper": FileWrapper})

    assert serve(wrapped(app, tracked), request) == ("200 OK", b"ab")

    visit = only_visit(tmp_path)
    assert (visit["status"], visit["bytes_sent"], visit.get("error")) == (200, 2, None)
    assert visit["first_byte_us"] <= visit["duration_us"]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: [], id="list"),
        pytest.param(lambda: generate(), id="generator"),
        pytest.param(lambda: Body(), id="iterable"),
    ],
)
@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        pytest.param("HEAD", "200 OK", [*TEXT, ("Content-Length", "2")], id="head"),
        pytest.param("GET", "204 No Content", [], id="204"),
        pytest.param("GET", "304 Not Modified", [], id="304"),
    ],
)
@pytest.mark.parametrize("wrapped", SIDES)
def test_validator_finds_nothing_where_there_is_no_body(
    wrapped: Callable[..., Any],
    method: str,
    status: str,
    headers: Any,
    make: Callable[[], Any],
    tracked: Tracked,
    tmp_path: Path,
) -> None:
    app = wrapped(made(make, status=status, headers=headers), tracked)

    assert serve(app, environ(method=method)) == (status, b"")

    visit = only_visit(tmp_path)
    assert (visit["bytes_sent"], visit.get("error")) == (0, None)


@pytest.mark.parametrize("app", APPLICATIONS)
def test_lint_finds_nothing(app: Any, client: Callable[..., webtest.TestApp]) -> None:
    linted = client(app)

    answer = linted.get("/gr%C3%B6%C3%9Fe", extra_environ={"wsgi.file_wrapper": FileWrapper})

    assert answer.body == b"ab"
    assert linted.get("/api/tracking/summary").json["total_hits"] == 1


def twice_without_exc_info(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", list(TEXT))
    start_response("201 Created", list(TEXT))
    return []


def raising(*before: bytes, error: BaseException) -> Any:
    return made(lambda: Body(*before, error))


def never_starts(environ: Any, start_response: Any) -> Any:
    return [b"a"]


def sent_by(app: Any, method: str) -> tuple[bytes, list[str]]:
    """Return what wsgiref sends for an application, and the errors that it logs."""
    sent, errors = io.BytesIO(), io.StringIO()
    handler = SimpleHandler(io.BytesIO(), sent, errors, environ(method=method))
    handler.origin_server = False  # no date
    handler.run(app)
    return sent.getvalue(), [
        line for line in errors.getvalue().splitlines() if line and line[0] not in " T"
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "app",
    [
        *APPLICATIONS,
        pytest.param(made(lambda: [b"ab"]), id="list of one"),
        pytest.param(made(lambda: SizedBody(b"ab")), id="iterable of one"),
        pytest.param(made(list), id="nothing"),
        pytest.param(made(lambda: b"ab"), id="bytes"),
        pytest.param(made(lambda: None), id="no body"),
        pytest.param(made(lambda: ["ab"]), id="text"),
        pytest.param(made(lambda: generate(b"abc"), headers=with_length(2)), id="too long"),
        pytest.param(made(lambda: [b""], status="OK"), id="status without number"),
        pytest.param(made(lambda: [b""], headers=[("Connection", "close")]), id="hop by hop"),
        pytest.param(never_starts, id="never starts"),
        pytest.param(twice_without_exc_info, id="starts twice"),
        pytest.param(sorry, id="starts again with exc_info"),
        pytest.param(too_late, id="starts again too late"),
        pytest.param(raising(error=ValueError("x")), id="raises before the first block"),
        pytest.param(raising(b"a", error=ValueError("x")), id="raises after it"),
        pytest.param(raising(b"a", error=SystemExit(3)), id="exits after it"),
        pytest.param(raising(b"a", error=GeneratorExit()), id="generator exit after it"),
    ],
)
def test_server_sends_the_same_with_and_without(app: Any, method: str, tracked: Tracked) -> None:
    assert sent_by(tracked(app), method) == sent_by(app, method)


def test_start_response_gets_what_the_application_gives(tracked: Tracked) -> None:
    given: list[tuple[Any, ...]] = []
    headers = list(TEXT)
    exc_info = (ValueError, ValueError("x"), None)

    def start_response(*arguments: Any) -> Any:
        given.append(arguments)
        return lambda data: None

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", headers)
        start_response("500 Oops", headers, exc_info)
        return []

    tracked(app)(environ(), start_response)

    assert given == [("200 OK", headers), ("500 Oops", headers, exc_info)]
    assert given[0][1] is headers
    assert given[1][2] is exc_info


def test_environ_is_handed_on_with_one_mark_of_ours(tracked: Tracked) -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(environ)
        start_response("200 OK", [])
        return []

    request = environ("/boxes")
    before = dict(request)
    tracked(app)(request, Server().start_response)

    assert seen[0] is request
    assert {name for name in request if name not in before} == {"wsgi_tracker.observed"}
    assert {name: request[name] for name in before} == before


def test_write_reaches_the_server_at_once(tracked: Tracked, tmp_path: Path) -> None:
    server = Server()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", list(TEXT))
        write(b"ab")
        assert server.written == [b"ab"]
        return [b"c"]

    tracked(app)(environ(), server.start_response)

    assert only_visit(tmp_path)["bytes_sent"] == 3


def test_exc_info_replaces_an_answer_not_yet_sent(tracked: Tracked, tmp_path: Path) -> None:
    assert serve(tracked(sorry), environ()) == ("500 Oops", b"sorry")
    assert only_visit(tmp_path)["status"] == 500


def test_exc_info_after_the_first_byte_raises_as_the_server_does(
    tracked: Tracked, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="too late"):
        serve(tracked(too_late), environ())

    assert (only_visit(tmp_path)["status"], only_visit(tmp_path)["error"]) == (200, "ValueError")


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
)
@pytest.mark.parametrize("started", [False, True])
def test_exception_goes_on_unchanged_and_counts_as_500(
    error: BaseException, started: bool, tracked: Tracked, tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        if started:
            start_response("200 OK", list(TEXT))
        raise error

    with pytest.raises(type(error)) as raised:
        serve(tracked(app), environ())

    assert raised.value is error
    visit = only_visit(tmp_path)
    assert (visit["status"], visit["error"]) == (500, type(error).__name__)
