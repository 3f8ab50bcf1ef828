"""How the dashboard's files are served: to everybody, from anywhere, and nothing but these."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urljoin

import pytest
import webtest

from wsgi_tracker import ConfigurationError, Tracker
from wsgi_tracker.dashboard import NAMES, POLICY

Client = Callable[..., webtest.TestApp]
PAGE = "/api/tracking/dashboard"
OURS = {path.name: path for path in files("wsgi_tracker.dashboard").iterdir()}
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MAX_BYTES = 100_000
# It names what kind of element is made; nobody asks for it.
SVG = "http://www.w3.org/2000/svg"


def asset(name: str) -> str:
    return PAGE if name == "index.html" else f"{PAGE}/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_as_it_is_and_needs_no_token(name: str, client: Client) -> None:
    response = client(token="right").get(asset(name))

    assert response.body == OURS[name].read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_a_browser_may_do_with_it(name: str, client: Client) -> None:
    headers = client().get(asset(name)).headers

    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"


def test_policy_lets_no_inline_code_and_no_other_host() -> None:
    assert "default-src 'none'" in POLICY
    assert "connect-src 'self'" in POLICY
    assert "unsafe" not in POLICY
    assert "*" not in POLICY


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("main.js", "text/javascript; charset=utf-8"),
        ("dashboard.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_file_has_its_type(name: str, content_type: str, client: Client) -> None:
    assert client().get(asset(name)).headers["Content-Type"] == content_type


def test_table_has_every_file_of_the_folder() -> None:
    assert set(NAMES) == {name for name in OURS if not name.startswith("__")}


def test_head_has_the_headers_alone(client: Client) -> None:
    app = client()

    head, whole = app.head(PAGE), app.get(PAGE)

    assert head.body == b""
    assert head.headers["Content-Length"] == str(len(whole.body))
    assert head.headers["ETag"] == whole.headers["ETag"]


def test_file_that_is_known_is_not_sent_again(client: Client) -> None:
    app = client()
    tag = app.get(asset("main.js")).headers["ETag"]

    known = app.get(asset("main.js"), headers={"If-None-Match": tag}, status=304)
    other = app.get(asset("table.js"), headers={"If-None-Match": tag})

    assert known.body == b""
    assert known.headers["Content-Security-Policy"] == POLICY
    assert other.body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/", f"{PAGE}/main.js"])
def test_files_take_get_and_head_alone(method: str, path: str, client: Client) -> None:
    response = client().request(path, method=method, status=405)

    assert response.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing.js",
        "index.html",
        "__init__.py",
        "../api.py",
        "..%2fapi.py",
        "main.js/",
        "/main.js",
        "MAIN.JS",
        "main.js%00",
    ],
)
def test_nothing_else_is_served(name: str, client: Client) -> None:
    response = client(token="right").get(f"{PAGE}/{name}", expect_errors=True)

    assert response.status_int == (401 if name else 302)


@pytest.mark.parametrize("mount", ["", "/mounted"])
@pytest.mark.parametrize("prefix", ["/api/tracking", "/x", "/é/a:b c"])
@pytest.mark.parametrize("behind", ["", "/", "/dashboard/"])
def test_who_is_not_quite_at_the_page_is_sent_to_it(
    mount: str, prefix: str, behind: str, tracked: Callable[..., Tracker]
) -> None:
    app = webtest.TestApp(tracked(prefix=prefix), extra_environ={"SCRIPT_NAME": mount})
    path = quote(prefix)

    response = app.get(f"{path}{behind}?period=day", headers=BROWSER, status=302)

    url = urljoin(f"http://localhost{mount}{path}{behind}", response.headers["Location"])
    assert url == f"http://localhost{mount}{path}/dashboard?period=day"


@pytest.mark.parametrize("accept", ["", "*/*", "application/json"])
def test_programs_find_nothing_at_the_prefix(accept: str, client: Client) -> None:
    response = client().get("/api/tracking", headers={"Accept": accept}, status=404)

    assert response.json["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/main.js", f"{PAGE}/", "/api/tracking/"])
def test_it_can_be_switched_off(path: str, client: Client) -> None:
    response = client(dashboard=False).get(path, headers=BROWSER, status=404)

    assert response.json["error"]["code"] == "not_found"


@pytest.mark.parametrize("value", [None, 1, "no"])
def test_switch_is_true_or_false(value: Any, tracked: Callable[..., Tracker]) -> None:
    with pytest.raises(ConfigurationError, match="dashboard is True or False"):
        tracked(dashboard=value)


def test_visits_of_the_page_are_none(client: Client) -> None:
    app = client()

    app.get(PAGE)

    assert app.get("/api/tracking/summary").json["total_hits"] == 0


def test_programs_are_told_nothing_of_it(client: Client) -> None:
    assert "dashboard" not in client().get("/api/tracking/openapi.json").text


def test_all_files_together_weigh_little() -> None:
    assert sum(len(OURS[name].read_bytes()) for name in NAMES) <= MAX_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_host(name: str) -> None:
    text = OURS[name].read_text().replace(SVG, "")

    assert not re.search(r"(https?:)?//[\w.-]+\.\w|@import|url\((?!#)", text)


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".js")])
def test_no_script_makes_markup_of_text(name: str) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"

    assert not re.search(forbidden, OURS[name].read_text())


def test_every_script_is_asked_for_by_the_page_or_by_the_first_one() -> None:
    """What only others import would come a round trip later."""
    preloaded = re.findall(
        r'rel="modulepreload" href="dashboard/([\w.]+)"', OURS["index.html"].read_text()
    )
    imported = re.findall(r'from "\./([\w.]+)"', OURS["main.js"].read_text())

    scripts = {name for name in NAMES if name.endswith(".js")}
    assert {"main.js", *preloaded, *imported} == scripts


def test_page_has_nothing_that_its_policy_forbids() -> None:
    page = OURS["index.html"].read_text()

    assert not re.search(r"<style|<script(?! type=\"module\" src=)|<[^>]* (style|on\w+)=", page)
