"""Strings that come again stand in tables of their own: made there as visits come, found by id.

``source`` is the temporary table that a batch's strings stand in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from ...endpoints import OTHER, UNMATCHED

# Table -> column; endpoints, which are two, stand apart.
STRINGS = {
    "users": "user_hash",
    "paths": "path",
    "ip_addresses": "ip_address",
    "user_agents": "user_agent",
    "referers": "referer",
    "hosts": "host",
}
COUNT_ENDPOINTS = f"""
SELECT count(DISTINCT endpoint) FROM endpoints WHERE endpoint NOT IN ('{OTHER}', '{UNMATCHED}')"""


def id_of(table: str, source: str) -> str:
    """Return SQL for the id of a string of ``source``."""
    column = STRINGS[table]
    return f"(SELECT id FROM {table} WHERE {table}.{column} = {source}.{column})"


def endpoint_id(source: str) -> str:
    """Return SQL for the id of endpoint and method of ``source``."""
    return (
        f"(SELECT id FROM endpoints WHERE endpoints.endpoint = {source}.endpoint "
        f"AND endpoints.method = {source}.method)"
    )


def id_column(table: str) -> str:
    """Return the name of a visit's column that has the id."""
    return f"{STRINGS[table].removesuffix('_hash')}_id"


def intern(connection: sqlite3.Connection, source: str, tables: Iterable[str]) -> None:
    """Have every string of these tables in them."""
    for table in tables:
        column = STRINGS[table]
        connection.execute(
            f"INSERT OR IGNORE INTO {table} ({column}) "
            f"SELECT DISTINCT {column} FROM temp.{source} WHERE {column} IS NOT NULL"
        )


def intern_endpoints(connection: sqlite3.Connection, source: str, most: int) -> None:
    """Have every endpoint and method; new ones beyond ``most`` become one, their path is kept."""
    new = f"""
        NOT EXISTS (SELECT 1 FROM endpoints WHERE endpoints.endpoint = {source}.endpoint)"""
    has_new = f"SELECT EXISTS (SELECT 1 FROM temp.{source} WHERE {new})"
    if connection.execute(has_new).fetchone()[0]:
        (known,) = connection.execute(COUNT_ENDPOINTS).fetchone()
        connection.execute(
            f"UPDATE temp.{source} SET path = coalesce(path, endpoint), endpoint = '{OTHER}' "
            f"WHERE endpoint IN (SELECT endpoint FROM temp.{source} "
            f"WHERE endpoint NOT IN ('{OTHER}', '{UNMATCHED}') AND {new} "
            f"GROUP BY endpoint ORDER BY min(rowid) LIMIT -1 OFFSET max(0, ?))",
            (most - known,),
        )
    connection.execute(
        f"INSERT OR IGNORE INTO endpoints (endpoint, method) "
        f"SELECT DISTINCT endpoint, method FROM temp.{source}"
    )
