"""A batch is there once, however its delivery ended, and what is deleted is gone."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database

from wsgi_tracker import Visit
from wsgi_tracker.errors import StorageError
from wsgi_tracker.period import DAY
from wsgi_tracker.storage import FINISHED, Batch, Storage, open_storage
from wsgi_tracker.storage.address import Address, read_address
from wsgi_tracker.storage.clickhouse import now_us
from wsgi_tracker.storage.clickhouse.client import Client
from wsgi_tracker.storage.clickhouse.delivery import INSERT, ONE_BLOCK, Delivery
from wsgi_tracker.storage.clickhouse.ledger import MOST_FINISHED, Entry, Ledger, Sending
from wsgi_tracker.storage.clickhouse.schema import Schema
from wsgi_tracker.storage.clickhouse.settings import Settings
from wsgi_tracker.storage.clickhouse.shards import Shards

BEGIN = 1_790_000_000_000_000
MONTH = 31 * DAY


def lines(first: int, count: int) -> list[bytes]:
    """Return visits of two months, some by nobody."""
    return [
        Visit(
            BEGIN + n % 2 * MONTH + n,
            f"{n % 5:032x}" if n % 3 else None,
            "GET",
            f"/{n}",
            user_agent="curl/8.1",
        ).line()
        for n in range(first, first + count)
    ]


def ingest(storage: Storage, some: Sequence[bytes], **more: Any) -> list[bytes]:
    """Take in lines as one batch; return those that were kept, as they are no visits."""
    kept: list[bytes] = []

    @contextmanager
    def keep(rejected: Sequence[bytes]) -> Iterator[None]:
        kept.extend(rejected)
        yield

    batch = Batch(b"".join(some), **more)
    storage.ingest(["s"], lambda _: batch, durable=True, kept=keep)
    return kept


def different(node: Node, address: Address) -> tuple[int, int]:
    """Return how many visits there are, and of how many endpoints."""
    found = node.ask(f"SELECT count(), uniqExact(endpoint) FROM {address.database}.visits")
    hits, endpoints = found.split()
    return int(hits), int(endpoints)


class Died(BaseException):
    """A process ends, here within itself."""


def deliver_and_die(
    address: Address, some: Sequence[bytes], *, sent: bool, now: Callable[[], int] = now_us
) -> None:
    """Deliver a batch as a process does that dies before, or just behind, sending it."""
    client = Client(address, query_timeout_seconds=9)
    insert = client.insert

    def die(*given: Any, **named: Any) -> None:
        if sent:
            insert(*given, **named)
        raise Died

    client.insert = die  # type: ignore[method-assign]
    schema = Schema(client)
    schema.prepare()
    delivery = Delivery(client, schema, shards_of(client), Ledger(address.spool, str(address)), now)
    entry = delivery.settle(lambda _: closing(sqlite3.connect(":memory:")))
    with pytest.raises(Died):
        delivery.deliver(entry, Batch(b"".join(some), {"s": 5}), lambda _: closing(client))


def shards_of(client: Client) -> Shards:
    return Shards(client, Settings(client, now_us))


def long_ago() -> int:
    return BEGIN


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("now", [now_us, long_ago])
def test_batch_on_its_way_is_there_once_afterwards(
    now: Callable[[], int], sent: bool, address: Address, storage: Storage, node: Node
) -> None:
    deliver_and_die(address, lines(0, 50), sent=sent, now=now)

    ingest(storage, lines(50, 10))

    assert different(node, address) == (60, 60)
    assert storage.positions(["s"]) == {"s": 5}
    assert storage.facts([]).counts == {"recorded": 60}


def test_batch_that_the_server_has_forgotten_is_there_once(
    engine_of_today: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.clickhouse.schema.WINDOW", 1)
    address = read_address(new_database(engine_of_today.port, tmp_path))
    deliver_and_die(address, lines(0, 50), sent=True, now=long_ago)
    (tmp_path / "other").mkdir()
    with closing(open_storage(replace(address, spool=tmp_path / "other"))) as other:
        ingest(other, lines(100, 10))

    with closing(open_storage(address)) as storage:
        ingest(storage, lines(50, 10))

    assert different(engine_of_today, address) == (70, 70)


def test_half_a_batch_is_deleted_and_sent_whole(
    address: Address, storage: Storage, node: Node
) -> None:
    deliver_and_die(address, lines(0, 50), sent=False)
    ledger = Ledger(address.spool, str(address))
    entry, data = ledger.read()
    assert entry.sending is not None
    half = b"".join(gzip.decompress(data).splitlines(True)[:20])
    client = Client(address, query_timeout_seconds=9)
    client.insert(INSERT.replace("{table}", "visits"), gzip.compress(half), **ONE_BLOCK)
    ledger.write(replace(entry, sending=replace(entry.sending, layout="1:1 2:1 3:1")), data)

    ingest(storage, [])

    assert different(node, address) == (50, 50)


def test_ledger_that_is_damaged_or_of_another_database_is_refused(
    address: Address, storage: Storage
) -> None:
    ingest(storage, lines(0, 1), positions={"s": 1})
    path = address.spool / "deliveries"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StorageError, match="not of http://elsewhere/visits"):
        Ledger(address.spool, "http://elsewhere/visits").entry()

    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StorageError, match="is damaged"):
        ingest(storage, lines(1, 1))


def test_ledger_does_not_grow_with_the_segments_that_were_finished() -> None:
    entry = Entry("http://127.0.0.1/visits")
    for number in range(MOST_FINISHED + 10):
        entry = entry.with_taken(Sending(finished=[f"{number}", "stays"]), 0)

    assert len(entry.finished) == MOST_FINISHED
    assert entry.positions_of(["0", "stays", f"{number}"]) == {
        "stays": FINISHED,
        f"{number}": FINISHED,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: replace(a, origin="http://127.0.0.1:1"), "does not answer"),
        (lambda a: replace(a, origin=a.origin.replace("http", "https")), "does not answer"),
        (lambda a: replace(a, password="mistaken"), "refuses user or password"),
        (lambda a: replace(a, user="nobody"), "refuses user or password"),
        (lambda a: replace(a, cluster="none"), "cluster"),
    ],
)
def test_server_that_cannot_be_used_is_an_outage(
    change: Callable[[Address], Address], reason: str, server: Node, tmp_path: Path
) -> None:
    address = read_address(new_database(server.port, tmp_path))
    with closing(open_storage(change(address))) as storage:
        for ask in (lambda: ingest(storage, lines(0, 1)), lambda: storage.facts([])):
            with pytest.raises(StorageError, match=reason) as problem:
                ask()
            assert "mistaken" not in str(problem.value)
            assert clickhouses.PASSWORD not in str(problem.value)


def test_user_is_forgotten_with_what_only_that_user_had(
    storage: Storage, node: Node, address: Address
) -> None:
    own = Visit(BEGIN, "f" * 32, "GET", "/own", user_agent="mine/1.0").line()
    ingest(storage, [*lines(0, 30), own])

    assert storage.forget("f" * 32) == 1

    assert different(node, address) == (30, 30)
    agents = node.ask(f"SELECT DISTINCT user_agent FROM {address.database}.user_agents")
    assert agents.split() == ["curl/8.1"]
