"""Visits that are packed are stored as lines are, however many strings they bring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from counting import look

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.logvisits import Pack, StoredVisits
from wsgi_tracker.selection import Selection
from wsgi_tracker.storage import Batch, Storage
from wsgi_tracker.storage.sqlite import classes

BEGIN = 1_755_000_000_000_000


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = open_storage(tmp_path / "visits.db", max_endpoints=3)
    yield storage
    storage.close()


def ingest(storage: Storage, visits: list[Visit], *, packed: bool = True) -> None:
    if not packed:
        batch = Batch(b"".join(visit.line() for visit in visits))
    else:
        pack = Pack()
        for visit in visits:
            StoredVisits().add(visit.line(), pack)
        batch = Batch(packed=pack.packed())
    storage.ingest([], lambda positions: batch, durable=False)


def visit(number: int, **fields: object) -> Visit:
    known = {
        "timestamp": BEGIN + number,
        "user_hash": f"user {number % 3}",
        "method": "GET",
        "endpoint": f"/{number}",
    }
    return Visit(**{**known, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "packed", [pytest.param(True, id="packed"), pytest.param(False, id="lines")]
)
def test_endpoints_that_are_too_many_become_one(packed: bool, storage: Storage) -> None:
    visits = [visit(number, path="/own" if number == 4 else None) for number in range(6)]

    ingest(storage, visits, packed=packed)

    found = look(storage).visits(limit=9).visits[::-1]
    assert [(each.endpoint, each.path) for each in found] == [
        ("/0", None),
        ("/1", None),
        ("/2", None),
        ("(other)", "/3"),
        ("(other)", "/own"),
        ("(other)", "/5"),
    ]


def test_every_field_arrives(storage: Storage) -> None:
    full = visit(
        1,
        path="/boxes/'\"\\7",
        status=500,
        duration_us=1,
        first_byte_us=0,
        bytes_sent=2**40,
        error='Odd"Error',
        ip_address="::1",
        user_agent="agent \u2603",
        referer="https://example.org/",
        host="shop",
    )
    bare = visit(2, user_hash=None)

    ingest(storage, [full, bare])

    assert look(storage).visits(limit=9).visits == [bare, full]


def test_batches_do_not_mix(storage: Storage) -> None:
    ingest(storage, [visit(1, referer="a"), visit(2, referer="b")])
    ingest(storage, [visit(3, referer="b", host="c")])

    found = look(storage).visits(limit=9).visits
    assert [(each.referer, each.host) for each in found] == [("b", "c"), ("b", None), ("a", None)]


def test_user_agents_of_an_import_all_get_a_class(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that a second was not enough for stayed unknown, half of them in a large log."""
    monkeypatch.setattr(classes, "REST_SECONDS", 0.0)
    monkeypatch.setattr(classes, "DECIDE_SECONDS", 0.0)

    ingest(storage, [visit(number, user_agent=f"curl/{number}") for number in range(20)])

    with storage.snapshot() as snapshot:
        found = snapshot.breakdown(Selection(), "class", 9).rows
    assert [(row.value, row.hits) for row in found] == [("tool", 20)]
