"""Take visits into SQLite that were packed: what comes again stands in a batch once.

For who has millions, as an import. It takes a third of what the same visits take as lines: each
string becomes a number once in a batch, and a visit itself is but eight numbers. All of it in SQL,
which lets the thread that packs the next batch run.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple

from .. import Packed
from .strings import endpoint_id, id_column, id_of, intern, intern_endpoints

# The parts of a visit that come again: what they are made of, and whose ids these are.
_PARTS = {
    "places": ("method endpoint path status host".split(), ["paths", "hosts"]),
    "clients": (
        "user_hash ip_address user_agent".split(),
        ["users", "ip_addresses", "user_agents"],
    ),
    "origins": (["referer"], ["referers"]),
}
_NUMBERS = "timestamp duration_us first_byte_us bytes_sent error".split()


def _columns_of_ids(part: str) -> list[str]:
    own = ["endpoint_id", "status"] if part == "places" else []
    return own + [id_column(table) for table in _PARTS[part][1]]


def _values_of_ids(part: str) -> list[str]:
    own = [endpoint_id(part), "status"] if part == "places" else []
    return own + [id_of(table, part) for table in _PARTS[part][1]]


CREATE_PARTS = "".join(
    f"CREATE TEMP TABLE {part} (number INTEGER PRIMARY KEY, {', '.join(columns)});"
    f"CREATE TEMP TABLE {part}_ids (number INTEGER PRIMARY KEY, {', '.join(_columns_of_ids(part))});"
    for part, (columns, _) in _PARTS.items()
)
# A subquery without OFFSET would be merged into the query, and each object be read for each column.
_ROWS = "(SELECT key, value FROM json_each(?) LIMIT -1 OFFSET 0)"
FILL = {
    part: f"INSERT INTO temp.{part} SELECT key, "
    + ", ".join(f"json_extract(value, '$.{column}')" for column in columns)
    + f" FROM {_ROWS}"
    for part, (columns, _) in _PARTS.items()
}
FIND_IDS = {
    part: f"INSERT INTO temp.{part}_ids SELECT number, {', '.join(_values_of_ids(part))} "
    f"FROM temp.{part}"
    for part in _PARTS
}
# In the order of Packed.visits: the numbers of place, client and origin, then those of the visit.
_PLACE = {name: f"json_extract(value, '$[{at}]')" for at, name in enumerate([*_PARTS, *_NUMBERS])}
_IDS = [column for part in _PARTS for column in _columns_of_ids(part)]
INSERT_VISITS = f"""
INSERT INTO visits ({", ".join(_NUMBERS + _IDS)})
SELECT {", ".join([_PLACE[name] for name in _NUMBERS] + _IDS)}
FROM {_ROWS} AS visit
{" ".join(f"CROSS JOIN temp.{part}_ids ON {part}_ids.number = {_PLACE[part]}" for part in _PARTS)}
"""


def store_packed(connection: sqlite3.Connection, packed: Packed, max_endpoints: int) -> int:
    """Store packed visits; return how many."""
    *parts, visits = astuple(packed)
    for part, rows in zip(_PARTS, parts, strict=True):
        connection.execute(f"DELETE FROM temp.{part}")
        connection.execute(f"DELETE FROM temp.{part}_ids")
        connection.execute(FILL[part], (rows,))
        intern(connection, part, _PARTS[part][1])
    intern_endpoints(connection, "places", max_endpoints)
    intern(connection, "places", ["paths"])  # of endpoints that are too many
    for statement in FIND_IDS.values():
        connection.execute(statement)
    return connection.execute(INSERT_VISITS, (visits,)).rowcount
