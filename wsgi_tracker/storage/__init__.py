"""Where visits are kept: what every storage can do, and how one is opened.

Nothing here, or below, knows of HTTP.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Protocol, TypeAlias

from ..errors import Outage, StorageError, TrackerError
from ..period import Granularity
from ..reports import (
    Breakdown,
    EndpointStats,
    Outcomes,
    Position,
    Sessions,
    Summary,
    TrendBucket,
    VisitsPage,
)
from ..selection import Selection
from ..visit import Visit
from .address import Address, locate

FINISHED = -1
SECRET_BYTES = 32
BUSY_SECONDS = 0.5  # a report cannot wait long
# Visits that are worth being counted, and how many at most reports look at instead: each takes a
# microsecond or two.
ENOUGH_TO_COUNT = 1 << 10
FEW_UNCOUNTED = 1 << 15
QUERY_TIMEOUT_SECONDS = 10.0
ALL = Selection()
Positions: TypeAlias = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Packed:
    """Visits as JSON in which what comes again stands once.

    ``places`` is an array of objects with method, endpoint, path, status and host, ``clients`` of
    those with user_hash, ip_address and user_agent, ``origins`` of those with a referer.
    ``visits`` is an array of arrays: the numbers of place, client and origin, from 0, then
    timestamp, duration_us, first_byte_us, bytes_sent and error.
    """

    places: str
    clients: str
    origins: str
    visits: str


@dataclass(slots=True)
class Batch:
    """What one transaction takes in: whole lines, and where reading them ended.

    Or visits that are ``packed``, which are all good.

    ``positions`` are bytes from the start of each segment, by its id; ``finished`` lists the
    segments that have no writer and no more lines. ``torn`` repeats what ``data`` holds of lines
    that were not written to their end, so that they can be told from other rejects. ``patience`` is
    how often pieces of ``data`` may turn out to hold what is no visit, before
    :exc:`HardBatchError`.
    """

    data: bytes = b""
    positions: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    patience: float = math.inf
    packed: Packed | None = None


class HardBatchError(StorageError):
    """A batch holds so much that is no visit that it takes long to sort out; a smaller may do."""


class NotIngestedError(TrackerError):
    """What waits in the spool has to be ingested before this report can be made."""


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What storage knows of itself, at one moment.

    ``last_ingest`` is in microseconds since the epoch, ``retention_days`` 0 where visits are kept
    for ever; ``replaced_at`` is when it was noticed that the file is not the one it was.
    ``newest_visits`` is how many of the newest visits were looked at, without those of which only
    the hit counts; ``only_address`` is the one that all of them came from, if it is one, and empty
    where none has any. ``agents_data`` names the data that classified the user agents, those that
    are newer excepted. ``uncounted`` is how many visits are not counted yet, and never less; beyond
    :data:`FEW_UNCOUNTED`, reports read all visits of their period. ``problem`` is why the rest is not
    known where only the host's own counts and positions are; else it is empty.
    """

    counts: Mapping[str, int]
    positions: Positions
    last_ingest: int | None
    ingesting_pid: int | None
    replaced_at: int | None
    size_bytes: int | None
    is_readable_by_others: bool
    schema: int
    retention_days: int | None
    agents_data: str | None
    uncounted: int
    newest_visits: int
    newest_user_agents: int
    only_address: str | None
    problem: str = ""


ReadBatch: TypeAlias = Callable[[Positions], Batch]


class Unread(Protocol):
    """What waits in segments of the spool, for a report to take along."""

    @property
    def segments(self) -> Sequence[str]:
        """Their ids."""

    def read(self, positions: Positions) -> Batch:
        """Return what they hold beyond these positions, or raise :exc:`NotIngestedError`."""


class Snapshot(Protocol):
    """Exact answers about the visits of one moment, and what waits in the spool besides.

    Where that cannot be taken along, :exc:`NotIngestedError` says so. For one thread.
    """

    def timezone(self) -> tzinfo:
        """Return what hours, days, weeks and months are of, unless a question says otherwise."""

    def floor(self) -> int:
        """Return the time before which no visit is shown, and those that there are will go."""

    def stats(self, selection: Selection = ALL) -> list[EndpointStats]:
        """Return one row per endpoint and method, most hits first."""

    def summary(self, selection: Selection = ALL) -> Summary:
        """Return the totals."""

    def outcomes(self, selection: Selection = ALL) -> Outcomes:
        """Return statuses, latencies and bytes of all visits."""

    def outcomes_ever(self) -> Outcomes:
        """Return those of all visits that were ever stored, whatever was deleted since."""

    def outcomes_of_endpoints(self, selection: Selection = ALL) -> dict[tuple[str, str], Outcomes]:
        """Return them by endpoint and method."""

    def outcomes_of_buckets(
        self,
        selection: Selection,
        granularity: Granularity,
        buckets: Sequence[TrendBucket],
        zone: tzinfo | None = None,
    ) -> dict[int, Outcomes]:
        """Return them by where each of ``buckets``, the trends of this question, starts."""

    def trends(
        self,
        selection: Selection,
        granularity: Granularity,
        zone: tzinfo | None = None,
    ) -> list[TrendBucket]:
        """Return the buckets that have visits, newest first; ``zone`` is :meth:`timezone`'s if none."""

    def visits(
        self, selection: Selection = ALL, limit: int = 50, position: Position | None = None
    ) -> VisitsPage:
        """Return the newest visits, newest first, or those that follow on the page before."""

    def oldest_visits(
        self, selection: Selection, limit: int, behind: tuple[int, int] | None, upto: int
    ) -> list[tuple[int, Visit]]:
        """Return the oldest visits, oldest first, each behind its id, of those with ids to ``upto``.

        Or those that follow a timestamp and id.
        """

    def arrived_visits(
        self, selection: Selection, limit: int, behind: int | None, upto: int
    ) -> list[tuple[int, Visit]]:
        """Return the same in the order in which they were stored, or those that follow an id."""

    def newest_id(self) -> int:
        """Return the greatest id of a visit; later ones have greater ids."""

    def hits(self, selection: Selection) -> int:
        """Return the number of visits."""

    def users(self, selection: Selection) -> int:
        """Return the number of users."""

    def breakdown(self, selection: Selection, by: str, limit: int) -> Breakdown:
        """Return the values of ``by``, one of :data:`~wsgi_tracker.selection.BREAKDOWNS`."""

    def sessions(self, selection: Selection) -> Sessions:
        """Return the totals of sessions."""


KeptLines: TypeAlias = Callable[[Sequence[bytes]], AbstractContextManager[object]]


class Storage(Protocol):
    """Visits, and exact answers about them.

    Every method may raise :exc:`StorageError`. Safe to share between threads, and usable after a
    fork.

    Who meets an outage that keeps visits in the spool reports it to ``outage``: however many do,
    it is logged once.
    """

    outage: Outage

    def ingest(
        self,
        segments: Sequence[str],
        read: ReadBatch,
        *,
        durable: bool,
        kept: KeptLines = nullcontext,
    ) -> None:
        """Take in, exactly once, what ``read`` returns for the positions of these segments.

        They are those that :meth:`positions` returns, within the transaction. Lines that are no
        visits are counted, and ``kept(lines)`` is entered before the commit, and left behind it, by
        the exception where it fails. ``durable`` asks that this batch, and all before it, survive a
        power cut when the call returns. Raises :exc:`HardBatchError`.
        """

    def count(self, *, enough: int = ENOUGH_TO_COUNT) -> bool:
        """Count some of the visits that are not counted yet, if there are enough; True if more are.

        Whoever ingests does it between two batches. Until then reports look at each of them, and
        are as exact. A visit is counted in the class of its user agent, so new ones are classified
        first: where what that takes is not loaded, nothing is counted, and the result is False.
        """

    def load_classifier(self) -> bool:
        """Load what it takes to classify new user agents, if some wait for it; True if so.

        Then :meth:`count` classifies them. It may take a second, so whoever ingests does it while
        others may.
        """

    def tidy(self) -> None:
        """Do upkeep that would else delay who stores visits; others may do so meanwhile."""

    def rebuild(self) -> Iterator[None]:
        """Count all visits anew: a step each time the iterator is advanced, as in :meth:`purge`."""

    def check(self) -> str | None:
        """Compare what was counted with the visits; return the first difference, if there is one.

        It takes as long as reading all visits several times.
        """

    def check_integrity(self) -> str | None:
        """Read all that is stored; return the first damage, if there is any."""

    def backup(self, file: Path) -> None:
        """Copy all of it, as it is at one moment, to ``file``, which must not exist.

        Others may write meanwhile. Raises :exc:`ConfigurationError` where it cannot be written.
        """

    def generation(self) -> object:
        """Return what differs once another storage stands in the place of this one."""

    def positions(self, segments: Sequence[str]) -> Positions:
        """Return how far these segments are stored, by id; :data:`FINISHED` is all of it.

        Those of which nothing is stored are missing.
        """

    def facts(self, segments: Sequence[str]) -> StorageFacts:
        """Return how storage is, and how far these segments are stored; cheap at any size."""

    def secret(self) -> bytes:
        """Return the key of every ``user_hash`` here; made once, at random."""

    def declare(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        """Keep each of these settings that has no value yet; return the values that hold."""

    def declared(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return the values of those of these settings that have one."""

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """Change these settings, for every application that comes after; ``None`` forgets one."""

    def snapshot(
        self, unread: Unread | None = None, *, long: bool = False
    ) -> AbstractContextManager[Snapshot]:
        """Enter one moment of it, to make reports of; ``unread`` are visits to take along.

        ``long`` are questions that may take seconds: only so many are answered at once that others
        need not wait for them. Raises :exc:`QueryTimeoutError` where they take too long.
        """

    def set_retention(self, days: int) -> None:
        """Keep visits for so many days, or with 0 for ever; the value given last holds."""

    def begin_purge(self, now: int, days: int | None) -> bool:
        """Set the floor, before which visits are to go, by the retention; True if it is time.

        It is not where visits are kept for ever, or a purge began within the hour before ``now``.
        ``days`` holds where no retention was ever set. A clock that has leapt since the last purge
        is believed by the next one.
        """

    def purge(self, before: int | None = None) -> Iterator[None]:
        """Delete what is older than the floor, and all that only such visits needed.

        A step each time the iterator is advanced; others may write in between. ``before`` sets
        the floor first. No report shows anything older than the floor, or that arrives later.
        """

    def forget(self, user_hash: str) -> int:
        """Delete all visits of one user, and all that only they needed; return how many.

        Nothing of it is left in the file or in what stands beside it. Takes a while where there
        are many visits, and lets others write meanwhile.
        """

    def reclassify(self) -> Iterator[None]:
        """Decide the class of every user agent anew, by the data that is installed here.

        A step each time the iterator is advanced, as in :meth:`purge`. Without data it raises
        :exc:`ConfigurationError`.
        """

    def close(self) -> None:
        """Close what is open; may be called twice, and used again afterwards."""


def random_secret() -> bytes:
    """Return a new key for every ``user_hash``."""
    return secrets.token_bytes(SECRET_BYTES)


def open_storage(
    database: str | Path | Address,
    *,
    max_endpoints: int = 10_000,
    make_secret: Callable[[], bytes] = random_secret,
    used_before: bool = False,
    busy_seconds: float = BUSY_SECONDS,
    query_timeout_seconds: float = QUERY_TIMEOUT_SECONDS,
) -> Storage:
    """Open, or create, the storage that ``database`` names.

    A path or ``sqlite:///path``, or ``clickhouse://user:password@host:8123/database``.

    ``make_secret`` returns the key of every ``user_hash`` when a database is created. Raises
    :exc:`ConfigurationError` where that cannot work, which is a mistake of who configures it; not
    where the database was ``used_before``: then something befell it, which is logged, and what
    needs it raises :exc:`StorageError` until it is over. Who writes waits for others as long as
    ``busy_seconds``; a report takes no longer than ``query_timeout_seconds``.
    """
    place = locate(database)
    if isinstance(place, Address):
        from .clickhouse import ClickHouseStorage

        return ClickHouseStorage(place, query_timeout_seconds=query_timeout_seconds)
    from .sqlite import SQLiteStorage

    return SQLiteStorage(
        place,
        max_endpoints=max_endpoints,
        make_secret=make_secret,
        used_before=used_before,
        busy_seconds=busy_seconds,
        query_timeout_seconds=query_timeout_seconds,
    )
