"""History moves to ClickHouse, whoever is stopped meanwhile, and nothing of it twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import clickhouses
import engines
import pytest
from clickhouses import Node
from commands import Running, command
from counting import BEGIN, Counted, visit
from needs import require

from wsgi_tracker.period import HOUR

pytestmark = pytest.mark.clickhouse
VISITS, KNOWN = 30_000, 24_000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    require(Path(clickhouses.SERVER).exists(), "clickhouse-server")
    with clickhouses.one_server(tmp_path / "node") as node:
        yield node


@pytest.fixture
def target(node: Node, tmp_path: Path) -> str:
    return engines.url(node, tmp_path / "elsewhere", name="moved")


def stored(node: Node) -> list[int]:
    return [
        int(each)
        for each in node.ask(
            "SELECT count(), uniqExact(timestamp), sum(isNotNull(user_hash)) FROM moved.visits"
        ).split()
    ]


def fill(db: Counted, first: int, count: int) -> None:
    db.ingest(
        visit(BEGIN + n * HOUR // 100, f"{n % 700:032x}" if n % 5 else None, endpoint=f"/{n % 50}")
        for n in range(first, first + count)
    )


def test_visits_are_moved_once_and_what_came_since_by_the_next_run(
    db: Counted, node: Node, target: str
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
    assert stored(node) == [VISITS + 10, VISITS + 10, KNOWN + 8]


def test_who_is_killed_goes_on_where_it_ended(db: Counted, node: Node, target: str) -> None:
    fill(db, 0, VISITS)
    for _ in range(3):
        with Running("migrate", db.database, target) as running:
            while running.process.poll() is None and not _has_more(node):
                pass
            running.stop(signal.SIGKILL)

    done = command("migrate", db.database, target, "--json")

    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["days_with_less"] == 0
    assert stored(node) == [VISITS, VISITS, KNOWN]


def _has_more(node: Node, known: list[int] = [0]) -> bool:  # noqa: B006 - it remembers
    """Return whether visits came since this was asked last."""
    try:
        count = stored(node)[0]
    except OSError:  # there is no table yet
        return False
    more, known[0] = count > known[0], count
    return more


def test_days_that_hold_less_are_told(db: Counted, node: Node, target: str) -> None:
    fill(db, 0, 100)
    assert command("migrate", db.database, target).exit_code == 0
    node.ask("ALTER TABLE moved.visits DELETE WHERE endpoint = '/7' AND row < 10")
    while stored(node)[0] == 100:
        pass

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
