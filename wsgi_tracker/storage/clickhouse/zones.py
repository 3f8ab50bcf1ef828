"""Buckets of a time zone as a number that a server can count: how far clocks were ahead, and when.

Servers have time zone data of their own, older or newer than Python's. The number only groups:
which bucket a group is of, Python says, and where a group is not one bucket, as clocks were set by
half an hour in it, asks for the buckets one by one.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from functools import lru_cache

from ...period import DAY, HOUR, SECOND, Granularity

STEP_SECONDS = 14 * 86400  # clocks are set less often
LAST_DATE = 4_000_000_000  # in 2096; ClickHouse's dates end in 2106
KEYS = {
    Granularity.HOUR: f"intDiv({{local}}, {HOUR}) * 1000 + {{piece}}",
    Granularity.DAY: f"intDiv({{local}}, {DAY})",
    Granularity.WEEK: f"intDiv(intDiv({{local}}, {DAY}) + 3, 7)",
    Granularity.MONTH: f"toYYYYMM(toDate(intDiv({{local}}, {DAY})))",
}


def bucket_key(granularity: Granularity, zone: tzinfo, first: int, last: int) -> str:
    """Return SQL for the number of a visit's bucket, among visits of these timestamps."""
    if granularity is Granularity.MONTH and last > LAST_DATE * SECOND:
        granularity = Granularity.DAY
    pieces = _pieces(zone, first // SECOND, min(last // SECOND, LAST_DATE))
    local = _choice([(until, f"timestamp + {offset}") for until, offset in pieces])
    piece = _choice([(until, str(number)) for number, (until, _) in enumerate(pieces)])
    return KEYS[granularity].replace("{local}", local).replace("{piece}", piece)


def _choice(pieces: list[tuple[int, str]]) -> str:
    *first, (_, last) = pieces
    if not first:
        return f"({last})"
    conditions = ", ".join(f"timestamp < {until}, {value}" for until, value in first)
    return f"multiIf({conditions}, {last})"


@lru_cache(maxsize=64)
def _pieces(zone: tzinfo, first: int, last: int) -> list[tuple[int, int]]:
    """Return until when, and how far, local time is ahead of UTC, in µs."""
    pieces, moment, offset = [], first, _offset(zone, first)
    while moment < last:
        following = min(moment + STEP_SECONDS, last)
        if (then := _offset(zone, following)) != offset:
            pieces.append((_change(zone, moment, following, offset) * SECOND, offset * SECOND))
            offset = then
        moment = following
    return [*pieces, (0, offset * SECOND)]


def _change(zone: tzinfo, before: int, behind: int, offset: int) -> int:
    """Return the first moment that has another offset."""
    while behind - before > 1:
        middle = (before + behind) // 2
        if _offset(zone, middle) == offset:
            before = middle
        else:
            behind = middle
    return behind


def _offset(zone: tzinfo, moment: int) -> int:
    return (zone.utcoffset(datetime.fromtimestamp(moment, zone)) or timedelta()) // timedelta(
        seconds=1
    )
