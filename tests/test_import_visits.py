"""Lines of a log become visits, by the same rules as requests and those of options."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import webtest
from calls import answering
from logs_written import (
    CADDY_LINE,
    LINE,
    START,
    exported,
    failed,
    imported,
    log_line,
    only_visit,
)

from wsgi_tracker import Tracker

pytestmark = pytest.mark.once
hello = answering([b"hello"])
SECRET = "known to nobody else"


# What a line becomes.


def test_line_becomes_a_visit_with_every_field(database: Path, log: Path) -> None:
    log.write_text(LINE)

    assert imported(database, log) == {"visits": 1}

    visit = only_visit(database)
    assert len(visit.pop("user_hash")) == 32
    assert visit == {
        "timestamp": START,
        "method": "GET",
        "endpoint": "/boxes/7",
        "path": None,
        "status": 200,
        "duration_us": None,
        "first_byte_us": None,
        "bytes_sent": 2326,
        "error": None,
        "ip_address": "203.0.113.7",
        "user_agent": "Mozilla/5.0 (X11)",
        "referer": "http://example.com/start",
        "host": None,
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            log_line(status=404, request="GET /wp-login.php HTTP/1.1"),
            {"endpoint": "(unmatched)", "path": "/wp-login.php", "status": 404},
            id="not found",
        ),
        pytest.param(
            log_line(request="GET /caf%C3%A9/%2F?q=%20 HTTP/1.1"),
            {"endpoint": "/café//", "path": None},
            id="percent-escapes",
        ),
        pytest.param(
            log_line(request="GET /%ff%00 HTTP/1.1"), {"endpoint": "/\ufffd\ufffd"}, id="no UTF-8"
        ),
        pytest.param(
            log_line(request=r"\x16\x03\x01\x02", status=400),
            {"method": "(other)", "endpoint": "(unmatched)", "path": "/", "status": 400},
            id="TLS to a plain port",
        ),
        pytest.param(
            log_line(request="-", status=408, size="-"),
            {"method": "(other)", "endpoint": "(unmatched)", "status": 408, "bytes_sent": 0},
            id="nothing was sent",
        ),
        pytest.param(
            log_line(request="BREW /pot HTTP/1.1", status=405),
            {"method": "(other)", "endpoint": "/pot"},
            id="unknown method",
        ),
        pytest.param(
            log_line(request="GET http://shop.example/boxes HTTP/1.1"),
            {"endpoint": "/boxes", "host": "shop.example"},
            id="as to a proxy",
        ),
        pytest.param(
            log_line(agent="-", referer="-"), {"user_agent": None, "referer": None}, id="no headers"
        ),
        pytest.param(
            log_line(agent=r"\xc3\xa9 \"quoted\""), {"user_agent": 'é "quoted"'}, id="agent escaped"
        ),
        pytest.param(log_line()[:-1] + "\r\n", {"status": 200}, id="line end of Windows"),
    ],
)
def test_line_becomes(line: str, expected: dict[str, Any], database: Path, log: Path) -> None:
    log.write_text(line, newline="")

    assert imported(database, log) == {"visits": 1}

    visit = only_visit(database)
    assert {name: visit[name] for name in expected} == expected


def test_query_is_nowhere_in_the_database(database: Path, log: Path) -> None:
    log.write_text(LINE)
    imported(database, log)

    with closing(sqlite3.connect(database)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "/boxes/7" in dump
    assert "color=red" not in dump
    assert "secret#" not in dump
    assert "q=secret" not in dump


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="own secret"),
        pytest.param({"secret": SECRET}, id="given secret"),
        pytest.param({"identity": "daily", "secret": SECRET}, id="daily, given secret"),
        pytest.param({"identity": "daily"}, id="daily"),
    ],
)
def test_visitor_is_the_one_that_tracker_knows(
    options: dict[str, Any], database: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With secrets of days, those of today's lines had another for each import."""
    if "secret" in options:
        monkeypatch.setenv("WSGI_TRACKER_SECRET", SECRET)
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    log.write_text(log_line(agent=r"caf\xc3\xa9").replace("13/Aug/2025:10:00:00 +0000", stamp))
    with Tracker(hello, database, ingest=False, **options) as tracker:
        app = webtest.TestApp(tracker, extra_environ={"REMOTE_ADDR": "203.0.113.7"})
        app.get("/", headers={"User-Agent": "café".encode().decode("latin-1")})

    imported(database, log)

    first, second = exported(database)
    assert first["user_hash"] == second["user_hash"]


def test_user_of_the_log_is_nobody_unless_asked_for(database: Path, log: Path) -> None:
    log.write_text(log_line(user="ann") + log_line(user="bob"))

    imported(database, log)

    assert len({visit["user_hash"] for visit in exported(database)}) == 1


def test_daily_visitors_of_past_days_are_those_of_each_day(database: Path, log: Path) -> None:
    Tracker(hello, database, ingest=False, identity="daily").close()
    day_before = log_line().replace("13/Aug", "12/Aug")
    log.write_text(day_before * 2 + log_line() * 2)

    imported(database, log)

    users = [visit["user_hash"] for visit in exported(database)]
    assert users[0] == users[1] != users[2] == users[3]


def test_database_with_a_secret_is_refused_without_it(
    database: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tracker(hello, database, ingest=False, secret=SECRET).close()
    log.write_text(LINE)

    assert "secret is not that of the applications" in failed(database, log)
    monkeypatch.setenv("WSGI_TRACKER_SECRET", SECRET)
    assert imported(database, log) == {"visits": 1}


def test_lines_that_are_past_retention_are_left_out(database: Path, log: Path) -> None:
    Tracker(hello, database, ingest=False, retention_days=30).close()
    now = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
    log.write_text(LINE + LINE.replace("13/Aug/2025:10:00:00 +0000", now))

    assert imported(database, log) == {"visits": 1, "old": 1}
    assert imported(database, log) == {"skipped": 2}


# Which lines, by the rules of options.


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        pytest.param("/static/*", log_line(request="GET /static/a/b.css HTTP/1.1"), id="glob"),
        pytest.param("HEAD", log_line(request="HEAD /boxes HTTP/1.1"), id="method"),
        pytest.param("198.51.100.0/24", log_line(address="198.51.100.9"), id="network"),
    ],
)
def test_excluded_lines_are_counted_but_not_stored(
    rule: str, line: str, database: Path, log: Path
) -> None:
    log.write_text(LINE + line)

    assert imported(database, log, "--exclude", rule) == {"visits": 1, "ignored": 1}
    assert only_visit(database)["endpoint"] == "/boxes/7"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            ["--ip-addresses", "truncated"], {"ip_address": "203.0.113.0"}, id="truncated"
        ),
        pytest.param(["--ip-addresses", "none"], {"ip_address": None}, id="no address"),
        pytest.param(
            ["--collapse-ids"], {"endpoint": "/boxes/<int>", "path": "/boxes/7"}, id="collapse ids"
        ),
        pytest.param(["--host", "shop.example"], {"host": "shop.example"}, id="host"),
    ],
)
def test_option_decides(
    options: list[str], expected: dict[str, Any], database: Path, log: Path
) -> None:
    log.write_text(LINE)

    imported(database, log, *options)

    visit = only_visit(database)
    assert {name: visit[name] for name in expected} == expected


def test_endpoint_path_keeps_what_was_not_found(database: Path, log: Path) -> None:
    log.write_text(log_line(status=404))

    imported(database, log, "--endpoint", "path")

    assert only_visit(database)["endpoint"] == "/boxes/0"


def test_user_of_the_log_tells_visitors_apart(database: Path, log: Path) -> None:
    log.write_text(
        log_line(user="ann")
        + log_line(user="ann", address="198.51.100.1")
        + log_line(user="bob")
        + log_line()
    )

    imported(database, log, "--user")

    users = [visit["user_hash"] for visit in exported(database)]
    assert Counter(users).most_common(1)[0][1] == 2
    assert len(set(users)) == 3


@pytest.mark.parametrize(
    ("options", "address"),
    [
        pytest.param([], "10.0.0.1", id="nobody is trusted"),
        pytest.param(["--trusted-proxy", "10.0.0.0/8"], "198.51.100.1", id="proxy is trusted"),
        pytest.param(["--trusted-proxy", "192.0.2.0/24"], "10.0.0.1", id="another is trusted"),
    ],
)
@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        pytest.param(
            '%h %t "%r" %>s "%{X-Forwarded-For}i"',
            '10.0.0.1 [13/Aug/2025:10:00:00 +0000] "GET / HTTP/1.1" 200 "9.9.9.9, 198.51.100.1"\n',
            id="Apache",
        ),
        pytest.param(
            '$remote_addr [$time_local] "$request" $status "$http_x_forwarded_for"',
            '10.0.0.1 [13/Aug/2025:10:00:00 +0000] "GET / HTTP/1.1" 200 "9.9.9.9, 198.51.100.1"\n',
            id="nginx",
        ),
        pytest.param("caddy", CADDY_LINE.replace("203.0.113.7", "10.0.0.1") + "\n", id="Caddy"),
    ],
)
def test_forwarded_address_counts_if_the_proxy_is_trusted(
    pattern: str, line: str, options: list[str], address: str, database: Path, log: Path
) -> None:
    log.write_text(line)

    imported(database, log, "--format", pattern, *options)

    assert only_visit(database)["ip_address"] == address


def test_endpoints_beyond_the_most_count_together(database: Path, log: Path) -> None:
    log.write_text("".join(log_line(number) for number in range(5)))

    imported(database, log, "--max-endpoints", "2")

    visits = exported(database)
    assert Counter(visit["endpoint"] for visit in visits) == {
        "/boxes/0": 1,
        "/boxes/1": 1,
        "(other)": 3,
    }
    assert {visit["path"] or visit["endpoint"] for visit in visits} == {
        f"/boxes/{number}" for number in range(5)
    }
