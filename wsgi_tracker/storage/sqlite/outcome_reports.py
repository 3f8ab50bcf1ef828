"""How the visits of a selection went: from counters for whole days and months, else from visits.

Within the caller's transaction. ``counted_id`` is the last visit that is counted, if counters hold.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import tzinfo
from itertools import chain
from typing import NamedTuple, TypeAlias

from ...period import LAST_TIMESTAMP, SLOT, Granularity, bucket_start, first_whole, next_bucket
from ...reports import Outcomes, TrendBucket
from ...selection import Selection
from .calendar import read_zone
from .changes import DAY_LEVEL, MONTH_LEVEL
from .conditions import rows_of
from .outcomes import BYTES, EVER_LEVEL, LATENCY, STATUS_CLASS

# Whole months and days as they were counted.
OF_ENDPOINTS = f"""
SELECT endpoint_id, status_class, latency, sum(hits), sum(bytes) FROM (
    SELECT endpoint_id, status_class, latency, hits, bytes FROM outcomes
    WHERE level = {DAY_LEVEL} AND endpoint_id > 0 AND bucket >= :day AND bucket < :month
    UNION ALL
    SELECT endpoint_id, status_class, latency, hits, bytes FROM outcomes
    WHERE level = {MONTH_LEVEL} AND endpoint_id > 0 AND bucket >= :month AND bucket < :last_month
    UNION ALL
    SELECT endpoint_id, status_class, latency, hits, bytes FROM outcomes
    WHERE level = {DAY_LEVEL} AND endpoint_id > 0 AND bucket >= :last_month AND bucket < :last_day
) GROUP BY 1, 2, 3"""
# Endpoint 0 of each day on its own: the others stand in between.
OF_DAYS = f"""
SELECT bucket, status_class, latency, hits, bytes FROM (
    SELECT bucket AS day FROM totals WHERE level = {DAY_LEVEL} AND class_id = 0
    AND bucket >= :day AND bucket < :last_day LIMIT -1 OFFSET 0
) CROSS JOIN outcomes ON level = {DAY_LEVEL} AND bucket = day AND endpoint_id = 0"""
OF_VISITS = f"""
SELECT {{key}}, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES} FROM {{source}} WHERE {{where}}
GROUP BY 1, 2, 3"""
OF_UNCOUNTED = f"""
SELECT {{key}}, {STATUS_CLASS}, {LATENCY}, count(*), {BYTES} FROM visits NOT INDEXED
WHERE id > :counted_id AND timestamp >= :day * {SLOT} AND timestamp < :last_day * {SLOT}
GROUP BY 1, 2, 3"""
OF_EVER = f"""
SELECT status_class, latency, hits, bytes FROM outcomes WHERE level = {EVER_LEVEL}
UNION ALL
SELECT {STATUS_CLASS}, {LATENCY}, count(*), {BYTES} FROM visits NOT INDEXED
WHERE id > :measured_id GROUP BY 1, 2"""
# A key, class of status, latency, hits, bytes.
Rows: TypeAlias = Iterable[tuple[int, int, int, int, int]]


class Key(NamedTuple):
    """What outcomes are told apart by: an expression for visits, a statement for counters."""

    of_visit: str
    counted: str


ENDPOINT = Key("+endpoint_id", OF_ENDPOINTS)
DAY = Key(f"timestamp / {SLOT}", OF_DAYS)
NOTHING = Key("0", OF_DAYS)


@dataclass(frozen=True, slots=True)
class Whole:
    """The slots between which there are whole days and, among them, whole months."""

    day: int
    month: int
    last_month: int
    last_day: int


def of_endpoints(
    connection: sqlite3.Connection, selection: Selection, counted_id: int | None
) -> dict[tuple[str, str], Outcomes]:
    """Return outcomes by endpoint and method."""
    found: dict[int, Outcomes] = defaultdict(Outcomes)
    for endpoint_id, *row in _rows(connection, selection, counted_id, ENDPOINT):
        found[endpoint_id].add(*row)
    names = connection.execute("SELECT id, endpoint, method FROM endpoints")
    return {tuple(name): found[number] for number, *name in names if number in found}


def of_all(
    connection: sqlite3.Connection, selection: Selection, counted_id: int | None
) -> Outcomes:
    """Return the outcomes of all."""
    found = Outcomes()
    for _, *row in _rows(connection, selection, counted_id, NOTHING):
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
    are_days = granularity is not Granularity.HOUR and zone == read_zone(connection)
    if are_days and _whole(connection, selection, counted_id):
        for slot, *row in _rows(connection, selection, counted_id, DAY):
            found[bucket_start(granularity, slot * SLOT, zone)].add(*row)
        return dict(found)
    end = LAST_TIMESTAMP + 1 if selection.end is None else selection.end
    for bucket in buckets:
        within = replace(
            selection,
            start=max(selection.start, bucket.start),
            end=min(next_bucket(granularity, bucket.start, zone), end),
        )
        for _, *row in _of_visits(connection, within, NOTHING):
            found[bucket.start].add(*row)
    return dict(found)


def _whole(
    connection: sqlite3.Connection, selection: Selection, counted_id: int | None
) -> Whole | None:
    if counted_id is None or selection.filters:
        return None
    zone = read_zone(connection)
    day = first_whole(Granularity.DAY, selection.start, zone)
    last_day = LAST_TIMESTAMP + 1
    if selection.end is not None and selection.end <= LAST_TIMESTAMP:
        last_day = bucket_start(Granularity.DAY, selection.end, zone)
    if last_day <= day:
        return None
    month = min(first_whole(Granularity.MONTH, day, zone), last_day)
    last_month = last_day
    if selection.end is not None and selection.end <= LAST_TIMESTAMP:
        last_month = max(month, bucket_start(Granularity.MONTH, last_day, zone))
    return Whole(*(-(-moment // SLOT) for moment in (day, month, last_month, last_day)))


def _rows(
    connection: sqlite3.Connection, selection: Selection, counted_id: int | None, key: Key
) -> Rows:
    """Return whole days as they were counted; what is before, behind and new of visits."""
    whole = _whole(connection, selection, counted_id)
    if whole is None:
        return _of_visits(connection, selection, key)
    values = {**asdict(whole), "counted_id": counted_id}
    return chain(
        _of_visits(connection, replace(selection, end=whole.day * SLOT), key),
        connection.execute(key.counted, values),
        connection.execute(OF_UNCOUNTED.format(key=key.of_visit), values),
        _of_visits(connection, replace(selection, start=whole.last_day * SLOT), key),
    )


def _of_visits(connection: sqlite3.Connection, selection: Selection, key: Key) -> Rows:
    rows = rows_of(selection)
    statement = OF_VISITS.format(key=key.of_visit, source=rows.source, where=rows.where)
    return connection.execute(statement, rows.values)
