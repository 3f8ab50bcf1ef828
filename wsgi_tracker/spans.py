"""Spans of time that are asked about: periods to now, days, and ranges; and what lies before them.

In microseconds since the epoch, half-open. A period that reaches to now has no end: a visit that a
fast clock dated into the future is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, tzinfo

from .errors import QueryError
from .period import LAST_TIMESTAMP, Granularity, bucket_start, midnight, window_start

TODAY, YESTERDAY = "today", "yesterday"
DAYS = (TODAY, YESTERDAY)


@dataclass(frozen=True, slots=True)
class Span:
    """From ``start`` to before ``end``, or to now; ``before`` is what it is compared with."""

    start: int
    end: int | None = None
    before: tuple[int, int] | None = None


def span_of_period(length: int | None, now: int) -> Span:
    """Return the last ``length``, or all."""
    start = window_start(length, now)
    return Span(start, None, None if length is None else (max(0, start - length), start))


def span_of_day(name: str, now: int, zone: tzinfo) -> Span:
    """Return today so far, before which comes as much of yesterday; or all of yesterday."""
    today = bucket_start(Granularity.DAY, now, zone)
    yesterday = bucket_start(Granularity.DAY, max(0, today - 1), zone)
    if name == TODAY:
        return Span(today, None, (yesterday, min(yesterday + now - today, today)))
    eve = bucket_start(Granularity.DAY, max(0, yesterday - 1), zone)
    return Span(yesterday, today, (eve, yesterday))


def span_of_range(start: date | int | None, end: date | int | None, now: int, zone: tzinfo) -> Span:
    """Return what lies between two moments, or dates, of which one may be missing."""
    first = 0 if start is None else _moment(start, zone)
    last = None if end is None else _moment(end, zone)
    if last is not None and last <= first:
        raise QueryError("end has to be later than start: what begins with it is left out", "end")
    if start is None:
        return Span(first, last)
    length = max(0, (now if last is None else last) - first)
    return Span(first, last, (max(0, first - length), first))


def _moment(moment: date | int, zone: tzinfo) -> int:
    if isinstance(moment, date):
        return max(0, min(midnight(moment, zone), LAST_TIMESTAMP))
    return moment
