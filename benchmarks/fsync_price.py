"""What ``fsync=True`` costs a request: each one waits until the disk has its visit.

    python benchmarks/fsync_price.py [--visits 2000] [--folder FOLDER] [--rounds 3]

Both kinds run in turn, on the file system of ``--folder``, with one thread and with several: the
file system writes what came in meanwhile together. A virtual or caching disk flatters.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import common
from request_path import recorded_by

from wsgi_tracker import Tracker


def measure(folder: Path, *, fsync: bool, threads: int, visits: int) -> tuple[list[float], float]:
    """Return the µs of every request, sorted, and how many were answered per second."""
    tracker = Tracker(common.plain_app, folder / "visits.db", require_token=False, fsync=fsync)
    times: list[float] = []
    barrier = threading.Barrier(threads + 1)

    def ask() -> None:
        requests, own = common.environs(), []
        barrier.wait()
        for number in range(visits // threads):
            environ = requests[number % len(requests)].copy()
            started = time.perf_counter_ns()
            for _ in tracker(environ, lambda *_: None):
                pass
            own.append((time.perf_counter_ns() - started) / 1000)
        times.extend(own)

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    recorded = recorded_by(tracker)
    tracker.close()
    if recorded != len(times):
        sys.exit(f"{recorded} of {len(times)} visits were recorded")
    return sorted(times), len(times) / seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--visits", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    print(f"{common.conditions()}; {options.rounds} rounds of {options.visits} visits\n")
    rows = []
    for threads in (1, 8):
        for fsync in (False, True):
            runs = []
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory(dir=options.folder) as name:
                    runs.append(
                        measure(Path(name), fsync=fsync, threads=threads, visits=options.visits)
                    )
            figures = [
                common.spread([times[len(times) * percent // 100] for times, _ in runs], 0)
                for percent in (50, 99)
            ]
            rate = common.spread([rate for _, rate in runs], 0)
            rows.append([f"{fsync}, threads: {threads}", *figures, rate])
    print(common.table(["fsync", "p50 µs", "p99 µs", "visits/s"], rows))


if __name__ == "__main__":
    main()
