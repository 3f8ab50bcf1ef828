"""Figures for Prometheus, in its text format: what was counted since the database was made.

Counters never go back, whatever is purged or forgotten, so that rates hold; those of one database are
the same in every process that is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .errors import NotFoundError
from .health import Health
from .latency import BOUNDS, UNKNOWN
from .period import SECOND
from .reports import Outcomes

NO_METRICS = "metrics need prometheus_client: pip install 'wsgi-tracker[metrics]'"
PREFIX = "wsgi_tracker"
# Bounds of buckets: 0.1 ms to 2 minutes, each twice the one before.
SHORTEST_US, LONGEST_US = 100, 150 * SECOND
GAUGES = {
    "queued": (
        "queued_visits",
        "Visits that wait in the spool, if they are not too many to count.",
    ),
    "queued_bytes": ("queued_bytes", "Bytes of visits that wait in the spool."),
    "spool_bytes": ("spool_bytes", "Size of the spool."),
    "database_bytes": ("database_bytes", "Size of the database."),
}
COUNTERS = ("recorded", "dropped", "torn", "rejected", "ignored")


def expose(health: Health, outcomes: Outcomes | None) -> tuple[bytes, str]:
    """Return the text, and its type; without ``outcomes`` where storage does not answer."""
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    except ImportError as error:
        raise NotFoundError(NO_METRICS) from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(health, outcomes))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    """What a registry collects, once."""

    def __init__(self, health: Health, outcomes: Outcomes | None) -> None:
        self._facts = health.as_json()
        self._outcomes = outcomes

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        facts = self._facts
        is_up = GaugeMetricFamily(f"{PREFIX}_up", "Whether tracking has no problem.")
        is_up.add_metric([], facts["status"] == "ok")
        yield is_up
        visits = CounterMetricFamily(
            f"{PREFIX}_visits",
            "Visits that were offered, by what became of them.",
            labels=["state"],
        )
        for state in COUNTERS:
            if facts[state] is not None:
                visits.add_metric([state], facts[state])
        yield visits
        for name, (metric, text) in GAUGES.items():
            if facts[name] is not None:
                yield GaugeMetricFamily(f"{PREFIX}_{metric}", text, value=facts[name])
        if self._outcomes is not None:
            yield from _went(self._outcomes)


def _went(outcomes: Outcomes) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    responses = CounterMetricFamily(
        f"{PREFIX}_responses", "Visits by class of status.", labels=["status"]
    )
    for status, hits in outcomes.as_json({"status"})["status"].items():
        responses.add_metric([status], hits)
    yield responses
    yield CounterMetricFamily(
        f"{PREFIX}_sent_bytes", "Bytes of responses.", value=outcomes.bytes_sent
    )
    durations = HistogramMetricFamily(f"{PREFIX}_duration_seconds", "Durations of responses.")
    durations.add_metric([], _buckets(outcomes), None)
    yield durations


def _buckets(outcomes: Outcomes) -> list[tuple[str, float]]:
    """Return how many were no longer than each bound; a bucket holds what is less than the next."""
    hits = outcomes.latencies()
    hits.pop(UNKNOWN, None)
    buckets = []
    for number, bound in enumerate(BOUNDS):
        is_doubled = bound & (bound - 1) == 0
        if is_doubled and SHORTEST_US < bound < LONGEST_US:
            below = sum(count for bucket, count in hits.items() if bucket < number)
            buckets.append((f"{(bound - 1) / SECOND:.6f}", float(below)))
    return [*buckets, ("+Inf", float(hits.total()))]
