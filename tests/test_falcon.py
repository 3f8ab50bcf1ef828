"""Falcon's URI templates are endpoints, with its middleware."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import falcon
import pytest
from calls import check_endpoint

from wsgi_tracker.endpoints import EXPLICIT
from wsgi_tracker.integrations.falcon import EndpointMiddleware

Asked = Callable[..., dict[str, Any]]
FOLDER = Path(__file__).parent


class Box:
    def on_get(self, request: Any, response: Any, **arguments: Any) -> None:
        response.text = "box"

    def on_get_all(self, request: Any, response: Any) -> None:
        response.stream = (b"box" for _ in range(3))

    def on_patch(self, request: Any, response: Any, **arguments: Any) -> None:
        response.status = 204


class Missing:
    def on_get(self, request: Any, response: Any, box_id: int) -> None:
        raise falcon.HTTPNotFound


class Broken:
    def on_get(self, request: Any, response: Any, box_id: int) -> None:
        raise ZeroDivisionError


class Moved:
    def on_get(self, request: Any, response: Any) -> None:
        raise falcon.HTTPFound("/boxes/1")


class Own:
    def on_get(self, request: Any, response: Any) -> None:
        request.env[EXPLICIT] = "/named/by/the/resource"
        response.status = HTTPStatus.ACCEPTED


def sink(request: Any, response: Any, rest: str) -> None:
    if rest == "lost":
        raise falcon.HTTPNotFound
    response.text = rest


def shop(*middleware: Any, **options: Any) -> Any:
    app = falcon.App(middleware=[EndpointMiddleware(), *middleware], **options)
    app.req_options.strip_url_path_trailing_slash = True
    app.add_route("/", Box())
    app.add_route("/boxes/{box_id:int}", Box())
    app.add_route("/boxes", Box(), suffix="all")
    app.add_route("/v{version}/größe/{name}.json", Box())
    app.add_route("/missing/{box_id:int}", Missing())
    app.add_route("/broken/{box_id:int}", Broken())
    app.add_route("/moved", Moved())
    app.add_route("/own", Own())
    app.add_sink(sink, r"/proxy/(?P<rest>.*)")
    app.add_static_route("/static", str(FOLDER))
    return app


@pytest.mark.parametrize("prefix", ["", "/shop"])
@pytest.mark.parametrize(
    ("method", "url", "status", "endpoint"),
    [
        pytest.param("GET", "/", 200, "/", id="root"),
        pytest.param("GET", "/boxes/1", 200, "/boxes/{box_id:int}", id="template"),
        pytest.param("GET", "/boxes/1/", 200, "/boxes/{box_id:int}", id="slash ignored"),
        pytest.param("OPTIONS", "/boxes/1", 200, "/boxes/{box_id:int}", id="options"),
        pytest.param("GET", "/boxes", 200, "/boxes", id="suffix, streaming"),
        pytest.param("GET", "/missing/1", 404, "/missing/{box_id:int}", id="resource says 404"),
        pytest.param("GET", "/broken/1", 500, "/broken/{box_id:int}", id="exception"),
        pytest.param("GET", "/moved", 302, "/moved", id="redirect"),
        pytest.param("GET", "/proxy/a/b", 200, "/proxy/a/b", id="sink"),
        pytest.param("GET", "/static/calls.py", 200, "/static/calls.py", id="static"),
        pytest.param("GET", "/nowhere", 404, None, id="not found"),
        pytest.param("OPTIONS", "/nowhere", 404, None, id="options of nothing"),
        pytest.param("GET", "/boxes/x", 404, None, id="converter refuses"),
        pytest.param("HEAD", "/boxes/1", 405, None, id="head without responder"),
        pytest.param("DELETE", "/boxes/1", 405, None, id="method not allowed"),
        pytest.param("PATCH", "/boxes", 405, None, id="method of another suffix"),
        pytest.param("BREW", "/boxes/1", 400, "/boxes/{box_id:int}", id="unknown method"),
        pytest.param("GET", "/proxy/lost", 404, None, id="sink says 404"),
        pytest.param("GET", "/static/nothing", 404, None, id="no such file"),
    ],
)
def test_template_is_the_endpoint(
    method: str, url: str, status: int, endpoint: str | None, prefix: str, asked: Asked
) -> None:
    check_endpoint(asked, shop(), prefix, method, url, status, endpoint)


def test_templates_and_prefixes_are_spelled_in_any_script(asked: Asked) -> None:
    request = {"SCRIPT_NAME": "/übung".encode().decode("latin-1")}

    visit = asked(shop(), "/v2/größe/ä.json".encode().decode("latin-1"), **request)

    assert visit["endpoint"] == "/übung/v{version}/größe/{name}.json"


def test_handlers_of_errors_change_no_endpoint(asked: Asked) -> None:
    """A page for lost visitors is not found, though it says 200."""

    def sorry(request: Any, response: Any, error: Any, arguments: Any) -> None:
        response.status = 200

    app = shop()
    app.add_error_handler(Exception, sorry)
    app.add_error_handler(falcon.HTTPError, sorry)

    visits = [asked(app, url) for url in ("/nowhere", "/missing/1", "/broken/1")]

    assert [(visit["status"], visit["endpoint"]) for visit in visits] == [
        (200, "(unmatched)"),
        (200, "/missing/{box_id:int}"),
        (200, "/broken/{box_id:int}"),
    ]


def test_name_that_a_resource_gives_itself_stays(asked: Asked) -> None:
    visit = asked(shop(), "/own")

    assert (visit["status"], visit["endpoint"]) == (202, "/named/by/the/resource")


class Guard:
    def process_request(self, request: Any, response: Any) -> None:
        raise falcon.HTTPUnauthorized


@pytest.mark.parametrize("independent", [True, False])
def test_request_that_a_middleware_refuses_had_no_route(independent: bool, asked: Asked) -> None:
    visit = asked(shop(Guard(), independent_middleware=independent), "/boxes/1")

    assert (visit["status"], visit["endpoint"]) == (401, "(unmatched)")


class MethodOverride:
    def process_request(self, request: Any, response: Any) -> None:
        request.method = request.get_header("X-HTTP-Method-Override") or request.method


def test_method_is_the_one_the_client_sent_whatever_a_middleware_makes_of_it(asked: Asked) -> None:
    visit = asked(shop(MethodOverride()), "/boxes/1", "POST", HTTP_X_HTTP_METHOD_OVERRIDE="PATCH")

    # It is read before the application is called. The resource was asked to PATCH.
    assert (visit["method"], visit["status"]) == ("POST", 204)
    assert visit["endpoint"] == "/boxes/{box_id:int}"
