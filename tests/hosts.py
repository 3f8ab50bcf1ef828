"""Tests of spool and ingest stand on these: a host, and lines to put into its spool."""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from counting import look

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.ingest import Ingester
from wsgi_tracker.ingest_thread import IngestThread
from wsgi_tracker.retention import Retention
from wsgi_tracker.segments import SUFFIX, header

serial = itertools.count(1)
GOOD = Visit(1_755_081_000_000_000, "a" * 32, "GET", "/boxes").line()
OTHER = Visit(1_755_081_000_000_001, "b" * 32, "GET", "/boxes").line()


class Host:
    """A database, its spool, and who ingests: all that is below the middleware."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "visits.db"
        self.folder = folder / "visits.db-spool"
        self.folder.mkdir(mode=0o700)
        self.storage = open_storage(self.database)
        self.ingester = Ingester(self.storage, self.folder)

    def segment(self, content: bytes, *, segment: str = "", name: str = "") -> Path:
        """Write a segment whose writer is gone."""
        segment = segment or f"{next(serial):032x}"
        path = self.folder / (name or segment + SUFFIX)
        path.write_bytes(header(segment) + content)
        return path

    def ingest(self) -> None:
        """Ingest all there is, quiet segments too."""
        self.ingester._look_at = 0.0
        while self.ingester.run_once():
            pass

    def hits(self) -> int:
        return look(self.storage).summary().total_hits

    def counts(self) -> dict[str, int]:
        with closing(sqlite3.connect(self.database)) as connection:
            return dict(connection.execute("SELECT name, value FROM counts"))

    def rejected(self) -> bytes:
        path = self.folder / "rejected.ndjson"
        return path.read_bytes() if path.exists() else b""

    def segments(self) -> list[str]:
        return [path.name for path in self.folder.glob(f"*{SUFFIX}") if "rej" not in path.name]


def many(count: int) -> bytes:
    return b"".join(
        Visit(1_755_081_000_000_000 + n, "a" * 32, "GET", "/boxes").line() for n in range(count)
    )


def thread_of(
    host: Host,
    ingester: Ingester,
    *,
    retention: Retention | None = None,
    max_spool_bytes: int = 1 << 30,
    on_ingest: Callable[[], None] = lambda: None,
) -> IngestThread:
    """Return a thread that is not started yet."""
    keeps_all = Retention(host.storage, None, time.time_ns)
    return IngestThread(
        ingester, retention or keeps_all, host.folder, max_spool_bytes, on_ingest=on_ingest
    )


class BeforeIngest:
    """Real storage; ``act`` runs once, before a batch is stored."""

    def __init__(self, storage: Any, act: Callable[[], None]) -> None:
        self._storage = storage
        self._act = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def ingest(self, *args: Any, **options: Any) -> Any:
        act, self._act = self._act, lambda: None
        act()
        return self._storage.ingest(*args, **options)
