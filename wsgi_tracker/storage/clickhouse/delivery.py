"""Deliver batches to ClickHouse, each exactly once, whoever dies in between.

A batch is written down, with its bytes, before it is sent, and sent again until the server has it:
the same bytes, as one block, so that the server knows those that come again. Whatever was not
acknowledged at once is counted behind that: what is there of it by halves is deleted, and all of it
sent under another number.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace

from ...errors import StorageError
from ...visit import FIELDS
from .. import Batch, HardBatchError, KeptLines
from ..lines import START, load_readable
from .client import ClickHouseError, Client
from .deletion import delete
from .ledger import Entry, Ledger, Sending
from .literals import bind
from .replicas import Replicas
from .schema import Schema
from .shards import Shards
from .waiting import wait_while

LEVEL = 1  # of gzip: who takes in visits must not wait for it
PATIENCE_SECONDS = 30.0  # for a server that goes on with what nobody waits for any more
KNOWN_MS = 60_000  # for which a server surely knows a block, among those of all hosts
# Of a batch's number, its milliseconds since the epoch stand before its host.
HOST_BITS = 22
TIMESTAMP = re.compile(START + rb"(\d+),")
# Behind a colon, only a name stands in quotes: so each line has each of them, once.
REQUIRED = (b'"method":', b'"endpoint":')
INSERT = f"INSERT INTO {{table}} (batch, {', '.join(FIELDS)}) FORMAT JSONEachRow"
# One block, whatever the server is told otherwise; stored, and on its shard, before the answer.
ONE_BLOCK = {
    "max_insert_block_size": 1 << 24,
    "insert_distributed_sync": 1,
    "input_format_skip_unknown_fields": 1,
}
# What the server says of bytes that are no visits; then it has stored nothing of the block.
UNREADABLE = {6, 25, 26, 27, 33, 38, 41, 43, 53, 69, 72, 117, 130, 131, 349}
WITHIN = "batch = {batch} AND timestamp >= {first} AND timestamp <= {last}"
IS_RUNNING = "SELECT count() FROM system.processes WHERE query_id = {query}"


class Delivery:
    """What leads from a host's ledger to one database; ``clock`` returns microseconds."""

    def __init__(
        self,
        client: Client,
        schema: Schema,
        shards: Shards,
        replicas: Replicas,
        ledger: Ledger,
        clock: Callable[[], int],
    ) -> None:
        self._client = client
        self._schema = schema
        self._shards = shards
        self._replicas = replicas
        self._ledger = ledger
        self._clock = clock

    def settle(self) -> Entry:
        """See that what was on its way is there; return what holds then."""
        entry, data = self._ledger.read()
        sending = entry.sending
        if sending is None:
            return entry
        self._await_end(sending)
        stored = 0 if self._is_known(sending) else self._count(sending)
        if not stored:
            if not self._send(sending, data):
                # Refused as a whole: it is read again, and sorted then.
                entry = replace(entry, sending=None)
                self._ledger.write(entry)
                return entry
            stored = self._count(sending)
        if stored != sending.lines:
            entry = self._send_anew(entry, sending, data, stored)
        return self._taken(entry)

    def _send_anew(self, entry: Entry, sending: Sending, data: bytes, stored: int) -> Entry:
        """Send a batch under another number: what was deleted must not be taken for what comes."""
        if stored:
            delete(self._client, self._schema, "visits", bind(WITHIN, _values(sending)))
        lines = gzip.decompress(data).replace(_mark(sending.batch), START)
        entry, data = self._write_down(entry, sending, lines)
        self._send_or_raise(entry, data)
        return entry

    def deliver(self, entry: Entry, batch: Batch, kept: KeptLines) -> Entry:
        """Send what a batch holds; return what holds once it is there."""
        sending = Sending(
            positions=batch.positions, finished=batch.finished, counts=dict(batch.counts)
        )
        if not batch.data:
            is_news = batch.positions or batch.finished or sum(batch.counts.values())
            return self._taken(replace(entry, sending=sending)) if is_news else entry
        if _are_visits(batch.data):
            entry, data = self._write_down(entry, sending, batch.data)
            if self._send(entry.sending or sending, data):
                return self._taken(entry)
        return self._deliver_sorted(entry, sending, batch, kept)

    def _deliver_sorted(
        self, entry: Entry, sending: Sending, batch: Batch, kept: KeptLines
    ) -> Entry:
        """Send what is readable of a batch that was refused, and count the rest."""
        good: list[bytes] = []

        def load(data: bytes, lines: int) -> bool:
            taken = self._is_taken_on_trial(data)
            if taken:
                good.append(data)
            return taken

        try:
            unreadable = load_readable(batch.data, load, batch.patience)
        except HardBatchError:
            self._ledger.write(replace(entry, sending=None))
            raise
        torn = sum(line in batch.torn for line in unreadable.lines)
        counts = {
            "torn": torn + len(unreadable.torn),
            "rejected": len(unreadable.lines) - torn,
        }
        sending = sending.with_counts(counts)
        with kept(unreadable.lines + unreadable.torn):
            if not good:
                return self._taken(replace(entry, sending=sending))
            entry, data = self._write_down(entry, sending, b"".join(good))
        self._send_or_raise(entry, data)
        return self._taken(entry)

    def _write_down(self, entry: Entry, sending: Sending, lines: bytes) -> tuple[Entry, bytes]:
        """Write down what is to be sent; return what holds then, and its bytes."""
        timestamps = [int(found) for found in TIMESTAMP.findall(lines)]
        host = int(entry.id or "0", 16) % (1 << HOST_BITS)
        moment = max(self._clock() // 1000, (entry.batch >> HOST_BITS) + 1)
        sending = replace(
            sending,
            batch=moment << HOST_BITS | host,
            lines=len(timestamps),
            first=min(timestamps),
            last=max(timestamps),
            layout=self._shards.layout(),
        )
        self._shards.note(sending.layout)
        data = _packed(lines, sending.batch)
        entry = replace(entry, batch=sending.batch, sending=sending)
        self._ledger.write(entry, data)
        return entry, data

    def _send(self, sending: Sending, data: bytes) -> bool:
        """Send lines of visits, and return True; False if there is something else among them."""
        return self._is_taken("visits", data, query_id=_query(sending))

    def _send_or_raise(self, entry: Entry, data: bytes) -> None:
        if entry.sending is None or not self._send(entry.sending, data):
            raise StorageError(f"{self._client.address} refuses what it has taken before")

    def _is_taken_on_trial(self, lines: bytes) -> bool:
        """Return whether the server can read lines; it forgets them."""
        return _are_visits(lines) and self._is_taken("visits_on_trial", _packed(lines, 0))

    def _is_taken(self, table: str, data: bytes, **settings: str) -> bool:
        try:
            self._client.insert(INSERT.replace("{table}", table), data, **ONE_BLOCK, **settings)
        except ClickHouseError as error:
            if error.code in UNREADABLE:
                return False
            raise
        return True

    def _taken(self, entry: Entry) -> Entry:
        """Write down that what was on its way is there."""
        entry = entry.with_taken(self._clock())
        self._ledger.write(entry)
        return entry

    def _is_known(self, sending: Sending) -> bool:
        """Return whether servers will refuse what they have of a batch if it comes again."""
        age = self._clock() // 1000 - (sending.batch >> HOST_BITS)
        if not self._schema.refuses_repeats or not 0 <= age < KNOWN_MS:
            return False
        return sending.layout == self._shards.layout()

    def _await_end(self, sending: Sending) -> None:
        """Wait until a server stores nothing of a batch any more that was cut off."""
        running = f"{self._client.address} is still storing the batch before"
        query = _query(sending)
        wait_while(lambda: running if self._ask(IS_RUNNING, query=query) else "", PATIENCE_SECONDS)

    def _count(self, sending: Sending) -> int:
        """Return how many visits of a batch are there; not of a replica that lacks some."""
        self._replicas.await_whole()
        return self._ask(f"SELECT count() FROM visits WHERE {WITHIN}", **_values(sending))

    def _ask(self, statement: str, **values: str | int) -> int:
        return int(self._client.rows(bind(statement, values))[0][0])


def _are_visits(data: bytes) -> bool:
    lines = data.count(b"\n")
    return (
        len(TIMESTAMP.findall(data)) == lines
        and all(data.count(name) == lines for name in REQUIRED)
        and b'"batch":' not in data
        and b"\0" not in data
        and (data.isascii() or _is_utf8(data))
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _packed(lines: bytes, batch: int) -> bytes:
    return gzip.compress(lines.replace(START, _mark(batch)), LEVEL, mtime=0)


def _mark(batch: int) -> bytes:
    return b'{"batch":%d,"timestamp":' % batch


def _query(sending: Sending) -> str:
    return f"wsgi-tracker-{sending.batch}"


def _values(sending: Sending) -> dict[str, str | int]:
    return {"batch": sending.batch, "first": sending.first, "last": sending.last}
