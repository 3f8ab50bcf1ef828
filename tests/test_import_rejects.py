"""What is no line of a log, and what is no log: told, and left out."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import nobody
import pytest
from calls import answering
from commands import command
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
)

from wsgi_tracker import Tracker

pytestmark = pytest.mark.once
hello = answering([b"hello"])


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
    ("option", "value"),
    [("--format", "apache"), ("--exclude", "static"), ("--trusted-proxy", "10.0.0.0/33")],
)
def test_option_that_is_not_understood_is_a_usage_error(
    option: str, value: str, database: Path, log: Path
) -> None:
    log.write_text(LINE)

    result = command("import", option, value, log, "-d", database)

    assert (result.exit_code, result.stdout, database.exists()) == (2, "", False)
    assert f"Invalid value for '{option}'" in result.stderr
    assert repr(value) in result.stderr


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


def test_logs_beside_one_that_fails_are_imported_and_summed_up(
    database: Path, log: Path, tmp_path: Path
) -> None:
    log.write_text(LINE)
    other = tmp_path / "other.log"
    other.write_text(log_line(1))

    result = command("import", "-d", database, log, tmp_path / "missing.log", other)

    assert (result.exit_code, result.stdout) == (1, "2 visits imported\n")
    assert result.stderr == (
        f"Error: {tmp_path}/missing.log cannot be read: No such file or directory\n"
    )


def test_log_that_breaks_off_is_summed_up_to_there(database: Path, log: Path) -> None:
    lines = many_lines(3000, longer=3000)
    log.write_bytes(gzip.compress(lines.encode(), 0)[:-1000])

    result = command("import", "-d", database, log)

    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "cannot be read to its end" in result.stderr
    assert result.stdout == f"{hits(database):,} visits imported\n"


def test_log_that_is_not_there_makes_no_database(database: Path, log: Path) -> None:
    assert "No such file" in failed(database, log)

    assert not database.exists()


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
