"""A database whose counters are compared with its visits, and what can happen to it."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.period import HOUR, Granularity, load_zone
from wsgi_tracker.selection import Selection, of_class
from wsgi_tracker.storage import Batch, Positions, Storage
from wsgi_tracker.storage.sqlite import counted, raw
from wsgi_tracker.storage.sqlite.counters import State, read_state
from wsgi_tracker.storage.sqlite.purge import first_shown, phases_for_user

BEGIN = 1_729_814_400_000_000  # 2024-10-25, two days before clocks change in Europe
# All visitors, the classes of those that test_counters.py has, and one that nobody is of.
ONLY = [None, *"empty unknown tool search human feed".split()]
serial = itertools.count()


def visit(timestamp: int, user: str | None = "a", **fields: Any) -> Visit:
    return Visit(
        timestamp, user, fields.pop("method", "GET"), fields.pop("endpoint", "/"), **fields
    )


def only(agent_class: str) -> Selection:
    return Selection(filters=of_class(agent_class))


def instructions(connection: sqlite3.Connection, ask: Callable[[], Any]) -> int:
    """Return how many thousands of SQLite's instructions an answer takes."""
    steps = itertools.count()
    connection.set_progress_handler(lambda: next(steps) and None, 1000)
    ask()
    connection.set_progress_handler(None, 0)
    return next(steps)


class Look:
    """Make each report of a moment of its own."""

    def __init__(self, storage: Storage, unread: Any) -> None:
        self._storage = storage
        self._unread = unread

    def __getattr__(self, name: str) -> Any:
        def ask(*given: Any, **named: Any) -> Any:
            with self._storage.snapshot(self._unread) as snapshot:
                return getattr(snapshot, name)(*given, **named)

        return ask


def look(storage: Storage, unread: Any = None) -> Look:
    return Look(storage, unread)


def classify_new(storage: Storage) -> None:
    """Do what whoever ingests does behind a batch."""
    if storage.load_classifier():
        storage.count()


class Waiting:
    """Visits that are in no storage yet."""

    segments = ["waiting"]  # noqa: RUF012

    def __init__(self, visits: Iterable[Visit]) -> None:
        self._data = b"".join(visit.line() for visit in visits)

    def read(self, positions: Positions) -> Batch:
        assert not positions
        return Batch(self._data)


class Counted:
    """A storage, and what can happen to it."""

    def __init__(self, folder: Path, zone: str | None = "UTC") -> None:
        self.database = folder / "visits.db"
        self.storage: Storage = open_storage(self.database)
        if zone is not None:
            self.storage.declare({"timezone": zone})
        self.zone = load_zone(zone or "UTC")

    def ingest(self, came: Iterable[Visit]) -> None:
        data = b"".join(visit.line() for visit in came)
        segment = str(next(serial))
        self.storage.ingest([segment], lambda _: Batch(data, {segment: 1}), durable=False)
        classify_new(self.storage)

    def forget(self, user: str) -> None:
        for _ in self.storage._steps(phases_for_user(user)):  # type: ignore[attr-defined]
            pass

    def purge(self, before: int) -> None:
        for _ in self.storage.purge(before):
            pass

    def keep(self, _: None) -> None:
        """Keep visits for longer than before."""
        self.purge(0)

    def edit(self, user: str) -> None:
        oldest = "(SELECT min(id) FROM user_visits WHERE user_hash = ?)"
        self.sql(
            "UPDATE user_visits SET endpoint = '/other', timestamp_us = timestamp_us + ? "
            f"WHERE id = {oldest}",
            HOUR,
            user,
        )

    def delete(self, endpoint: str) -> None:
        newest = "(SELECT max(id) FROM user_visits WHERE endpoint = ?)"
        self.sql(f"DELETE FROM user_visits WHERE id = {newest}", endpoint)

    def count_some(self, _: None) -> None:
        """Take one step."""
        self.storage.count(enough=1)

    def rebuild(self, _: None) -> None:
        for _ in self.storage.rebuild():
            pass

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            return connection.execute(statement, values).fetchall()

    def count(self) -> None:
        while self.storage.count(enough=1):
            pass

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self.storage._file.read() as connection:  # type: ignore[attr-defined]
            yield connection

    def state(self) -> State:
        with self.reading() as connection:
            return read_state(connection)

    def check_reports(self, starts: Iterable[int]) -> None:
        """Ask the counters, and the visits, about windows with these starts."""
        with self.reading() as connection:
            assert read_state(connection).is_sound
            floor = first_shown(connection, 0)
            for start, agent_class in itertools.product({max(floor, s) for s in starts}, ONLY):
                asked = connection, start, agent_class
                visits = connection, Selection(start, None, of_class(agent_class))
                assert counted.stats(*asked) == raw.stats(*visits)
                assert counted.summary(*asked) == raw.summary(*visits)
                for granularity in Granularity:
                    found = raw.trends(*visits, granularity, self.zone)
                    assert counted.trends(connection, start, granularity, agent_class) == found
