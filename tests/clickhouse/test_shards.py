"""Users count once, on however many shards their visits are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database
from waiting import wait_until

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.storage import Batch, Storage
from wsgi_tracker.storage.address import read_address

BEGIN = 1_790_000_000_000_000
LAST_SHARD = re.compile("<shard>(?!.*<shard>).*</shard>")
VISITS = 300


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Sequence[Node]]:
    clickhouses.require_cluster()
    with clickhouses.cluster(tmp_path / "nodes") as nodes:
        yield nodes


@pytest.fixture
def url(nodes: Sequence[Node], tmp_path: Path) -> str:
    return new_database(nodes[0].port, tmp_path, clickhouses.CLUSTER)


@pytest.fixture
def storage(url: str) -> Iterator[Storage]:
    with closing(open_storage(url)) as storage:
        yield storage


def ingest(storage: Storage, first: int) -> None:
    """Take in visits of 50 users."""
    lines = [
        Visit(BEGIN + n, f"{n % 50:032x}", "GET", f"/{n % 7}").line()
        for n in range(first, first + VISITS)
    ]
    storage.ingest([], lambda _: Batch(b"".join(lines)), durable=True)


def on_shards(nodes: Sequence[Node], url: str) -> list[int]:
    """Return how many visits each shard has."""
    table = f"{read_address(url).database}.visits_of_shard"
    return [int(node.ask(f"SELECT count() FROM {table}")) for node in nodes[:2]]


def give_shards(nodes: Sequence[Node], configs: Sequence[str], count: int) -> None:
    """Change what servers know of their cluster, and wait until all do."""
    for node, config in zip(nodes, configs, strict=True):
        node.more = config
        node.write_config()
    shards = "SELECT max(shard_num) FROM system.clusters WHERE cluster = '{}'"
    for node in nodes:
        wait_until(lambda n=node: int(n.ask(shards.format(clickhouses.CLUSTER))) == count)  # type: ignore[misc]


def test_user_is_on_one_shard_and_visits_of_nobody_on_all(
    nodes: Sequence[Node], url: str, storage: Storage
) -> None:
    ingest(storage, 0)
    nobody = [Visit(BEGIN + n, None, "GET", "/nobody").line() for n in range(VISITS)]
    storage.ingest([], lambda _: Batch(b"".join(nobody)), durable=True)

    database = read_address(url).database
    shards = [
        node.ask(
            f"SELECT groupUniqArray(user_hash), countIf(isNull(user_hash)) "
            f"FROM {database}.visits_of_shard"
        ).split("\t")
        for node in nodes[:2]
    ]
    first, second = (set(re.findall("[0-9a-f]{32}", users)) for users, _ in shards)
    assert len(first) + len(second) == len(first | second) == 50
    assert all(int(count) > VISITS / 3 for _, count in shards)


def test_users_count_once_where_shards_were_added_meanwhile(
    nodes: Sequence[Node], url: str, storage: Storage
) -> None:
    two = [node.more for node in nodes]
    ingest(storage, 0)
    give_shards(nodes, [LAST_SHARD.sub("", config) for config in two], 1)
    ingest(storage, VISITS)
    give_shards(nodes, two, 2)
    ingest(storage, 2 * VISITS)

    first, second = on_shards(nodes, url)
    assert first > VISITS
    assert first + second == 3 * VISITS
    with storage.snapshot() as snapshot:
        assert snapshot.summary().total_unique_users == 50
        assert sum(row.hit_count for row in snapshot.stats()) == 3 * VISITS
        assert {row.unique_users for row in snapshot.stats()} == {50}
