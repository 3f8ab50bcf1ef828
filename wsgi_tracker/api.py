"""The JSON API: URL -> query -> storage -> report. Read only; knows no SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Response

from .auth import ADVICE, Auth
from .errors import Outage, QueryError, StorageError, logger
from .health import HealthCheck
from .ingest import Queue
from .period import PERIODS, TREND_PERIODS, Granularity, window_start
from .query import HEALTH, STATS, SUMMARY, TRENDS, VISITS, Parameter, parse_query
from .reports import visit_as_json
from .storage import Storage

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CATCH_UP_SECONDS = 1.0
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Report:
    """One endpoint of the API: what it takes, and what answers."""

    parameters: Sequence[Parameter]
    answer: Callable[[dict[str, Any], int, Queue], dict[str, Any]]
    needs_storage: bool = True


class Api:
    """Answer requests under the prefix.

    ``catch_up(seconds)`` makes storage hold every request answered before now, if it can;
    ``clock()`` is nanoseconds since the epoch. ``unique_users_basis`` is named where unique users
    are no people.
    """

    def __init__(
        self,
        storage: Storage,
        auth: Auth,
        catch_up: Callable[[float], Queue],
        check: HealthCheck,
        clock: Callable[[], int],
        *,
        unique_users_basis: str | None = None,
    ) -> None:
        self._storage = storage
        self._auth = auth
        self._catch_up = catch_up
        self._check = check
        self._clock = clock
        basis = {"unique_users_basis": unique_users_basis}
        self._basis = basis if unique_users_basis else {}
        self._outage = Outage("reports answer 503")
        self._reports = {
            "stats": Report(STATS, self._stats),
            "summary": Report(SUMMARY, self._summary),
            "trends": Report(TRENDS, self._trends),
            "visits": Report(VISITS, self._visits),
            "health": Report(HEALTH, self._health, needs_storage=False),
        }

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse, name: str
    ) -> Iterable[bytes]:
        """Answer the request for the report ``name``, as a WSGI application does."""
        try:
            response = self._respond(environ, name)
        except QueryError as error:
            response = _error(HTTPStatus.BAD_REQUEST, "bad_request", str(error), error.parameter)
        except StorageError as error:
            response = _error(HTTPStatus.SERVICE_UNAVAILABLE, "storage_unavailable", str(error))
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        except Exception:
            logger.exception("no report: a fault of wsgi_tracker's own")
            message = "the tracker failed to answer; its log says why"
            response = _error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message)
        return response(environ, start_response)

    def _respond(self, environ: WSGIEnvironment, name: str) -> Response:
        if not self._auth.allows(environ):
            return _unauthorized(self._auth, environ.get("HTTP_AUTHORIZATION"))
        report = self._reports.get(name)
        if report is None:
            message = f"there is no such report; there are {', '.join(self._reports)}"
            return _error(HTTPStatus.NOT_FOUND, "not_found", message)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            response = _error(
                HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "reports take GET and HEAD"
            )
            response.headers["Allow"] = "GET, HEAD"
            return response
        question = parse_query(environ.get("QUERY_STRING", ""), report.parameters)
        queue = self._catch_up(CATCH_UP_SECONDS) if report.needs_storage else Queue()
        now = self._clock() // 1000
        response = _json(HTTPStatus.OK, self._answer(report, question, queue, now))
        if queue.size_bytes:
            response.headers["Wsgi-Tracker-Queued"] = str(queue.size_bytes)
        return response

    def _answer(
        self, report: Report, question: dict[str, Any], queue: Queue, now: int
    ) -> dict[str, Any]:
        try:
            answer = report.answer(question, now, queue)
        except StorageError as error:  # what stopped catch_up is logged there
            self._outage.report(str(error))
            raise
        if report.needs_storage:
            self._outage.over()
        return answer

    def _stats(self, question: dict[str, Any], now: int, queue: Queue) -> dict[str, Any]:
        period = question["period"]
        rows = self._storage.stats(window_start(PERIODS[period], now), question["class"])
        return {
            "stats": [row.as_json() for row in rows],
            "period": period,
            "total_endpoints": len({row.endpoint for row in rows}),
            **self._basis,
        }

    def _summary(self, question: dict[str, Any], now: int, queue: Queue) -> dict[str, Any]:
        period = question["period"]
        summary = self._storage.summary(window_start(PERIODS[period], now), question["class"])
        active = not self._check.problems(queue.oldest_timestamp, now)
        totals = {**summary.as_json(), "tracking_active": active}
        return {"period": period, **totals, **self._basis}

    def _trends(self, question: dict[str, Any], now: int, queue: Queue) -> dict[str, Any]:
        granularity, period = Granularity(question["granularity"]), question["period"]
        start = window_start(TREND_PERIODS[period], now)
        buckets = self._storage.trends(start, granularity, question["class"])
        return {
            "trends": [bucket.as_json() for bucket in buckets],
            "granularity": granularity.value,
            "period": period,
            **self._basis,
        }

    def _visits(self, question: dict[str, Any], now: int, queue: Queue) -> dict[str, Any]:
        visits = self._storage.visits(question["limit"], question["class"])
        return {"visits": [visit_as_json(visit) for visit in visits], "count": len(visits)}

    def _health(self, question: dict[str, Any], now: int, queue: Queue) -> dict[str, Any]:
        return self._check.look(now).as_json()


def _json(status: HTTPStatus, document: dict[str, Any]) -> Response:
    return Response(
        json.dumps(document) + "\n",
        status,
        {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        content_type="application/json",
    )


def _error(status: HTTPStatus, code: str, message: str, parameter: str | None = None) -> Response:
    return _json(status, {"error": {"code": code, "message": message, "parameter": parameter}})


def _unauthorized(auth: Auth, given: str | None) -> Response:
    if auth.has_token:
        message = "send the header 'Authorization: Bearer <your-api-token>'"
        if given is not None:
            is_bearer = given[:7].lower() == "bearer "
            kind = "no token that is set here" if is_bearer else "no Bearer token"
            message += f"; what it holds is {kind}"
    else:
        message = f"reports need a token here, and none is set: {ADVICE}"
    response = _error(HTTPStatus.UNAUTHORIZED, "unauthorized", message)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response
