"""How visits went: how many of a day and endpoint had which class of status and which latency."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ..agents import ClassFilter
from ..latency import BOUNDS
from ..period import LAST_TIMESTAMP, SLOT, Granularity, first_whole
from ..reports import EndpointOutcomes
from .calendar import read_zone
from .classes import class_condition, class_value

STATUS_CLASS = "coalesce(status, 0) / 100"


def latency_of(duration: str) -> str:
    """Return SQL for the number of the bucket; a search by halves, as SQLite may have no log()."""
    return _halves(f"coalesce({duration}, 0)", 0, len(BOUNDS))


def _halves(duration: str, first: int, end: int) -> str:
    if end - first == 1:
        return str(first)
    middle = (first + end) // 2
    lower, upper = _halves(duration, first, middle), _halves(duration, middle, end)
    return f"CASE WHEN {duration} < {BOUNDS[middle]} THEN {lower} ELSE {upper} END"


COUNT = f"""
INSERT INTO outcomes (day, endpoint_id, status_class, latency, hits)
SELECT day, endpoint_id, {STATUS_CLASS}, {latency_of("duration_us")}, {{sign}} * count(*)
FROM visits CROSS JOIN calendar ON slot = timestamp / {SLOT} WHERE {{which}} GROUP BY 1, 2, 3, 4
ON CONFLICT (day, endpoint_id, status_class, latency) DO UPDATE SET hits = hits + excluded.hits"""

# Whole days as they were counted; what comes before them, or came since, from the visits.
READ = f"""
SELECT endpoint, method, status_class, latency, sum(hits) FROM (
    SELECT endpoint_id, status_class, latency, hits FROM outcomes WHERE day >= :day
    UNION ALL
    SELECT endpoint_id, {STATUS_CLASS}, {latency_of("duration_us")}, count(*) FROM visits
    WHERE timestamp >= :start AND timestamp < :day * {SLOT} AND {{only}} GROUP BY 1, 2, 3
    UNION ALL
    SELECT endpoint_id, {STATUS_CLASS}, {latency_of("duration_us")}, count(*) FROM visits
    NOT INDEXED WHERE id > :counted_id AND timestamp >= :day * {SLOT} AND {{only}} GROUP BY 1, 2, 3
) CROSS JOIN endpoints ON endpoints.id = endpoint_id
GROUP BY endpoint, method, status_class, latency"""
NEVER = LAST_TIMESTAMP // SLOT + 1


def count_outcomes(
    connection: sqlite3.Connection, which: str, values: Mapping[str, int], sign: int = 1
) -> None:
    """Add these visits, or with ``sign`` -1 take them away."""
    connection.execute(COUNT.format(which=which, sign=sign), values)


def read_outcomes(
    connection: sqlite3.Connection, start: int, only: ClassFilter | None, counted_id: int | None
) -> list[EndpointOutcomes]:
    """Return one row per endpoint and method; of a class of user agents, from the visits alone.

    Visits with ids to ``counted_id``, if there is one, are those that are counted.
    """
    day = NEVER
    if counted_id is not None and only is None:
        day = first_whole(Granularity.DAY, start, read_zone(connection)) // SLOT
    values = {"start": start, "day": day, "counted_id": counted_id, "only": class_value(only)}
    rows = connection.execute(READ.format(only=class_condition(only)), values)
    found: dict[tuple[str, str], EndpointOutcomes] = {}
    for endpoint, method, status_class, latency, hits in rows:
        row = found.setdefault((endpoint, method), EndpointOutcomes(endpoint, method))
        row.hits[status_class, latency] = hits
    return list(found.values())
