"""Which hour, day, week and month a slot of 15 minutes lies in, in the database's time zone.

Buckets are known by the slot that they begin with, counted from 1970, UTC: so they have an order
among each other, whatever clocks do.
"""

from __future__ import annotations

import sqlite3
from datetime import tzinfo

from ...errors import ConfigurationError, StorageError
from ...period import SLOT, Granularity, bucket_start, load_zone

DEFAULT_ZONE = "UTC"
ZONE = "SELECT value FROM settings WHERE name = 'timezone'"
MISSING = """
SELECT DISTINCT slot FROM temp.recent WHERE slot NOT IN (SELECT slot FROM calendar)"""
DAYS = "SELECT slot FROM calendar WHERE slot = day"


def read_zone(connection: sqlite3.Connection) -> tzinfo:
    """Return the time zone of the database."""
    row = connection.execute(ZONE).fetchone()
    try:
        return load_zone(DEFAULT_ZONE if row is None else str(row[0]))
    except ConfigurationError as error:
        raise StorageError(f"the database has a time zone unknown here: {error}") from error


def fill_calendar(connection: sqlite3.Connection) -> None:
    """Add what ``temp.recent`` has of slots, and the first slots of their hours and days."""
    missing = [slot for (slot,) in connection.execute(MISSING)]
    if not missing:
        return
    zone = read_zone(connection)
    rows = {slot: buckets_of(slot, zone) for slot in missing}
    for hour, day, *_ in list(rows.values()):
        for slot in (hour, day):
            rows.setdefault(slot, buckets_of(slot, zone))
    connection.executemany(
        "INSERT OR IGNORE INTO calendar (slot, hour, day, week, month) VALUES (?, ?, ?, ?, ?)",
        [(slot, *buckets) for slot, buckets in rows.items()],
    )


def is_current(connection: sqlite3.Connection) -> bool:
    """Return whether days begin where they did when they were counted.

    Where a law changes a time zone at short notice, the data that say so are installed later.
    """
    zone = read_zone(connection)
    days = (slot * SLOT for (slot,) in connection.execute(DAYS))
    return all(bucket_start(Granularity.DAY, day, zone) == day for day in days)


def buckets_of(slot: int, zone: tzinfo) -> tuple[int, ...]:
    """Return the first slots of hour, day, week and month."""
    return tuple(
        bucket_start(granularity, slot * SLOT, zone) // SLOT for granularity in Granularity
    )
