from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database

from wsgi_tracker import open_storage
from wsgi_tracker.storage import Storage
from wsgi_tracker.storage.address import Address, read_address


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Run one server of 2018."""
    clickhouses.require_server()
    with clickhouses.one_server(tmp_path_factory.mktemp("server")) as node:
        yield node


@pytest.fixture(scope="session")
def engine_of_today(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    clickhouses.require_chdb()
    with clickhouses.engine_of_today(tmp_path_factory.mktemp("chdb")) as node:
        yield node


@pytest.fixture(params=["server", "engine_of_today"])
def node(request: pytest.FixtureRequest) -> Node:
    """Return a server of 2018, then the engine of today."""
    node: Node = request.getfixturevalue(request.param)
    return node


@pytest.fixture
def address(node: Node, tmp_path: Path) -> Address:
    return read_address(new_database(node.port, tmp_path))


@pytest.fixture
def storage(address: Address) -> Iterator[Storage]:
    with closing(open_storage(address)) as storage:
        yield storage
