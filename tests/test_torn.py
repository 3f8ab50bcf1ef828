"""Lines that were not written to their end are told from lines that are no visits."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.segments import SUFFIX, counts_line, header

GOOD = Visit(1_755_081_000_000_000, "a" * 32, "GET", "/boxes").line()
serial = itertools.count(1)


@pytest.fixture
def ingest(tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Ingest segments whose writers are gone, and return what was counted."""
    folder = tmp_path / "visits.db-spool"
    folder.mkdir()

    def ingest(*contents: bytes) -> dict[str, int]:
        for content in contents:
            segment = f"{next(serial):032x}"
            (folder / (segment + SUFFIX)).write_bytes(header(segment) + content)
        storage = open_storage(tmp_path / "visits.db")
        ingester = Ingester(storage, folder)
        while ingester.run_once():
            pass
        storage.close()
        with closing(sqlite3.connect(tmp_path / "visits.db")) as connection:
            return dict(connection.execute("SELECT name, value FROM counts"))

    return ingest


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        pytest.param(GOOD, {"recorded": 1}, id="whole"),
        pytest.param(GOOD[:-1], {"recorded": 1}, id="only the line's end is missing"),
        pytest.param(GOOD + GOOD[:40], {"recorded": 1, "torn": 1}, id="at the segment's end"),
        pytest.param(GOOD[:40] + GOOD, {"recorded": 1, "torn": 1}, id="before another"),
        pytest.param(
            GOOD[:40] + counts_line({"dropped": 2}) + GOOD,
            {"recorded": 1, "dropped": 2, "torn": 1},
            id="before counts",
        ),
        pytest.param(
            GOOD[:-1] + counts_line({"dropped": 2}),
            {"recorded": 1, "dropped": 2},
            id="before counts, whole",
        ),
        pytest.param(
            GOOD + counts_line({"dropped": 2})[:12], {"recorded": 1}, id="counts at the end"
        ),
        pytest.param(
            GOOD + counts_line({"dropped": 2})[:12] + counts_line({"dropped": 2}),
            {"recorded": 1, "dropped": 2},
            id="counts before counts",
        ),
        pytest.param(GOOD[:40] + b"\n" + GOOD, {"recorded": 1, "rejected": 1}, id="with an end"),
        pytest.param(b"null\n" + GOOD, {"recorded": 1, "rejected": 1}, id="no visit"),
        pytest.param(
            b"null\n" + GOOD[:9] + GOOD + b"[]\n" + GOOD[:70],
            {"recorded": 1, "rejected": 2, "torn": 2},
            id="all at once",
        ),
    ],
)
def test_torn_line_is_counted_as_torn(
    content: bytes, counts: dict[str, int], ingest: Callable[..., dict[str, int]]
) -> None:
    assert ingest(content) == counts


def test_every_segment_may_have_a_torn_end(ingest: Callable[..., dict[str, int]]) -> None:
    counts = ingest(GOOD + GOOD[:40], GOOD[:50], GOOD + b"null\n", GOOD[:40])

    assert counts == {"recorded": 2, "torn": 3, "rejected": 1}


def test_torn_lines_are_kept_with_the_rejected(
    ingest: Callable[..., dict[str, int]], tmp_path: Path
) -> None:
    ingest(b"null\n" + GOOD[:40] + GOOD + GOOD[:50])

    kept = (tmp_path / "visits.db-spool" / "rejected.ndjson").read_bytes().splitlines()
    assert sorted(kept) == sorted([b"null", GOOD[:40], GOOD[:50]])
