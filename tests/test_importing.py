"""Lines of a log become visits, each exactly once, by the same rules as requests."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nobody
import pytest
import webtest
from calls import answering
from commands import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs_written import (
    PATIENCE_SECONDS,
    START,
    difference,
    ended,
    exported,
    failed,
    hits,
    imported,
    log_line,
    many_lines,
    only_visit,
    started,
    wait_until,
)
from servers import get, gunicorn, report

from wsgi_tracker import Tracker

pytestmark = pytest.mark.once
LINE = (
    '203.0.113.7 - frank [13/Aug/2025:10:00:00 +0000] "GET /boxes/7?color=red HTTP/1.1" 200 2326 '
    '"http://ann:pw@example.com/start?q=secret#top" "Mozilla/5.0 (X11)"\n'
)
hello = answering([b"hello"])
GARBAGE = "this is no line of a log\n"
SECRET = "known to nobody else"
CADDY_LINE = json.dumps(
    {
        "ts": START / 1e6,
        "msg": "handled request",
        "request": {
            "client_ip": "203.0.113.7",
            "method": "GET",
            "host": "shop.example",
            "uri": "/boxes/7?color=red",
            "headers": {"User-Agent": ["Mozilla/5.0 (X11)"], "X-Forwarded-For": ["198.51.100.1"]},
        },
        "duration": 0.25,
        "size": 2326,
        "status": 200,
    }
)
VISIT = {
    "timestamp": START,
    "user_hash": "a" * 32,
    "method": "GET",
    "endpoint": "/boxes",
    "path": None,
    "status": 200,
    "duration_us": 250,
    "first_byte_us": 200,
    "bytes_sent": 5,
    "error": None,
    "ip_address": "203.0.113.7",
    "user_agent": "Mozilla/5.0 (X11)",
    "referer": None,
    "host": None,
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "visits.db"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


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


# Formats.


FORMATTED = [
    pytest.param("combined", LINE, {}, id="combined"),
    pytest.param("vhost_combined", "shop.example:443 " + LINE, {"host": "shop.example"}, id="vhost"),
    pytest.param("common", LINE.partition(' "http')[0] + "\n", {"user_agent": None}, id="common"),
    pytest.param("caddy", CADDY_LINE + "\n", {"host": "shop.example", "duration_us": 250_000}, id="caddy"),
    pytest.param("ndjson", json.dumps({**VISIT, "endpoint": "/boxes/7"}) + "\n", {}, id="ndjson"),
]  # fmt: skip


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "found out"])
@pytest.mark.parametrize(("name", "line", "expected"), FORMATTED)
def test_format_is_named_or_found_out(
    name: str, line: str, expected: dict[str, Any], is_named: bool, database: Path, log: Path
) -> None:
    log.write_text(line)

    assert imported(database, log, *(["--format", name] if is_named else [])) == {"visits": 1}

    visit = only_visit(database)
    assert {"timestamp": START, "endpoint": "/boxes/7", **expected}.items() <= visit.items()


@pytest.mark.parametrize(("name", "line", "expected"), FORMATTED)
def test_format_is_found_out_among_other_lines(
    name: str, line: str, expected: dict[str, Any], database: Path, log: Path
) -> None:
    """One line that was no visit kept all the others of an export from being known as such."""
    log.write_text("\n\n" + line + GARBAGE + line)

    assert imported(database, log) == {"visits": 2, "rejected": 1}


def test_pattern_of_a_server_is_a_format(database: Path, log: Path) -> None:
    log.write_text('203.0.113.7 [13/Aug/2025:10:00:00 +0000] "GET /boxes HTTP/1.1" 200 1500\n')

    imported(database, log, "--format", '%h %t "%r" %>s %D')

    assert only_visit(database)["duration_us"] == 1500


def test_unknown_format_is_told_with_advice(database: Path, log: Path) -> None:
    log.write_text(GARBAGE)

    message = failed(database, log)

    assert "give the one that the server writes as --format" in message
    assert "combined, common, vhost_combined, caddy, gunicorn, ndjson" in message
    assert "is one of combined" in failed(database, log, "--format", "no such")


# Each line once.


def test_log_is_imported_once_and_what_was_skipped_is_told(database: Path, log: Path) -> None:
    log.write_text(many_lines(100))
    imported(database, log)

    result = command("import", "-d", database, log)

    assert result.stdout == "0 visits imported, 100 imported before\n"
    assert result.stderr == f"{log}: 100 lines were imported before\n"
    assert (result.exit_code, hits(database)) == (0, 100)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda log: log.rename(log.with_name("access.log.1")), id="renamed"),
        pytest.param(lambda log: shutil.copy(log, log.with_name("copy")), id="copied"),
        pytest.param(lambda log: packed(gzip, log, "access.log.2.gz"), id="gzip"),
        pytest.param(lambda log: packed(bz2, log, "access.log.bz2"), id="bzip2"),
        pytest.param(lambda log: packed(gzip, log, "access.log.3"), id="gzip without its suffix"),
    ],
)
@pytest.mark.parametrize("grows", [False, True], ids=["as it was", "grown"])
def test_log_is_known_whatever_became_of_it(
    change: Callable[[Path], Path], grows: bool, database: Path, log: Path
) -> None:
    log.write_text(many_lines(100))
    imported(database, log)
    if grows:
        log.write_text(many_lines(120))

    changed = change(log)

    assert imported(database, changed) == {"skipped": 100, **({"visits": 20} if grows else {})}
    assert hits(database) == (120 if grows else 100)


def packed(module: Any, log: Path, name: str) -> Path:
    path = log.with_name(name)
    path.write_bytes(module.compress(log.read_bytes()))
    return path


def test_half_a_last_line_is_imported_when_it_is_whole(database: Path, log: Path) -> None:
    log.write_text(many_lines(3)[:-30])
    before = imported(database, log)
    log.write_text(many_lines(4)[:-1])

    assert (before, imported(database, log)) == ({"visits": 2}, {"visits": 1, "skipped": 2})


def test_last_line_of_a_packed_log_needs_no_end(database: Path, log: Path) -> None:
    log.write_bytes(gzip.compress(many_lines(3)[:-1].encode()))

    assert imported(database, log) == {"visits": 3}
    assert imported(database, log) == {"skipped": 3}


@pytest.mark.parametrize("turns", [[0, 1, 0, 1], [1, 0, 1, 0]], ids=str)
def test_logs_that_begin_alike_are_both_imported(
    turns: list[int], database: Path, tmp_path: Path
) -> None:
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    for number, log in enumerate(logs):
        log.write_text(log_line() + log_line(number + 1) * (number + 2))

    found = [imported(database, logs[turn]) for turn in turns]

    visits = [3, 4]
    assert found[:2] == [{"visits": visits[turn]} for turn in turns[:2]]
    assert found[2:] == [{"skipped": visits[turn]} for turn in turns[2:]]
    assert (hits(database), difference(database)) == (7, None)


def test_logs_of_one_command_are_each_imported_once(database: Path, log: Path) -> None:
    log.write_text(many_lines(10))
    other = packed(gzip, log, "access.log.gz")

    assert imported(database, log, other, log) == {"visits": 10, "skipped": 20}


def test_empty_log_has_no_visits(database: Path, log: Path) -> None:
    log.touch()

    assert imported(database, log) == {}


def test_blank_lines_are_nothing(database: Path, log: Path) -> None:
    log.write_text("\n \n\r\n\n")
    blank = imported(database, log)
    log.write_text("\n \n\r\n\n" + LINE + "\n \n\r\n" + LINE)

    assert (blank, imported(database, log)) == ({}, {"visits": 2, "skipped": 4})


def test_format_is_found_out_behind_any_number_of_blank_lines(
    database: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.logfile.BLOCK_BYTES", 2)
    log.write_text("\n" * 5 + LINE)

    assert imported(database, log) == {"visits": 1}


# Lines that are rejected.


def test_rejected_line_is_told_with_its_number_and_reason(database: Path, log: Path) -> None:
    log.write_text(LINE + GARBAGE + LINE)

    result = command("import", "-d", database, log)

    assert result.stderr == (
        f"{log}, line 2: the line does not have the shape of combined: 'this is no line of a log'\n"
    )
    assert (result.exit_code, result.stdout) == (0, "2 visits imported, 1 rejected\n")


def test_rejected_line_has_its_number_in_the_whole_log(database: Path, log: Path) -> None:
    """The format was looked for in what was added, so that a log which ended so was an error."""
    log.write_text(LINE * 4)
    imported(database, log)
    log.write_text(LINE * 4 + GARBAGE)

    result = command("import", "-d", database, log)

    assert f"{log}, line 5: " in result.stderr
    assert result.exit_code == 1


def test_only_the_first_ten_rejected_lines_are_told(database: Path, log: Path) -> None:
    log.write_text(LINE * 12 + GARBAGE * 12)

    result = command("import", "-d", database, log)

    told = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in told[:-1]] == [
        f"{log}, line {number}" for number in range(13, 23)
    ]
    assert told[-1] == "more are only counted; --rejects FILE writes them all"


def test_all_rejected_lines_go_to_a_file_of_their_owner(
    database: Path, log: Path, tmp_path: Path
) -> None:
    log.write_text(LINE * 12 + GARBAGE * 12)
    rejects = tmp_path / "rejects"

    result = command("import", "-d", database, log, "--rejects", rejects)

    assert result.stderr == ""
    assert len(rejects.read_text().splitlines()) == 12
    assert rejects.stat().st_mode & 0o777 == 0o600


def test_file_for_rejected_lines_that_cannot_be_written_is_an_error(
    database: Path, log: Path, tmp_path: Path
) -> None:
    log.write_text(LINE)

    message = failed(database, log, "--rejects", tmp_path / "missing" / "rejects")

    assert "cannot be written: No such file or directory" in message


def test_nothing_that_a_terminal_obeys_is_told(database: Path, tmp_path: Path) -> None:
    log = tmp_path / "a\x1b[2Jcc\x07ess[red].log"
    log.write_bytes(LINE.encode() * 2 + b"\x1b]0;owned\x07\xc2\x9b2J\x00\n")
    rejects = tmp_path / "rejects"

    told = [command("import", "-d", database, log).stderr]
    os.truncate(log, 0)
    log.write_bytes(b"\x1b[31m" + LINE.encode())
    told.append(command("import", "-d", database, log, "--format", "combined").stderr)
    log.write_bytes(b"\x1b[32m\n")
    command("import", "-d", database, log, "--format", "combined", "--rejects", rejects)
    told.append(rejects.read_text())

    text = "".join(told).replace("\n", "")
    assert "line 3: " in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(GARBAGE * 3, 1, id="nothing was understood"),
        pytest.param(GARBAGE * 3 + LINE, 0, id="something was"),
        pytest.param(GARBAGE * 3 + log_line(request="HEAD / HTTP/1.1"), 0, id="but is excluded"),
        pytest.param("", 0, id="there is nothing"),
    ],
)
def test_exit_code_says_whether_anything_was_understood(
    text: str, code: int, database: Path, log: Path
) -> None:
    log.write_text(text)

    imported(database, log, "--format", "combined", "--exclude", "HEAD", code=code)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_line_of_five_megabytes_is_one_rejected_line(
    pack: Callable[[bytes], bytes], database: Path, log: Path
) -> None:
    long = log_line(agent="x" * 5_000_000)
    log.write_bytes(pack((LINE + long + GARBAGE + LINE).encode()))

    result = command("import", "-d", database, log)

    assert f"{log}, line 2: it is longer than 1,048,576 bytes\n" in result.stderr
    assert f"{log}, line 3: the line does not have the shape" in result.stderr
    assert result.stdout == "2 visits imported, 2 rejected\n"


def test_numbers_that_would_overflow_a_sum_are_rejected(database: Path, log: Path) -> None:
    """Ten of them, and no report could be made any more."""
    log.write_text(LINE + log_line(size=10**17) * 100)

    assert imported(database, log) == {"visits": 1, "rejected": 100}
    assert difference(database) is None


# What cannot be imported.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda log: None, "cannot be read: No such file", id="missing"),
        pytest.param(lambda log: log.mkdir(), "cannot be read: Is a directory", id="directory"),
        pytest.param(lambda log: log.write_text(LINE, "utf-16"), "is UTF-16", id="UTF-16"),
        pytest.param(
            lambda log: log.write_bytes(gzip.compress(os.urandom(9999))[:5000]),
            "cannot be read to its end",
            id="truncated",
        ),
    ],
)
def test_what_is_no_log_is_an_error(
    make: Callable[[Path], object], message: str, database: Path, log: Path
) -> None:
    make(log)

    assert message in failed(database, log)


NOBODY_IMPORTS = """
import difflib
import sys
from pathlib import Path

import wsgi_tracker.storage.sqlite
from commands import command
from nobody import become_nobody

folder = Path(sys.argv[1])
become_nobody()
result = command("import", "-d", folder / "visits.db", folder / "access.log")
print(result.exit_code)
print(result.output)
"""


def test_folder_that_cannot_be_written_is_an_error() -> None:
    with TemporaryDirectory() as name:  # which another user can reach, too
        folder = Path(name)
        (folder / "access.log").write_text(LINE)
        folder.chmod(0o555)

        code, message, *_ = nobody.run(NOBODY_IMPORTS, folder)

        assert code == "1"
        assert message.startswith("Error: ")
        assert "cannot be the database" in message
        assert not (folder / "visits.db").exists()
        folder.chmod(0o700)


def test_locked_database_is_waited_for(database: Path, log: Path) -> None:
    log.write_text(many_lines(10))
    Tracker(hello, database, ingest=False).close()
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = started("import", "-d", database, log)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        other.execute("COMMIT")

    assert ended(process) == (0, "10 visits imported\n", "")


# NDJSON.


def test_export_comes_back_as_it_was(database: Path, log: Path, tmp_path: Path) -> None:
    log.write_text(many_lines(3000) + LINE + log_line(request=r"\x16", status=400))
    imported(database, log, "--host", "shop.example")
    written, other = tmp_path / "visits.ndjson", tmp_path / "other.db"
    written.write_text(command("export", "-d", database).stdout)

    assert imported(other, written) == {"visits": 3002}

    assert exported(other) == exported(database)
    reports = [
        ["stats", "--include", "status,latency,bytes"],
        ["summary", "--include", "status,latency,bytes"],
        ["trends", "--granularity", "hour"],
    ]
    for arguments in reports:
        asked = [*arguments, "--start", "2025-08-01", "--json"]
        assert command(*asked, "-d", other).stdout == command(*asked, "-d", database).stdout
    assert difference(other) is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("5", id="number"),
        pytest.param("null", id="null"),
        pytest.param("{}", id="empty"),
        pytest.param("[" * 10_000, id="deep"),
        pytest.param("{", id="torn"),
        pytest.param("9" * 5000, id="many digits"),
        pytest.param(json.dumps({**VISIT, "timestamp": None}), id="no timestamp"),
        pytest.param(json.dumps({**VISIT, "timestamp": -1}), id="before the epoch"),
        pytest.param(json.dumps({**VISIT, "timestamp": 10**18}), id="behind the year 9999"),
        pytest.param(json.dumps({**VISIT, "timestamp": START + 0.5}), id="fraction"),
        pytest.param(json.dumps({**VISIT, "timestamp": True}), id="truth"),
        pytest.param(json.dumps({**VISIT, "method": None}), id="no method"),
        pytest.param(json.dumps({**VISIT, "endpoint": 7}), id="number for text"),
        pytest.param(json.dumps({**VISIT, "status": "200"}), id="text for a number"),
        pytest.param(json.dumps({**VISIT, "status": 2000}), id="status of four digits"),
        pytest.param(json.dumps({**VISIT, "duration_us": -1}), id="below zero"),
        pytest.param(json.dumps({**VISIT, "duration_us": 1 << 62}), id="huge"),
        pytest.param(json.dumps({**VISIT, "bytes_sent": 1 << 70}), id="no integer of SQLite"),
        pytest.param(json.dumps({**VISIT, "bytes_sent": 1 << 60}), id="too many bytes"),
        pytest.param(json.dumps({**VISIT, "bytes_sent": float("nan")}), id="no number"),
        pytest.param(json.dumps({**VISIT, "user_agent": "a\0b"}), id="NUL"),
        pytest.param(json.dumps({**VISIT, "referer": "\ud800"}), id="lone surrogate"),
        pytest.param(json.dumps({**VISIT, "path": {"a": ["b"]}}), id="nested"),
        pytest.param(json.dumps({**VISIT, "user_agent": "x" * 1_000_000}), id="a megabyte"),
    ],
)
def test_line_that_is_no_visit_is_rejected(line: str, database: Path, log: Path) -> None:
    log.write_text("\n".join([json.dumps(VISIT), line, json.dumps(VISIT)]) + "\n")

    result = command("import", "-d", database, log, "--format", "ndjson")

    assert result.stdout == "2 visits imported, 1 rejected\n"
    assert result.stderr.startswith(f"{log}, line 2: ")
    assert exported(database) == [VISIT, VISIT]
    assert difference(database) is None


# Standard input.


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_standard_input_is_a_log_that_is_not_known_again(
    pack: Callable[[bytes], bytes], database: Path, log: Path
) -> None:
    content = pack(many_lines(100)[:-1].encode())
    found = []
    for _ in range(2):
        process = started("import", "-d", database, "-", stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.buffer.write(content)  # type: ignore[attr-defined]
        found.append(ended(process))

    assert found == [(0, "100 visits imported\n", "")] * 2
    assert hits(database) == 200


def test_file_on_standard_input_is_not_known_again_either(database: Path, log: Path) -> None:
    log.write_text(many_lines(100))
    found = []
    for _ in range(2):
        with log.open() as file:
            found.append(ended(started("import", "-d", database, "-", stdin=file)))

    assert found == [(0, "100 visits imported\n", "")] * 2


def test_pipe_is_a_log_that_is_not_known_again(database: Path, log: Path) -> None:
    os.mkfifo(log)
    process = started("import", "-d", database, log)
    log.write_text(many_lines(100))

    assert ended(process) == (0, "100 visits imported\n", "")


# Processes that are killed, or come at once.


LARGE = 30_000


@pytest.fixture(scope="module")
def large_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 15 batches."""
    log = tmp_path_factory.mktemp("logs") / "access.log"
    log.write_text(many_lines(LARGE, longer=1900))
    return log


def test_killed_imports_lose_and_double_nothing(database: Path, large_log: Path) -> None:
    killed = 0
    for wanted in sorted(random.choices(range(LARGE // 2), k=10)):
        process = started("import", "-d", database, large_log)
        wait_until(lambda wanted=wanted, process=process: has_visits(database, wanted, process))
        killed += process.poll() is None
        process.kill()
        ended(process)
    before = hits(database)

    result = imported(database, large_log)

    assert killed == 10
    assert result == {"skipped": before, "visits": LARGE - before}
    assert (hits(database), difference(database)) == (LARGE, None)


def has_visits(database: Path, wanted: int, process: subprocess.Popen[str]) -> bool:
    """Say whether there are so many visits, or nobody who would bring more."""
    return process.poll() is not None or hits(database) > wanted


def test_two_imports_of_a_log_at_once_store_it_once(database: Path, large_log: Path) -> None:
    processes = [started("import", "-d", database, large_log) for _ in range(2)]
    found = [ended(process) for process in processes]

    assert 0 in [code for code, _, _ in found]
    for code, _, errors in found:
        assert code == 0 or errors.endswith("Error: another process imports the same log\n")
    imported(database, large_log)
    assert (hits(database), difference(database)) == (LARGE, None)


def test_interrupted_import_says_what_it_did(database: Path, large_log: Path) -> None:
    process = started("import", "-d", database, "--json", large_log)
    wait_until(lambda: has_visits(database, 0, process))
    process.send_signal(signal.SIGTERM)
    code, output, errors = ended(process)

    assert (code, errors) == (1, "stopped: the next import does the rest\n")
    visits = json.loads(output)["visits"]
    assert visits == hits(database) < LARGE
    assert imported(database, large_log) == {"skipped": visits, "visits": LARGE - visits}


def test_what_waits_in_the_spool_is_not_kept_waiting(database: Path, log: Path) -> None:
    log.write_text(LINE)
    with Tracker(hello, database, ingest=False) as tracker:
        webtest.TestApp(tracker).get("/")

        imported(database, log)

        assert hits(database) == 2


APPLICATION = """
from calls import answering
from wsgi_tracker import Tracker

app = Tracker(answering([b"hello"]))
"""


def test_application_goes_on_beside_an_import(
    database: Path, large_log: Path, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(APPLICATION)
    path = [Path(entry) for entry in sys.path]
    sent = 0
    with gunicorn("shop:app", folder=tmp_path, python_path=path) as server:
        process = started("import", "-d", database, large_log)
        while process.poll() is None:
            assert get(server.port, "/")[0] == 200
            sent += 1
        assert ended(process) == (0, f"{LARGE:,} visits imported\n", "")
        since = time.monotonic()
        wait_until(lambda: hits(database) == LARGE + sent)
        waited = time.monotonic() - since
        assert report(server.port, "summary")["total_hits"] == LARGE + sent

    assert sent > 10
    assert waited < 5
    assert difference(database) is None


# Logs that grow.


@pytest.fixture
def followed(database: Path, log: Path) -> Iterator[subprocess.Popen[str]]:
    """An import that follows a log of three lines, which are imported."""
    log.write_text(many_lines(3))
    process = started("import", "-d", database, "--follow", log)
    try:
        wait_until(lambda: has_visits(database, 2, process))
        yield process
    finally:
        process.kill()
        process.communicate()


def append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_followed_log_is_imported_as_it_grows(
    number: int, followed: subprocess.Popen[str], database: Path, log: Path
) -> None:
    append(log, log_line(1) + log_line(2)[:50])
    wait_until(lambda: has_visits(database, 3, followed))
    append(log, log_line(2)[50:])
    wait_until(lambda: has_visits(database, 4, followed))

    followed.send_signal(number)

    assert ended(followed) == (0, "5 visits imported\n", "stopped\n")
    assert (hits(database), difference(database)) == (5, None)


def test_followed_log_is_rotated(
    followed: subprocess.Popen[str], database: Path, log: Path, tmp_path: Path
) -> None:
    rotated = tmp_path / "access.log.1"
    log.rename(rotated)
    append(rotated, log_line(1))
    log.write_text(log_line(2))
    append(rotated, log_line(3))
    wait_until(lambda: has_visits(database, 5, followed))
    log.rename(tmp_path / "access.log.2")
    log.write_text(GARBAGE * 3 + log_line(4))
    wait_until(lambda: has_visits(database, 6, followed))

    followed.send_signal(signal.SIGTERM)

    code, output, errors = ended(followed)
    assert (code, output) == (0, "7 visits imported, 3 rejected\n")
    assert errors.startswith(f"{log}, line 1: ")
    assert imported(database, *sorted(tmp_path.glob("access.log*"))) == {"skipped": 10}
    assert hits(database) == 7


def test_followed_log_is_copied_and_cut(
    followed: subprocess.Popen[str], database: Path, log: Path, tmp_path: Path
) -> None:
    append(log, log_line(5)[:60])
    shutil.copy(log, tmp_path / "access.log.1")
    os.truncate(log, 0)
    append(log, log_line(1))
    wait_until(lambda: has_visits(database, 3, followed))
    append(tmp_path / "access.log.1", log_line(5)[60:])

    followed.send_signal(signal.SIGTERM)

    assert ended(followed) == (0, "4 visits imported\n", "stopped\n")
    assert imported(database, tmp_path / "access.log.1") == {"skipped": 3, "visits": 1}


def test_follow_goes_on_where_it_was_ended(
    followed: subprocess.Popen[str], database: Path, log: Path
) -> None:
    followed.send_signal(signal.SIGTERM)
    ended(followed)
    append(log, log_line(1))

    again = started("import", "-d", database, "--follow", log)
    wait_until(lambda: has_visits(database, 3, again))
    again.send_signal(signal.SIGTERM)

    code, output, _ = ended(again)
    assert (code, output) == (0, "1 visits imported, 3 imported before\n")


@pytest.mark.parametrize("logs", [["-"], ["a.log", "b.log"]], ids=str)
def test_only_one_file_is_followed(logs: list[str], database: Path) -> None:
    assert "--follow takes one log" in failed(database, "--follow", *logs)


# Any log, in any pieces.

FEW = st.integers(0, 3)
REQUESTS = st.tuples(FEW, FEW, FEW, st.sampled_from([200, 301, 404, 500]), st.integers(0, 9999))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=60),
    cuts=st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 3)), max_size=4),
)
def test_log_in_any_pieces_is_what_was_requested(
    requests: list[tuple[int, int, int, int, int]],
    cuts: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    database = folder / "visits.db"
    content = "".join(
        log_line(second, address=f"192.0.2.{address}", request=f"GET /{path} HTTP/1.1",
                 agent=f"agent {agent}", status=status, size=size)
        for second, (address, agent, path, status, size) in enumerate(requests)
    ).encode()  # fmt: skip

    for number, (end, kind) in enumerate([*sorted(cuts), (len(content), 1)]):
        import_piece(database, folder / f"log.{number}", content[:end], kind)

    visits = exported(database)
    assert Counter(visit["status"] for visit in visits) == Counter(
        status for *_, status, _ in requests
    )
    assert sum(visit["bytes_sent"] for visit in visits) == sum(size for *_, size in requests)
    summary = json.loads(command("summary", "--period", "all", "--json", "-d", database).stdout)
    assert summary["total_hits"] == len(requests)
    assert summary["total_unique_users"] == len({request[:2] for request in requests})
    assert difference(database) is None


def import_piece(database: Path, log: Path, content: bytes, kind: int) -> None:
    """Import the beginning of a log, compressed or not: a packed one ends with a line."""
    pack = (bytes, gzip.compress, bz2.compress, lambda content: content)[kind]
    whole = content[: content.rfind(b"\n") + 1]
    log.write_bytes(pack(whole if kind in (1, 2) else content))
    imported(database, log)


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    few, many = (most_memory(tmp_path, lines) for lines in (30_000, 300_000))

    assert many < 200 << 20
    assert many - few < 100 << 20  # of which SQLite's cache takes 64


MEASURED = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "wsgi_tracker", "import", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def most_memory(folder: Path, lines: int) -> int:
    """Return how many bytes an import takes at most."""
    log = folder / f"{lines}.log"
    log.write_text(many_lines(lines))
    measured = subprocess.run(
        [sys.executable, "-c", MEASURED, log, "-d", folder / f"{lines}.db"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDEVMODE": ""},
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return int(measured.stdout.split()[-1]) * unit
