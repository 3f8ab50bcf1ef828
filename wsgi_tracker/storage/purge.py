"""Delete what is older than the floor, in steps too small to be in anybody's way.

Visits go first, the oldest before others, and with them the users and endpoints that have none
left. No index tells whether a path or another string is still used, as it would cost every visit.
So what remains is read once, in ranges of ids and outside of transactions, and what is used noted
in temporary tables of the writer; strings that are not used then go, a few at a time.

That is sound because visits come with ascending ids: in the transaction that deletes strings, the
visits that came since are looked at too. Whatever else can change a visit, or give an id anew,
raises 'changes' in the settings, and nothing more is deleted until the next purge reads again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from ..period import DAY, HOUR
from .schema import transaction

# The most that a step takes on; where one took long, the next take less.
VISITS_PER_STEP = 500
READ_PER_STEP = 5_000
STRINGS_PER_STEP = 500
LONG_SECONDS = 0.015
PAGES_PER_STEP = 100
# What ingest fills again within the hour need not be moved to the file's end and cut off.
KEEP_FREE_PAGES = 1 / 100
INTERVAL = HOUR
FOR_EVER = 0

Phase: TypeAlias = Callable[[sqlite3.Connection], bool]

_STRINGS = {
    "paths": "path_id",
    "ip_addresses": "ip_address_id",
    "user_agents": "user_agent_id",
    "referers": "referer_id",
    "hosts": "host_id",
}
_BEFORE_ALL = -(2**63)

CREATE_GOING = """
CREATE TEMP TABLE IF NOT EXISTS going (id INTEGER PRIMARY KEY, endpoint_id, user_id)"""
CHOOSE_VISITS = """
INSERT INTO temp.going SELECT id, endpoint_id, user_id FROM visits
WHERE timestamp < (SELECT value FROM settings WHERE name = 'floor')
ORDER BY timestamp LIMIT ?"""
DELETE_VISITS = (
    "DELETE FROM visits WHERE id IN (SELECT id FROM temp.going)",
    *(
        f"DELETE FROM {table} WHERE id IN (SELECT {column} FROM temp.going) "
        f"AND NOT EXISTS (SELECT 1 FROM visits WHERE visits.{column} = {table}.id)"
        for table, column in {"users": "user_id", "endpoints": "endpoint_id"}.items()
    ),
    "INSERT INTO settings (name, value) VALUES ('unswept', 1) "
    "ON CONFLICT (name) DO UPDATE SET value = value + 1",
)
# What was true when reading began stands beside what was read, so that both are lost together.
CREATE_READING = """
CREATE TEMP TABLE reading AS SELECT :start AS upto,
    (SELECT value FROM settings WHERE name = 'changes') AS changes,
    (SELECT value FROM settings WHERE name = 'unswept') AS unswept"""
HAS_NOTES = "SELECT EXISTS (SELECT 1 FROM sqlite_temp_master WHERE name = 'reading')"
NOTES_HOLD = """
SELECT unswept IS NOT NULL AND changes IS (SELECT value FROM settings WHERE name = 'changes')
FROM temp.reading"""
END_OF_RANGE = "SELECT max(id), count(*) FROM (SELECT id FROM {} WHERE id > ? ORDER BY id LIMIT ?)"


def read_setting(connection: sqlite3.Connection, name: str) -> int | None:
    """Return a number that is kept in the settings, if there is one."""
    row = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def _write_setting(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _forget_setting(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("DELETE FROM settings WHERE name = ?", (name,))


def first_shown(connection: sqlite3.Connection, start: int) -> int:
    """Return where a window begins that would begin at ``start``: never before the floor."""
    return max(start, read_setting(connection, "floor") or 0)


def store_retention(connection: sqlite3.Connection, days: int | None) -> int | None:
    """Note for how long visits are kept; return what held before."""
    known = read_setting(connection, "retention_days") or None
    _write_setting(connection, "retention_days", days or FOR_EVER)
    if known != days:
        _forget_setting(connection, "purged_at")
        if days is None or (known is not None and days > known):
            # A purge that is under way ends here: it deletes nothing but what is below the floor.
            _forget_setting(connection, "floor")
    return known


def begin_purge(connection: sqlite3.Connection, now: int, days: int | None) -> bool:
    """Set the floor, unless visits are kept for ever or a purge began within the hour.

    ``days`` is for a database that was never told. One transaction for all of it: a retention
    that another process sets comes before, or after and takes the floor away.
    """
    known = read_setting(connection, "retention_days")
    if not (days if known is None else known):
        return False
    with transaction(connection):
        if read_setting(connection, "retention_days") is None:
            store_retention(connection, days)
        known = read_setting(connection, "retention_days")
        began = read_setting(connection, "purged_at")
        if not known or (began is not None and 0 <= now - began < INTERVAL):
            return False
        _write_setting(connection, "purged_at", now)
        _write_setting(connection, "floor", max(0, now - known * DAY))
    return True


class Pace:
    """How much a step takes on, so that it is short on a slow or busy machine too."""

    def __init__(self, most: int) -> None:
        self.rows = self._most = most

    @contextmanager
    def timed(self) -> Iterator[int]:
        """Yield the number of rows for this step, and learn from the time that it takes."""
        began = time.monotonic()
        yield self.rows
        took = time.monotonic() - began
        if took > LONG_SECONDS:
            self.rows = max(1, self.rows // 2)
        elif took < LONG_SECONDS / 2:
            self.rows = min(self._most, self.rows + self.rows // 4 + 1)


def phases(before: int | None = None) -> Iterator[Phase]:
    """Yield what a purge consists of; each is called with the writer until it returns False.

    Between two calls others may write.
    """
    if before is not None:
        yield partial(set_floor, before)
    yield partial(delete_visits, Pace(VISITS_PER_STEP))
    yield begin_reading
    reading = Pace(READ_PER_STEP)
    yield partial(read_visits, reading)
    for table in _STRINGS:
        yield _sweeper(table, reading)
    yield end_sweep
    yield give_pages_back


def set_floor(before: int, connection: sqlite3.Connection) -> bool:
    """Show and keep nothing older than ``before`` from now on."""
    with transaction(connection):
        _write_setting(connection, "floor", before)
    return False


def delete_visits(pace: Pace, connection: sqlite3.Connection) -> bool:
    """Delete the oldest visits below the floor, and the users and endpoints they leave behind."""
    connection.execute(CREATE_GOING)
    with transaction(connection), pace.timed() as limit:
        connection.execute("DELETE FROM temp.going")
        chosen = connection.execute(CHOOSE_VISITS, (limit,)).rowcount
        if chosen:
            for statement in DELETE_VISITS:
                connection.execute(statement)
    return chosen == limit


def begin_reading(connection: sqlite3.Connection) -> bool:
    """Make the tables that take note of which strings are used."""
    _drop_notes(connection)
    for table in _STRINGS:
        connection.execute(f"CREATE TEMP TABLE used_{table} (id INTEGER PRIMARY KEY)")
    connection.execute(CREATE_READING, {"start": _BEFORE_ALL})
    return False


def _drop_notes(connection: sqlite3.Connection) -> None:
    for table in ("reading", *(f"used_{table}" for table in _STRINGS)):
        connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


def read_visits(pace: Pace, connection: sqlite3.Connection) -> bool:
    """Take note of the strings of some more visits, if any were deleted since the last sweep."""
    if not _can_sweep(connection):
        return False
    with pace.timed() as limit:
        return _read_visits(connection, limit)


def _can_sweep(connection: sqlite3.Connection) -> bool:
    """Return whether there is anything to sweep, and what was read before still holds."""
    # A fork closes the writer, and with it the notes: then the next purge sweeps.
    if not connection.execute(HAS_NOTES).fetchone()[0]:
        return False
    return bool(connection.execute(NOTES_HOLD).fetchone()[0])


def _read_visits(connection: sqlite3.Connection, limit: int) -> bool:
    (start,) = connection.execute("SELECT upto FROM temp.reading").fetchone()
    end, rows = connection.execute(END_OF_RANGE.format("visits"), (start, limit)).fetchone()
    if not rows:
        return False
    for table, column in _STRINGS.items():
        connection.execute(
            f"INSERT OR IGNORE INTO temp.used_{table} SELECT {column} FROM visits "
            f"WHERE id > ? AND id <= ? AND {column} IS NOT NULL",
            (start, end),
        )
    connection.execute("UPDATE temp.reading SET upto = ?", (end,))
    return bool(rows == limit)


def _sweeper(table: str, reading: Pace) -> Phase:
    """Return the phase that deletes the strings of ``table`` that no visit uses."""
    start: int = _BEFORE_ALL
    pace = Pace(STRINGS_PER_STEP)
    statement = (
        f"DELETE FROM {table} WHERE id > ? AND id <= ? "
        f"AND NOT EXISTS (SELECT 1 FROM temp.used_{table} AS used WHERE used.id = {table}.id)"
    )

    def sweep(connection: sqlite3.Connection) -> bool:
        nonlocal start
        # Nearly all that came meanwhile is read before the lock is taken.
        if read_visits(reading, connection):
            return True
        with transaction(connection), pace.timed() as limit:
            if not _can_sweep(connection):
                return False
            _read_visits(connection, -1)
            end, rows = connection.execute(END_OF_RANGE.format(table), (start, limit)).fetchone()
            connection.execute(statement, (start, end))
        start = end
        return bool(rows == limit)

    return sweep


def end_sweep(connection: sqlite3.Connection) -> bool:
    """Note that no string is left over, if that is so."""
    with transaction(connection):
        if _can_sweep(connection):
            connection.execute(
                "DELETE FROM settings WHERE name = 'unswept' "
                "AND value = (SELECT unswept FROM temp.reading)"
            )
    _drop_notes(connection)
    return False


def give_pages_back(connection: sqlite3.Connection) -> bool:
    """Shorten the file by some of its free pages."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    excess = min(PAGES_PER_STEP, free - int(pages * KEEP_FREE_PAGES))
    if excess <= 0:
        return False
    # execute() would stop after the first page.
    connection.executescript(f"PRAGMA incremental_vacuum({excess})")
    (left,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(left < free)
