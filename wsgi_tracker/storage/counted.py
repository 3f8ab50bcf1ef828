"""Reports from counters and, for the cut start of a window, from visits: the same as from raw rows.

Within the caller's transaction, so that both are of one moment. Answered are questions about all
visitors, or one class of user agents.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import tzinfo

from ..agents import ClassFilter
from ..period import SLOT, Granularity, bucket_label, bucket_start, first_whole, next_bucket
from ..reports import EndpointStats, Summary, TrendBucket
from .calendar import read_zone
from .changes import DAY_LEVEL, HOUR_LEVEL, MONTH_LEVEL, SLOT_LEVEL, WEEK_LEVEL
from .classes import class_condition, class_value
from .counters import read_state

LEVEL = {
    Granularity.HOUR: HOUR_LEVEL,
    Granularity.DAY: DAY_LEVEL,
    Granularity.WEEK: WEEK_LEVEL,
    Granularity.MONTH: MONTH_LEVEL,
}
CLASS_ID = "SELECT id FROM classes WHERE class = ?"
NO_CLASS = -1
LONGEST_HOUR = 8  # slots, and more than any is

# Of a window's start: the visits that no whole hour, or slot, holds. Hours then reach to the day's
# end, days to the month's end, and months to the end of all. {rows} says of which class.
EDGE = f"timestamp >= :start AND timestamp < :{{end}} * {SLOT} AND {{only}}"
STATS = f"""
WITH parts AS (
    SELECT endpoint_id, hits, users, first, last, NULL AS hour FROM hits
    WHERE level = {DAY_LEVEL} AND bucket >= :day AND bucket < :month AND {{rows}}
    UNION ALL
    SELECT endpoint_id, hits, users, first, last, NULL FROM hits
    WHERE level = {MONTH_LEVEL} AND bucket >= :month AND {{rows}}
    UNION ALL
    SELECT endpoint_id, hits, users, NULL, NULL, CASE WHEN hits > 0 THEN bucket END FROM hits
    WHERE level = {HOUR_LEVEL} AND bucket >= :hour AND bucket < :day AND {{rows}}
    UNION ALL
    SELECT endpoint_id, count(*), 0, min(timestamp), max(timestamp), NULL
    FROM visits WHERE {{edge}} GROUP BY endpoint_id
    UNION ALL
    SELECT endpoint_id, 0, count(*), NULL, NULL, NULL FROM (
        SELECT DISTINCT endpoint_id, user_id FROM visits WHERE {{edge}} AND user_id IS NOT NULL
    ) AS came WHERE :cut_hour = (
        SELECT max(last_hour) FROM pairs WHERE pairs.user_id = came.user_id
        AND pairs.endpoint_id = came.endpoint_id AND {{rows}}
    ) GROUP BY endpoint_id
), sums AS (
    SELECT endpoint_id, sum(hits) AS hits, sum(users) AS users, min(first) AS first,
        max(last) AS last, min(hour) AS first_hour, max(hour) AS last_hour
    FROM parts GROUP BY endpoint_id HAVING sum(hits) > 0
)
SELECT endpoint, method, hits, users,
    CASE WHEN first_hour * {SLOT} < coalesce(first, first_hour * {SLOT} + 1) THEN (
        SELECT timestamp FROM visits WHERE visits.endpoint_id = sums.endpoint_id
        AND timestamp >= first_hour * {SLOT} AND {{only}} ORDER BY timestamp LIMIT 1
    ) ELSE first END,
    CASE WHEN last_hour * {SLOT} > coalesce(last, -1) THEN (
        SELECT timestamp FROM visits WHERE visits.endpoint_id = sums.endpoint_id
        AND timestamp < (last_hour + {LONGEST_HOUR}) * {SLOT} AND {{only}}
        ORDER BY timestamp DESC LIMIT 1
    ) ELSE last END
FROM sums CROSS JOIN endpoints ON endpoints.id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
USERS = f"""
SELECT coalesce(sum(users), 0) FROM (
    SELECT users FROM totals
    WHERE level = {SLOT_LEVEL} AND bucket >= :slot AND bucket < :day AND {{rows}}
    UNION ALL
    SELECT users FROM totals
    WHERE level = {DAY_LEVEL} AND bucket >= :day AND bucket < :month AND {{rows}}
    UNION ALL
    SELECT users FROM totals WHERE level = {MONTH_LEVEL} AND bucket >= :month AND {{rows}}
    UNION ALL
    SELECT count(*) FROM (
        SELECT DISTINCT user_id FROM visits WHERE {{edge}} AND user_id IS NOT NULL
    ) AS came WHERE :cut_slot = (
        SELECT max(last_slot) FROM visitors WHERE visitors.user_id = came.user_id AND {{rows}}))"""
BUCKETS = """
SELECT bucket, sum(hits), sum(users_{unit}), sum(endpoints) FROM totals
WHERE level = :level AND bucket >= :first AND {rows}
GROUP BY bucket HAVING sum(hits) > 0 ORDER BY bucket DESC"""
CUT_BUCKET = f"""
SELECT coalesce(sum(hits), 0), coalesce(sum(users), 0) FROM (
    SELECT hits, users_{{unit}} AS users FROM totals WHERE level = {SLOT_LEVEL}
    AND bucket >= :slot AND bucket < min(:day, :end) AND {{rows}}
    UNION ALL
    SELECT hits, users_{{unit}} FROM totals WHERE level = {DAY_LEVEL}
    AND bucket >= :day AND bucket < :end AND {{rows}}
    UNION ALL
    SELECT count(*), 0 FROM visits WHERE {{edge}}
    UNION ALL
    SELECT 0, count(*) FROM (
        SELECT DISTINCT user_id FROM visits WHERE {{edge}} AND user_id IS NOT NULL
    ) AS came WHERE NOT EXISTS (
        SELECT 1 FROM visits WHERE visits.user_id = came.user_id
        AND timestamp >= :slot * {SLOT} AND timestamp < :end * {SLOT} AND {{only}}))"""
ENDPOINTS_OF_CUT_BUCKET = f"""
SELECT count(DISTINCT endpoint) FROM endpoints WHERE id IN (
    SELECT endpoint_id FROM visits WHERE {{edge}}
    UNION ALL
    SELECT endpoint_id FROM hits WHERE level = {HOUR_LEVEL}
    AND bucket >= :hour AND bucket < min(:day, :end) AND hits > 0 AND {{rows}}
    UNION ALL
    SELECT endpoint_id FROM hits WHERE level = {DAY_LEVEL}
    AND bucket >= :day AND bucket < :end AND hits > 0 AND {{rows}})"""


@dataclass(frozen=True, slots=True)
class Question:
    """A window from ``start`` on, in ``zone``, over one class of user agents or all."""

    connection: sqlite3.Connection
    start: int
    only: ClassFilter | None
    zone: tzinfo

    def ask(
        self, statement: str, edge_end: str = "", unit: str = "", **values: int
    ) -> sqlite3.Cursor:
        """Execute a statement about it."""
        only = class_condition(self.only)
        text = statement.format(
            edge=EDGE.format(end=edge_end, only=only),
            only=only,
            rows="true" if self.only is None else "class_id = :class_id",
            unit=unit,
        )
        return self.connection.execute(text, {**self._values(), **values})

    def _values(self) -> dict[str, int | str | None]:
        # Cuts are where a whole bucket begins that is followed by whole ones only.
        hour = first_whole(Granularity.HOUR, self.start, self.zone)
        day = first_whole(Granularity.DAY, hour, self.zone)
        month = first_whole(Granularity.MONTH, day, self.zone)
        return {
            "start": self.start,
            "cut_slot": self.start // SLOT,
            "cut_hour": bucket_start(Granularity.HOUR, self.start, self.zone) // SLOT,
            "slot": -(-self.start // SLOT),
            "hour": hour // SLOT,
            "day": day // SLOT,
            "month": month // SLOT,
            "only": class_value(self.only),
            "class_id": self._class_id(),
        }

    def _class_id(self) -> int | None:
        if self.only is None:
            return None
        row = self.connection.execute(CLASS_ID, (self.only.agent_class,)).fetchone()
        return NO_CLASS if row is None else int(row[0])


def is_complete(connection: sqlite3.Connection) -> bool:
    """Return whether all visits are counted."""
    return read_state(connection).is_complete


def can_answer(connection: sqlite3.Connection, only: ClassFilter | None) -> bool:
    """Return whether counters know; not of all classes but one: users of several do not add up."""
    return (only is None or not only.excluded) and is_complete(connection)


def stats(
    connection: sqlite3.Connection, start: int, only: ClassFilter | None
) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    question = Question(connection, start, only, read_zone(connection))
    return [EndpointStats(*row) for row in question.ask(STATS, "hour")]


def summary(connection: sqlite3.Connection, start: int, only: ClassFilter | None) -> Summary:
    """Return the totals."""
    question = Question(connection, start, only, read_zone(connection))
    (users,) = question.ask(USERS, "slot").fetchone()
    rows = stats(connection, start, only)
    return Summary(
        total_hits=sum(row.hit_count for row in rows),
        total_endpoints=len({row.endpoint for row in rows}),
        total_unique_users=users,
        oldest_visit=min((row.first_access for row in rows), default=None),
        newest_visit=max((row.last_access for row in rows), default=None),
    )


def trends(
    connection: sqlite3.Connection, start: int, granularity: Granularity, only: ClassFilter | None
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    zone = read_zone(connection)
    question = Question(connection, start, only, zone)
    first = first_whole(granularity, start, zone)
    rows = question.ask(
        BUCKETS, unit=granularity.value, level=LEVEL[granularity], first=first // SLOT
    ).fetchall()
    cut = bucket_start(granularity, start, zone)
    if cut < start:
        rows += _cut_bucket(question, granularity, cut)
    return [
        TrendBucket(bucket * SLOT, bucket_label(granularity, bucket * SLOT, zone), *figures)
        for bucket, *figures in rows
    ]


def _cut_bucket(
    question: Question, granularity: Granularity, cut: int
) -> list[tuple[int, int, int, int]]:
    """Return what a window holds of the bucket that begins before it, if there is any."""
    end = next_bucket(granularity, cut, question.zone) // SLOT
    hits, users = question.ask(CUT_BUCKET, "slot", granularity.value, end=end).fetchone()
    if not hits:
        return []
    (endpoints,) = question.ask(ENDPOINTS_OF_CUT_BUCKET, "hour", end=end).fetchone()
    return [(cut // SLOT, hits, users, endpoints)]
