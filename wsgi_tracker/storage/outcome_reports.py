"""How the visits of a selection went: from counters for whole days and months, else from visits.

Within the caller's transaction. ``counted_id`` is the last visit that is counted, if counters hold.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import tzinfo
from itertools import chain
from typing import Any, TypeAlias

from ..period import LAST_TIMESTAMP, SLOT, Granularity, bucket_start, first_whole, next_bucket
from ..reports import Outcomes, TrendBucket
from ..selection import Selection
from .calendar import read_zone
from .changes import DAY_LEVEL, MONTH_LEVEL
from .conditions import rows_of
from .outcomes import BYTES, EVER_LEVEL, LATENCY, STATUS_CLASS

# Whole months and days as they were counted; what is before and behind them, or came since, from
# visits.
OF_ENDPOINTS = f"""
SELECT endpoint, method, status_class, latency, sum(hits), sum(bytes) FROM (
    SELECT endpoint_id, status_class, latency, hits, bytes FROM outcomes
    WHERE level = {DAY_LEVEL} AND endpoint_id > 0 AND bucket >= :day AND bucket < :month
    UNION ALL
    SELECT endpoint_id, status_class, latency, hits, bytes FROM outcomes
    WHERE level = {MONTH_LEVEL} AND endpoint_id > 0 AND bucket >= :month AND bucket < :last_month
    UNION ALL
    SELECT endpoint_id, status_class, latency, hits, bytes FROM outcomes
    WHERE level = {DAY_LEVEL} AND endpoint_id > 0 AND bucket >= :last_month AND bucket < :last_day
    UNION ALL
    SELECT endpoint_id, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES}
    FROM {{source}} WHERE {{where}} AND timestamp < :day * {SLOT} GROUP BY +endpoint_id, 2, 3
    UNION ALL
    SELECT endpoint_id, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES}
    FROM {{source}} WHERE {{where}} AND timestamp >= :last_day * {SLOT}
    GROUP BY +endpoint_id, 2, 3
    UNION ALL
    SELECT endpoint_id, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES} FROM visits
    NOT INDEXED WHERE id > :counted_id AND timestamp >= :day * {SLOT}
    AND timestamp < :last_day * {SLOT} GROUP BY 1, 2, 3
) CROSS JOIN endpoints ON endpoints.id = endpoint_id
GROUP BY endpoint, method, status_class, latency"""
# Endpoint 0 of each day on its own: the others stand in between.
OF_DAYS = f"""
SELECT outcomes.bucket, status_class, latency, outcomes.hits, bytes
FROM totals CROSS JOIN outcomes ON outcomes.level = {DAY_LEVEL}
    AND outcomes.bucket = totals.bucket AND endpoint_id = 0
WHERE totals.level = {DAY_LEVEL} AND class_id = 0
AND totals.bucket >= :day AND totals.bucket < :last_day"""
OF_EDGE = f"""
SELECT timestamp / {SLOT}, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES}
FROM {{source}} WHERE {{where}} GROUP BY 1, 2, 3"""
OF_UNCOUNTED = f"""
SELECT timestamp / {SLOT}, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES}
FROM visits NOT INDEXED WHERE id > :counted_id AND timestamp >= :day * {SLOT}
AND timestamp < :last_day * {SLOT} GROUP BY 1, 2, 3"""
OF_ALL = f"""
SELECT 0, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES} FROM {{source}} WHERE {{where}}
GROUP BY 2, 3"""
OF_EVER = f"""
SELECT status_class, latency, hits, bytes FROM outcomes WHERE level = {EVER_LEVEL}
UNION ALL
SELECT {STATUS_CLASS}, {LATENCY}, count(*), {BYTES} FROM visits NOT INDEXED
WHERE id > :measured_id GROUP BY 1, 2"""
NEVER = LAST_TIMESTAMP // SLOT + 1
# A slot, class of status, latency, hits, bytes.
Rows: TypeAlias = Iterable[tuple[int, int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Whole:
    """The slots between which there are whole days and, among them, whole months.

    All the same where there are none, or they are not counted.
    """

    day: int = NEVER
    month: int = NEVER
    last_month: int = NEVER
    last_day: int = NEVER


def of_endpoints(
    connection: sqlite3.Connection, selection: Selection, counted_id: int | None
) -> dict[tuple[str, str], Outcomes]:
    """Return outcomes by endpoint and method."""
    values = {**asdict(_whole(connection, selection, counted_id)), "counted_id": counted_id}
    found: dict[tuple[str, str], Outcomes] = defaultdict(Outcomes)
    for endpoint, method, *row in _ask(connection, OF_ENDPOINTS, selection, **values):
        found[endpoint, method].add(*row)
    return dict(found)


def of_all(
    connection: sqlite3.Connection, selection: Selection, counted_id: int | None
) -> Outcomes:
    """Return the outcomes of all."""
    found = Outcomes()
    whole = _whole(connection, selection, counted_id)
    if whole.day < whole.last_day:
        rows = _rows(connection, selection, whole, counted_id)
    else:
        rows = _ask(connection, OF_ALL, selection)
    for _, *row in rows:
        found.add(*row)
    return found


def of_ever(connection: sqlite3.Connection, measured_id: int) -> Outcomes:
    """Return the outcomes of all visits there ever were; those with greater ids are not counted yet."""
    found = Outcomes()
    for row in connection.execute(OF_EVER, {"measured_id": measured_id}):
        found.add(*row)
    return found


def of_buckets(
    connection: sqlite3.Connection,
    selection: Selection,
    granularity: Granularity,
    zone: tzinfo,
    buckets: Sequence[TrendBucket],
    counted_id: int | None,
) -> dict[int, Outcomes]:
    """Return outcomes by where a bucket starts."""
    found: dict[int, Outcomes] = defaultdict(Outcomes)
    if granularity is not Granularity.HOUR and zone == read_zone(connection):
        whole = _whole(connection, selection, counted_id)
        if whole.day < whole.last_day:
            for slot, *row in _rows(connection, selection, whole, counted_id):
                found[bucket_start(granularity, slot * SLOT, zone)].add(*row)
            return dict(found)
    end = LAST_TIMESTAMP + 1 if selection.end is None else selection.end
    for bucket in buckets:
        within = replace(
            selection,
            start=max(selection.start, bucket.start),
            end=min(next_bucket(granularity, bucket.start, zone), end),
        )
        for _, *row in _ask(connection, OF_ALL, within):
            found[bucket.start].add(*row)
    return dict(found)


def _whole(connection: sqlite3.Connection, selection: Selection, counted_id: int | None) -> Whole:
    if counted_id is None or selection.filters:
        return Whole()
    zone = read_zone(connection)
    day = first_whole(Granularity.DAY, selection.start, zone)
    last_day = LAST_TIMESTAMP + 1
    if selection.end is not None and selection.end <= LAST_TIMESTAMP:
        last_day = bucket_start(Granularity.DAY, selection.end, zone)
    if last_day <= day:
        return Whole()
    month = min(first_whole(Granularity.MONTH, day, zone), last_day)
    last_month = last_day
    if selection.end is not None and selection.end <= LAST_TIMESTAMP:
        last_month = max(month, bucket_start(Granularity.MONTH, last_day, zone))
    return Whole(*(-(-moment // SLOT) for moment in (day, month, last_month, last_day)))


def _rows(
    connection: sqlite3.Connection, selection: Selection, whole: Whole, counted_id: int | None
) -> Rows:
    values = {**asdict(whole), "counted_id": counted_id}
    return chain(
        _ask(connection, OF_EDGE, replace(selection, end=whole.day * SLOT)),
        connection.execute(OF_DAYS, values),
        connection.execute(OF_UNCOUNTED, values),
        _ask(connection, OF_EDGE, replace(selection, start=whole.last_day * SLOT)),
    )


def _ask(
    connection: sqlite3.Connection, statement: str, selection: Selection, **values: int | None
) -> Iterator[Any]:
    rows = rows_of(selection)
    text = statement.format(source=rows.source, where=rows.where)
    return connection.execute(text, {**rows.values, **values})
