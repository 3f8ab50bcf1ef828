"""One question to a report, and its answer: which visits it is about, and how that is told.

Knows no SQL and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import QueryError
from .ingest import Queue
from .parameters import Parameter
from .period import iso_or_none, iso_timestamp
from .query import Question
from .selection import Selection
from .spans import DAYS, Span
from .storage import Snapshot
from .unread import UnreadLines


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a report, at ``now``; ``unread`` is to be taken along.

    ``queue`` is what the report does not hold, or holds though it waits for long. ``name`` is of
    whom it asks, where the report is about one.
    """

    question: Question
    now: int  # microseconds since the epoch
    unread: UnreadLines | None = None
    queue: Queue = field(default_factory=Queue)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A report as JSON, and the cursor of the next page, if there is one."""

    body: dict[str, Any]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One endpoint of the API: what it is, what it takes, what answers, and what that looks like.

    ``is_quick`` where counters may know, and what waits in the spool can be taken along.
    """

    summary: str
    parameters: Sequence[Parameter]
    answer: Callable[[Asked, Snapshot], Answer]
    schema: dict[str, Any]
    is_quick: bool = False


def span_of(asked: Asked, snapshot: Snapshot) -> Span:
    """Return the time that is asked about."""
    return asked.question.span(asked.now, asked.question["tz"] or snapshot.timezone())


def selection_of(asked: Asked, span: Span) -> Selection:
    """Return the visits that are asked about."""
    return Selection(span.start, span.end, asked.question.filters)


def about(asked: Asked, span: Span) -> dict[str, Any]:
    """Return which time an answer is about; where that is more than a period's name, its bounds."""
    question = asked.question
    zone = {} if question["tz"] is None else {"tz": str(question["tz"])}
    is_named = question.period is not None and question.period not in DAYS
    if is_named and not question["compare"]:
        return {"period": question.period, **zone}
    return {"period": question.period, **bounds(span), **zone}


def bounds(span: Span) -> dict[str, Any]:
    """Return where a span begins and ends; ``None`` is now."""
    return {"start": iso_timestamp(span.start), "end": iso_or_none(span.end)}


def span_before(asked: Asked, span: Span) -> Span | None:
    """Return what a span is to be compared with."""
    if not asked.question["compare"]:
        return None
    if span.before is None:
        raise QueryError("compare takes a time with a beginning: nothing is before all", "compare")
    return Span(*span.before)
