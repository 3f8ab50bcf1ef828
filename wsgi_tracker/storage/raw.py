"""Reports from the visits themselves: exact whatever is asked, as slow as there are visits.

Within the caller's transaction. ``start`` is in microseconds since the epoch, and no window has an
end; ``only`` is a class of user agents.
"""

from __future__ import annotations

import sqlite3

from ..agents import ClassFilter
from ..period import DAY, HOUR, Granularity, bucket_start
from ..reports import EndpointStats, Summary, TrendBucket
from ..visit import FIELDS, Visit
from .classes import class_condition, class_value

STATS = """
SELECT endpoint, method, hits, users, first, last FROM (
    SELECT endpoint_id, count(*) AS hits, count(DISTINCT user_id) AS users,
        min(timestamp) AS first, max(timestamp) AS last
    FROM visits WHERE timestamp >= ? AND {only} GROUP BY endpoint_id
) JOIN endpoints ON endpoints.id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
SUMMARY = """
SELECT count(*), count(DISTINCT endpoint), count(DISTINCT user_id), min(timestamp), max(timestamp)
FROM visits JOIN endpoints ON endpoints.id = endpoint_id WHERE timestamp >= ? AND {only}"""
BUCKETS = {
    Granularity.HOUR: f"timestamp / {HOUR}",
    Granularity.DAY: f"timestamp / {DAY}",
    Granularity.WEEK: f"(timestamp + {3 * DAY}) / {7 * DAY}",
    Granularity.MONTH: "strftime('%Y-%m', timestamp / 1000000, 'unixepoch')",
}
TRENDS = """
SELECT min(timestamp), count(*), count(DISTINCT user_id), count(DISTINCT endpoint)
FROM visits JOIN endpoints ON endpoints.id = endpoint_id WHERE timestamp >= ? AND {only}
GROUP BY {bucket} ORDER BY 1 DESC"""
VISITS = f"""
SELECT timestamp_us, {", ".join(FIELDS[1:]).replace("path", "nullif(path, endpoint)")}
FROM user_visits
WHERE id IN (
    SELECT id FROM visits WHERE timestamp >= ? AND {{only}} ORDER BY timestamp DESC, id DESC LIMIT ?)
ORDER BY timestamp_us DESC, id DESC"""


def stats(
    connection: sqlite3.Connection, start: int, only: ClassFilter | None
) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    statement = STATS.format(only=class_condition(only))
    rows = connection.execute(statement, (start, class_value(only)))
    return [EndpointStats(*row) for row in rows]


def summary(connection: sqlite3.Connection, start: int, only: ClassFilter | None) -> Summary:
    """Return the totals."""
    statement = SUMMARY.format(only=class_condition(only))
    return Summary(*connection.execute(statement, (start, class_value(only))).fetchone())


def trends(
    connection: sqlite3.Connection, start: int, granularity: Granularity, only: ClassFilter | None
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    statement = TRENDS.format(bucket=BUCKETS[granularity], only=class_condition(only))
    return [
        TrendBucket(granularity, bucket_start(granularity, first), hits, users, endpoints)
        for first, hits, users, endpoints in connection.execute(
            statement, (start, class_value(only))
        )
    ]


def visits(
    connection: sqlite3.Connection, start: int, limit: int, only: ClassFilter | None
) -> list[Visit]:
    """Return the newest visits, newest first."""
    statement = VISITS.format(only=class_condition(only))
    rows = connection.execute(statement, (start, class_value(only), limit))
    return [Visit(*row) for row in rows]
