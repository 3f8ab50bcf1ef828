"""Imports that are killed, come at once, go on beside others, or follow a log that grows."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import webtest
from calls import answering
from logs_written import (
    GARBAGE,
    LINE,
    difference,
    ended,
    failed,
    hits,
    imported,
    log_line,
    many_lines,
    started,
    wait_until,
)
from servers import get, gunicorn, report

from wsgi_tracker import Tracker

pytestmark = pytest.mark.once
hello = answering([b"hello"])


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
