"""What is answered: the rows of reports. Timestamps are microseconds since the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from .latency import quantile
from .period import SECOND, iso_or_none, iso_timestamp
from .visit import Visit


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """Visits of one endpoint and method."""

    endpoint: str
    method: str
    hit_count: int
    unique_users: int
    first_access: int
    last_access: int

    def as_json(self) -> dict[str, Any]:
        """Return the row as the contract spells it."""
        return {
            "endpoint": self.endpoint,
            "method": self.method,
            "hit_count": self.hit_count,
            "unique_users": self.unique_users,
            "last_access": iso_timestamp(self.last_access),
            "first_access": iso_timestamp(self.first_access),
        }


@dataclass(slots=True)
class Outcomes:
    """How visits went.

    ``hits`` are counted by class of status (2 for 200 to 299, 0 where there was none) and by bucket
    of latency (see :mod:`~wsgi_tracker.latency`).
    """

    hits: Counter[tuple[int, int]] = field(default_factory=Counter)
    bytes_sent: int = 0

    def add(self, status_class: int, latency: int, hits: int, bytes_sent: int) -> None:
        """Add visits of one class of status and one bucket."""
        self.hits[status_class, latency] += hits
        self.bytes_sent += bytes_sent

    def statuses(self) -> Counter[int]:
        """Return the hits of each class of status."""
        return self._sums(0)

    def latencies(self) -> Counter[int]:
        """Return the hits of each bucket of latency."""
        return self._sums(1)

    def latency_us(self, share: float) -> float | None:
        """Return the latency that ``share`` of the visits do not exceed, at most 9.1 % off."""
        return quantile(self.latencies(), share)

    def as_json(self, include: Collection[str]) -> dict[str, Any]:
        """Return what is asked for of ``status``, ``latency`` and ``bytes``."""
        answer: dict[str, Any] = {}
        if "status" in include:
            statuses = self.statuses()
            known = {f"{number}xx": statuses.pop(number, 0) for number in (2, 3, 4, 5)}
            answer["status"] = {**known, "other": statuses.total()}
            total = self.hits.total()
            answer["error_rate"] = known["5xx"] / total if total else None
        if "latency" in include:
            answer["duration_us"] = {
                f"p{percent}": _rounded(self.latency_us(percent / 100)) for percent in (50, 90, 99)
            }
        if "bytes" in include:
            answer["bytes_sent"] = self.bytes_sent
        return answer

    def _sums(self, of: int) -> Counter[int]:
        sums: Counter[int] = Counter()
        for key, hits in self.hits.items():
            sums[key[of]] += hits
        return sums


def _rounded(number: float | None) -> int | None:
    return None if number is None else round(number)


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals of a window; the dates are ``None`` when it is empty."""

    total_hits: int
    total_endpoints: int
    total_unique_users: int
    oldest_visit: int | None
    newest_visit: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the totals as the contract spells them."""
        return {
            "total_hits": self.total_hits,
            "total_endpoints": self.total_endpoints,
            "total_unique_users": self.total_unique_users,
            "oldest_visit": iso_or_none(self.oldest_visit),
            "newest_visit": iso_or_none(self.newest_visit),
        }


@dataclass(frozen=True, slots=True)
class TrendBucket:
    """Visits within one bucket; ``start`` may lie before the window, the visits never do.

    ``time_bucket`` is its name, in the time zone of the storage.
    """

    start: int
    time_bucket: str
    hits: int
    unique_users: int
    unique_endpoints: int

    def as_json(self) -> dict[str, Any]:
        """Return the bucket as the contract spells it."""
        return {
            "time_bucket": self.time_bucket,
            "hits": self.hits,
            "unique_users": self.unique_users,
            "unique_endpoints": self.unique_endpoints,
        }


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """Visits that have one value; ``None`` is that of those that have none."""

    value: str | None
    hits: int
    unique_users: int

    def as_json(self) -> dict[str, Any]:
        """Return the row as the API spells it."""
        return {"value": self.value, "hits": self.hits, "unique_users": self.unique_users}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The values that most visits have, of ``total_values``."""

    rows: list[BreakdownRow]
    total_values: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """Totals of sessions; of ``bounces`` each has one visit."""

    count: int
    bounces: int
    visits: int
    duration_us: int

    def as_json(self) -> dict[str, Any]:
        """Return the totals as the API spells them."""
        return {
            "count": self.count,
            "bounces": self.bounces,
            "average_visits": self._average(self.visits),
            "average_duration_seconds": self._average(self.duration_us / SECOND),
        }

    def _average(self, total: float) -> float | None:
        return round(total / self.count, 3) if self.count else None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a list of visits, the newest first, goes on: behind the visit ``id`` of ``timestamp``.

    One that still waits has no id: then it goes on behind the first ``shown`` of that timestamp.
    """

    timestamp: int
    id: int | None = None
    shown: int = 0


@dataclass(frozen=True, slots=True)
class VisitsPage:
    """Visits, newest first, and where the list goes on, with a visit of which time.

    ``None`` where it ends.
    """

    visits: list[Visit]
    following: Position | None = None
    following_timestamp: int | None = None


# What can be told of a visit besides, and what each is called.
VISIT_FIELDS = {
    "path": "path",
    "status": "status",
    "error": "error",
    "host": "host",
    "duration": "duration_us",
    "bytes": "bytes_sent",
}


def visit_as_json(visit: Visit, include: Collection[str] = ()) -> dict[str, Any]:
    """Return a visit as the contract spells it, and what is asked for besides."""
    more = {name: getattr(visit, name) for word, name in VISIT_FIELDS.items() if word in include}
    if "path" in more:
        more["path"] = visit.path or visit.endpoint
    return {
        "user_hash": visit.user_hash,
        "endpoint": visit.endpoint,
        "method": visit.method,
        "ip_address": visit.ip_address,
        "user_agent": visit.user_agent,
        "referer": visit.referer,
        "timestamp": iso_timestamp(visit.timestamp),
        **more,
    }
