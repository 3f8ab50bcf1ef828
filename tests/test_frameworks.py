"""Applications of real frameworks behave byte for byte the same with and without Tracker."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
import webtest
from werkzeug.test import EnvironBuilder

from wsgi_tracker import Tracker

FILE = Path(__file__)


def with_cookies(response: Any) -> Any:
    """Set two cookies: the header that stands in one answer more than once."""
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


def flask_app() -> Any:
    from flask import Blueprint, Flask, Response, redirect, request, send_file

    app = Flask("shop")
    boxes = Blueprint("boxes", "boxes", url_prefix="/boxes")

    @boxes.get("/<int:box_id>/")
    def box(box_id: int) -> dict[str, int]:
        return {"box": box_id}

    app.register_blueprint(boxes)
    app.post("/echo", endpoint="echo")(lambda: request.get_data())
    app.get("/stream", endpoint="stream")(lambda: Response(str(n) for n in range(5)))
    app.get("/file", endpoint="file")(lambda: send_file(FILE))
    app.get("/away", endpoint="away")(lambda: redirect("/boxes/1/"))
    app.get("/cookies", endpoint="cookies")(
        lambda: with_cookies(Response(request.cookies["seen"] + request.args["size"]))
    )
    app.get("/größe", endpoint="size")(lambda: "groß")
    app.get("/broken", endpoint="broken")(lambda: 1 / 0)
    return app.wsgi_app


def django_app() -> Any:
    from django.http import FileResponse, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt
    from django.views.decorators.http import require_safe
    from djangosite import COMMON, django_handler

    patterns = [
        path(
            "boxes/<int:box_id>/",
            require_safe(lambda request, box_id: HttpResponse(f"box {box_id}")),
        ),
        path("echo", csrf_exempt(lambda request: HttpResponse(request.body))),
        path("stream", lambda request: StreamingHttpResponse(str(n) for n in range(5))),
        path("file", lambda request: FileResponse(FILE.open("rb"))),
        path("away", lambda request: HttpResponseRedirect("/boxes/1/")),
        path(
            "cookies",
            lambda request: with_cookies(
                HttpResponse(request.COOKIES["seen"] + request.GET["size"])
            ),
        ),
        path("größe", lambda request: HttpResponse("groß")),
        path("broken", lambda request: 1 / 0),
    ]
    return django_handler(patterns, COMMON)


def pyramid_app() -> Any:
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPFound
    from pyramid.response import FileResponse, Response

    views: dict[str, Callable[..., Any]] = {
        "/boxes/{box_id}/": lambda request: Response("box " + request.matchdict["box_id"]),
        "/echo": lambda request: Response(request.body),
        "/stream": lambda request: Response(app_iter=(b"%d" % n for n in range(5))),
        "/file": lambda request: FileResponse(str(FILE), request=request),
        "/away": lambda request: HTTPFound("/boxes/1/"),
        "/cookies": lambda request: with_cookies(
            Response(request.cookies["seen"] + request.GET["size"])
        ),
        "/größe": lambda request: Response("groß"),
        "/broken": lambda request: 1 / 0,
    }
    with Configurator() as config:
        for number, (pattern, view) in enumerate(views.items()):
            config.add_route(str(number), pattern)
            config.add_view(view, route_name=str(number), request_method=("GET", "POST"))
        return config.make_wsgi_app()


def bottle_app() -> Any:
    from bottle import Bottle, redirect, request, response, static_file

    app = Bottle()
    app.get("/boxes/<box_id:int>/")(lambda box_id: {"box": box_id})
    app.post("/echo")(lambda: request.body.read())
    app.get("/stream")(lambda: (str(n) for n in range(5)))
    app.get("/file")(lambda: static_file(FILE.name, str(FILE.parent)))
    app.get("/away")(lambda: redirect("/boxes/1/"))
    app.get("/cookies")(
        lambda: with_cookies(response) and request.cookies["seen"] + request.query["size"]
    )
    app.get("/größe")(lambda: "groß")
    app.get("/broken")(lambda: 1 / 0)
    return app


def falcon_app() -> Any:
    import falcon

    def resource(answer: Callable[..., Any], *methods: str) -> Any:
        def respond(self: Any, *args: Any, **more: Any) -> None:
            answer(*args, **more)

        return type("Resource", (), dict.fromkeys(methods or ("on_get", "on_head"), respond))()

    def away(request: Any, response: Any) -> None:
        raise falcon.HTTPFound("/boxes/1/")

    def text(value: Any) -> Callable[..., None]:
        def answer(request: Any, response: Any, box_id: int = 0) -> None:
            response.text = value(request)

        return answer

    def cookies(request: Any, response: Any) -> None:
        with_cookies(response).text = request.cookies["seen"] + request.get_param("size")

    def stream(request: Any, response: Any) -> None:
        response.stream = (b"%d" % n for n in range(5))

    def file(request: Any, response: Any) -> None:
        response.stream = FILE.open("rb")

    app = falcon.App()
    app.req_options.strip_url_path_trailing_slash = False
    app.add_route("/boxes/{box_id:int}/", resource(text(lambda request: "box")))
    app.add_route("/echo", resource(text(lambda request: request.media), "on_post"))
    app.add_route("/stream", resource(stream))
    app.add_route("/file", resource(file))
    app.add_route("/away", resource(away))
    app.add_route("/cookies", resource(cookies))
    app.add_route("/größe", resource(text(lambda request: "groß")))
    app.add_route("/broken", resource(text(lambda request: str(1 / 0))))
    return app


REQUESTS = [
    # The statuses are those of all frameworks: the same wrong answer twice would be the same.
    pytest.param("GET", "/boxes/1/", b"", {"200"}, id="route"),
    pytest.param("HEAD", "/boxes/1/", b"", {"200"}, id="head"),
    pytest.param("GET", "/boxes/1", b"", {"301", "308", "404"}, id="slash missing"),
    pytest.param("POST", "/echo", b'"text"', {"200"}, id="post"),
    pytest.param("DELETE", "/boxes/1/", b"", {"404", "405"}, id="method not allowed"),
    pytest.param("GET", "/nowhere", b"", {"404"}, id="not found"),
    pytest.param("GET", "/stream", b"", {"200"}, id="stream"),
    pytest.param("GET", "/file", b"", {"200"}, id="file"),
    pytest.param("GET", "/away", b"", {"302", "303"}, id="redirect"),
    pytest.param("GET", "/cookies?size=2", b"", {"200"}, id="cookies"),
    pytest.param("GET", "/größe", b"", {"200"}, id="unicode"),
    pytest.param("GET", "/broken", b"", {"500", "raised"}, id="exception"),
]
FRAMEWORKS = [
    pytest.param(make, id=make.__name__.removesuffix("_app"))
    for make in (flask_app, django_app, pyramid_app, bottle_app, falcon_app)
]


def answer(app: Any, method: str, path: str, body: bytes) -> tuple[str, Any]:
    """Return the status, and all that a client could see, or a server would."""
    builder = EnvironBuilder(
        path,
        method=method,
        data=body,
        content_type="application/json",
        headers={"Cookie": "seen=1"},
    )
    environ = builder.get_environ()
    environ["wsgi.file_wrapper"] = FileWrapper
    # Frameworks print tracebacks there.
    environ["wsgi.errors"] = io.StringIO()
    builder.close()
    started: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        raised = exc_info and repr(exc_info[1])
        started.append((status, [header for header in headers if header[0] != "Date"], raised))
        return lambda data: None

    try:
        returned = app(environ, start_response)
        # Servers send a file by its type, and know the length of a single block.
        length = len(returned) if hasattr(returned, "__len__") else None
        known = isinstance(returned, FileWrapper), length
        try:
            content = b"".join(returned)
        finally:
            if hasattr(returned, "close"):
                returned.close()
    except Exception as error:
        return "raised", (started, repr(error))
    return started[-1][0][:3], (started, known, content)


@pytest.mark.parametrize("make", FRAMEWORKS)
@pytest.mark.parametrize(("method", "path", "body", "statuses"), REQUESTS)
def test_answer_is_the_same_with_and_without(
    make: Callable[[], Any],
    method: str,
    path: str,
    body: bytes,
    statuses: set[str],
    tracked: Callable[..., Tracker],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("CRITICAL")
    app = make()
    tracker = tracked(app)

    bare, wrapped = answer(app, method, path, body), answer(tracker, method, path, body)

    assert wrapped == bare
    assert bare[0] in statuses
    assert sum(hits(tracker).values()) == 1


def hits(tracker: Tracker) -> dict[tuple[str, str], int]:
    """Return how often each endpoint and method was asked for, as the API reports it."""
    stats = webtest.TestApp(tracker).get("/api/tracking/stats").json["stats"]
    return {(row["endpoint"], row["method"]): row["hit_count"] for row in stats}


@pytest.mark.parametrize(
    ("make", "template"),
    [
        pytest.param(flask_app, "/boxes/<int:box_id>/", id="flask"),
        pytest.param(bottle_app, "/boxes/<box_id:int>/", id="bottle"),
    ],
)
def test_endpoint_is_the_route_that_matched(
    make: Callable[[], Any], template: str, tracked: Callable[..., Tracker]
) -> None:
    tracker = tracked(make())

    answer(tracker, "GET", "/boxes/1/", b"")
    answer(tracker, "GET", "/boxes/2/", b"")
    answer(tracker, "GET", "/boxes/2", b"")
    answer(tracker, "DELETE", "/boxes/2/", b"")
    answer(tracker, "GET", "/nowhere", b"")

    assert hits(tracker) == {
        (template, "GET"): 2,
        ("(unmatched)", "GET"): 2,
        ("(unmatched)", "DELETE"): 1,
    }


@pytest.mark.parametrize("make", [flask_app, bottle_app])
def test_mounted_application_keeps_its_prefix(
    make: Callable[[], Any], tracked: Callable[..., Tracker]
) -> None:
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    tracker = tracked(DispatcherMiddleware(flask_app(), {"/shop": make()}))

    answer(tracker, "GET", "/shop/boxes/1/", b"")

    ((endpoint, _),) = hits(tracker)
    assert endpoint.startswith("/shop/boxes/<")


def test_path_is_the_endpoint_where_a_framework_is_not_asked(
    tracked: Callable[..., Tracker],
) -> None:
    tracker = tracked(flask_app(), endpoint="path")

    answer(tracker, "GET", "/boxes/1/", b"")
    answer(tracker, "GET", "/nowhere", b"")

    assert hits(tracker) == {("/boxes/1/", "GET"): 1, ("/nowhere", "GET"): 1}
