"""Delete rows, on all servers, and wait until they are gone: a mutation writes parts anew."""

from __future__ import annotations

import time

from ...errors import StorageError
from .client import Client
from .schema import Schema

PATIENCE_SECONDS = 600.0
LOOK_SECONDS = 0.05


def delete(client: Client, schema: Schema, table: str, where: str) -> None:
    """Delete the rows of a table that fulfil a condition, which no later row may fulfil.

    Raises :exc:`StorageError`.
    """
    # Old servers also delete what is neither so nor not so, as of nobody.
    alter(client, schema, table, f"DELETE WHERE ifNull({where}, 0)")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while client.rows(f"SELECT count() FROM {table} WHERE {where}")[0][0]:
        if time.monotonic() > deadline:
            raise StorageError(f"{client.address} is still deleting: ask again later")
        time.sleep(LOOK_SECONDS)


def alter(client: Client, schema: Schema, table: str, what: str) -> None:
    """Change a table where its rows are."""
    client.run(f"ALTER TABLE {schema.name(schema.own(table))}{schema.everywhere} {what}")
