"""What reports are compared with: visits that were recorded, counted in plain Python."""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import engines
import webtest

from wsgi_tracker import Tracker, Visit

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 3, 4, 10, 15, 30, 123456, tzinfo=UTC)  # a Monday after a 29 February
PERIODS = {"day": 1, "week": 7, "month": 30, "year": 365, "all": None}
TRENDS = {"24h": 1, "7d": 7, "30d": 30, "1y": 365}
segments = itertools.count()


def micro(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def edges() -> list[datetime]:
    """Return moments where a period or a bucket begins."""
    days = [NOW - timedelta(days=days) for days in (1, 7, 30, 365) if days]
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    months = [datetime(2023 + n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in range(2, 15)]
    hours = [
        NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=n) for n in (0, 1, 24)
    ]
    weeks = [midnight - timedelta(days=7 * n) for n in (0, 1, 52)]
    future = [NOW + timedelta(hours=1), NOW + timedelta(days=40)]
    return [NOW, midnight, *days, *months, *hours, *weeks, *future]


@contextmanager
def reporting(recorded: Iterable[Visit], zone: str = "UTC") -> Iterator[webtest.TestApp]:
    """Spool visits as another process would, and yield a client at the moment NOW."""
    with tempfile.TemporaryDirectory() as folder:
        database = engines.database(Path(folder))
        with Tracker(
            lambda *args: [], database, ingest=False, timezone=zone, secret=engines.SECRET
        ) as tracker:
            tracker._api._fresh._clock = lambda: micro(NOW) * 1000
            spool(Path(folder) / "visits.db", recorded)
            yield webtest.TestApp(tracker)


def spool(database: Path, recorded: Iterable[Visit]) -> None:
    segment = f"{next(segments):032x}"
    content = b'{"segment":"%s"}\n' % segment.encode() + b"".join(v.line() for v in recorded)
    (database.with_name("visits.db-spool") / f"{segment}.ndjson").write_bytes(content)


def moment(visit: Visit) -> datetime:
    return EPOCH + timedelta(microseconds=visit.timestamp)


def within(recorded: list[Visit], days: int | None) -> list[Visit]:
    start = EPOCH if days is None else NOW - timedelta(days=days)
    return [visit for visit in recorded if moment(visit) >= start]


def iso(moments: list[datetime], choose: Any) -> str | None:
    return choose(moments).strftime("%Y-%m-%dT%H:%M:%SZ") if moments else None


def count_users(some: list[Visit]) -> int:
    return len({visit.user_hash for visit in some if visit.user_hash is not None})


def count_stats(recorded: list[Visit]) -> list[dict[str, Any]]:
    groups = defaultdict(list)
    for visit in recorded:
        groups[visit.endpoint, visit.method].append(visit)
    rows = [
        {
            "endpoint": endpoint,
            "method": method,
            "hit_count": len(group),
            "unique_users": count_users(group),
            "last_access": iso([moment(visit) for visit in group], max),
            "first_access": iso([moment(visit) for visit in group], min),
        }
        for (endpoint, method), group in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["hit_count"], row["endpoint"], row["method"]))


def count_summary(recorded: list[Visit]) -> dict[str, Any]:
    return {
        "total_hits": len(recorded),
        "total_endpoints": len({visit.endpoint for visit in recorded}),
        "total_unique_users": count_users(recorded),
        "oldest_visit": iso([moment(visit) for visit in recorded], min),
        "newest_visit": iso([moment(visit) for visit in recorded], max),
    }


def bucket(visit: Visit, granularity: str, zone: str) -> str:
    at = moment(visit).astimezone(ZoneInfo(zone))
    if granularity == "hour":
        start = moment(visit) - timedelta(minutes=at.minute, seconds=at.second)
        return start.strftime("%Y-%m-%dT%H:%M:00Z")
    if granularity == "week":
        at -= timedelta(days=at.isoweekday() - 1)
    return at.strftime("%Y-%m" if granularity == "month" else "%Y-%m-%d")


def count_trends(
    recorded: list[Visit], granularity: str, zone: str = "UTC"
) -> list[dict[str, Any]]:
    groups = defaultdict(list)
    for visit in recorded:
        groups[bucket(visit, granularity, zone)].append(visit)
    return [
        {
            "time_bucket": label,
            "hits": len(group),
            "unique_users": count_users(group),
            "unique_endpoints": len({visit.endpoint for visit in group}),
        }
        for label, group in sorted(groups.items(), reverse=True)
    ]
