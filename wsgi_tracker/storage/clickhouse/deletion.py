"""Delete rows, on all servers: a mutation writes the parts anew that hold them, meanwhile or later.

A replica that is away does it when it is back. Some old servers never say that they have done what is
for all of a cluster, once two replicas of theirs took it up at the same moment: so what counts is
whether rows are gone.
"""

from __future__ import annotations

from .client import TIMEOUT_EXCEEDED, ClickHouseError, Client
from .schema import Schema
from .waiting import wait_while

PATIENCE_SECONDS = 600.0
TOLD_SECONDS = 3  # within which a cluster says that it will; others may wait for who asks it to


def delete(client: Client, schema: Schema, table: str, where: str) -> None:
    """Delete the rows of a table that fulfil a condition, and return once they are gone.

    No later row may fulfil it. Raises :exc:`StorageError`.
    """
    begin_to_delete(client, schema, table, where)
    await_end(client, table, where)


def begin_to_delete(client: Client, schema: Schema, table: str, where: str) -> None:
    """Have the rows of a table deleted that fulfil a condition, sooner or later."""
    # Old servers also delete what is neither so nor not so, as of nobody.
    alter(client, schema, table, f"DELETE WHERE ifNull({where}, 0)")


def await_end(client: Client, table: str, where: str) -> None:
    """Wait until no row of a table fulfils a condition."""
    left = f"SELECT count() FROM {table} WHERE {where}"

    def problem() -> str:
        is_left = client.rows(left)[0][0]
        return f"{client.address} is still deleting: ask again later" if is_left else ""

    wait_while(problem, PATIENCE_SECONDS)


def alter(client: Client, schema: Schema, table: str, what: str) -> None:
    """Change a table where its rows are, or will be changed."""
    statement = f"ALTER TABLE {schema.name(schema.own(table))}{schema.everywhere} {what}"
    try:
        client.run(statement, told_within=TOLD_SECONDS)
    except ClickHouseError as error:
        if error.code != TIMEOUT_EXCEEDED or not schema.everywhere:
            raise
