"""The database file: opened with its schema, found to be replaced, and lent within transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

from ...errors import QueryTimeoutError, StorageError, logger
from .. import NotIngestedError
from .arrivals import CREATE_ARRIVALS
from .counters import prepare_counting
from .faults import storage_errors
from .intake import CREATE_BATCH
from .journeys import CREATE_JOURNEYS
from .migrations import migrate
from .packed import CREATE_PARTS
from .pool import ConnectionPool, PooledConnection, inode
from .schema import (
    SCHEMA_VERSION,
    create_schema,
    is_busy,
    make_file,
    other_schema,
    refuse_foreign,
    require_schema,
    schema_version,
    transaction,
    use_wal,
)
from .settings import note_replaced

NO_FILE = (0, 0)
# Workers that start together wait for the one that makes the schema; a request does not.
START_PATIENCE_SECONDS = 10.0
LOG_PATIENCE_SECONDS = 10.0
STEPS_PER_LOOK = 100_000  # of SQLite's machine, a few milliseconds


class Database:
    """One SQLite file, and this process's connections to it.

    ``make_secret`` returns the key of every ``user_hash`` where a new file is made. Who else writes
    is waited for as long as ``busy_seconds``; a report takes ``query_timeout_seconds`` at most.
    """

    def __init__(
        self,
        path: Path,
        make_secret: Callable[[], bytes],
        *,
        busy_seconds: float,
        query_timeout_seconds: float,
    ) -> None:
        self.path = path
        self._make_secret = make_secret
        self._busy_seconds = busy_seconds
        self._query_timeout_seconds = query_timeout_seconds
        self._patience_seconds = START_PATIENCE_SECONDS
        self._pool = ConnectionPool(path, self._connect)
        self._inode: tuple[int, int] | None = None

    def try_out(self) -> None:
        """Write nothing, but as if, and close it; raises what can keep it from being written.

        Not the turn of another writer, as who has the lock can write: where it is kept for long, who
        ingests says so.
        """
        try:
            make_file(self.path)
            with self._pool.writer() as connection:
                self._write_nothing(connection)
        finally:
            self._patience_seconds = self._busy_seconds
            self._pool.close()

    def _write_nothing(self, connection: PooledConnection) -> None:
        try:
            with transaction(connection):
                connection.execute("DELETE FROM counts WHERE 0")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise

    @contextmanager
    def report(self, *, long: bool = False) -> Iterator[PooledConnection]:
        """Lend a reader as :meth:`read` does, and interrupt it when the time for a report is over."""
        with self.read(long=long) as connection, self._in_time(connection):
            yield connection

    def long_slot(self) -> AbstractContextManager[None]:
        """Enter it where a report turns out to take long; nobody is waited for."""
        return self._pool.long_slot(0)

    @contextmanager
    def _in_time(self, connection: PooledConnection) -> Iterator[None]:
        deadline = time.monotonic() + self._query_timeout_seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_PER_LOOK)
        try:
            yield
        except sqlite3.OperationalError as error:
            if "interrupted" not in str(error):
                raise
            raise QueryTimeoutError(
                f"this takes longer than query_timeout_seconds, {self._query_timeout_seconds:g}: "
                f"ask about a shorter time, or fewer filters at once"
            ) from error
        finally:
            connection.set_progress_handler(None, 0)

    @contextmanager
    def read(self, *, long: bool = False) -> Iterator[PooledConnection]:
        """Lend a reader within one transaction, so that what is read is of one moment.

        ``long`` is what may take seconds.
        """
        put_off = None
        with storage_errors(self.path), self._pool.reader(long=long) as connection:
            connection.execute("BEGIN")
            require_schema(connection)
            try:
                yield connection
            except NotIngestedError as error:  # no fault of the connection
                put_off = error
            connection.execute("COMMIT")
        if put_off is not None:
            raise put_off

    @contextmanager
    def write(self) -> Iterator[PooledConnection]:
        """Lend the writer, within one transaction."""
        with self.writer() as connection, transaction(connection):
            yield connection

    @contextmanager
    def writer(self) -> Iterator[PooledConnection]:
        """Lend the writer, for several transactions."""
        with storage_errors(self.path), self._pool.writer() as connection:
            yield connection

    def require_current(self, connection: PooledConnection) -> None:
        """Raise :exc:`StorageError` if what was written went to a file that is not there now."""
        if not self._pool.is_current(connection):
            self._inode = NO_FILE  # its number may be given to the new one
            raise StorageError(f"{self.path} was deleted or replaced meanwhile")

    def generation(self) -> object:
        """Return what differs once another file stands in the place of this one."""
        return inode(self.path)

    def secret(self) -> bytes:
        """Return the key of every ``user_hash``."""
        # On a connection of its own, whatever the schema: visits must be encoded even where they
        # cannot be stored until an upgrade is complete. It is asked for in a request: no waiting.
        with storage_errors(self.path), closing(self._open(timeout_seconds=0.05)) as connection:
            refuse_foreign(connection)
            if not schema_version(connection):
                create_schema(connection, self._make_secret, patience_seconds=0)
            row = connection.execute("SELECT value FROM settings WHERE name = 'secret'").fetchone()
        if row is None:
            raise StorageError(f"{self.path} has no secret")
        return bytes(row[0])

    def empty_log(self) -> None:
        """Move all that is in the log to the file, and cut it; readers may be in the way."""
        deadline = time.monotonic() + LOG_PATIENCE_SECONDS
        while True:
            with self.writer() as connection:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{self.path} is being read all the time: what was deleted is still in "
                    f"its log; try again"
                )

    def checkpoint(self) -> None:
        """Move what is in the log to the file, in nobody's way."""
        with storage_errors(self.path):
            self._pool.checkpoint()

    def close(self) -> None:
        """Close every connection; may be called twice, and used again afterwards."""
        self._pool.close()

    def _connect(self, writing: bool) -> PooledConnection:
        connection = self._open()
        try:
            self._prepare(connection, writing)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, timeout_seconds: float | None = None) -> PooledConnection:
        if make_file(self.path) and self._inode:
            self._inode = NO_FILE  # its number may be given to the new one
        return sqlite3.connect(
            self.path,
            timeout=self._busy_seconds if timeout_seconds is None else timeout_seconds,
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
        # Who writes needs little, and no other folder than the database's; a report may sort millions.
        connection.execute(f"PRAGMA temp_store = {'MEMORY' if writing else 'FILE'}")
        connection.execute(CREATE_BATCH)
        if not writing:
            connection.execute(CREATE_ARRIVALS)
            connection.execute(CREATE_JOURNEYS)
            connection.execute("PRAGMA query_only = ON")
            return
        use_wal(connection)
        self._notice_new_file(connection)
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA wal_autocheckpoint = 10000")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        prepare_counting(connection)
        connection.executescript(CREATE_PARTS)

    def _notice_new_file(self, connection: PooledConnection) -> None:
        current = inode(self.path)
        if self._inode not in (None, current):
            note_replaced(connection, time.time_ns() // 1000)
            logger.warning(
                "%s was deleted or replaced: visits go to what is there now, with all that is in "
                "the spool; if it came from elsewhere, restart every process, as it has a secret of "
                "user_hash of its own",
                self.path,
            )
        self._inode = current
