"""Where a request arrives: paths, prefixes, what changes environ, and two trackers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import answering, environ, lines, only_visit, serve
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from wsgi_tracker import Tracker, endpoints

Tracked = Callable[..., Tracker]


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


def test_explicit_key_names_the_endpoint(tracked: Tracked, tmp_path: Path) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ[endpoints.EXPLICIT] = "/boxes/{id}"
        start_response("404 Not Found", [])
        return []

    serve(tracked(app), environ("/boxes/1"))

    visit = only_visit(tmp_path)
    assert (visit["endpoint"], visit["path"]) == ("/boxes/{id}", "/boxes/1")
