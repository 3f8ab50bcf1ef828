"""What is wrong with a database file, in words that say what to do about it.

Told apart by SQLite's texts: Python 3.10 does not pass its error codes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import StorageError

_ADVICE = {
    "locked": "another program holds {database}: if this lasts, end it (fuser {database} names it)",
    "full": "the disk of {database} is full: make room",
    "readonly": "{database} cannot be written to: give this process's user the right to write to "
    "it and to its folder, or mount its file system writable",
    "unable to open": "{database} cannot be opened: give this process's user the right to read and "
    "write it and its folder, or bring the folder back",
    "malformed": "{database} is damaged: stop all processes (fuser {database} names them), move it, "
    "its -wal and its -shm away, and start them; a new one takes what is in the spool, and sqlite3's "
    ".recover, or .dump, saves what is in the old one",
    "already exists": "{database} belongs to another program: move it away, or name another path",
    "disk I/O": "the disk of {database} fails, is full or is gone: see the system's log; or the "
    "file was replaced while others have the old one open: end them (fuser {database}-shm names "
    "them)",
    "temporarily unavailable": "another process makes {database}, or holds the lock of its folder: "
    "if this lasts, end it (fuser {database.parent} names it)",
}
_ADVICE["Permission denied"] = _ADVICE["unable to open"]
_ADVICE["Read-only"] = _ADVICE["readonly"]
_ADVICE["No space left"] = _ADVICE["full"]
_ADVICE["not a database"] = _ADVICE["malformed"]
_ADVICE["another program's"] = _ADVICE["already exists"]
_ADVICE["no such table"] = _ADVICE["already exists"]


# What befalls a database that was in order; anything else at start is a mistake in its name.
_PASSING = (
    "locked",
    "busy",
    "temporarily unavailable",
    "full",
    "No space left",
    "disk I/O",
    "malformed",
)


def is_passing(error: Exception) -> bool:
    """Return whether the right database is named, though it may never have been used."""
    return any(sign in _words(error) for sign in _PASSING)


def explain(error: Exception, database: Path) -> str:
    """Return what ``error`` says and, where that is known, what helps."""
    for sign, advice in _ADVICE.items():
        if sign in _words(error):
            return f"{error}; {advice.format(database=database)}"
    return str(error)


def _words(error: Exception) -> str:
    """Return what the error says, without a file's name, which may hold any word."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


@contextmanager
def storage_errors(database: Path) -> Iterator[None]:
    """Let no driver's exception out."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(explain(error, database)) from error
