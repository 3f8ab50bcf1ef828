"""Visits that are not counted: stored ones, and those that still wait in the spool.

They stand in temporary tables of the connection that a report has. What waits is read as ingest
does it, and stored nowhere; but where that would make a new endpoint, of which there may be too
many, or decide the class of a user agent that is asked for, it has to be ingested first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ...visit import FIELDS, Visit
from .. import HardBatchError, NotIngestedError, Unread
from .classes import class_condition
from .intake import fill_batch, read_positions

CREATE_ARRIVALS = """
CREATE TEMP TABLE arrivals (timestamp INTEGER, endpoint_id INTEGER, user_id INTEGER,
    user_agent_id INTEGER)"""
STORED = """
INSERT INTO temp.arrivals SELECT timestamp, endpoint_id, user_id, user_agent_id
FROM visits NOT INDEXED WHERE id > :counted_id AND timestamp >= :start"""
_AGENT_ID = "(SELECT id FROM user_agents WHERE user_agents.user_agent = batch.user_agent)"
# Users who are new have numbers that no other has.
WAITING = f"""
INSERT INTO temp.arrivals SELECT timestamp,
    (SELECT id FROM endpoints
     WHERE endpoints.endpoint = batch.endpoint AND endpoints.method = batch.method),
    CASE WHEN user_hash IS NOT NULL THEN coalesce(
        (SELECT id FROM users WHERE users.user_hash = batch.user_hash),
        dense_rank() OVER (ORDER BY user_hash) - 9223372036854775807) END,
    CASE WHEN :has_class THEN {_AGENT_ID} END
FROM temp.batch WHERE timestamp >= :start"""
IS_NEW_ENDPOINT = "SELECT EXISTS (SELECT 1 FROM temp.arrivals WHERE endpoint_id IS NULL)"
IS_NEW_AGENT = """
SELECT EXISTS (SELECT 1 FROM temp.batch WHERE user_agent IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM user_agents WHERE user_agents.user_agent = batch.user_agent))"""
NEWEST = f"""
SELECT {", ".join(FIELDS).replace("path", "nullif(path, endpoint)")}
FROM (SELECT *, rowid AS id, {_AGENT_ID} AS user_agent_id FROM temp.batch AS batch)
WHERE timestamp >= :start AND {{only}} ORDER BY timestamp DESC, id DESC LIMIT :limit"""


def gather(
    connection: sqlite3.Connection,
    start: int,
    counted_id: int,
    agent_class: str | None,
    unread: Unread | None,
) -> None:
    """Fill ``temp.arrivals`` from ``start`` on: with greater ids' visits, and with what waits."""
    with writing(connection):
        connection.execute("DELETE FROM temp.arrivals")
        connection.execute(STORED, {"counted_id": counted_id, "start": start})
        if unread is not None:
            _take_along(connection, start, agent_class, unread)


def newest(
    connection: sqlite3.Connection,
    start: int,
    limit: int,
    agent_class: str | None,
    unread: Unread,
) -> list[Visit]:
    """Return the newest visits that wait, newest first."""
    with writing(connection):
        connection.execute("DELETE FROM temp.arrivals")
        _take_along(connection, start, agent_class, unread)
    values = {"start": start, "limit": limit, "only": agent_class}
    rows = connection.execute(NEWEST.format(only=class_condition(agent_class)), values)
    return [Visit(*row) for row in rows]


def _take_along(
    connection: sqlite3.Connection, start: int, agent_class: str | None, unread: Unread
) -> None:
    batch = unread.read(read_positions(connection, unread.segments))
    try:
        fill_batch(connection, batch)
    except HardBatchError as error:
        raise NotIngestedError(str(error)) from error
    connection.execute(WAITING, {"has_class": agent_class is not None, "start": start})
    if connection.execute(IS_NEW_ENDPOINT).fetchone()[0]:
        raise NotIngestedError("an endpoint is new")
    if agent_class is not None and connection.execute(IS_NEW_AGENT).fetchone()[0]:
        raise NotIngestedError("the class of a user agent is not decided yet")


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """Let a reader write, into temporary tables."""
    connection.execute("PRAGMA query_only = OFF")
    try:
        yield
    finally:
        connection.execute("PRAGMA query_only = ON")
