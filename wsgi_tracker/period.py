"""Windows of time and their buckets: date arithmetic alone, in microseconds since the epoch.

A window reaches from now minus its length to now, and has no upper end: a visit that a fast clock
dated into the future is in every one. Hours, days, weeks and months are those of one time zone, and
begin and end with a slot of 15 minutes, as they do everywhere since 1980.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone, tzinfo
from enum import Enum
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from .errors import ConfigurationError

SECOND = 1_000_000
SLOT = 900 * SECOND
HOUR = 3600 * SECOND
DAY = 24 * HOUR
IDLE = HOUR // 2  # longer, and a session is over
LAST_TIMESTAMP = 253402300799999999  # the end of the year 9999
# Behind it a clock elsewhere may show the year 10000, which no date has: it stands still there.
_LAST_DATED = LAST_TIMESTAMP - 2 * DAY

PERIODS = {"day": DAY, "week": 7 * DAY, "month": 30 * DAY, "year": 365 * DAY, "all": None}
TREND_PERIODS = {"24h": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "1y": 365 * DAY}


class Granularity(str, Enum):
    """How long a bucket of a trend is; weeks begin on Monday."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


def window_start(length: int | None, now: int) -> int:
    """Return where the window of ``length`` that reaches to ``now`` begins; ``None`` is all."""
    return 0 if length is None else max(0, now - length)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Return the names of time zones; there are files of what is none, or counts leap seconds."""
    return frozenset(available_timezones() - {"localtime", "Factory"})


@lru_cache(maxsize=16)
def load_zone(name: str) -> tzinfo:
    """Return the time zone of this name, as ``Europe/Berlin``, or :exc:`ConfigurationError`."""
    if name == "UTC":
        return timezone.utc
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError) as error:
        raise ConfigurationError(
            f"timezone is a name such as UTC or Europe/Berlin, given {name!r}"
        ) from error


def bucket_start(granularity: Granularity, timestamp: int, zone: tzinfo = timezone.utc) -> int:
    """Return the start of the bucket that ``timestamp`` lies in."""
    slot = min(timestamp, _LAST_DATED) // SLOT * SLOT
    if granularity is Granularity.HOUR:
        return _hour_start(slot, zone)
    return midnight(_FIRST_DAYS[granularity](_local(slot, zone).date()), zone)


def next_bucket(granularity: Granularity, start: int, zone: tzinfo = timezone.utc) -> int:
    """Return the start of the bucket behind the one that begins with ``start``."""
    if start >= bucket_start(granularity, _LAST_DATED, zone):
        return LAST_TIMESTAMP + 1
    if granularity is Granularity.HOUR:
        following = start + SLOT
        while bucket_start(granularity, following, zone) == start:
            following += SLOT
        return following
    day = _local(start, zone).date()
    return midnight(_FIRST_DAYS[granularity](day + _SURELY_IN_NEXT[granularity]), zone)


def first_whole(granularity: Granularity, start: int, zone: tzinfo = timezone.utc) -> int:
    """Return the start of the first bucket that lies behind ``start``, all of it."""
    bucket = bucket_start(granularity, start, zone)
    return bucket if bucket == start else next_bucket(granularity, bucket, zone)


def bucket_label(granularity: Granularity, start: int, zone: tzinfo = timezone.utc) -> str:
    """Return a bucket's name: ``2025-08-13T15:00:00Z``, ``2025-08-13`` or ``2025-08``."""
    if granularity is Granularity.HOUR:
        return iso_timestamp(start)
    if granularity is Granularity.MONTH:
        return f"{_local(start, zone):%Y-%m}"
    # The week of 1970-01-01 begins in 1969.
    return f"{_local(start, zone):%Y-%m-%d}"


def iso_timestamp(timestamp: int) -> str:
    """Return ``2025-08-13T15:30:00Z``, whole seconds, rounded down."""
    return _local(timestamp, timezone.utc).isoformat()[:19] + "Z"  # in a third of strftime's time


def iso_or_none(timestamp: int | None) -> str | None:
    """Return the same of a moment that may be missing."""
    return None if timestamp is None else iso_timestamp(timestamp)


def _local(timestamp: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(timestamp // SECOND, zone)


_FIRST_DAYS: dict[Granularity, Callable[[date], date]] = {
    Granularity.DAY: lambda day: day,
    Granularity.WEEK: lambda day: day - timedelta(days=day.weekday()),
    Granularity.MONTH: lambda day: day.replace(day=1),
}
_SURELY_IN_NEXT = {
    Granularity.DAY: timedelta(days=1),
    Granularity.WEEK: timedelta(days=7),
    Granularity.MONTH: timedelta(days=31),
}


def _hour_start(slot: int, zone: tzinfo) -> int:
    """Return when the clock last showed a full hour, or a day began."""
    start = _full_hour(slot, zone)
    full = _full_hour(start, zone)
    if full == start:
        return start
    # The clock was set by half an hour meanwhile: the hour in which it was is longer.
    return max(full, midnight(_local(slot, zone).date(), zone))


def _full_hour(slot: int, zone: tzinfo) -> int:
    return slot - _local(slot, zone).minute * 60 * SECOND // SLOT * SLOT


def midnight(day: date, zone: tzinfo) -> int:
    """Return when a day begins; where clocks skip midnight, with the first slot that it has."""
    # Of two midnights the first; of none, the moment in which the clock is set.
    start = round(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * SECOND
    return -(-start // SLOT) * SLOT
