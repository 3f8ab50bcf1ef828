"""Delete what is older than the floor, in steps too small to be in anybody's way.

Visits go first, the oldest before others, and with them the users and endpoints that have none
left. No index tells whether a path or another string is still used, as it would cost every visit.
So what remains is read once, in ranges of ids and outside of transactions, and what is used is
noted; strings that are not used then go, a few at a time.

That is sound because visits come with ascending ids: in the transaction that deletes strings, the
visits that came since are looked at too. Whatever else can change a visit, or give an id anew,
raises 'changes' in the settings, and nothing more is deleted until the next purge reads again.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from ...errors import StorageError
from ...period import DAY, HOUR
from .schema import transaction
from .settings import forget_setting, no_change, note_change, read_setting, write_setting
from .uncount import FORGET_GONE, drop_buckets, stay_sound, uncount

# The most that a step takes on; where one took long, the next take less.
VISITS_PER_STEP = 250
READ_PER_STEP = 5_000
STRINGS_PER_STEP = 500
LONG_SECONDS = 0.015
PAGES_PER_STEP = 100
# What ingest fills again within the hour need not be moved to the file's end and cut off.
KEEP_FREE_PAGES = 1 / 100
INTERVAL = HOUR
LONGEST_LEAP = 2 * INTERVAL
FOR_EVER = 0
SWEEPS = 5  # of which others may each end one

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
WHERE {which} ORDER BY timestamp LIMIT ?"""
OLD_VISITS = "timestamp < (SELECT value FROM settings WHERE name = 'floor')"
COUNT_OF_USER = """
SELECT count(*) FROM visits WHERE user_id = (SELECT id FROM users WHERE user_hash = ?)"""
VISITS_OF_USER = "user_id = (SELECT id FROM users WHERE user_hash = ?)"
DELETE_VISITS = (
    "DELETE FROM visits WHERE id IN (SELECT id FROM temp.going)",
    *FORGET_GONE,
    *(
        f"DELETE FROM {table} WHERE id IN (SELECT {column} FROM temp.going) "
        f"AND NOT EXISTS (SELECT 1 FROM visits WHERE visits.{column} = {table}.id)"
        for table, column in {"users": "user_id", "endpoints": "endpoint_id"}.items()
    ),
    "INSERT INTO settings (name, value) VALUES ('unswept', 1) "
    "ON CONFLICT (name) DO UPDATE SET value = value + 1",
)
WRITE_ANEW = (
    "CREATE TABLE anew AS SELECT * FROM {table} ORDER BY id",
    "DELETE FROM {table}",
    "INSERT INTO {table} SELECT * FROM anew",
    "DROP TABLE anew",
    "REINDEX {table}",
)
# A new user agent may get the id of one that is gone: nobody has counted its visits.
FREE_AGENT_IDS = """
UPDATE settings SET value = min(value, coalesce((SELECT max(id) FROM user_agents), 0))
WHERE name = 'counted_agent_id'"""
END_OF_RANGE = "SELECT max(id), count(*) FROM (SELECT id FROM {} WHERE id > ? ORDER BY id LIMIT ?)"


def first_shown(connection: sqlite3.Connection, start: int) -> int:
    """Return where a window begins that would begin at ``start``: never before the floor."""
    return max(start, read_setting(connection, "floor") or 0)


def store_retention(connection: sqlite3.Connection, days: int) -> int:
    """Note for how long visits are kept; return what held before."""
    known = read_setting(connection, "retention_days") or FOR_EVER
    write_setting(connection, "retention_days", days)
    if known != days:
        forget_setting(connection, "purged_at")
        if known == FOR_EVER:
            forget_setting(connection, "purge_clock")
        elif days == FOR_EVER or days > known:
            # A purge that is under way ends here: it deletes nothing but what is below the floor.
            _write_floor(connection, 0)
    return known


def keeps_for_ever(connection: sqlite3.Connection, days: int | None) -> bool:
    """Return whether nothing is to be purged; ``days`` is for a database that was never told."""
    known = read_setting(connection, "retention_days")
    return not (days if known is None else known)


def begin_purge(connection: sqlite3.Connection, now: int, days: int | None) -> bool:
    """Set the floor, unless visits are kept for ever or a purge began within the hour.

    ``days`` is for a database that was never told. One transaction for all of it: a retention
    that another process sets comes before, or after and takes the floor away.
    """
    with transaction(connection):
        if days is not None and read_setting(connection, "retention_days") is None:
            store_retention(connection, days)
        known = read_setting(connection, "retention_days")
        began = read_setting(connection, "purged_at")
        if not known or (began is not None and 0 <= now - began < INTERVAL):
            return False
        write_setting(connection, "purged_at", now)
        _write_floor(connection, max(0, _believed(connection, now) - known * DAY))
    return True


def _write_floor(connection: sqlite3.Connection, floor: int) -> None:
    if floor < first_shown(connection, 0):
        note_change(connection)  # nothing is counted below the floor
    write_setting(connection, "floor", floor)


def _believed(connection: sqlite3.Connection, now: int) -> int:
    """Return ``now``, or less where the clock has leapt since the last purge.

    One that is a year ahead for a moment would have all visits deleted. Where it was no error but
    a pause, the next purge makes up for it.
    """
    last = read_setting(connection, "purge_clock")
    write_setting(connection, "purge_clock", now)
    return now if last is None else min(now, last + LONGEST_LEAP)


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
    yield partial(delete_visits, OLD_VISITS, (), Pace(VISITS_PER_STEP))
    yield drop_buckets
    yield from _sweep()


def phases_for_user(user_hash: str) -> Iterator[Phase]:
    """Yield what it takes to delete all visits of one user, and all that only they needed.

    Raises :exc:`StorageError` where others delete visits again and again meanwhile.
    """
    yield partial(delete_visits, VISITS_OF_USER, (user_hash,), Pace(VISITS_PER_STEP))
    for _ in range(SWEEPS):
        if (yield from _sweep()):
            break
    else:
        raise StorageError(
            "others delete visits, too: the user's are gone, but no strings; try again"
        )
    for table in ("users", "endpoints", *_STRINGS):
        yield partial(write_anew, table)
    yield give_pages_back


def _sweep() -> Generator[Phase, None, bool]:
    sweep = Sweep()
    yield sweep.begin
    yield sweep.read
    for table in _STRINGS:
        yield partial(sweep.delete, table)
    yield sweep.end
    yield give_pages_back
    return sweep.is_complete


def set_floor(before: int, connection: sqlite3.Connection) -> bool:
    """Show and keep nothing older than ``before`` from now on."""
    with transaction(connection):
        _write_floor(connection, before)
    return False


def delete_visits(
    which: str, values: tuple[str, ...], pace: Pace, connection: sqlite3.Connection
) -> bool:
    """Delete the oldest of these visits, and the users and endpoints that they leave behind."""
    connection.execute(CREATE_GOING)
    with pace.timed() as limit, transaction(connection):
        connection.execute("DELETE FROM temp.going")
        chosen = connection.execute(CHOOSE_VISITS.format(which=which), (*values, limit)).rowcount
        if chosen:
            is_sound = uncount(connection)
            for statement in DELETE_VISITS:
                connection.execute(statement)
            if is_sound:
                stay_sound(connection)
    return chosen == limit


class Ids:
    """A set of row ids, at a byte for each: rows that stand together have ids that do."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, id: int) -> None:
        """Put one in."""
        page = self._pages.get(id >> 12)
        if page is None:
            page = self._pages[id >> 12] = bytearray(4096)
        page[id & 4095] = 1

    def __contains__(self, id: int) -> bool:
        page = self._pages.get(id >> 12)
        return page is not None and page[id & 4095] == 1


class Sweep:
    """Delete the strings that no visit uses, if visits were deleted since the last sweep.

    What it has noted holds only for the file that has its mark, as long as 'changes' stays. Kept
    here and not in temporary tables, as a connection may be closed between any two steps.
    """

    def __init__(self) -> None:
        self._mark = secrets.randbits(62)
        self._used = {table: Ids() for table in _STRINGS}
        self._read_upto = _BEFORE_ALL
        self._deleted_upto = dict.fromkeys(_STRINGS, _BEFORE_ALL)
        self._reading = Pace(READ_PER_STEP)
        self._deleting = Pace(STRINGS_PER_STEP)
        self._changes: int | None = None
        self._unswept: int | None = None
        self.is_complete = False  # at its end: no string is left that was not used at its begin

    def begin(self, connection: sqlite3.Connection) -> bool:
        """Note what is true before reading begins."""
        with transaction(connection):
            write_setting(connection, "sweep", self._mark)
            self._changes = read_setting(connection, "changes")
            self._unswept = read_setting(connection, "unswept")
        return False

    def _can_go_on(self, connection: sqlite3.Connection) -> bool:
        return (
            self._unswept is not None
            and read_setting(connection, "sweep") == self._mark
            and read_setting(connection, "changes") == self._changes
        )

    def read(self, connection: sqlite3.Connection) -> bool:
        """Note the strings of some more visits."""
        if not self._can_go_on(connection):
            return False
        with self._reading.timed() as limit:
            return self._read(connection, limit)

    def _read(self, connection: sqlite3.Connection, limit: int) -> bool:
        start = self._read_upto
        end, rows = connection.execute(END_OF_RANGE.format("visits"), (start, limit)).fetchone()
        if not rows:
            return False
        for table, column in _STRINGS.items():
            add = self._used[table].add
            for (id,) in connection.execute(
                f"SELECT DISTINCT {column} FROM visits "
                f"WHERE id > ? AND id <= ? AND {column} IS NOT NULL",
                (start, end),
            ):
                add(id)
        self._read_upto = end
        return bool(rows == limit)

    def delete(self, table: str, connection: sqlite3.Connection) -> bool:
        """Delete some strings of ``table`` that no visit uses."""
        # Nearly all that came meanwhile is read before the lock is taken.
        if self.read(connection):
            return True
        with self._deleting.timed() as limit, transaction(connection):
            if not self._can_go_on(connection):
                return False
            self._read(connection, -1)
            ids = [
                id
                for (id,) in connection.execute(
                    f"SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?",
                    (self._deleted_upto[table], limit),
                )
            ]
            used = self._used[table]
            with no_change(connection):
                connection.executemany(
                    f"DELETE FROM {table} WHERE id = ?", [(id,) for id in ids if id not in used]
                )
            connection.execute(FREE_AGENT_IDS)
        if ids:
            self._deleted_upto[table] = ids[-1]
        return len(ids) == limit

    def end(self, connection: sqlite3.Connection) -> bool:
        """Note that no string is left over, if that is so."""
        with transaction(connection):
            self.is_complete = self._unswept is None
            if self._can_go_on(connection):
                self.is_complete = True
                connection.execute(
                    "DELETE FROM settings WHERE name = 'unswept' AND value = ?", (self._unswept,)
                )
                forget_setting(connection, "sweep")
        return False


def write_anew(table: str, connection: sqlite3.Connection) -> bool:
    """Write a table of strings again, and overwrite the pages that it had.

    Whenever SQLite moves rows to another page, it leaves copies behind that no deletion finds.
    """
    with transaction(connection), no_change(connection):
        for statement in WRITE_ANEW:
            connection.execute(statement.format(table=table))
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


@contextmanager
def erasing(connection: sqlite3.Connection) -> Iterator[None]:
    """Overwrite what is deleted meanwhile; some builds always do."""
    (usual,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = ON")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA secure_delete = {usual}")
