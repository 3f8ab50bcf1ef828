"""Windows of time and their buckets: date arithmetic alone, in microseconds since the epoch, UTC.

A window reaches from now minus its length to now, and has no upper end: a visit that a fast clock
dated into the future is in every one.
"""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
LAST_TIMESTAMP = 253402300799999999  # the end of the year 9999

PERIODS = {"day": DAY, "week": 7 * DAY, "month": 30 * DAY, "year": 365 * DAY, "all": None}
TREND_PERIODS = {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "1y": 365 * DAY}

# 1970-01-01 was a Thursday: weeks that begin on Monday begin three days before it.
_WEEK_OFFSET = 3 * DAY


class Granularity(str, Enum):
    """How long a bucket of a trend is; weeks begin on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def window_start(length: int | None, now: int) -> int:
    """Return where the window of ``length`` that reaches to ``now`` begins; ``None`` is all."""
    return 0 if length is None else max(0, now - length)


def bucket_start(granularity: Granularity, timestamp: int) -> int:
    """Return the start of the bucket that ``timestamp`` lies in."""
    if granularity is Granularity.HOUR:
        return timestamp - timestamp % HOUR
    if granularity is Granularity.DAY:
        return timestamp - timestamp % DAY
    if granularity is Granularity.WEEK:
        return timestamp - (timestamp + _WEEK_OFFSET) % (7 * DAY)
    first = _utc(timestamp).replace(day=1, hour=0, minute=0, second=0)
    return int(first.timestamp()) * SECOND


def bucket_label(granularity: Granularity, start: int) -> str:
    """Return a bucket's name: ``2025-08-13T15:00:00Z``, ``2025-08-13`` or ``2025-08``."""
    if granularity is Granularity.HOUR:
        return iso_timestamp(start)
    if granularity is Granularity.MONTH:
        return f"{_utc(start):%Y-%m}"
    # The week of 1970-01-01 begins in 1969.
    return f"{_utc(start):%Y-%m-%d}"


def iso_timestamp(timestamp: int) -> str:
    """Return ``2025-08-13T15:30:00Z``, whole seconds, rounded down."""
    return f"{_utc(timestamp):%Y-%m-%dT%H:%M:%SZ}"


def _utc(timestamp: int) -> datetime:
    return datetime.fromtimestamp(timestamp // SECOND, timezone.utc)
