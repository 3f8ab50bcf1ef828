"""What is recorded of an answer is what happened, and it is written in time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from calls import (
    TEXT,
    Body,
    Server,
    answering,
    environ,
    generate,
    generator_application,
    lines,
    made,
    only_visit,
    serve,
    with_length,
    writing,
)

from wsgi_tracker import Tracker

Tracked = Callable[..., Tracker]


def test_file_without_length_has_unknown_size(tracked: Tracked, tmp_path: Path) -> None:
    app = tracked(answering(FileWrapper(io.BytesIO(b"a"))))

    app(environ(**{"wsgi.file_wrapper": FileWrapper}), Server().start_response)

    assert only_visit(tmp_path)["bytes_sent"] is None


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

    visit = only_visit(tmp_path)
    assert (visit["status"], visit.get("error"), visit["bytes_sent"]) == (200, error, min(asked, 2))


def test_client_that_leaves_before_a_generator_begins_got_no_status(
    tracked: Tracked, tmp_path: Path
) -> None:
    """It counted as a 500, as if the application had failed."""
    returned = tracked(generator_application)(environ(), Server().start_response)
    returned.close()  # type: ignore[attr-defined]

    visit = only_visit(tmp_path)
    assert (visit["status"], visit["error"]) == (None, "client_left")
    assert (visit["first_byte_us"], visit["bytes_sent"]) == (None, 0)


def test_generator_that_never_starts_a_response_counts_as_500(
    tracked: Tracked, tmp_path: Path
) -> None:
    returned = tracked(lambda environ, start_response: generate(b"a"))(
        environ(), Server().start_response
    )
    next(iter(returned))  # a server finds that no response was started, answers 500 and closes
    returned.close()  # type: ignore[attr-defined]

    visit = only_visit(tmp_path)
    assert (visit["status"], visit.get("error")) == (500, None)


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


@pytest.mark.parametrize(
    ("make", "length", "sent"),
    [
        pytest.param(lambda: generate(b"a", b"b"), 9, 2, id="streamed, too short"),
        pytest.param(lambda: [b"a", b"b"], 9, 2, id="list, too short"),
        pytest.param(lambda: [b"ab"], 9, 2, id="list of one, too short"),
        pytest.param(lambda: [], 9, 0, id="nothing"),
        pytest.param(lambda: generate(b"abc", b"d"), 2, 2, id="streamed, too long"),
        pytest.param(lambda: [b"abc", b"d"], 2, 2, id="list, too long"),
        pytest.param(lambda: (b"a", b"b", b"c"), 2, 2, id="tuple, too long"),
        pytest.param(lambda: [b"abc"], 2, 3, id="list of one, too long: not looked at"),
    ],
)
def test_wrong_content_length_is_no_error_and_servers_cut_at_it(
    make: Callable[[], Any], length: int, sent: int, tracked: Tracked, tmp_path: Path
) -> None:
    serve(tracked(made(make, headers=with_length(length))), environ())

    visit = only_visit(tmp_path)
    assert (visit["status"], visit["bytes_sent"], visit.get("error")) == (200, sent, None)


def test_buffered_head_sends_nothing(tracked: Tracked, tmp_path: Path) -> None:
    serve(tracked(answering([b"abc"])), environ(method="HEAD"))

    assert only_visit(tmp_path)["bytes_sent"] == 0


def test_application_that_never_starts_a_response_counts_as_500(
    tracked: Tracked, tmp_path: Path
) -> None:
    tracked(lambda environ, start_response: [b""])(environ(), Server().start_response)

    assert only_visit(tmp_path)["status"] == 500


def test_answer_that_is_replaced_before_its_first_byte_does_not_count(
    tracked: Tracked, tmp_path: Path
) -> None:
    """The length of the answer that was replaced stayed in force: 2 bytes were recorded."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])
        yield b""
        problem = (ValueError, ValueError("x"), None)
        start_response("500 Sorry", [*TEXT, ("Content-Length", "5")], problem)
        yield b"so"
        yield b"rry"

    # As waitress does: it sends nothing for an empty block.
    body = tracked(app)(environ(), lambda status, headers, exc_info=None: None)
    assert b"".join(body) == b"sorry"

    visit = only_visit(tmp_path)
    assert (visit["status"], visit["bytes_sent"], "error" in visit) == (500, 5, False)
