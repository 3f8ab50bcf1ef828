"""How visits went: classes of status and latencies, from counters and from visits alike."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from counting import BEGIN, Counted, visit
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi_tracker import Visit
from wsgi_tracker.agents import ClassFilter
from wsgi_tracker.latency import BOUNDS, quantile
from wsgi_tracker.period import DAY, HOUR
from wsgi_tracker.storage.outcomes import latency_of

HALF_A_DAY = 43_200_000_000  # µs


def bucket(latency: int | None) -> int:
    with closing(sqlite3.connect(":memory:")) as connection:
        statement = f"SELECT {latency_of(':latency')}"
        found: int = connection.execute(statement, {"latency": latency}).fetchone()[0]
    return found


@given(st.integers(0, 2 * BOUNDS[-1]) | st.sampled_from([b + d for b in BOUNDS for d in (-1, 0)]))
@example(0)
@example(1)
def test_latency_lies_within_the_bounds_of_its_bucket(latency: int) -> None:
    number = bucket(latency)

    assert BOUNDS[number] <= max(latency, 1)
    assert number + 1 == len(BOUNDS) or latency < BOUNDS[number + 1]


@given(
    st.lists(st.integers(1, HALF_A_DAY), min_size=1, max_size=50),
    st.floats(0, 1),
)
def test_quantile_is_at_most_9_percent_off(latencies: list[int], share: float) -> None:
    exact = sorted(latencies)[max(1, math.ceil(share * len(latencies))) - 1]

    found = quantile(Counter(map(bucket, latencies)), share)

    assert found is not None
    assert exact / 1.091 <= found <= exact * 1.091


def test_latencies_below_eight_microseconds_are_told_exactly() -> None:
    assert [quantile({bucket(latency): 1}, 0.5) for latency in range(1, 8)] == list(range(1, 8))


def test_latency_that_is_unknown_counts_as_the_shortest() -> None:
    assert bucket(None) == bucket(0) == 0


def test_bounds_reach_beyond_any_request() -> None:
    assert BOUNDS[-1] > HALF_A_DAY
    assert bucket(2**63 - 1) == len(BOUNDS) - 1


def test_nothing_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None


CAME = [
    visit(
        BEGIN + n * HOUR, f"u{n % 3}", status=(200, 204, 404, 500, None)[n % 5], duration_us=n * n
    )
    for n in range(200)
]


def counts(came: list[Visit]) -> Counter[tuple[int, int]]:
    return Counter(((v.status or 0) // 100, bucket(v.duration_us)) for v in came)


@pytest.mark.parametrize(
    "start", [0, BEGIN + 5, BEGIN + HOUR + 1, BEGIN + 3 * DAY, BEGIN + 99 * DAY]
)
def test_outcomes_are_those_of_the_visits(start: int, db: Counted) -> None:
    db.ingest(CAME)
    within = [v for v in CAME if v.timestamp >= start]

    counted = db.storage.outcomes(start)
    db.sql("UPDATE settings SET value = value + 1 WHERE name = 'changes'")
    raw = db.storage.outcomes(start)

    assert [row.hits for row in counted] == [row.hits for row in raw]
    assert [row.hits for row in counted] == ([counts(within)] if within else [])
    assert [(row.endpoint, row.method) for row in counted] == [("/", "GET")] * bool(within)


def test_outcomes_of_a_class_and_their_sums(db: Counted) -> None:
    db.ingest([*CAME, visit(BEGIN, endpoint="/boxes", user_agent="curl/8", status=302)])

    (row,) = db.storage.outcomes(0, ClassFilter("tool"))
    assert (row.endpoint, row.statuses()) == ("/boxes", {3: 1})
    everything = db.storage.outcomes(0)
    assert [row.endpoint for row in everything] == ["/", "/boxes"]
    assert everything[0].statuses() == {0: 40, 2: 80, 4: 40, 5: 40}
    assert everything[0].latency_us(0.5) == pytest.approx(100 * 100, rel=0.1)


def test_outcomes_begin_at_the_floor(db: Counted, tmp_path: Path) -> None:
    db.ingest(CAME)
    db.purge(BEGIN + 5 * DAY + 1)

    (row,) = db.storage.outcomes(0)

    assert row.hits == counts([v for v in CAME if v.timestamp > BEGIN + 5 * DAY])
