"""A batch is there once, however its delivery ended, and what is deleted is gone."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import clickhouses
import pytest
from clickhouses import Node
from engines import new_database
from proxy import Cut, proxy

from wsgi_tracker import Visit
from wsgi_tracker.errors import StorageError
from wsgi_tracker.period import DAY, Granularity
from wsgi_tracker.selection import Filter, Selection
from wsgi_tracker.storage import FINISHED, Batch, HardBatchError, Storage, open_storage
from wsgi_tracker.storage.address import Address, read_address
from wsgi_tracker.storage.clickhouse import ClickHouseStorage, now_us
from wsgi_tracker.storage.clickhouse.client import Client
from wsgi_tracker.storage.clickhouse.delivery import INSERT, ONE_BLOCK
from wsgi_tracker.storage.clickhouse.ledger import MOST_FINISHED, Entry, Ledger, Sending

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
    address: Address, some: Sequence[bytes], *, sent: bool, clock: Callable[[], int] = now_us
) -> None:
    """Deliver a batch as a process does that dies before, or just behind, sending it."""
    with closing(ClickHouseStorage(address, query_timeout_seconds=9, clock=clock)) as storage:
        ingest(storage, [])
        insert = storage._client.insert

        def die(*given: Any, **named: Any) -> None:
            if sent:
                insert(*given, **named)
            raise Died

        storage._client.insert = die  # type: ignore[method-assign]
        with pytest.raises(Died):
            ingest(storage, some, positions={"s": 5})


def long_ago() -> int:
    return BEGIN - 365 * DAY


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("clock", [now_us, long_ago])
def test_batch_on_its_way_is_there_once_afterwards(
    clock: Callable[[], int], sent: bool, address: Address, storage: Storage, node: Node
) -> None:
    deliver_and_die(address, lines(0, 50), sent=sent, clock=clock)

    ingest(storage, lines(50, 10))

    assert different(node, address) == (60, 60)
    assert storage.positions(["s"]) == {"s": 5}
    assert storage.facts([]).counts == {"recorded": 60}


def test_batch_that_the_server_has_forgotten_is_there_once(
    engine_of_today: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.clickhouse.schema.WINDOW", 1)
    address = read_address(new_database(engine_of_today.port, tmp_path))
    deliver_and_die(address, lines(0, 50), sent=True, clock=long_ago)
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
    ledger = Ledger(address.spool)
    entry, data = ledger.read()
    assert entry.sending is not None
    half = b"".join(gzip.decompress(data).splitlines(True)[:20])
    client = Client(address, query_timeout_seconds=9)
    client.insert(INSERT.replace("{table}", "visits"), gzip.compress(half), **ONE_BLOCK)
    ledger.write(replace(entry, sending=replace(entry.sending, layout="1:1 2:1 3:1")), data)

    ingest(storage, [])

    assert different(node, address) == (50, 50)


def test_ledger_that_is_damaged_is_refused(address: Address, storage: Storage) -> None:
    ingest(storage, lines(0, 1), positions={"s": 1})
    path = address.spool / "deliveries"
    assert path.stat().st_mode & 0o777 == 0o600

    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StorageError, match="is damaged"):
        ingest(storage, lines(1, 1))


def test_ledger_is_of_one_database_however_that_is_named(
    address: Address, storage: Storage, node: Node
) -> None:
    ingest(storage, lines(0, 1), positions={"s": 1})
    origin = address.origin.replace("127.0.0.1", "localhost")
    with closing(open_storage(replace(address, origin=origin))) as same:
        ingest(same, lines(1, 1), positions={"s": 2})
    with (
        closing(open_storage(replace(address, database="another"))) as another,
        pytest.raises(StorageError, match="tells of another database"),
    ):
        ingest(another, lines(2, 1), positions={"s": 3})

    assert different(node, address) == (2, 2)
    assert storage.positions(["s"]) == {"s": 2}


def test_what_cannot_be_a_visit_stops_nothing(
    address: Address, storage: Storage, node: Node
) -> None:
    good = lines(0, 3)
    bad = [
        good[0].replace(b'{"timestamp"', b'{"batch":7,"timestamp"'),
        good[0].replace(b'"method"', b'"batch":7,"method"'),
        good[0].replace(b":179", b':"179', 1).replace(b',"user', b'","user', 1),
        good[0].replace(b'"timestamp":', b'"timestamp":null,"x":'),
    ]

    kept = ingest(storage, [*bad, *good], positions={"s": 1})

    assert sorted(kept) == sorted(line.rstrip(b"\n") for line in bad)
    assert different(node, address) == (3, 3)
    assert storage.facts([]).counts == {"recorded": 3, "rejected": len(bad)}


def test_lines_that_are_rejected_are_kept_though_the_rest_is_not_sent(
    address: Address, storage: Storage
) -> None:
    ingest(storage, lines(0, 1))
    ended: list[str] = []

    @contextmanager
    def keep(rejected: Sequence[bytes]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            ended.append("taken back")
            raise
        ended.append("kept")

    insert = storage._client.insert  # type: ignore[attr-defined]

    def cut(statement: str, *given: Any, **named: Any) -> None:
        if "visits_on_trial" not in statement:
            raise StorageError("cut off")
        insert(statement, *given, **named)

    storage._client.insert = cut  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="cut off"):
        storage.ingest([], lambda _: Batch(b"5\n" + lines(1, 1)[0]), durable=True, kept=keep)
    storage._client.insert = insert  # type: ignore[attr-defined]
    ingest(storage, [])

    assert ended == ["kept"]
    assert storage.facts([]).counts == {"recorded": 2, "rejected": 1}


def test_batch_with_too_much_that_is_no_visit_is_given_back(
    address: Address, storage: Storage, node: Node
) -> None:
    bad = [b'{"timestamp":1,"method":"GET","endpoint":5}\n'] * 50

    with pytest.raises(HardBatchError):
        ingest(storage, [*bad, *lines(0, 10)], positions={"s": 1}, patience=3)
    assert storage.positions(["s"]) == {}
    ingest(storage, [*bad, *lines(0, 10)], positions={"s": 1})

    assert different(node, address)[1] >= 10
    assert storage.positions(["s"]) == {"s": 1}


def test_ledger_does_not_grow_with_the_segments_that_were_finished() -> None:
    entry = Entry()
    for number in range(MOST_FINISHED + 10):
        sending = Sending(finished=[f"{number}", "stays"])
        entry = replace(entry, sending=sending).with_taken(0)

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
        for ask in (lambda: ingest(storage, lines(0, 1)), lambda: storage.declared(["timezone"])):
            with pytest.raises(StorageError, match=reason) as problem:
                ask()
            assert "mistaken" not in str(problem.value)
            assert clickhouses.PASSWORD not in str(problem.value)
        assert re.search(reason, storage.facts([]).problem)


def test_user_is_forgotten_with_what_only_that_user_had(
    storage: Storage, node: Node, address: Address
) -> None:
    own = Visit(BEGIN, "f" * 32, "GET", "/own", user_agent="mine/1.0").line()
    ingest(storage, [*lines(0, 30), own])

    assert storage.forget("f" * 32) == 1

    assert different(node, address) == (30, 30)
    agents = node.ask(f"SELECT DISTINCT user_agent FROM {address.database}.user_agents")
    assert agents.split() == ["curl/8.1"]


def test_user_agents_that_came_too_fast_are_decided_anew(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsgi_tracker.storage.clickhouse.agents.DECIDE_SECONDS", -1.0)
    tools = Selection(filters=(Filter("class", ("tool",)),))
    ingest(
        storage,
        [Visit(BEGIN + n, None, "GET", "/", user_agent=f"curl/8.{n}").line() for n in range(5)],
    )
    with storage.snapshot() as snapshot:
        assert snapshot.hits(tools) == 1
    for _ in storage.reclassify():
        pass
    with storage.snapshot() as snapshot:
        assert snapshot.hits(tools) == 5


PLACES = ("{where}", "{bucket}", "{key}", "{limit}", "{value}", "{source}", "{}", "{0}", "{x!r}")


@pytest.mark.parametrize("place", PLACES)
def test_what_looks_like_a_place_in_a_statement_is_found_as_it_is(
    place: str, storage: Storage
) -> None:
    route = f"/s3/{place}/'{place}"
    ingest(storage, [Visit(BEGIN, "a" * 32, "GET", route, user_agent=place).line(), *lines(0, 5)])
    selection = Selection(filters=(Filter("endpoint", (route,), is_exact=True),))
    with storage.snapshot() as snapshot:
        assert [row.endpoint for row in snapshot.stats(selection)] == [route]
        assert [row.hits for row in snapshot.trends(selection, Granularity.DAY)] == [1]
        assert snapshot.outcomes(selection).statuses().total() == 1
        for by in ("user_agent", "class", "browser", "status", "path"):
            assert [row.hits for row in snapshot.breakdown(selection, by, 10).rows] == [1]
        assert snapshot.sessions(selection).count == 1


def test_question_is_asked_again_where_its_connection_has_ended(
    server: Node, tmp_path: Path
) -> None:
    with proxy(server.port) as between:
        address = replace(read_address(new_database(between.port, tmp_path)), database="default")
        client = Client(address, query_timeout_seconds=9)
        assert client.rows("SELECT 1") == [[1]]
        cuts = [Cut(0, quietly=True)]
        between.fault = lambda _: cuts.pop() if cuts else None

        assert client.rows("SELECT 1") == [[1]]
        cuts.append(Cut(0))
        with pytest.raises(StorageError, match="does not answer"):
            client.run("CREATE DATABASE IF NOT EXISTS default")
        client.close()


def test_database_that_was_deleted_is_another_one(
    storage: Storage, address: Address, node: Node
) -> None:
    ingest(storage, lines(0, 5), positions={"s": 1})
    node.ask(f"DROP DATABASE {address.database}")
    with pytest.raises(StorageError, match=r"Unknown|exist"):
        ingest(storage, lines(5, 5), positions={"s": 2})
    with pytest.raises(StorageError, match="tells of another database"):
        ingest(storage, lines(5, 5), positions={"s": 2})
    (address.spool / "deliveries").unlink()

    ingest(storage, lines(0, 10), positions={"s": 2})

    assert different(node, address) == (10, 10)


def test_user_agent_that_is_no_text_stops_nothing(storage: Storage) -> None:
    line = Visit(BEGIN, None, "GET", "/", user_agent="odd?").line()
    ingest(storage, [line])

    kept = ingest(storage, [line.replace(b"odd?", rb"odd\ud800"), *lines(0, 3)])

    assert storage.facts([]).counts["recorded"] == 5 - len(kept)
