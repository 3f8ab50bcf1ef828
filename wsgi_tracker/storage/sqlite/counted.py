"""Reports from counters, and from visits for both ends of a window: the same as from raw rows.

At its start, for the slot that it cuts; at the other end, for those that came since others
were counted. A user among them is a unique one unless the window has a visit of the user's that is
counted, and ``visitors`` and ``pairs`` tell that by the last one.

Within the caller's transaction, so that all is of one moment. Answered are questions about all
visitors, or one class of user agents.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from ...period import (
    LAST_TIMESTAMP,
    SLOT,
    Granularity,
    bucket_label,
    bucket_start,
    first_whole,
    next_bucket,
)
from ...reports import EndpointStats, Summary, TrendBucket
from .. import Unread
from .changes import DAY_LEVEL, HOUR_LEVEL, MONTH_LEVEL, SLOT_LEVEL, WEEK_LEVEL
from .window import Window

LEVEL = {
    Granularity.HOUR: HOUR_LEVEL,
    Granularity.DAY: DAY_LEVEL,
    Granularity.WEEK: WEEK_LEVEL,
    Granularity.MONTH: MONTH_LEVEL,
}
NEVER = LAST_TIMESTAMP + 1
# Of buckets: the first slot, hits, users, endpoints; what is of one bucket adds up.
Rows: TypeAlias = Iterable[tuple[int, int, int, int]]

STATS = f"""
WITH parts AS (
    SELECT endpoint_id, hits, users, first, NULL AS last, NULL AS hour FROM hits
    WHERE level = {DAY_LEVEL} AND bucket >= :day AND bucket < :month AND class_id = :class_id
    UNION ALL
    SELECT endpoint_id, hits, users, first, NULL, NULL FROM hits
    WHERE level = {MONTH_LEVEL} AND bucket >= :month AND class_id = :class_id
    UNION ALL
    SELECT endpoint_id, hits, users, NULL, NULL, CASE WHEN hits > 0 THEN bucket END FROM hits
    WHERE level = {HOUR_LEVEL} AND bucket >= :hour AND bucket < :day AND class_id = :class_id
    UNION ALL
    SELECT endpoint_id, {{hits_later}}, {{users_later}}, NULL, NULL,
        CASE WHEN {{hits_later}} > 0 THEN :part END
    FROM hits WHERE level = {HOUR_LEVEL} AND bucket = :cut_hour AND class_id = :class_id
    UNION ALL
    SELECT endpoint_id, count(*), 0, min(timestamp), NULL, NULL
    FROM visits WHERE {{edge}} GROUP BY endpoint_id
    UNION ALL
    SELECT endpoint_id, 0, count(*), NULL, NULL, NULL FROM (
        SELECT DISTINCT endpoint_id, user_id FROM visits WHERE {{edge}} AND user_id IS NOT NULL
    ) AS came WHERE :part > (
        SELECT max(last_slot) FROM pairs WHERE pairs.user_id = came.user_id
        AND pairs.endpoint_id = came.endpoint_id AND {{of}}
    ) GROUP BY endpoint_id
    UNION ALL
    SELECT endpoint_id, count(*), 0, min(timestamp), max(timestamp), NULL
    FROM temp.arrivals WHERE {{only}} GROUP BY endpoint_id
    UNION ALL
    SELECT endpoint_id, 0, count(*), NULL, NULL, NULL FROM (
        SELECT endpoint_id, user_id, (
            SELECT max(last_slot) FROM pairs WHERE pairs.user_id = pair.user_id
            AND pairs.endpoint_id = pair.endpoint_id AND {{of}}) AS last_slot
        FROM (
            SELECT DISTINCT endpoint_id, user_id FROM temp.arrivals
            WHERE {{only}} AND user_id IS NOT NULL
        ) AS pair LIMIT -1 OFFSET 0
    ) AS came WHERE last_slot IS NULL OR last_slot < :cut_slot OR (last_slot < :part AND NOT EXISTS (
        SELECT 1 FROM visits WHERE visits.user_id = came.user_id
        AND visits.endpoint_id = came.endpoint_id AND {{edge}}
    )) GROUP BY endpoint_id
), sums AS (
    SELECT endpoint_id, sum(hits) AS hits, sum(users) AS users, min(first) AS first,
        max(last) AS last, min(hour) AS first_hour
    FROM parts GROUP BY endpoint_id HAVING sum(hits) > 0
)
SELECT endpoint, method, hits, users,
    CASE WHEN first_hour * {SLOT} < coalesce(first, {NEVER}) THEN min(coalesce(first, {NEVER}), (
        SELECT timestamp FROM visits WHERE visits.endpoint_id = sums.endpoint_id
        AND timestamp >= first_hour * {SLOT} AND {{only}} ORDER BY timestamp LIMIT 1
    )) ELSE first END,
    max(coalesce(last, 0), coalesce((
        SELECT max(latest.last) FROM latest
        WHERE latest.endpoint_id = sums.endpoint_id AND {{of}}), 0))
FROM sums CROSS JOIN endpoints ON endpoints.id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
TOTALS = f"""
SELECT coalesce(sum(hits), 0), coalesce(sum(users), 0) FROM (
    SELECT hits, users FROM totals
    WHERE level = {SLOT_LEVEL} AND bucket >= :slot AND bucket < :day AND class_id = :class_id
    UNION ALL
    SELECT hits, users FROM totals
    WHERE level = {DAY_LEVEL} AND bucket >= :day AND bucket < :month AND class_id = :class_id
    UNION ALL
    SELECT hits, users FROM totals WHERE level = {MONTH_LEVEL} AND bucket >= :month AND class_id = :class_id
    UNION ALL
    SELECT count(*), 0 FROM visits WHERE {{edge}}
    UNION ALL
    SELECT 0, count(*) FROM (
        SELECT DISTINCT user_id FROM visits WHERE {{edge}} AND user_id IS NOT NULL
    ) AS came WHERE :cut_slot = (
        SELECT max(last_slot) FROM visitors WHERE visitors.user_id = came.user_id AND {{of}})
    UNION ALL
    SELECT count(*), 0 FROM temp.arrivals WHERE {{only}}
    UNION ALL
    SELECT 0, count(*) FROM (
        SELECT user_id, (
            SELECT max(last_slot) FROM visitors WHERE visitors.user_id = user.user_id AND {{of}}
        ) AS last_slot
        FROM (SELECT DISTINCT user_id FROM temp.arrivals WHERE {{only}} AND user_id IS NOT NULL)
            AS user LIMIT -1 OFFSET 0
    ) AS came WHERE last_slot IS NULL OR last_slot < :cut_slot OR (last_slot < :slot AND NOT EXISTS (
        SELECT 1 FROM visits WHERE visits.user_id = came.user_id AND {{edge}})))"""
# A window that reaches to now has an endpoint exactly when it has the endpoint's last visit.
ENDPOINTS = """
SELECT count(DISTINCT endpoint), max(last) FROM (
    SELECT endpoint_id, last FROM latest WHERE last >= :start AND {of}
    UNION ALL
    SELECT endpoint_id, max(timestamp) FROM temp.arrivals WHERE {only} GROUP BY endpoint_id
) CROSS JOIN endpoints ON endpoints.id = endpoint_id"""
OLDEST = f"""
SELECT min(timestamp) FROM (
    SELECT min(timestamp) AS timestamp FROM visits WHERE {{edge}}
    UNION ALL
    SELECT min(timestamp) FROM temp.arrivals WHERE {{only}}
    UNION ALL
    SELECT min(timestamp) FROM (
        SELECT bucket FROM totals WHERE level = {SLOT_LEVEL} AND bucket >= :slot AND hits > 0
        AND class_id = :class_id ORDER BY bucket LIMIT 1
    ) CROSS JOIN visits ON timestamp >= bucket * {SLOT} AND timestamp < (bucket + 1) * {SLOT}
    WHERE {{only}})"""
BUCKETS = """
SELECT bucket, hits, users_{unit}, endpoints FROM totals
WHERE level = :level AND bucket >= :first AND class_id = :class_id AND hits > 0"""
CUT_BUCKET = f"""
SELECT coalesce(sum(hits), 0), coalesce(sum(users), 0) FROM (
    SELECT hits, users_{{unit}} AS users FROM totals WHERE level = {SLOT_LEVEL}
    AND bucket >= :slot AND bucket < min(:day, :end) AND class_id = :class_id
    UNION ALL
    SELECT hits, users_{{unit}} FROM totals WHERE level = {DAY_LEVEL}
    AND bucket >= :day AND bucket < :end AND class_id = :class_id
    UNION ALL
    SELECT count(*), 0 FROM visits WHERE {{edge}}
    UNION ALL
    SELECT 0, count(*) FROM (
        SELECT DISTINCT user_id FROM visits WHERE {{edge}} AND user_id IS NOT NULL
    ) AS came WHERE NOT EXISTS (
        SELECT 1 FROM visits WHERE visits.user_id = came.user_id
        AND timestamp >= :slot * {SLOT} AND timestamp < :end * {SLOT}
        AND +visits.id <= :counted_id AND {{only}}))"""
ENDPOINTS_OF_CUT_BUCKET = f"""
SELECT count(DISTINCT endpoint) FROM endpoints WHERE id IN (
    SELECT endpoint_id FROM visits WHERE {{edge}}
    UNION ALL
    SELECT endpoint_id FROM temp.arrivals WHERE {{only}} AND timestamp < :end * {SLOT}
    UNION ALL
    SELECT endpoint_id FROM hits WHERE level = {HOUR_LEVEL}
    AND bucket = :cut_hour AND {{hits_later}} > 0 AND class_id = :class_id
    UNION ALL
    SELECT endpoint_id FROM hits WHERE level = {HOUR_LEVEL}
    AND bucket >= :hour AND bucket < min(:day, :end) AND hits > 0 AND class_id = :class_id
    UNION ALL
    SELECT endpoint_id FROM hits WHERE level = {DAY_LEVEL}
    AND bucket >= :day AND bucket < :end AND hits > 0 AND class_id = :class_id)"""
# What those add to their buckets that are not counted; :spans has for each slot the slots between
# which its bucket lies, and where the window begins in it.
NEW_SLOTS = f"SELECT DISTINCT timestamp / {SLOT} FROM temp.arrivals WHERE {{only}}"
_SPANS = """(SELECT json_extract(value, '$[0]') AS slot, json_extract(value, '$[1]') AS bucket,
        json_extract(value, '$[2]') AS since, json_extract(value, '$[3]') AS until
    FROM json_each(:spans) LIMIT -1 OFFSET 0) AS span"""
NEW_OF_BUCKETS = f"""
SELECT bucket, sum(hits), sum(user_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM visits WHERE visits.user_id = came.user_id AND timestamp >= since
    AND timestamp < until AND +visits.id <= :counted_id AND {{only}})), 0
FROM (
    SELECT bucket, since, until, user_id, count(*) AS hits
    FROM temp.arrivals CROSS JOIN {_SPANS} ON slot = timestamp / {SLOT}
    WHERE {{only}} GROUP BY bucket, user_id
) AS came GROUP BY bucket"""
NEW_ENDPOINTS_OF_BUCKETS = f"""
SELECT bucket, 0, 0, count(*) FROM (
    SELECT DISTINCT bucket, endpoint
    FROM temp.arrivals CROSS JOIN {_SPANS} ON slot = timestamp / {SLOT}
    CROSS JOIN endpoints ON endpoints.id = endpoint_id WHERE {{only}} AND bucket >= :first
) AS came WHERE NOT EXISTS (
    SELECT 1 FROM endpoints AS same CROSS JOIN hits ON hits.level = :level
        AND hits.bucket = came.bucket AND hits.endpoint_id = same.id AND hits.hits > 0 AND class_id = :class_id
    WHERE same.endpoint = came.endpoint
) GROUP BY bucket"""


def stats(
    connection: sqlite3.Connection,
    start: int,
    agent_class: str | None,
    unread: Unread | None = None,
) -> list[EndpointStats]:
    """Return one row per endpoint and method, most hits first."""
    return [
        EndpointStats(*row)
        for row in Window(connection, start, agent_class, unread).ask(STATS, "part")
    ]


def summary(
    connection: sqlite3.Connection,
    start: int,
    agent_class: str | None,
    unread: Unread | None = None,
) -> Summary:
    """Return the totals."""
    window = Window(connection, start, agent_class, unread)
    hits, users = window.ask(TOTALS, "slot").fetchone()
    endpoints, newest = window.ask(ENDPOINTS).fetchone()
    (oldest,) = window.ask(OLDEST, "slot").fetchone()
    return Summary(hits, endpoints, users, oldest, newest)


def trends(
    connection: sqlite3.Connection,
    start: int,
    granularity: Granularity,
    agent_class: str | None,
    unread: Unread | None = None,
) -> list[TrendBucket]:
    """Return the buckets that have visits, newest first."""
    window = Window(connection, start, agent_class, unread)
    figures: defaultdict[int, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    for rows in (
        _whole_buckets(window, granularity),
        _cut_bucket(window, granularity),
        _new_visits(window, granularity),
    ):
        for bucket, hits, users, endpoints in rows:
            known = figures[bucket]
            figures[bucket] = (known[0] + hits, known[1] + users, known[2] + endpoints)
    return [
        TrendBucket(bucket * SLOT, bucket_label(granularity, bucket * SLOT, window.zone), *counts)
        for bucket, counts in sorted(figures.items(), reverse=True)
        if counts[0]
    ]


def _whole_buckets(window: Window, granularity: Granularity) -> Rows:
    first = first_whole(granularity, window.start, window.zone) // SLOT
    return window.ask(BUCKETS, unit=granularity.value, level=LEVEL[granularity], first=first)


def _cut_bucket(window: Window, granularity: Granularity) -> Rows:
    """Yield what a window holds of the bucket that begins before it, if there is one."""
    cut = bucket_start(granularity, window.start, window.zone)
    if cut == window.start:
        return
    end = next_bucket(granularity, cut, window.zone) // SLOT
    hits, users = window.ask(CUT_BUCKET, "slot", granularity.value, end=end).fetchone()
    (endpoints,) = window.ask(ENDPOINTS_OF_CUT_BUCKET, "part", end=end).fetchone()
    yield cut // SLOT, hits, users, endpoints


def _new_visits(window: Window, granularity: Granularity) -> Rows:
    """Yield what visits that are not counted yet add to their buckets."""
    spans = json.dumps([_span(window, granularity, slot) for (slot,) in window.ask(NEW_SLOTS)])
    yield from window.ask(NEW_OF_BUCKETS, spans=spans)
    first = first_whole(granularity, window.start, window.zone) // SLOT
    yield from window.ask(
        NEW_ENDPOINTS_OF_BUCKETS, spans=spans, level=LEVEL[granularity], first=first
    )


def _span(window: Window, granularity: Granularity, slot: int) -> tuple[int, int, int, int]:
    """Return the slot, its bucket's first one, and the timestamps that the window has of it."""
    bucket = bucket_start(granularity, slot * SLOT, window.zone)
    until = next_bucket(granularity, bucket, window.zone)
    return slot, bucket // SLOT, max(bucket, window.start), until
