"""The database file and its schema: made once, by whichever process comes first."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from ...errors import StorageError

SCHEMA_VERSION = 6
# In one statement, as another process may be making ours. Other programs number their schemas, too.
IS_FOREIGN = """
SELECT EXISTS (SELECT 1 FROM sqlite_master) AND (
    (SELECT user_version FROM pragma_user_version) = 0
    OR NOT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'user_visits'))"""
MAKER_PATIENCE_SECONDS = 1.0


def make_file(database: Path) -> bool:
    """Create an empty database that only its owner can read, unless there is one; say if it did.

    It is made under another name: closing a descriptor of the real one would drop the locks that
    SQLite holds on it in this process (SQLite, "How To Corrupt", section 2.2).
    """
    if database.exists():
        return False
    with _maker_lock(database.parent):
        if database.exists():
            return False
        _remove_leftovers(database)
        temporary = database.with_name(f".{database.name}-{secrets.token_hex(8)}")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:  # it is the folder that is closed to us
            raise OSError(error.errno, error.strerror, str(database.parent)) from error
        try:
            with suppress(FileExistsError):
                os.link(temporary, database)
        finally:
            os.unlink(temporary)
    return True


def _remove_leftovers(database: Path) -> None:
    """Remove the log and the shared memory of a database that was deleted alone.

    Who still has that open would share them with the new one, which then fails with a disk I/O
    error until the last of them closes it. The caller holds the maker's lock, and has seen under
    it that there is no database: once there is one, they may be its own.
    """
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)


@contextmanager
def _maker_lock(folder: Path) -> Iterator[None]:
    """Let nobody else make a database in ``folder``; nothing is left of it when a maker dies."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + MAKER_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.001)
        try:
            yield
        finally:
            # Not by closing it alone: a child may have been forked with it meanwhile.
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def refuse_foreign(connection: sqlite3.Connection) -> None:
    """Raise :exc:`sqlite3.DatabaseError`, before any change, where the database is not ours."""
    if connection.execute(IS_FOREIGN).fetchone()[0]:
        raise sqlite3.DatabaseError("its tables are another program's")


def create_schema(
    connection: sqlite3.Connection, make_secret: Callable[[], bytes], patience_seconds: float
) -> None:
    """Make tables and secret; several processes may try at once, and wait for each other."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            # In this order, and outside a transaction: WAL fixes the file's layout.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # Changing the journal mode does not wait for busy_timeout.
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    with transaction(connection, any_schema=True):
        if schema_version(connection):
            return  # another process was first
        for statement in _statements(files(__package__).joinpath("schema.sql").read_text()):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO settings (name, value) VALUES ('secret', ?)", (make_secret(),)
        )
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def use_wal(connection: sqlite3.Connection) -> None:
    """Have a database that was restored by ``VACUUM INTO`` write as one that was made here."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")


def _statements(script: str) -> Iterator[str]:
    """Split a script; ``executescript`` would commit the transaction around it."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the number of the schema; 0 before there is one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


@contextmanager
def transaction(connection: sqlite3.Connection, *, any_schema: bool = False) -> Iterator[None]:
    """Write in one transaction; IMMEDIATE, as one that reads first is refused at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not any_schema:
            require_schema(connection)
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def require_schema(connection: sqlite3.Connection) -> None:
    """Raise :exc:`StorageError` if a newer release has changed the schema meanwhile.

    Asked within each transaction, as a process may run on beside one of that release.
    """
    version = schema_version(connection)
    if version != SCHEMA_VERSION:
        raise other_schema(connection, version)


def other_schema(connection: sqlite3.Connection, version: int) -> StorageError:
    """Return the error that says which schema is there, and what to do."""
    database = connection.execute("PRAGMA database_list").fetchone()[2]
    return StorageError(
        f"{database} has schema {version}, this wsgi_tracker knows {SCHEMA_VERSION}: install the "
        f"newer release again"
    )


def is_busy(error: Exception) -> bool:
    """Return whether another connection is in the way."""
    return isinstance(error, sqlite3.Error) and ("locked" in str(error) or "busy" in str(error))
