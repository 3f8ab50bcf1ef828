"""The database that tests of every storage use: SQLite, or what ``--engine`` names.

``clickhouse`` is one server, ``chdb`` today's engine, ``cluster`` two shards with a replica. All examples of a run share one
database there, emptied for each: to make tables takes longer than most questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

import clickhouses
from clickhouses import CLUSTER, PASSWORD, USER, Node
from needs import require

ENGINES = ("sqlite", "clickhouse", "chdb", "cluster")
SECRET = "a secret of all hosts, for tests"
SHARED = ("settings", "user_agents")
_nodes: list[Node] = []
_cluster: list[str] = []


def database(folder: Path) -> str | Path:
    """Return an empty database; its spool is that of ``visits.db`` in this folder."""
    if not _nodes:
        return folder / "visits.db"
    _empty(_nodes)
    return url(_nodes[0], folder / "visits.db-spool", *_cluster)


def url(node: Node, spool: Path, cluster: str = "", name: str = "contract") -> str:
    """Return what names a database of a server, and the host's spool."""
    options = {"spool": str(spool), **({"cluster": cluster} if cluster else {})}
    user = f"{USER}:{quote(PASSWORD)}"
    return f"clickhouse://{user}@127.0.0.1:{node.port}/{name}?{urlencode(options)}"


@contextmanager
def running(engine: str, folder: Path) -> Iterator[None]:
    """Run an engine for all tests of this process."""
    if engine == "sqlite":
        yield
        return
    if engine == "chdb":
        require(find_spec("chdb"), "chdb")
        with clickhouses.engine_of_today(folder) as node:
            _nodes[:] = [node]
            yield
        _nodes.clear()
        return
    require(Path(clickhouses.SERVER).exists(), "clickhouse-server")
    if engine == "cluster":
        require(clickhouses.ZOOKEEPER.exists(), "zookeeper")
        with clickhouses.cluster(folder) as nodes:
            _nodes[:], _cluster[:] = nodes, [CLUSTER]
            yield
    else:
        with clickhouses.one_server(folder) as node:
            _nodes[:] = [node]
            yield
    _nodes.clear()
    _cluster.clear()


def _empty(nodes: Sequence[Node]) -> None:
    own = "visits_of_shard" if len(nodes) > 1 else "visits"
    for node in nodes:
        for table in (own, *SHARED):
            node.ask(f"TRUNCATE TABLE IF EXISTS contract.{table}")
