"""Visits in one SQLite file: one connection writes, whatever the number of workers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from ...agents import NO_CLASSES, data_version, load_classifier
from ...errors import ConfigurationError, Outage, StorageError, logger
from .. import ENOUGH_TO_COUNT, KeptLines, ReadBatch, StorageFacts, Unread
from .backup import copy_database
from .check import first_damage, first_difference
from .classes import Reclassification
from .counters import start_anew
from .counting import Counting
from .database import Database
from .facts import is_readable_by_others, read_facts
from .faults import explain, is_passing
from .intake import forget_segments, read_positions, store_batch
from .purge import (
    COUNT_OF_USER,
    FOR_EVER,
    Phase,
    begin_purge,
    erasing,
    keeps_for_ever,
    phases,
    phases_for_user,
    store_retention,
)
from .schema import transaction
from .settings import (
    configure_settings,
    keep_settings,
    read_setting,
    read_settings,
)
from .snapshot import SQLiteSnapshot

OLDEST_SQLITE = (3, 34, 0)
FORGET_EVERY_SECONDS = 3600.0
# So that seldom one is left to SQLite, which has whoever commits behind 10,000 pages wait for it.
VISITS_PER_CHECKPOINT = 1 << 11


class SQLiteStorage:
    """A :class:`~wsgi_tracker.storage.Storage` in the file ``database``."""

    def __init__(
        self,
        database: Path,
        *,
        max_endpoints: int,
        make_secret: Callable[[], bytes],
        used_before: bool,
        busy_seconds: float,
        query_timeout_seconds: float,
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigurationError(
                f"SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed, this Python has "
                f"{sqlite3.sqlite_version}; use a newer Python or operating system"
            )
        self.outage = Outage("visits wait in the spool")
        self._max_endpoints = max_endpoints
        self.database = database
        self._file = Database(
            database,
            make_secret,
            busy_seconds=busy_seconds,
            query_timeout_seconds=query_timeout_seconds,
        )
        self._counting = Counting()
        self._forget_at = 0.0
        self._unmoved = 0  # visits that this process stored since its last checkpoint
        self._try(used_before)
        if is_readable_by_others(database):
            logger.warning("other users of this host can read %s: chmod 600 it", database)

    def _try(self, used_before: bool) -> None:
        """Say now what can never work, to who configures it.

        What worked before can work again: an application must start meanwhile.
        """
        path = self._file.path
        try:
            self._file.try_out()
        except StorageError as error:  # of a newer schema: an upgrade may be under way
            self.outage.report(str(error))
        except (sqlite3.DatabaseError, OSError) as error:
            if not used_before and not is_passing(error):
                raise ConfigurationError(
                    f"{path} cannot be the database: {error}; choose a path in an "
                    f"existing folder that this process may write to, which is a database of "
                    f"wsgi_tracker or nothing yet"
                ) from error
            self.outage.report(explain(error, path))

    def ingest(
        self,
        segments: Sequence[str],
        read: ReadBatch,
        *,
        durable: bool,
        kept: KeptLines = nullcontext,
    ) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.ingest`."""
        with self._file.writer() as connection:
            # FULL syncs the log at COMMIT; it cannot be set within a transaction.
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with ExitStack() as keeping:
                with transaction(connection):
                    batch = read(read_positions(connection, segments))
                    rejected = store_batch(connection, batch, self._max_endpoints)
                    self._forget_segments(connection)
                    self._counting.within(connection)
                    if rejected:
                        keeping.enter_context(kept(rejected))
                self._file.require_current(connection)
            self._counting.after(connection, is_import=batch.packed is not None)
            self._unmoved += batch.counts["recorded"]

    def _forget_segments(self, connection: sqlite3.Connection) -> None:
        now = time.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_SECONDS
            forget_segments(connection)

    def count(self, *, enough: int = ENOUGH_TO_COUNT) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.count`."""
        with self._file.read() as connection:
            if not self._counting.is_due(connection, enough):
                return False
        with self._file.writer() as connection:
            return self._counting.step(connection)

    def load_classifier(self) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.load_classifier`."""
        return self._counting.load_classifier()

    def tidy(self) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.tidy`."""
        unmoved = self._unmoved
        if unmoved >= VISITS_PER_CHECKPOINT:
            self._file.checkpoint()
            self._unmoved -= unmoved  # what others add just now may be lost: the next comes later

    def rebuild(self) -> Iterator[None]:
        """See :meth:`wsgi_tracker.storage.Storage.rebuild`."""
        with self._file.write() as connection:
            start_anew(connection)
        yield
        while self.count(enough=1) or self.load_classifier():
            yield

    def check(self) -> str | None:
        """See :meth:`wsgi_tracker.storage.Storage.check`."""
        while self.count(enough=1) or self.load_classifier():
            pass
        with self._file.read() as connection:
            return first_difference(connection)

    def check_integrity(self) -> str | None:
        """See :meth:`wsgi_tracker.storage.Storage.check_integrity`."""
        with self._file.read() as connection:
            return first_damage(connection)

    def backup(self, file: Path) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.backup`."""
        with self._file.read() as connection:
            copy_database(connection, file)

    def generation(self) -> object:
        """See :meth:`wsgi_tracker.storage.Storage.generation`."""
        return self._file.generation()

    def positions(self, segments: Sequence[str]) -> Mapping[str, int]:
        """See :meth:`wsgi_tracker.storage.Storage.positions`."""
        with self._file.read() as connection:
            return read_positions(connection, segments)

    def facts(self, segments: Sequence[str]) -> StorageFacts:
        """See :meth:`wsgi_tracker.storage.Storage.facts`."""
        with self._file.read() as connection:
            return read_facts(connection, self.database, segments)

    def secret(self) -> bytes:
        """See :meth:`wsgi_tracker.storage.Storage.secret`."""
        return self._file.secret()

    def declare(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        """See :meth:`wsgi_tracker.storage.Storage.declare`."""
        with self._file.read() as connection:
            known = read_settings(connection, settings)
        if len(known) < len(settings):
            with self._file.write() as connection:
                known = keep_settings(connection, settings)
        return known

    def declared(self, names: Sequence[str]) -> Mapping[str, str]:
        """See :meth:`wsgi_tracker.storage.Storage.declared`."""
        with self._file.read() as connection:
            return read_settings(connection, names)

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.configure`."""
        with self._file.write() as connection:
            configure_settings(connection, settings)

    @contextmanager
    def snapshot(
        self, unread: Unread | None = None, *, long: bool = False
    ) -> Iterator[SQLiteSnapshot]:
        """See :meth:`wsgi_tracker.storage.Storage.snapshot`."""
        with ExitStack() as slots, self._file.report(long=long) as connection:
            begin_long = partial(slots.enter_context, self._file.long_slot())
            yield SQLiteSnapshot(connection, unread, None if long else begin_long)

    def set_retention(self, days: int) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.set_retention`."""
        # Most processes find what another has stored, and need no lock. A writer that only read
        # would be kept, even one that was opened while nobody could write.
        with self._file.read() as connection:
            if (read_setting(connection, "retention_days") or FOR_EVER) == days:
                return
        with self._file.write() as connection:
            known = store_retention(connection, days)
        if known != days:
            logger.warning("retention_days is %s from now on, it was %s", days, known)

    def begin_purge(self, now: int, days: int | None) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.begin_purge`."""
        with self._file.read() as connection:
            if keeps_for_ever(connection, days):
                return False
        with self._file.writer() as connection:
            return begin_purge(connection, now, days)

    def purge(self, before: int | None = None) -> Iterator[None]:
        """See :meth:`wsgi_tracker.storage.Storage.purge`."""
        return self._steps(phases(before))

    def reclassify(self) -> Iterator[None]:
        """See :meth:`wsgi_tracker.storage.Storage.reclassify`."""
        classify, data = load_classifier(), data_version()
        if classify is None or data is None:
            raise ConfigurationError(f"user agents cannot be classified: {NO_CLASSES}")
        yield from self._steps([Reclassification(classify, data)])

    def _steps(self, phases: Iterable[Phase], *, erase: bool = False) -> Iterator[None]:
        """Take the steps of each phase until one returns False; others may write in between."""
        for phase in phases:
            more = True
            while more:
                with (
                    self._file.writer() as connection,
                    erasing(connection) if erase else nullcontext(),
                ):
                    more = phase(connection)
                yield

    def forget(self, user_hash: str) -> int:
        """See :meth:`wsgi_tracker.storage.Storage.forget`."""
        with self._file.read() as connection:
            (visits,) = connection.execute(COUNT_OF_USER, (user_hash,)).fetchone()
        for _ in self._steps(phases_for_user(user_hash), erase=True):
            pass
        self._file.empty_log()
        return int(visits)

    def close(self) -> None:
        """Close every connection; may be called twice, and used again afterwards."""
        self._file.close()
