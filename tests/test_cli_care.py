"""Commands that look after a database: copies, deletions, repairs, and whether all is well."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from commands import COMMAND, PATIENCE_SECONDS, command, run
from counting import look
from hosts import Host, many
from nobody import run as run_as_nobody
from servers import get, gunicorn, report

from wsgi_tracker import Visit
from wsgi_tracker.agents import data_version
from wsgi_tracker.auth import Auth
from wsgi_tracker.period import DAY

pytestmark = pytest.mark.once

APP = """
from wsgi_tracker import Tracker

def hello(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

app = Tracker(hello, "visits.db")
"""
A, B = "a" * 32, "b" * 32


def days_ago(days: int, user: str = A, endpoint: str = "/boxes", **more: Any) -> bytes:
    now = time.time_ns() // 1000
    return Visit(now - days * DAY, user, "GET", endpoint, **more).line()


@pytest.fixture
def kept(host: Host) -> Host:
    """Return a host whose visits are counted, and one of which waits in the spool."""
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    host.segment(
        days_ago(100, endpoint="/old", user_agent=agent) + days_ago(10, B) + days_ago(1, A)
    )
    host.ingest()
    while host.storage.count(enough=1):
        pass
    host.segment(days_ago(0, A, "/waits"))
    return host


def sql(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def endpoints(host: Host) -> set[str]:
    return {row.endpoint for row in look(host.storage).stats()}


def test_purge_deletes_what_is_older(kept: Host) -> None:
    done = command("purge", "--older-than", "30d", "-d", kept.database)

    assert (done.exit_code, done.stderr) == (0, "")
    assert endpoints(kept) == {"/boxes", "/waits"}


def test_purge_deletes_what_waits_in_the_spool(host: Host) -> None:
    """It said that they were deleted, and the next report had them again."""
    host.segment(days_ago(100) + days_ago(1, endpoint="/new"))

    command("purge", "--older-than", "12w", "-d", host.database)

    assert endpoints(host) == {"/new"}


@pytest.mark.parametrize(
    "age", ["", "0d", "-1d", "90", "90 d", "5m", "1.5d", "1e3d", "٣d", "100y", "999999y"]
)
def test_age_that_is_none_is_not_understood(age: str, kept: Host) -> None:
    done = command("purge", "--older-than", age, "-d", kept.database)

    assert "an age is hours, days, weeks or years" in done.stderr
    assert done.exit_code == 2
    assert endpoints(kept) == {"/boxes", "/old"}


def test_forget_deletes_one_visitor_everywhere(kept: Host) -> None:
    done = command("forget", A, "-d", kept.database)

    assert (done.exit_code, done.stdout) == (0, "3 visits are deleted\n")
    assert kept.hits() == 1
    files = [path for path in kept.database.parent.rglob("*") if path.is_file()]
    assert [path.name for path in files if A.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("user_hash", ["", "x", A[:31], "A" * 32, f"{A}a"])
def test_forget_wants_a_whole_user_hash(user_hash: str, kept: Host) -> None:
    done = command("forget", user_hash, "-d", kept.database)

    assert "a user_hash has 32 hexadecimal digits" in done.stderr
    assert done.exit_code == 2


def test_time_zone_that_there_is_not_is_a_usage_error(kept: Host) -> None:
    done = command("configure", "--timezone", "Mars", "-d", kept.database)

    assert "'--timezone': timezone is a name such as" in done.stderr
    assert done.exit_code == 2


def test_rebuild_mends_counters(kept: Host) -> None:
    sql(kept.database, "UPDATE totals SET hits = hits + 5")

    done = command("rebuild", "-d", kept.database)

    assert done.exit_code == 0
    assert command("check", "-d", kept.database).exit_code == 0


def test_reclassify_says_by_what(kept: Host) -> None:
    sql(kept.database, "UPDATE user_agents SET class = 'unknown', browser = NULL")

    done = command("reclassify", "-d", kept.database)
    found = json.loads(
        command(
            "breakdown", "--by", "class", "--period", "all", "--json", "-d", kept.database
        ).stdout
    )

    assert data_version() in done.stdout
    assert "human" in {row["value"] for row in found["breakdown"]}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["purge", "--older-than", "30d"], {"before"}),
        (["forget", B], {"user_hash", "visits"}),
        (["rebuild"], {"visits"}),
        (["reclassify"], {"agents"}),
        (["configure", "--timezone", "Asia/Tokyo"], {"changed"}),
        (["backup", "{folder}/copy.db"], {"file", "bytes"}),
        (["check"], {"ok", "problems", "warnings"}),
        (["info"], {"database", "total_hits", "schema", "identity", "timezone"}),
    ],
)
def test_json_tells_scripts_what_was_done(
    arguments: list[str], told: set[str], kept: Host, tmp_path: Path
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]

    done = command(*given, "--json", "-d", kept.database)

    assert told <= json.loads(done.stdout).keys()
    assert (done.exit_code, done.stderr) == (0, "")


def test_configure_changes_the_time_zone(kept: Host) -> None:
    command("configure", "--timezone", "Asia/Tokyo", "-d", kept.database)

    assert str(look(kept.storage).timezone()) == "Asia/Tokyo"
    assert command("check", "-d", kept.database).exit_code == 0


def test_backup_holds_what_was_answered_before(kept: Host, tmp_path: Path) -> None:
    copy = tmp_path / "copies" / "copy.db"
    copy.parent.mkdir()

    done = command("backup", copy, "-d", kept.database)

    assert (done.exit_code, done.stderr) == (0, "")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in copy.parent.iterdir()] == ["copy.db"]
    summary = json.loads(command("summary", "--json", "-d", copy).stdout)
    assert summary["total_hits"] == kept.hits() == 4


def test_backup_while_an_application_writes_counts_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    restored = tmp_path / "restored" / "visits.db"
    with gunicorn("shop:app", folder=tmp_path, python_path=[tmp_path]) as server:
        with subprocess.Popen(
            [*COMMAND, "backup", "copy.db"], cwd=tmp_path, stdout=subprocess.PIPE
        ) as backup:
            sent = 0
            while backup.poll() is None:
                get(server.port, f"/{sent}")
                sent += 1
        spool = shutil.copytree(tmp_path / "visits.db-spool", tmp_path / "restored/visits.db-spool")
        hits = report(server.port, "summary")["total_hits"]
    shutil.copy(tmp_path / "copy.db", restored)

    found = json.loads(command("stats", "--json", "-d", restored).stdout)["stats"]

    assert (backup.returncode, hits, spool.is_dir()) == (0, sent, True)
    assert {row["hit_count"] for row in found} <= {1}
    assert command("check", "-d", restored).exit_code == 0


@pytest.mark.parametrize(
    ("target", "told"),
    [
        pytest.param("visits.db", "exists already", id="itself"),
        pytest.param("mine.db", "exists already", id="another file"),
        pytest.param("missing/copy.db", "No such file or directory", id="no folder"),
    ],
)
def test_backup_overwrites_nothing(target: str, told: str, kept: Host, tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_text("mine")

    done = command("backup", tmp_path / target, "-d", kept.database)

    assert told in done.stderr
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert (tmp_path / "mine.db").read_text() == "mine"
    assert kept.hits() == 4


def test_backup_that_fails_leaves_nothing(kept: Host, tmp_path: Path) -> None:
    kept.ingest()
    kept.storage.close()
    folder = tmp_path / "copies"
    folder.mkdir()
    limited = f"ulimit -f 64; exec {shlex.join(COMMAND)} backup {folder}/copy.db -d {kept.database}"

    done = subprocess.run(
        ["/bin/bash", "-c", limited], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )

    assert f"a backup cannot be written to {folder}/copy.db" in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert list(folder.iterdir()) == []


ASKED_BY_NOBODY = """
import json, os, sys, tempfile
from pathlib import Path
from nobody import NOBODY, become_nobody
from commands import command

database, spool = Path(sys.argv[1]), Path(sys.argv[1] + "-spool")
names = ["stats", "visits --json", "export", "backup {copy}", "purge --older-than 1y", "ingest --once"]
command("stats", "-d", database)  # nobody may not reach what is imported late
segment = spool / f"{1:032x}.ndjson"
segment.write_bytes(sys.argv[1].encode() * 3)
segment.chmod(0)
for path in (database.parent, database, spool):
    os.chown(path, NOBODY, NOBODY)
become_nobody()
copy = database.with_name("copy.db")
for name in names:
    done = command(*name.format(copy=copy).split(), "-d", database)
    print(json.dumps([done.exit_code, done.stderr]))
print(json.dumps(copy.exists()))
"""


def test_what_waits_and_cannot_be_read_is_told() -> None:
    """The API says it in a header; a backup would lack it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to nobody
        host = Host(Path(folder))
        host.storage.close()

        *answers, is_copied = map(json.loads, run_as_nobody(ASKED_BY_NOBODY, host.database))

    assert [code for code, _ in answers] == [0, 0, 0, 1, 1, 1]
    assert {"bytes of visits wait in the spool" in told for _, told in answers} == {True}
    assert not is_copied


def test_check_of_a_good_database_is_0(kept: Host) -> None:
    done = command("check", "-d", kept.database)

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("spool and database: ok\nintegrity: ok\ncounters: ok\n")


def without_triggers(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'visits'"
        ).fetchall()
        assert triggers
        connection.execute("BEGIN")
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        for _, text in triggers:
            connection.execute(text)
        connection.execute("COMMIT")


def counter_changed(host: Host) -> None:
    sql(host.database, "UPDATE totals SET hits = hits + 1 WHERE hits > 0")


def outcome_changed(host: Host) -> None:
    sql(host.database, "UPDATE outcomes SET bytes = bytes + 1")


def counter_deleted(host: Host) -> None:
    sql(host.database, "DELETE FROM latest")


def visit_deleted(host: Host) -> None:
    without_triggers(host.database, "DELETE FROM visits WHERE id = (SELECT min(id) FROM visits)")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (counter_changed, "is counted, and not in the visits"),
        (outcome_changed, "is counted, and not in the visits"),
        (counter_deleted, "is in the visits, and not counted"),
        (visit_deleted, "is counted, and not in the visits"),
    ],
)
def test_check_names_the_difference(damage: Callable[[Host], None], told: str, kept: Host) -> None:
    damage(kept)

    done = command("check", "--json", "-d", kept.database)

    answer = json.loads(done.stdout)
    assert told in answer["problems"]["counters"][0]
    assert (done.exit_code, answer["ok"]) == (1, False)


def test_check_of_a_changed_visit_names_the_difference(kept: Host) -> None:
    without_triggers(kept.database, "UPDATE visits SET timestamp = timestamp - 86400000000")

    done = command("check", "-d", kept.database)

    assert "counters: " in done.stdout
    assert "counters: ok" not in done.stdout
    assert done.exit_code == 1


@pytest.mark.parametrize("page", [2, 9, -1], ids=["second", "ninth", "last"])
def test_check_finds_a_damaged_page(page: int, host: Host) -> None:
    host.segment(many(3000))
    host.ingest()
    while host.storage.count(enough=1):
        pass
    host.storage.close()
    sql(host.database, "PRAGMA wal_checkpoint(TRUNCATE)")
    size = host.database.stat().st_size
    with host.database.open("r+b") as file:
        file.seek((page - 1) * 4096 if page > 0 else size - 4096)
        file.write(b"\xa5" * 4096)

    done = command("check", "-d", host.database)

    assert done.exit_code == 1
    assert "damaged" in done.stdout + done.stderr or "malformed" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_check_says_that_the_spool_cannot_be_used(kept: Host) -> None:
    kept.ingest()
    shutil.rmtree(kept.folder)
    kept.folder.write_text("a file in the place of a folder")

    done = command("check", "-d", kept.database)

    assert f"the spool {kept.folder} cannot be used: " in done.stderr
    assert done.exit_code == 1


CHECKED_BY_NOBODY = """
import os, sys
from nobody import NOBODY, become_nobody
from commands import command

command("check", "-d", sys.argv[1])  # nobody may not reach what is imported late
os.chown(sys.argv[1], NOBODY, NOBODY)
become_nobody()
done = command("check", "-d", sys.argv[1])
print(done.exit_code)
print(done.stdout + done.stderr)
"""


def test_check_says_that_the_spool_cannot_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's are closed to nobody
        host = Host(Path(folder))
        host.storage.close()
        Path(folder).chmod(0o777)

        code, first, *_ = run_as_nobody(CHECKED_BY_NOBODY, host.database)

    assert code == "1"
    assert "Permission denied" in first
    assert str(host.folder) in first


def test_check_warns_of_what_others_can_read(kept: Host) -> None:
    os.chmod(kept.database, 0o644)

    done = command("check", "-d", kept.database)

    assert "warning: other users of this host can read the database" in done.stdout
    assert done.exit_code == 0


def test_info_shows_what_a_database_is(kept: Host) -> None:
    shown = command("info", "-d", kept.database).stdout

    for name in ("total hits", "oldest visit", "timezone", "retention days", "schema"):
        assert f"\n{name} " in shown
    assert str(kept.database) in shown


def test_token_alone_is_on_standard_output() -> None:
    done = run("token")

    (token,) = done.stdout.splitlines()
    Auth(token)
    assert len(token) >= 43
    assert f"export WSGI_TRACKER_TOKEN={token}" in done.stderr
    assert token != run("token").stdout.strip()


def test_progress_is_for_terminals(kept: Host) -> None:
    done = run("rebuild", "-d", kept.database)

    assert (done.stdout, done.stderr) == ("all 3 visits are counted anew\n", "")
