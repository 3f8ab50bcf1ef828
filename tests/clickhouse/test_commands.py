"""Commands ask a database of ClickHouse from any host, and leave nothing there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import engines
import pytest
from clickhouses import Node
from commands import command
from engines import new_database
from logs_written import LINE

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.storage import Batch
from wsgi_tracker.storage.address import read_address

USER = "a" * 32
VISIT = Visit(1_790_000_000_000_000, USER, "GET", "/boxes")


@pytest.fixture
def elsewhere(server: Node, tmp_path: Path) -> str:
    """Return a database with a visit, as a host names it that records nothing."""
    url = new_database(server.port, tmp_path)
    with closing(open_storage(url)) as storage:
        storage.ingest([], lambda _: Batch(VISIT.line()), durable=True)
    plain, _, _ = url.partition("?")
    return f"{plain}?{urlencode({'spool': tmp_path / 'none'})}"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["summary"], "total unique users  1"),
        (["stats"], "/boxes"),
        (["user", USER], "/boxes"),
        (["info"], "last ingest         -"),
        (["check"], "integrity: ok"),
        (["export"], '"endpoint":"/boxes"'),
        (["purge", "--older-than", "1h"], "are deleted"),
        (["forget", USER], "1 visits are deleted"),
        (["reclassify"], "all user agents are classified"),
        (["configure", "--identity", "daily"], "changed"),
    ],
)
def test_host_that_records_nothing_asks_and_keeps_nothing(
    given: list[str], told: str, elsewhere: str, tmp_path: Path
) -> None:
    done = command(*given, "-d", elsewhere)

    assert (done.exit_code, done.stderr) == (0, "")
    assert told in done.stdout
    assert not (tmp_path / "none").exists()


def test_wrong_name_makes_no_database(server: Node, tmp_path: Path) -> None:
    url = engines.url(server.port, tmp_path / "none", name="mistaken")

    refused = command("summary", "-d", url)

    assert refused.exit_code != 0
    assert f"there is no database {read_address(url)}" in refused.stderr
    assert "mistaken" not in server.ask("SHOW DATABASES")


def test_backup_is_left_to_the_server(elsewhere: str, tmp_path: Path) -> None:
    refused = command("backup", str(tmp_path / "copy"), "-d", elsewhere)

    assert refused.exit_code == 1
    assert "its own tools" in refused.stderr
    assert json.loads(command("summary", "-d", elsewhere, "--json").stdout)["total_hits"] == 1


def test_import_without_a_secret_leaves_nothing(server: Node, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(LINE)
    url = new_database(server.port, tmp_path)

    refused = command("import", log, "-d", url)
    done = command("import", log, "-d", url, "--secret", engines.SECRET)

    assert refused.exit_code == 1
    assert "--secret" in refused.stderr
    assert (done.exit_code, done.stdout) == (0, "1 visits imported\n"), done.stderr


def test_cluster_that_a_database_is_not_of_is_told(elsewhere: str) -> None:
    refused = command("summary", "-d", f"{elsewhere}&cluster=main")

    assert refused.exit_code == 1
    assert "was made for one server" in refused.stderr
