"""Visits in one SQLite file, written by one connection at a time, whatever the number of workers.

Lines go in as one JSON array: SQLite reads it outside the GIL, where a loop of inserts would take
it back for every row.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from ..endpoints import OTHER, UNMATCHED
from ..errors import ConfigurationError, StorageError, logger
from ..period import DAY, HOUR, Granularity, bucket_start
from ..reports import EndpointStats, Summary, TrendBucket
from ..visit import FIELDS, Visit
from . import FINISHED, Batch, KeepRejected, ReadBatch
from .lines import load_readable
from .pool import ConnectionPool, PooledConnection

SCHEMA_VERSION = 1
OLDEST_SQLITE = (3, 34, 0)
BUSY_TIMEOUT_MS = 500
PATIENCE_SECONDS = 10.0
FORGET_SEGMENT_SECONDS = 30 * 86400
LAST_TIMESTAMP = 253402300799999999  # the end of the year 9999

_TEXT = "user_hash method endpoint path error ip_address user_agent referer host".split()
_REQUIRED = ("timestamp", "user_hash", "method", "endpoint")


def _batch_column(name: str) -> str:
    kind = "text" if name in _TEXT else "integer"
    check = f"typeof({name}) = '{kind}'"
    if name == "timestamp":
        check += f" AND timestamp BETWEEN 0 AND {LAST_TIMESTAMP}"
    if name not in _REQUIRED:
        check = f"{name} IS NULL OR {check}"
    return f"{name} CHECK ({check})"


CREATE_BATCH = f"CREATE TEMP TABLE batch ({', '.join(map(_batch_column, FIELDS))})"
FILL_BATCH = (
    f"INSERT INTO temp.batch ({', '.join(FIELDS)}) SELECT "
    + ", ".join(f"json_extract(value, '$.{name}')" for name in FIELDS)
    + " FROM json_each(?)"
)
# Endpoints that are new, beyond how many there may be, become one; their path is kept.
FOLD_ENDPOINTS = f"""
UPDATE temp.batch SET path = coalesce(path, endpoint), endpoint = '{OTHER}'
WHERE endpoint IN (
    SELECT endpoint FROM temp.batch
    WHERE endpoint NOT IN ('{OTHER}', '{UNMATCHED}')
    AND NOT EXISTS (SELECT 1 FROM endpoints WHERE endpoints.endpoint = batch.endpoint)
    GROUP BY endpoint ORDER BY min(rowid) LIMIT -1 OFFSET max(0, ?)
)"""
COUNT_ENDPOINTS = f"""
SELECT count(DISTINCT endpoint) FROM endpoints WHERE endpoint NOT IN ('{OTHER}', '{UNMATCHED}')"""
HAS_NEW_ENDPOINTS = """
SELECT EXISTS (SELECT 1 FROM temp.batch WHERE NOT EXISTS (
    SELECT 1 FROM endpoints WHERE endpoints.endpoint = batch.endpoint))"""
_STRINGS = {
    "users": "user_hash",
    "paths": "path",
    "ip_addresses": "ip_address",
    "user_agents": "user_agent",
    "referers": "referer",
    "hosts": "host",
}
INTERN = [
    "INSERT OR IGNORE INTO endpoints (endpoint, method) "
    "SELECT DISTINCT endpoint, method FROM temp.batch",
    *(
        f"INSERT OR IGNORE INTO {table} ({column}) "
        f"SELECT DISTINCT {column} FROM temp.batch WHERE {column} IS NOT NULL"
        for table, column in _STRINGS.items()
    ),
]
INSERT_VISITS = f"""
INSERT INTO visits (timestamp, status, duration_us, first_byte_us, bytes_sent, error, endpoint_id,
    {", ".join(f"{column.removesuffix('_hash')}_id" for column in _STRINGS.values())})
SELECT timestamp, status, duration_us, first_byte_us, bytes_sent, error,
    (SELECT id FROM endpoints
     WHERE endpoints.endpoint = batch.endpoint AND endpoints.method = batch.method),
    {
    ", ".join(
        f"(SELECT id FROM {table} WHERE {table}.{column} = batch.{column})"
        for table, column in _STRINGS.items()
    )
}
FROM temp.batch"""

STATS = """
SELECT endpoint, method, hits, users, first, last FROM (
    SELECT endpoint_id, count(*) AS hits, count(DISTINCT user_id) AS users,
        min(timestamp) AS first, max(timestamp) AS last
    FROM visits WHERE timestamp >= ? GROUP BY endpoint_id
) JOIN endpoints ON endpoints.id = endpoint_id
ORDER BY hits DESC, endpoint, method"""
SUMMARY = """
SELECT count(*), count(DISTINCT endpoint), count(DISTINCT user_id), min(timestamp), max(timestamp)
FROM visits JOIN endpoints ON endpoints.id = endpoint_id WHERE timestamp >= ?"""
BUCKETS = {
    Granularity.HOUR: f"timestamp / {HOUR}",
    Granularity.DAY: f"timestamp / {DAY}",
    Granularity.WEEK: f"(timestamp + {3 * DAY}) / {7 * DAY}",
    Granularity.MONTH: "strftime('%Y-%m', timestamp / 1000000, 'unixepoch')",
}
TRENDS = """
SELECT min(timestamp), count(*), count(DISTINCT user_id), count(DISTINCT endpoint)
FROM visits JOIN endpoints ON endpoints.id = endpoint_id WHERE timestamp >= ?
GROUP BY {bucket} ORDER BY 1 DESC"""
VISITS = f"""
SELECT timestamp_us, {", ".join(FIELDS[1:])} FROM user_visits
WHERE id IN (SELECT id FROM visits ORDER BY timestamp DESC, id DESC LIMIT ?)
ORDER BY timestamp_us DESC, id DESC"""


class SQLiteStorage:
    """A :class:`~wsgi_tracker.storage.Storage` in the file ``database``."""

    def __init__(self, database: Path, *, max_endpoints: int = 10_000) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise ConfigurationError(
                f"SQLite {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed, this Python has "
                f"{sqlite3.sqlite_version}; use a newer Python or operating system"
            )
        self.database = database
        self._max_endpoints = max_endpoints
        self._pool = ConnectionPool(database, self._connect)
        self._try()

    def _try(self) -> None:
        """Write nothing, but as if: what can never work is said now, to who configures it."""
        try:
            make_file(self.database)
            with self._pool.writer() as connection, transaction(connection):
                pass
        except StorageError as error:  # of a newer schema: an upgrade may be under way
            logger.error("visits wait in the spool: %s", error)
        except (sqlite3.DatabaseError, OSError) as error:
            if _is_busy(error):
                logger.warning("visits wait in the spool: %s", error)
                return
            raise ConfigurationError(
                f"{self.database} cannot be the database: {error}; choose a path in an existing "
                f"folder that this process may write to, which is a SQLite database or nothing yet"
            ) from error
        finally:
            self._pool.close()

    def ingest(self, read: ReadBatch, keep_rejected: KeepRejected, *, durable: bool) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.ingest`."""
        with _storage_errors(), self._pool.writer() as connection:
            # FULL syncs the log at COMMIT; it cannot be set within a transaction.
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with transaction(connection):
                batch = read(_positions(connection))
                if batch.data:
                    self._store(connection, batch, keep_rejected)
                _write_positions(connection, batch)
                _add_counts(connection, batch.counts)

    def _store(
        self, connection: PooledConnection, batch: Batch, keep_rejected: KeepRejected
    ) -> None:
        connection.execute("DELETE FROM temp.batch")

        def load(array: str, lines: int) -> bool:
            return _load(connection, array, lines)

        rejected = load_readable(batch.data, load)
        if rejected:
            keep_rejected(rejected)
            batch.counts["rejected"] += len(rejected)
        if connection.execute(HAS_NEW_ENDPOINTS).fetchone()[0]:
            (known,) = connection.execute(COUNT_ENDPOINTS).fetchone()
            connection.execute(FOLD_ENDPOINTS, (self._max_endpoints - known,))
        for statement in INTERN:
            connection.execute(statement)
        batch.counts["recorded"] += connection.execute(INSERT_VISITS).rowcount

    def positions(self) -> Mapping[str, int]:
        """See :meth:`wsgi_tracker.storage.Storage.positions`."""
        with self._read() as connection:
            return _positions(connection)

    def secret(self) -> bytes:
        """See :meth:`wsgi_tracker.storage.Storage.secret`."""
        with self._read() as connection:
            row = connection.execute("SELECT value FROM settings WHERE name = 'secret'").fetchone()
        if row is None:
            raise StorageError(f"{self.database} has no secret")
        return bytes(row[0])

    def stats(self, start: int) -> list[EndpointStats]:
        """See :meth:`wsgi_tracker.storage.Storage.stats`."""
        with self._read() as connection:
            return [EndpointStats(*row) for row in connection.execute(STATS, (start,))]

    def summary(self, start: int) -> Summary:
        """See :meth:`wsgi_tracker.storage.Storage.summary`."""
        with self._read() as connection:
            return Summary(*connection.execute(SUMMARY, (start,)).fetchone())

    def trends(self, start: int, granularity: Granularity) -> list[TrendBucket]:
        """See :meth:`wsgi_tracker.storage.Storage.trends`."""
        statement = TRENDS.format(bucket=BUCKETS[granularity])
        with self._read() as connection:
            return [
                TrendBucket(granularity, bucket_start(granularity, first), hits, users, endpoints)
                for first, hits, users, endpoints in connection.execute(statement, (start,))
            ]

    def visits(self, limit: int) -> list[Visit]:
        """See :meth:`wsgi_tracker.storage.Storage.visits`."""
        with self._read() as connection:
            return [Visit(*row) for row in connection.execute(VISITS, (limit,))]

    def close(self) -> None:
        """Close every connection; may be called twice, and used again afterwards."""
        self._pool.close()

    @contextmanager
    def _read(self) -> Iterator[PooledConnection]:
        """Lend a reader within one transaction, so that a report sees one moment."""
        with _storage_errors(), self._pool.reader() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def _connect(self, writing: bool) -> PooledConnection:
        if not self.database.exists():
            make_file(self.database)
        connection = sqlite3.connect(
            self.database,
            timeout=BUSY_TIMEOUT_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=PooledConnection,
        )
        try:
            self._prepare(connection, writing)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: PooledConnection, writing: bool) -> None:
        # What is no UTF-8 was put in by hand; a report must not fail on it.
        connection.text_factory = lambda data: data.decode("utf-8", "replace")
        version = _schema_version(connection)
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self.database} has schema {version}, this wsgi_tracker knows {SCHEMA_VERSION}: "
                f"install the newer release again"
            )
        if not version:
            create_schema(connection)
        if not writing:
            connection.execute("PRAGMA query_only = ON")
            return
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA wal_autocheckpoint = 10000")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        connection.execute(CREATE_BATCH)


def make_file(database: Path) -> None:
    """Create an empty database that only its owner can read, unless there is one.

    It is made under another name: closing a descriptor of the real one would drop the locks that
    SQLite holds on it in this process (SQLite, "How To Corrupt", section 2.2).
    """
    if database.exists():
        return
    temporary = database.with_name(f".{database.name}-{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.link(temporary, database)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


def create_schema(connection: sqlite3.Connection) -> None:
    """Make tables and secret; several processes may try at once."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            # In this order, and outside a transaction: WAL fixes the file's layout.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # Changing the journal mode does not wait for busy_timeout.
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    with transaction(connection):
        if _schema_version(connection):
            return  # another process was first
        for statement in _statements(files(__package__).joinpath("schema.sql").read_text()):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO settings (name, value) VALUES ('secret', ?)", (secrets.token_bytes(32),)
        )
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _statements(script: str) -> Iterator[str]:
    """Split a script; ``executescript`` would commit the transaction around it."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _schema_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write in one transaction; IMMEDIATE, as one that reads first is refused at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Let no driver's exception out."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(str(error)) from error
    except OSError as error:
        raise StorageError(str(error)) from error


def _is_busy(error: Exception) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _load(connection: sqlite3.Connection, array: str, lines: int) -> bool:
    """Add ``lines`` visits to the batch, all or none."""
    try:
        cursor = connection.execute(FILL_BATCH, (array,))
    except sqlite3.OperationalError as error:
        if "JSON" not in str(error):
            raise
        return False
    except sqlite3.IntegrityError:
        return False
    if cursor.rowcount == lines:
        return True
    connection.execute(
        "DELETE FROM temp.batch WHERE rowid > (SELECT max(rowid) FROM temp.batch) - ?",
        (cursor.rowcount,),
    )
    return False


def _positions(connection: sqlite3.Connection) -> dict[str, int]:
    rows = connection.execute("SELECT id, position, finished_at FROM segments")
    return {id: position if finished is None else FINISHED for id, position, finished in rows}


def _write_positions(connection: sqlite3.Connection, batch: Batch) -> None:
    now = int(time.time())
    connection.executemany(
        "INSERT INTO segments (id, position) VALUES (?, ?) "
        "ON CONFLICT (id) DO UPDATE SET position = excluded.position",
        batch.positions.items(),
    )
    connection.executemany(
        "INSERT INTO segments (id, position, finished_at) VALUES (?1, 0, ?2) "
        "ON CONFLICT (id) DO UPDATE SET finished_at = ?2",
        [(segment, now) for segment in batch.finished],
    )
    connection.execute(
        "DELETE FROM segments WHERE finished_at < ?", (now - FORGET_SEGMENT_SECONDS,)
    )


def _add_counts(connection: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    connection.executemany(
        "INSERT INTO counts (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        counts.items(),
    )
