"""Take a batch of lines into SQLite, within the caller's transaction.

Lines go in as one JSON array: SQLite reads it outside the GIL, where a loop of inserts would take
it back for every row. They stand in a temporary table while strings become numbers.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence

from ...period import LAST_TIMESTAMP
from ...visit import FIELDS, TEXT_FIELDS
from .. import FINISHED, Batch
from ..lines import Unreadable, load_readable
from .packed import store_packed
from .strings import STRINGS, endpoint_id, id_column, id_of, intern, intern_endpoints

FORGET_SEGMENT_SECONDS = 30 * 86400

_REQUIRED = ("timestamp", "method", "endpoint")


def _batch_column(name: str) -> str:
    kind = "text" if name in TEXT_FIELDS else "integer"
    check = f"typeof({name}) = '{kind}'"
    if name == "timestamp":
        check += f" AND timestamp BETWEEN 0 AND {LAST_TIMESTAMP}"
    if name not in _REQUIRED:
        check = f"{name} IS NULL OR {check}"
    return f"{name} CHECK ({check})"


CREATE_BATCH = f"CREATE TEMP TABLE batch ({', '.join(map(_batch_column, FIELDS))})"
# From 3.42 on, SQLite also reads JSON5, which has line ends in strings.
_IS_JSON = "AND json_valid(:array)" if sqlite3.sqlite_version_info >= (3, 42) else ""


def _fill_batch(column: str) -> str:
    columns = ", ".join(column.format(name=name) for name in FIELDS)
    # A subquery without OFFSET would be merged into the query, and json_each() make the text of an
    # object anew for every column that is taken from it: 10 µs a visit in place of 5.
    return (
        f"INSERT INTO temp.batch ({', '.join(FIELDS)}) SELECT {columns} FROM "
        f"(SELECT value FROM json_each(:array) WHERE type = 'object' {_IS_JSON} LIMIT -1 OFFSET 0)"
    )


FILL_BATCH = _fill_batch("json_extract(value, '$.{name}')")
# json_extract() makes 1 of true, and text of objects and arrays. Lines of our own hold none, so
# only arrays that look as if they did pay for asking what each value is.
FILL_BATCH_WARILY = _fill_batch(
    "CASE WHEN json_type(value, '$.{name}') IN ('true', 'false', 'object', 'array') THEN x'' "
    "ELSE json_extract(value, '$.{name}') END"
)
_WARY_OF = ('":t', '":f', '":{', '":[', '": ', '":\t', '":\r')
INSERT_VISITS = f"""
INSERT INTO visits (timestamp, status, duration_us, first_byte_us, bytes_sent, error, endpoint_id,
    {", ".join(map(id_column, STRINGS))})
SELECT timestamp, status, duration_us, first_byte_us, bytes_sent, error, {endpoint_id("batch")},
    {", ".join(id_of(table, "batch") for table in STRINGS)}
FROM temp.batch"""
READ_POSITIONS = """
SELECT id, position, finished_at FROM segments WHERE id IN (SELECT value FROM json_each(?))"""


def store_batch(connection: sqlite3.Connection, batch: Batch, max_endpoints: int) -> list[bytes]:
    """Store visits, positions and counts of ``batch``, and who did it; adds to its counts.

    Returns the lines that are no visits.
    """
    rejected = _store_visits(connection, batch, max_endpoints) if batch.data else []
    if batch.packed is not None:
        batch.counts["recorded"] += store_packed(connection, batch.packed, max_endpoints)
    _write_positions(connection, batch)
    _add_counts(connection, batch.counts)
    if batch.positions:  # an idle host writes nothing
        _note_ingest(connection)
    return rejected


def fill_batch(connection: sqlite3.Connection, batch: Batch) -> Unreadable:
    """Load the visits of ``batch`` into ``temp.batch``; return what is none."""
    connection.execute("DELETE FROM temp.batch")

    def load(data: bytes, lines: int) -> bool:
        # The line ends stay within the array: a string that runs over one is an error, and two
        # broken lines cannot join into a good one. At NUL, SQLite would take the text to be at
        # its end.
        if b"\0" in data:
            return False
        try:
            array = "[" + data[:-1].replace(b"\n", b",\n").decode() + "]"
        except UnicodeDecodeError:
            return False
        return _load(connection, array, lines)

    return load_readable(batch.data, load, batch.patience)


def _store_visits(connection: sqlite3.Connection, batch: Batch, max_endpoints: int) -> list[bytes]:
    unreadable = fill_batch(connection, batch)
    _count_unreadable(batch, unreadable)
    intern_endpoints(connection, "batch", max_endpoints)
    intern(connection, "batch", STRINGS)
    batch.counts["recorded"] += connection.execute(INSERT_VISITS).rowcount
    return unreadable.lines + unreadable.torn


def _count_unreadable(batch: Batch, unreadable: Unreadable) -> None:
    known = set(batch.torn)
    torn = sum(line in known for line in unreadable.lines)
    batch.counts["torn"] += torn + len(unreadable.torn)
    batch.counts["rejected"] += len(unreadable.lines) - torn


def _load(connection: sqlite3.Connection, array: str, lines: int) -> bool:
    """Add ``lines`` visits to the batch, all or none."""
    try:
        wary = any(sign in array for sign in _WARY_OF)
        cursor = connection.execute(FILL_BATCH_WARILY if wary else FILL_BATCH, {"array": array})
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


def read_positions(connection: sqlite3.Connection, segments: Sequence[str]) -> dict[str, int]:
    """Return how far these segments are stored; a month's finished ones stand beside them."""
    rows = connection.execute(READ_POSITIONS, (json.dumps(segments),))
    return {id: position if finished is None else FINISHED for id, position, finished in rows}


def _write_positions(connection: sqlite3.Connection, batch: Batch) -> None:
    now = int(time.time())
    connection.executemany(
        "INSERT INTO segments (id, position) VALUES (?, ?) "
        "ON CONFLICT (id) DO UPDATE SET position = excluded.position",
        batch.positions.items(),
    )
    connection.executemany(
        "INSERT INTO segments (id, position, finished_at) VALUES (:id, 0, :now) "
        "ON CONFLICT (id) DO UPDATE SET finished_at = :now",
        [{"id": segment, "now": now} for segment in batch.finished],
    )


def forget_segments(connection: sqlite3.Connection) -> None:
    """Forget which segments were finished long ago; this reads the whole table."""
    before = int(time.time()) - FORGET_SEGMENT_SECONDS
    connection.execute("DELETE FROM segments WHERE finished_at < ?", (before,))


def _add_counts(connection: sqlite3.Connection, counts: Counter[str]) -> None:
    connection.executemany(
        "INSERT INTO counts (name, value) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (+counts).items(),  # without zeros
    )


def _note_ingest(connection: sqlite3.Connection) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)",
        [("last_ingest", time.time_ns() // 1000), ("ingesting_pid", os.getpid())],
    )
