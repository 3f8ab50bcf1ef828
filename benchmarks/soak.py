"""Load a server for long, and look at what it holds: none of it may grow.

gunicorn with two threaded workers, and `wrk` (a package of Debian and others). Every few seconds it
looks at memory, descriptors, threads, the spool and the write-ahead log. `grown` counts what the second
half of a long run held more of than the first, once SQLite's caches are full.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import startups
from servers import Server, report

WORKERS = 2
SAMPLE_SECONDS = 5.0
SHOWN = 12
FLAT = ("memory MB", "descriptors", "threads", "log MB", "spool MB")
WARM_VISITS = 400_000
SPARE = 2  # MB, or descriptors and threads, beside a tenth: a report may be under way


def require_wrk() -> str:
    """Return the load's command, or end the script."""
    return shutil.which("wrk") or sys.exit("the soak needs wrk")


def run(requests: int) -> Iterator[dict[str, Any]]:
    """Send so many requests, and yield what the processes hold meanwhile.

    Last comes how many were `answered`, as the load counts them, how many of those are `lost`, and of
    how many things there were more and more: none of a run too short to tell.
    """
    samples: list[dict[str, float]] = []
    start = startups.gunicorn("--worker-class", "gthread", workers=WORKERS)
    with startups.reachable_folder() as folder, start(folder) as server:
        load = subprocess.Popen(
            [require_wrk(), "-c8", "-t1", "-d86400s", f"http://127.0.0.1:{server.port}/t/1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for sample in watch(server, folder, requests):
                samples.append(sample)
                yield sample
                if load.poll() is not None:
                    raise RuntimeError("the load has ended")
        finally:
            load.send_signal(signal.SIGINT)  # it then says what was answered
            output, _ = load.communicate(timeout=60)
        answered = int(output.partition(" requests in ")[0].split()[-1])
        recorded = hits(server)
    yield {
        "answered": answered,
        "recorded": recorded,
        "lost": max(0, answered - recorded),
        "grown": len(grown(samples)),
    }


def grown(samples: Sequence[dict[str, float]]) -> list[str]:
    """Return what the second half of the samples, warm ones alone, holds more of than the first."""
    warm = [sample for sample in samples if sample["visits"] >= WARM_VISITS]
    half = len(warm) // 2
    if not half:
        return []
    before, after = (
        {name: max(s[name] for s in part) for name in FLAT} for part in (warm[:half], warm[half:])
    )
    return [name for name in FLAT if after[name] > before[name] * 1.1 + SPARE]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return what was answered, and a dozen of the samples."""
    *samples, total = rows
    step = max(1, len(samples) // SHOWN)
    shown = [*samples[:-1:step], samples[-1]]
    heads = list(shown[0])
    counts = ", ".join(f"{count:,} {name}" for name, count in total.items())
    return f"{counts}\n\n" + common.table(
        heads, [[f"{sample[head]:.0f}" for head in heads] for sample in shown]
    )


def watch(server: Server, folder: Path, wanted: int) -> Iterator[dict[str, float]]:
    """Yield what the server holds, every few seconds, until it has recorded so many visits."""
    began, pause = time.monotonic(), threading.Event()
    visits = 0
    while visits < wanted:
        pause.wait(SAMPLE_SECONDS)
        visits = hits(server)
        workers = server.workers()
        yield {
            "seconds": time.monotonic() - began,
            "visits": visits,
            "memory MB": sum(map(memory_kb, workers)) / 1024,
            "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
            "threads": sum(len(os.listdir(f"/proc/{pid}/task")) for pid in workers),
            "log MB": size(folder / "visits.db-wal") / 2**20,
            "spool MB": sum(map(size, (folder / "visits.db-spool").iterdir())) / 2**20,
            "database MB": size(folder / "visits.db") / 2**20,
        }


def hits(server: Server) -> int:
    """Return how many visits are reported."""
    return int(report(server.port, "summary?period=all")["total_hits"])


def memory_kb(pid: int) -> int:
    """Return the resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) if match else 0


def size(path: Path) -> int:
    """Return the size of a file that may be gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
