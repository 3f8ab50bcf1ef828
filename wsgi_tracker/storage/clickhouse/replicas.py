"""See that no answer lacks what only another replica has: they copy from each other a moment later.

A replica reads the log that all of its shard write, and queues what it has to fetch. Whoever answers
must have read and fetched all of it: where the one that has the rest is down, there is no answer.
"""

from __future__ import annotations

import time

from ...errors import StorageError
from .client import Client
from .literals import bind
from .schema import Schema

PATIENCE_SECONDS = 1.0
LOOK_SECONDS = 0.02
REPLICATED = "SELECT max(replica_num) FROM system.clusters WHERE cluster = {cluster}"
# An empty log has no greatest index, and 0 is told.
BEHIND = """
SELECT replica_name FROM cluster({cluster}, system, replicas)
WHERE database = {database} AND table = {table}
    AND (is_readonly OR inserts_in_queue > 0 OR (log_max_index > 0 AND log_pointer <= log_max_index))"""


class Replicas:
    """The replicas of the shards that hold one database's visits."""

    def __init__(self, client: Client, schema: Schema) -> None:
        self._client = client
        self._schema = schema
        self._are_there: bool | None = None

    def await_whole(self) -> None:
        """Wait until those who answer lack nothing. Raises :exc:`StorageError`."""
        if not self._may_lack_any():
            return
        address = self._client.address
        names = {
            "cluster": address.cluster,
            "database": address.database,
            "table": self._schema.own_visits,
        }
        statement = bind(BEHIND, names)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while behind := self._client.rows(statement):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{address}: replica {behind[0][0]} of a shard lacks visits, and the one which "
                    f"has them is down or slow, or ZooKeeper is"
                )
            time.sleep(LOOK_SECONDS)

    def _may_lack_any(self) -> bool:
        """Return whether any shard has more than one."""
        cluster = self._client.address.cluster
        if self._are_there is None:
            self._are_there = bool(cluster) and bool(
                self._client.rows(bind(REPLICATED, {"cluster": cluster}))[0][0] > 1
            )
        return self._are_there
