"""Which endpoint a request belongs to: the framework's route template, else the path.

Everything here reads what a framework leaves in ``environ``; nothing is imported from any, and for
those that leave nothing ``integrations`` names the endpoint. Werkzeug and Flask clear theirs after
the response, so it is read in ``start_response``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

EXPLICIT = "wsgi_tracker.endpoint"
UNMATCHED = "(unmatched)"
OTHER = "(other)"

# A whole segment, or one before extensions that begin with a letter: 1.0 is a version.
_ID = re.compile(
    r"(?<=/)(?:(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|(?P<int>[0-9]+)"
    r"|(?P<hex>[0-9a-f]{16,}))(?=(?:\.[a-z][a-z0-9]*)*(?:/|\Z))",
    re.ASCII | re.IGNORECASE,
)

EndpointFinder: TypeAlias = "Callable[[WSGIEnvironment], str | None]"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """How a request gets its endpoint.

    ``find`` returns ``None`` where that is the path itself: with ``collapses_ids`` without the ids
    in it, and with ``folds_not_found`` unmatched where the answer is 404.
    """

    find: EndpointFinder
    folds_not_found: bool = False
    collapses_ids: bool = False


def endpoints_by(endpoint: str | EndpointFinder, *, collapse_ids: bool = False) -> Endpoints:
    """Return what the options say of endpoints."""
    if callable(endpoint):
        if collapse_ids:
            raise ConfigurationError("collapse_ids is for paths; a callable names no path")
        return Endpoints(_decided_by(endpoint))
    if endpoint == "route":
        return Endpoints(route_template, folds_not_found=True, collapses_ids=collapse_ids)
    if endpoint == "path":
        return Endpoints(_path_itself, collapses_ids=collapse_ids)
    raise ConfigurationError(f"endpoint is 'route', 'path' or a callable, given {endpoint!r}")


def route_template(environ: WSGIEnvironment) -> str | None:
    """Return the template that the request matched, with the prefix it is mounted under."""
    if environ.get(EXPLICIT) is not None:
        return str(environ[EXPLICIT])
    # Any middleware may make a plain Werkzeug request, which has no url_rule; Flask leaves None
    # behind when it is done.
    request: Any = environ.get("werkzeug.request")
    if request is not None and hasattr(request, "url_rule"):
        return _werkzeug(environ, request)
    if "bottle.app" in environ:
        return _bottle(environ)
    if "wsgiorg.routing_args" in environ:
        return _routing_args(environ)
    return None


def name_endpoint(environ: WSGIEnvironment, template: str | None) -> None:
    """Name the endpoint of a request for an integration, with the prefix it is mounted under.

    ``None`` says that no route matched. What the application named itself stays.
    """
    if environ.get(EXPLICIT) in (None, UNMATCHED):
        if template is None:
            environ[EXPLICIT] = UNMATCHED
        else:
            slash = "" if template.startswith("/") else "/"
            environ[EXPLICIT] = _mounted(environ, slash + template)


def collapse_ids(path: str) -> str:
    """Put ``<int>``, ``<uuid>`` and ``<hex>`` (16 digits or more) in place of ids in a path."""
    return _ID.sub(lambda found: f"<{found.lastgroup}>", path)


def _path_itself(environ: WSGIEnvironment) -> str | None:
    return None


def _decided_by(decide: EndpointFinder) -> EndpointFinder:
    def find(environ: WSGIEnvironment) -> str:
        endpoint = decide(environ)
        return UNMATCHED if endpoint is None else str(endpoint)

    return find


def _werkzeug(environ: WSGIEnvironment, request: Any) -> str:
    # Flask's is None when nothing matched: 404, 405 and the router's own redirects.
    return UNMATCHED if request.url_rule is None else _mounted(environ, request.url_rule.rule)


def _bottle(environ: WSGIEnvironment) -> str:
    route: Any = environ.get("bottle.route")
    return UNMATCHED if route is None else _mounted(environ, route.rule)


def _routing_args(environ: WSGIEnvironment) -> str | None:
    """Put names back in place of values: ``wsgiorg.routing_args`` holds values, no template.

    Without any, the path itself is one, or nothing matched.
    """
    positional, named = environ["wsgiorg.routing_args"]
    # Routes puts an object there, and the names of its handlers beside the arguments; they stand
    # in many paths.
    places = enumerate(positional) if isinstance(positional, (list, tuple)) else ()
    handlers = ("controller", "action")
    values = [(_text(str(value)), name) for name, value in named.items() if name not in handlers]
    values += [(_text(str(value)), str(place)) for place, value in places]
    if not (values or named):
        return None
    # A router may have moved what it matched to SCRIPT_NAME.
    path = _text(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
    # Longest first, so that a value cannot be replaced within a longer one; from the right, as a
    # prefix that is no argument stands on the left.
    values.sort(key=lambda pair: len(pair[0]))
    for value, name in reversed(values):
        path = _replace_segments(path, value, "{" + name + "}")
    return path


def _replace_segments(path: str, value: str, name: str) -> str:
    """Replace the last whole run of segments that equals ``value``."""
    value = value.strip("/")
    found = f"{path}/".rfind(f"/{value}/")
    if not value or found < 0:
        return path
    return path[: found + 1] + name + path[found + 1 + len(value) :]


def _mounted(environ: WSGIEnvironment, rule: str) -> str:
    script: str = environ.get("SCRIPT_NAME", "")
    return _text(script).rstrip("/") + rule


def _text(value: str) -> str:
    """Return what a string of environ says: UTF-8 read as latin-1 (PEP 3333), or text already.

    Templates are text, and so is the ``SCRIPT_NAME`` that Django puts back.
    """
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
