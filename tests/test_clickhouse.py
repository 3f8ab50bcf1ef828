"""What leads to ClickHouse and back: addresses, literals, deliveries, settings, deletions."""

from __future__ import annotations

import gzip
import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import clickhouses
import engines
import pytest
from clickhouses import Node
from commands import command
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from logs_written import GARBAGE, LINE
from needs import require

from wsgi_tracker import ConfigurationError, Tracker, Visit
from wsgi_tracker.errors import StorageError
from wsgi_tracker.period import DAY
from wsgi_tracker.selection import Filter, Selection
from wsgi_tracker.storage import Batch, Storage, open_storage
from wsgi_tracker.storage.address import Address, read_address
from wsgi_tracker.storage.clickhouse.client import Client
from wsgi_tracker.storage.clickhouse.delivery import INSERT, ONE_BLOCK, Delivery
from wsgi_tracker.storage.clickhouse.ledger import Ledger
from wsgi_tracker.storage.clickhouse.literals import glob_pattern, literal
from wsgi_tracker.storage.clickhouse.schema import Schema

pytestmark = pytest.mark.clickhouse
BEGIN = 1_790_000_000_000_000
MONTH = 31 * DAY
names = (f"test_{number}" for number in itertools.count())


def test_address_is_read_and_its_password_is_shown_nowhere() -> None:
    address = read_address("clickhouses://shop:p%40ss@db.example/visits?cluster=main&spool=/tmp/s")

    assert (address.origin, address.database) == ("https://db.example:8443", "visits")
    assert (address.user, address.password) == ("shop", "p@ss")
    assert (address.cluster, address.spool) == ("main", Path("/tmp/s"))  # noqa: S108
    assert "p@ss" not in repr(address) + str(address)
    assert read_address("clickhouse://[::1]:9/v").origin == "http://[::1]:9"


@pytest.mark.parametrize(
    "url",
    [
        "clickhouse://",
        "clickhouse:///visits",
        "clickhouse://secret-host",
        "clickhouse://h:secret/visits",
        "clickhouse://h/visits-secret",
        "clickhouse://h/visits?secret=1",
        "clickhouse://h/visits?cluster=secret-1",
        "clickhouse://h/visits#secret",
        "clickhouse://u:secret%0a@h/visits",
    ],
)
def test_address_that_cannot_be_read_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="clickhouse://user:password@host") as refused:
        read_address(url)

    assert "secret" not in str(refused.value)


def test_hosts_need_a_secret() -> None:
    with pytest.raises(ConfigurationError, match="give secret="):
        Tracker(lambda *_: [], "clickhouse://127.0.0.1/visits")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    require(Path(clickhouses.SERVER).exists(), "clickhouse-server")
    with clickhouses.one_server(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def address(node: Node, tmp_path: Path) -> Address:
    spool = tmp_path / "spool"
    spool.mkdir()
    return read_address(engines.url(node, spool, name=next(names)))


@pytest.fixture
def storage(address: Address) -> Iterator[Storage]:
    with closing(open_storage(address)) as storage:
        yield storage


@pytest.fixture(scope="module")
def client(node: Node) -> Client:
    return Client(
        read_address(f"clickhouse://127.0.0.1:{node.port}/default"), query_timeout_seconds=9
    )


anything = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
@example(["'", "\\", "\\'", "\0", "\n{x}", "'; DROP TABLE visits; --", "%s", "\u2028"])
def test_literal_is_read_as_what_it_is(client: Client, texts: list[str]) -> None:
    assert client.rows(f"SELECT {literal(texts)}") == [texts]
    assert client.rows(f"SELECT {literal(len(texts))}, {literal(None)}") == [[len(texts), None]]


globs = st.text(st.sampled_from("ab/*?[]!^-\\.é日$'\n("), max_size=8)


@anything
@given(st.lists(st.tuples(globs, globs | st.just("")), min_size=1, max_size=50))
def test_glob_fits_what_it_fits_in_sqlite(client: Client, pairs: list[tuple[str, str]]) -> None:
    # Texts that a glob might fit are made of it.
    pairs += [(glob, glob.translate({ord(c): "a" for c in "*?[]!^-"})) for glob, _ in pairs]
    asked = ", ".join(f"match({literal(text)}, {literal(glob_pattern(g))})" for g, text in pairs)
    with closing(sqlite3.connect(":memory:")) as connection:
        expected = [
            connection.execute("SELECT ? GLOB ?", (text, glob.replace("[!", "[^"))).fetchone()[0]
            for glob, text in pairs
        ]

    assert client.rows(f"SELECT {asked}") == [expected]


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


def test_batch_is_taken_in_with_its_positions_and_counts(
    storage: Storage, node: Node, address: Address
) -> None:
    ingest(
        storage,
        lines(0, 100),
        positions={"s": 7, "t": 9},
        finished=["t"],
        counts=Counter(ignored=3),
    )

    assert different(node, address) == (100, 100)
    assert storage.positions(["s", "t", "u"]) == {"s": 7, "t": -1}
    facts = storage.facts(["s"])
    assert (facts.counts, facts.positions) == ({"recorded": 100, "ignored": 3}, {"s": 7})
    assert (facts.newest_visits, facts.retention_days) == (0, 0)


def test_what_is_no_visit_is_kept_and_the_rest_taken_in(
    storage: Storage, node: Node, address: Address
) -> None:
    good = lines(0, 20)
    bad = [
        b"5",
        b"{}",
        b"null",
        b"[]",
        b"\xff",
        good[0][:40],
        b'{"timestamp":"x","method":"GET","endpoint":"/"}',
    ]
    bad += [good[3].replace(b'"user_agent":"curl/8.1"', b'"status":{}').rstrip(b"\n"), b""]
    some = [*good[:10], *(line + b"\n" for line in bad), *good[10:]]

    kept = ingest(storage, some, positions={"s": 9}, torn=[bad[5]])

    assert sorted(kept) == sorted(bad)
    assert different(node, address) == (20, 20)
    assert storage.facts([]).counts == {"recorded": 20, "torn": 1, "rejected": len(bad) - 1}
    assert storage.positions(["s"]) == {"s": 9}


class Died(BaseException):
    """A process ends, here within itself."""


def deliver_and_die(address: Address, some: Sequence[bytes], *, sent: bool) -> None:
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
    delivery = Delivery(client, schema, Ledger(address.spool, str(address)), lambda: BEGIN)
    entry = delivery.settle(lambda _: closing(sqlite3.connect(":memory:")))
    with pytest.raises(Died):
        delivery.deliver(entry, Batch(b"".join(some), {"s": 5}), lambda _: closing(client))


@pytest.mark.parametrize("sent", [False, True])
def test_batch_on_its_way_is_there_once_afterwards(
    sent: bool, address: Address, storage: Storage, node: Node
) -> None:
    deliver_and_die(address, lines(0, 50), sent=sent)

    ingest(storage, lines(50, 10))

    assert different(node, address) == (60, 60)
    assert storage.positions(["s"]) == {"s": 5}
    assert storage.facts([]).counts == {"recorded": 60}


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
    change: Callable[[Address], Address], reason: str, address: Address
) -> None:
    with closing(open_storage(change(address))) as storage:
        for ask in (lambda: ingest(storage, lines(0, 1)), lambda: storage.facts([])):
            with pytest.raises(StorageError, match=reason) as problem:
                ask()
            assert "mistaken" not in str(problem.value)
            assert clickhouses.PASSWORD not in str(problem.value)


def test_first_setting_holds_until_it_is_changed(storage: Storage, address: Address) -> None:
    with closing(open_storage(address)) as other:
        assert storage.declare({"identity": "daily"}) == {"identity": "daily"}
        assert other.declare({"identity": "permanent"}) == {"identity": "daily"}
        other.configure({"identity": "permanent", "timezone": "Asia/Tokyo"})
        assert storage.declared(["identity", "timezone"]) == {
            "identity": "permanent",
            "timezone": "Asia/Tokyo",
        }
        storage.configure({"identity": None})
        assert other.declared(["identity"]) == {}
        assert other.declare({"identity": "daily"}) == {"identity": "daily"}


def test_old_visits_are_purged_whole_months_and_within_one(
    storage: Storage, node: Node, address: Address
) -> None:
    ingest(storage, lines(0, 100))
    before = BEGIN + MONTH + 51

    for _ in storage.purge(before):
        pass

    left = [n for n in range(100) if n % 2 and n >= 51]
    assert different(node, address) == (len(left),) * 2
    with storage.snapshot() as snapshot:
        assert snapshot.floor() == before
        assert snapshot.summary().total_hits == len(left)


def test_retention_purges_once_an_hour(storage: Storage) -> None:
    now = BEGIN + 40 * DAY
    assert not storage.begin_purge(now, None)
    storage.set_retention(30)
    assert storage.begin_purge(now, None)
    assert not storage.begin_purge(now + 1, None)
    with storage.snapshot() as snapshot:
        assert snapshot.floor() == now - 30 * DAY
    storage.set_retention(60)
    with storage.snapshot() as snapshot:
        assert snapshot.floor() == 0


def test_user_is_forgotten_with_what_only_that_user_had(
    storage: Storage, node: Node, address: Address
) -> None:
    own = Visit(BEGIN, "f" * 32, "GET", "/own", user_agent="mine/1.0").line()
    ingest(storage, [*lines(0, 30), own])

    assert storage.forget("f" * 32) == 1

    assert different(node, address) == (30, 30)
    agents = node.ask(f"SELECT DISTINCT user_agent FROM {address.database}.user_agents")
    assert agents.split() == ["curl/8.1"]


def test_user_agents_are_classified_before_their_first_visit_is_there(storage: Storage) -> None:
    ingest(storage, lines(0, 10))
    tools = Selection(filters=(Filter("class", ("tool",)),))

    with storage.snapshot() as snapshot:
        assert snapshot.hits(tools) == 10
        for _ in storage.reclassify():
            pass
        assert snapshot.hits(tools) == 10


def test_log_is_imported_as_into_sqlite(node: Node, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(LINE + GARBAGE + LINE.replace("/boxes/7", "/start").replace("200 2326", "404 -"))
    exports = []
    for database in (str(tmp_path / "visits.db"), engines.url(node, tmp_path / "s", name="logs")):
        told = command("import", log, "-d", database, "--secret", engines.SECRET)
        assert told.stdout == "2 visits imported, 1 rejected\n", told.stderr
        again = command("import", log, "-d", database, "--secret", engines.SECRET, "--json")
        assert json.loads(again.stdout)["visits"] == 0
        rows = command("export", "-d", database).stdout.splitlines()
        exports.append([json.loads(row) | {"cursor": ""} for row in rows])

    assert exports[0] == exports[1]
    assert [row["status"] for row in exports[0]] == [200, 404]
