"""Django's routes are endpoints, with its middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from calls import check_endpoint
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import ResolverMatch, include, path, re_path
from django.utils.decorators import async_only_middleware
from django.views.decorators.http import require_safe
from djangosite import COMMON, django_handler

from wsgi_tracker.endpoints import EXPLICIT

Asked = Callable[..., dict[str, Any]]
NAMING = "wsgi_tracker.integrations.django.EndpointMiddleware"


def answer(request: Any, **arguments: Any) -> HttpResponse:
    return HttpResponse("box")


def missing(request: Any, box_id: int) -> HttpResponse:
    raise Http404


def broken(request: Any, **arguments: Any) -> HttpResponse:
    raise ZeroDivisionError


def own(request: Any) -> HttpResponse:
    request.META[EXPLICIT] = "/named/by/the/view"
    return HttpResponse("box")


async def later(request: Any, box_id: int) -> HttpResponse:
    return HttpResponse("box")


def streaming(request: Any, count: int) -> StreamingHttpResponse:
    return StreamingHttpResponse(b"box" for _ in range(count))


INNER = [
    path("", answer, name="list"),
    path("<int:box_id>/", answer, name="box"),
    re_path(r"^(?P<slug>[a-z-]+)/$", answer, name="named"),
]
PATTERNS = [
    path("", answer),
    path("boxes/<int:box_id>/", require_safe(answer)),
    path("missing/<int:box_id>", missing),
    path("broken/<int:box_id>", broken),
    path("later/<int:box_id>", later),
    path("stream/<int:count>", streaming),
    path("größe/<str:name>", answer),
    path("own", own),
    path("api/", include((INNER, "boxes"), namespace="api")),
    path("deep/", include([path("v<int:version>/", include((INNER, "boxes"), namespace="v"))])),
    re_path(r"^old/(?P<year>[0-9]{4})/$", answer),
    re_path(r"^legacy/", include(INNER)),
]


def project(*middleware: str, **handlers: Any) -> Any:
    return django_handler(PATTERNS, middleware or [NAMING, *COMMON], **handlers)


@pytest.mark.parametrize("prefix", ["", "/shop"])
@pytest.mark.parametrize(
    ("method", "url", "status", "endpoint"),
    [
        pytest.param("GET", "/", 200, "/", id="root"),
        pytest.param("GET", "/boxes/1/", 200, "/boxes/<int:box_id>/", id="path"),
        pytest.param("HEAD", "/boxes/1/", 200, "/boxes/<int:box_id>/", id="head"),
        pytest.param("POST", "/boxes/1/", 405, "/boxes/<int:box_id>/", id="view refuses method"),
        pytest.param("OPTIONS", "/missing/1", 404, "/missing/<int:box_id>", id="view says 404"),
        pytest.param("GET", "/broken/1", 500, "/broken/<int:box_id>", id="exception"),
        pytest.param("GET", "/later/1", 200, "/later/<int:box_id>", id="asynchronous"),
        pytest.param("GET", "/stream/3", 200, "/stream/<int:count>", id="streaming"),
        pytest.param("GET", "/api/", 200, "/api/", id="included, empty"),
        pytest.param("GET", "/api/1/", 200, "/api/<int:box_id>/", id="namespace"),
        pytest.param("GET", "/api/a-b/", 200, "/api/(?P<slug>[a-z-]+)/$", id="included regex"),
        pytest.param("GET", "/deep/v2/1/", 200, "/deep/v<int:version>/<int:box_id>/", id="nested"),
        pytest.param("GET", "/old/2024/", 200, "/old/(?P<year>[0-9]{4})/$", id="regex"),
        pytest.param("GET", "/legacy/1/", 200, "/legacy/<int:box_id>/", id="within a regex"),
        pytest.param("GET", "/nowhere", 404, None, id="not found"),
        pytest.param("DELETE", "/nowhere", 404, None, id="not found, unsafe"),
        pytest.param("GET", "/boxes/1", 301, None, id="slash appended"),
        pytest.param("GET", "/boxes/x/", 404, None, id="converter refuses"),
    ],
)
def test_route_is_the_endpoint(
    method: str, url: str, status: int, endpoint: str | None, prefix: str, asked: Asked
) -> None:
    visit = check_endpoint(asked, project(), prefix, method, url, status, endpoint)

    assert visit["method"] == method


def test_routes_and_prefixes_are_spelled_in_any_script(asked: Asked) -> None:
    request = {"SCRIPT_NAME": "/übung".encode().decode("latin-1")}

    visit = asked(project(), "/größe/ä".encode().decode("latin-1"), **request)

    assert (visit["endpoint"], visit["path"]) == ("/übung/größe/<str:name>", "/übung/größe/ä")


def test_prefix_that_settings_force_is_the_prefix(asked: Asked) -> None:
    with override_settings(FORCE_SCRIPT_NAME="/forced/"):
        visit = asked(project(), "/api/1/")

    assert visit["endpoint"] == "/forced/api/<int:box_id>/"


def test_handlers_of_errors_change_no_endpoint(asked: Asked) -> None:
    """A page for lost visitors is not found, though it says 200."""
    app = project(
        handler404=lambda request, exception: HttpResponse("Lost?"),
        handler500=lambda request: HttpResponse("Sorry", status=503),
    )

    lost, gone, failed = [asked(app, url) for url in ("/nowhere", "/missing/1", "/broken/1")]

    assert [(visit["status"], visit["endpoint"]) for visit in (lost, gone, failed)] == [
        (200, "(unmatched)"),
        (200, "/missing/<int:box_id>"),
        (503, "/broken/<int:box_id>"),
    ]


def test_exception_that_reaches_the_server_keeps_its_route(asked: Asked) -> None:
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True):
        visit = asked(project(), "/broken/1")

    assert (visit["status"], visit["error"]) == (500, "ZeroDivisionError")
    assert visit["endpoint"] == "/broken/<int:box_id>"


def test_name_that_a_view_gives_itself_stays(asked: Asked) -> None:
    assert asked(project(), "/own")["endpoint"] == "/named/by/the/view"


def refusing(get_response: Any) -> Any:
    return lambda request: HttpResponse("Closed today", status=503)


@pytest.mark.parametrize(
    ("middleware", "endpoint"),
    [
        pytest.param([f"{__name__}.refusing", NAMING], "/api/1/", id="before"),
        pytest.param([NAMING, f"{__name__}.refusing"], "(unmatched)", id="behind"),
    ],
)
def test_what_a_middleware_answers_had_no_route(
    middleware: list[str], endpoint: str, asked: Asked
) -> None:
    assert asked(project(*middleware), "/api/1/")["endpoint"] == endpoint


@async_only_middleware
def waiting(get_response: Any) -> Any:
    async def respond(request: Any) -> Any:
        return await get_response(request)

    return respond


@pytest.mark.parametrize("url", ["/later/1", "/api/1/"])
def test_route_is_the_endpoint_among_asynchronous_middlewares(url: str, asked: Asked) -> None:
    app = project(NAMING, f"{__name__}.waiting")

    assert asked(app, url)["endpoint"] == url.replace("1", "<int:box_id>")
    assert asked(app, "/nowhere")["endpoint"] == "(unmatched)"


def overriding(get_response: Any) -> Any:
    def respond(request: Any) -> Any:
        request.method = request.META["REQUEST_METHOD"] = request.META[
            "HTTP_X_HTTP_METHOD_OVERRIDE"
        ]
        return get_response(request)

    return respond


def test_method_is_the_one_the_client_sent_whatever_a_middleware_makes_of_it(asked: Asked) -> None:
    app = project(NAMING, f"{__name__}.overriding")

    visit = asked(app, "/boxes/1/", "POST", HTTP_X_HTTP_METHOD_OVERRIDE="PATCH")

    # It is read before the application is called. The view saw PATCH, and so refused.
    assert (visit["method"], visit["status"]) == ("POST", 405)
    assert visit["endpoint"] == "/boxes/<int:box_id>/"


def test_resolver_that_knows_no_route_leaves_the_path(asked: Asked) -> None:
    class Resolver:
        pattern = ""

        def resolve(self, url: str) -> ResolverMatch:
            return ResolverMatch(answer, (), {}, extra_kwargs={})

    app = django_handler([Resolver()], [NAMING])

    visit = asked(app, "/anything")

    assert (visit["status"], visit["endpoint"]) == (200, "/anything")
