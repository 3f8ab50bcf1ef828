"""Visits in one SQLite file: one connection writes, whatever the number of workers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

from ..agents import NO_CLASSES, ClassFilter, data_version, load_classifier
from ..errors import ConfigurationError, Outage, StorageError, logger
from ..period import Granularity
from ..reports import EndpointStats, Summary, TrendBucket
from ..visit import Visit
from . import KeptLines, ReadBatch, StorageFacts, raw
from .classes import Decisions, Reclassification
from .facts import is_readable_by_others, read_facts
from .faults import explain, is_passing, storage_errors
from .intake import CREATE_BATCH, forget_segments, read_positions, store_batch
from .migrations import migrate
from .pool import ConnectionPool, PooledConnection, inode
from .purge import (
    COUNT_OF_USER,
    FOR_EVER,
    Phase,
    begin_purge,
    erasing,
    first_shown,
    keeps_for_ever,
    phases,
    phases_for_user,
    store_retention,
)
from .schema import (
    SCHEMA_VERSION,
    create_schema,
    make_file,
    other_schema,
    refuse_foreign,
    require_schema,
    schema_version,
    transaction,
    use_wal,
)
from .settings import (
    forget_setting,
    keep_settings,
    note_replaced,
    read_setting,
    read_settings,
    write_setting,
)

OLDEST_SQLITE = (3, 34, 0)
NO_FILE = (0, 0)
BUSY_TIMEOUT_SECONDS = 0.5
# Workers that start together wait for the one that makes the schema; a request does not.
START_PATIENCE_SECONDS = 10.0
FORGET_EVERY_SECONDS = 3600.0
LOG_PATIENCE_SECONDS = 10.0


class SQLiteStorage:
    """A :class:`~wsgi_tracker.storage.Storage` in the file ``database``."""

    def __init__(
        self,
        database: Path,
        *,
        max_endpoints: int,
        make_secret: Callable[[], bytes],
        used_before: bool,
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigurationError(
                f"SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed, this Python has "
                f"{sqlite3.sqlite_version}; use a newer Python or operating system"
            )
        self.database = database
        self.outage = Outage("visits wait in the spool")
        self._max_endpoints = max_endpoints
        self._make_secret = make_secret
        self._patience_seconds = START_PATIENCE_SECONDS
        self._pool = ConnectionPool(database, self._connect)
        self._inode: tuple[int, int] | None = None
        self._forget_at = 0.0
        self._decisions = Decisions()
        self._try(used_before)
        self._patience_seconds = BUSY_TIMEOUT_SECONDS
        if is_readable_by_others(database):
            logger.warning("other users of this host can read %s: chmod 600 it", database)

    def _try(self, used_before: bool) -> None:
        """Write nothing, but as if: what can never work is said now, to who configures it.

        What worked before can work again: an application must start meanwhile.
        """
        try:
            make_file(self.database)
            with self._pool.writer() as connection, transaction(connection):
                connection.execute("DELETE FROM counts WHERE 0")
        except StorageError as error:  # of a newer schema: an upgrade may be under way
            self.outage.report(str(error))
        except (sqlite3.DatabaseError, OSError) as error:
            if not used_before and not is_passing(error):
                raise ConfigurationError(
                    f"{self.database} cannot be the database: {error}; choose a path in an "
                    f"existing folder that this process may write to, which is a database of "
                    f"wsgi_tracker or nothing yet"
                ) from error
            self.outage.report(explain(error, self.database))
        finally:
            self._pool.close()

    def ingest(
        self,
        segments: Sequence[str],
        read: ReadBatch,
        *,
        durable: bool,
        kept: KeptLines = nullcontext,
    ) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.ingest`."""
        with storage_errors(self.database), self._pool.writer() as connection:
            # FULL syncs the log at COMMIT; it cannot be set within a transaction.
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with ExitStack() as keeping:
                with transaction(connection):
                    batch = read(read_positions(connection, segments))
                    rejected = store_batch(connection, batch, self._max_endpoints)
                    self._forget_segments(connection)
                    self._decisions.within(connection)
                    if rejected:
                        keeping.enter_context(kept(rejected))
                if not self._pool.is_current(connection):
                    self._inode = NO_FILE  # its number may be given to the new one
                    raise StorageError(f"{self.database} was deleted or replaced meanwhile")
            self._decisions.after(connection)

    def _forget_segments(self, connection: sqlite3.Connection) -> None:
        now = time.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_SECONDS
            forget_segments(connection)

    def generation(self) -> object:
        """See :meth:`wsgi_tracker.storage.Storage.generation`."""
        return inode(self.database)

    def positions(self, segments: Sequence[str]) -> Mapping[str, int]:
        """See :meth:`wsgi_tracker.storage.Storage.positions`."""
        with self._read() as connection:
            return read_positions(connection, segments)

    def facts(self, segments: Sequence[str]) -> StorageFacts:
        """See :meth:`wsgi_tracker.storage.Storage.facts`."""
        with self._read() as connection:
            return read_facts(connection, self.database, segments)

    def secret(self) -> bytes:
        """See :meth:`wsgi_tracker.storage.Storage.secret`."""
        # On a connection of its own, whatever the schema: visits must be encoded even where they
        # cannot be stored until an upgrade is complete. It is asked for in a request: no waiting.
        with storage_errors(self.database), closing(self._open(timeout_seconds=0.05)) as connection:
            refuse_foreign(connection)
            if not schema_version(connection):
                create_schema(connection, self._make_secret, patience_seconds=0)
            row = connection.execute("SELECT value FROM settings WHERE name = 'secret'").fetchone()
        if row is None:
            raise StorageError(f"{self.database} has no secret")
        return bytes(row[0])

    def declare(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        """See :meth:`wsgi_tracker.storage.Storage.declare`."""
        with self._read() as connection:
            known = read_settings(connection, settings)
        if len(known) < len(settings):
            with self._write() as connection:
                known = keep_settings(connection, settings)
        return known

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.configure`."""
        with self._write() as connection:
            for name, value in settings.items():
                if value is None:
                    forget_setting(connection, name)
                else:
                    write_setting(connection, name, value)

    def stats(self, start: int, only: ClassFilter | None = None) -> list[EndpointStats]:
        """See :meth:`wsgi_tracker.storage.Storage.stats`."""
        with self._read() as connection:
            return raw.stats(connection, first_shown(connection, start), only)

    def summary(self, start: int, only: ClassFilter | None = None) -> Summary:
        """See :meth:`wsgi_tracker.storage.Storage.summary`."""
        with self._read() as connection:
            return raw.summary(connection, first_shown(connection, start), only)

    def trends(
        self, start: int, granularity: Granularity, only: ClassFilter | None = None
    ) -> list[TrendBucket]:
        """See :meth:`wsgi_tracker.storage.Storage.trends`."""
        with self._read() as connection:
            return raw.trends(connection, first_shown(connection, start), granularity, only)

    def visits(self, limit: int, only: ClassFilter | None = None) -> list[Visit]:
        """See :meth:`wsgi_tracker.storage.Storage.visits`."""
        with self._read() as connection:
            return raw.visits(connection, first_shown(connection, 0), limit, only)

    def set_retention(self, days: int) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.set_retention`."""
        # Most processes find what another has stored, and need no lock. A writer that only read
        # would be kept, even one that was opened while nobody could write.
        with self._read() as connection:
            if (read_setting(connection, "retention_days") or FOR_EVER) == days:
                return
        with self._write() as connection:
            known = store_retention(connection, days)
        if known != days:
            logger.warning("retention_days is %s from now on, it was %s", days, known)

    def begin_purge(self, now: int, days: int | None) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.begin_purge`."""
        with self._read() as connection:
            if keeps_for_ever(connection, days):
                return False
        with storage_errors(self.database), self._pool.writer() as connection:
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
                    storage_errors(self.database),
                    self._pool.writer() as connection,
                    erasing(connection) if erase else nullcontext(),
                ):
                    more = phase(connection)
                yield

    def forget(self, user_hash: str) -> int:
        """See :meth:`wsgi_tracker.storage.Storage.forget`."""
        with self._read() as connection:
            (visits,) = connection.execute(COUNT_OF_USER, (user_hash,)).fetchone()
        for _ in self._steps(phases_for_user(user_hash), erase=True):
            pass
        self._empty_log()
        return int(visits)

    def _empty_log(self) -> None:
        """Move all that is in the log to the file, and cut it; readers may be in the way."""
        deadline = time.monotonic() + LOG_PATIENCE_SECONDS
        while True:
            with storage_errors(self.database), self._pool.writer() as connection:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{self.database} is being read all the time: what was deleted is still in "
                    f"its log; try again"
                )

    def close(self) -> None:
        """Close every connection; may be called twice, and used again afterwards."""
        self._pool.close()

    def _notice_new_file(self, connection: PooledConnection) -> None:
        current = inode(self.database)
        if self._inode not in (None, current):
            note_replaced(connection, time.time_ns() // 1000)
            logger.warning(
                "%s was deleted or replaced: visits go to what is there now, with all that is in "
                "the spool; if it came from elsewhere, restart every process, as it has a secret of "
                "user_hash of its own",
                self.database,
            )
        self._inode = current

    @contextmanager
    def _read(self) -> Iterator[PooledConnection]:
        """Lend a reader within one transaction, so that a report sees one moment."""
        with storage_errors(self.database), self._pool.reader() as connection:
            connection.execute("BEGIN")
            require_schema(connection)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _write(self) -> Iterator[PooledConnection]:
        """Lend the writer, within one transaction."""
        with (
            storage_errors(self.database),
            self._pool.writer() as connection,
            transaction(connection),
        ):
            yield connection

    def _connect(self, writing: bool) -> PooledConnection:
        connection = self._open()
        try:
            self._prepare(connection, writing)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> PooledConnection:
        if make_file(self.database) and self._inode:
            self._inode = NO_FILE  # its number may be given to the new one
        return sqlite3.connect(
            self.database,
            timeout=timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=PooledConnection,
        )

    def _prepare(self, connection: PooledConnection, writing: bool) -> None:
        # What is no UTF-8 was put in by hand; a report must not fail on it.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        refuse_foreign(connection)
        version = schema_version(connection)
        if version > SCHEMA_VERSION:
            raise other_schema(connection, version)
        if not version:
            create_schema(connection, self._make_secret, self._patience_seconds)
        migrate(connection)
        if not writing:
            connection.execute("PRAGMA query_only = ON")
            return
        use_wal(connection)
        self._notice_new_file(connection)
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA wal_autocheckpoint = 10000")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        connection.execute(CREATE_BATCH)
