"""Which format a log has: named, found out, or that of an export."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import command
from logs_written import (
    CADDY_LINE,
    GARBAGE,
    LINE,
    START,
    VISIT,
    difference,
    exported,
    failed,
    imported,
    log_line,
    many_lines,
    only_visit,
)

pytestmark = pytest.mark.once


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


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(("name", "line", "expected"), FORMATTED)
def test_byte_order_mark_is_no_part_of_the_first_line(
    name: str,
    line: str,
    expected: dict[str, Any],
    pack: Callable[[bytes], bytes],
    database: Path,
    log: Path,
) -> None:
    log.write_bytes(pack(codecs.BOM_UTF8 + line.encode()))

    assert imported(database, log) == {"visits": 1}

    known = {"ip_address": "203.0.113.7", "endpoint": "/boxes/7", **expected}
    assert known.items() <= only_visit(database).items()
    assert imported(database, log) == {"skipped": 1}


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
