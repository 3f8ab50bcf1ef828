"""Delete rows, on all servers, and wait until they are gone: a mutation writes parts anew."""

from __future__ import annotations

from .client import Client
from .schema import Schema
from .waiting import wait_while

PATIENCE_SECONDS = 600.0


def delete(client: Client, schema: Schema, table: str, where: str) -> None:
    """Delete the rows of a table that fulfil a condition, which no later row may fulfil.

    Raises :exc:`StorageError`.
    """
    # Old servers also delete what is neither so nor not so, as of nobody.
    alter(client, schema, table, f"DELETE WHERE ifNull({where}, 0)")
    left = f"SELECT count() FROM {table} WHERE {where}"

    def problem() -> str:
        is_left = client.rows(left)[0][0]
        return f"{client.address} is still deleting: ask again later" if is_left else ""

    wait_while(problem, PATIENCE_SECONDS)


def alter(client: Client, schema: Schema, table: str, what: str) -> None:
    """Change a table where its rows are."""
    client.run(f"ALTER TABLE {schema.name(schema.own(table))}{schema.everywhere} {what}")
