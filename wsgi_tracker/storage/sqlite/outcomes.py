"""How visits went: how many had which class of status and which latency, and the bytes they sent.

Counted for each endpoint, and for all of them as endpoint 0, of days and months.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ...latency import BOUNDS, UNKNOWN
from ...period import SLOT
from .changes import DAY_LEVEL, MONTH_LEVEL

STATUS_CLASS = "coalesce(status, 0) / 100"
BYTES = "sum(coalesce(bytes_sent, 0))"


def latency_of(duration: str) -> str:
    """Return SQL for the number of the bucket; a search by halves, as SQLite may have no log()."""
    return (
        f"CASE WHEN {duration} IS NULL THEN {UNKNOWN} ELSE {_halves(duration, 0, len(BOUNDS))} END"
    )


def _halves(duration: str, first: int, end: int) -> str:
    if end - first == 1:
        return str(first)
    middle = (first + end) // 2
    lower, upper = _halves(duration, first, middle), _halves(duration, middle, end)
    return f"CASE WHEN {duration} < {BOUNDS[middle]} THEN {lower} ELSE {upper} END"


LATENCY = latency_of("duration_us")
CHANGE_DAYS = f"""
INSERT INTO temp.outcome_changes
SELECT {DAY_LEVEL}, day, endpoint_id, {STATUS_CLASS}, {LATENCY}, :sign * count(*), :sign * {BYTES}
FROM visits CROSS JOIN calendar ON slot = timestamp / {SLOT} WHERE {{which}} GROUP BY 2, 3, 4, 5"""
SUM_UP = (
    f"""
INSERT INTO temp.outcome_changes
SELECT {MONTH_LEVEL}, month, endpoint_id, status_class, latency, sum(hits), sum(bytes)
FROM temp.outcome_changes CROSS JOIN calendar ON slot = bucket GROUP BY 2, 3, 4, 5""",
    """
INSERT INTO temp.outcome_changes
SELECT level, bucket, 0, status_class, latency, sum(hits), sum(bytes)
FROM temp.outcome_changes GROUP BY 1, 2, 4, 5""",
)
# Of all that was ever counted; nothing is taken from it.
EVER_LEVEL = 5
SUM_EVER = f"""
INSERT INTO temp.outcome_changes
SELECT {EVER_LEVEL}, 0, 0, status_class, latency, sum(hits), sum(bytes)
FROM temp.outcome_changes WHERE level = {MONTH_LEVEL} AND endpoint_id = 0 GROUP BY 4, 5"""
ADD = """
INSERT INTO outcomes (level, bucket, endpoint_id, status_class, latency, hits, bytes)
SELECT level, bucket, endpoint_id, status_class, latency, hits, bytes
FROM temp.outcome_changes WHERE true
ON CONFLICT (level, bucket, endpoint_id, status_class, latency)
DO UPDATE SET hits = hits + excluded.hits, bytes = bytes + excluded.bytes"""


def count_outcomes(
    connection: sqlite3.Connection,
    which: str,
    values: Mapping[str, int],
    sign: int = 1,
    *,
    are_new: bool = False,
) -> None:
    """Add these visits, or with ``sign`` -1 take them away; they are new if never counted before."""
    connection.execute(CHANGE_DAYS.format(which=which), {**values, "sign": sign})
    for statement in (*SUM_UP, *([SUM_EVER] if are_new else []), ADD):
        connection.execute(statement)
