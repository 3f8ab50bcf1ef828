"""Visits in ClickHouse: several hosts, one server or a cluster, the same answers as from SQLite.

Each host writes down what it delivers in a file of its spool's folder; all that hosts share is in
the database. Reports read visits: there are no counters to keep.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from platform import node

from ...errors import ConfigurationError, Outage, StorageError, logger
from ...period import HOUR
from .. import (
    ENOUGH_TO_COUNT,
    QUERY_TIMEOUT_SECONDS,
    KeptLines,
    Positions,
    ReadBatch,
    StorageFacts,
    Unread,
)
from ..address import Address
from ..unpacked import unpacked
from .agents import Agents
from .client import ClickHouseError, Client
from .delivery import Delivery
from .ledger import Ledger
from .literals import bind, literal
from .replicas import Replicas
from .schema import GONE, Schema
from .settings import Settings
from .shards import Shards
from .snapshot import ClickHouseSnapshot, refuse_unread
from .upkeep import Upkeep

NEWEST = """
SELECT count(), uniqExact(user_agent), count(ip_address), min(ip_address), max(ip_address) FROM (
    SELECT user_hash, user_agent, ip_address FROM visits WHERE timestamp >= {start}
    AND isNotNull(user_hash) ORDER BY timestamp DESC LIMIT 1000)"""
SIZE = """
SELECT sum(bytes) FROM {parts} WHERE database = {database} AND table = {table} AND active"""
SCHEMA = 1
FACTS_SECONDS = 3.0  # health is asked by who would not wait
LEDGER = "ledger "


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def is_there(address: Address) -> bool:
    """Return whether a server has a database of visits. Raises :exc:`StorageError`."""
    client = Client(address, query_timeout_seconds=QUERY_TIMEOUT_SECONDS)
    try:
        return Schema(client).is_made()
    finally:
        client.close()


class ClickHouseStorage:
    """A :class:`~wsgi_tracker.storage.Storage` at ``address``."""

    def __init__(
        self,
        address: Address,
        *,
        query_timeout_seconds: float,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self.outage = Outage("visits wait in the spool")
        self._clock = clock
        self._client = Client(address, query_timeout_seconds=query_timeout_seconds)
        self._schema = Schema(self._client)
        self._ledger = Ledger(address.spool)
        self._is_claimed = False
        self._agents = Agents(self._client, clock)
        self._replicas = Replicas(self._client)
        self._settings = Settings(self._client, clock, self._replicas.await_settings)
        self._shards = Shards(self._client, self._settings)
        self._delivery = Delivery(
            self._client, self._schema, self._shards, self._replicas, self._ledger, clock
        )
        self._upkeep = Upkeep(self._client, self._schema, self._settings, clock)

    def ingest(
        self,
        segments: Sequence[str],
        read: ReadBatch,
        *,
        durable: bool,
        kept: KeptLines = nullcontext,
    ) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.ingest`; the ledger is always durable."""
        self._schema.prepare()
        try:
            self._claim()
            entry = self._delivery.settle()
            batch = read(entry.positions_of(segments))
            if batch.packed is not None:
                batch.data, batch.packed = unpacked(batch.packed), None
                self._agents.learn(batch.data, all_of_them=True)
            else:
                self._agents.learn(batch.data)
            self._delivery.deliver(entry, batch, kept)
        except ClickHouseError as error:
            if error.code in GONE:  # somebody has deleted it
                self._schema.forget()
                self._is_claimed = False
            raise

    def _claim(self) -> None:
        """See that the database knows the ledger: what it tells of one is not so of another."""
        if self._is_claimed:
            return
        entry, data = self._ledger.read()
        if entry.id:
            if not self._settings.read([LEDGER + entry.id]):
                raise StorageError(
                    f"{self._ledger.path} tells of another database than {self._client.address}: "
                    f"choose another spool, or let that one take in what waits, stop all "
                    f"processes, and delete the file"
                )
        else:
            id = secrets.token_hex(16)
            self._settings.keep({LEDGER + id: node()})
            self._ledger.write(replace(entry, id=id), data)
        self._is_claimed = True

    def count(self, *, enough: int = ENOUGH_TO_COUNT) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.count`; there is nothing to count."""
        return False

    def load_classifier(self) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.load_classifier`; a batch waits for what it lacks."""
        return False

    def tidy(self) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.tidy`; servers tidy by themselves."""

    def rebuild(self) -> Iterator[None]:
        """See :meth:`wsgi_tracker.storage.Storage.rebuild`."""
        return iter(())

    def check(self) -> str | None:
        """See :meth:`wsgi_tracker.storage.Storage.check`."""
        return None

    def check_integrity(self) -> str | None:
        """See :meth:`wsgi_tracker.storage.Storage.check_integrity`: what hosts wrote is there."""
        self._ledger.read()
        return None

    def backup(self, file: Path) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.backup`; servers have backups of their own."""
        raise ConfigurationError("a database of ClickHouse is backed up by its own tools")

    def generation(self) -> object:
        """See :meth:`wsgi_tracker.storage.Storage.generation`."""
        return self._client.address

    def positions(self, segments: Sequence[str]) -> Positions:
        """See :meth:`wsgi_tracker.storage.Storage.positions`."""
        return self._ledger.entry().positions_of(segments)

    def facts(self, segments: Sequence[str]) -> StorageFacts:
        """See :meth:`wsgi_tracker.storage.Storage.facts`; counts are those of this host."""
        entry = self._ledger.entry()
        known = StorageFacts(
            counts=entry.counts,
            positions=entry.positions_of(segments),
            last_ingest=entry.last_ingest,
            ingesting_pid=entry.pid,
            replaced_at=None,
            size_bytes=None,
            is_readable_by_others=False,
            schema=SCHEMA,
            retention_days=None,
            agents_data=None,
            uncounted=0,
            newest_visits=0,
            newest_user_agents=0,
            only_address="",
        )
        try:
            return self._add_facts(known)
        except StorageError as error:
            return replace(known, problem=str(error))

    def _add_facts(self, known: StorageFacts) -> StorageFacts:
        """Add what the server tells."""
        self._schema.prepare()
        start = literal(self._clock() - HOUR)
        ((visits, agents, addressed, first, last),) = self._client.rows(
            NEWEST.replace("{start}", start), seconds=FACTS_SECONDS
        )
        only = first if addressed == visits and first == last else None
        return replace(
            known,
            size_bytes=self._size_bytes(),
            retention_days=self._settings.number("retention_days") or 0,
            newest_visits=visits,
            newest_user_agents=agents or 0,
            only_address=only if addressed else "",
        )

    def _size_bytes(self) -> int:
        """Return the size of all visits, each shard's counted once."""
        names = {"table": self._schema.own_visits, "database": self._client.address.database}
        statement = bind(SIZE.replace("{parts}", self._schema.system("parts")), names)
        return int(self._client.rows(statement)[0][0])

    def secret(self) -> bytes:
        """See :meth:`wsgi_tracker.storage.Storage.secret`: no transaction could claim one."""
        raise StorageError("a database of ClickHouse needs secret=, the same for all hosts")

    def declare(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        """See :meth:`wsgi_tracker.storage.Storage.declare`."""
        self._schema.prepare()
        return self._settings.keep(settings)

    def declared(self, names: Sequence[str]) -> Mapping[str, str]:
        """See :meth:`wsgi_tracker.storage.Storage.declared`."""
        self._schema.prepare()
        return self._settings.read(names)

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.configure`."""
        self._schema.prepare()
        self._settings.write(settings)

    @contextmanager
    def snapshot(
        self, unread: Unread | None = None, *, long: bool = False
    ) -> Iterator[ClickHouseSnapshot]:
        """See :meth:`wsgi_tracker.storage.Storage.snapshot`."""
        refuse_unread(unread)
        self._schema.prepare()
        self._replicas.await_settings()
        self._replicas.await_whole()
        yield ClickHouseSnapshot(self._client, self._settings, self._shards, self._clock())

    def set_retention(self, days: int) -> None:
        """See :meth:`wsgi_tracker.storage.Storage.set_retention`."""
        self._schema.prepare()
        known = self._upkeep.set_retention(days)
        if known != days:
            logger.warning("retention_days is %s from now on, it was %s", days, known)

    def begin_purge(self, now: int, days: int | None) -> bool:
        """See :meth:`wsgi_tracker.storage.Storage.begin_purge`."""
        self._schema.prepare()
        return self._upkeep.begin_purge(now, days)

    def purge(self, before: int | None = None) -> Iterator[None]:
        """See :meth:`wsgi_tracker.storage.Storage.purge`."""
        self._schema.prepare()
        return self._upkeep.purge(before)

    def forget(self, user_hash: str) -> int:
        """See :meth:`wsgi_tracker.storage.Storage.forget`."""
        self._schema.prepare()
        return self._upkeep.forget(user_hash)

    def reclassify(self) -> Iterator[None]:
        """See :meth:`wsgi_tracker.storage.Storage.reclassify`."""
        self._schema.prepare()
        return self._agents.anew()

    def close(self) -> None:
        """Close all connections; may be called twice, and used again afterwards."""
        self._client.close()
