"""See that no answer lacks what only another replica has: they copy from each other a moment later.

A replica reads the log that all of its shard write, and queues what it has to fetch. Whoever answers
must have read and fetched all of it: where the one that has the rest is down, there is no answer.
"""

from __future__ import annotations

from .client import LONGEST_DELAY_SECONDS, Client
from .literals import bind
from .waiting import wait_while

PATIENCE_SECONDS = 1.0
LACKS = "{}: replica {} lacks {}, and the one which has them is down or slow, or ZooKeeper is"
# One that is started anew, or is far behind, is not asked for visits; others of its shard are. An
# empty log has no greatest index, and 0 is told.
STATES = f"""
SELECT zookeeper_path, replica_name, is_readonly OR absolute_delay >= {LONGEST_DELAY_SECONDS},
    inserts_in_queue > 0 OR (log_max_index > 0 AND log_pointer <= log_max_index)
FROM {{source}} WHERE database = {{database}} AND table = {{table}}"""
OF_SHARDS = "cluster({cluster}, system, replicas)"


class Replicas:
    """The replicas of what one database's cluster holds, if it has one."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def await_whole(self) -> None:
        """Wait until those who answer lack no visits. Raises :exc:`StorageError`."""
        if self._client.address.cluster:
            source = bind(OF_SHARDS, {"cluster": self._client.address.cluster})
            self._await(STATES.replace("{source}", source), "visits_of_shard")

    def await_settings(self) -> None:
        """Wait until the server that is asked lacks no settings. Raises :exc:`StorageError`."""
        if self._client.address.cluster:
            self._await(STATES.replace("{source}", "system.replicas"), "settings")

    def _await(self, statement: str, table: str) -> None:
        address = self._client.address
        statement = bind(statement, {"database": address.database, "table": table})

        def problem() -> str:
            behind = self._behind(statement)
            return "" if behind is None else LACKS.format(address, behind, table)

        wait_while(problem, PATIENCE_SECONDS)

    def _behind(self, statement: str) -> str | None:
        """Return the name of a replica that would answer, and lacks something."""
        unasked = {}
        for path, name, is_unasked, is_behind in self._client.rows(statement):
            if is_unasked:
                unasked[path] = name
            elif is_behind:
                return str(name)
        if not unasked:
            return None
        # By chance, another one of the shard.
        for path, _, is_unasked, is_behind in self._client.rows(statement, load_balancing="random"):
            if not is_unasked and not is_behind:
                unasked.pop(path, None)
        return next(iter(unasked.values()), None)
