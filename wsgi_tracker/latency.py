"""Latencies in logarithmic buckets: counts of any days and endpoints add up, and tell quantiles.

Four buckets to each doubling: the least and the greatest latency of one are at most a factor of
2 ** (1/4) apart, and the root of their product at most 2 ** (1/8) from either. So a quantile is at
most 9.1 % off, whatever it is. Latencies are whole microseconds: below 8 they are exact, 0 counts
as 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PER_DOUBLING = 4
ERROR_PERCENT = 9.1
DOUBLINGS = 36  # to 19 hours
# Bucket n holds latencies from BOUNDS[n] µs up to the next bound; the first also 0, the last all.
BOUNDS = sorted({round(2 ** (n / PER_DOUBLING)) for n in range(PER_DOUBLING * DOUBLINGS)})

UNKNOWN = -1  # in place of a number: visits of which nobody measured it


def quantile(hits: Mapping[int, int], share: float) -> float | None:
    """Return the latency in µs that ``share`` of the hits, at least one, do not exceed.

    ``hits`` are counted by the numbers of their buckets; those of :data:`UNKNOWN` are left out.
    ``None`` where there are none. The middle of the bucket in which the nearest-rank quantile lies.
    """
    known = {bucket: count for bucket, count in hits.items() if bucket != UNKNOWN}
    rank = max(1, math.ceil(share * sum(known.values())))
    for bucket in sorted(known):
        rank -= known[bucket]
        if rank <= 0:
            return _middle(bucket)
    return None


def _middle(bucket: int) -> float:
    lower = BOUNDS[bucket]
    upper = BOUNDS[bucket + 1] if bucket + 1 < len(BOUNDS) else lower
    return math.sqrt(lower * max(lower, upper - 1))
