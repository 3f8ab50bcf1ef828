"""Reports from the visits themselves: exact whatever is asked, as slow as there are visits.

Within the caller's transaction. ``start`` is in microseconds since the epoch, and no window has an
end; ``only`` is a class of user agents.
"""

from __future__ import annotations

import sqlite3

from ..agents import ClassFilter
from ..period import Granularity, bucket_label, bucket_start, next_bucket
from ..reports import EndpointStats, Summary, TrendBucket
from ..visit import FIELDS, Visit
from .calendar import read_zone
from .classes import class_condition, class_value

STATS = """
SELECT endpoint, method, hits, users, first, last FROM (
    SELECT endpoint_id, count(*) AS hits, count(DISTINCT user_id) AS users,
        min(timestamp) AS first, max(timestamp) AS last
    FROM visits WHERE timestamp >= :start AND {only} GROUP BY endpoint_id
) JOIN endpoints ON endpoints.id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
SUMMARY = """
SELECT count(*), count(DISTINCT endpoint), count(DISTINCT user_id), min(timestamp), max(timestamp)
FROM visits JOIN endpoints ON endpoints.id = endpoint_id WHERE timestamp >= :start AND {only}"""
NEXT_VISIT = """
SELECT timestamp FROM visits WHERE timestamp >= :start AND {only} ORDER BY timestamp LIMIT 1"""
BUCKET = """
SELECT count(*), count(DISTINCT user_id), count(DISTINCT endpoint)
FROM visits JOIN endpoints ON endpoints.id = endpoint_id
WHERE timestamp >= :start AND timestamp < :end AND {only}"""
VISITS = f"""
SELECT timestamp_us, {", ".join(FIELDS[1:]).replace("path", "nullif(path, endpoint)")}
FROM user_visits
WHERE id IN (SELECT id FROM visits WHERE timestamp >= :start AND {{only}}
    ORDER BY timestamp DESC, id DESC LIMIT :limit)
ORDER BY timestamp_us DESC, id DESC"""


def stats(
    connection: sqlite3.Connection, start: int, only: ClassFilter | None
) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    return [EndpointStats(*row) for row in _ask(connection, STATS, only, start=start)]


def summary(connection: sqlite3.Connection, start: int, only: ClassFilter | None) -> Summary:
    """Return the totals."""
    return Summary(*_ask(connection, SUMMARY, only, start=start).fetchone())


def trends(
    connection: sqlite3.Connection, start: int, granularity: Granularity, only: ClassFilter | None
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    zone, buckets = read_zone(connection), []
    while row := _ask(connection, NEXT_VISIT, only, start=start).fetchone():
        bucket = bucket_start(granularity, row[0], zone)
        end = next_bucket(granularity, bucket, zone)
        figures = _ask(connection, BUCKET, only, start=start, end=end).fetchone()
        buckets.append(TrendBucket(bucket, bucket_label(granularity, bucket, zone), *figures))
        start = end
    return buckets[::-1]


def visits(
    connection: sqlite3.Connection, start: int, limit: int, only: ClassFilter | None
) -> list[Visit]:
    """Return the newest visits, newest first."""
    return [Visit(*row) for row in _ask(connection, VISITS, only, start=start, limit=limit)]


def _ask(
    connection: sqlite3.Connection, statement: str, only: ClassFilter | None, **values: int
) -> sqlite3.Cursor:
    text = statement.format(only=class_condition(only))
    return connection.execute(text, {**values, "only": class_value(only)})
