"""Reports equal a recount in plain Python, whatever the visits, at every edge."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import engines
import pytest
import webtest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsgi_tracker import Tracker, Visit

pytestmark = pytest.mark.once

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


moments = st.one_of(
    st.sampled_from(edges()).flatmap(
        lambda edge: st.sampled_from([-1, 0, 1, 999_999]).map(
            lambda shift: edge + timedelta(microseconds=shift)
        )
    ),
    st.datetimes(datetime(2022, 12, 1), datetime(2024, 3, 5)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
)
visits = st.lists(
    st.builds(
        Visit,
        timestamp=moments.map(micro),
        user_hash=st.sampled_from(["a" * 32, "b" * 32, "c" * 32]),
        method=st.sampled_from(["GET", "POST"]),
        endpoint=st.sampled_from(["/", "/boxes", "(unmatched)"]),
        path=st.sampled_from([None, "/boxes/1"]),
        status=st.sampled_from([200, 404, None]),
        user_agent=st.sampled_from([None, "Mozilla"]),
    ),
    max_size=40,
)


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


@settings(max_examples=60, deadline=None)
@given(visits, st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]))
def test_reports_equal_a_recount(recorded: list[Visit], zone: str) -> None:
    with reporting(recorded, zone) as client:
        for period, days in PERIODS.items():
            stats = client.get(f"/api/tracking/stats?period={period}").json
            summary = client.get(f"/api/tracking/summary?period={period}").json
            inside = within(recorded, days)
            assert stats["stats"] == count_stats(inside)
            assert stats["total_endpoints"] == summary["total_endpoints"]
            assert summary == {
                "period": period,
                "tracking_active": True,
                **count_summary(inside),
            }
        for period, days in TRENDS.items():
            for granularity in ("hour", "day", "week", "month"):
                question = f"granularity={granularity}&period={period}"
                trends = client.get(f"/api/tracking/trends?{question}").json["trends"]
                assert trends == count_trends(within(recorded, days), granularity, zone)
        newest = client.get("/api/tracking/visits?limit=10").json["visits"]
        assert [visit["timestamp"] for visit in newest] == [
            iso([moment(visit)], max) for visit in sorted(recorded, key=moment, reverse=True)[:10]
        ]


SQL = "SELECT endpoint, method, count(*), count(DISTINCT user_hash) FROM user_visits GROUP BY 1, 2"
THREE = [
    Visit(micro(NOW), "a" * 32, "GET", "/boxes/{id}", path="/boxes/1", ip_address="192.0.2.1"),
    Visit(
        micro(NOW), "b" * 32, "GET", "/boxes/{id}", path="/boxes/2", referer="https://a.example/"
    ),
    Visit(micro(NOW) + 1, "a" * 32, "POST", "/boxes", status=500, error="ValueError"),
]


def test_view_answers_the_users_own_sql() -> None:
    with reporting(THREE) as client:
        client.get("/api/tracking/stats")
        with closing(sqlite3.connect(client.app._backend.storage.database)) as database:
            assert database.execute(SQL).fetchall() == [
                ("/boxes", "POST", 1, 1),
                ("/boxes/{id}", "GET", 2, 2),
            ]
            assert database.execute(
                "SELECT timestamp, timestamp_us, path, status, error, ip_address FROM user_visits"
                " WHERE method = 'POST'"
            ).fetchall() == [
                ("2024-03-04T10:15:30Z", micro(NOW) + 1, "/boxes", 500, "ValueError", None)
            ]


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 shell on this machine")
def test_view_answers_in_the_sqlite_shell() -> None:
    with reporting(THREE) as client:
        client.get("/api/tracking/stats")
        shell = subprocess.run(
            ["sqlite3", str(client.app._backend.storage.database), SQL],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )

    assert shell.stdout == "/boxes|POST|1|1\n/boxes/{id}|GET|2|2\n"


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with reporting(THREE) as client:
        client.get("/api/tracking/stats")
        with closing(
            sqlite3.connect(client.app._backend.storage.database, isolation_level=None)
        ) as connection:
            yield connection


def test_view_takes_visits(database: sqlite3.Connection) -> None:
    database.execute(
        "INSERT INTO user_visits (user_hash, endpoint, method, ip_address, user_agent, referer,"
        " timestamp) VALUES ('c', '/new', 'GET', '192.0.2.9', 'curl', NULL, '2024-01-02T03:04:05Z')"
    )

    assert database.execute(
        "SELECT timestamp, timestamp_us, path, ip_address, user_agent, referer, host"
        " FROM user_visits WHERE endpoint = '/new'"
    ).fetchall() == [
        ("2024-01-02T03:04:05Z", 1704164645000000, "/new", "192.0.2.9", "curl", None, None)
    ]


def test_view_changes_visits(database: sqlite3.Connection) -> None:
    database.execute("UPDATE user_visits SET endpoint = '/b', timestamp = '2024-01-01T00:00:00Z'")
    database.execute("UPDATE user_visits SET user_hash = 'z' WHERE method = 'POST'")

    assert database.execute(
        "SELECT endpoint, method, path, timestamp_us, user_hash FROM user_visits ORDER BY id"
    ).fetchall() == [
        ("/b", "GET", "/boxes/1", 1704067200000000, "a" * 32),
        ("/b", "GET", "/boxes/2", 1704067200000000, "b" * 32),
        ("/b", "POST", "/b", 1704067200000000, "z"),
    ]


def test_view_deletes_visits(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM user_visits WHERE endpoint = '/boxes/{id}'")

    assert database.execute(SQL).fetchall() == [("/boxes", "POST", 1, 1)]


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({"user_hash": b"c"}, id="user as bytes"),
        pytest.param({"endpoint": None}, id="no endpoint"),
        pytest.param({"method": None}, id="no method"),
        pytest.param({"timestamp": None}, id="no time"),
        pytest.param({"timestamp": "yesterday"}, id="time that is none"),
        pytest.param({"timestamp": "1969-12-31T23:59:59Z"}, id="before 1970"),
    ],
)
def test_view_refuses_what_is_no_visit(columns: Any, database: sqlite3.Connection) -> None:
    visit = {
        "user_hash": "c",
        "endpoint": "/",
        "method": "GET",
        "timestamp": "2024-01-01T00:00:00Z",
    }
    visit.update(columns)

    with pytest.raises(sqlite3.IntegrityError, match="a visit needs timestamp"):
        database.execute(
            f"INSERT INTO user_visits ({', '.join(visit)}) VALUES (?, ?, ?, ?)",
            list(visit.values()),
        )

    assert database.execute("SELECT count(*) FROM user_visits").fetchone() == (3,)


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param("INSERT", id="plain"),
        *(
            pytest.param(f"INSERT OR {policy}", id=policy.lower())
            for policy in ("IGNORE", "REPLACE", "ABORT", "FAIL", "ROLLBACK")
        ),
    ],
)
def test_view_takes_visits_of_known_endpoints_whatever_the_conflict_policy(
    verb: str, database: sqlite3.Connection
) -> None:
    """A statement's policy goes before its triggers' own: REPLACE renumbered known endpoints."""
    before = database.execute("SELECT * FROM user_visits ORDER BY id").fetchall()

    database.execute(
        f"{verb} INTO user_visits (user_hash, endpoint, method, timestamp, ip_address, path)"
        " VALUES (?, '/boxes/{id}', 'GET', '2024-01-01T00:00:00Z', '192.0.2.1', '/boxes/1')",
        ["a" * 32],
    )

    rows = database.execute("SELECT * FROM user_visits ORDER BY id").fetchall()
    assert rows[:-1] == before
    assert rows[-1][1:5] == ("a" * 32, "/boxes/{id}", "GET", "192.0.2.1")


UPDATES = [
    pytest.param("UPDATE", id="plain"),
    *(
        pytest.param(f"UPDATE OR {policy}", id=policy.lower())
        for policy in ("IGNORE", "REPLACE", "ABORT", "FAIL", "ROLLBACK")
    ),
]


@pytest.mark.parametrize("verb", UPDATES)
def test_view_changes_one_visit_whatever_the_conflict_policy(
    verb: str, database: sqlite3.Connection
) -> None:
    before = database.execute("SELECT id, user_hash, endpoint FROM user_visits ORDER BY id")
    before = before.fetchall()

    database.execute(f"{verb} user_visits SET referer = 'https://b.example/' WHERE id = 1")

    assert (
        database.execute("SELECT id, user_hash, endpoint FROM user_visits ORDER BY id").fetchall()
        == before
    )
    assert database.execute("SELECT id FROM user_visits WHERE referer LIKE '%b.%'").fetchall() == [
        (1,)
    ]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("user_hash", b"\xff", id="user as bytes"),
        pytest.param("endpoint", b"/", id="endpoint as bytes"),
        pytest.param("method", b"GET", id="method as bytes"),
        pytest.param("ip_address", b"::1", id="address as bytes"),
        pytest.param("user_agent", b"curl", id="agent as bytes"),
        pytest.param("referer", b"\xff", id="referer as bytes"),
        pytest.param("timestamp_us", 1.5, id="part of a microsecond"),
    ],
)
def test_no_row_of_the_view_can_stop_a_report(column: str, value: Any) -> None:
    row = {"user_hash": "c", "endpoint": "/", "method": "GET", "timestamp": "2024-03-04T00:00:00Z"}
    row[column] = value
    with reporting(THREE) as client:
        client.get("/api/tracking/stats")
        statement = (
            f"INSERT INTO user_visits ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        )
        with (
            closing(sqlite3.connect(client.app._backend.storage.database)) as database,
            suppress(sqlite3.IntegrityError),  # refused is as good
            database,
        ):
            database.execute(statement, list(row.values()))

        for report in ("stats", "summary", "trends?period=1y", "visits"):
            assert client.get(f"/api/tracking/{report}", expect_errors=True).status_int == 200
        with closing(sqlite3.connect(client.app._backend.storage.database)) as database:
            assert database.execute(
                "SELECT count(*) FROM user_visits WHERE typeof(timestamp_us) <> 'integer'"
            ).fetchone() == (0,)


@pytest.mark.parametrize("verb", UPDATES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("user_hash = x'07'", id="user as bytes"),
        pytest.param("endpoint = NULL", id="no endpoint"),
        pytest.param("method = NULL", id="no method"),
        pytest.param("timestamp = 'yesterday'", id="time that is none"),
        pytest.param("timestamp = NULL", id="no time"),
        pytest.param("timestamp_us = -1", id="before 1970"),
        pytest.param("timestamp_us = 253402300800000000", id="after 9999"),
        pytest.param("path = x'2f'", id="path as bytes"),
        pytest.param("status = 'x'", id="status as text"),
    ],
)
def test_view_refuses_a_change_and_keeps_the_visit(
    change: str, verb: str, database: sqlite3.Connection
) -> None:
    before = database.execute("SELECT * FROM user_visits ORDER BY id").fetchall()

    with pytest.raises(sqlite3.IntegrityError, match="a visit needs timestamp"):
        database.execute(f"{verb} user_visits SET {change} WHERE id = 2")

    assert database.execute("SELECT * FROM user_visits ORDER BY id").fetchall() == before


@pytest.mark.parametrize(
    ("change", "hashes"),
    [
        pytest.param("id = id + 100", {101: "a", 102: "b", 103: "a"}, id="another number"),
        pytest.param("id = -id", {-1: "a", -2: "b", -3: "a"}, id="below zero"),
        pytest.param("user_hash = CAST(id AS TEXT)", {1: "1", 2: "2", 3: "3"}, id="every visit"),
    ],
)
def test_view_keeps_every_visit_and_its_number_when_many_change(
    change: str, hashes: dict[int, str], database: sqlite3.Connection
) -> None:
    database.execute(f"UPDATE user_visits SET {change}")

    rows = database.execute("SELECT id, substr(user_hash, 1, 1) FROM user_visits").fetchall()
    assert dict(rows) == hashes
    assert len(rows) == len(hashes)


@pytest.mark.parametrize("verb", [each for each in UPDATES if each.id != "replace"])
def test_view_loses_no_visit_that_is_given_the_number_of_another(
    verb: str, database: sqlite3.Connection
) -> None:
    """OR FAIL and OR IGNORE left its removal done, and did not insert it again."""
    before = database.execute("SELECT user_hash, path FROM user_visits ORDER BY id").fetchall()

    with suppress(sqlite3.IntegrityError):
        database.execute(f"{verb} user_visits SET id = 1 WHERE id = 3")

    after = database.execute("SELECT user_hash, path FROM user_visits ORDER BY id").fetchall()
    assert after == before


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param("2024-02-29T12:00:00.999Z", "2024-02-29T12:00:00Z", id="part of a second"),
        pytest.param("2024-02-29 12:00:00", "2024-02-29T12:00:00Z", id="SQLite's own spelling"),
        pytest.param("2024-02-29T12:00:00+02:00", "2024-02-29T10:00:00Z", id="offset"),
        pytest.param("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z", id="the epoch"),
        pytest.param("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z", id="the last"),
    ],
)
def test_view_understands_timestamps(given: str, stored: str, database: sqlite3.Connection) -> None:
    database.execute(
        "INSERT INTO user_visits (user_hash, endpoint, method, timestamp) VALUES ('c', '/', 'GET',"
        " ?)",
        [given],
    )

    assert database.execute(
        "SELECT timestamp FROM user_visits WHERE user_hash = 'c'"
    ).fetchall() == [(stored,)]
