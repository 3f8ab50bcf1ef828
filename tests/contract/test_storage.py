"""What every storage does with visits: takes each in once, answers about them, lets them go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import engines
import pytest
from commands import command
from counting import classify_new
from logs_written import GARBAGE, LINE

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.period import DAY
from wsgi_tracker.reports import Position
from wsgi_tracker.selection import Filter, Selection
from wsgi_tracker.storage import FINISHED, Batch, NotIngestedError, Storage

pytestmark = pytest.mark.once
BEGIN = 1_790_000_000_000_000
MONTH = 31 * DAY
TOOLS = Selection(filters=(Filter("class", ("tool",)),))


@pytest.fixture
def where(tmp_path: Path) -> str | Path:
    (tmp_path / "visits.db-spool").mkdir(mode=0o700)
    return engines.database(tmp_path)


@pytest.fixture
def storage(where: str | Path) -> Iterator[Storage]:
    with closing(open_storage(where)) as storage:
        yield storage


def visits(first: int, count: int) -> list[Visit]:
    """Return visits of two months, some by nobody."""
    return [
        Visit(
            BEGIN + n % 2 * MONTH + n,
            f"{n % 5:032x}" if n % 3 else None,
            "GET",
            f"/{n}",
            user_agent="curl/8.1",
        )
        for n in range(first, first + count)
    ]


def lines(first: int, count: int) -> list[bytes]:
    return [visit.line() for visit in visits(first, count)]


def ingest(storage: Storage, some: Sequence[bytes], **more: Any) -> list[bytes]:
    """Take in lines as one batch; return those that were kept, as they are no visits."""
    kept: list[bytes] = []

    @contextmanager
    def keep(rejected: Sequence[bytes]) -> Iterator[None]:
        kept.extend(rejected)
        yield

    batch = Batch(b"".join(some), **more)
    storage.ingest(["s"], lambda _: batch, durable=True, kept=keep)
    classify_new(storage)
    return kept


def stored(storage: Storage) -> list[str]:
    """Return the endpoints of all visits, newest first."""
    with storage.snapshot() as snapshot:
        return [visit.endpoint for visit in snapshot.visits(limit=1000).visits]


def test_batch_is_taken_in_with_its_positions_and_counts(storage: Storage) -> None:
    given: list[Any] = []

    def read(positions: Any) -> Batch:
        given.append(dict(positions))
        return Batch(b"".join(lines(0, 100)), {"s": 7, "t": 9}, ["t"], counts=Counter(ignored=3))

    for _ in range(2):
        storage.ingest(["s", "t"], read, durable=True)

    assert given == [{}, {"s": 7, "t": FINISHED}]
    assert len(stored(storage)) == 200
    assert storage.positions(["s", "t", "u"]) == {"s": 7, "t": FINISHED}
    facts = storage.facts(["s"])
    assert (facts.counts, facts.positions) == ({"recorded": 200, "ignored": 6}, {"s": 7})
    assert facts.retention_days == 0


def test_batch_that_cannot_be_read_leaves_nothing(storage: Storage) -> None:
    def fail(positions: Any) -> Batch:
        raise EOFError

    with pytest.raises(EOFError):
        storage.ingest(["s"], fail, durable=True)

    assert storage.positions(["s"]) == {}
    assert storage.facts([]).counts == {}


def test_what_is_no_visit_is_kept_and_the_rest_taken_in(storage: Storage) -> None:
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
    bad += [good[3].replace(b'"status":null', b'"status":{}').rstrip(b"\n"), b""]
    some = [*good[:10], *(line + b"\n" for line in bad), *good[10:]]

    kept = ingest(storage, some, positions={"s": 9}, torn=[bad[5]])

    assert sorted(kept) == sorted(bad)
    assert len(set(stored(storage))) == 20
    assert storage.facts([]).counts == {"recorded": 20, "torn": 1, "rejected": len(bad) - 1}
    assert storage.positions(["s"]) == {"s": 9}


def test_first_setting_holds_until_it_is_changed(storage: Storage, where: str | Path) -> None:
    with closing(open_storage(where)) as other:
        assert storage.declare({"identity": "daily"}) == {"identity": "daily"}
        assert other.declare({"identity": "permanent"}) == {"identity": "daily"}
        other.configure({"identity": "permanent", "timezone": "Asia/Tokyo"})
        assert storage.declared(["identity", "timezone", "secret_mark"]) == {
            "identity": "permanent",
            "timezone": "Asia/Tokyo",
        }
        storage.configure({"identity": None})
        assert other.declared(["identity"]) == {}
        assert other.declare({"identity": "daily"}) == {"identity": "daily"}


def test_old_visits_are_purged_whole_months_and_within_one(storage: Storage) -> None:
    ingest(storage, lines(0, 100))
    before = BEGIN + MONTH + 51

    for _ in storage.purge(before):
        pass

    left = [n for n in range(100) if n % 2 and n >= 51]
    assert sorted(stored(storage)) == sorted(f"/{n}" for n in left)
    with storage.snapshot() as snapshot:
        assert snapshot.floor() == before
        assert snapshot.summary().total_hits == len(left)


def test_what_is_older_than_the_floor_is_not_shown_when_it_comes_late(storage: Storage) -> None:
    for _ in storage.purge(BEGIN + MONTH):
        pass

    ingest(storage, lines(0, 10))

    assert stored(storage) == ["/9", "/7", "/5", "/3", "/1"]


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


def test_user_is_forgotten_and_nobody_else(storage: Storage) -> None:
    own = Visit(BEGIN, "f" * 32, "GET", "/own", user_agent="mine/1.0").line()
    ingest(storage, [*lines(0, 30), own])

    assert storage.forget("f" * 32) == 1
    assert storage.forget("f" * 32) == 0

    assert sorted(stored(storage)) == sorted(f"/{n}" for n in range(30))


def test_user_agents_are_classified_and_stay_so(storage: Storage) -> None:
    ingest(storage, lines(0, 10))

    with storage.snapshot() as snapshot:
        assert snapshot.hits(TOOLS) == 10
    for _ in storage.reclassify():
        pass
    with storage.snapshot() as snapshot:
        assert snapshot.hits(TOOLS) == 10


def test_visits_are_listed_page_by_page_each_once(storage: Storage) -> None:
    ingest(storage, lines(0, 25))
    ingest(storage, lines(25, 25))
    position: Position | None = None
    found: list[Visit] = []
    with storage.snapshot() as snapshot:
        while True:
            page = snapshot.visits(Selection(), 7, position)
            found += page.visits
            position = page.following
            if position is None:
                break

    assert found == sorted(visits(0, 50), key=lambda visit: -visit.timestamp)


@pytest.mark.parametrize("by_arrival", [False, True])
def test_visits_are_exported_up_to_a_moment_each_once(by_arrival: bool, storage: Storage) -> None:
    ingest(storage, lines(25, 25))
    ingest(storage, lines(0, 25))
    with storage.snapshot() as snapshot:
        upto = snapshot.newest_id()
    ingest(storage, lines(50, 5))
    found: list[tuple[int, Visit]] = []
    while True:
        with storage.snapshot() as snapshot:
            last = found[-1] if found else None
            if by_arrival:
                page = snapshot.arrived_visits(Selection(), 7, last and last[0], upto)
            else:
                behind = last and (last[1].timestamp, last[0])
                page = snapshot.oldest_visits(Selection(), 7, behind, upto)
        if not page:
            break
        found += page

    expected = [*visits(25, 25), *visits(0, 25)]
    if not by_arrival:
        expected.sort(key=lambda visit: visit.timestamp)
    assert [visit for _, visit in found] == expected
    assert len({id for id, _ in found}) == 50


def test_what_waits_is_counted_or_asked_to_be_ingested_first(storage: Storage) -> None:
    class Waiting:
        segments = ("w",)

        def read(self, positions: Any) -> Batch:
            return Batch(b"".join(lines(10, 5)))

    ingest(storage, lines(0, 10))
    try:
        with storage.snapshot(Waiting()) as snapshot:
            total = snapshot.summary().total_hits
    except NotIngestedError:
        ingest(storage, lines(10, 5))
        with storage.snapshot() as snapshot:
            total = snapshot.summary().total_hits

    assert total == 15


def test_log_is_imported_once(where: str | Path, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(LINE + GARBAGE + LINE.replace("/boxes/7", "/start").replace("200 2326", "404 -"))
    options = ["-d", str(where), "--secret", engines.SECRET]

    told = command("import", log, *options)
    again = command("import", log, *options, "--json")

    assert told.stdout == "2 visits imported, 1 rejected\n", told.stderr
    assert json.loads(again.stdout)["visits"] == 0
    rows = command("export", "-d", str(where)).stdout.splitlines()
    assert [json.loads(row)["status"] for row in rows] == [200, 404]
