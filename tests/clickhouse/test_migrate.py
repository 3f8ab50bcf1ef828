"""History moves to ClickHouse, whoever is stopped meanwhile, and nothing of it twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from clickhouses import Node
from commands import Running, command
from counting import BEGIN, Counted, visit
from engines import new_database
from waiting import wait_until

from wsgi_tracker import open_storage
from wsgi_tracker.hostlock import HostLock
from wsgi_tracker.period import HOUR
from wsgi_tracker.secret import secret_mark
from wsgi_tracker.storage.address import read_address

VISITS, KNOWN = 30_000, 24_000


@pytest.fixture
def target(server: Node, tmp_path: Path) -> str:
    return new_database(server.port, tmp_path)


@pytest.fixture
def moved(server: Node, target: str) -> Callable[[], list[int]]:
    """Count the visits, different times, and visits of users."""

    def count() -> list[int]:
        found = server.ask(
            "SELECT count(), uniqExact(timestamp), sum(isNotNull(user_hash)) "
            f"FROM {read_address(target).database}.visits"
        )
        return [int(each) for each in found.split()]

    return count


def fill(db: Counted, first: int, count: int) -> None:
    db.ingest(
        visit(BEGIN + n * HOUR // 100, f"{n % 700:032x}" if n % 5 else None, endpoint=f"/{n % 50}")
        for n in range(first, first + count)
    )


def test_visits_are_moved_once_and_what_came_since_by_the_next_run(
    db: Counted, target: str, moved: Callable[[], list[int]]
) -> None:
    fill(db, 0, VISITS)

    first = command("migrate", db.database, target)
    again = command("migrate", db.database, target, "--json")
    fill(db, VISITS, 10)
    rest = command("migrate", db.database, target, "--json")

    assert first.exit_code == 0, first.stderr
    assert first.stdout == "30,000 visits migrated; 13 days hold the same in both\n"
    assert json.loads(again.stdout)["visits"] == 0
    assert json.loads(rest.stdout) == {
        "visits": 10,
        "days_equal": 13,
        "days_with_more": 0,
        "days_with_less": 0,
    }
    assert moved() == [VISITS + 10, VISITS + 10, KNOWN + 8]


def test_who_is_killed_goes_on_where_it_ended(
    db: Counted, target: str, moved: Callable[[], list[int]]
) -> None:
    fill(db, 0, VISITS)
    known = [0]

    def has_more() -> bool:
        try:
            known.append(moved()[0])
        except OSError:  # there is no table yet
            return False
        return known[-1] > known[-2]

    for _ in range(3):
        with Running("migrate", db.database, target) as running:
            wait_until(lambda r=running: r.process.poll() is not None or has_more())  # type: ignore[misc]
            running.stop(signal.SIGKILL)

    done = command("migrate", db.database, target, "--json")

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["days_with_less"] == 0
    assert moved() == [VISITS, VISITS, KNOWN]


def test_days_that_hold_less_are_told(
    db: Counted, server: Node, target: str, moved: Callable[[], list[int]]
) -> None:
    fill(db, 0, 100)
    assert command("migrate", db.database, target).exit_code == 0
    database = read_address(target).database
    server.ask(f"ALTER TABLE {database}.visits DELETE WHERE endpoint = '/7' AND row < 10")
    wait_until(lambda: moved()[0] < 100)

    done = command("migrate", db.database, target)

    assert done.exit_code == 1
    assert "some days hold less" in done.stderr


@pytest.mark.parametrize("swap", [True, False])
def test_direction_is_from_sqlite_to_clickhouse(swap: bool, db: Counted, target: str) -> None:
    with closing(db.storage):
        ends = (target, db.database) if swap else (db.database, db.database)
    refused = command("migrate", *ends)

    assert refused.exit_code == 2
    assert "SOURCE is a path, and TARGET a clickhouse://" in refused.stderr


def test_visits_that_were_moved_are_not_moved_by_another_name(
    db: Counted, target: str, moved: Callable[[], list[int]]
) -> None:
    fill(db, 0, 100)
    assert command("migrate", db.database, target).exit_code == 0

    refused = command("migrate", db.database, target.replace("127.0.0.1", "localhost"))

    assert refused.exit_code == 1
    assert "were taken there before" in refused.stderr
    assert moved()[:2] == [100, 100]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("timezone", "Asia/Tokyo", "Europe/Berlin"), ("secret_mark", "1234", "5678")],
)
def test_database_that_counts_others_is_refused(
    name: str, old: str, new: str, db: Counted, target: str, moved: Callable[[], list[int]]
) -> None:
    fill(db, 0, 100)
    db.storage.configure({name: old})
    with closing(open_storage(target)) as storage:
        storage.declare({name: new})

    refused = command("migrate", db.database, target)

    assert refused.exit_code == 1
    assert f"has {name}={new!r}, the old one {old!r}" in refused.stderr
    assert moved()[0] == 0


def test_secret_that_nobody_gave_does_not_go_along(
    db: Counted, target: str, moved: Callable[[], list[int]]
) -> None:
    fill(db, 0, 100)
    db.storage.configure({"secret_mark": secret_mark(None)})
    with closing(open_storage(target)) as storage:
        storage.declare({"secret_mark": "1234"})

    done = command("migrate", db.database, target)

    assert done.exit_code == 0, done.stderr
    assert moved()[0] == 100


def test_only_one_moves_the_same(db: Counted, target: str) -> None:
    fill(db, 0, 10)
    assert command("migrate", db.database, target).exit_code == 0
    (spool,) = db.database.with_name("visits.db-spool").glob("migration-*")
    with HostLock.of(spool).held() as ours:
        assert ours
        refused = command("migrate", db.database, target)

    assert refused.exit_code == 1
    assert "another command" in refused.stderr
