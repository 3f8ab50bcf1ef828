"""What a database is told once, by name: numbers of its own, and what applications agree on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from ...period import DAY


def read_setting(connection: sqlite3.Connection, name: str) -> int | None:
    """Return a number that is kept in the settings, if there is one."""
    row = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def write_setting(connection: sqlite3.Connection, name: str, value: int | str) -> None:
    """Give a setting this value, whatever it had."""
    connection.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def forget_setting(connection: sqlite3.Connection, name: str) -> None:
    """Leave a setting without a value."""
    connection.execute("DELETE FROM settings WHERE name = ?", (name,))


def read_settings(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, str]:
    """Return the values of those settings that have one."""
    rows = connection.execute(
        "SELECT name, value FROM settings WHERE name IN (SELECT value FROM json_each(?))",
        (json.dumps(list(names)),),
    )
    return dict(rows)


def keep_settings(connection: sqlite3.Connection, settings: Mapping[str, str]) -> dict[str, str]:
    """Give each of these settings its value unless it has one; return the values that hold."""
    if "timezone" in settings and "timezone" not in read_settings(connection, ["timezone"]):
        note_change(connection)  # what was counted was counted in UTC
    connection.executemany(
        "INSERT OR IGNORE INTO settings (name, value) VALUES (?, ?)", settings.items()
    )
    return read_settings(connection, settings)


def note_replaced(connection: sqlite3.Connection, now: int) -> None:
    """Note when this file took the place of another; each process notices in its own time."""
    connection.execute(
        "INSERT INTO settings (name, value) VALUES ('replaced_at', ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value < excluded.value - ?",
        (now, DAY),
    )


def configure_settings(connection: sqlite3.Connection, settings: Mapping[str, str | None]) -> None:
    """Give settings these values, ``None`` for none; what was counted may hold no more."""
    for name, value in settings.items():
        if value is None:
            forget_setting(connection, name)
        else:
            write_setting(connection, name, value)
    if "timezone" in settings:
        note_change(connection)


def note_change(connection: sqlite3.Connection) -> None:
    """Let who has read visits, or counted them, know that what they found no more holds."""
    connection.execute("UPDATE settings SET value = value + 1 WHERE name = 'changes'")


@contextmanager
def no_change(connection: sqlite3.Connection) -> Iterator[None]:
    """Take back what is noted within as a change: what visits tell is the same after it."""
    known = read_setting(connection, "changes")
    yield
    if known is not None:
        write_setting(connection, "changes", known)
