"""How visits went: for each day and endpoint, how many had which class of status and which latency.

Latencies are counted in logarithmic buckets, four to each doubling. So counts of any days and
endpoints can be added up, and a quantile of the sum is at most 9.1 % off, whatever it is: the least
and the greatest latency of a bucket are at most a factor of 2 ** (1/4) apart, and the root of their
product at most 2 ** (1/8) from either. Latencies are whole microseconds, so below 8 they are exact.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ..period import SLOT

PER_DOUBLING = 4
DOUBLINGS = 36  # to 19 hours
# Bucket n holds latencies from BOUNDS[n] µs up to the next bound; the first 0, too, the last the rest.
BOUNDS = sorted({round(2 ** (n / PER_DOUBLING)) for n in range(PER_DOUBLING * DOUBLINGS)})

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
ON CONFLICT DO UPDATE SET hits = hits + excluded.hits"""


def count_outcomes(
    connection: sqlite3.Connection, which: str, values: Mapping[str, int], sign: int = 1
) -> None:
    """Add these visits, or with ``sign`` -1 take them away."""
    connection.execute(COUNT.format(which=which, sign=sign), values)
