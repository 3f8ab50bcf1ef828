"""Deliver batches to ClickHouse, each exactly once, whoever dies in between.

A batch is written down, with its bytes, before it is sent, and sent again until the server has it:
the same bytes, as one block, so that the server knows those that come again. Where it cannot, as it
is old or has had many blocks since, or the cluster would split them another way than before, it is
asked what of the batch it has.
"""

from __future__ import annotations

import gzip
import re
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from platform import node

from ...errors import StorageError
from ...period import SECOND
from ...visit import FIELDS
from .. import Batch, KeptLines
from ..lines import load_readable
from .client import ClickHouseError, Client
from .deletion import delete
from .ledger import Entry, Ledger, Sending
from .literals import bind
from .schema import Schema
from .shards import Shards

LEVEL = 1  # of gzip: who takes in visits must not wait for it
PATIENCE_SECONDS = 30.0  # for a server that goes on with what nobody waits for any more
LOOK_SECONDS = 0.05
KNOWN_SECONDS = 60  # for which a server surely knows a block, among those of all hosts
START = b'{"timestamp":'
TIMESTAMP = re.compile(START + rb"(\d+)")
# Behind a colon, only a name stands in quotes: so each line has each of them, once.
REQUIRED = (START, b'"method":', b'"endpoint":')
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


@dataclass(slots=True)
class Parcel:
    """Lines to be sent, and what they are sent with."""

    data: bytes
    torn: Sequence[bytes] = ()
    kept: KeptLines = nullcontext


class Delivery:
    """What leads from a host's ledger to one database; ``clock`` returns microseconds."""

    def __init__(
        self,
        client: Client,
        schema: Schema,
        shards: Shards,
        ledger: Ledger,
        clock: Callable[[], int],
    ) -> None:
        self._client = client
        self._schema = schema
        self._shards = shards
        self._ledger = ledger
        self._clock = clock
        self._host = zlib.crc32(f"{node()}:{ledger.path}".encode()) & 0xFFF

    def settle(self, kept: KeptLines) -> Entry:
        """See that what was on its way is there; return what holds then."""
        entry, data = self._ledger.read()
        sending = entry.sending
        if sending is None:
            return entry
        lines = gzip.decompress(data).replace(_mark(sending.batch), START)
        self._await_end(sending)
        if self._is_known(sending):
            return self._send(entry, sending, Parcel(lines, kept=kept), data)
        stored = self._count(sending)
        if stored == sending.lines:
            return self._taken(entry, sending)
        if stored:
            delete(self._client, self._schema, "visits", bind(WITHIN, _values(sending)))
        # Under another number: what was deleted must not be taken for what comes.
        return self._begin(entry, sending, Parcel(lines, kept=kept))

    def _is_known(self, sending: Sending) -> bool:
        """Return whether servers will refuse what they have of a batch if it comes again."""
        age = self._clock() - (sending.batch >> 12)
        if not self._schema.refuses_repeats or not 0 <= age < KNOWN_SECONDS * SECOND:
            return False
        return sending.layout == self._shards.layout()

    def deliver(self, entry: Entry, batch: Batch, kept: KeptLines) -> Entry:
        """Send what a batch holds; return what holds once it is there."""
        sending = Sending(
            positions=batch.positions, finished=batch.finished, counts=dict(batch.counts)
        )
        if not batch.data:
            return self._taken(entry, sending) if batch.positions or batch.finished else entry
        return self._begin(entry, sending, Parcel(batch.data, batch.torn, kept))

    def _begin(self, entry: Entry, sending: Sending, parcel: Parcel) -> Entry:
        """Write down what is to be sent, and send it."""
        timestamps = [int(found) for found in TIMESTAMP.findall(parcel.data)]
        if not timestamps:
            return self._sorted_out(entry, sending, parcel)
        sending = replace(
            sending,
            batch=max(self._clock() << 12 | self._host, entry.batch + (1 << 12)),
            lines=parcel.data.count(b"\n"),
            first=min(timestamps),
            last=max(timestamps),
            layout=self._shards.layout(),
        )
        self._shards.note(sending.layout)
        data = gzip.compress(parcel.data.replace(START, _mark(sending.batch)), LEVEL, mtime=0)
        entry = replace(entry, sending=sending)
        self._ledger.write(entry, data)
        return self._send(entry, sending, parcel, data)

    def _send(self, entry: Entry, sending: Sending, parcel: Parcel, data: bytes) -> Entry:
        if not self._is_taken("visits", parcel.data, data, query_id=_query(sending)):
            return self._sorted_out(entry, sending, parcel)
        return self._taken(entry, sending)

    def _is_taken(self, table: str, lines: bytes, data: bytes, **settings: str) -> bool:
        """Send lines of visits, and return True; False if there is something else among them."""
        if not _are_visits(lines):
            return False
        try:
            self._client.insert(INSERT.replace("{table}", table), data, **ONE_BLOCK, **settings)
        except ClickHouseError as error:
            if error.code in UNREADABLE:
                return False
            raise
        return True

    def _sorted_out(self, entry: Entry, sending: Sending, parcel: Parcel) -> Entry:
        """Send what is readable of a batch that was refused, and count the rest."""
        good: list[bytes] = []

        def load(data: bytes, lines: int) -> bool:
            taken = self._is_taken("visits_on_trial", data, gzip.compress(data, LEVEL))
            if taken:
                good.append(data)
            return taken

        unreadable = load_readable(parcel.data, load)
        torn = sum(line in parcel.torn for line in unreadable.lines)
        counts = {
            "torn": torn + len(unreadable.torn),
            "rejected": len(unreadable.lines) - torn,
        }
        total = {
            name: sending.counts.get(name, 0) + counts.get(name, 0)
            for name in sending.counts | counts
        }
        sending = replace(sending, counts=total)
        with parcel.kept(unreadable.lines + unreadable.torn):
            if not good:
                return self._taken(entry, replace(sending, lines=0))
            return self._begin(entry, sending, Parcel(b"".join(good)))

    def _taken(self, entry: Entry, sending: Sending) -> Entry:
        """Write down that a batch is there."""
        entry = entry.with_taken(sending, self._clock())
        self._ledger.write(entry)
        return entry

    def _await_end(self, sending: Sending) -> None:
        """Wait until a server stores nothing of a batch any more that was cut off."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._ask(IS_RUNNING, query=_query(sending)):
            if time.monotonic() > deadline:
                raise StorageError(f"{self._client.address} is still storing the batch before")
            time.sleep(LOOK_SECONDS)

    def _count(self, sending: Sending) -> int:
        """Return how many visits of a batch are there."""
        return self._ask(f"SELECT count() FROM visits WHERE {WITHIN}", **_values(sending))

    def _ask(self, statement: str, **values: str | int) -> int:
        return int(self._client.rows(bind(statement, values))[0][0])


def _are_visits(data: bytes) -> bool:
    lines = data.count(b"\n")
    return (
        all(data.count(name) == lines for name in REQUIRED)
        and b"\0" not in data
        and (data.isascii() or _is_utf8(data))
    )


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mark(batch: int) -> bytes:
    return b'{"batch":%d,"timestamp":' % batch


def _query(sending: Sending) -> str:
    return f"wsgi-tracker-{sending.batch}"


def _values(sending: Sending) -> dict[str, str | int]:
    return {"batch": sending.batch, "first": sending.first, "last": sending.last}
