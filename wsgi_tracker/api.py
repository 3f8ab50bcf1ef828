"""The JSON API: URL -> query -> storage -> report. Read only; knows no SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Response

from .auth import ADVICE, Auth
from .errors import Outage, QueryError, StorageError, logger
from .health import HealthCheck, waits_long
from .ingest import Queue
from .period import PERIODS, TREND_PERIODS, Granularity, window_start
from .query import HEALTH, STATS, SUMMARY, TRENDS, VISITS, Parameter, parse_query
from .reports import visit_as_json
from .storage import NotIngestedError, Storage
from .unread import UnreadLines

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CATCH_UP_SECONDS = 1.0
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a report, at ``now``; ``unread`` is to be taken along.

    ``queue`` is what the report does not hold, or holds though it waits for long.
    """

    question: dict[str, Any]
    now: int  # microseconds since the epoch
    unread: UnreadLines | None = None
    queue: Queue = field(default_factory=Queue)


@dataclass(frozen=True, slots=True)
class Report:
    """One endpoint of the API: what it takes, and what answers."""

    parameters: Sequence[Parameter]
    answer: Callable[[Asked], dict[str, Any]]
    needs_storage: bool = True


class Api:
    """Answer requests under the prefix.

    ``open_unread()`` opens what waits in the spool to be taken along, where this process ingests by
    itself; ``catch_up(seconds)`` makes storage hold every request answered before now, if it can.
    ``clock()`` is nanoseconds since the epoch. ``unique_users_basis`` is named where unique users
    are no people.
    """

    def __init__(
        self,
        storage: Storage,
        auth: Auth,
        open_unread: Callable[[], AbstractContextManager[UnreadLines | None]],
        catch_up: Callable[[float], Queue],
        check: HealthCheck,
        clock: Callable[[], int],
        *,
        unique_users_basis: str | None = None,
    ) -> None:
        self._storage = storage
        self._auth = auth
        self._open_unread = open_unread
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
        asked = Asked(question, self._clock() // 1000)
        if not report.needs_storage:
            return _json(HTTPStatus.OK, report.answer(asked))
        answer, queue = self._ask(report, asked)
        self._outage.over()
        response = _json(HTTPStatus.OK, answer)
        if queue.size_bytes:
            response.headers["Wsgi-Tracker-Queued"] = str(queue.size_bytes)
        return response

    def _ask(self, report: Report, asked: Asked) -> tuple[dict[str, Any], Queue]:
        """Answer with all that was recorded before; return what could not be taken along, too."""
        with self._open_unread() as unread:
            if unread is not None:
                with suppress(NotIngestedError):
                    return self._take_along(report, asked, unread)
        return self._answer_behind(report, asked)

    def _take_along(
        self, report: Report, asked: Asked, unread: UnreadLines
    ) -> tuple[dict[str, Any], Queue]:
        answer = self._answer(report, replace(asked, unread=unread))
        oldest = unread.oldest_timestamp
        if oldest is None or not waits_long(oldest, asked.now):
            return answer, Queue()
        # A request that took long is as old, and is ingested if anything is.
        with suppress(StorageError):
            return self._answer_behind(report, asked)
        asked = replace(asked, unread=unread, queue=Queue(oldest_timestamp=oldest))
        return self._answer(report, asked), asked.queue

    def _answer_behind(self, report: Report, asked: Asked) -> tuple[dict[str, Any], Queue]:
        """Answer behind the ingest of what waits."""
        queue = self._catch_up(CATCH_UP_SECONDS)  # it logs what stops it
        asked = replace(asked, now=self._clock() // 1000, queue=queue)
        return self._answer(report, asked), queue

    def _answer(self, report: Report, asked: Asked) -> dict[str, Any]:
        try:
            return report.answer(asked)
        except StorageError as error:
            self._outage.report(str(error))
            raise

    def _stats(self, asked: Asked) -> dict[str, Any]:
        period, only = asked.question["period"], asked.question["class"]
        start = window_start(PERIODS[period], asked.now)
        rows = self._storage.stats(start, only, asked.unread)
        return {
            "stats": [row.as_json() for row in rows],
            "period": period,
            "total_endpoints": len({row.endpoint for row in rows}),
            **self._basis,
        }

    def _summary(self, asked: Asked) -> dict[str, Any]:
        period, only = asked.question["period"], asked.question["class"]
        start = window_start(PERIODS[period], asked.now)
        summary = self._storage.summary(start, only, asked.unread)
        active = not self._check.problems(asked.queue.oldest_timestamp, asked.now)
        totals = {**summary.as_json(), "tracking_active": active}
        return {"period": period, **totals, **self._basis}

    def _trends(self, asked: Asked) -> dict[str, Any]:
        period, only = asked.question["period"], asked.question["class"]
        granularity = Granularity(asked.question["granularity"])
        start = window_start(TREND_PERIODS[period], asked.now)
        buckets = self._storage.trends(start, granularity, only, asked.unread)
        return {
            "trends": [bucket.as_json() for bucket in buckets],
            "granularity": granularity.value,
            "period": period,
            **self._basis,
        }

    def _visits(self, asked: Asked) -> dict[str, Any]:
        limit, only = asked.question["limit"], asked.question["class"]
        visits = self._storage.visits(limit, only, asked.unread)
        return {"visits": [visit_as_json(visit) for visit in visits], "count": len(visits)}

    def _health(self, asked: Asked) -> dict[str, Any]:
        return self._check.look(asked.now).as_json()


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
