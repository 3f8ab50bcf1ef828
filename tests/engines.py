"""The database that tests of every storage use: SQLite, or what ``--engine`` names.

``clickhouse`` is one server, ``chdb`` today's engine, ``cluster`` two shards with a replica, ``given`` the
database of a server that runs already, by its URL in WSGI_TRACKER_TEST_CLICKHOUSE_URL: it is emptied.
All examples of a run share one database there, emptied for each: to make tables takes longer than most
questions.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlencode

import clickhouses
from clickhouses import CLUSTER, PASSWORD, USER, Node
from needs import require

from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse.client import Client
from wsgi_tracker.storage.clickhouse.schema import Schema

ENGINES = ("sqlite", "clickhouse", "chdb", "cluster", "given")
GIVEN = "WSGI_TRACKER_TEST_CLICKHOUSE_URL"
SECRET = "a secret of all hosts, for tests"
SHARED = ("settings", "user_agents")
_chosen = ["sqlite"]
_nodes: list[Node] = []
_cluster: list[str] = []
_given: list[str] = []
_numbers = itertools.count()


def examples(count: int) -> int:
    """Return how many examples a test is to try: fewer on a cluster, where each takes long."""
    return count // 3 if _chosen[-1] == "cluster" else count


def database(folder: Path) -> str | Path:
    """Return an empty database; its spool is that of ``visits.db`` in this folder."""
    spool = folder / "visits.db-spool"
    if _nodes:
        _empty(_nodes)
        return url(_nodes[0].port, spool, *_cluster)
    if _given:
        _empty_given(_given[0])
        return f"{_given[0]}{'&' if '?' in _given[0] else '?'}{urlencode({'spool': spool})}"
    return folder / "visits.db"


def url(port: int, spool: Path, cluster: str = "", name: str = "contract") -> str:
    """Return what names a database of a server, and the host's spool."""
    options = {"spool": str(spool), **({"cluster": cluster} if cluster else {})}
    user = f"{USER}:{quote(PASSWORD)}"
    return f"clickhouse://{user}@127.0.0.1:{port}/{name}?{urlencode(options)}"


def new_database(port: int, folder: Path, cluster: str = "") -> str:
    """Return a database of a server that is not there yet; make the spool of ``visits.db``."""
    spool = folder / "visits.db-spool"
    spool.mkdir(mode=0o700)
    return url(port, spool, cluster, f"test_{next(_numbers)}")


def choose(engine: str) -> None:
    """Say which engine there will be."""
    _chosen.append(engine)


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """Run the chosen engine for all tests of this process."""
    engine = _chosen[-1]
    if engine == "sqlite":
        yield
        return
    if engine == "given":
        require(
            os.environ.get(GIVEN, "").partition("?")[0].endswith("_test"),
            f"{GIVEN}, of .../..._test",
        )
        _given[:] = [os.environ[GIVEN]]
        yield
        _given.clear()
        return
    with _nodes_of(engine, folder) as nodes:
        _nodes[:] = nodes
        _cluster[:] = [CLUSTER] if len(nodes) > 1 else []
        yield
    _nodes.clear()
    _cluster.clear()


@contextmanager
def _nodes_of(engine: str, folder: Path) -> Iterator[Sequence[Node]]:
    if engine == "cluster":
        clickhouses.require_cluster()
        with clickhouses.cluster(folder) as nodes:
            yield nodes
    elif engine == "chdb":
        clickhouses.require_chdb()
        with clickhouses.engine_of_today(folder) as node:
            yield [node]
    else:
        clickhouses.require_server()
        with clickhouses.one_server(folder) as node:
            yield [node]


def _empty(nodes: Sequence[Node]) -> None:
    own = "visits_of_shard" if len(nodes) > 1 else "visits"
    for node in nodes:
        for table in (own, *SHARED):
            node.ask(f"TRUNCATE TABLE IF EXISTS contract.{table}")


def _empty_given(url: str) -> None:
    client = Client(read_address(url), query_timeout_seconds=60)
    schema = Schema(client)
    schema.prepare()
    for table in (schema.own_visits, *SHARED):
        client.run(f"TRUNCATE TABLE {schema.name(table)}{schema.everywhere}")
    client.close()
