"""How visits went: for each day and endpoint, how many had which class of status and which latency.

Latencies are counted in logarithmic buckets, four to each doubling. So counts of any days and
endpoints can be added up, and a quantile of the sum is at most 9 % off, whatever it is: a bucket's
bounds are a factor of 2 ** (1/4) apart, and its middle at most 2 ** (1/8) from either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ..period import SLOT

PER_DOUBLING = 4
DOUBLINGS = 36  # to 19 hours
# Bucket n holds latencies from BOUNDS[n] µs up to the next bound; the first also 0.
BOUNDS = sorted({round(2 ** (n / PER_DOUBLING)) for n in range(PER_DOUBLING * DOUBLINGS)})

CREATE_LATENCIES = "CREATE TEMP TABLE latencies (from_us INTEGER PRIMARY KEY, latency INTEGER)"
FILL_LATENCIES = "INSERT INTO temp.latencies (from_us, latency) VALUES (?, ?)"
LATENCY = """
(SELECT latency FROM temp.latencies WHERE from_us <= max(coalesce(duration_us, 0), 1)
    ORDER BY from_us DESC LIMIT 1)"""
COUNT = f"""
INSERT INTO outcomes (day, endpoint_id, status_class, latency, hits)
SELECT day, endpoint_id, coalesce(status, 0) / 100, {LATENCY}, {{sign}} * count(*)
FROM visits CROSS JOIN calendar ON slot = timestamp / {SLOT} WHERE {{which}} GROUP BY 1, 2, 3, 4
ON CONFLICT DO UPDATE SET hits = hits + excluded.hits"""


def prepare_outcomes(connection: sqlite3.Connection) -> None:
    """Let a connection tell the bucket of a latency."""
    connection.execute(CREATE_LATENCIES)
    connection.executemany(FILL_LATENCIES, [(bound, n) for n, bound in enumerate(BOUNDS)])


def count_outcomes(
    connection: sqlite3.Connection, which: str, values: Mapping[str, int], sign: int = 1
) -> None:
    """Add these visits, or with ``sign`` -1 take them away."""
    connection.execute(COUNT.format(which=which, sign=sign), values)
