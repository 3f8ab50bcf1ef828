"""Latencies fall into the same buckets as in SQLite, which compares them with each bound."""

from __future__ import annotations

from bisect import bisect

from clickhouses import Node

from wsgi_tracker.latency import BOUNDS, UNKNOWN
from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse.client import Client
from wsgi_tracker.storage.clickhouse.questions import LATENCY, bucket_of


def test_latency_is_of_its_bucket_at_every_bound(node: Node) -> None:
    latencies = [bound + shift for bound in BOUNDS for shift in (-1, 0, 1)] + [2**60]
    client = Client(
        read_address(f"clickhouse://127.0.0.1:{node.port}/default"), query_timeout_seconds=9
    )

    rows = client.rows(
        f"SELECT {LATENCY} FROM (SELECT arrayJoin({[*latencies, None]}) AS duration_us)".replace(
            "None", "NULL"
        )
    )

    assert [bucket_of(power) for (power,) in rows] == [
        *(max(0, bisect(BOUNDS, latency) - 1) for latency in latencies),
        UNKNOWN,
    ]
