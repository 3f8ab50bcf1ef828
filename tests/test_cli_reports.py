"""Commands that ask: the API's answers, tables for people, what comes, and exports."""

from __future__ import annotations

import csv
import errno
import io
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from commands import COMMAND, PATIENCE_SECONDS, command, on_terminal, run
from counting import BEGIN, Counted, visit
from needs import require
from shops import Shop, serving

from wsgi_tracker.cli import main, tables
from wsgi_tracker.period import SECOND
from wsgi_tracker.query import BREAKDOWN, EXPORT, STATS, SUMMARY, TRENDS, USER, VISITS

pytestmark = pytest.mark.once

HOSTILE = "\x1b[31mred\x1b]0;title\x07[bold]x[/]\r\n\u202eevil\u2066\x9b31m"
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-9]|4[0-7])")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Return a shop that no test visits."""
    with serving(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


each_source = pytest.mark.parametrize("kind", ["database", "url"])


def options_of(query: str) -> list[str]:
    found = []
    for name, value in parse_qsl(query):
        found += [f"--{name.replace('_', '-')}", *([] if value == "true" else [value])]
    return found


@each_source
@pytest.mark.parametrize(
    ("report", "query"),
    [
        ("stats", ""),
        ("stats", "start=2020-01-01&end=2090-01-01&include=status,latency,bytes&sort=-p99"),
        ("stats", "status=-404&limit=1&tz=Europe/Berlin&start=2020-01-01"),
        ("summary", "start=2020-01-01&end=2090-01-01&include=sessions,status&compare=previous"),
        ("summary", "user_agent=curl*"),
        ("trends", "granularity=hour&period=24h&fill=true"),
        ("trends", "granularity=month&start=2020-01-01&include=bytes"),
        ("visits", "limit=3&include=path,status,error&method=GET,POST"),
        ("breakdown", "by=status&limit=1"),
        ("breakdown", "by=referer_host&period=today&class=all"),
        ("user", "limit=2&endpoint=-/missing"),
    ],
)
def test_json_is_the_apis(report: str, query: str, kind: str, shop: Shop) -> None:
    one = [shop.user] if report == "user" else []
    path = f"users/{shop.user}" if report == "user" else report

    done = command(report, *one, *options_of(query), "--json", *shop.source(kind))

    assert json.loads(done.stdout) == shop.ask(f"{path}?{query}")[1]
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("stats", STATS),
        ("summary", SUMMARY),
        ("trends", TRENDS),
        ("visits", VISITS),
        ("breakdown", BREAKDOWN),
        ("user", USER),
        ("export", EXPORT),
    ],
)
def test_each_parameter_of_the_api_is_an_option(name: str, parameters: Any) -> None:
    known = {option for param in main.commands[name].params for option in param.opts}

    assert {f"--{each.name.replace('_', '-')}" for each in parameters} <= known


@each_source
@pytest.mark.parametrize(
    ("report", "query"),
    [
        pytest.param("stats", "limit=0", id="number"),
        pytest.param("trends", "granularity=year", id="word"),
        pytest.param("visits", "include=path,x", id="words"),
        pytest.param("summary", "class=people", id="class"),
        pytest.param("summary", "tz=Mars", id="zone"),
        pytest.param("summary", "start=2025-02-30", id="no such day"),
        pytest.param("breakdown", "by=moon", id="property"),
        pytest.param("visits", "cursor=x", id="cursor"),
        pytest.param("stats", "period=day&start=2020-01-01", id="contradiction"),
        pytest.param("stats", "start=2021-01-01&end=2020-01-01", id="end before start"),
        pytest.param("summary", "compare=previous", id="nothing before all"),
        pytest.param("trends", "granularity=hour&start=2001-01-01&fill=true", id="too many"),
    ],
)
def test_what_is_not_understood_is_said_as_the_api_says_it(
    report: str, query: str, kind: str, shop: Shop
) -> None:
    status, body = shop.ask(f"{report}?{query}")

    done = command(report, *options_of(query), *shop.source(kind))

    assert (status, done.exit_code) == (400, 2)
    assert body["error"]["message"] in done.stderr
    assert done.stdout == ""


def test_breakdown_needs_to_know_by_what() -> None:
    assert command("breakdown").exit_code == 2


@each_source
@pytest.mark.parametrize(
    ("report", "rows"), [("stats", "stats"), ("visits", "visits"), ("user", "path")]
)
def test_cursor_leads_through_all_pages(report: str, rows: str, kind: str, shop: Shop) -> None:
    one = [shop.user] if report == "user" else []
    whole = json.loads(command(report, *one, "--json", *shop.source(kind)).stdout)[rows]

    pages, more = [], ["--limit", "1"]
    while more:
        done = command(report, *one, *more, "--json", *shop.source(kind))
        pages += json.loads(done.stdout)[rows]
        told = shlex.split(done.stderr.removeprefix("There is more: "))
        more = ["--limit", "1", *told] if told else []

    if report == "user":
        whole = [[step] for session in whole for step in reversed(session["steps"])]
        pages = [session["steps"] for session in pages]
    assert pages == whole


@pytest.fixture
def counted(db: Counted) -> Counted:
    db.ingest(
        [
            *(visit(BEGIN + n * SECOND, "a" * 32, status=200) for n in range(1234)),
            visit(BEGIN, "b" * 32, method="POST", endpoint="/cart", status=500, duration_us=1500),
        ]
    )
    return db


def test_tables_hold_the_figures(counted: Counted) -> None:
    ask = ["--start", "2024-10-01", "-d", counted.database]

    stats = command("stats", *ask, "--include", "status,latency").stdout
    summary = command("summary", *ask).stdout
    trends = command("trends", *ask).stdout
    breakdown = command("breakdown", "--by", "status", *ask).stdout
    user = command("user", "b" * 32, *ask).stdout

    assert re.search(r"GET +/ +1,234 +1 +0.0%", stats)
    assert re.search(r"POST +/cart +1 +1 +100.0% +1\.\d ms", stats)
    assert re.search(r"total hits +1,235\n", re.sub(" +\n", "\n", summary))
    assert re.search(r"2024-10-25 +1,235 +2 +2 +█+", trends)
    assert re.search(r"200 +1,234 +1 +█+", breakdown)
    assert re.search(r"2024-10-25 00:00:00 +POST +/cart +500", user)


@pytest.mark.parametrize(
    "question",
    [
        "stats",
        "visits --include path,error,host",
        "breakdown --by user_agent --start 2024-01-01",
        "breakdown --by path --start 2024-01-01",
        "breakdown --by referer --start 2024-01-01",
        f"user {'a' * 32}",
        "info",
        "check",
    ],
)
def test_nothing_of_a_visitor_obeys_or_decorates(question: str, db: Counted) -> None:
    texts = dict.fromkeys(["path", "user_agent", "referer", "error", "host"], HOSTILE)
    db.ingest([visit(BEGIN, "a" * 32, endpoint=HOSTILE, **texts)])

    piped = command(*question.split(), "-d", db.database).stdout

    assert [char for char in piped if not char.isprintable() and char != "\n"] == []
    assert "evil" not in piped or "[bold]x[/]" in piped


def test_line_of_a_visit_that_is_followed_is_one_line() -> None:
    hostile = dict.fromkeys("path endpoint ip_address method error user_agent".split(), HOSTILE)

    line = tables.line({"timestamp": BEGIN, "status": 200, "duration_us": 1, **hostile})

    assert line.isprintable()


def test_output_in_a_pipe_is_whole_and_plain(db: Counted) -> None:
    agent = "a long name " * 150
    db.ingest([visit(BEGIN, "a" * 32, user_agent=agent)])

    done = run("visits", "-d", db.database, environ={"COLUMNS": "40"})

    assert agent.strip() in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_terminal_gets_colours_and_no_wider_lines(counted: Counted) -> None:
    ask = ["trends", "--start", "2024-10-01", "-d", counted.database]

    coloured = on_terminal(*ask)
    plain = on_terminal(*ask, environ={"NO_COLOR": "1"})

    assert COLOUR.search(coloured)
    assert "█" in plain
    assert not COLOUR.search(plain)
    assert max(map(len, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", coloured).splitlines())) <= 80


def test_visit_takes_one_line_of_a_narrow_terminal(db: Counted) -> None:
    db.ingest([visit(BEGIN + n, "a" * 32, user_agent="a long name " * 50) for n in range(3)])

    lines = on_terminal("visits", "-d", db.database).splitlines()

    assert sum("2024-" in line for line in lines) == 3
    assert len(lines) < 10


@pytest.mark.parametrize(
    "question",
    ["visits --limit 1000", "visits --limit 1000 --json", "export", "export --format csv"],
)
def test_reader_that_has_read_enough_is_no_error(question: str, db: Counted) -> None:
    agent = "more than any pipe takes " * 100
    db.ingest([visit(BEGIN + n, "a" * 32, user_agent=agent) for n in range(2000)])
    process = subprocess.Popen(
        [*COMMAND, *question.split(), "-d", str(db.database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as output:
        output.readline()

    with process.stderr as errors:
        told = errors.read().decode()

    process.wait(PATIENCE_SECONDS)
    assert re.search("traceback|error|exception", told, re.IGNORECASE) is None


@each_source
@pytest.mark.parametrize("format", ["ndjson", "csv"])
def test_export_is_the_apis(format: str, kind: str, shop: Shop, tmp_path: Path) -> None:
    output = tmp_path / "visits"
    asked = ["--format", format, "--status", "-404", *shop.source(kind)]

    printed = command("export", *asked)
    written = command("export", "-o", output, *asked)

    assert printed.stdout_bytes == shop.export(f"format={format}&status=-404")
    assert output.read_bytes() == printed.stdout_bytes
    assert (written.stdout, output.stat().st_mode & 0o777) == ("", 0o600)


def test_parquet_holds_what_ndjson_does(counted: Counted, tmp_path: Path) -> None:
    try:
        from pyarrow import parquet
    except ImportError:
        require(None, "pyarrow")
    asked = ["export", "-d", counted.database]
    lines = [json.loads(line) for line in command(*asked).stdout.splitlines()]

    command(*asked, "--format", "parquet", "-o", tmp_path / "visits.parquet")

    rows = parquet.read_table(tmp_path / "visits.parquet").to_pylist()
    for row in rows:
        row["timestamp"] = round(row["timestamp"].timestamp() * SECOND)
    assert rows == lines
    assert len(rows) == 1235


def test_parquet_needs_a_file(counted: Counted) -> None:
    assert command("export", "--format", "parquet", "-d", counted.database).exit_code == 2


def test_export_overwrites_nothing(counted: Counted, tmp_path: Path) -> None:
    output = tmp_path / "visits.csv"
    output.write_text("mine")

    done = command("export", "-d", counted.database, "-o", output)

    assert "exists already" in done.stderr
    assert (done.exit_code, output.read_text()) == (1, "mine")
    assert not output.with_name("visits.csv.part").exists()


def no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")  # as vfat says it


def test_export_is_written_where_files_have_no_links(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", no_links)
    output = tmp_path / "visits.ndjson"

    first = command("export", "-d", counted.database, "-o", output)
    second = command("export", "-d", counted.database, "-o", output)

    assert (first.exit_code, first.stderr) == (0, "")
    assert len(output.read_text().splitlines()) == 1235
    assert (second.exit_code, "exists already" in second.stderr) == (1, True)
    assert output.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.glob("*.part")) == []


def test_export_to_a_dash_is_printed(counted: Counted) -> None:
    done = command("export", "-d", counted.database, "-o", "-")

    assert len(done.stdout.splitlines()) == 1235


def test_export_that_fails_half_way_leaves_nothing(counted: Counted, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    limited = f"ulimit -f 8; exec {shlex.join(COMMAND)} export -d {counted.database} -o {folder}/x"

    done = subprocess.run(
        ["/bin/bash", "-c", limited], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )

    assert "cannot be written: File too large" in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("order", ["time", "arrival"])
@pytest.mark.parametrize("format", ["ndjson", "csv"])
def test_export_goes_on_behind_a_cursor(format: str, order: str, counted: Counted) -> None:
    asked = ["export", "--format", format, "--order", order, "-d", counted.database]
    whole = command(*asked).stdout_bytes
    broken = whole[: len(whole) // 2].rpartition(b"\n")[0] + b"\n"
    last = broken.splitlines()[-1].decode()
    cursor = next(csv.reader([last]))[-1] if format == "csv" else json.loads(last)["cursor"]

    rest = command(*asked, "--cursor", cursor).stdout_bytes

    assert broken + rest == whole


def test_export_is_read_by_a_spreadsheet(counted: Counted) -> None:
    rows = list(
        csv.DictReader(
            io.StringIO(command("export", "--format", "csv", "-d", counted.database).stdout)
        )
    )

    assert (len(rows), rows[-1]["timestamp"]) == (1235, "2024-10-25T00:20:33.000000Z")
