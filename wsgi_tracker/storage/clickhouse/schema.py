"""The tables of ClickHouse, made on first use: on one server, or on all of a cluster.

Only what servers of 2018 and of today both have: no DateTime64, no codecs, no TTL. A visit is told
from all others by its batch and its row within it.
"""

from __future__ import annotations

import re

from ...errors import StorageError
from ...visit import FIELDS, TEXT_FIELDS
from .client import ClickHouseError, Client
from .literals import literal
from .waiting import wait_while

UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
GONE = {UNKNOWN_TABLE, UNKNOWN_DATABASE}
REPLICAS_ARE_STALE = 369
PATIENCE_SECONDS = 10.0
WINDOW = 10_000  # blocks among which a server finds one that comes again
REQUIRED = ("timestamp", "method", "endpoint")


def _column(name: str) -> str:
    kind = "String" if name in TEXT_FIELDS else "Int64"
    return f"{name} {kind if name in REQUIRED else f'Nullable({kind})'}"


# A block's rows are numbered as they come; the server that is asked does that, before it splits it.
VISITS = f"""
    batch UInt64, row UInt32 DEFAULT toUInt32(rowNumberInAllBlocks()),
    {", ".join(map(_column, FIELDS))}"""
MONTH = "toYYYYMM(toDateTime(intDiv(timestamp, 1000000), 'UTC'))"
ORDER = "(timestamp, batch, row)"
# A user's visits are on one shard; those of whom only the hit counts, anywhere.
SHARD = "sipHash64(ifNull(user_hash, toString(row)))"
SETTINGS = "name String, value Nullable(String), epoch UInt64, at UInt64"
AGENTS = """
    user_agent String, class String, rule String, browser Nullable(String),
    system Nullable(String), device Nullable(String), at UInt64"""
DEDUPLICATION = "non_replicated_deduplication_window"
DISTRIBUTED = re.compile(r"ENGINE = Distributed\('?(\w+)'?,")
TABLES = """
SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()"""


class Schema:
    """The tables of one database; what is sent and asked depends on how they were made."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._cluster = client.address.cluster
        self._is_ready = False
        self.refuses_repeats = True

    @property
    def _tables(self) -> set[str]:
        return {"settings", "user_agents", "visits", "visits_on_trial", self.own_visits}

    @property
    def own_visits(self) -> str:
        """The table that holds visits of one server, where visits are deleted."""
        return "visits_of_shard" if self._cluster else "visits"

    def own(self, table: str) -> str:
        """Return the table of one server that holds the rows of this one."""
        return self.own_visits if table == "visits" else table

    @property
    def everywhere(self) -> str:
        """What makes a statement one for all servers."""
        return f" ON CLUSTER {self._cluster}" if self._cluster else ""

    def system(self, table: str) -> str:
        """Return what a table of servers' own tells, of one replica of each shard."""
        return f"cluster({self._cluster}, system, {table})" if self._cluster else f"system.{table}"

    def prepare(self) -> None:
        """Make what is missing; once in a process, if it goes well."""
        if self._is_ready:
            return
        made = self._made()
        if made is None:
            self._make_database()
            made = {}
        if "visits" in made:
            self._check_cluster(made["visits"])
        if not made.keys() >= self._tables:
            self._make()
            self._await_replicas()
            made = self._made() or {}
        self._client.pin()
        # One server refuses what it has already if it was told to; a cluster always does.
        self.refuses_repeats = bool(self._cluster) or DEDUPLICATION in made["visits"]
        self._is_ready = True

    def forget(self) -> None:
        """Look again, the next time."""
        self._is_ready = False

    def _check_cluster(self, made: str) -> None:
        """Refuse a database whose visits are elsewhere than those that would be sent there."""
        found = DISTRIBUTED.search(made)
        cluster = found[1] if found else None
        if cluster != self._cluster:
            made_for = f"?cluster={cluster}" if cluster else "one server, without ?cluster="
            raise StorageError(f"{self._client.address} was made for {made_for}")

    def is_made(self) -> bool:
        """Return whether somebody has begun to make them."""
        return "visits" in (self._made() or {})

    def _made(self) -> dict[str, str] | None:
        """Return the tables that there are, and how each was made; ``None`` without a database."""
        try:
            return dict(self._client.rows(TABLES))
        except ClickHouseError as error:
            if error.code != UNKNOWN_DATABASE:
                raise
        return None

    def _make_database(self) -> None:
        database = self._client.address.database
        self._client.run(
            f"CREATE DATABASE IF NOT EXISTS {database}{self.everywhere}", database="default"
        )

    def name(self, table: str) -> str:
        """Return a table's name as all servers of a cluster know it."""
        return f"{self._client.address.database}.{table}"

    def _make(self) -> None:
        self._make_table("settings", SETTINGS, "name")
        self._make_table("user_agents", AGENTS, "user_agent")
        if self._cluster:
            self._make_table(self.own_visits, VISITS, ORDER, partition=MONTH, path="{shard}/")
            self._make_visits_of_all()
        else:
            self._make_visits_of_one()
        # What is sent there is read, and forgotten.
        self._client.run(
            f"CREATE TABLE IF NOT EXISTS {self.name('visits_on_trial')}{self.everywhere} "
            f"AS {self.name(self.own_visits)} ENGINE = Null"
        )

    def _make_visits_of_all(self) -> None:
        database = self._client.address.database
        self._client.run(
            f"CREATE TABLE IF NOT EXISTS {self.name('visits')}{self.everywhere} "
            f"AS {self.name(self.own_visits)} ENGINE = "
            f"Distributed({self._cluster}, {database}, {self.own_visits}, {SHARD})"
        )

    def _make_visits_of_one(self) -> None:
        try:
            window = f"{DEDUPLICATION} = {WINDOW}"
            self._make_table("visits", VISITS, ORDER, partition=MONTH, settings=window)
        except ClickHouseError as error:
            if DEDUPLICATION not in str(error):
                raise
            self._make_table("visits", VISITS, ORDER, partition=MONTH)  # it is older than that

    def _await_replicas(self) -> None:
        """Wait until replicas that were just made know that they lack nothing."""

        def problem() -> str:
            try:
                self._client.rows("SELECT count() FROM visits")
            except ClickHouseError as error:
                if error.code != REPLICAS_ARE_STALE:
                    raise
                return str(error)
            return ""

        wait_while(problem, PATIENCE_SECONDS)

    def _make_table(
        self,
        name: str,
        columns: str,
        order: str,
        *,
        partition: str = "",
        path: str = "",
        settings: str = "",
    ) -> None:
        engine = "MergeTree"
        if self._cluster:
            # Without a shard in its path, a table is the same on all servers.
            database = self._client.address.database
            place = literal(f"/clickhouse/tables/{path}{database}/{name}")
            replica = literal("{replica}" if path else "{shard}-{replica}")
            engine = f"ReplicatedMergeTree({place}, {replica})"
            settings = f"replicated_deduplication_window = {WINDOW}"
            if not path:
                # Of so few rows, what came just before a crash may be most: no reason not to start.
                settings += ", replicated_max_ratio_of_wrong_parts = 1"
        self._client.run(
            f"CREATE TABLE IF NOT EXISTS {self.name(name)}{self.everywhere} ({columns}) ENGINE = {engine} "
            + (f"PARTITION BY {partition} " if partition else "")
            + f"ORDER BY {order}"
            + (f" SETTINGS {settings}" if settings else "")
        )
