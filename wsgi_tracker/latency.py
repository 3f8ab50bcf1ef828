"""Latencies in logarithmic buckets: counts of any days and endpoints add up, and tell quantiles.

Four buckets to each doubling: the bounds of one are a factor of 2 ** (1/4) apart, and its middle, the
geometric mean, is at most 2 ** (1/8) from either. So a quantile is at most 9 % off, whatever it is,
beside the half microsecond that whole ones cost at the lowest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PER_DOUBLING = 4
DOUBLINGS = 36  # to 19 hours
# Bucket n holds latencies from BOUNDS[n] µs up to the next bound; the first one also 0, the last all.
BOUNDS = sorted({round(2 ** (n / PER_DOUBLING)) for n in range(PER_DOUBLING * DOUBLINGS)})


def quantile(hits: Mapping[int, int], share: float) -> float | None:
    """Return the latency in µs that ``share`` of the hits, at least one, do not exceed.

    ``hits`` are counted by the numbers of their buckets. ``None`` where there are none. The middle
    of the bucket in which the nearest-rank quantile lies.
    """
    rank = max(1, math.ceil(share * sum(hits.values())))
    for bucket in sorted(hits):
        rank -= hits[bucket]
        if rank <= 0:
            return _middle(bucket)
    return None


def _middle(bucket: int) -> float:
    lower = BOUNDS[bucket]
    upper = BOUNDS[bucket + 1] if bucket + 1 < len(BOUNDS) else lower
    return math.sqrt(lower * max(lower, upper - 1))
