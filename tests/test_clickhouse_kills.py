"""Each visit counts once in ClickHouse, whoever dies in the middle of a delivery."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import clickhouses
import engines
import pytest
from clickhouses import Node
from needs import require
from servers import PATIENCE_SECONDS
from test_recount import spool

from wsgi_tracker import Visit
from wsgi_tracker.storage.address import read_address
from wsgi_tracker.storage.clickhouse.ledger import Ledger

pytestmark = pytest.mark.clickhouse
KILLS = 50
VISITS_A_ROUND = 200
BEGIN = 1_790_000_000_000_000
# It ingests until there is nothing left; what fails is tried again.
INGEST = """
import sys
from contextlib import suppress
from wsgi_tracker.backend import Backend
from wsgi_tracker.errors import StorageError
from wsgi_tracker.storage.address import locate

backend = Backend(locate(sys.argv[1]), settings={})
while True:
    with suppress(StorageError):
        if not backend.ingester.catch_up(60).size_bytes:
            break
"""


def visits(number: int) -> list[Visit]:
    """Return visits of a round, over two months and by users and nobody."""
    first = number * VISITS_A_ROUND
    return [
        Visit(BEGIN + n * 9_000_000_000, f"{n % 7:032x}" if n % 3 else None, "GET", f"/{n}")
        for n in range(first, first + VISITS_A_ROUND)
    ]


@pytest.fixture(params=["one", "cluster"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Node]]:
    require(Path(clickhouses.SERVER).exists(), "clickhouse-server")
    if request.param == "cluster":
        require(clickhouses.ZOOKEEPER.exists(), "zookeeper")
        with clickhouses.cluster(tmp_path / "nodes") as running:
            yield list(running)
    else:
        with clickhouses.one_server(tmp_path / "node") as node:
            yield [node]


@pytest.fixture
def url(nodes: list[Node], tmp_path: Path) -> str:
    cluster = clickhouses.CLUSTER if len(nodes) > 1 else ""
    (tmp_path / "visits.db-spool").mkdir(mode=0o700)
    return engines.url(nodes[0], tmp_path / "visits.db-spool", cluster, "kills")


def ingest(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", INGEST, url], stderr=subprocess.DEVNULL)


def stored(node: Node) -> tuple[int, int]:
    """Return how many visits there are, and how many different ones."""
    count, different = node.ask("SELECT count(), uniqExact(endpoint) FROM kills.visits").split()
    return int(count), int(different)


def sendings(url: str) -> Callable[[], object]:
    """Return what tells which batch is on its way."""
    address = read_address(url)
    ledger = Ledger(address.spool, str(address))
    return lambda: ledger.entry().sending


@pytest.mark.parametrize("victim", ["process", "server"])
def test_each_visit_counts_once_whoever_is_killed(
    victim: str, nodes: list[Node], url: str, tmp_path: Path
) -> None:
    sending = sendings(url)
    chance = random.Random(victim)
    for number in range(KILLS):
        spool(tmp_path / "visits.db", visits(number))
        process = ingest(url)
        with process:
            while sending() is None and process.poll() is None:
                pass  # the moment is short
            spin(chance.randrange(20_000))  # anywhere in the delivery, or just behind it
            if victim == "process":
                process.kill()
            else:
                nodes[0].kill()
                nodes[0].start()
                assert process.wait(PATIENCE_SECONDS) == 0
    assert ingest(url).wait(PATIENCE_SECONDS) == 0

    assert stored(nodes[0]) == (KILLS * VISITS_A_ROUND,) * 2
    assert sending() is None


def spin(times: int) -> None:
    """Let some time pass, a few milliseconds at most."""
    for _ in range(times):
        pass
