"""The application and the server notice nothing (PEP 3333), and the visit is written in time."""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
import webtest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from wsgi_tracker import Tracker, endpoints, open_storage, spool

Tracked = Callable[..., Tracker]
TEXT = [("Content-Type", "text/plain")]


def environ(path: str = "/", method: str = "GET", **more: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "SCRIPT_NAME": ""}
    setup_testing_defaults(values)
    values["QUERY_STRING"] = ""
    values.update(more)
    return values


class Server:
    """A server's side of one request: what was started, written and raised."""

    def __init__(self) -> None:
        self.started: list[tuple[str, list[tuple[str, str]]]] = []
        self.written: list[bytes] = []

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None and self.written:
            raise exc_info[1]
        self.started.append((status, headers))
        return self.written.append


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    """Return the visits that are in the spool now."""
    found = []
    for segment in (tmp_path / "visits.db-spool").glob("*.ndjson"):
        found += [json.loads(line) for line in segment.read_bytes().splitlines()[1:]]
    return sorted(found, key=lambda line: line["timestamp"])


def only_visit(tmp_path: Path) -> dict[str, Any]:
    (visit,) = lines(tmp_path)
    return visit


def serve(app: Any, request: dict[str, Any]) -> tuple[str, bytes]:
    """Run a request as a server does; return status and body."""
    server = Server()
    body = app(request, server.start_response)
    try:
        server.written.extend(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return server.started[-1][0], b"".join(server.written)


class Body:
    """An application's body that counts what is done to it."""

    def __init__(self, *blocks: bytes | BaseException) -> None:
        self.blocks = list(blocks)
        self.taken = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            self.taken += 1
            if isinstance(block, BaseException):
                raise block
            yield block

    def close(self) -> None:
        self.closed += 1


class SizedBody(Body):
    def __len__(self) -> int:
        return len(self.blocks)


def answering(body: Any, status: str = "200 OK", headers: Any = TEXT) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(headers))
        return body

    return app


def with_length(length: int) -> list[tuple[str, str]]:
    return [*TEXT, ("Content-Length", str(length))]


# --- the answer is the application's -------------------------------------------------------------


def generate(*blocks: bytes) -> Iterator[bytes]:
    yield from blocks


def generator_application(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    yield b"a"
    yield b"b"


def writing(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", list(TEXT))(b"a")
    return [b"b"]


def made(make: Callable[[], Any], **answer: Any) -> Any:
    """Return an application that makes its body anew for each request."""
    return lambda environ, start_response: answering(make(), **answer)(environ, start_response)


def file_of(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", with_length(2))
    return environ["wsgi.file_wrapper"](io.BytesIO(b"ab"))


APPLICATIONS = [
    pytest.param(made(lambda: [b"a", b"b"]), id="list"),
    pytest.param(made(lambda: (b"ab",)), id="tuple"),
    pytest.param(made(lambda: generate(b"a", b"b")), id="generator"),
    pytest.param(made(lambda: Body(b"a", b"", b"b")), id="iterable"),
    pytest.param(made(lambda: SizedBody(b"a", b"b")), id="iterable with length"),
    pytest.param(made(lambda: iter([b"a", b"b"])), id="iterator without close"),
    pytest.param(generator_application, id="generator as application"),
    pytest.param(writing, id="write"),
    pytest.param(file_of, id="file wrapper"),
]
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


def sorry(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", list(TEXT))
    try:
        raise ValueError("late")
    except ValueError as error:
        start_response("500 Oops", list(TEXT), (ValueError, error, error.__traceback__))
    return [b"sorry"]


def too_late(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", list(TEXT))(b"sent")
    try:
        raise ValueError("too late")
    except ValueError as error:
        start_response("500 Oops", list(TEXT), (ValueError, error, error.__traceback__))
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


REITERABLE = [
    pytest.param(lambda: Body(b"a", b"b"), id="iterable"),
    pytest.param(lambda: SizedBody(b"a", b"b"), id="iterable with length"),
    pytest.param(lambda: generate(b"a", b"b"), id="generator"),
]


@pytest.mark.parametrize("make", REITERABLE)
def test_iterator_that_is_asked_for_again_goes_on(
    make: Callable[[], Any], tracked: Tracked, tmp_path: Path
) -> None:
    """Servers and middleware chain the first block before the rest, and so ask twice.

    A body that began anew sent its first block again.
    """
    returned = tracked(answering(make()))(environ(), Server().start_response)

    iterator = iter(returned)
    blocks = [next(iterator)]
    blocks.extend(iterator)
    returned.close()  # type: ignore[attr-defined]

    assert blocks == [b"a", b"b"]
    assert only_visit(tmp_path)["bytes_sent"] == 2


@pytest.mark.parametrize("make", REITERABLE)
def test_werkzeugs_test_client_reads_each_block_once(
    make: Callable[[], Any], tracked: Tracked, tmp_path: Path
) -> None:
    response = Client(tracked(answering(make()))).get("/")

    assert response.data == b"ab"
    assert only_visit(tmp_path)["bytes_sent"] == 2


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


@pytest.mark.parametrize(
    "body",
    [
        pytest.param([b"a"], id="list"),
        pytest.param((b"a", b"b"), id="tuple"),
        pytest.param(type("Blocks", (list,), {})([b"a"]), id="list of a kind"),
        pytest.param(FileWrapper(io.BytesIO(b"a")), id="file wrapper"),
    ],
)
def test_body_that_servers_know_by_type_goes_back_untouched(body: Any, tracked: Tracked) -> None:
    app = tracked(answering(body))

    returned = app(environ(**{"wsgi.file_wrapper": FileWrapper}), Server().start_response)

    assert returned is body


def test_file_goes_back_untouched_where_the_wrapper_is_a_function(
    tracked: Tracked, tmp_path: Path
) -> None:
    with open(tmp_path / "file", "w+b") as file:
        app = tracked(answering(file, headers=with_length(7)))
        request = environ(**{"wsgi.file_wrapper": lambda file, size: file})

        assert app(request, Server().start_response) is file

    assert only_visit(tmp_path)["bytes_sent"] == 7


def test_open_file_is_a_body_like_any_other_where_the_wrapper_is_a_type(
    tracked: Tracked, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\nb\n")
    app = tracked(lambda *arguments: answering(path.open("rb"))(*arguments))

    assert serve(app, environ(**{"wsgi.file_wrapper": FileWrapper})) == ("200 OK", b"a\nb\n")

    assert only_visit(tmp_path)["bytes_sent"] == 4


def test_file_without_length_has_unknown_size(tracked: Tracked, tmp_path: Path) -> None:
    app = tracked(answering(FileWrapper(io.BytesIO(b"a"))))

    app(environ(**{"wsgi.file_wrapper": FileWrapper}), Server().start_response)

    assert only_visit(tmp_path)["bytes_sent"] is None


@pytest.mark.parametrize(
    ("body", "sized"),
    [pytest.param(SizedBody(b"a"), True, id="sized"), pytest.param(Body(b"a"), False, id="not")],
)
def test_length_is_there_only_where_it_was(body: Any, sized: bool, tracked: Tracked) -> None:
    returned = tracked(answering(body))(environ(), Server().start_response)

    assert hasattr(returned, "__len__") is sized
    assert not sized or len(returned) == 1  # type: ignore[arg-type]
    returned.close()  # type: ignore[attr-defined]


def test_blocks_are_taken_only_when_the_server_asks(tracked: Tracked) -> None:
    body = Body(b"a", b"b")

    returned = tracked(answering(body))(environ(), Server().start_response)
    taken = [body.taken]
    iterator = iter(returned)
    taken.append(body.taken)
    next(iterator)
    taken.append(body.taken)

    assert taken == [0, 0, 1]
    returned.close()  # type: ignore[attr-defined]


def test_generator_as_application_begins_when_the_server_asks(tracked: Tracked) -> None:
    begun = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        begun.append("application")
        start_response("200 OK", list(TEXT))
        yield b"a"
        begun.append("second block")
        yield b"b"

    server = Server()
    returned = tracked(app)(environ(), server.start_response)
    iterator = iter(returned)
    assert begun == []
    assert server.started == []

    next(iterator)

    assert begun == ["application"]
    returned.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("asked", "ended"),
    [
        pytest.param(0, 0, id="never begun"),
        pytest.param(1, 1, id="abandoned"),
        pytest.param(3, 1, id="exhausted"),
    ],
)
def test_generator_is_ended_once(asked: int, ended: int, tracked: Tracked) -> None:
    ends = []

    def body() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            ends.append("end")

    returned = tracked(answering(body()))(environ(), Server().start_response)
    iterator = iter(returned)
    for _ in range(asked):
        next(iterator, None)
    returned.close()  # type: ignore[attr-defined]

    assert len(ends) == ended


def test_close_is_passed_on_to_a_body_nobody_asked_for(tracked: Tracked) -> None:
    body = Body(b"a")

    tracked(answering(body))(environ(), Server().start_response).close()  # type: ignore[attr-defined]

    assert (body.closed, body.taken) == (1, 0)


def test_body_that_cannot_be_iterated_is_closed_all_the_same(
    tracked: Tracked, tmp_path: Path
) -> None:
    class Broken(Body):
        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("on iter")

    body = Broken()

    with pytest.raises(ValueError, match="on iter"):
        serve(tracked(answering(body)), environ())

    assert body.closed == 1
    assert (only_visit(tmp_path)["status"], only_visit(tmp_path)["error"]) == (500, "ValueError")


@pytest.mark.parametrize("asked", [0, 1, 2, 3])
def test_close_is_passed_on_once(asked: int, tracked: Tracked) -> None:
    body = Body(b"a", b"b")

    returned = tracked(answering(body))(environ(), Server().start_response)
    iterator = iter(returned)
    for _ in range(asked):
        next(iterator, None)
    returned.close()  # type: ignore[attr-defined]

    assert body.closed == 1


def test_close_that_raises_is_heard(tracked: Tracked) -> None:
    class Broken(Body):
        def close(self) -> None:
            raise ValueError("on close")

    returned = tracked(answering(Broken(b"a")))(environ(), Server().start_response)

    with pytest.raises(ValueError, match="on close"):
        returned.close()  # type: ignore[attr-defined]


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


@pytest.mark.parametrize(
    ("blocks", "status", "sent"),
    [
        pytest.param([ValueError("x")], 500, 0, id="before the first block"),
        pytest.param([b"ab", ValueError("x")], 200, 2, id="after it"),
    ],
)
def test_body_that_raises_keeps_a_status_that_was_sent(
    blocks: list[Any], status: int, sent: int, tracked: Tracked, tmp_path: Path
) -> None:
    body = Body(*blocks)

    with pytest.raises(ValueError, match="x"):
        serve(tracked(answering(body)), environ())

    visit = only_visit(tmp_path)
    assert (visit["status"], visit["error"], visit["bytes_sent"]) == (status, "ValueError", sent)
    assert body.closed == 1


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("x")]
)
def test_what_ends_the_process_passes_through_a_body_and_is_recorded(
    error: BaseException, tracked: Tracked, tmp_path: Path
) -> None:
    body = Body(b"ab", error)

    with pytest.raises(type(error)) as raised:
        serve(tracked(answering(body)), environ())

    assert raised.value is error
    assert body.closed == 1
    visit = only_visit(tmp_path)
    assert (visit["status"], visit["error"]) == (200, type(error).__name__)


# --- the visit is what happened, written in time -------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        pytest.param(0, "client_left", id="never iterated"),
        pytest.param(1, "client_left", id="half way"),
        pytest.param(3, None, id="to its end"),
    ],
)
def test_client_that_leaves_is_noted(
    asked: int, error: str | None, tracked: Tracked, tmp_path: Path
) -> None:
    returned = tracked(answering(Body(b"a", b"b")))(environ(), Server().start_response)
    iterator = iter(returned)
    for _ in range(asked):
        next(iterator, None)
    returned.close()  # type: ignore[attr-defined]

    assert only_visit(tmp_path).get("error") == error


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_answer_without_body_is_never_left(
    method: str, status: str, asked: int, tracked: Tracked, tmp_path: Path
) -> None:
    app = tracked(answering(Body(b"a"), status, with_length(1)))
    returned = app(environ(method=method), Server().start_response)
    iterator = iter(returned)
    for _ in range(asked):
        next(iterator, None)
    returned.close()  # type: ignore[attr-defined]

    visit = only_visit(tmp_path)
    assert (visit.get("error"), visit["bytes_sent"]) == (None, 0)


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")],
)
@pytest.mark.parametrize(
    "app",
    [
        pytest.param(lambda body, *answer: answering([b"a", b"b"], *answer), id="list"),
        pytest.param(lambda body, *answer: answering((b"ab",), *answer), id="tuple"),
        pytest.param(lambda body, *answer: answering(FileWrapper(body), *answer), id="file"),
        pytest.param(lambda body, *answer: answering(generate(b"ab"), *answer), id="generator"),
    ],
)
def test_answer_without_body_sends_nothing_whatever_the_application_returns(
    app: Any, method: str, status: str, tracked: Tracked, tmp_path: Path
) -> None:
    application = app(io.BytesIO(b"ab"), status, with_length(2))
    request = environ(method=method, **{"wsgi.file_wrapper": FileWrapper})

    serve(tracked(application), request)

    assert only_visit(tmp_path)["bytes_sent"] == 0


def test_first_byte_comes_before_the_end(tracked: Tracked, tmp_path: Path) -> None:
    for app in (writing, generator_application, made(lambda: Body(b"", b"a", b"b"))):
        serve(tracked(app), environ())

    for visit in lines(tmp_path):
        assert 0 < visit["first_byte_us"] <= visit["duration_us"]


def test_buffered_visit_is_on_disk_when_the_application_has_returned(
    tracked: Tracked, tmp_path: Path
) -> None:
    returned = tracked(answering([b"a"]))(environ(), Server().start_response)

    assert len(lines(tmp_path)) == 1
    assert returned == [b"a"]


@pytest.mark.parametrize(
    ("status", "headers", "method", "recorded"),
    [
        pytest.param("200 OK", with_length(2), "GET", [0, 1, 1], id="content-length"),
        pytest.param("200 OK", TEXT, "GET", [0, 0, 1], id="until exhausted"),
        pytest.param("200 OK", TEXT, "HEAD", [1, 1, 1], id="head"),
        pytest.param("204 No Content", [], "GET", [1, 1, 1], id="204"),
        pytest.param("304 Not Modified", with_length(9), "GET", [1, 1, 1], id="304"),
        pytest.param("200 OK", with_length(0), "GET", [1, 1, 1], id="content-length 0"),
    ],
)
def test_visit_of_a_generator_that_starts_late_is_on_disk_in_time(
    status: str, headers: Any, method: str, recorded: list[int], tracked: Tracked, tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response(status, list(headers))
        yield b"a"
        yield b"b"

    returned = tracked(app)(environ(method=method), Server().start_response)
    iterator = iter(returned)

    seen = []
    for _ in range(3):
        next(iterator, None)
        seen.append(len(lines(tmp_path)))
    returned.close()  # type: ignore[attr-defined]

    assert seen == recorded
    assert len(lines(tmp_path)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_child_that_goes_on_with_its_parents_request_does_not_record_it_again(
    tracked: Tracked, tmp_path: Path
) -> None:
    """A child forked under gevent ran its parent's greenlets, and counted their visits twice."""
    returned = tracked(answering(Body(b"a", b"b")))(environ(), Server().start_response)
    iterator = iter(returned)
    next(iterator)

    child = os.fork()
    if not child:
        try:
            list(iterator)
            returned.close()  # type: ignore[attr-defined]
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    in_child = len(lines(tmp_path))
    list(iterator)
    returned.close()  # type: ignore[attr-defined]

    assert (in_child, len(lines(tmp_path))) == (0, 1)


@pytest.mark.parametrize(
    ("body", "headers", "method", "recorded"),
    [
        pytest.param(Body(b"a", b"b"), with_length(2), "GET", [0, 1, 1], id="content-length"),
        pytest.param(Body(b"a", b"b"), with_length(1), "GET", [1, 1, 1], id="cut by length"),
        pytest.param(Body(b"a", b"b"), TEXT, "GET", [0, 0, 1], id="until exhausted"),
        pytest.param(Body(b"a", b"b"), with_length(2), "HEAD", [1, 1, 1], id="head"),
        pytest.param(Body(b"", b""), with_length(0), "GET", [1, 1, 1], id="empty"),
        pytest.param(Body(b"a", b"b"), with_length(99), "GET", [0, 0, 1], id="too short"),
    ],
)
def test_visit_is_on_disk_before_what_completes_the_answer(
    body: Any, headers: Any, method: str, recorded: list[int], tracked: Tracked, tmp_path: Path
) -> None:
    returned = tracked(answering(body, headers=headers))(
        environ(method=method), Server().start_response
    )
    iterator = iter(returned)

    seen = []
    for _ in range(3):
        next(iterator, None)
        seen.append(len(lines(tmp_path)))
    returned.close()  # type: ignore[attr-defined]

    assert seen == recorded
    assert len(lines(tmp_path)) == 1


def test_written_visit_is_on_disk_before_the_bytes_are(tracked: Tracked, tmp_path: Path) -> None:
    counted = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        return lambda data: counted.append(len(lines(tmp_path)))

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", with_length(2))
        write(b"a")
        write(b"b")
        return []

    tracked(app)(environ(), start_response)

    assert counted == [0, 1]
    assert len(lines(tmp_path)) == 1


def test_times_and_bytes_are_measured(tracked: Tracked, tmp_path: Path) -> None:
    serve(tracked(answering(Body(b"", b"ab", b"c"))), environ())

    visit = only_visit(tmp_path)
    assert visit["bytes_sent"] == 3
    assert 0 < visit["first_byte_us"] <= visit["duration_us"] < 60_000_000


def test_buffered_head_sends_nothing(tracked: Tracked, tmp_path: Path) -> None:
    serve(tracked(answering([b"abc"])), environ(method="HEAD"))

    assert only_visit(tmp_path)["bytes_sent"] == 0


def test_application_that_never_starts_a_response_counts_as_500(
    tracked: Tracked, tmp_path: Path
) -> None:
    tracked(lambda environ, start_response: [b""])(environ(), Server().start_response)

    assert only_visit(tmp_path)["status"] == 500


# --- environ -------------------------------------------------------------------------------------


def test_path_is_read_as_utf_8(tracked: Tracked, tmp_path: Path) -> None:
    serve(tracked(answering([])), environ("/größe/\xff".encode().decode("latin-1")))
    serve(tracked(answering([])), environ("/\xff"))

    assert [visit["endpoint"] for visit in lines(tmp_path)] == ["/größe/\xff", "/\ufffd"]


def test_prefix_is_read_as_utf_8_too(tracked: Tracked, tmp_path: Path) -> None:
    request = environ("/größe".encode().decode("latin-1"))
    request["SCRIPT_NAME"] = "/übung".encode().decode("latin-1")

    serve(tracked(answering([])), request)

    assert only_visit(tmp_path)["endpoint"] == "/übung/größe"


def test_prefix_is_part_of_endpoint(tracked: Tracked, tmp_path: Path) -> None:
    serve(tracked(answering([])), environ("/boxes", SCRIPT_NAME="/shop"))

    assert only_visit(tmp_path)["endpoint"] == "/shop/boxes"


def test_environ_changed_in_place_does_not_change_the_visit(
    tracked: Tracked, tmp_path: Path
) -> None:
    inner = ProxyFix(DispatcherMiddleware(answering([]), {"/shop": answering([])}))
    request = environ(
        "/shop/boxes", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="203.0.113.9", HTTP_HOST="a"
    )
    request["HTTP_X_FORWARDED_HOST"] = "b"

    serve(tracked(inner), request)

    visit = only_visit(tmp_path)
    assert request["SCRIPT_NAME"] == "/shop"
    assert (visit["endpoint"], visit["ip_address"], visit["host"]) == (
        "/shop/boxes",
        "192.0.2.1",
        "a",
    )


def test_proxy_fix_outside_is_believed(tracked: Tracked, tmp_path: Path) -> None:
    request = environ(REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="203.0.113.9")

    serve(ProxyFix(tracked(answering([]))), request)

    assert only_visit(tmp_path)["ip_address"] == "203.0.113.9"


def test_request_that_passes_two_trackers_is_one_visit(tracked: Tracked, tmp_path: Path) -> None:
    inner = tracked(answering([b"a"]), prefix="/inner")
    outer = tracked(inner)

    serve(outer, environ("/boxes"))
    status, report = serve(outer, environ("/inner/summary", **{"paste.testing": True}))

    assert (status, json.loads(report)["total_hits"]) == ("200 OK", 1)


@pytest.mark.parametrize(
    "missing", ["REQUEST_METHOD", "PATH_INFO", "SCRIPT_NAME", "HTTP_HOST", "SERVER_NAME"]
)
def test_missing_key_is_no_fault(missing: str, tracked: Tracked, tmp_path: Path) -> None:
    request = environ("/boxes")
    request.pop(missing, None)

    assert serve(tracked(answering([b"a"])), request) == ("200 OK", b"a")
    assert only_visit(tmp_path)["status"] == 200


# --- our own faults ------------------------------------------------------------------------------


def dropped(app: Tracker, tmp_path: Path) -> int:
    """Return how many visits are counted as dropped, after the counts were written."""
    app._spool.write_counts()
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

    offered = len(lines(tmp_path)) + app._spool._dropped
    assert offered == 3
    assert len(errors(caplog)) == (1 if app._spool._dropped else 0)


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
    assert len(visits) + app._spool._dropped == 3
    assert all(visit["bytes_sent"] >= 0 for visit in visits)
    assert len(errors(caplog)) == (1 if app._spool._dropped else 0)


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
    assert len(recorded) + app._spool._dropped == 3
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
    assert len(lines(tmp_path)) + app._spool._dropped == 6


def test_strange_body_is_the_servers_to_judge(tracked: Tracked, tmp_path: Path) -> None:
    class Strange(Body):
        @property
        def fileno(self) -> Any:
            raise RuntimeError("who asks?")

    app = tracked(answering(Strange(b"a", b"b")))
    request = environ(**{"wsgi.file_wrapper": lambda file, size: file})

    assert serve(app, request) == ("200 OK", b"ab")
    assert len(lines(tmp_path)) + app._spool._dropped == 1


@pytest.mark.parametrize("app", APPLICATIONS)
def test_spool_that_cannot_be_written_changes_no_answer(
    app: Any, tracked: Tracked, tmp_path: Path
) -> None:
    tracker = tracked(app)
    folder = tmp_path / "visits.db-spool"
    folder.rmdir()
    folder.write_text("no folder")

    answer = serve(validator(tracker), environ(**{"wsgi.file_wrapper": FileWrapper}))
    folder.unlink()

    assert answer == ("200 OK", b"ab")
    assert tracker._spool._dropped == 1


def test_application_that_raises_is_heard_when_the_spool_cannot_be_written(
    tracked: Tracked, tmp_path: Path
) -> None:
    app = tracked(answering(Body(b"a", ValueError("theirs"))))
    folder = tmp_path / "visits.db-spool"
    folder.rmdir()
    folder.write_text("no folder")

    with pytest.raises(ValueError, match="theirs"):
        serve(app, environ())
    folder.unlink()

    assert app._spool._dropped == 1


def test_spool_that_cannot_be_written_costs_no_request(
    tracked: Tracked,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = tracked(answering([b"a"]))
    folder = tmp_path / "visits.db-spool"
    folder.rmdir()
    folder.write_text("no folder")

    for _ in range(3):
        assert serve(app, environ()) == ("200 OK", b"a")
    folder.unlink()
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0)
    app._spool._retry_at = 0.0  # the second until the next attempt is over
    assert serve(app, environ()) == ("200 OK", b"a")

    assert len(errors(caplog)) == 1
    assert "visits are dropped" in errors(caplog)[0].getMessage()
    assert dropped(app, tmp_path) == 3


def test_explicit_key_names_the_endpoint(tracked: Tracked, tmp_path: Path) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ[endpoints.EXPLICIT] = "/boxes/{id}"
        start_response("404 Not Found", [])
        return []

    serve(tracked(app), environ("/boxes/1"))

    visit = only_visit(tmp_path)
    assert (visit["endpoint"], visit["path"]) == ("/boxes/{id}", "/boxes/1")
