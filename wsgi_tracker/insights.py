"""Reports beyond those of the contract: breakdowns, one user's path, and what happens just now."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from .asked import Answer, Asked, Report, about, selection_of, span_of
from .errors import NotFoundError
from .paging import cursor_of_visits, position_of
from .period import IDLE, SECOND, iso_or_none, iso_timestamp
from .query import BREAKDOWN, LIVE, USER
from .reports import visit_as_json
from .schemas import OF_BREAKDOWN, OF_LIVE, OF_USER
from .selection import Filter, Selection
from .storage import Snapshot
from .visit import Visit

MINUTE = 60 * SECOND
ACTIVE_MINUTES = 5


def breakdown(asked: Asked, snapshot: Snapshot) -> Answer:
    """Return the values of one property that most visits have."""
    span = span_of(asked, snapshot)
    by = asked.question["by"]
    found = snapshot.breakdown(selection_of(asked, span), by, asked.question["limit"])
    return Answer(
        {
            "breakdown": [row.as_json() for row in found.rows],
            "by": by,
            **about(asked, span),
            "total_values": found.total_values,
        }
    )


def user(asked: Asked, snapshot: Snapshot) -> Answer:
    """Return what one user did, the newest sessions first."""
    question, span = asked.question, span_of(asked, snapshot)
    own = Filter("user_hash", (asked.name,), is_exact=True)
    if not snapshot.hits(Selection(filters=(own,))):
        raise NotFoundError("there is no visit of this user")
    selection = selection_of(asked, span)
    selection = replace(selection, filters=(*selection.filters, own))
    totals = snapshot.summary(selection)
    position = position_of(question["cursor"])
    page = snapshot.visits(selection, question["limit"], position)
    sessions = _sessions(page.visits)
    if sessions:
        newest, oldest = page.visits[0].timestamp, page.visits[-1].timestamp
        after = None if position is None else position.timestamp
        sessions[0]["cut"] = after is not None and after - newest <= IDLE
        before = page.following_timestamp
        sessions[-1]["cut"] |= before is not None and oldest - before <= IDLE
    return Answer(
        {
            "user_hash": asked.name,
            **about(asked, span),
            "first_visit": iso_or_none(totals.oldest_visit),
            "last_visit": iso_or_none(totals.newest_visit),
            "visits": totals.total_hits,
            "sessions": snapshot.sessions(selection).as_json(),
            "endpoints": [row.as_json() for row in snapshot.stats(selection)],
            "path": sessions,
        },
        cursor_of_visits(page.following),
    )


def _sessions(visits: list[Visit]) -> list[dict[str, Any]]:
    """Return the sessions of one user's visits, which are the newest first."""
    found: list[list[Visit]] = []
    for visit in visits:
        if not found or found[-1][-1].timestamp - visit.timestamp > IDLE:
            found.append([])
        found[-1].append(visit)
    return [_session(session[::-1]) for session in found]


def _session(visits: list[Visit]) -> dict[str, Any]:
    first, last = visits[0], visits[-1]
    return {
        "start": iso_timestamp(first.timestamp),
        "end": iso_timestamp(last.timestamp),
        "duration_seconds": round((last.timestamp - first.timestamp) / SECOND, 3),
        "visits": len(visits),
        "entry": first.endpoint,
        "exit": last.endpoint,
        "cut": False,
        "steps": [_step(visit) for visit in visits],
    }


def _step(visit: Visit) -> dict[str, Any]:
    step = visit_as_json(visit, ("path", "status"))
    del step["user_hash"]
    return step


def live(asked: Asked, snapshot: Snapshot) -> Answer:
    """Return how many are there just now, and how many visits came in each of the last minutes."""
    now, minutes = asked.now, asked.question["minutes"]
    selection = Selection(now - ACTIVE_MINUTES * MINUTE, None, asked.question.filters)
    edges = [now - minute * MINUTE for minute in range(minutes, -1, -1)]
    hits = [
        snapshot.hits(replace(selection, start=start, end=end if end < now else None))
        for start, end in pairwise(edges)
    ]
    return Answer(
        {
            "now": iso_timestamp(now),
            "active_users": snapshot.users(selection),
            "requests_per_second": round(hits[-1] / 60, 3),
            "minutes": [
                {"start": iso_timestamp(start), "hits": count}
                for start, count in zip(edges[:-1], hits, strict=True)
            ],
        }
    )


INSIGHTS = {
    "breakdown": Report(
        "The values of one property that most visits have", BREAKDOWN, breakdown, OF_BREAKDOWN
    ),
    "live": Report("What happens just now", LIVE, live, OF_LIVE),
}
USER_REPORT = Report("What one user did", USER, user, OF_USER)
