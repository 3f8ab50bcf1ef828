"""Each visit counts once in ClickHouse, whoever dies in the middle of a delivery."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database
from proxy import Cut, proxy
from recount import spool
from servers import PATIENCE_SECONDS

from wsgi_tracker import Visit
from wsgi_tracker.backend import Backend
from wsgi_tracker.errors import StorageError
from wsgi_tracker.storage.address import locate, read_address
from wsgi_tracker.storage.clickhouse.ledger import Ledger

KILLS = CUTS = 50
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
    """Run servers of a test's own."""
    if request.param == "cluster":
        clickhouses.require_cluster()
        with clickhouses.cluster(tmp_path / "nodes") as running:
            yield list(running)
    else:
        clickhouses.require_server()
        with clickhouses.one_server(tmp_path / "node") as node:
            yield [node]


@pytest.fixture
def cluster(nodes: list[Node]) -> str:
    return clickhouses.CLUSTER if len(nodes) > 1 else ""


def ingest(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", INGEST, url], stderr=subprocess.DEVNULL)


def stored(node: Node, url: str) -> tuple[int, int]:
    """Return how many visits there are, and how many different ones."""
    database = read_address(url).database
    found = node.ask(f"SELECT count(), uniqExact(endpoint) FROM {database}.visits")
    count, different = found.split()
    return int(count), int(different)


def sendings(url: str) -> Callable[[], object]:
    """Return what tells which batch is on its way."""
    address = read_address(url)
    ledger = Ledger(address.spool)
    return lambda: ledger.entry().sending


@pytest.mark.parametrize("victim", ["process", "server"])
def test_each_visit_counts_once_whoever_is_killed(
    victim: str, nodes: list[Node], cluster: str, tmp_path: Path
) -> None:
    url = new_database(nodes[0].port, tmp_path, cluster)
    sending = sendings(url)
    chance = random.Random(victim)
    amid = 0
    for number in range(KILLS):
        spool(tmp_path / "visits.db", visits(number))
        process = ingest(url)
        with process:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while sending() is None and process.poll() is None:
                assert time.monotonic() < deadline  # the moment is short
            spin(chance.randrange(20_000))  # anywhere in the delivery, or just behind it
            if victim == "process":
                process.kill()
                process.wait()
                amid += sending() is not None
            else:
                nodes[0].kill()
                amid += sending() is not None
                nodes[0].start()
                assert process.wait(PATIENCE_SECONDS) == 0
    assert ingest(url).wait(PATIENCE_SECONDS) == 0

    assert stored(nodes[0], url) == (KILLS * VISITS_A_ROUND,) * 2
    assert sending() is None
    assert amid > KILLS / 5


def test_each_visit_counts_once_wherever_its_connection_is_cut(
    nodes: list[Node], cluster: str, tmp_path: Path
) -> None:
    chance = random.Random(cluster)
    cuts: list[int] = []

    def cut_first_insert(request: bytes) -> Cut | None:
        if b"INSERT+INTO+visits+" not in request or len(cuts) > number:
            return None
        # Within it, or behind it, before all of the answer.
        cuts.append(chance.choice([chance.randrange(len(request)), len(request) + number]))
        return Cut(cuts[-1], quietly=number % 2 == 1)

    with proxy(nodes[0].port) as between:
        url = new_database(between.port, tmp_path, cluster)
        backend = Backend(locate(url), settings={})
        between.fault = cut_first_insert
        for number in range(CUTS):
            spool(tmp_path / "visits.db", visits(number))
            with pytest.raises(StorageError, match=r"does not answer|no ClickHouse"):
                backend.ingester.catch_up(PATIENCE_SECONDS)
            while backend.ingester.catch_up(PATIENCE_SECONDS).size_bytes:
                pass
        backend.close()

    assert len(cuts) == CUTS
    assert stored(nodes[0], url) == (CUTS * VISITS_A_ROUND,) * 2


def spin(times: int) -> None:
    """Let some time pass, a few milliseconds at most."""
    for _ in range(times):
        pass
