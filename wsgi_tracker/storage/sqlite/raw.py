"""Reports from the visits themselves: exact whatever is asked, as slow as there are visits.

Within the caller's transaction, in which nothing is written.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import tzinfo

from ...period import Granularity, bucket_label, bucket_start, next_bucket
from ...reports import EndpointStats, Position, Summary, TrendBucket
from ...selection import Selection
from ...visit import FIELDS, Visit
from .conditions import rows_of

# The sign keeps SQLite from another index, which has endpoints in order, and all visits of each.
STATS = """
SELECT endpoint, method, hits, users, first, last FROM (
    SELECT endpoint_id, count(*) AS hits, count(DISTINCT user_id) AS users,
        min(timestamp) AS first, max(timestamp) AS last
    FROM {source} WHERE {where} GROUP BY +endpoint_id
) CROSS JOIN endpoints ON endpoints.id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
ENDPOINTS = """
SELECT count(DISTINCT endpoint) FROM endpoints
WHERE id IN (SELECT endpoint_id FROM {source} WHERE {where})"""
SUMMARY = f"""
SELECT count(*), ({ENDPOINTS}), count(DISTINCT user_id), min(timestamp), max(timestamp)
FROM {{source}} WHERE {{where}}"""
BUCKET = f"SELECT count(*), count(DISTINCT user_id), ({ENDPOINTS}) FROM {{source}} WHERE {{where}}"
NEXT_VISIT = """
SELECT timestamp FROM visits INDEXED BY visits_timestamp
WHERE timestamp >= ? AND timestamp < ? ORDER BY timestamp LIMIT 1"""
_VISIT = f"id, timestamp_us, {', '.join(FIELDS[1:]).replace('path', 'nullif(path, endpoint)')}"
VISITS = f"""
SELECT {_VISIT} FROM user_visits
WHERE id IN (SELECT id FROM {{source}} WHERE {{where}}
    AND (timestamp < :upto OR id < :before) ORDER BY timestamp DESC, id DESC LIMIT :limit)
ORDER BY timestamp_us DESC, id DESC"""
OLDEST = f"""
SELECT {_VISIT} FROM user_visits
WHERE id IN (SELECT id FROM {{source}} WHERE {{where}}
    AND (timestamp > :since OR id > :behind) AND +id <= :upto ORDER BY timestamp, id LIMIT :limit)
ORDER BY timestamp_us, id"""
ARRIVED = f"""
SELECT {_VISIT} FROM user_visits
WHERE id IN (SELECT id FROM {{source}} WHERE {{where}}
    AND id > :behind AND id <= :upto ORDER BY id LIMIT :limit)
ORDER BY id"""
USERS = "SELECT count(DISTINCT user_id) FROM {source} WHERE {where}"
HITS = "SELECT count(*) FROM {source} WHERE {where}"
FOREVER = 2**63 - 1


def stats(connection: sqlite3.Connection, selection: Selection) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    return [EndpointStats(*row) for row in _ask(connection, STATS, selection)]


def summary(connection: sqlite3.Connection, selection: Selection) -> Summary:
    """Return the totals."""
    return Summary(*_ask(connection, SUMMARY, selection).fetchone())


def trends(
    connection: sqlite3.Connection, selection: Selection, granularity: Granularity, zone: tzinfo
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    start, end = selection.start, FOREVER if selection.end is None else selection.end
    buckets = []
    while row := connection.execute(NEXT_VISIT, (start, end)).fetchone():
        bucket = bucket_start(granularity, row[0], zone)
        following = min(next_bucket(granularity, bucket, zone), end)
        within = replace(selection, start=start, end=following)
        figures = _ask(connection, BUCKET, within).fetchone()
        if figures[0]:
            buckets.append(TrendBucket(bucket, bucket_label(granularity, bucket, zone), *figures))
        start = following
    return buckets[::-1]


def hits(connection: sqlite3.Connection, selection: Selection) -> int:
    """Return the number of visits."""
    return int(_ask(connection, HITS, selection).fetchone()[0])


def users(connection: sqlite3.Connection, selection: Selection) -> int:
    """Return the number of users."""
    return int(_ask(connection, USERS, selection).fetchone()[0])


def visits(
    connection: sqlite3.Connection, selection: Selection, limit: int, position: Position | None
) -> list[tuple[int, Visit]]:
    """Return the newest visits behind a position, newest first, each behind its id."""
    upto, before, shown = FOREVER, FOREVER, 0
    if position is not None:
        upto, shown = position.timestamp, position.shown
        before = FOREVER if position.id is None else min(position.id, FOREVER)
        end = upto + 1 if selection.end is None else min(selection.end, upto + 1)
        selection = replace(selection, end=end)
    values = {"limit": limit + shown, "upto": upto, "before": before}
    rows = _ask(connection, VISITS, selection, ordered=True, **values)
    found = [(id, Visit(*fields)) for id, *fields in rows]
    known = sum(visit.timestamp == upto for _, visit in found[:shown])
    return found[known : known + limit]


def oldest_visits(
    connection: sqlite3.Connection,
    selection: Selection,
    limit: int,
    behind: tuple[int, int] | None,
    upto: int,
) -> list[tuple[int, Visit]]:
    """Return the oldest visits behind a timestamp and id, each behind its id, with ids to ``upto``."""
    since, last = (-1, -FOREVER) if behind is None else behind
    selection = replace(selection, start=max(selection.start, since))
    values = {"since": since, "behind": min(last, FOREVER), "upto": upto, "limit": limit}
    rows = _ask(connection, OLDEST, selection, ordered=True, **values)
    return [(id, Visit(*fields)) for id, *fields in rows]


def arrived_visits(
    connection: sqlite3.Connection, selection: Selection, limit: int, behind: int | None, upto: int
) -> list[tuple[int, Visit]]:
    """Return the first visits that arrived behind an id, each behind its own, with ids to ``upto``."""
    rows = rows_of(selection)
    # By their ids, unless few are as new as that: then the first ones are found by their time.
    is_by_id = behind is not None or selection.start <= 0
    source = "visits NOT INDEXED" if is_by_id else rows.source
    last = -FOREVER if behind is None else min(behind, FOREVER)
    values = {"behind": last, "upto": upto, "limit": limit}
    text = ARRIVED.format(source=source, where=rows.where)
    found = connection.execute(text, {**rows.values, **values})
    return [(id, Visit(*fields)) for id, *fields in found]


def _ask(
    connection: sqlite3.Connection,
    statement: str,
    selection: Selection,
    *,
    ordered: bool = False,
    **values: int,
) -> sqlite3.Cursor:
    rows = rows_of(selection, ordered=ordered)
    text = statement.format(source=rows.source, where=rows.where)
    return connection.execute(text, {**rows.values, **values})
