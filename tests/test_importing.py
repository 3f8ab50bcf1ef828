"""Lines of a log become visits, each exactly once, in whatever pieces they come."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logs_written import (
    LINE,
    PATIENCE_SECONDS,
    difference,
    ended,
    exported,
    hits,
    imported,
    log_line,
    many_lines,
    started,
)

pytestmark = pytest.mark.once


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


def test_last_line_without_an_end_is_told(database: Path, log: Path) -> None:
    log.write_text(log_line(0) + log_line(1).rstrip())

    first = command("import", "-d", database, log)
    log.write_text(log_line(0) + log_line(1))
    second = command("import", "-d", database, log)

    assert first.stderr == f"{log}: the last line has no end yet, and waits for the next import\n"
    assert (first.exit_code, first.stdout) == (0, "1 visits imported\n")
    assert second.stderr == f"{log}: 1 lines were imported before\n"


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


# Any log, in any pieces.

FEW = st.integers(0, 3)
REQUESTS = st.tuples(FEW, FEW, FEW, st.sampled_from([200, 301, 404, 500]), st.integers(0, 9999))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
