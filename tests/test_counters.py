"""Counters answer as the visits themselves do, whatever comes, goes and changes, in any order."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from counting import BEGIN, Counted, instructions, look, only, visit
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.errors import StorageError
from wsgi_tracker.period import (
    DAY,
    HOUR,
    LAST_TIMESTAMP,
    SLOT,
    Granularity,
    bucket_start,
)
from wsgi_tracker.selection import Selection
from wsgi_tracker.storage.sqlite import counted, counters, counting, purge, raw, uncount
from wsgi_tracker.storage.sqlite.purge import phases_for_user

pytestmark = pytest.mark.once

ZONES = "UTC Europe/Berlin Asia/Kathmandu America/St_Johns Australia/Lord_Howe Pacific/Apia".split()
AGENTS = [None, " ", "curl/8", "Googlebot/2.1", "Mozilla/5.0 (X11; rv:128.0) Firefox/128.0"]

users = st.sampled_from([None, "a", "b", "c"])
spans = st.sampled_from([SLOT, HOUR, DAY, 9 * DAY, 400 * DAY])
moments = spans.flatmap(lambda span: st.integers(BEGIN, BEGIN + span))
visits = st.builds(
    Visit,
    timestamp=st.one_of(
        moments,
        moments.map(lambda moment: moment // SLOT * SLOT),
        st.integers(LAST_TIMESTAMP - 40 * DAY, LAST_TIMESTAMP),  # of a clock that leapt
    ),
    user_hash=users,
    method=st.sampled_from(["GET", "POST"]),
    endpoint=st.sampled_from(["/", "/boxes"]),
    status=st.sampled_from([200, 404, 500, None]),
    duration_us=st.integers(0, 10**7) | st.none(),
    user_agent=st.sampled_from(AGENTS),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ingest"), st.lists(visits, max_size=12)),
        st.tuples(st.just("forget"), users.filter(bool)),
        st.tuples(st.just("purge"), moments),
        st.tuples(st.just("keep"), st.none()),
        st.tuples(st.just("edit"), st.sampled_from(["a", "b"])),
        st.tuples(st.just("delete"), st.sampled_from(["/", "/boxes"])),
        st.tuples(st.just("count_some"), st.none()),
        st.tuples(st.just("rebuild"), st.none()),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(
    steps, st.sampled_from(ZONES), st.sampled_from([2, 5, 1 << 15]), st.lists(moments, max_size=4)
)
@example([("ingest", [])], "UTC", 2, [])
def test_counters_are_those_of_the_visits(
    happened: list[Any], zone: str, step: int, starts: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "VISITS_PER_STEP", step)
        patch.setattr(purge, "VISITS_PER_STEP", step)
        patch.setattr(uncount, "BUCKETS_PER_STEP", step)
        db = Counted(Path(folder), zone)
        for name, what in happened:
            getattr(db, name)(what)
        edges = [bucket_start(g, BEGIN + 3 * DAY, db.zone) for g in Granularity]
        windows = [0, BEGIN, BEGIN + DAY, *edges, *starts]
        if db.state().is_sound:  # what came since it was counted is not
            db.check_reports(windows)
        difference = db.storage.check()
        db.check_reports(windows)
        db.rebuild(None)
        rebuilt = db.storage.check()
        db.storage.close()

    assert (difference, rebuilt) == (None, None)


@pytest.mark.parametrize("moment", [1_743_865_200_000_000, 1_759_591_800_000_000])
def test_hour_in_which_the_clock_is_set_by_half_of_one_is_a_longer_one(
    moment: int, tmp_path: Path
) -> None:
    """A report asked for the visits of half an hour again and again, and never ended."""
    db = Counted(tmp_path, "Australia/Lord_Howe")
    db.ingest(visit(moment + slot * SLOT, f"u{slot}") for slot in range(-8, 8))

    db.check_reports([0, moment - SLOT + 1, moment, moment + 1])
    hits = [hour.hits for hour in look(db.storage).trends(Selection(), Granularity.HOUR)]
    db.storage.close()

    assert hits == [2, 4, 6, 4]


ZEROS = {"totals": "hits OR endpoints OR users_hour OR users", "hits": "hits", "outcomes": "hits"}


def test_counters_kept_along_the_way_are_a_rebuilds_row_for_row(db: Counted) -> None:
    came = [
        visit(BEGIN + n * 7919 % 31 * HOUR + n, f"u{n % 7}", user_agent=AGENTS[n % 5])
        for n in range(400)
    ]
    for n in range(0, 400, 13):
        db.ingest(reversed(came[n : n + 13]))
        db.count()
    db.forget("u3")

    def rows(table: str) -> set[Any]:
        return set(db.sql(f"SELECT * FROM {table} WHERE {ZEROS.get(table, 'true')}"))

    tables = ["visitors", "pairs", "latest", *ZEROS]
    kept = {table: rows(table) for table in tables}
    db.rebuild(None)

    assert kept == {table: rows(table) for table in tables}


def test_report_sees_one_moment(db: Counted) -> None:
    db.ingest([visit(BEGIN)])
    with db.reading() as connection:
        before = counted.summary(connection, 0, None)
        db.ingest([visit(BEGIN + 1), visit(BEGIN + 2)])
        db.count()
        after = counted.summary(connection, 0, None), raw.summary(connection, Selection())

    assert after == (before, before)
    assert before.total_hits == 1


def test_few_visits_wait_to_be_counted_and_many_do_not(
    db: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "MANY", 50)
    uncounted = []
    for _ in range(12):
        db.ingest(visit(BEGIN + n) for n in range(10))
        uncounted.append(db.state().uncounted)

    # The first is of a database that knows of no counters.
    assert uncounted == [0, 10, 20, 30, 40, 0, 10, 20, 30, 40, 0, 10]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE user_visits SET endpoint = '/new'", id="update through the view"),
        pytest.param("UPDATE visits SET timestamp = timestamp - 86400000000", id="update"),
        pytest.param("DELETE FROM user_visits WHERE endpoint = '/boxes'", id="delete"),
        pytest.param(
            "DELETE FROM visits WHERE id = (SELECT max(id) FROM visits)", id="newest gone"
        ),
        pytest.param(
            "INSERT INTO user_visits (id, endpoint, method, timestamp) "
            "VALUES (-5, '/new', 'GET', '2024-10-25T00:00:00Z')",
            id="an id below all",
        ),
        pytest.param(
            "INSERT INTO user_visits (endpoint, method, timestamp) "
            "VALUES ('/new', 'GET', '2024-10-25T00:00:00Z')",
            id="insert",
        ),
        pytest.param(
            "UPDATE user_agents SET class = 'feed' WHERE user_agent = 'curl/8'", id="class"
        ),
        pytest.param("DELETE FROM user_agents", id="user agent gone"),
        pytest.param("UPDATE endpoints SET endpoint = '/' WHERE id = 2", id="endpoint renamed"),
    ],
)
def test_reports_are_right_before_what_was_changed_by_hand_is_counted(
    change: str, db: Counted
) -> None:
    db.ingest(visit(BEGIN + n, f"u{n % 3}", user_agent="curl/8") for n in range(20))
    db.ingest([visit(BEGIN + DAY, endpoint="/boxes", method="POST"), visit(BEGIN + DAY + 1)])
    db.count()
    assert db.state().is_complete

    db.sql(change)

    assert not db.state().is_complete
    expected = look(db.storage).stats(), look(db.storage).summary(only("feed"))
    db.count()
    assert db.state().is_complete
    assert (look(db.storage).stats(), look(db.storage).summary(only("feed"))) == expected
    db.check_reports([0])
    assert db.storage.check() is None


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE totals SET hits = hits + 1 WHERE level = 0", "slot (slot, class, hits"),
        ("UPDATE totals SET users_week = users_week + 1 WHERE level = 0", "slot (slot"),
        ("UPDATE totals SET users_month = users_month + 1 WHERE level = 4", "month (month, class"),
        ("UPDATE totals SET endpoints = 9 WHERE level = 2", "day (day, class, endpoints)"),
        ("UPDATE hits SET users = 0 WHERE level = 1", "hour (hour, endpoint, class, hits"),
        ("UPDATE hits SET first = first + 1 WHERE level = 4", "month (month, endpoint, class"),
        ("DELETE FROM hits WHERE level = 3", "week (week, endpoint, class"),
        ("UPDATE visitors SET last_slot = last_slot + 1", "visitors (user_id, class, last)"),
        ("DELETE FROM pairs", "pairs (user_id, endpoint_id, class, last)"),
        ("UPDATE latest SET last = last + 1", "latest (endpoint, class, last)"),
        ("UPDATE outcomes SET status_class = 3", "outcomes (day, endpoint, status class"),
        ("UPDATE calendar SET day = day - 4", "calendar (slot, hour, day, week, month)"),
    ],
)
def test_check_names_the_first_difference(damage: str, named: str, db: Counted) -> None:
    db.ingest(visit(BEGIN + n * HOUR, f"u{n % 3}", status=200, duration_us=n) for n in range(50))
    assert db.storage.check() is None

    db.sql(damage)

    difference = db.storage.check()
    assert difference is not None
    assert difference.startswith(named)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        pytest.param(
            "INSERT INTO user_visits (endpoint, method, timestamp) "
            "VALUES ('/new', 'GET', '2024-10-25T00:00:00Z')",
            None,
            id="insert",
        ),
        pytest.param(
            "UPDATE visits SET status = 500",
            "visits were changed, and are not counted anew yet",
            id="update",
        ),
    ],
)
def test_visits_that_come_while_counters_are_checked_are_no_difference(
    change: str, difference: str | None, db: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.ingest([visit(BEGIN)])
    count = db.storage.count

    def count_too_early(enough: int) -> bool:
        more = count(enough=enough)
        db.sql(change)
        return more

    monkeypatch.setattr(db.storage, "count", count_too_early)

    assert db.storage.check() == difference


def test_user_agent_with_the_id_of_one_that_was_purged_has_nothing_counted_anew(
    db: Counted,
) -> None:
    db.ingest([visit(BEGIN, user_agent="Googlebot/2.1")])
    db.ingest([visit(BEGIN, user_agent="curl/8")])
    db.ingest([visit(BEGIN + DAY, user_agent="Googlebot/2.1")])
    db.count()
    db.purge(BEGIN + DAY)
    assert db.state().is_complete
    changes = db.sql("SELECT value FROM settings WHERE name = 'changes'")

    db.ingest([visit(BEGIN + 2 * DAY, user_agent="Wget/1")])
    db.ingest([visit(BEGIN + 2 * DAY, user_agent="Wget/2")])

    assert db.sql("SELECT id FROM user_agents WHERE user_agent = 'Wget/1'") == [(2,)]
    assert db.sql("SELECT value FROM settings WHERE name = 'changes'") == changes
    db.count()
    assert db.state().is_complete
    db.check_reports([0])


def test_forgotten_visitor_costs_no_count_of_the_others(db: Counted) -> None:
    db.ingest(
        visit(BEGIN + n * HOUR, f"u{n % 5}", user_agent=AGENTS[n % 4], endpoint=f"/{n % 7}")
        for n in range(300)
    )
    db.count()

    db.forget("u1")

    assert db.state().is_complete  # reports are as fast as before
    assert db.storage.check() is None
    assert look(db.storage).summary().total_unique_users == 4


def test_visits_of_the_last_days_of_all_are_forgotten_as_others(db: Counted) -> None:
    """The last day has the two behind it, and ended too early: a report had no last access."""
    db.ingest(visit(LAST_TIMESTAMP - n * 7 * HOUR, f"u{n % 3}") for n in range(20))
    db.count()

    db.forget("u1")

    assert db.state().is_complete
    assert db.storage.check() is None


def test_counters_of_what_is_purged_are_dropped(db: Counted) -> None:
    db.ingest(visit(BEGIN + n * DAY, f"u{n}", endpoint=f"/{n}") for n in range(120))
    db.count()
    before = {table: db.sql(f"SELECT count(*) FROM {table}")[0][0] for table in counters.TABLES}

    db.purge(BEGIN + 110 * DAY)

    left = {table: db.sql(f"SELECT count(*) FROM {table}")[0][0] for table in counters.TABLES}
    assert db.state().is_complete
    assert (left["visitors"], left["pairs"]) == (10, 10)
    assert all(left[table] < before[table] / 2 for table in counters.TABLES)
    assert db.storage.check() is None


def test_nothing_tells_of_a_visit_that_was_purged_while_its_user_comes_back(db: Counted) -> None:
    db.ingest(visit(BEGIN + n * HOUR, endpoint=f"/{n}", user_agent=AGENTS[n % 4]) for n in range(8))
    db.ingest([visit(BEGIN + DAY, endpoint="/7", user_agent=AGENTS[3])])

    for hour in range(1, 9):  # as it goes by itself
        db.purge(BEGIN + hour * HOUR - HOUR // 2)
        db.count()
        db.ingest([visit(BEGIN + DAY + hour, endpoint="/7", user_agent=AGENTS[3])])

    assert db.sql(f"SELECT last_slot * {SLOT} FROM pairs") == [(BEGIN + DAY,)]
    assert db.sql(f"SELECT last_slot * {SLOT} FROM visitors") == [(BEGIN + DAY,)]
    assert db.storage.check() is None


def test_visits_below_the_floor_are_not_counted_and_come_back_with_a_longer_retention(
    db: Counted,
) -> None:
    db.ingest([visit(BEGIN), visit(BEGIN + 9 * DAY)])
    db.purge(BEGIN + 5 * DAY)
    db.ingest([visit(BEGIN + DAY, "late")])

    assert look(db.storage).summary().total_hits == 1
    db.sql("UPDATE settings SET value = 0 WHERE name = 'floor'")
    db.sql("UPDATE settings SET value = value + 1 WHERE name = 'changes'")
    db.count()

    assert look(db.storage).summary().total_hits == 2
    assert db.storage.check() is None


def test_other_time_zone_has_all_visits_counted_anew(db: Counted) -> None:
    db.ingest([visit(BEGIN + 22 * HOUR + 1), visit(BEGIN + 23 * HOUR)])
    assert [row.time_bucket for row in look(db.storage).trends(Selection(), Granularity.DAY)] == [
        "2024-10-25"
    ]

    db.storage.configure({"timezone": "Europe/Berlin"})

    assert not db.state().is_complete
    for _ in range(2):
        assert [
            row.time_bucket for row in look(db.storage).trends(Selection(), Granularity.DAY)
        ] == ["2024-10-26"]
        db.count()
    assert db.state().is_complete


def test_time_zone_that_a_law_has_changed_has_all_visits_counted_anew(db: Counted) -> None:
    """Its data come with a new release of tzdata, and then with another process."""
    db.ingest([visit(BEGIN + 1), visit(BEGIN + 22 * HOUR)])
    db.storage.close()
    db.sql("UPDATE calendar SET day = day - 4, week = week - 4, month = month - 4")
    db.sql("INSERT INTO calendar SELECT day, day, day, week, month FROM calendar LIMIT 1")
    db.storage = open_storage(db.database)

    db.ingest([visit(BEGIN + DAY)])

    assert db.storage.check() is None
    db.check_reports([0])


def test_time_zone_that_is_unknown_here_is_said(db: Counted) -> None:
    db.ingest([visit(BEGIN)])
    db.storage.configure({"timezone": "Mars/Olympus"})

    with pytest.raises(StorageError, match="time zone unknown here: timezone is a name"):
        look(db.storage).trends(Selection(), Granularity.DAY)


def test_visits_are_stored_though_they_cannot_be_counted(
    db: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    db.ingest([visit(BEGIN)])
    db.count()
    db.sql(
        "CREATE TRIGGER refusing BEFORE INSERT ON totals BEGIN SELECT raise(ABORT, 'refused'); END"
    )

    for moment in (1, 2):
        db.ingest([visit(BEGIN + moment)])
        db.storage.count(enough=1)

    assert len([text for text in caplog.messages if "not counted" in text]) == 1
    assert look(db.storage).summary().total_hits == 3


def test_rebuild_lets_others_write_in_between(db: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "VISITS_PER_STEP", 10)
    db.ingest(visit(BEGIN + n, f"u{n % 3}") for n in range(60))
    taken = 0
    for taken, _ in enumerate(db.storage.rebuild(), 1):
        db.ingest([visit(BEGIN + DAY + taken)])
        assert look(db.storage).summary().total_hits == 60 + taken

    assert taken > 3
    assert db.state().is_complete
    assert db.storage.check() is None


def test_reports_take_no_longer_with_ten_times_the_visits(db: Counted) -> None:
    costs = []
    for times in (1, 10):
        db.ingest(
            visit(BEGIN + n * DAY // 50 + times, f"u{n % 10}", endpoint=f"/{n % 5}")
            for _ in range(times)
            for n in range(2000)
        )
        db.count()
        with db.reading() as connection:
            start = BEGIN + 10 * DAY + 1
            costs.append(instructions(connection, lambda: counted.stats(connection, start, None)))  # noqa: B023

    assert costs[1] < 1.5 * costs[0] + 5


def test_forgetting_takes_no_longer_with_twenty_times_the_endpoints(tmp_path: Path) -> None:
    costs = []
    for endpoints in (10, 200):
        folder = tmp_path / str(endpoints)
        folder.mkdir()
        db = Counted(folder)
        db.ingest(
            visit(BEGIN + n * HOUR, "other", endpoint=f"/{n % endpoints}") for n in range(2000)
        )
        for moment, user in ((0, "other"), (1, "a"), (2, "other")):
            db.ingest(visit(BEGIN + n * DAY + moment, user) for n in range(1, 20))
        db.count()
        with db.storage._file.writer() as connection:  # type: ignore[attr-defined]
            forget = next(iter(phases_for_user("a")))
            costs.append(instructions(connection, lambda: forget(connection)))  # noqa: B023
        db.storage.close()

    assert costs[1] < 1.4 * costs[0]


def test_time_zone_that_is_given_later_has_all_visits_counted_anew(tmp_path: Path) -> None:
    db = Counted(tmp_path, None)
    db.ingest([visit(BEGIN + 22 * HOUR + 1)])
    assert [row.time_bucket for row in look(db.storage).trends(Selection(), Granularity.DAY)] == [
        "2024-10-25"
    ]

    db.storage.declare({"timezone": "Europe/Berlin"})

    assert not db.state().is_complete
    db.count()
    assert [row.time_bucket for row in look(db.storage).trends(Selection(), Granularity.DAY)] == [
        "2024-10-26"
    ]
    db.storage.declare({"timezone": "UTC"})  # which it is not any more
    assert db.state().is_complete
    db.storage.close()
