"""How long a purge holds others up: every step's duration, and what another writer waits.

    python benchmarks/purge.py [--visits 200000] [--paths 100000] [--keep 0.5] [--rounds 3]

The database is filled once with the visits of ``ingest.py`` and copied for every round, which
purges all but the newest ``--keep`` of them. Each step is timed, and rests as long as it took, as
the package's own thread does. Another process commits 10 visits every 10 ms meanwhile; the wait is
from its BEGIN IMMEDIATE to the end of its COMMIT.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeAlias

import common
import ingest

from wsgi_tracker import open_storage
from wsgi_tracker.storage.sqlite.purge import phases

WRITER_PAUSE_SECONDS = 0.01
WRITER_VISITS = 10
INSERT = """
INSERT INTO user_visits (user_hash, endpoint, method, timestamp_us, path, ip_address)
VALUES (?, '/other', 'GET', ?, ?, '192.0.2.1')"""


def write(database: Path, newest: int, stop: Event, waits: Any) -> None:
    """Commit visits until told to stop; send how long each commit took."""
    seconds = []
    with closing(sqlite3.connect(database, timeout=10, isolation_level=None)) as connection:
        while not stop.wait(WRITER_PAUSE_SECONDS):
            number = len(seconds)
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            for row in range(WRITER_VISITS):
                connection.execute(INSERT, (f"user{number % 50}", newest, f"/other/{row}"))
            connection.execute("COMMIT")
            seconds.append(time.perf_counter() - began)
    waits.send(seconds)


Seconds: TypeAlias = dict[str, list[float]]


def purge(database: Path, before: int) -> tuple[Seconds, Seconds, int]:
    """Purge; return every step's seconds by phase, of the clock and CPU, and the longest log."""
    storage = open_storage(database)
    log = database.with_name(database.name + "-wal")
    seconds, cpu_seconds, largest = defaultdict(list), defaultdict(list), 0
    for phase in phases(before):
        more = True
        while more:
            began, cpu_began = time.perf_counter(), time.thread_time()
            with storage._file._pool.writer() as connection:
                more = phase(connection)
            took = time.perf_counter() - began
            name = getattr(phase, "func", phase).__name__
            seconds[name].append(took)
            cpu_seconds[name].append(time.thread_time() - cpu_began)
            largest = max(largest, log.stat().st_size)
            time.sleep(took)
    storage.close()
    return dict(seconds), dict(cpu_seconds), largest


def measure(before_file: Path, folder: Path, keep: float, newest: int) -> dict[str, Any]:
    """Run one round, in a folder of its own."""
    database = folder / "visits.db"
    shutil.copy(before_file, database)
    before = ingest.BEGIN + int((newest - ingest.BEGIN) * (1 - keep))
    context = multiprocessing.get_context("spawn")
    stop, (waits, sender) = context.Event(), context.Pipe(duplex=False)
    writer = context.Process(target=write, args=(database, newest, stop, sender))
    writer.start()
    size = ingest.size_on_disk(database)
    began = time.perf_counter()
    steps, cpu, log = purge(database, before)
    total = time.perf_counter() - began
    stop.set()
    waited = waits.recv()
    writer.join()
    with closing(sqlite3.connect(database)) as connection:
        (left,) = connection.execute(
            "SELECT count(*) FROM visits WHERE timestamp < ?", (before,)
        ).fetchone()
        dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
    return {
        "steps": steps,
        "cpu": cpu,
        "waits": waited,
        "seconds": total,
        "log_bytes": log,
        "bytes_before": size,
        "bytes_after": ingest.size_on_disk(database),
        "wrong": left + len(dangling),
    }


def quantiles(seconds: Sequence[float]) -> list[str]:
    """Return how many there are, their median, 99th percentile and largest in ms."""
    ordered = sorted(seconds)
    chosen = (ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1])
    return [f"{len(ordered)}", *(f"{value * 1000:.1f}" for value in chosen)]


def report(runs: Sequence[dict[str, Any]]) -> str:
    """Return the table, all rounds together, and what the file lost."""
    rows = [
        [
            name,
            *quantiles([seconds for run in runs for seconds in run["steps"][name]]),
            *quantiles([seconds for run in runs for seconds in run["cpu"][name]])[1:],
        ]
        for name in runs[0]["steps"]
    ]
    waits = [seconds for run in runs for seconds in run["waits"]]
    rows.append(["another writer's commit", *quantiles(waits), "", "", ""])
    table = common.table(["step", "n", "p50 ms", "p99", "max", "CPU p50 ms", "p99", "max"], rows)
    totals = [
        f"{run['seconds']:.1f} s, {run['bytes_before'] / 1e6:.0f} -> "
        f"{run['bytes_after'] / 1e6:.0f} MB, log at most {run['log_bytes'] / 1e6:.0f} MB"
        for run in runs
    ]
    return "\n\n".join([table, *totals])


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--visits", type=int, default=200_000, help="how many there are")
    parser.add_argument("--paths", type=int, default=100_000, help="paths beside the endpoints")
    parser.add_argument("--keep", type=float, default=0.5, help="the part that is not purged")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where databases are made, on a local disk")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args()
    print(f"{common.conditions()}; {options.visits} visits, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as scratch:
        filled = Path(scratch) / "filled.db"
        visits = list(ingest.visits(options.visits, options.paths))
        ingest.drain(filled, visits)
        ingest.size_on_disk(filled)
        runs = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                newest = visits[-1].timestamp
                runs.append(measure(filled, Path(folder), options.keep, newest))
    common.write_json_lines(options.json, runs)
    print("\n" + report(runs))
    return 1 if any(run["wrong"] for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
