"""What the four reports of the contract answer, and what parameters add to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import tzinfo
from typing import Any

from .asked import Answer, Asked, Report, about, bounds, selection_of, span_before, span_of
from .errors import QueryError
from .health import HealthCheck
from .paging import DEFAULT_SORT, cursor_of_visits, page_of_stats, position_of, sort_rows
from .period import Granularity, bucket_label, bucket_start, next_bucket
from .query import STATS, SUMMARY, TRENDS, VISITS, Question
from .reports import Outcomes, TrendBucket, visit_as_json
from .schemas import OF_STATS, OF_SUMMARY, OF_TRENDS, OF_VISITS
from .selection import Selection
from .spans import Span
from .storage import Snapshot

MAX_BUCKETS = 10_000


class Answers:
    """The four reports, by name.

    ``unique_users_basis`` is named where unique users are no people.
    """

    def __init__(self, check: HealthCheck, unique_users_basis: str | None = None) -> None:
        self._check = check
        basis = {"unique_users_basis": unique_users_basis}
        self._basis = basis if unique_users_basis else {}
        self.reports = {
            "stats": Report(
                "Hits and unique users of each endpoint",
                STATS,
                self._stats,
                OF_STATS,
                is_quick=True,
            ),
            "summary": Report("Totals", SUMMARY, self._summary, OF_SUMMARY, is_quick=True),
            "trends": Report("Visits over time", TRENDS, self._trends, OF_TRENDS, is_quick=True),
            "visits": Report("The newest visits", VISITS, self._visits, OF_VISITS, is_quick=True),
        }

    def _stats(self, asked: Asked, snapshot: Snapshot) -> Answer:
        question, span = asked.question, span_of(asked, snapshot)
        rows = stats_rows(question, snapshot, selection_of(asked, span))
        shown, cursor = page_of_stats(rows, question["sort"], question["limit"], question["cursor"])
        body = {
            "stats": shown,
            **about(asked, span),
            "total_endpoints": len({row["endpoint"] for row in rows}),
            **self._basis,
        }
        if before := span_before(asked, span):
            earlier = stats_rows(question, snapshot, selection_of(asked, before))
            if len(shown) < len(rows):
                places = {(row["endpoint"], row["method"]) for row in shown}
                earlier = [row for row in earlier if (row["endpoint"], row["method"]) in places]
            body["previous"] = {"stats": earlier, **bounds(before)}
        return Answer(body, cursor)

    def _summary(self, asked: Asked, snapshot: Snapshot) -> Answer:
        span = span_of(asked, snapshot)
        active = not self._check.problems(asked.queue.oldest_timestamp, asked.now)
        totals = _totals(asked, snapshot, span)
        body = {**about(asked, span), **totals, "tracking_active": active, **self._basis}
        if before := span_before(asked, span):
            body["previous"] = {**bounds(before), **_totals(asked, snapshot, before)}
        return Answer(body)

    def _trends(self, asked: Asked, snapshot: Snapshot) -> Answer:
        span = span_of(asked, snapshot)
        body = {
            "trends": _buckets(asked, snapshot, span),
            "granularity": asked.question["granularity"],
            **about(asked, span),
            **self._basis,
        }
        if before := span_before(asked, span):
            body["previous"] = {"trends": _buckets(asked, snapshot, before), **bounds(before)}
        return Answer(body)

    def _visits(self, asked: Asked, snapshot: Snapshot) -> Answer:
        selection = selection_of(asked, span_of(asked, snapshot))
        position = position_of(asked.question["cursor"])
        page = snapshot.visits(selection, asked.question["limit"], position)
        body = {
            "visits": [visit_as_json(visit, asked.question.include) for visit in page.visits],
            "count": len(page.visits),
        }
        return Answer(body, cursor_of_visits(page.following))


def stats_rows(
    question: Question, snapshot: Snapshot, selection: Selection
) -> list[dict[str, Any]]:
    """Return the rows of stats, sorted."""
    rows = [row.as_json() for row in snapshot.stats(selection)]
    if include := question.include:
        outcomes = snapshot.outcomes_of_endpoints(selection)
        for row in rows:
            row.update(outcomes[row["endpoint"], row["method"]].as_json(include))
    return rows if question["sort"] == DEFAULT_SORT else sort_rows(rows, question["sort"])


def _totals(asked: Asked, snapshot: Snapshot, span: Span) -> dict[str, Any]:
    selection, include = selection_of(asked, span), asked.question.include
    totals = snapshot.summary(selection).as_json()
    if include - {"sessions"}:
        totals.update(snapshot.outcomes(selection).as_json(include))
    if "sessions" in include:
        totals["sessions"] = snapshot.sessions(selection).as_json()
    return totals


def _buckets(asked: Asked, snapshot: Snapshot, span: Span) -> list[dict[str, Any]]:
    question, selection = asked.question, selection_of(asked, span)
    granularity = Granularity(question["granularity"])
    found = snapshot.trends(selection, granularity, question["tz"])
    outcomes: dict[int, Outcomes] = {}
    if question.include:
        outcomes = snapshot.outcomes_of_buckets(selection, granularity, found, question["tz"])
    zone = question["tz"] or snapshot.timezone()
    end = asked.now if span.end is None else min(span.end, asked.now)
    if question["fill"]:
        found = _filled(found, granularity, span, end, zone)
    rows = []
    for bucket in found:
        row = bucket.as_json() | _included(outcomes.get(bucket.start), question.include)
        if question["fill"]:
            following = next_bucket(granularity, bucket.start, zone)
            row["partial"] = bucket.start < span.start or end < following
        rows.append(row)
    return rows


def _included(outcomes: Outcomes | None, include: Collection[str]) -> dict[str, Any]:
    return (outcomes or Outcomes()).as_json(include)


def _filled(
    found: Sequence[TrendBucket], granularity: Granularity, span: Span, end: int, zone: tzinfo
) -> list[TrendBucket]:
    """Return all buckets of a span to now, those without visits too, newest first.

    Of what is dated into the future, only those that have visits.
    """
    known = {bucket.start: bucket for bucket in found}
    if not known and span.start <= 0:
        return []
    start = min(known) if span.start <= 0 else bucket_start(granularity, span.start, zone)
    buckets: list[TrendBucket] = []
    while start < end and span.start < end:
        if len(buckets) >= MAX_BUCKETS:
            raise QueryError(
                f"fill makes at most {MAX_BUCKETS} buckets: ask for longer ones, or a shorter time",
                "fill",
            )
        empty = TrendBucket(start, bucket_label(granularity, start, zone), 0, 0, 0)
        buckets.append(known.pop(start, empty))
        start = next_bucket(granularity, start, zone)
    return [*(bucket for bucket in found if bucket.start in known), *buckets[::-1]]
