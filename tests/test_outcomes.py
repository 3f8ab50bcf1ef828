"""Outcomes are counted by day, endpoint, class of status and latency, told within 9.1 %."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.period import DAY
from wsgi_tracker.storage import Batch
from wsgi_tracker.storage.outcomes import BOUNDS, latency_of

LONGEST_US = 2**63 - 1


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


def bucket(connection: sqlite3.Connection, duration_us: int | None) -> int:
    statement = f"SELECT {latency_of('duration_us')} FROM (SELECT ? AS duration_us)"
    (number,) = connection.execute(statement, (duration_us,)).fetchone()
    assert isinstance(number, int)
    return number


@given(st.integers(0, 100 * BOUNDS[-1]) | st.sampled_from(BOUNDS) | st.integers(0, 200))
@example(LONGEST_US)
def test_latency_lies_within_the_bounds_of_its_bucket(
    connection: sqlite3.Connection, duration_us: int
) -> None:
    assert bucket(connection, duration_us) == max(0, bisect_right(BOUNDS, duration_us) - 1)


def test_latency_that_is_unknown_is_counted_as_none(connection: sqlite3.Connection) -> None:
    assert bucket(connection, None) == 0


@given(st.integers(1, BOUNDS[-1] - 1))
@example(19)
@example(44)
def test_bucket_tells_a_latency_within_nine_hundredths(
    connection: sqlite3.Connection, duration_us: int
) -> None:
    number = bucket(connection, duration_us)
    least, greatest = BOUNDS[number], BOUNDS[number + 1] - 1

    told = (least * greatest) ** 0.5

    assert max(told, duration_us) / min(told, duration_us) <= 1.091


def test_latencies_below_eight_microseconds_are_told_exactly() -> None:
    assert BOUNDS[:8] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_bounds_reach_beyond_any_request() -> None:
    assert BOUNDS[-1] > 16 * 3600 * 10**6


def test_visits_are_counted_by_day_endpoint_class_of_status_and_latency(tmp_path: Path) -> None:
    day = 1_755_043_200_000_000
    outcomes = [(0, 200, 5), (0, 204, 5), (0, 301, 5), (0, 599, 6), (0, None, None), (DAY, 200, 5)]
    lines = [
        Visit(day + n, "u", "GET", "/", status=s, duration_us=d).line() for n, s, d in outcomes
    ]
    with closing(open_storage(tmp_path / "visits.db")) as storage:
        storage.ingest([], lambda _: Batch(b"".join(lines)), durable=False)

    with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
        rows = connection.execute(
            "SELECT day * 900000000 - ?, status_class, latency, hits FROM outcomes", (day,)
        ).fetchall()

    assert rows == [(0, 0, 0, 1), (0, 2, 4, 2), (0, 3, 4, 1), (0, 5, 5, 1), (DAY, 2, 4, 1)]
