"""Which endpoint a request belongs to, beyond what the frameworks' own tests show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webtest
from calls import environ, only_visit, serve
from counting import look

from wsgi_tracker import Tracker
from wsgi_tracker.endpoints import collapse_ids, endpoints_by, name_endpoint, route_template
from wsgi_tracker.errors import ConfigurationError
from wsgi_tracker.visit import MAX_PATH

Asked = Callable[..., dict[str, Any]]
Client = Callable[..., webtest.TestApp]


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    found = not environ["PATH_INFO"].startswith("/missing")
    start_response("200 OK" if found else "404 Not Found", [("Content-Type", "text/plain")])
    return [b"hello"]


@pytest.mark.parametrize(
    ("path", "arguments", "template"),
    [
        pytest.param("/boxes/7", ((), {"id": "7"}), "/boxes/{id}", id="named"),
        pytest.param("/boxes/7", (("7",), {}), "/boxes/{0}", id="positional"),
        pytest.param("/boxes/7", ((), {"id": 7}), "/boxes/{id}", id="converted"),
        pytest.param("/7/77", ((), {"a": "7", "b": "77"}), "/{a}/{b}", id="one within the other"),
        pytest.param("/7/7", ((), {"a": "7", "b": "7"}), "/{a}/{b}", id="twice the same"),
        pytest.param("/boxes/boxes", ((), {"id": "boxes"}), "/boxes/{id}", id="name as value"),
        pytest.param("/boxes/7", ([], {"id": "7"}), "/boxes/{id}", id="list"),
        pytest.param("/boxes/7", (object(), {"id": "7"}), "/boxes/{id}", id="as Routes does"),
        pytest.param("/files/a/b", ((), {"path": "a/b"}), "/files/{path}", id="several segments"),
        pytest.param("/boxes/box", ((), {"kind": "bo"}), "/boxes/box", id="not in the path"),
        pytest.param(
            "/boxes/7", ((), {"controller": "boxes", "id": "7"}), "/boxes/{id}", id="handler"
        ),
        pytest.param("/boxes/", ((), {"id": ""}), "/boxes/", id="empty"),
        pytest.param("/boxes", ((), {"action": "boxes"}), "/boxes", id="only a handler"),
    ],
)
def test_routing_arguments_become_names_again(path: str, arguments: Any, template: str) -> None:
    environ = {"wsgiorg.routing_args": arguments, "PATH_INFO": path}

    assert route_template(environ) == template
    assert route_template({**environ, "SCRIPT_NAME": "/shop"}) == "/shop" + template
    consumed = {**environ, "SCRIPT_NAME": "/shop" + path, "PATH_INFO": ""}
    assert route_template(consumed) == "/shop" + template


@pytest.mark.parametrize("positional", [(), [], object()])
def test_without_routing_arguments_a_404_is_unmatched(positional: object, asked: Asked) -> None:
    """Every path that somebody tried became an endpoint."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgiorg.routing_args"] = (positional, {})
        return hello(environ, start_response)

    assert asked(app, "/missing/7")["endpoint"] == "(unmatched)"
    assert asked(app, "/boxes")["endpoint"] == "/boxes"


def test_explicit_key_goes_before_everything() -> None:
    environ = {
        "wsgi_tracker.endpoint": "/own",
        "wsgiorg.routing_args": ((), {"id": "7"}),
        "PATH_INFO": "/7",
    }

    assert route_template(environ) == "/own"


@pytest.mark.parametrize("endpoint", ["routes", "", None, 7])
def test_unknown_way_is_refused(endpoint: Any) -> None:
    with pytest.raises(ConfigurationError, match="'route', 'path' or a callable"):
        endpoints_by(endpoint)


def hits(client: webtest.TestApp) -> dict[str, int]:
    prefix = client.extra_environ["SCRIPT_NAME"]
    rows = client.get("/api/tracking/stats").json["stats"]
    return {row["endpoint"].removeprefix(prefix): row["hit_count"] for row in rows}


def test_plain_404_is_unmatched_and_keeps_its_path(client: Client) -> None:
    app = client()
    app.get("/missing/1", status=404)
    app.get("/missing/2", status=404)

    assert hits(app) == {"(unmatched)": 2}
    paths = {visit.path for visit in look(app.app._backend.storage).visits(limit=9).visits}
    assert paths == {app.extra_environ["SCRIPT_NAME"] + f"/missing/{n}" for n in (1, 2)}


def test_paths_fold_nothing(client: Client) -> None:
    app = client(endpoint="path")
    app.get("/missing/1", status=404)
    app.get("/boxes")

    assert hits(app) == {"/missing/1": 1, "/boxes": 1}


def test_callable_decides(client: Client) -> None:
    def endpoint(environ: dict[str, Any]) -> str | None:
        return "/m" if "missing" in environ["PATH_INFO"] else None

    app = client(endpoint=endpoint)
    app.get("/missing/1", status=404)
    app.get("/boxes")

    assert hits(app) == {"/m": 1, "(unmatched)": 1}


def test_endpoints_beyond_the_bound_fold_into_other(tracked: Callable[..., Tracker]) -> None:
    tracker = tracked(max_endpoints=3)
    app = webtest.TestApp(tracker, extra_environ={"SCRIPT_NAME": ""})

    for path in ("/1", "/2", "/missing", "/2", "/3", "/4", "/5"):
        app.get(path, expect_errors=True)
    first = hits(app)
    for path in ("/3", "/6", "/missing"):
        app.get(path, expect_errors=True)

    assert first == {"/2": 2, "/1": 1, "/3": 1, "(unmatched)": 1, "(other)": 2}
    assert hits(app) == {"/2": 2, "/1": 1, "/3": 2, "(unmatched)": 2, "(other)": 3}
    folded = [
        visit.path
        for visit in look(tracker._backend.storage).visits(limit=99).visits
        if visit.endpoint == "(other)"
    ]
    assert folded == ["/6", "/5", "/4"]


UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("path", "collapsed"),
    [
        pytest.param("/boxes/7", "/boxes/<int>", id="number"),
        pytest.param("/7/007", "/<int>/<int>", id="segment after segment"),
        pytest.param(f"/boxes/{UUID}", "/boxes/<uuid>", id="UUID"),
        pytest.param(f"/boxes/{UUID.upper()}/", "/boxes/<uuid>/", id="UUID in upper case"),
        pytest.param("/0123456789abcdef", "/<hex>", id="16 digits"),
        pytest.param("/0123456789abcde", "/0123456789abcde", id="15 digits"),
        pytest.param(f"/{UUID.replace('-', '')}", "/<hex>", id="UUID without hyphens"),
        pytest.param("/" + "1" * 40, "/<int>", id="long number"),
        pytest.param("/boxes/7/edit/", "/boxes/<int>/edit/", id="slash at the end"),
        pytest.param("//7//", "//<int>//", id="empty segments"),
        pytest.param("/bills/7.pdf", "/bills/<int>.pdf", id="extension"),
        pytest.param("/7.tar.gz", "/<int>.tar.gz", id="two extensions"),
        pytest.param("/api/1.0/7", "/api/1.0/<int>", id="version"),
        pytest.param("/v2/box7/7a", "/v2/box7/7a", id="number within a word"),
        pytest.param("/2025-08-13", "/2025-08-13", id="date"),
        pytest.param("/-7", "/-7", id="sign"),
        pytest.param(f"/{UUID}x", f"/{UUID}x", id="longer than a UUID"),
        pytest.param("/\u0667", "/\u0667", id="digit of another script"),
        pytest.param("/7\n", "/7\n", id="line's end"),
        pytest.param("/", "/", id="root"),
        pytest.param("7", "7", id="no path"),
    ],
)
def test_ids_become_placeholders(path: str, collapsed: str) -> None:
    assert collapse_ids(path) == collapsed


def test_path_that_is_the_endpoint_loses_its_ids_and_is_kept(asked: Asked) -> None:
    visit = asked(hello, "/boxes/7", collapse_ids=True)

    assert (visit["endpoint"], visit["path"]) == ("/boxes/<int>", "/boxes/7")


def test_place_where_an_application_is_mounted_is_no_id(asked: Asked) -> None:
    visit = asked(
        hello, "/größe/7".encode().decode("latin-1"), collapse_ids=True, SCRIPT_NAME="/2025"
    )

    assert (visit["endpoint"], visit["path"]) == ("/2025/größe/<int>", "/2025/größe/7")


def test_collapsed_path_is_no_longer_than_any(asked: Asked) -> None:
    endpoint = asked(hello, "/1" * 2000, collapse_ids=True)["endpoint"]

    assert endpoint == ("/<int>" * 2000)[:MAX_PATH]


@pytest.mark.parametrize(
    ("endpoint", "path", "expected"),
    [
        pytest.param("route", "/missing/7", "(unmatched)", id="not found"),
        pytest.param("path", "/missing/7", "/missing/<int>", id="not found, but paths"),
        pytest.param("route", "/own/7", "/named/7", id="named by the application"),
    ],
)
def test_only_paths_lose_their_ids(
    endpoint: str, path: str, expected: str, tracked: Callable[..., Any], tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/own/7":
            environ["wsgi_tracker.endpoint"] = "/named/7"
        return hello(environ, start_response)

    serve(tracked(app, endpoint=endpoint, collapse_ids=True), environ(path))

    assert only_visit(tmp_path)["endpoint"] == expected


def test_ids_stay_where_nobody_asked(asked: Asked) -> None:
    assert asked(hello, "/boxes/7")["endpoint"] == "/boxes/7"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"collapse_ids": 1}, "collapse_ids is True or False", id="no flag"),
        pytest.param(
            {"collapse_ids": True, "endpoint": lambda environ: None},
            "a callable names no path",
            id="callable",
        ),
    ],
)
def test_collapsing_that_cannot_work_is_refused(
    options: dict[str, Any], says: str, tracked: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        tracked(**options)


@pytest.mark.parametrize("endpoint", ["route", lambda environ: environ["wsgi_tracker.endpoint"]])
def test_application_that_raises_has_named_its_endpoint(
    endpoint: Any, tracked: Callable[..., Any], tmp_path: Path
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi_tracker.endpoint"] = "/boxes/{id}"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(tracked(app, endpoint=endpoint), environ("/boxes/7"))

    visit = only_visit(tmp_path)
    assert (visit["endpoint"], visit["path"], visit["status"]) == ("/boxes/{id}", "/boxes/7", 500)


@pytest.mark.parametrize(
    "named",
    [
        pytest.param("/größe/{id}", id="text"),
        pytest.param("/größe/{id}".encode().decode("latin-1"), id="as environ spells it"),
    ],
)
def test_application_may_spell_an_endpoint_as_text_or_as_environ_does(
    named: str, asked: Asked
) -> None:
    """Text was read as latin-1, and stored with U+FFFD."""

    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi_tracker.endpoint"] = named
        return hello(environ, start_response)

    assert asked(app, "/7")["endpoint"] == "/größe/{id}"


def test_routing_arguments_are_spelled_in_any_script() -> None:
    path = "/größe/süß".encode().decode("latin-1")
    environ = {"PATH_INFO": path, "SCRIPT_NAME": "/übung".encode().decode("latin-1")}

    for value in ("süß", "süß".encode().decode("latin-1")):
        environ["wsgiorg.routing_args"] = ((), {"kind": value})  # type: ignore[assignment]
        assert route_template(environ) == "/übung/größe/{kind}"


def test_unmatched_by_one_application_may_be_matched_by_the_next() -> None:
    environ = {"SCRIPT_NAME": "/shop"}

    for template in (None, "boxes/{id}", None, "/other"):
        name_endpoint(environ, template)

    assert route_template(environ) == "/shop/boxes/{id}"


def test_frameworks_are_imported_by_their_own_module_alone() -> None:
    code = (
        "import sys, wsgi_tracker, wsgi_tracker.integrations;"
        "print({name.partition('.')[0] for name in sys.modules}"
        " & {'django', 'pyramid', 'falcon', 'asgiref'})"
    )

    imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert imported.stdout == "set()\n"


def test_spool_takes_some_segments_at_least(tracked: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="at least 16384, given 16383"):
        tracked(max_spool_bytes=16_383)
    tracked(max_spool_bytes=16_384)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None, "9"])
@pytest.mark.parametrize("option", ["max_endpoints", "max_spool_bytes"])
def test_bound_is_a_positive_number(option: str, value: Any, tracked: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match=option):
        tracked(**{option: value})


@pytest.mark.parametrize("prefix", ["", "/", "api", "/api/", "/api//x", "/a?b", "/a#b"])
def test_prefix_begins_with_a_slash(prefix: str, tracked: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="prefix"):
        tracked(prefix=prefix)


def test_application_is_callable(tracked: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="WSGI application"):
        tracked("shop:app")


def test_what_is_no_application_is_named_by_its_type_alone(tracked: Callable[..., Any]) -> None:
    """An application's configuration was printed, its secrets included."""
    with pytest.raises(ConfigurationError, match=r"given a dict$"):
        tracked({"SECRET_KEY": "hunter2"})
