"""The HTTP API under the prefix: URL -> question -> answer -> JSON. Read only; knows no SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from werkzeug.wrappers import Response

from .asked import Report
from .auth import Auth
from .dashboard import dashboard_response
from .errors import (
    NotFoundError,
    QueryError,
    QueryTimeoutError,
    StorageError,
    logger,
)
from .export import TYPES
from .fresh import FreshAnswers
from .health import HealthCheck
from .insights import USER_REPORT
from .metrics import expose
from .openapi import Operation, describe
from .parameters import LONGEST_VALUE, Parameter
from .query import EXPORT, Question, parse_query
from .responses import (
    HEADERS,
    error_response,
    json_response,
    method_not_allowed,
    unauthorized,
    unless_known,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

RETRY_AFTER_SECONDS = 1
USERS = "users/"

Respond: TypeAlias = "Callable[[WSGIEnvironment, Question], Response]"


@dataclass(frozen=True, slots=True)
class Route:
    """One path of the API: what it takes, and what answers."""

    parameters: Sequence[Parameter]
    respond: Respond


class Api:
    """Answer requests under the prefix, if they may be asked."""

    def __init__(
        self,
        fresh: FreshAnswers,
        reports: Mapping[str, Report],
        auth: Auth,
        check: HealthCheck,
        *,
        has_dashboard: bool = True,
    ) -> None:
        self._fresh = fresh
        self._auth = auth
        self._check = check
        self._has_dashboard = has_dashboard
        self._routes = {
            **{
                name: Route(report.parameters, partial(self._report, report))
                for name, report in reports.items()
            },
            "export": Route(EXPORT, self._export),
            "health": Route((), self._health),
            "metrics": Route((), self._metrics),
            "openapi.json": Route((), self._openapi),
        }
        self._operations = [
            *(
                Operation(name, report.summary, report.parameters, schema=report.schema)
                for name, report in (*reports.items(), (f"{USERS}{{user_hash}}", USER_REPORT))
            ),
            Operation("export", "All visits, oldest first", EXPORT, tuple(TYPES.values())),
            Operation("health", "Whether all is well, and what is wrong", ()),
            Operation(
                "metrics", "Figures for Prometheus", (), ("text/plain",), may_be_missing=True
            ),
            Operation("openapi.json", "This description", ()),
        ]

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse, path: str
    ) -> Iterable[bytes]:
        """Answer the request for what ``path`` names, as a WSGI application does."""
        try:
            response = self._respond(environ, path)
        except QueryError as error:
            response = error_response(
                HTTPStatus.BAD_REQUEST, "bad_request", str(error), error.parameter
            )
        except NotFoundError as error:
            response = error_response(HTTPStatus.NOT_FOUND, "not_found", str(error))
        except QueryTimeoutError as error:
            response = error_response(HTTPStatus.SERVICE_UNAVAILABLE, "query_timeout", str(error))
        except StorageError as error:
            response = error_response(
                HTTPStatus.SERVICE_UNAVAILABLE, "storage_unavailable", str(error)
            )
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        except Exception:
            logger.exception("no report: a fault of wsgi_tracker's own")
            message = "the tracker failed to answer; its log says why"
            response = error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message)
        return response(environ, start_response)

    def _respond(self, environ: WSGIEnvironment, path: str) -> Response:
        # Before anybody is asked for a token: it is the page that asks for it.
        if self._has_dashboard and (file := dashboard_response(environ, path)):
            return file
        if not self._auth.allows(environ):
            return unauthorized(self._auth, environ.get("HTTP_AUTHORIZATION"))
        route = self._route(path)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return method_not_allowed()
        # As the path: bytes in latin-1 (PEP 3333), if they are not escaped.
        query = _as_utf8(environ.get("QUERY_STRING", ""))
        question = parse_query(query, route.parameters)
        return route.respond(environ, question)

    def _route(self, path: str) -> Route:
        if path.startswith(USERS) and 0 < len(path) - len(USERS) <= LONGEST_VALUE:
            user_hash = _as_utf8(path[len(USERS) :])
            return Route(USER_REPORT.parameters, partial(self._report, USER_REPORT, name=user_hash))
        if path in self._routes:
            return self._routes[path]
        known = ", ".join([*self._routes, f"{USERS}<user_hash>"])
        raise NotFoundError(f"there is no such report; there are {known}")

    def _report(
        self, report: Report, environ: WSGIEnvironment, question: Question, name: str = ""
    ) -> Response:
        answer, queue = self._fresh.ask(report, question, name)
        response = json_response(answer.body)
        if answer.cursor is not None:
            response.headers["Link"] = f'<?{question.with_cursor(answer.cursor)}>; rel="next"'
        if queue.size_bytes:
            response.headers["Wsgi-Tracker-Queued"] = str(queue.size_bytes)
        return unless_known(response, environ)

    def _export(self, environ: WSGIEnvironment, question: Question) -> Response:
        export, queue = self._fresh.export(question)
        blocks = export.blocks()
        first = next(blocks)  # what fails at once is told by a status
        response = Response(
            chain([first], blocks), headers=dict(HEADERS), content_type=TYPES[export.format]
        )
        name = f"visits.{export.format}"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        if queue.size_bytes:
            response.headers["Wsgi-Tracker-Queued"] = str(queue.size_bytes)
        return response

    def _health(self, environ: WSGIEnvironment, question: Question) -> Response:
        return json_response(self._check.look(self._fresh.now()).as_json())

    def _metrics(self, environ: WSGIEnvironment, question: Question) -> Response:
        health = self._check.look(self._fresh.now())
        text, content_type = expose(health, self._fresh.outcomes_ever())
        return Response(text, headers=dict(HEADERS), content_type=content_type)

    def _openapi(self, environ: WSGIEnvironment, question: Question) -> Response:
        url = environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"].removesuffix("/openapi.json")
        return json_response(describe(self._operations, quote(_as_utf8(url))))


def _as_utf8(text: str) -> str:
    return text.encode("latin-1", "replace").decode("utf-8", "replace")
