"""Delete rows, on all servers: a mutation writes the parts anew that hold them, meanwhile or later.

A replica that is away does it when it is back. Some old servers never tell that they have done what is
for all of a cluster, once two replicas of theirs took it up at the same moment: so what counts is
whether rows are gone.
"""

from __future__ import annotations

from ...errors import StorageError
from .client import TIMEOUT_EXCEEDED, ClickHouseError, Client
from .literals import bind
from .schema import Schema
from .waiting import wait_while

PATIENCE_SECONDS = 600.0
TOLD_SECONDS = 3  # for a cluster: whoever purges keeps others from ingest
LONGEST_HOURS = 24
UNFINISHED = """
SELECT count(), max(toUnixTimestamp(now()) - toUnixTimestamp(create_time)) FROM {source}
WHERE database = {database} AND table = {table} AND NOT is_done"""


def delete(client: Client, schema: Schema, table: str, where: str) -> None:
    """Delete the rows of a table that fulfil a condition, and return once they are gone.

    No later row may fulfil it. Raises :exc:`StorageError`.
    """
    try:
        begin_to_delete(client, schema, table, where)
    except ClickHouseError as error:
        if not _is_untold(error, schema):
            raise

    def problem() -> str:
        is_left = _is_left(client, table, where)
        return f"{client.address} is still deleting: ask again later" if is_left else ""

    wait_while(problem, PATIENCE_SECONDS)


def begin_to_delete(client: Client, schema: Schema, table: str, where: str) -> None:
    """Have the rows of a table deleted that fulfil a condition; wait for nobody."""
    # Old servers also delete what is neither so nor not so, as of nobody.
    alter(client, schema, table, f"DELETE WHERE ifNull({where}, 0)", where)


def is_deleting(client: Client, schema: Schema, table: str) -> bool:
    """Return whether rows of a table are being deleted.

    Raises :exc:`StorageError` where that does not come to an end.
    """
    names = {"database": client.address.database, "table": schema.own(table)}
    source = schema.system("mutations")
    ((unfinished, seconds),) = client.rows(bind(UNFINISHED.replace("{source}", source), names))
    if seconds > LONGEST_HOURS * 3600:
        raise StorageError(
            f"{client.address} has been deleting for {seconds // 3600} hours: its system.mutations "
            f"may tell why it does not come to an end"
        )
    return bool(unfinished)


def alter(client: Client, schema: Schema, table: str, what: str, where: str) -> None:
    """Change a table where its rows are, so that none fulfils a condition.

    Raises :exc:`ClickHouseError` where a cluster does not tell of its end, and rows are left.
    """
    statement = f"ALTER TABLE {schema.name(schema.own(table))}{schema.everywhere} {what}"
    try:
        client.run(statement, told_within=TOLD_SECONDS)
    except ClickHouseError as error:
        if not _is_untold(error, schema) or _is_left(client, table, where):
            raise


def _is_untold(error: ClickHouseError, schema: Schema) -> bool:
    """Return whether a cluster goes on with what it was told to do."""
    return bool(schema.everywhere) and error.code == TIMEOUT_EXCEEDED


def _is_left(client: Client, table: str, where: str) -> bool:
    return bool(client.rows(f"SELECT count() FROM {table} WHERE {where}")[0][0])
