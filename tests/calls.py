"""What stands around a request in tests: a server's side, applications, and what was recorded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware

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
    visits = [line for line in all_lines(tmp_path) if "counts" not in line]
    return sorted(visits, key=lambda line: line["timestamp"])


def counted(app: Any, tmp_path: Path, name: str) -> int:
    """Return how many requests were dropped, or ignored: those in the spool, and those to come."""
    written: int = sum(line.get("counts", {}).get(name, 0) for line in all_lines(tmp_path))
    pending: int = app._backend.spool.counts.get(name, 0)
    return written + pending


def all_lines(tmp_path: Path) -> list[dict[str, Any]]:
    found = []
    for segment in (tmp_path / "visits.db-spool").glob("*.ndjson"):
        found += [json.loads(line) for line in segment.read_bytes().splitlines()[1:]]
    return found


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


def check_endpoint(
    asked: Callable[..., dict[str, Any]],
    app: Any,
    prefix: str,
    method: str,
    url: str,
    status: int,
    endpoint: str | None,
) -> dict[str, Any]:
    """Check the visit of an application that is mounted below ``prefix``, and return it.

    ``None`` is the endpoint of what matches no route.
    """
    mounted = DispatcherMiddleware(lambda *_: [], {prefix: app}) if prefix else app

    visit = asked(mounted, prefix + url, method)

    expected = "(unmatched)" if endpoint is None else prefix + endpoint
    assert (visit["status"], visit["endpoint"]) == (status, expected)
    assert (visit["path"] or visit["endpoint"]) == prefix + url
    return visit


# Begins a script that runs in a process of its own, and makes a ``tracker`` of ``hello``.
ASKING = """
import json
from wsgiref.util import setup_testing_defaults
from wsgi_tracker import Tracker

def hello(environ, start_response):
    start_response("200 OK", [])
    return [b""]

def ask(path):
    environ = {"PATH_INFO": path, "REMOTE_ADDR": "8.8.8.8"}
    setup_testing_defaults(environ)
    return b"".join(tracker(environ, lambda status, headers, exc_info=None: print))

def hits():
    return json.loads(ask("/api/tracking/summary"))["total_hits"]
"""


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
