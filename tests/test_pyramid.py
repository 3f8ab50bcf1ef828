"""Pyramid's route patterns are endpoints, when its configuration includes us."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import check_endpoint
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound, HTTPNotFound
from pyramid.response import Response
from pyramid.testing import DummyRequest
from pyramid.view import render_view_to_response

from wsgi_tracker.endpoints import EXPLICIT

Asked = Callable[..., dict[str, Any]]
FOLDER = Path(__file__).parent
NAMING = "wsgi_tracker.integrations.pyramid"


def box(request: Any) -> Response:
    return Response("box")


def missing(request: Any) -> Response:
    raise HTTPNotFound


def broken(request: Any) -> Response:
    raise ZeroDivisionError


def own(request: Any) -> Response:
    request.environ[EXPLICIT] = "/named/by/the/view"
    return Response("box")


def api(config: Any) -> None:
    config.add_route("api_box", "boxes/{box_id}")
    config.add_route("api_list", "")
    config.add_view(box, route_name="api_box")
    config.add_view(box, route_name="api_list")
    config.include(lambda config: config.add_route("inner", "/inner/{name}"), route_prefix="v2")
    config.add_view(box, route_name="inner")


class Resource(dict[str, Any]):
    """A tree of resources, three deep: /tree/leaf."""


class Refusing:
    """A security policy that permits nothing."""

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return False

    def authenticated_userid(self, request: Any) -> None:
        return None


def root(request: Any) -> Resource:
    return Resource(tree=Resource(leaf=Resource()))


VIEWS = {
    "boxes/{box_id}/": box,
    "/missing/{box_id}": missing,
    "/broken/{box_id}": broken,
    "/stream/{count:\\d+}": lambda request: Response(app_iter=(b"box" for _ in range(3))),
    "/moved": lambda request: HTTPFound("/boxes/1/"),
    "/größe/{name}": box,
    "/rest/*names": box,
    "/own": own,
}


def configured(*, late: bool = False) -> Configurator:
    config = Configurator(root_factory=root, security_policy=Refusing())
    if not late:
        config.include(NAMING)
    for number, (pattern, view) in enumerate(VIEWS.items()):
        config.add_route(str(number), pattern)
        config.add_view(view, route_name=str(number), request_method="GET")
    config.add_route("secret", "/secret/{name}")
    config.add_view(box, route_name="secret", permission="see")
    config.add_route("hybrid", "/hybrid/*traverse")
    config.add_view(box, route_name="hybrid", name="edit")
    config.include(api, route_prefix="/api")
    config.add_static_view("static", str(FOLDER))
    config.add_view(box, context=Resource)
    config.add_view(missing, context=Resource, name="gone")
    config.add_notfound_view(lambda request: Response("Lost?", status=404), append_slash=True)
    if late:
        config.include(NAMING)
    return config


@pytest.mark.parametrize("prefix", ["", "/shop"])
@pytest.mark.parametrize(
    ("method", "url", "status", "endpoint"),
    [
        pytest.param("GET", "/boxes/1/", 200, "/boxes/{box_id}/", id="pattern"),
        pytest.param("HEAD", "/boxes/1/", 200, "/boxes/{box_id}/", id="head"),
        pytest.param("GET", "/missing/1", 404, "/missing/{box_id}", id="view says 404"),
        pytest.param("GET", "/broken/1", 500, "/broken/{box_id}", id="exception"),
        pytest.param("GET", "/stream/3", 200, "/stream/{count:\\d+}", id="streaming"),
        pytest.param("GET", "/moved", 302, "/moved", id="redirect"),
        pytest.param("GET", "/rest/a/b", 200, "/rest/*names", id="rest"),
        pytest.param("GET", "/api/boxes/1", 200, "/api/boxes/{box_id}", id="route_prefix"),
        pytest.param("GET", "/api/", 200, "/api/", id="route_prefix alone"),
        pytest.param("GET", "/api/v2/inner/a", 200, "/api/v2/inner/{name}", id="two prefixes"),
        pytest.param("GET", "/static/calls.py", 200, "/static/*subpath", id="static"),
        pytest.param("GET", "/static/nothing/", 404, "/static/*subpath", id="no such file"),
        pytest.param("GET", "/secret/1", 403, "/secret/{name}", id="forbidden"),
        pytest.param("GET", "/hybrid/tree/edit", 200, "/hybrid/*traverse", id="hybrid"),
        pytest.param("GET", "/tree/leaf", 200, "/tree/leaf", id="traversal"),
        pytest.param("GET", "/", 200, "/", id="root of traversal"),
        pytest.param("GET", "/tree/gone", 404, None, id="view of traversal says 404"),
        pytest.param("GET", "/tree/nowhere", 404, None, id="not found in the tree"),
        pytest.param("GET", "/hybrid/tree/nowhere/", 404, None, id="hybrid, no view"),
        pytest.param("GET", "/nowhere", 404, None, id="not found"),
        pytest.param("GET", "/boxes/1", 307, None, id="slash appended"),
        pytest.param("DELETE", "/boxes/1/", 404, None, id="no view for the method"),
        pytest.param("OPTIONS", "/boxes/1/", 404, None, id="no view for options"),
    ],
)
def test_pattern_is_the_endpoint(
    method: str, url: str, status: int, endpoint: str | None, prefix: str, asked: Asked
) -> None:
    app = configured().make_wsgi_app()

    check_endpoint(asked, app, prefix, method, url, status, endpoint)


def test_views_that_were_added_before_are_named_too(asked: Asked) -> None:
    app = configured(late=True).make_wsgi_app()

    assert asked(app, "/boxes/1/")["endpoint"] == "/boxes/{box_id}/"
    assert asked(app, "/boxes/1")["endpoint"] == "(unmatched)"


def test_patterns_and_prefixes_are_spelled_in_any_script(asked: Asked) -> None:
    request = {"SCRIPT_NAME": "/übung".encode().decode("latin-1")}

    visit = asked(configured().make_wsgi_app(), "/größe/ä".encode().decode("latin-1"), **request)

    assert visit["endpoint"] == "/übung/größe/{name}"


def test_handlers_of_errors_change_no_endpoint(asked: Asked) -> None:
    """A page for lost visitors is not found, though it says 200."""
    config = configured()
    config.commit()
    config.add_notfound_view(lambda request: Response("Lost?"))
    config.add_view(lambda error, request: Response("Sorry", 503), context=ZeroDivisionError)
    app = config.make_wsgi_app()

    visits = [asked(app, url) for url in ("/nowhere", "/missing/1", "/broken/1")]

    assert [(visit["status"], visit["endpoint"]) for visit in visits] == [
        (200, "(unmatched)"),
        (200, "/missing/{box_id}"),
        (503, "/broken/{box_id}"),
    ]


def test_name_that_a_view_gives_itself_stays(asked: Asked) -> None:
    assert asked(configured().make_wsgi_app(), "/own")["endpoint"] == "/named/by/the/view"


def test_view_may_be_called_with_a_dummy_request() -> None:
    config = configured()
    config.begin(DummyRequest())
    config.commit()

    response = render_view_to_response(Resource(), DummyRequest(registry=config.registry))
    config.end()

    assert response.text == "box"


def test_request_that_a_view_sends_on_keeps_its_own_pattern(asked: Asked) -> None:
    config = configured()
    config.add_route("sending", "/sending/{box_id}")
    config.add_view(
        lambda request: request.invoke_subrequest(request.blank("/boxes/1/")),
        route_name="sending",
    )

    assert asked(config.make_wsgi_app(), "/sending/1")["endpoint"] == "/sending/{box_id}"


def overriding(handler: Any, registry: Any) -> Any:
    def tween(request: Any) -> Any:
        request.method = request.headers.get("X-HTTP-Method-Override", request.method)
        return handler(request)

    return tween


def test_method_is_the_one_the_client_sent_whatever_a_tween_makes_of_it(asked: Asked) -> None:
    config = configured()
    config.add_tween(f"{__name__}.overriding")

    visit = asked(config.make_wsgi_app(), "/boxes/1/", "POST", HTTP_X_HTTP_METHOD_OVERRIDE="GET")

    # It is read before the application is called. The view was found for GET.
    assert (visit["method"], visit["status"]) == ("POST", 200)
    assert visit["endpoint"] == "/boxes/{box_id}/"
