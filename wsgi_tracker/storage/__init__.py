"""Where visits are kept: what every storage can do, and how one is opened.

Nothing here, or below, knows of HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from ..errors import ConfigurationError
from ..period import Granularity
from ..reports import EndpointStats, Summary, TrendBucket
from ..visit import Visit

FINISHED = -1
Positions: TypeAlias = Mapping[str, int]


@dataclass(slots=True)
class Batch:
    """What one transaction takes in: whole lines, and where reading them ended.

    ``positions`` are bytes from the start of each segment, by its id; ``finished`` lists the
    segments that have no writer and no more lines. ``torn`` repeats what ``data`` holds of lines
    that were not written to their end, so that they can be told from other rejects.
    """

    data: bytes = b""
    positions: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    torn: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What storage knows of itself, at one moment.

    ``last_ingest`` is in microseconds since the epoch. ``newest_visits`` is how many of the newest
    visits were looked at; ``only_address`` is the one that all of them came from, if it is one.
    """

    counts: Mapping[str, int]
    positions: Positions
    last_ingest: int | None
    ingesting_pid: int | None
    size_bytes: int
    schema: int
    newest_visits: int
    newest_user_agents: int
    only_address: str | None


ReadBatch: TypeAlias = Callable[[Positions], Batch]
KeepRejected: TypeAlias = Callable[[Sequence[bytes]], None]


class Storage(Protocol):
    """Visits, and exact answers about them.

    Every method may raise :exc:`StorageError`. A window's ``start`` is in microseconds since the
    epoch; it has no end. Safe to share between threads, and usable after a fork.
    """

    def ingest(self, read: ReadBatch, keep_rejected: KeepRejected, *, durable: bool) -> None:
        """Take in, exactly once, what ``read`` returns for the positions stored so far.

        ``read`` maps the id of a finished segment to :data:`FINISHED`. Lines that are no visits
        go to ``keep_rejected`` before they are counted. ``durable`` asks that this batch, and
        all before it, survive a power cut when the call returns.
        """

    def positions(self) -> Positions:
        """Return how far each segment is stored."""

    def facts(self) -> StorageFacts:
        """Return how storage is, cheaply at any size."""

    def secret(self) -> bytes:
        """Return the key of every ``user_hash`` here; made once, at random."""

    def stats(self, start: int) -> list[EndpointStats]:
        """Return one row per endpoint and method, most hits first."""

    def summary(self, start: int) -> Summary:
        """Return the totals."""

    def trends(self, start: int, granularity: Granularity) -> list[TrendBucket]:
        """Return the buckets that have visits, newest first."""

    def visits(self, limit: int) -> list[Visit]:
        """Return the newest visits, newest first."""

    def close(self) -> None:
        """Close what is open; may be called twice, and used again afterwards."""


def open_storage(database: str | Path, *, max_endpoints: int = 10_000) -> Storage:
    """Open, or create, the storage that ``database`` names: a path or ``sqlite:///path``.

    Raises :exc:`ConfigurationError` where that cannot work.
    """
    from .sqlite import SQLiteStorage

    return SQLiteStorage(database_path(database), max_endpoints=max_endpoints)


def database_path(database: str | Path) -> Path:
    """Return the absolute path of a SQLite database, links resolved."""
    name = str(database)
    scheme, separator, rest = name.partition("://")
    if separator:
        if scheme != "sqlite" or not rest.startswith("/") or len(rest) == 1:
            raise ConfigurationError(
                f"database is a path or sqlite:///path, given {scheme + separator + '...'!r}"
            )
        name = rest[1:]
    if not name or name == ":memory:":
        raise ConfigurationError(
            f"database is a file that processes can share, given {str(database)!r}"
        )
    return Path(name).expanduser().resolve()
