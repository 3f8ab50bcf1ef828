"""A copy of the whole database of one moment, made while others write."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ...errors import ConfigurationError, StorageError


def copy_database(connection: sqlite3.Connection, file: Path) -> None:
    """Copy to ``file``, which must not be there, and only its owner may read.

    In one step, as SQLite begins anew when others write between two; of a database in WAL mode it
    shows one moment and keeps nobody from writing.
    """
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise ConfigurationError(f"{file} exists already: a backup overwrites nothing") from error
    except OSError as error:
        raise ConfigurationError(f"a backup cannot be written to {file}: {error}") from error
    try:
        with closing(sqlite3.connect(file)) as copy:
            connection.backup(copy)
    except BaseException as error:
        file.unlink(missing_ok=True)
        if isinstance(error, sqlite3.Error):  # of the copy's disk, rather than the database's
            raise StorageError(f"a backup cannot be written to {file}: {error}") from error
        raise
