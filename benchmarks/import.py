"""How fast an access log becomes a database that answers, beside GoAccess, which only reads it.

    python benchmarks/import.py [--lines 1000000] [--paths 100000] [--rounds 3]

One log in nginx's combined format is made, of the visits of ``ingest.py``; then, in turn,
``wsgi-tracker import`` makes a new database of it, counters included, and ``goaccess`` makes its JSON
report, each in a process of its own, from an empty one to its end. Wall and CPU time are those of
the whole process, and memory is the most it ever had. Totals are compared where both mean the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import common
from ingest import visits

from wsgi_tracker import Visit, open_storage
from wsgi_tracker.endpoints import UNMATCHED
from wsgi_tracker.period import Granularity
from wsgi_tracker.selection import Selection


def log_line(visit: Visit) -> str:
    """Return a visit as nginx logs it."""
    moment = datetime.fromtimestamp(visit.timestamp // 1_000_000, timezone.utc)
    path = (visit.path or visit.endpoint).replace("<", "%3C").replace(">", "%3E")
    return (
        f"{visit.ip_address} - - [{moment:%d/%b/%Y:%H:%M:%S +0000}] "
        f'"{visit.method} {path} HTTP/1.1" {visit.status} {visit.bytes_sent} '
        f'"{visit.referer or "-"}" "{visit.user_agent}"\n'
    )


def write_log(log: Path, lines: int, paths: int, days: int) -> None:
    """Write the log."""
    with log.open("w") as file:
        file.writelines(map(log_line, visits(lines, paths, days)))


@dataclass(slots=True)
class Run:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    megabytes: float


def run(command: Sequence[str], cpus: set[int]) -> Run:
    """Run a process to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {said.decode()}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def ours(log: Path, database: Path) -> list[str]:
    """Return our command."""
    return [
        sys.executable,
        "-m",
        "wsgi_tracker",
        "import",
        str(log),
        "-d",
        str(database),
        "--collapse-ids",
    ]


def theirs(log: Path, report: Path) -> list[str]:
    """Return GoAccess's: its report as JSON, crawlers and all."""
    command = ["goaccess", str(log), "--log-format=COMBINED", "--no-global-config"]
    command += ["--4xx-to-unique-count"]  # who only gets errors is a visitor, too
    return [*command, "-o", str(report), "--no-progress"]


def totals(database: Path, report: Path) -> dict[str, tuple[int, int]]:
    """Return what both count alike: ours and theirs.

    Its visitors are those of each day.
    """
    with closing(open_storage(database)) as storage, storage.snapshot() as snapshot:
        days = snapshot.trends(Selection(), Granularity.DAY)
        rows = snapshot.stats()
        requests, sent = snapshot.summary().total_hits, snapshot.outcomes().bytes_sent
    theirs: dict[str, Any] = json.loads(report.read_text())
    general, not_found = theirs["general"], theirs["not_found"]["metadata"]["hits"]["total"]
    return {
        "requests": (requests, general["valid_requests"]),
        "bytes": (sent, general["bandwidth"]),
        "visitors of all days": (sum(day.unique_users for day in days), general["unique_visitors"]),
        "not found": (
            sum(row.hit_count for row in rows if row.endpoint == UNMATCHED),
            not_found["value"],
        ),
    }


def measure(log: Path, folder: Path, cpus: set[int]) -> dict[str, Any]:
    """Run both once."""
    database, report = folder / "visits.db", folder / "report.json"
    runs = {"wsgi-tracker": run(ours(log, database), cpus)}
    found: dict[str, Any] = {}
    if shutil.which("goaccess"):
        runs["goaccess"] = run(theirs(log, report), cpus)
        found = totals(database, report)
    return {"runs": runs, "totals": found, "bytes": database.stat().st_size}


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--paths", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=7, help="of which the log tells")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", type=int, default=-1, help="the one processor to use; -1: all")
    parser.add_argument("--folder", type=Path, help="where files are made, on a local disk")
    options = parser.parse_args()
    cpus = {options.cpu} if options.cpu >= 0 else os.sched_getaffinity(0)
    print(f"{common.conditions()}; {options.rounds} rounds on {len(cpus)} processors", flush=True)
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-", dir=options.folder) as scratch:
        log = Path(scratch) / "access.log"
        write_log(log, options.lines, options.paths, options.days)
        rounds = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                rounds.append(measure(log, Path(folder), cpus))
        size = log.stat().st_size
    rows = []
    for name in rounds[0]["runs"]:
        runs = [each["runs"][name] for each in rounds]
        rows.append(
            [
                name,
                common.spread([options.lines / each.seconds for each in runs], 0),
                common.spread([each.cpu_seconds / options.lines * 1e6 for each in runs], 1),
                f"{max(each.megabytes for each in runs):.0f}",
            ]
        )
    heads = ["program", "lines/s", "CPU µs/line", "most MB"]
    print(f"\n{options.lines:,} lines, {size:,} bytes; database {rounds[-1]['bytes']:,} bytes\n")
    print(common.table(heads, rows))
    for name, (own, other) in rounds[-1]["totals"].items():
        print(f"{name}: {own:,} and {other:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
