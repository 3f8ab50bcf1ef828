"""Tables are made once, and a database is of one server or of one cluster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database

from wsgi_tracker import open_storage
from wsgi_tracker.storage import StorageFacts
from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse.client import Client


def facts(url: str) -> StorageFacts:
    with closing(open_storage(url)) as storage:
        return storage.facts([])


def test_tables_that_are_there_stay(node: Node, tmp_path: Path) -> None:
    url = new_database(node.port, tmp_path)
    database = read_address(url).database
    facts(url)
    node.ask(f"INSERT INTO {database}.settings (name, value) VALUES ('retention_days', '9')")

    assert facts(url).retention_days == 9


def test_database_of_a_cluster_is_no_other(tmp_path: Path) -> None:
    clickhouses.require_cluster()
    with clickhouses.cluster(tmp_path / "nodes") as nodes:
        first, *_ = nodes
        ofone = new_database(first.port, tmp_path)
        facts(ofone)
        problem = facts(f"{ofone}&cluster={clickhouses.CLUSTER}").problem
        assert "was made for one server, without" in problem
        (tmp_path / "other").mkdir()
        ofall = new_database(first.port, tmp_path / "other", clickhouses.CLUSTER)
        facts(ofall)
        problem = facts(ofall.replace(f"&cluster={clickhouses.CLUSTER}", "")).problem
        assert f"was made for ?cluster={clickhouses.CLUSTER}" in problem
        assert_equal_everywhere(nodes, read_address(ofall).database)


def test_database_is_not_made_while_a_server_of_its_cluster_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clickhouses.require_cluster()
    monkeypatch.setitem(Client.run.__kwdefaults__ or {}, "told_within", 1)
    with clickhouses.cluster(tmp_path / "nodes") as nodes:
        url = new_database(nodes[0].port, tmp_path, clickhouses.CLUSTER)
        nodes[2].kill()
        assert "1 unfinished hosts" in facts(url).problem


def assert_equal_everywhere(nodes: Sequence[Node], database: str) -> None:
    tables = "SELECT name, engine FROM system.tables WHERE database = '{}' ORDER BY name"
    found = {node.ask(tables.format(database)) for node in nodes}
    assert len(found) == 1
    assert "visits_of_shard\tReplicatedMergeTree" in found.pop()
