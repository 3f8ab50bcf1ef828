"""How visits went: classes of status and latencies, from counters and from visits alike."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from counting import BEGIN, Counted, Waiting, instructions, look, only, visit
from hypothesis import example, given
from hypothesis import strategies as st

from wsgi_tracker import Visit
from wsgi_tracker.latency import BOUNDS, UNKNOWN, quantile
from wsgi_tracker.period import DAY, HOUR, Granularity, bucket_start
from wsgi_tracker.reports import Outcomes
from wsgi_tracker.selection import Selection
from wsgi_tracker.storage import NotIngestedError
from wsgi_tracker.storage.sqlite.counters import read_state
from wsgi_tracker.storage.sqlite.outcome_reports import of_all, of_endpoints
from wsgi_tracker.storage.sqlite.outcomes import latency_of

pytestmark = pytest.mark.once

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


def test_latency_that_is_unknown_counts_in_no_quantile() -> None:
    assert bucket(None) == UNKNOWN
    assert quantile({UNKNOWN: 9, bucket(5): 1}, 0.5) == 5
    assert quantile({UNKNOWN: 9}, 0.5) is None


def test_bounds_reach_beyond_any_request() -> None:
    assert BOUNDS[-1] > HALF_A_DAY
    assert bucket(2**63 - 1) == len(BOUNDS) - 1


def test_nothing_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None


CAME = [
    visit(
        BEGIN + n * HOUR,
        f"u{n % 3}",
        status=(200, 204, 404, 500, None)[n % 5],
        duration_us=n * n,
        bytes_sent=n or None,
    )
    for n in range(200)
]


def counts(came: list[Visit]) -> Counter[tuple[int, int]]:
    return Counter(((v.status or 0) // 100, bucket(v.duration_us)) for v in came)


def recount(came: list[Visit], key: Any) -> dict[Any, Outcomes]:
    groups: dict[Any, list[Visit]] = {}
    for each in came:
        groups.setdefault(key(each), []).append(each)
    return {
        group: Outcomes(counts(some), sum(v.bytes_sent or 0 for v in some))
        for group, some in groups.items()
    }


def check_outcomes(db: Counted, came: list[Visit], selection: Selection) -> None:
    within = [v for v in came if v.timestamp >= selection.start]
    with db.storage.snapshot() as snapshot:
        found = snapshot.outcomes_of_endpoints(selection)
        assert found == recount(within, lambda v: (v.endpoint, v.method))
        assert {0: snapshot.outcomes(selection)} == (
            recount(within, lambda v: 0) or {0: Outcomes()}
        )
        for granularity in Granularity:
            buckets = snapshot.trends(selection, granularity)
            of_buckets = snapshot.outcomes_of_buckets(selection, granularity, buckets)
            assert of_buckets == recount(
                within,
                lambda v: bucket_start(granularity, v.timestamp, db.zone),  # noqa: B023
            )


@pytest.mark.parametrize(
    "start",
    [0, BEGIN + 5, BEGIN + HOUR + 1, BEGIN + 3 * DAY, BEGIN + 7 * DAY + 1, BEGIN + 99 * DAY],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_outcomes_are_those_of_the_visits(start: int, zone: str, tmp_path: Path) -> None:
    db = Counted(tmp_path, zone)
    db.ingest(CAME[:150])
    db.count()
    db.ingest(CAME[150:])  # not counted
    changed = "UPDATE settings SET value = value + 1 WHERE name = 'changes'"

    check_outcomes(db, CAME, Selection(start))
    db.count()
    check_outcomes(db, CAME, Selection(start))
    db.sql(changed)
    check_outcomes(db, CAME, Selection(start))
    db.storage.close()


def test_outcomes_of_a_class_and_their_sums(db: Counted) -> None:
    db.ingest([*CAME, visit(BEGIN, endpoint="/boxes", user_agent="curl/8", status=302)])

    assert look(db.storage).outcomes(only("tool")).statuses() == {3: 1}
    everything = look(db.storage).outcomes()
    assert everything.statuses() == {0: 40, 2: 80, 3: 1, 4: 40, 5: 40}
    assert everything.latency_us(0.5) == pytest.approx(100 * 100, rel=0.1)
    assert everything.bytes_sent == sum(v.bytes_sent or 0 for v in CAME)


def test_what_waits_is_ingested_before_outcomes_are_told(db: Counted) -> None:
    with pytest.raises(NotIngestedError):
        look(db.storage, Waiting([])).outcomes()


def test_outcomes_begin_at_the_floor(db: Counted) -> None:
    db.ingest(CAME)
    db.purge(BEGIN + 5 * DAY + 1)

    check_outcomes(db, [v for v in CAME if v.timestamp > BEGIN + 5 * DAY], Selection())
    assert db.storage.check() is None


def test_forgotten_visits_leave_no_outcomes(db: Counted) -> None:
    db.ingest(CAME)
    db.count()
    db.forget("u1")

    check_outcomes(db, [v for v in CAME if v.user_hash != "u1"], Selection())
    assert db.sql("SELECT count(*) FROM outcomes WHERE hits = 0") == [(0,)]
    assert db.storage.check() is None


def outcome_costs(db: Counted, starts: Sequence[int]) -> list[list[int]]:
    """Return how many steps each report takes from each of these on."""
    with db.reading() as connection:
        counted_id = read_state(connection).counted_id
        return [
            [
                instructions(connection, partial(ask, connection, Selection(start), counted_id))
                for start in starts
            ]
            for ask in (of_all, of_endpoints)
        ]


def test_outcomes_of_ten_times_the_days_take_about_ten_times_the_steps(db: Counted) -> None:
    db.ingest(
        visit(BEGIN + day * DAY, duration_us=4**latency)
        for day in range(400)
        for latency in range(10)
    )
    db.count()

    for month, year in outcome_costs(db, [BEGIN + 360 * DAY + 1, BEGIN + 1]):
        assert year < 15 * month


def test_outcomes_of_ten_times_the_visits_take_no_more_steps(db: Counted) -> None:
    costs = []
    for times in (1, 10):
        db.ingest(visit(BEGIN + (1 + n % 40) * DAY + times) for n in range(1000 * times))
        db.count()
        costs.append(outcome_costs(db, [BEGIN + 1]))

    for (few,), (many,) in zip(*costs, strict=True):
        assert many < 1.5 * few + 5
