"""The long form of the fault tests: a hundred kills of each server, and a soak.

    python benchmarks/endurance.py kills [--kills 100] [--json runs.jsonl]
    python benchmarks/endurance.py soak [--requests 3000000]

`kills`: gunicorn with four workers under a load that knows which of its requests were answered to the
last byte, buffered and streamed. At random moments a worker, or the one that ingests, is killed with
SIGKILL; every tenth kill is of the whole group. Then every answered request must be stored once.

`soak`: gunicorn with two workers and `wrk` (a package of Debian and others). Every few seconds it
looks at memory, descriptors, threads, the spool and the write-ahead log: none may grow.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common

FAULTS = Path(__file__).parent.parent / "tests" / "faults"
sys.path[:0] = [str(FAULTS), str(FAULTS.parent)]

from checks import stored  # noqa: E402
from load import Load  # noqa: E402
from servers import Server, gunicorn, report  # noqa: E402
from test_gunicorn import WORKER_CLASSES, kill_a_worker, kill_who_ingests  # noqa: E402

WORKERS = 4
CLIENTS = 6
SAMPLE_SECONDS = 5.0


def kills(options: argparse.Namespace) -> int:
    """Kill each kind of server; returns the exit code."""
    runs = []
    for worker_class, arguments in WORKER_CLASSES.items():
        for preload in ([], ["--preload"]):
            command = ["--worker-class", worker_class, *arguments, *preload]
            run = kill_one(command, options.kills, random.Random(len(runs)))
            runs.append({"server": " ".join(command[1:]), **run})
            print(json.dumps(runs[-1]), flush=True)
    common.write_json_lines(options.json, runs)
    heads = ["gunicorn", "kills", "of groups", "answered", "lost", "twice", "stored besides"]
    keys = ["server", "kills", "groups", "answered", "lost", "twice", "besides"]
    print("\n" + common.table(heads, [[str(run[key]) for key in keys] for run in runs]))
    return 1 if any(run["lost"] or run["twice"] for run in runs) else 0


def kill_one(arguments: Sequence[str], wanted: int, chance: random.Random) -> dict[str, Any]:
    """Kill one server again and again, and count what became of its visits."""
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as name:
        folder, groups = Path(name), 0
        server = serving("faultapp:tracked()", folder, WORKERS, arguments)
        server.start()
        try:
            with Load(lambda: server.port, CLIENTS) as load:
                for number in range(1, wanted + 1):
                    load.wait_for(chance.randrange(5, 60))
                    if number % 10 == 0:
                        groups += 1
                        server.kill()
                        server.start()
                    else:
                        kill(server, folder, load, chance)
                load.wait_for(50)
                load.stop()
            report(server.port, "summary")
        finally:
            server.kill()
        counted = stored(folder, killed=True)
        return {
            "kills": wanted,
            "groups": groups,
            "answered": len(load.answered),
            "lost": len(load.answered - counted.keys()),
            "twice": sum(times > 1 for times in counted.values()),
            "besides": len(counted.keys() - load.answered),
        }


def kill(server: Server, folder: Path, load: Load, chance: random.Random) -> None:
    """Kill a worker, or who ingests."""
    if chance.random() < 0.5:
        while not kill_a_worker(server, chance):
            load.wait_for(1)
    else:
        while not kill_who_ingests(server, folder):
            load.wait_for(1)


def serving(application: str, folder: Path, workers: int, options: Sequence[str]) -> Server:
    """Return a server of the fault tests' own."""
    return gunicorn(
        application,
        folder=folder,
        options=["--workers", str(workers), "--graceful-timeout", "3", *options],
        python_path=[FAULTS],
        environ={"FAULTS_DATABASE": str(folder / "visits.db")},
    )


def soak(options: argparse.Namespace) -> int:
    """Send millions of requests, and print what the processes hold meanwhile."""
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("the soak needs wrk")
    with tempfile.TemporaryDirectory(prefix="wsgi-tracker-") as name:
        folder = Path(name)
        server = serving("faultapp:tracked()", folder, 2, ["--worker-class", "gthread"])
        with server:
            load = subprocess.Popen(
                [wrk, "-c", "8", "-t", "1", "-d", "86400s", f"http://127.0.0.1:{server.port}/t/1"],
                stdout=subprocess.PIPE,
            )
            try:
                samples = list(watch(server, folder, options.requests))
            finally:
                load.terminate()
                load.communicate(timeout=60)
            total = report(server.port, "summary")["total_hits"]
    common.write_json_lines(options.json, samples)
    print(f"{total} visits recorded, {samples[-1]['seconds']:.0f} s\n")
    keys = list(samples[0])
    step = max(1, len(samples) // 12)
    shown = [*samples[::step], samples[-1]]
    print(common.table(keys, [[f"{sample[key]:.0f}" for key in keys] for sample in shown]))
    return 0


def watch(server: Server, folder: Path, wanted: int) -> Iterator[dict[str, float]]:
    """Yield what the server holds, every few seconds, until it has recorded so many visits."""
    began, pause = time.monotonic(), threading.Event()
    hits = 0
    while hits < wanted:
        pause.wait(SAMPLE_SECONDS)
        hits = report(server.port, "summary?period=all")["total_hits"]
        workers = server.workers()
        yield {
            "seconds": time.monotonic() - began,
            "visits": hits,
            "memory MB": sum(map(memory_kb, workers)) / 1024,
            "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers),
            "threads": sum(len(os.listdir(f"/proc/{pid}/task")) for pid in workers),
            "log MB": size(folder / "visits.db-wal") / 2**20,
            "spool MB": sum(map(size, (folder / "visits.db-spool").iterdir())) / 2**20,
            "database MB": size(folder / "visits.db") / 2**20,
        }


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


def main() -> int:
    """Run the command that is named; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write every run to this file")
    commands = parser.add_subparsers(required=True)
    for name, function, option, default in (
        ("kills", kills, "--kills", 100),
        ("soak", soak, "--requests", 3_000_000),
    ):
        command = commands.add_parser(name)
        command.add_argument(option, type=int, default=default)
        command.set_defaults(function=function)
    options = parser.parse_args()
    print(common.conditions(), flush=True)
    return int(options.function(options))


if __name__ == "__main__":
    sys.exit(main())
