"""Visits go while a replica is away, and nobody who ingests waits until they are gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database
from waiting import wait_until

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.errors import StorageError
from wsgi_tracker.period import DAY, HOUR
from wsgi_tracker.storage import Batch, Storage
from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse import deletion

BEGIN = 1_790_000_000_000_000  # in the middle of a month
MONTH = 31 * DAY


def ingest(storage: Storage) -> None:
    """Take in 40 visits of two months, by four users."""
    came = b"".join(
        Visit(BEGIN + n % 2 * MONTH + n, f"{n % 4:032x}", "GET", f"/{n}").line() for n in range(40)
    )
    storage.ingest([], lambda _: Batch(came), durable=True)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Sequence[Node]]:
    clickhouses.require_cluster()
    with clickhouses.cluster(tmp_path / "nodes") as nodes:
        yield nodes


def test_visits_are_deleted_while_a_replica_is_down(nodes: Sequence[Node], tmp_path: Path) -> None:
    url = new_database(nodes[0].port, tmp_path, clickhouses.CLUSTER)
    table = f"{read_address(url).database}.visits_of_shard"

    def on(number: int) -> int:
        return int(nodes[number].ask(f"SELECT count() FROM {table}"))

    with closing(open_storage(url)) as storage:
        ingest(storage)
        nodes[2].ask(f"SYSTEM SYNC REPLICA {table}")
        nodes[2].kill()

        assert storage.forget(f"{3:032x}") == 10
        for _ in storage.purge(BEGIN + MONTH - DAY):
            pass

        assert on(0) + on(1) == 10
        with storage.snapshot() as snapshot:
            assert snapshot.summary().total_hits == 10
    nodes[2].start()
    wait_until(lambda: on(2) == on(0))


def test_purge_within_a_month_waits_for_no_server(server: Node, tmp_path: Path) -> None:
    url = new_database(server.port, tmp_path)
    database = read_address(url).database
    table = f"{database}.visits"
    with closing(open_storage(url)) as storage:
        ingest(storage)
        storage.set_retention(1)
        server.ask(f"SYSTEM STOP MERGES {table}")

        assert storage.begin_purge(BEGIN + 2 * DAY, None)
        for _ in storage.purge():
            pass

        with storage.snapshot() as snapshot:
            assert snapshot.summary().total_hits == 20
    assert int(server.ask(f"SELECT count() FROM {table}")) == 40
    begun = f"SELECT is_done FROM system.mutations WHERE database = '{database}'"
    assert server.ask(begun) == "0\n"


def test_purge_within_a_month_tells_of_one_that_does_not_end_and_begins_no_other(
    server: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(server.port, tmp_path)
    database = read_address(url).database
    with closing(open_storage(url)) as storage:
        ingest(storage)
        storage.set_retention(1)
        server.ask(f"SYSTEM STOP MERGES {database}.visits")
        for hour in range(3):
            assert storage.begin_purge(BEGIN + 2 * DAY + hour * HOUR, None)
            for _ in storage.purge():
                pass
        monkeypatch.setattr(deletion, "LONGEST_HOURS", -1)

        with pytest.raises(StorageError, match="has been deleting for 0 hours"):
            for _ in storage.purge():
                pass

    begun = f"SELECT count() FROM system.mutations WHERE database = '{database}'"
    assert server.ask(begun) == "1\n"
