"""SQLite and ClickHouse over the same visits: how fast they go in, their bytes, and every report.

    python benchmarks/clickhouse.py --rows 10000000 --folder kept \\
        clickhouse://127.0.0.1:8123/one 'clickhouse://127.0.0.1:8124/two?cluster=two_shards'

The visits are those of a database that bulk.py makes, which needs numpy. They are taken into each
database named that has none yet, as ``wsgi-tracker migrate`` does it, timed are the deliveries alone:
lines out, and the ledger written twice a batch. Then every report is asked of all of them in turn,
``--repetitions`` times, in this process; where answers differ, it says so. ``PYTHONPATH=tests python tests/clickhouse/clickhouses.py one
FOLDER`` and ``cluster FOLDER`` run servers for it, and print their ports.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import bulk
import common
import reports

from wsgi_tracker.backend import Backend
from wsgi_tracker.cli.source import DatabaseSource
from wsgi_tracker.migrating import migrate
from wsgi_tracker.storage import Storage
from wsgi_tracker.storage.address import Address, locate
from wsgi_tracker.storage.clickhouse.literals import bind

PAST = [
    "stats?start={start}&end={end}&include=status,latency",
    "summary?start={start}&end={end}&include=sessions",
    "breakdown?by=referer_host&start={start}&end={end}",
    "breakdown?by=browser&start={start}&end={end}",
]
SIZE = "SELECT sum(bytes), sum(rows) FROM {parts} WHERE database = {database} AND active"


class Timed:
    """A storage whose deliveries are timed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def ingest(self, segments: Sequence[str], read: Any, *, durable: bool) -> None:
        """Take in a batch."""
        began = time.perf_counter()
        self._storage.ingest(segments, read, durable=durable)
        self.seconds += time.perf_counter() - began


def fill(source: Backend, target: Backend) -> tuple[int, float]:
    """Take all visits from one into the other; return how many, and the seconds of deliveries."""
    timed = Timed(target.storage)
    visits = 0
    for step in migrate(source.storage, timed):  # type: ignore[arg-type]
        visits = step.visits
    return visits, timed.seconds


def bytes_per_visit(backend: Backend, place: Path | Address, rows: int) -> float:
    """Return the bytes on disk per visit."""
    if isinstance(place, Path):
        return place.stat().st_size / rows
    client = backend.storage._client  # type: ignore[attr-defined]
    parts = f"cluster('{place.cluster}', system, parts)" if place.cluster else "system.parts"
    statement = SIZE.replace("{parts}", parts)
    ((size, stored),) = client.rows(bind(statement, {"database": place.database}))
    return float(size / stored)


def ask(backends: dict[str, Backend], options: argparse.Namespace) -> list[list[str]]:
    """Return a line of the table for each report; say where two answers differ."""
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 30 * 86400))
    past = [path.format(start=day, end=time.strftime("%Y-%m-%d", time.gmtime())) for path in PAST]
    lines, now = [], [0]
    for backend in backends.values():
        backend.answers._clock = lambda: now[0]
    for path in [*(question.path for question in reports.QUESTIONS), *past]:
        parts = urlsplit(path.removeprefix("/api/tracking/"))
        seconds: dict[str, list[float]] = {name: [] for name in backends}
        for number in range(options.repetitions + 1):
            answers, now[0] = {}, time.time_ns()  # windows reach to the same moment
            for name, backend in backends.items():
                began = time.perf_counter()
                answers[name] = DatabaseSource(backend).ask(parts.path, parse_qsl(parts.query)).body
                if number:
                    seconds[name].append(time.perf_counter() - began)
        first, *others = answers.values()
        if any(other != first for other in others):
            print(f"**{path}: answers differ**", flush=True)
        line = [path.removeprefix("/api/tracking/").replace(day, "...")]
        for each in map(sorted, seconds.values()):
            p50, p95 = (reports.quantile(each, part) * 1000 for part in (0.5, 0.95))
            line += [f"{p50:.0f}", f"{p95:.0f}"]
        lines.append(line)
    return lines


def run(database: Path, scratch: Path, options: argparse.Namespace) -> None:
    """Fill all databases, and ask them."""
    places: dict[str, Path | Address] = {"SQLite": database}
    for number, url in enumerate(options.urls):
        place = locate(url)
        assert isinstance(place, Address)
        spool = scratch / f"spool-{number}"
        spool.mkdir()
        places[f"{place.cluster or 'one server'}"] = replace(place, spool=spool)
    with contextlib.ExitStack() as closing:
        backends = {}
        for name, place in places.items():
            backends[name] = Backend(place, settings={}, ingest=False, query_timeout_seconds=600)
            closing.callback(backends[name].close)
        for _ in backends["SQLite"].storage.reclassify():
            pass  # by what the others are classified by
        for name, backend in list(backends.items())[1:]:
            with backend.storage.snapshot() as snapshot:
                if snapshot.summary().total_hits:
                    continue
            visits, seconds = fill(backends["SQLite"], backend)
            print(f"{name}: {visits:,} visits at {visits / seconds:,.0f} a second", flush=True)
        for name, backend in backends.items():
            size = bytes_per_visit(backend, places[name], options.rows)
            print(f"{name}: {size:.0f} bytes a visit", flush=True)
        heads = [f"{name} {part} ms" for name in backends for part in ("p50", "p95")]
        print(common.table(["report", *heads], ask(backends, options)))


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("urls", nargs="+", help="clickhouse://...")
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many visits there are")
    parser.add_argument("--kind", choices=bulk.KINDS, default="site")
    parser.add_argument("--folder", type=Path, help="where the database is kept, on a local disk")
    parser.add_argument("--repetitions", type=int, default=10)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{common.conditions()}; {options.rows} visits of the kind {options.kind}", flush=True)
    print(f"load average {os.getloadavg()[0]:.2f}", flush=True)
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as name:
        scratch = Path(name)
        run(bulk.kept(options.folder or scratch, options.kind, options.rows), scratch, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
