"""What a SQLite storage knows of itself: counts, positions, sizes, and what looks wrong."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .. import StorageFacts
from .classes import read_data_version
from .counters import read_state
from .intake import read_positions
from .purge import FOR_EVER, first_shown
from .schema import schema_version
from .settings import read_setting

# The address only where it is that of all of them; of whom only the hit counts, none is kept.
NEWEST = """
SELECT visits, agents, CASE WHEN addressed = 0 THEN '' WHEN addressed = visits AND first = last
    THEN (SELECT ip_address FROM ip_addresses WHERE id = first) END
FROM (SELECT count(*) AS visits, count(DISTINCT user_agent_id) AS agents,
        count(ip_address_id) AS addressed, min(ip_address_id) AS first, max(ip_address_id) AS last
    FROM (SELECT user_id, user_agent_id, ip_address_id FROM visits WHERE timestamp >= ?
        ORDER BY timestamp DESC LIMIT 1000)
    WHERE user_id IS NOT NULL)"""
INGESTED = "SELECT name, value FROM settings WHERE name IN ('last_ingest', 'ingesting_pid')"


def read_facts(
    connection: sqlite3.Connection, database: Path, segments: Sequence[str]
) -> StorageFacts:
    """Return the facts of one moment, within the caller's transaction."""
    ingested: dict[str, int] = dict(connection.execute(INGESTED))
    return StorageFacts(
        dict(connection.execute("SELECT name, value FROM counts")),
        read_positions(connection, segments),
        ingested.get("last_ingest"),
        ingested.get("ingesting_pid"),
        read_setting(connection, "replaced_at"),
        _size_bytes(database),
        is_readable_by_others(database),
        schema_version(connection),
        read_setting(connection, "retention_days") or FOR_EVER,
        read_data_version(connection),
        read_state(connection).uncounted,
        *connection.execute(NEWEST, (first_shown(connection, 0),)).fetchone(),
    )


def _size_bytes(database: Path) -> int:
    size = 0
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError):
            size += os.stat(f"{database}{suffix}").st_size
    return size


def is_readable_by_others(database: Path) -> bool:
    """Return whether users other than its owner may read the file."""
    try:
        return bool(os.stat(database).st_mode & 0o044)
    except FileNotFoundError:
        return False
