"""What Flask and Bottle leave of their routes names endpoints, whatever stands around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bottle import Bottle
from bottle import abort as bottle_abort
from calls import check_endpoint
from flask import Blueprint, Flask, Response, abort, redirect
from flask.views import MethodView
from werkzeug import Request

Asked = Callable[..., dict[str, Any]]


def flask_app() -> Flask:
    shop = Flask("shop")
    api = Blueprint("api", "api", url_prefix="/api")
    boxes = Blueprint("boxes", "boxes", url_prefix="/boxes")

    @boxes.get("/<int:box_id>/")
    def box(box_id: int) -> str:
        return "box"

    @boxes.get("/missing/<int:box_id>")
    def missing(box_id: int) -> str:
        abort(404)

    class Versions(MethodView):
        def get(self, version: str) -> str:
            return version

    api.register_blueprint(boxes)
    shop.register_blueprint(api)
    shop.register_blueprint(boxes, name="old", url_prefix="/old")
    shop.add_url_rule("/v/<version>", view_func=Versions.as_view("versions"))
    shop.get("/broken/<int:box_id>", endpoint="broken")(lambda box_id: 1 / 0)
    shop.get("/moved", endpoint="moved")(lambda: redirect("/api/boxes/1/"))
    shop.get("/stream/<int:count>", endpoint="stream")(
        lambda count: Response(b"box" for _ in range(count))
    )
    shop.get("/größe/<name>", endpoint="size")(lambda name: name)
    shop.patch("/changed/<int:box_id>", endpoint="changed")(lambda box_id: "box")
    return shop


def bottle_app() -> Bottle:
    shop = Bottle()
    inner = Bottle()
    inner.get("/inner/<name>")(lambda name: name)
    merged = Bottle()
    merged.get("/merged/<name:re:[a-z]+>")(lambda name: name)
    shop.get("/boxes/<box_id:int>/")(lambda box_id: "box")
    shop.get("/missing/<box_id:int>")(lambda box_id: bottle_abort(404))
    shop.get("/broken/<box_id:int>")(lambda box_id: 1 / 0)
    shop.get("/stream/<count:int>")(lambda count: (b"box" for _ in range(count)))
    shop.get("/files/<path:path>")(lambda path: path)
    shop.get("/größe/<name>")(lambda name: name)
    shop.route("/changed/<box_id:int>", "PATCH")(lambda box_id: "box")
    shop.mount("/mounted/", inner)
    shop.merge(merged)
    return shop


FLASK = [
    pytest.param("GET", "/api/boxes/1/", 200, "/api/boxes/<int:box_id>/", id="nested blueprint"),
    pytest.param("HEAD", "/old/1/", 200, "/old/<int:box_id>/", id="head"),
    pytest.param("OPTIONS", "/old/1/", 200, "/old/<int:box_id>/", id="options"),
    pytest.param("GET", "/old/missing/1", 404, "/old/missing/<int:box_id>", id="view says 404"),
    pytest.param("GET", "/broken/1", 500, "/broken/<int:box_id>", id="exception"),
    pytest.param("GET", "/moved", 302, "/moved", id="redirect"),
    pytest.param("GET", "/stream/3", 200, "/stream/<int:count>", id="streaming"),
    pytest.param("GET", "/v/2", 200, "/v/<version>", id="class of views"),
    pytest.param("GET", "/static/nothing", 404, "/static/<path:filename>", id="no such file"),
    pytest.param("GET", "/old/1", 308, None, id="slash appended"),
    pytest.param("POST", "/v/2", 405, None, id="method not allowed"),
    pytest.param("OPTIONS", "/nowhere", 404, None, id="options of nothing"),
    pytest.param("GET", "/old/x/", 404, None, id="converter refuses"),
]
BOTTLE = [
    pytest.param("GET", "/boxes/1/", 200, "/boxes/<box_id:int>/", id="rule"),
    pytest.param("HEAD", "/boxes/1/", 200, "/boxes/<box_id:int>/", id="head"),
    pytest.param("GET", "/missing/1", 404, "/missing/<box_id:int>", id="view says 404"),
    pytest.param("GET", "/broken/1", 500, "/broken/<box_id:int>", id="exception"),
    pytest.param("GET", "/stream/3", 200, "/stream/<count:int>", id="streaming"),
    pytest.param("GET", "/files/a/b", 200, "/files/<path:path>", id="several segments"),
    pytest.param("GET", "/merged/a", 200, "/merged/<name:re:[a-z]+>", id="merged"),
    pytest.param("GET", "/mounted/inner/a", 200, "/mounted/inner/<name>", id="mounted by Bottle"),
    pytest.param("GET", "/boxes/1", 404, None, id="slash missing"),
    pytest.param("OPTIONS", "/boxes/1/", 405, None, id="options"),
    pytest.param("DELETE", "/boxes/1/", 405, None, id="method not allowed"),
]


@pytest.mark.parametrize("prefix", ["", "/shop"])
@pytest.mark.parametrize(("method", "url", "status", "endpoint"), FLASK)
def test_rule_of_flask_is_the_endpoint(
    method: str, url: str, status: int, endpoint: str | None, prefix: str, asked: Asked
) -> None:
    visit = check_endpoint(asked, flask_app(), prefix, method, url, status, endpoint)

    assert visit["method"] == method


@pytest.mark.parametrize("prefix", ["", "/shop"])
@pytest.mark.parametrize(("method", "url", "status", "endpoint"), BOTTLE)
def test_rule_of_bottle_is_the_endpoint(
    method: str, url: str, status: int, endpoint: str | None, prefix: str, asked: Asked
) -> None:
    visit = check_endpoint(asked, bottle_app(), prefix, method, url, status, endpoint)

    assert visit["method"] == method


@pytest.mark.parametrize("make", [flask_app, bottle_app])
def test_rules_and_prefixes_are_spelled_in_any_script(make: Any, asked: Asked) -> None:
    """Rules are text and environ is not: a rule beyond ASCII was stored with U+FFFD."""
    request = {"SCRIPT_NAME": "/übung".encode().decode("latin-1")}
    path = "/größe/ä".encode().decode("latin-1")

    assert asked(make(), path)["endpoint"] == "/größe/<name>"
    assert asked(make(), path, **request)["endpoint"] == "/übung/größe/<name>"


def test_handlers_of_errors_change_no_endpoint(asked: Asked) -> None:
    """A page for lost visitors is not found, though it says 200."""
    app = flask_app()
    app.register_error_handler(404, lambda error: "Lost?")
    app.register_error_handler(500, lambda error: ("Sorry", 503))
    other = bottle_app()
    other.error(404)(lambda error: "Lost?")

    flask = [asked(app, url) for url in ("/nowhere", "/old/missing/1", "/broken/1")]
    bottle = [asked(other, url) for url in ("/nowhere", "/missing/1")]

    assert [(visit["status"], visit["endpoint"]) for visit in flask] == [
        (200, "(unmatched)"),
        (200, "/old/missing/<int:box_id>"),
        (503, "/broken/<int:box_id>"),
    ]
    assert [visit["endpoint"] for visit in bottle] == ["(unmatched)", "/missing/<box_id:int>"]


def test_exception_that_reaches_the_server_keeps_its_rule(asked: Asked) -> None:
    """Bottle leaves its route; Flask has cleared its request by then, and the path counts."""
    app = bottle_app()
    app.catchall = False

    visit = asked(app, "/broken/1")

    assert (visit["status"], visit["error"]) == (500, "ZeroDivisionError")
    assert visit["endpoint"] == "/broken/<box_id:int>"


def test_werkzeug_request_of_a_middleware_hides_no_rule(asked: Asked) -> None:
    """Each path of the application became an endpoint."""
    app = bottle_app()

    def middleware(environ: dict[str, Any], start_response: Any) -> Any:
        assert Request(environ).path
        return app(environ, start_response)

    assert asked(middleware, "/boxes/1/")["endpoint"] == "/boxes/<box_id:int>/"
    assert asked(middleware, "/nowhere")["endpoint"] == "(unmatched)"


def test_flask_mounted_by_bottle_counts_under_its_mount(asked: Asked) -> None:
    """Bottle starts the response when Flask is done; no path of Flask's is an endpoint."""
    app = bottle_app()
    app.mount("/flask/", flask_app().wsgi_app)

    visit = asked(app, "/flask/api/boxes/1/")

    assert (visit["endpoint"], visit["status"]) == ("/flask/<:re:.*>", 200)


class MethodOverride:
    """What Flask's and Bottle's users put around an application for clients without PATCH."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ["REQUEST_METHOD"] = environ["HTTP_X_HTTP_METHOD_OVERRIDE"]
        return self.app(environ, start_response)


@pytest.mark.parametrize("make", [flask_app, bottle_app])
def test_method_is_the_one_the_client_sent_whatever_a_middleware_makes_of_it(
    make: Any, asked: Asked
) -> None:
    app = MethodOverride(make())

    visit = asked(app, "/changed/1", "POST", HTTP_X_HTTP_METHOD_OVERRIDE="PATCH")

    # It is read before the application is called. The view was found for PATCH.
    assert (visit["method"], visit["status"]) == ("POST", 200)
    assert visit["endpoint"].startswith("/changed/<")
