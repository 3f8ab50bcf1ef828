"""What is answered: the rows of reports. Timestamps are microseconds since the epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .latency import quantile
from .period import iso_timestamp
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


@dataclass(frozen=True, slots=True)
class EndpointOutcomes:
    """How visits of one endpoint and method went.

    ``hits`` are counted by class of status (2 for 200 to 299, 0 where there was none) and by bucket
    of latency (see :mod:`~wsgi_tracker.latency`).
    """

    endpoint: str
    method: str
    hits: dict[tuple[int, int], int] = field(default_factory=dict)

    def statuses(self) -> dict[int, int]:
        """Return the hits of each class of status."""
        return self._sums(0)

    def latency_us(self, share: float) -> float | None:
        """Return the latency that ``share`` of the visits do not exceed, at most 9 % off."""
        return quantile(self._sums(1), share)

    def _sums(self, of: int) -> dict[int, int]:
        sums: Counter[int] = Counter()
        for key, hits in self.hits.items():
            sums[key[of]] += hits
        return dict(sums)


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
            "oldest_visit": None if self.oldest_visit is None else iso_timestamp(self.oldest_visit),
            "newest_visit": None if self.newest_visit is None else iso_timestamp(self.newest_visit),
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


def visit_as_json(visit: Visit) -> dict[str, Any]:
    """Return a visit as the contract spells it."""
    return {
        "user_hash": visit.user_hash,
        "endpoint": visit.endpoint,
        "method": visit.method,
        "ip_address": visit.ip_address,
        "user_agent": visit.user_agent,
        "referer": visit.referer,
        "timestamp": iso_timestamp(visit.timestamp),
    }
