"""The application's body reaches the server as it is: its type, its blocks, its end."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from calls import (
    TEXT,
    Body,
    Server,
    SizedBody,
    answering,
    environ,
    generate,
    only_visit,
    serve,
    with_length,
)
from werkzeug.test import Client

from wsgi_tracker import Tracker

Tracked = Callable[..., Tracker]
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


@pytest.mark.parametrize("asked", [0, 1, 3])
def test_second_close_of_a_server_is_not_the_applications(asked: int, tracked: Tracked) -> None:
    body = SizedBody(b"a", b"b")

    returned: Any = tracked(answering(body))(environ(), Server().start_response)
    iterator = iter(returned)
    for _ in range(asked):
        next(iterator, None)
    returned.close()
    returned.close()

    assert body.closed == 1
    assert len(returned) == 2


def test_close_that_raises_is_heard(tracked: Tracked) -> None:
    class Broken(Body):
        def close(self) -> None:
            raise ValueError("on close")

    returned = tracked(answering(Broken(b"a")))(environ(), Server().start_response)

    with pytest.raises(ValueError, match="on close"):
        returned.close()  # type: ignore[attr-defined]


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
