"""Logs that tests write, and what an import has made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import waiting
from commands import command

from wsgi_tracker import open_storage

PATIENCE_SECONDS = 120  # for imports of large logs, on machines that do other things, too
wait_until = partial(waiting.wait_until, patience_seconds=PATIENCE_SECONDS)
START = 1_755_079_200_000_000  # 2025-08-13T10:00:00Z
LINE = (
    '203.0.113.7 - frank [13/Aug/2025:10:00:00 +0000] "GET /boxes/7?color=red HTTP/1.1" 200 2326 '
    '"http://ann:pw@example.com/start?q=secret#top" "Mozilla/5.0 (X11)"\n'
)
GARBAGE = "this is no line of a log\n"
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
UNITS = "visits rejected ignored old skipped".split()
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


def log_line(
    number: int = 0,
    *,
    address: str = "203.0.113.7",
    user: str = "-",
    request: str | None = None,
    status: int | str = 200,
    size: int | str = 2326,
    referer: str = "-",
    agent: str = "Mozilla/5.0 (X11)",
) -> str:
    """Return a line in the combined format, of second ``number``."""
    hours, minutes, seconds = 10 + number // 3600 % 12, number // 60 % 60, number % 60
    request = f"GET /boxes/{number}?color=red HTTP/1.1" if request is None else request
    return (
        f"{address} - {user} [13/Aug/2025:{hours:02}:{minutes:02}:{seconds:02} +0000] "
        f'"{request}" {status} {size} "{referer}" "{agent}"\n'
    )


def many_lines(count: int, *, longer: int = 0) -> str:
    """Return lines of some visitors of some endpoints, each ``longer`` by so much."""
    return "".join(
        log_line(
            number % 40_000,
            address=f"203.0.113.{number % 97}",
            request=f"GET /boxes/{number % 50} HTTP/1.1",
            status=(200, 200, 304, 404)[number % 4],
            agent=f"agent {number % 7}" + "+" * longer,
        )
        for number in range(count)
    )


def imported(database: Path, *arguments: str | Path, code: int = 0, **stdin: Any) -> dict[str, int]:
    """Import, and return what became of lines; what is 0 is left out."""
    result = command("import", "-d", database, "--json", *arguments, **stdin)
    assert result.exit_code == code, result.output
    return {name: count for name, count in json.loads(result.stdout).items() if count}


def failed(database: Path, *arguments: str | Path) -> str:
    """Import what cannot be, and return why."""
    result = command("import", "-d", database, *arguments)
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    return result.stderr


def exported(database: Path) -> list[dict[str, Any]]:
    """Return all visits, oldest first, without their cursors."""
    lines = command("export", "-d", database).stdout.splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "cursor"}
        for line in lines
    ]


def only_visit(database: Path) -> dict[str, Any]:
    (visit,) = exported(database)
    return visit


def hits(database: Path) -> int:
    """Return how many visits there are now; none before there is a database."""
    if not database.exists():
        return 0
    with closing(open_storage(database, used_before=True)) as storage, storage.snapshot() as moment:
        return moment.summary().total_hits


def difference(database: Path) -> str | None:
    """Return what is wrong with the counters, or the file."""
    with closing(open_storage(database)) as storage:
        return storage.check() or storage.check_integrity()


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wsgi_tracker", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        **options,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, output and errors of a process that ends."""
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, output, errors
