"""The view of visits in plain SQL: what it answers, takes and refuses."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from recount import NOW, micro, reporting

from wsgi_tracker import Visit

pytestmark = pytest.mark.once

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
