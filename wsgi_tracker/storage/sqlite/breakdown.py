"""Visits broken down by one of their properties: how many, of how many users, have each value.

Groups are numbers as long as they are counted, and get their text at the end. Where several strings
have one value, as addresses of one host, the first of them stands for all.
"""

from __future__ import annotations

import sqlite3

from ...reports import Breakdown, BreakdownRow
from ...selection import Selection
from .conditions import STRINGS, Strings, rows_of

# What visits are grouped by, and the text of a group, for those of no table of strings.
_CODES = {
    "status": ("status", "CAST(code AS TEXT)"),
    "error": ("error", "code"),
}
_CLASS = "CASE WHEN class IS NULL THEN 'unknown' ELSE class END"
_NO_AGENT = -1
# Some user agents say nothing, and some are unknown; visits that have none are as these.
_EMPTY = f"coalesce((SELECT min(id) FROM user_agents WHERE class = 'empty'), {_NO_AGENT})"
_UNKNOWN = f"(SELECT min(id) FROM user_agents WHERE {_CLASS} = 'unknown')"
_FIRST = """
SELECT id, first_value(id) OVER (PARTITION BY value ORDER BY id) AS code
FROM (SELECT id, {text} AS value FROM {table}) WHERE value IS NOT NULL"""
_PATHS = """
SELECT id, coalesce(
    (SELECT -paths.id FROM paths WHERE paths.path = endpoints.endpoint),
    (SELECT min(same.id) FROM endpoints AS same WHERE same.endpoint = endpoints.endpoint)
) AS code FROM endpoints"""
_PATH_TEXT = """
CASE WHEN code < 0 THEN (SELECT path FROM paths WHERE id = -code)
ELSE (SELECT endpoint FROM endpoints WHERE id = code) END"""
GROUPS = """
WITH first AS MATERIALIZED ({first})
SELECT {text} AS value, hits, users, count(*) OVER () FROM (
    SELECT {code} AS code, count(*) AS hits, count(DISTINCT user_id) AS users
    FROM {source} {join} WHERE {where} GROUP BY +{code}
) AS counted ORDER BY hits DESC, value LIMIT :limit"""


def breakdown(
    connection: sqlite3.Connection, selection: Selection, by: str, limit: int
) -> Breakdown:
    """Return the values that most visits have, and how many there are."""
    rows = rows_of(selection)
    statement = _statement(by).replace("{source}", rows.source).replace("{where}", rows.where)
    found = connection.execute(statement, {**rows.values, "limit": limit}).fetchall()
    total = found[0][3] if found else 0
    return Breakdown([BreakdownRow(*row[:3]) for row in found], total)


def _statement(by: str) -> str:
    first, join, code, text = _parts(by)
    return (
        GROUPS.replace("{first}", first)
        .replace("{join}", join)
        .replace("{code}", code)
        .replace("{text}", text)
    )


def _parts(by: str) -> tuple[str, str, str, str]:
    """Return the first of each value, the join with it, the number of a group, and its text."""
    nothing = "SELECT 1"
    if by in _CODES:
        column, text = _CODES[by]
        return nothing, "", column, text
    if by == "path":
        join = "LEFT JOIN first ON path_id IS NULL AND first.id = endpoint_id"
        return (
            _PATHS,
            join,
            "CASE WHEN path_id IS NULL THEN first.code ELSE -path_id END",
            _PATH_TEXT,
        )
    if by == "class":
        agents = Strings("user_agent_id", "user_agents", _CLASS)
        first, join, code, text = _shared(agents)
        return (
            first,
            join,
            f"CASE WHEN user_agent_id IS NULL THEN {_EMPTY} ELSE coalesce({code}, {_UNKNOWN}) END",
            f"CASE WHEN code = {_NO_AGENT} THEN 'empty' ELSE coalesce({text}, 'unknown') END",
        )
    strings = STRINGS[by]
    if strings.is_unique:
        text = f"(SELECT {strings.text} FROM {strings.table} WHERE id = code)"
        return nothing, "", strings.column, text
    return _shared(strings)


def _shared(strings: Strings) -> tuple[str, str, str, str]:
    return (
        _FIRST.format(text=strings.text, table=strings.table),
        f"LEFT JOIN first ON first.id = {strings.column}",
        "first.code",
        f"(SELECT {strings.text} FROM {strings.table} WHERE id = code)",
    )
