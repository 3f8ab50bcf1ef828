"""How tracking is: what was counted, what waits, and what is out of order.

Only looked at: nothing is ingested, and nobody is waited for longer than a loan and a lock of the
database take. What moves from spool to storage meanwhile may be missing for that moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .agents import NO_CLASSES, data_version
from .batches import count_lines, unread_bytes
from .errors import StorageError
from .ingest import spool_errors
from .ingest_thread import IngestThread
from .period import DAY, SECOND, iso_or_none, iso_timestamp
from .proxies import ProxyCheck
from .segments import SUFFIX, explain_refusal, look_at_segments, segment_sizes
from .spool import Spool
from .storage import FEW_UNCOUNTED, FINISHED, Storage, StorageFacts

STALE_SECONDS = 60
MAX_COUNTED_BYTES = 64 << 20  # counting the lines of so many takes some 50 ms
UNREADABLE = "the database cannot be read: {}"
READABLE = "other users of this host can read the database, and addresses in it: chmod 600 it"
UNCOUNTED = (
    "{:,} visits are still to be counted, while others come: reports are exact, and slow until then"
)
STORAGE_FACTS = ("last_ingest", "ingesting_pid", "database_bytes", "schema", "retention_days")
COUNTS = ("recorded", "queued", "dropped", "torn", "rejected", "ignored")


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """What is in the spool; from ``queued`` on, of what is not in storage yet.

    ``None`` where spool or storage does not answer, or there are too many visits to count.
    """

    size_bytes: int | None = None
    segments: int | None = None
    queued: int | None = None
    queued_bytes: int | None = None
    oldest_timestamp: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)  # that wait there, too


@dataclass(frozen=True, slots=True)
class Health:
    """The state of tracking; ``None`` stands for what does not answer."""

    problems: Sequence[str]
    warnings: Sequence[str]
    recording: bool
    counts: Mapping[str, int]  # of this process, and not yet in its spool
    spool: SpoolFacts
    storage: StorageFacts | None

    def as_json(self) -> dict[str, Any]:
        """Return the facts, and first whether something is wrong with them."""
        return {
            "status": "degraded" if self.problems else "ok",
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            **self._counts(),
            "recording": self.recording,
            "queued_bytes": self.spool.queued_bytes,
            "oldest_queued": iso_or_none(self.spool.oldest_timestamp),
            "spool_bytes": self.spool.size_bytes,
            "spool_segments": self.spool.segments,
            **_storage_as_json(self.storage),
        }

    def _counts(self) -> dict[str, int | None]:
        """Return the counts of visits; each one that was offered is in one of them."""
        if self.storage is None:
            return dict.fromkeys(COUNTS)
        counts = Counter(self.storage.counts) + Counter(self.counts) + Counter(self.spool.counts)
        return {name: counts[name] for name in COUNTS} | {"queued": self.spool.queued}


def _storage_as_json(facts: StorageFacts | None) -> dict[str, Any]:
    if facts is None:
        return dict.fromkeys(STORAGE_FACTS)
    return {
        "last_ingest": iso_or_none(facts.last_ingest),
        "ingesting_pid": facts.ingesting_pid,
        "database_bytes": facts.size_bytes,
        "schema": facts.schema,
        "retention_days": facts.retention_days,
    }


def waits_long(timestamp: int, now: int) -> bool:
    """Return whether a visit that waits in the spool since then tells of an outage."""
    return now - timestamp >= STALE_SECONDS * SECOND


class HealthCheck:
    """Look at what a tracker needs."""

    def __init__(
        self, storage: Storage, spool: Spool, thread: IngestThread, proxy_check: ProxyCheck
    ) -> None:
        self._storage = storage
        self._spool = spool
        self._thread = thread
        self._proxy_check = proxy_check

    def problems(self, oldest_timestamp: int | None, now: int) -> list[str]:
        """Return what keeps visits out of spool or storage; without any, tracking is active.

        ``oldest_timestamp`` is that of the oldest visit in the spool, if there is one.
        """
        problems = []
        if not self._spool.writable:
            problems.append(self._spool.problem)
        if oldest_timestamp is not None and waits_long(oldest_timestamp, now):
            problems.append(
                f"visits wait in the spool since {iso_timestamp(oldest_timestamp)}: the log of the "
                f"process that ingests says why, if there is one"
            )
        return problems

    def look(self, now: int) -> Health:
        """Return how tracking is at ``now``, in microseconds since the epoch. Never raises."""
        problems: list[str] = []
        folder, sizes, segments, spool = self._spool.folder, {}, [], SpoolFacts()
        refused: dict[str, OSError] = {}
        with _spool_problems(problems):
            sizes = segment_sizes(folder)
            found = look_at_segments(folder, sizes, refused.__setitem__)
            segments = [segment.id for segment, _ in found]
            spool = SpoolFacts(sum(sizes.values()), len(sizes))
        segments += [name.removesuffix(SUFFIX) for name in refused]
        storage = self._look_at_storage(segments, problems)
        if storage is not None and spool.segments is not None:
            with _spool_problems(problems):
                spool = _add_queue(spool, folder, sizes, storage)
                spool = _add_refused(spool, folder, sizes, refused, storage, problems)
        return Health(
            self.problems(spool.oldest_timestamp, now) + problems,
            [] if storage is None else self._warnings(storage, now),
            self._spool.writable,
            self._spool.counts,
            spool,
            storage,
        )

    def _look_at_storage(self, segments: list[str], problems: list[str]) -> StorageFacts | None:
        try:
            facts = self._storage.facts(segments)
        except StorageError as error:
            problems.append(UNREADABLE.format(error))
            return None
        problems += [UNREADABLE.format(facts.problem)] if facts.problem else self._thread.problems
        return facts

    def _warnings(self, facts: StorageFacts, now: int) -> list[str]:
        """Return what is probably not as it was meant."""
        proxy = self._proxy_check.warning(facts)
        return [
            *_replaced(facts.replaced_at, now),
            *([READABLE] if facts.is_readable_by_others else []),
            *([proxy] if proxy else []),
            *_class_warnings(facts),
            *([UNCOUNTED.format(facts.uncounted)] if facts.uncounted > FEW_UNCOUNTED else []),
        ]


@contextmanager
def _spool_problems(problems: list[str]) -> Iterator[None]:
    try:
        with spool_errors():
            yield
    except StorageError as error:
        problems.append(str(error))


def _add_queue(
    facts: SpoolFacts, folder: Path, names: Iterable[str], storage: StorageFacts
) -> SpoolFacts:
    found: Counter[str] = Counter()
    queued_bytes, timestamps = 0, []
    for segment, end in look_at_segments(folder, names, lambda name, error: None):
        position = storage.positions.get(segment.id, 0)
        start = end if position == FINISHED else max(position, segment.first)
        if start < end:
            queued_bytes += end - start
            timestamps.append(segment.timestamp_at(start))
            if queued_bytes <= MAX_COUNTED_BYTES:
                found += count_lines(segment, start, end)
    return replace(
        facts,
        queued=found.pop("queued", 0) if queued_bytes <= MAX_COUNTED_BYTES else None,
        queued_bytes=queued_bytes,
        oldest_timestamp=min((t for t in timestamps if t is not None), default=None),
        counts=found,
    )


def _add_refused(
    facts: SpoolFacts,
    folder: Path,
    sizes: Mapping[str, int],
    refused: Mapping[str, OSError],
    storage: StorageFacts,
    problems: list[str],
) -> SpoolFacts:
    """Add what waits in segments that this process cannot read: how many visits, nobody knows."""
    unread = {name: unread_bytes(name, sizes[name], storage.positions) for name in refused}
    name = min((name for name, size in unread.items() if size), default=None)
    if name is None:
        return facts
    if not any(name in problem for problem in problems):
        problems.append(explain_refusal(folder, name, refused[name]))
    queued_bytes = (facts.queued_bytes or 0) + sum(unread.values())
    return replace(facts, queued=None, queued_bytes=queued_bytes)


def _class_warnings(facts: StorageFacts) -> list[str]:
    """Return why user agents have no class, or one of other data than there is."""
    data = data_version()
    if data is None:
        return [f"the class of new user agents stays unknown: {NO_CLASSES}"]
    if facts.agents_data not in (None, data):
        return [
            f"user agents were classified by {facts.agents_data}, and {data} are installed: "
            f"'wsgi-tracker reclassify -d DATABASE' makes the old ones agree"
        ]
    return []


def _replaced(replaced_at: int | None, now: int) -> list[str]:
    if replaced_at is None or not 0 <= now - replaced_at < DAY:
        return []
    return [
        f"the database was deleted or replaced at {iso_timestamp(replaced_at)}, while it was in "
        f"use: what it held, and the spool no longer did, is in the old file"
    ]
