"""The dashboard's files: a page that holds no data, and asks the API for it in the browser.

Served as they stand in this folder, to everybody: the token is asked for by the page, and sent to
the API alone. No path of a request is ever opened; a table has every file that there is.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import quote

from werkzeug.wrappers import Response

from ..responses import method_not_allowed, unless_known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed.wsgi import WSGIEnvironment

NAME = "dashboard"
PAGE = "index.html"
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
NAMES = (
    PAGE,
    "dashboard.css",
    "icon.svg",
    *(
        f"{name}.js"
        for name in (
            "api breakdowns buckets cards chart controls csv dom endpoints format health live main "
            "panel state table trend user visits"
        ).split()
    ),
)
# Nothing but these files, and the API beside them: no inline script, no eval, no other host, no
# frame. A string of a visitor that became markup in spite of all could do nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked for anew: a release changes all files at once
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def dashboard_response(environ: WSGIEnvironment, path: str) -> Response | None:
    """Return the file that ``path``, below the prefix, names; ``None`` where it is none of these.

    The page is at ``dashboard``, and all it needs at ``dashboard/<file>``, so that links without a
    host and a root work under any prefix and mount point. Who puts a slash behind the page is sent to
    it, and so is a browser that asks for the prefix alone; to programs there is nothing.
    """
    target = _target(environ, path)
    name = PAGE if path == NAME else path.removeprefix(f"{NAME}/")
    if target is None and (name == path or name not in _bodies() or path == f"{NAME}/{PAGE}"):
        return None
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return method_not_allowed()
    if target is not None:
        query = environ.get("QUERY_STRING", "")
        location = f"{target}?{query}" if query else target
        return Response(status=HTTPStatus.FOUND, headers={**HEADERS, "Location": location})
    body = _bodies()[name]
    response = Response(body, headers=dict(HEADERS), content_type=TYPES[name.rpartition(".")[2]])
    return unless_known(response, environ)


def _target(environ: WSGIEnvironment, path: str) -> str | None:
    """Return where the page is, seen from what is not quite its address."""
    if path == f"{NAME}/":
        return f"../{NAME}"
    if path or "text/html" not in environ.get("HTTP_ACCEPT", ""):
        return None
    asked: str = environ["PATH_INFO"]
    if asked.endswith("/"):
        return f"./{NAME}"
    # A relative address needs the last segment again; bytes in latin-1 (PEP 3333).
    return f"./{quote(asked.rpartition('/')[2].encode('latin-1', 'replace'))}/{NAME}"


@cache
def _bodies() -> Mapping[str, bytes]:
    """Read all files, once in a process: 100 kB."""
    folder = files(__name__)
    return {name: folder.joinpath(name).read_bytes() for name in NAMES}
