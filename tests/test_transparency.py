"""The application and the server notice nothing (PEP 3333), and the visit is written in time."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from wsgi_tracker import Tracker, endpoints, spool

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


@pytest.mark.parametrize(
    "body",
    [
        pytest.param([b"a", b"b"], id="list"),
        pytest.param((b"ab",), id="tuple"),
        pytest.param([], id="empty list"),
        pytest.param(Body(b"a", b"", b"b"), id="iterable"),
        pytest.param(SizedBody(b"a", b"b"), id="iterable with length"),
        pytest.param(iter([b"a", b"b"]), id="iterator without close"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_validator_on_both_sides_finds_nothing(body: Any, method: str, tracked: Tracked) -> None:
    if method == "HEAD":
        body = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return body

    checked = validator(tracked(validator(app)))

    assert serve(checked, environ(method=method)) == (
        "200 OK",
        b"" if method == "HEAD" or body == [] else b"ab",
    )


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
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        try:
            raise ValueError("late")
        except ValueError as error:
            start_response("500 Oops", list(TEXT), (ValueError, error, error.__traceback__))
        return [b"sorry"]

    assert serve(tracked(app), environ()) == ("500 Oops", b"sorry")
    assert only_visit(tmp_path)["status"] == 500


def test_exc_info_after_the_first_byte_raises_as_the_server_does(
    tracked: Tracked, tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))(b"sent")
        try:
            raise ValueError("too late")
        except ValueError as error:
            start_response("500 Oops", list(TEXT), (ValueError, error, error.__traceback__))
        return []

    with pytest.raises(ValueError, match="too late"):
        serve(tracked(app), environ())

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


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param({"PATH_INFO": 7}, id="path is a number"),
        pytest.param({"REMOTE_ADDR": ["a"]}, id="address is a list"),
        pytest.param({"HTTP_REFERER": 3}, id="referer is a number"),
    ],
)
def test_strange_environ_is_the_applications_to_judge(
    strange: dict[str, Any], tracked: Tracked, caplog: pytest.LogCaptureFixture
) -> None:
    app = tracked(answering([b"a"]))

    for _ in range(3):
        assert serve(app, environ(**strange)) == ("200 OK", b"a")

    assert app._spool._dropped == 3
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_endpoint_callable_that_raises_costs_no_request(
    tracked: Tracked, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def endpoint(environ: Any) -> str:
        raise RuntimeError("their bug")

    app = tracked(answering([b"a"]), endpoint=endpoint)

    assert serve(app, environ("/boxes")) == ("200 OK", b"a")
    assert only_visit(tmp_path)["endpoint"] == "/boxes"
    assert "their bug" in caplog.text


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
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    folder.unlink()
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0)
    app._spool._retry_at = 0.0  # the second until the next attempt is over
    assert serve(app, environ()) == ("200 OK", b"a")

    assert len(errors) == 1
    assert "visits are dropped" in errors[0].getMessage()
    assert dropped(app, tmp_path) == 3


def test_explicit_key_names_the_endpoint(tracked: Tracked, tmp_path: Path) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ[endpoints.EXPLICIT] = "/boxes/{id}"
        start_response("404 Not Found", [])
        return []

    serve(tracked(app), environ("/boxes/1"))

    visit = only_visit(tmp_path)
    assert (visit["endpoint"], visit["path"]) == ("/boxes/{id}", "/boxes/1")
